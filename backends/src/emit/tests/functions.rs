//! The accuracy of `math` in the emulator, against `f64`.

use crate::emit::emulate::{Call, run};
use crate::emit::{Kernel, KernelBuilder, Scalar, Val, math};
use std::f32::consts::LN_2;

type Function = fn(&mut KernelBuilder, Val) -> Val;

/// `y = f(x)` over `n` elements, eight at a time.
pub(crate) fn map_kernel(name: &str, lanes: u32, f: impl FnOnce(&mut KernelBuilder, Val) -> Val) -> Kernel {
    let mut k = KernelBuilder::new(name);
    let (x, y, n) = (k.arg("x"), k.arg_mut("y"), k.dim("n"));
    let zero = k.i64(0);
    k.loop_(zero, n, lanes.into(), |k, i| {
        let (from, to) = (k.elem(x, i, Scalar::F32), k.elem(y, i, Scalar::F32));
        let v = k.load(from, Scalar::F32.x(lanes));
        let v = f(k, v);
        k.store(v, to);
    });
    k.finish()
}

fn eval(f: impl Fn(&mut KernelBuilder, Val) -> Val, x: &[f32]) -> Vec<f32> {
    let kernel = map_kernel("f", 1, f);
    let mut call = Call::new(1);
    call.arg(x);
    let y = call.out::<f32>(x.len());
    call.dim(x.len());
    run(&kernel, &mut call).unwrap();
    call.read(y)
}

/// `n` values from `low` to `high`, evenly spaced, and those next to zero.
fn ramp(low: f32, high: f32, n: usize) -> Vec<f32> {
    let mut out: Vec<f32> = (0..n).map(|i| low + (high - low) * (i as f32 / (n - 1) as f32)).collect();
    out.extend([0.0, -0.0, 1e-8, -1e-8, 1e-20].iter().filter(|x| (low..high).contains(x)));
    out
}

/// The distance in units of the last place of the exact result, which is at least a normal number.
fn ulps(got: f32, exact: f64) -> f64 {
    let unit = 2f64.powi((exact.abs().max(f32::MIN_POSITIVE.into()).log2().floor() as i32) - 23);
    (f64::from(got) - exact).abs() / unit
}

fn check(name: &str, f: Function, exact: fn(f64) -> f64, x: &[f32], error: fn(f32, f64) -> f64, limit: f64) {
    let worst = eval(f, x)
        .iter()
        .zip(x)
        .map(|(&y, &x)| (error(y, exact(x.into())), x, y))
        .fold((0.0, 0.0, 0.0), |a, b| if b.0 > a.0 || b.0.is_nan() { b } else { a });
    assert!(worst.0 <= limit, "{name}({}) = {}: error {} above {limit}", worst.1, worst.2, worst.0);
}

fn absolute(got: f32, exact: f64) -> f64 {
    (f64::from(got) - exact).abs()
}

/// `erf` by its series, and its continued fraction far out.
fn erf(x: f64) -> f64 {
    if x.abs() > 3.0 {
        let a = x.abs();
        let tail = (1..60).rev().fold(a, |f, n| a + f64::from(n) / 2.0 / f);
        return (1.0 - (-a * a).exp() / tail / std::f64::consts::PI.sqrt()) * x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn functions_are_as_accurate_as_they_say() {
    check("exp", math::exp, f64::exp, &ramp(-86.9, 88.7, 40001), ulps, 2.0);
    check("log", math::log, f64::ln, &ramp(1e-3, 3.0, 40001), ulps, 2.0);
    let wide: Vec<f32> = (1..0x7f80).map(|i| f32::from_bits(i << 16)).collect();
    check("log", math::log, f64::ln, &wide, ulps, 2.0);
    check("log", math::log, f64::ln, &[1e-41, 1e-45], ulps, 2.0);
    check("tanh", math::tanh, f64::tanh, &ramp(-12.0, 12.0, 40001), absolute, 3e-7);
    check("tanh", math::tanh, f64::tanh, &ramp(-1e-2, 1e-2, 2001), ulps, 5.0);
    check("erf", math::erf, erf, &ramp(-5.0, 5.0, 20001), absolute, 3e-7);
    check("erf", math::erf, erf, &ramp(-1e-2, 1e-2, 2001), ulps, 5.0);
    check("sigmoid", math::sigmoid, |x| 1.0 / (1.0 + (-x).exp()), &ramp(-86.0, 86.0, 40001), ulps, 3.0);
    check("sin", math::sin, f64::sin, &ramp(-20.0, 20.0, 40001), absolute, 2e-7);
    check("cos", math::cos, f64::cos, &ramp(-20.0, 20.0, 40001), absolute, 2e-7);
    check("sin", math::sin, f64::sin, &ramp(-1e5, 1e5, 40001), absolute, 2e-7);
    check("cos", math::cos, f64::cos, &ramp(-1e5, 1e5, 40001), absolute, 2e-7);
    let gelu: fn(f64) -> f64 = |x| x / 2.0 * (1.0 + erf(x / std::f64::consts::SQRT_2));
    check("gelu", math::gelu, gelu, &ramp(-8.0, 8.0, 20001), |y, e| absolute(y, e) / e.abs().max(1.0), 1e-6);
    let softplus: fn(f64) -> f64 = |x| x.max(0.0) + (-x.abs()).exp().ln_1p();
    check("softplus", math::softplus, softplus, &ramp(-30.0, 30.0, 4001), absolute, 2e-6);
}

#[test]
fn functions_take_any_argument() {
    let (inf, nan, max) = (f32::INFINITY, f32::NAN, f32::MAX);
    let x = [inf, -inf, nan, max, -max, 0.0, 1e-45];
    let cases: [(&str, Function, [f32; 7]); 8] = [
        ("exp", math::exp, [inf, 0.0, nan, inf, 0.0, 1.0, 1.0]),
        ("log", math::log, [inf, nan, nan, 88.722_84, nan, -inf, -103.278_93]),
        ("tanh", math::tanh, [1.0, -1.0, nan, 1.0, -1.0, 0.0, 1e-45]),
        ("erf", math::erf, [1.0, -1.0, nan, 1.0, -1.0, 0.0, 1e-45]),
        ("sigmoid", math::sigmoid, [1.0, 0.0, nan, 1.0, 0.0, 0.5, 0.5]),
        ("softplus", math::softplus, [inf, 0.0, nan, max, 0.0, LN_2, LN_2]),
        ("sin", |k, x| math::sin(k, x), [nan, nan, nan, 9.0, 9.0, 0.0, 1e-45]),
        ("cos", |k, x| math::cos(k, x), [nan, nan, nan, 9.0, 9.0, 1.0, 1.0]),
    ];
    for (name, f, expected) in cases {
        for ((x, got), want) in x.iter().zip(eval(f, &x)).zip(expected) {
            let fine = match want {
                9.0 => got.abs() <= 1.0,
                _ if want.is_nan() => got.is_nan(),
                _ => got == want || (got - want).abs() <= 1e-6 * want.abs() || (want < 1e-40 && got.abs() < 1e-37),
            };
            assert!(fine, "{name}({x}) = {got}, not {want}");
        }
    }
}

#[test]
fn pow_is_that_of_c() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let special =
        [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5, 1.5, 1e30, -1e30, 1e-42, inf, -inf, nan, 16777217.0];
    let mut pairs: Vec<(f32, f32)> = special.iter().flat_map(|&x| special.map(|y| (x, y))).collect();
    pairs.extend((1..400).map(|i| (i as f32 * 0.037, (i % 41) as f32 * 0.31 - 6.0)));
    let mut k = KernelBuilder::new("pow");
    let (x, y, z, n) = (k.arg("x"), k.arg("y"), k.arg_mut("z"), k.dim("n"));
    let zero = k.i64(0);
    k.loop_(zero, n, 1, |k, i| {
        let [x, y, z] = [x, y, z].map(|p| k.elem(p, i, Scalar::F32));
        let (x, y) = (k.load(x, Scalar::F32.x(1)), k.load(y, Scalar::F32.x(1)));
        let r = math::pow(k, x, y);
        k.store(r, z);
    });
    let kernel = k.finish();
    let mut call = Call::new(1);
    call.arg(&pairs.iter().map(|p| p.0).collect::<Vec<_>>());
    call.arg(&pairs.iter().map(|p| p.1).collect::<Vec<_>>());
    let z = call.out::<f32>(pairs.len());
    call.dim(pairs.len());
    run(&kernel, &mut call).unwrap();
    for (&(x, y), got) in pairs.iter().zip(call.read::<f32>(z)) {
        let want = f64::from(x).powf(y.into());
        let rounded = want as f32;
        let same = (rounded.is_nan() && got.is_nan()) || (rounded == got && rounded.signum() == got.signum());
        assert!(same || ulps(got, want) <= 1.0, "pow({x}, {y}) = {got}, not {rounded}");
    }
}
