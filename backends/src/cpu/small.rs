//! Conversions between floats and the codes of floats of at most 8 bits, on registers. Kernels hold such elements as codes, one byte each.

use crate::emit::{KernelBuilder, Scalar, Ty, Val};
use tersor_ir::small::{Rounding, SmallFloat, Special};

/// The `f32` numbers of codes.
pub fn decode(k: &mut KernelBuilder, f: &SmallFloat, code: Val) -> Val {
    let code = k.zext(code, Scalar::I32);
    let (ty, float) = (code.ty(), code.ty().with(Scalar::F32));
    let int = |k: &mut KernelBuilder, v: i64| k.int(ty, v);
    let nan = k.float(float, f64::NAN);
    if !f.signed {
        let (places, zero, half) = (int(k, 23), int(k, 0), int(k, 1 << 22));
        let bits = k.shl(code, places);
        let least = k.eq(code, zero);
        let bits = k.select(least, half, bits);
        let (y, last) = (k.bitcast(bits, float), int(k, f.nan_code(false).into()));
        let special = k.eq(code, last);
        return k.select(special, nan, y);
    }
    let sign_bit = i64::from(f.sign_bit());
    let (low, sign) = (int(k, sign_bit - 1), int(k, sign_bit));
    let (magnitude, sign) = (k.and(code, low), k.and(code, sign));
    // Exponent and mantissa in the places of an f32, whose exponent then has another bias; the product is exact.
    let places = int(k, 23 - i64::from(f.mantissa));
    let bits = k.shl(magnitude, places);
    let (small, scale) = (k.bitcast(bits, float), k.float(float, 2f64.powi(127 - f.bias)));
    let mut y = k.mul(small, scale);
    let max = int(k, f.max_code().into());
    let beyond = k.gt(magnitude, max);
    match f.special {
        Special::Ieee => {
            let (first, inf) = (int(k, i64::from(f.max_code()) + 1), k.float(float, f64::INFINITY));
            let infinite = k.eq(magnitude, first);
            let special = k.select(infinite, inf, nan);
            y = k.select(beyond, special, y);
        }
        Special::Largest => y = k.select(beyond, nan, y),
        Special::Nothing | Special::NegativeZero => {}
    }
    let (bits, places) = (k.bitcast(y, ty), int(k, 31 - i64::from(f.exponent + f.mantissa)));
    let sign = k.shl(sign, places);
    let bits = k.or(bits, sign);
    let y = k.bitcast(bits, float);
    if f.special != Special::NegativeZero {
        return y;
    }
    let none = int(k, sign_bit);
    let special = k.eq(code, none);
    k.select(special, nan, y)
}

/// The codes of floats of 32 or 64 bits; see [`SmallFloat::encode`].
pub fn encode(k: &mut KernelBuilder, f: &SmallFloat, x: Val, overflow: bool, rounding: Rounding) -> Val {
    if !f.signed {
        return power(k, f, x, overflow, rounding);
    }
    let (int, digits, bias) = layout(x.ty().elem());
    let (ty, float) = (x.ty().with(int), x.ty());
    let c = |k: &mut KernelBuilder, v: i64| k.int(ty, v);
    let (size, zero) = (k.abs(x), k.zero(float));
    let nan = k.is_nan(x);
    let size = k.select(nan, zero, size);
    let (limit, within) = f.limit();
    let (limit, max) = (k.float(float, limit), k.float(float, f.decode(f.max_code())));
    let over = if within { k.gt(size, limit) } else { k.ge(size, limit) };
    let size = k.min(size, max);
    // Normal numbers: the mantissa is rounded in place, and carries into the exponent.
    let drop = i64::from(digits - f.mantissa);
    let (places, one, half) = (c(k, drop), c(k, 1), c(k, (1 << (drop - 1)) - 1));
    let bits = k.bitcast(size, ty);
    let even = k.shr(bits, places);
    let even = k.and(even, one);
    let rounded = k.add(bits, half);
    let rounded = k.add(rounded, even);
    let (rounded, lower) = (k.shr(rounded, places), c(k, (bias - i64::from(f.bias)) << f.mantissa));
    let normal = k.sub(rounded, lower);
    // Below these, codes count multiples of the least number.
    let steps = k.float(float, 2f64.powi(f.bias - 1 + f.mantissa as i32));
    let count = k.mul(size, steps);
    let count = k.round_even(count);
    let count = k.to_int(count, int);
    let least = k.float(float, 2f64.powi(1 - f.bias));
    let below = k.lt(size, least);
    let mut code = k.select(below, count, normal);
    let negative = {
        let (bits, none) = (k.bitcast(x, ty), c(k, 0));
        k.lt(bits, none)
    };
    let signed = |k: &mut KernelBuilder, positive: u8, negated: u8| {
        let (a, b) = (c(k, positive.into()), c(k, negated.into()));
        k.select(negative, b, a)
    };
    let sign = signed(k, 0, f.sign_bit());
    let with_sign = k.or(code, sign);
    code = if f.special == Special::NegativeZero {
        let none = c(k, 0);
        let is_zero = k.eq(code, none);
        k.select(is_zero, code, with_sign)
    } else {
        with_sign
    };
    if overflow {
        let most = signed(k, f.overflow_code(false), f.overflow_code(true));
        code = k.select(over, most, code);
    }
    let special = signed(k, f.nan_code(false), f.nan_code(true));
    code = k.select(nan, special, code);
    k.trunc(code, Scalar::I8)
}

/// Powers of two: the exponent is the code.
fn power(k: &mut KernelBuilder, f: &SmallFloat, x: Val, overflow: bool, rounding: Rounding) -> Val {
    let x = k.to_float_type(x, Scalar::F64);
    let (int, digits, bias) = layout(Scalar::F64);
    let ty = x.ty().with(int);
    let c = |k: &mut KernelBuilder, v: i64| k.int(ty, v);
    let (nan, size) = (k.is_nan(x), k.abs(x));
    let bits = k.bitcast(size, ty);
    let up = match rounding {
        Rounding::Nearest => 1 << (digits - 1),
        Rounding::Up => (1 << digits) - 1,
        Rounding::Down => 0,
    };
    let (up, places, lower) = (c(k, up), c(k, digits.into()), c(k, bias - i64::from(f.bias)));
    let bits = k.add(bits, up);
    let exponent = k.shr(bits, places);
    let code = k.sub(exponent, lower);
    let (least, most) = (k.float(x.ty(), f.decode(0)), c(k, f.max_code().into()));
    let (under, over, none) = (k.lt(size, least), k.gt(code, most), c(k, 0));
    let special = c(k, f.nan_code(false).into());
    let (low, high) = if overflow { (special, special) } else { (none, most) };
    let code = k.select(over, high, code);
    let code = k.select(under, low, code);
    let code = k.select(nan, special, code);
    k.trunc(code, Scalar::I8)
}

/// The integers as wide as a float, its digits after the point, and its bias.
fn layout(float: Scalar) -> (Scalar, u32, i64) {
    match float {
        Scalar::F64 => (Scalar::I64, 52, 1023),
        _ => (Scalar::I32, 23, 127),
    }
}

/// The type of a register of floats that holds `x` exactly, or rounds it without harm: its next conversion rounds to far fewer digits.
pub fn wide_enough(x: Ty) -> Scalar {
    match x.elem() {
        Scalar::F64 | Scalar::I32 | Scalar::I64 => Scalar::F64,
        _ => Scalar::F32,
    }
}
