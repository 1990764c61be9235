//! Elementary functions in `f64`, to about 1e-14.

use crate::emit::math::{in_quadrant, poly, power_cases};
use crate::emit::{KernelBuilder, Scalar, Val};
use std::f64::consts::{FRAC_PI_2, LN_2, LOG2_E, PI, SQRT_2};
use tersor_ir::ops::unary::UnaryKind;

fn c(k: &mut KernelBuilder, like: Val, v: f64) -> Val {
    k.float(like.ty(), v)
}

/// A function of `f64` values; those that are one instruction are not here.
pub fn unary(k: &mut KernelBuilder, kind: UnaryKind, x: Val) -> Val {
    use UnaryKind::*;
    match kind {
        Exp => exp(k, x),
        Log => log(k, x),
        Sigmoid => sigmoid(k, x),
        Tanh => tanh(k, x),
        Erf => erf(k, x),
        Gelu => {
            let root = c(k, x, 1.0 / SQRT_2);
            let s = k.mul(x, root);
            let e = erf(k, s);
            half_plus(k, x, e)
        }
        GeluTanh => {
            let (a, b) = (c(k, x, 0.044715 * (2.0 / PI).sqrt()), c(k, x, (2.0 / PI).sqrt()));
            let x2 = k.mul(x, x);
            let inner = k.fma(x2, a, b);
            let inner = k.mul(inner, x);
            let t = tanh(k, inner);
            half_plus(k, x, t)
        }
        Silu => {
            let s = sigmoid(k, x);
            k.mul(x, s)
        }
        Softplus => {
            let size = k.abs(x);
            let minus = k.neg(size);
            let e = exp(k, minus);
            let (one, zero) = (c(k, x, 1.0), k.zero(x.ty()));
            let sum = k.add(e, one);
            let l = log(k, sum);
            let x = k.max(zero, x);
            k.add(x, l)
        }
        Sin => sine(k, x, 0),
        Cos => sine(k, x, 1),
        _ => x,
    }
}

/// `x (1 + e) / 2`.
fn half_plus(k: &mut KernelBuilder, x: Val, e: Val) -> Val {
    let half = c(k, x, 0.5);
    let x = k.mul(x, half);
    k.fma(x, e, x)
}

/// `2^n` for a whole `n` within the exponents of normal numbers.
fn scale(k: &mut KernelBuilder, n: Val) -> Val {
    let magic = c(k, n, 6755399441055744.0 + 1023.0);
    let t = k.add(n, magic);
    let longs = n.ty().with(Scalar::I64);
    let (bits, places) = (k.bitcast(t, longs), k.int(longs, 52));
    let bits = k.shl(bits, places);
    k.bitcast(bits, n.ty())
}

pub fn exp(k: &mut KernelBuilder, x: Val) -> Val {
    let (low, high) = (c(k, x, -746.0), c(k, x, 710.0));
    let x = k.max(low, x);
    let x = k.min(high, x);
    let log2e = c(k, x, LOG2_E);
    let n = k.mul(x, log2e);
    let n = k.round_even(n);
    let (ln_high, ln_low) = (c(k, x, -0.693_147_180_369_123_8), c(k, x, -1.908_214_929_270_587_7e-10));
    let r = k.fma(n, ln_high, x);
    let r = k.fma(n, ln_low, r);
    let mut factorial = 1.0;
    let mut series = vec![1.0];
    for i in 1..=13 {
        factorial *= f64::from(i);
        series.push(1.0 / factorial);
    }
    series.reverse();
    let p = poly(k, r, &series);
    // In two factors, so that neither leaves the range.
    let half = c(k, x, 0.5);
    let first = k.mul(n, half);
    let first = k.floor(first);
    let second = k.sub(n, first);
    let (first, second) = (scale(k, first), scale(k, second));
    let y = k.mul(p, first);
    k.mul(y, second)
}

/// The exponent and the mantissa in `[sqrt(1/2), sqrt 2)` of a positive number.
fn split(k: &mut KernelBuilder, x: Val) -> (Val, Val) {
    let ty = x.ty();
    let longs = ty.with(Scalar::I64);
    let (least, up, shift) = (c(k, x, f64::MIN_POSITIVE), c(k, x, 2f64.powi(54)), c(k, x, 54.0));
    let tiny = k.lt(x, least);
    let scaled = k.mul(x, up);
    let x = k.select(tiny, scaled, x);
    let bits = k.bitcast(x, longs);
    let (places, fraction, unit) = (k.int(longs, 52), k.int(longs, (1 << 52) - 1), k.int(longs, 1023 << 52));
    let e = k.shr(bits, places);
    let e = k.trunc(e, Scalar::I32);
    let bias = k.int(e.ty(), 1023);
    let e = k.sub(e, bias);
    let e = k.to_float(e, Scalar::F64);
    let lower = k.sub(e, shift);
    let e = k.select(tiny, lower, e);
    let m = k.and(bits, fraction);
    let m = k.or(m, unit);
    let m = k.bitcast(m, ty);
    let (root, half, one) = (c(k, x, SQRT_2), c(k, x, 0.5), c(k, x, 1.0));
    let large = k.gt(m, root);
    let (m_half, e_more) = (k.mul(m, half), k.add(e, one));
    (k.select(large, e_more, e), k.select(large, m_half, m))
}

pub fn log(k: &mut KernelBuilder, x: Val) -> Val {
    let (e, m) = split(k, x);
    let one = c(k, x, 1.0);
    let (above, below) = (k.sub(m, one), k.add(m, one));
    let s = k.div(above, below);
    let s2 = k.mul(s, s);
    let series: Vec<f64> = (0..11).rev().map(|i| 2.0 / f64::from(2 * i + 1)).collect();
    let p = poly(k, s2, &series);
    let ln2 = c(k, x, LN_2);
    let y = k.mul(p, s);
    let y = k.fma(e, ln2, y);
    let (inf, zero) = (c(k, x, f64::INFINITY), k.zero(x.ty()));
    let (minus_inf, nan) = (c(k, x, f64::NEG_INFINITY), c(k, x, f64::NAN));
    let finite = k.lt(x, inf);
    let y = k.select(finite, y, x);
    let is_zero = k.eq(x, zero);
    let y = k.select(is_zero, minus_inf, y);
    let negative = k.lt(x, zero);
    k.select(negative, nan, y)
}

fn sigmoid(k: &mut KernelBuilder, x: Val) -> Val {
    let minus = k.neg(x);
    let e = exp(k, minus);
    let one = c(k, x, 1.0);
    let sum = k.add(e, one);
    k.div(one, sum)
}

/// `1 - 2 / (e^2x + 1)`: 1e-16 absolute.
fn tanh(k: &mut KernelBuilder, x: Val) -> Val {
    let twice = k.add(x, x);
    let e = exp(k, twice);
    let (one, two) = (c(k, x, 1.0), c(k, x, 2.0));
    let sum = k.add(e, one);
    let q = k.div(two, sum);
    k.sub(one, q)
}

/// The Chebyshev series of `erfc` (Press et al., Numerical Recipes, 2007, 6.2.2): 1e-15 absolute.
fn erf(k: &mut KernelBuilder, x: Val) -> Val {
    const SERIES: [f64; 28] = [
        -1.302_653_719_781_709_4,
        6.419_697_923_564_903e-1,
        1.947_647_320_418_583_6e-2,
        -9.561_514_786_808_63e-3,
        -9.465_953_444_820_36e-4,
        3.668_394_978_527_61e-4,
        4.252_332_480_690_7e-5,
        -2.027_857_811_253_4e-5,
        -1.624_290_004_647e-6,
        1.303_655_835_580e-6,
        1.562_644_172_2e-8,
        -8.523_809_591_5e-8,
        6.529_054_439e-9,
        5.059_343_495e-9,
        -9.913_641_56e-10,
        -2.273_651_22e-10,
        9.646_791_1e-11,
        2.394_038e-12,
        -6.886_027e-12,
        8.944_87e-13,
        3.130_92e-13,
        -1.127_08e-13,
        3.81e-16,
        7.106e-15,
        -1.523e-15,
        -9.4e-17,
        1.21e-16,
        -2.8e-17,
    ];
    let z = k.abs(x);
    let (one, two, four) = (c(k, x, 1.0), c(k, x, 2.0), c(k, x, 4.0));
    let sum = k.add(z, two);
    let t = k.div(two, sum);
    let minus_two = c(k, x, -2.0);
    let ty = k.fma(t, four, minus_two);
    let (mut d, mut dd) = (k.zero(x.ty()), k.zero(x.ty()));
    for &s in SERIES[1..].iter().rev() {
        let s = c(k, x, s);
        let s = k.sub(s, dd);
        dd = d;
        d = k.fma(ty, d, s);
    }
    let (first, half) = (c(k, x, SERIES[0]), c(k, x, 0.5));
    let s = k.fma(ty, d, first);
    let s = k.mul(s, half);
    let s = k.sub(s, dd);
    let square = k.mul(z, z);
    let power = k.sub(s, square);
    let e = exp(k, power);
    let e = k.mul(t, e);
    let y = k.sub(one, e);
    let (zero, minus) = (k.zero(x.ty()), k.neg(y));
    let below = k.lt(x, zero);
    k.select(below, minus, y)
}

/// `sin(x + quarter pi / 2)`.
fn sine(k: &mut KernelBuilder, x: Val, quarter: i64) -> Val {
    let (two_over_pi, magic) = (c(k, x, 1.0 / FRAC_PI_2), c(k, x, 6755399441055744.0));
    let t = k.fma(x, two_over_pi, magic);
    let n = k.sub(t, magic);
    let (p1, p2) = (c(k, x, -FRAC_PI_2), c(k, x, -6.123_233_995_736_766e-17));
    let r = k.fma(n, p1, x);
    let r = k.fma(n, p2, r);
    let r2 = k.mul(r, r);
    let series = |first: i32| -> Vec<f64> {
        let term = |i: i32| {
            let n = first + 2 * i;
            let f: f64 = (1..=n).map(f64::from).product();
            (if i % 2 == 0 { 1.0 } else { -1.0 }) / f
        };
        (0..9).rev().map(term).collect()
    };
    let s = poly(k, r2, &series(1));
    let s = k.mul(s, r);
    let co = poly(k, r2, &series(0));
    in_quadrant(k, t, quarter, s, co)
}

/// `x` to the power `y` with the special cases of C's `pow`; the error grows with the size of the logarithm.
pub fn pow(k: &mut KernelBuilder, x: Val, y: Val) -> Val {
    let size = k.abs(x);
    let l = log(k, size);
    let power = k.mul(y, l);
    let r = exp(k, power);
    power_cases(k, x, y, r)
}
