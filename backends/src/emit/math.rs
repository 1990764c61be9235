//! Elementary functions as instructions, on `f32` scalars and vectors. A NaN gives a NaN unless stated otherwise. What is exact serves `f64` too.
//!
//! | function | largest error |
//! |---|---|
//! | [`exp`] | 2 ulp; results below 2^-125.5 are 0 |
//! | [`log`] | 2 ulp |
//! | [`tanh`], [`erf`] | 3e-7 absolute, and 5 ulp for small arguments |
//! | [`sigmoid`] | 3 ulp; 0 below -87 |
//! | [`sin`], [`cos`] | 2e-7 absolute for arguments up to 1e5; bounded by 1 beyond |
//! | [`pow`] | 1 ulp |
//! | [`gelu`] | 1e-6 x max(1, \|gelu(x)\|) absolute |

use super::build::KernelBuilder;
use super::types::{Scalar, Ty, Val};
use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

/// `c[0] x^n + … + c[n]`, by Horner's rule.
pub fn poly(k: &mut KernelBuilder, x: Val, coefficients: &[f64]) -> Val {
    let mut acc = k.float(x.ty(), coefficients[0]);
    for &c in &coefficients[1..] {
        let c = k.float(x.ty(), c);
        acc = k.fma(acc, x, c);
    }
    acc
}

fn c(k: &mut KernelBuilder, like: Val, value: f32) -> Val {
    k.float(like.ty(), value.into())
}

/// `x` held between `low` and `high`; a NaN stays.
pub fn clamp(k: &mut KernelBuilder, x: Val, low: f64, high: f64) -> Val {
    let (low, high) = (k.float(x.ty(), low), k.float(x.ty(), high));
    let x = k.max(low, x);
    k.min(high, x)
}

/// Integers as wide as the elements of `x`.
fn ints(x: Val) -> Ty {
    x.ty().with(if x.elem() == Scalar::F64 { Scalar::I64 } else { Scalar::I32 })
}

/// The magnitude of `x` with the sign of `sign`.
pub fn copysign(k: &mut KernelBuilder, x: Val, sign: Val) -> Val {
    let (floats, ints) = (x.ty(), ints(x));
    let top = -1 << (ints.elem().bits() - 1);
    let (x, sign) = (k.bitcast(x, ints), k.bitcast(sign, ints));
    let (top, rest) = (k.int(ints, top), k.int(ints, !top));
    let (x, sign) = (k.and(x, rest), k.and(sign, top));
    let bits = k.or(x, sign);
    k.bitcast(bits, floats)
}

/// `e^x`.
pub fn exp(k: &mut KernelBuilder, x: Val) -> Val {
    let ints = x.ty().with(Scalar::I32);
    let x = clamp(k, x, -87.6, 88.8);
    // Adding `magic` leaves round(x / ln 2) + 126 in the low bits, the exponent field of half the scale.
    let (log2e, magic) = (c(k, x, LOG2_E), c(k, x, 12582912.0 + 126.0));
    let t = k.fma(x, log2e, magic);
    let n = k.sub(t, magic);
    let bits = k.bitcast(t, ints);
    let places = k.int(ints, 23);
    let bits = k.shl(bits, places);
    let half_scale = k.bitcast(bits, x.ty());
    let r = reduce_ln2(k, x, n);
    let p = poly(k, r, &[1.987_569_2e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_5e-2, 1.666_666_5e-1, 5.000_000_1e-1]);
    let r2 = k.mul(r, r);
    let y = k.fma(p, r2, r);
    let one = c(k, x, 1.0);
    let y = k.add(y, one);
    let y = k.add(y, y);
    k.mul(y, half_scale)
}

/// `x - n ln 2` in two steps.
fn reduce_ln2(k: &mut KernelBuilder, x: Val, n: Val) -> Val {
    let (high, low) = (c(k, x, -0.693_359_4), c(k, x, 2.121_944_4e-4));
    let r = k.fma(n, high, x);
    k.fma(n, low, r)
}

/// Natural logarithm: negative infinity at zero, NaN below.
pub fn log(k: &mut KernelBuilder, x: Val) -> Val {
    let ints = x.ty().with(Scalar::I32);
    let (least, up) = (c(k, x, f32::MIN_POSITIVE), c(k, x, 8388608.0));
    let tiny = k.lt(x, least);
    let scaled = k.mul(x, up);
    let normal = k.select(tiny, scaled, x);
    let bits = k.bitcast(normal, ints);
    // The exponent that leaves a mantissa in [sqrt(1/2), sqrt 2).
    let (half_root, places) = (k.int(ints, 0x3f35_04f3), k.int(ints, 23));
    let e = k.sub(bits, half_root);
    let e = k.sar(e, places);
    let field = k.shl(e, places);
    let m = k.sub(bits, field);
    let m = k.bitcast(m, x.ty());
    let e = k.to_float(e, Scalar::F32);
    let (shift, one) = (c(k, x, 23.0), c(k, x, 1.0));
    let lower = k.sub(e, shift);
    let e = k.select(tiny, lower, e);
    let r = k.sub(m, one);
    let p = poly(
        k,
        r,
        &[
            7.037_683_6e-2,
            -1.151_461e-1,
            1.167_699_9e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_8e-1,
            2.000_071_5e-1,
            -2.499_999_4e-1,
            3.333_333e-1,
        ],
    );
    let r2 = k.mul(r, r);
    let r3 = k.mul(r2, r);
    let (low, half, high) = (c(k, x, -2.121_944_4e-4), c(k, x, -0.5), c(k, x, 0.693_359_4));
    let y = k.mul(e, low);
    let y = k.fma(p, r3, y);
    let y = k.fma(r2, half, y);
    let y = k.add(r, y);
    let y = k.fma(e, high, y);
    let (inf, zero) = (c(k, x, f32::INFINITY), k.zero(x.ty()));
    let (minus_inf, nan) = (c(k, x, f32::NEG_INFINITY), c(k, x, f32::NAN));
    let finite = k.lt(x, inf);
    let y = k.select(finite, y, x);
    let is_zero = k.eq(x, zero);
    let y = k.select(is_zero, minus_inf, y);
    let negative = k.lt(x, zero);
    k.select(negative, nan, y)
}

/// Odd function `x P(x^2) / Q(x^2)` of an argument held between `-limit` and `limit`.
fn odd_rational(k: &mut KernelBuilder, x: Val, limit: f64, p: &[f64], q: &[f64]) -> Val {
    let x = clamp(k, x, -limit, limit);
    let x2 = k.mul(x, x);
    let (p, q) = (poly(k, x2, p), poly(k, x2, q));
    let p = k.mul(x, p);
    k.div(p, q)
}

/// Hyperbolic tangent; exactly -1 or 1 from 9 on.
pub fn tanh(k: &mut KernelBuilder, x: Val) -> Val {
    let y = odd_rational(
        k,
        x,
        9.0,
        &[
            -2.760_768_477_423_55e-16,
            2.000_187_904_824_77e-13,
            -8.604_671_522_137_35e-11,
            5.122_297_090_371_14e-8,
            1.485_722_357_179_79e-5,
            6.372_619_288_754_36e-4,
            4.893_524_558_917_86e-3,
        ],
        &[1.198_258_394_667_02e-6, 1.185_347_056_866_54e-4, 2.268_434_632_439e-3, 4.893_525_185_543_85e-3],
    );
    saturate(k, x, y, 9.0)
}

/// The error function; exactly -1 or 1 from 4 on.
pub fn erf(k: &mut KernelBuilder, x: Val) -> Val {
    let y = odd_rational(
        k,
        x,
        4.0,
        &[
            -2.726_142_258_013_06e-10,
            2.770_681_424_959_02e-8,
            -2.101_024_020_825_08e-6,
            -5.692_506_394_623_46e-5,
            -7.349_906_303_268_55e-4,
            -2.954_599_808_540_25e-3,
            -1.609_603_332_624_15e-2,
        ],
        &[
            -1.456_607_184_649_96e-5,
            -2.133_740_552_789_05e-4,
            -1.682_826_974_382_03e-3,
            -7.373_329_167_204_68e-3,
            -1.426_473_905_141_89e-2,
        ],
    );
    saturate(k, x, y, 4.0)
}

/// `y`, but the sign of `x` where `|x| >= limit`.
fn saturate(k: &mut KernelBuilder, x: Val, y: Val, limit: f32) -> Val {
    let (limit, one) = (c(k, x, limit), c(k, x, 1.0));
    let size = k.abs(x);
    let large = k.ge(size, limit);
    let sign = copysign(k, one, x);
    k.select(large, sign, y)
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid(k: &mut KernelBuilder, x: Val) -> Val {
    let minus = k.neg(x);
    let e = exp(k, minus);
    let one = c(k, x, 1.0);
    let sum = k.add(e, one);
    k.div(one, sum)
}

/// `x / (1 + e^-x)`.
pub fn silu(k: &mut KernelBuilder, x: Val) -> Val {
    let s = sigmoid(k, x);
    k.mul(x, s)
}

/// `x (1 + erf(x / sqrt 2)) / 2`.
pub fn gelu(k: &mut KernelBuilder, x: Val) -> Val {
    let (root, half) = (c(k, x, FRAC_1_SQRT_2), c(k, x, 0.5));
    let scaled = k.mul(x, root);
    let e = erf(k, scaled);
    let x = k.mul(x, half);
    k.fma(x, e, x)
}

/// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`.
pub fn gelu_tanh(k: &mut KernelBuilder, x: Val) -> Val {
    let (cubic, root, half) = (c(k, x, 0.044_715 * 0.797_884_6), c(k, x, 0.797_884_6), c(k, x, 0.5));
    let x2 = k.mul(x, x);
    let inner = k.fma(x2, cubic, root);
    let inner = k.mul(inner, x);
    let t = tanh(k, inner);
    let x = k.mul(x, half);
    k.fma(x, t, x)
}

/// `log(1 + e^x)`.
pub fn softplus(k: &mut KernelBuilder, x: Val) -> Val {
    let size = k.abs(x);
    let minus = k.neg(size);
    let e = exp(k, minus);
    let (one, zero) = (c(k, x, 1.0), k.zero(x.ty()));
    let sum = k.add(e, one);
    let l = log(k, sum);
    let x = k.max(zero, x);
    k.add(x, l)
}

pub fn sin(k: &mut KernelBuilder, x: Val) -> Val {
    sin_shifted(k, x, 0)
}

pub fn cos(k: &mut KernelBuilder, x: Val) -> Val {
    sin_shifted(k, x, 1)
}

/// `sin(x + quarter pi / 2)`.
fn sin_shifted(k: &mut KernelBuilder, x: Val, quarter: i64) -> Val {
    let (two_over_pi, magic) = (c(k, x, std::f32::consts::FRAC_2_PI), c(k, x, 12582912.0));
    let t = k.fma(x, two_over_pi, magic);
    let n = k.sub(t, magic);
    let (p1, p2, p3) = (c(k, x, -std::f32::consts::FRAC_PI_2), c(k, x, 4.371_139e-8), c(k, x, 1.715_1e-15));
    let r = k.fma(n, p1, x);
    let r = k.fma(n, p2, r);
    let r = k.fma(n, p3, r);
    let r = clamp(k, r, -0.8, 0.8);
    let r2 = k.mul(r, r);
    let s = poly(k, r2, &[-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1]);
    let r3 = k.mul(r2, r);
    let s = k.fma(s, r3, r);
    let co = poly(k, r2, &[2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2, -0.5, 1.0]);
    in_quadrant(k, t, quarter, s, co)
}

/// The sine or cosine of a reduced argument, with its sign, by the quadrant: that many quarters after the whole number in the low bits of `turns`.
pub fn in_quadrant(k: &mut KernelBuilder, turns: Val, quarter: i64, sine: Val, cosine: Val) -> Val {
    let ints = ints(turns);
    let turns = k.bitcast(turns, ints);
    let (shift, one, two) = (k.int(ints, quarter), k.int(ints, 1), k.int(ints, 2));
    let turn = k.add(turns, shift);
    let odd = k.and(turn, one);
    let zero = k.zero(ints);
    let even = k.eq(odd, zero);
    let y = k.select(even, sine, cosine);
    let (half_turn, places) = (k.and(turn, two), k.int(ints, i64::from(ints.elem().bits()) - 2));
    let sign = k.shl(half_turn, places);
    let y = k.bitcast(y, ints);
    let y = k.xor(y, sign);
    k.bitcast(y, sine.ty())
}

/// `x` to the power `y`, with the special cases of C's `pow`.
pub fn pow(k: &mut KernelBuilder, x: Val, y: Val) -> Val {
    let (x, y) = k.alike(x, y);
    let size = k.abs(x);
    let log = log2_wide(k, size);
    let wide = k.to_float_type(y, Scalar::F64);
    let power = k.mul(wide, log);
    let power = exp2_wide(k, power);
    let r = k.to_float_type(power, Scalar::F32);
    power_cases(k, x, y, r)
}

/// C's special cases of `pow`, where `r` is `|x|` to the power `y`.
pub fn power_cases(k: &mut KernelBuilder, x: Val, y: Val, r: Val) -> Val {
    let size = k.abs(x);
    let (zero, one, half) = (k.zero(x.ty()), c(k, x, 1.0), c(k, x, 0.5));
    let (nan, minus_inf) = (c(k, x, f32::NAN), c(k, x, f32::NEG_INFINITY));
    // Signs: an odd y takes that of x; a negative finite x allows whole y only.
    let floor = k.floor(y);
    let whole = k.eq(floor, y);
    let halved = k.mul(y, half);
    let floor = k.floor(halved);
    let even = k.eq(floor, halved);
    let not_even = k.not(even);
    let odd = k.and(whole, not_even);
    let signed = copysign(k, r, x);
    let r = k.select(odd, signed, r);
    let (below, finite) = (k.lt(x, zero), k.gt(x, minus_inf));
    let fraction = k.not(whole);
    let undefined = k.and(below, finite);
    let undefined = k.and(undefined, fraction);
    let r = k.select(undefined, nan, r);
    // 1 where y is 0 or x is 1, whatever the other is, and where x is -1 and y infinite.
    let (y_zero, x_one, size_one) = (k.eq(y, zero), k.eq(x, one), k.eq(size, one));
    let (y_size, inf) = (k.abs(y), c(k, x, f32::INFINITY));
    let y_inf = k.eq(y_size, inf);
    let unit = k.and(size_one, y_inf);
    let always = k.or(y_zero, x_one);
    let always = k.or(always, unit);
    k.select(always, one, r)
}

/// Base 2 logarithm of a non-negative `f32`, as `f64`.
fn log2_wide(k: &mut KernelBuilder, x: Val) -> Val {
    let wide = k.to_float_type(x, Scalar::F64);
    let ty = wide.ty();
    let longs = ty.with(Scalar::I64);
    let bits = k.bitcast(wide, longs);
    let (places, fraction, unit) = (k.int(longs, 52), k.int(longs, (1 << 52) - 1), k.int(longs, 1023 << 52));
    let e = k.shr(bits, places);
    let e = k.trunc(e, Scalar::I32);
    let bias = k.int(e.ty(), 1023);
    let e = k.sub(e, bias);
    let e = k.to_float(e, Scalar::F64);
    let m = k.and(bits, fraction);
    let m = k.or(m, unit);
    let m = k.bitcast(m, ty);
    let (root, half, one) = (k.float(ty, std::f64::consts::SQRT_2), k.float(ty, 0.5), k.float(ty, 1.0));
    let large = k.gt(m, root);
    let (m_half, e_more) = (k.mul(m, half), k.add(e, one));
    let (m, e) = (k.select(large, m_half, m), k.select(large, e_more, e));
    let (above, below) = (k.sub(m, one), k.add(m, one));
    let s = k.div(above, below);
    let s2 = k.mul(s, s);
    let series: Vec<f64> = (0..8).rev().map(|i| 2.0 * std::f64::consts::LOG2_E / f64::from(2 * i + 1)).collect();
    let p = poly(k, s2, &series);
    let y = k.fma(p, s, e);
    let (inf, zero, minus_inf) = (k.float(ty, f64::INFINITY), k.zero(ty), k.float(ty, f64::NEG_INFINITY));
    let finite = k.lt(wide, inf);
    let y = k.select(finite, y, wide);
    let is_zero = k.eq(wide, zero);
    k.select(is_zero, minus_inf, y)
}

/// `2^x` in `f64`, for results in the range of `f32`.
fn exp2_wide(k: &mut KernelBuilder, x: Val) -> Val {
    let ty = x.ty();
    let longs = ty.with(Scalar::I64);
    let x = clamp(k, x, -200.0, 200.0);
    let magic = k.float(ty, 6755399441055744.0 + 1023.0);
    let t = k.add(x, magic);
    let n = k.sub(t, magic);
    let f = k.sub(x, n);
    let mut factorial = 1.0;
    let mut series = vec![1.0];
    for i in 1..=11 {
        factorial *= f64::from(i);
        series.push(std::f64::consts::LN_2.powi(i) / factorial);
    }
    series.reverse();
    let p = poly(k, f, &series);
    let bits = k.bitcast(t, longs);
    let places = k.int(longs, 52);
    let bits = k.shl(bits, places);
    let scale = k.bitcast(bits, ty);
    k.mul(p, scale)
}
