//! Elementwise functions on registers, true to the element type of the IR.
//!
//! Floats of 16 and 32 bits are computed in `f32`, truth values are `i1`, integers keep their width. Operands may be scalars beside vectors: a value that is
//! the same in all lanes stays a scalar.

use super::{small, wide};
use crate::emit::{Cmp, KernelBuilder, Scalar, Ty, Val, math};
use tersor_ir::ops::Cast;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::unary::UnaryKind;
use tersor_ir::types::DTypeClass;
use tersor_ir::{DType, SmallFloat, Tensor};

/// The type of elements in memory; `None` for types of which several share a byte.
pub fn storage(d: DType) -> Option<Scalar> {
    Some(match d {
        DType::F64 => Scalar::F64,
        DType::F32 => Scalar::F32,
        DType::F16 => Scalar::F16,
        DType::BF16 => Scalar::BF16,
        DType::I64 | DType::U64 => Scalar::I64,
        DType::I32 | DType::U32 | DType::Str => Scalar::I32,
        DType::I16 | DType::U16 => Scalar::I16,
        d if d.is_packed() => return None,
        _ => Scalar::I8,
    })
}

/// The type of elements in registers. Those of which several share a byte, and floats of 8 bits, are codes in a byte of their own.
pub fn register(d: DType) -> Scalar {
    match storage(d) {
        _ if d == DType::Bool => Scalar::I1,
        Some(Scalar::F16 | Scalar::BF16) => Scalar::F32,
        None => Scalar::I8,
        Some(s) => s,
    }
}

fn unsigned(d: DType) -> bool {
    !d.is_float() && d.int_range().is_none_or(|r| r.0 == 0)
}

/// A number as a register value.
pub fn immediate(k: &mut KernelBuilder, d: DType, v: f64) -> Val {
    let ty = Ty::Scalar(register(d));
    match d {
        DType::Bool => k.bool(v != 0.0),
        d if SmallFloat::of(d).is_some() => k.int(ty, Tensor::scalar(d, v).get_bits(0) as i64),
        d if d.is_float() => k.float(ty, v),
        _ => k.int(ty, if v >= 0.0 { v as u64 as i64 } else { v as i64 }),
    }
}

/// Both operands with as many lanes as the wider one.
pub fn alike(k: &mut KernelBuilder, a: Val, b: Val) -> (Val, Val) {
    let n = a.lanes().max(b.lanes());
    let mut widen = |v: Val| if v.lanes() < n { k.splat(v, n) } else { v };
    (widen(a), widen(b))
}

/// From what memory holds.
pub fn loaded(k: &mut KernelBuilder, d: DType, v: Val) -> Val {
    match v.elem() {
        Scalar::I8 if d == DType::Bool => {
            let zero = k.zero(v.ty());
            k.ne(v, zero)
        }
        Scalar::F16 | Scalar::BF16 => k.to_float_type(v, Scalar::F32),
        _ => v,
    }
}

/// To what memory holds.
pub fn to_store(k: &mut KernelBuilder, d: DType, v: Val) -> Val {
    match d {
        DType::Bool => k.zext(v, Scalar::I8),
        DType::F16 => k.to_float_type(v, Scalar::F16),
        DType::BF16 => k.to_float_type(v, Scalar::BF16),
        _ => v,
    }
}

pub fn unary(k: &mut KernelBuilder, kind: UnaryKind, d: DType, x: Val) -> Val {
    use UnaryKind::*;
    let ty = x.ty();
    if !ty.is_float() {
        let zero = k.zero(ty);
        return match kind {
            Not => k.not(x),
            Neg => k.sub(zero, x),
            Sign if unsigned(d) => {
                let one = k.int(ty, 1);
                k.umin(x, one)
            }
            Sign => {
                let (one, minus) = (k.int(ty, 1), k.int(ty, -1));
                let y = k.min(x, one);
                k.max(y, minus)
            }
            _ if unsigned(d) => x,
            Abs => k.abs(x),
            _ => k.max(x, zero),
        };
    }
    let one = k.float(ty, 1.0);
    let wide = ty.elem() == Scalar::F64;
    match kind {
        Not => x,
        Neg => k.neg(x),
        Abs => k.abs(x),
        Sign => {
            let (zero, minus) = (k.zero(ty), k.float(ty, -1.0));
            let (above, below) = (k.gt(x, zero), k.lt(x, zero));
            let y = k.select(below, minus, x);
            k.select(above, one, y)
        }
        Relu => {
            let zero = k.zero(ty);
            k.max(zero, x)
        }
        Sqrt => k.sqrt(x),
        Rsqrt => {
            let s = k.sqrt(x);
            k.div(one, s)
        }
        Reciprocal => k.div(one, x),
        Floor => k.floor(x),
        Ceil => k.ceil(x),
        Round => k.round_even(x),
        _ if wide => wide::unary(k, kind, x),
        Exp => math::exp(k, x),
        Log => math::log(k, x),
        Sigmoid => math::sigmoid(k, x),
        Tanh => math::tanh(k, x),
        Erf => math::erf(k, x),
        Gelu => math::gelu(k, x),
        GeluTanh => math::gelu_tanh(k, x),
        Silu => math::silu(k, x),
        Softplus => math::softplus(k, x),
        Sin => math::sin(k, x),
        Cos => math::cos(k, x),
    }
}

pub fn binary(k: &mut KernelBuilder, kind: BinaryKind, d: DType, a: Val, b: Val) -> Val {
    use BinaryKind::*;
    let (a, b) = alike(k, a, b);
    let (float, unsigned) = (a.ty().is_float(), unsigned(d));
    match kind {
        Add => k.add(a, b),
        Sub => k.sub(a, b),
        Mul => k.mul(a, b),
        And => k.and(a, b),
        Or => k.or(a, b),
        Xor => k.xor(a, b),
        Max if float => k.max_nan(a, b),
        Min if float => k.min_nan(a, b),
        Max if unsigned => k.umax(a, b),
        Min if unsigned => k.umin(a, b),
        Max => k.max(a, b),
        Min => k.min(a, b),
        Div if float => k.div(a, b),
        Pow if float && a.elem() == Scalar::F64 => wide::pow(k, a, b),
        Pow if float => math::pow(k, a, b),
        Mod | Rem if float => float_remainder(k, a, b, kind == Mod),
        Pow => int_pow(k, d, a, b),
        Div | Mod | Rem => int_division(k, kind, unsigned, a, b),
    }
}

/// `a - trunc(a / b) b`; with `floored` of the sign of `b`. Exact while the quotient is below 2^24 (2^53 in `f64`).
fn float_remainder(k: &mut KernelBuilder, a: Val, b: Val, floored: bool) -> Val {
    let ty = a.ty();
    let zero = k.zero(ty);
    let q = k.div(a, b);
    let (up, down, negative) = (k.ceil(q), k.floor(q), k.lt(q, zero));
    let q = k.select(negative, up, down);
    let q = k.neg(q);
    let r = k.fma(q, b, a);
    // The quotient may have been rounded up to a whole number.
    let (r_below, a_below, b_below) = (k.lt(r, zero), k.lt(a, zero), k.lt(b, zero));
    let (wrong, there) = (k.xor(r_below, a_below), k.ne(r, zero));
    let wrong = k.and(wrong, there);
    let size = k.abs(b);
    let minus = k.neg(size);
    let back = k.select(a_below, minus, size);
    let fixed = k.add(r, back);
    let r = k.select(wrong, fixed, r);
    let inf = k.float(ty, f64::INFINITY);
    let (endless, a_size) = (k.eq(size, inf), k.abs(a));
    let finite = k.lt(a_size, inf);
    let whole = k.and(endless, finite);
    let r = k.select(whole, a, r);
    if !floored {
        return r;
    }
    let (r_below, there) = (k.lt(r, zero), k.ne(r, zero));
    let other = k.xor(r_below, b_below);
    let other = k.and(other, there);
    let moved = k.add(r, b);
    k.select(other, moved, r)
}

fn int_division(k: &mut KernelBuilder, kind: BinaryKind, unsigned: bool, a: Val, b: Val) -> Val {
    let ty = a.ty();
    let (zero, one, minus) = (k.zero(ty), k.int(ty, 1), k.int(ty, -1));
    let by_zero = k.eq(b, zero);
    if unsigned {
        let safe = k.select(by_zero, one, b);
        let y = if kind == BinaryKind::Div { k.udiv(a, safe) } else { k.urem(a, safe) };
        return k.select(by_zero, zero, y);
    }
    // The quotient of the lowest value and -1 does not exist: the machine traps.
    let by_minus = k.eq(b, minus);
    let special = k.or(by_zero, by_minus);
    let safe = k.select(special, one, b);
    match kind {
        BinaryKind::Div => {
            let (y, negated) = (k.div(a, safe), k.neg(a));
            let y = k.select(by_minus, negated, y);
            k.select(by_zero, zero, y)
        }
        BinaryKind::Rem => {
            let y = k.rem(a, safe);
            k.select(special, zero, y)
        }
        _ => {
            let r = k.rem(a, safe);
            let r = k.select(special, zero, r);
            let (there, r_below, b_below) = (k.ne(r, zero), k.lt(r, zero), k.lt(b, zero));
            let other = k.xor(r_below, b_below);
            let other = k.and(other, there);
            let moved = k.add(r, b);
            k.select(other, moved, r)
        }
    }
}

/// Powers by squaring; of negative exponents only 1 and -1 have any.
fn int_pow(k: &mut KernelBuilder, d: DType, a: Val, b: Val) -> Val {
    let ty = a.ty();
    let (zero, one, minus) = (k.zero(ty), k.int(ty, 1), k.int(ty, -1));
    let most = if d.bits() == 64 { u32::MAX.into() } else { i64::MAX };
    let exponent = if most == i64::MAX { b } else { k.int(ty, most) };
    let exponent = if most == i64::MAX { exponent } else { k.min(b, exponent) };
    let (low, high, step) = (k.i64(0), k.i64(d.bits().min(32).into()), k.i64(1));
    let y = k.for_(low, high, step, &[one, a, exponent], |k, _, c| {
        let bit = k.and(c[2], one);
        let on = k.ne(bit, zero);
        let more = k.mul(c[0], c[1]);
        let y = k.select(on, more, c[0]);
        vec![y, k.mul(c[1], c[1]), k.shr(c[2], one)]
    })[0];
    if unsigned(d) && d.bits() < 64 {
        return y;
    }
    let (below, is_one, is_minus) = (k.lt(b, zero), k.eq(a, one), k.eq(a, minus));
    let bit = k.and(b, one);
    let even = k.eq(bit, zero);
    let sign = k.select(even, one, minus);
    let z = k.select(is_minus, sign, zero);
    let z = k.select(is_one, one, z);
    k.select(below, z, y)
}

pub fn compare(k: &mut KernelBuilder, kind: CompareKind, d: DType, a: Val, b: Val) -> Val {
    let (a, b) = alike(k, a, b);
    let unsigned = unsigned(d);
    let cmp = match kind {
        CompareKind::Eq => Cmp::Eq,
        CompareKind::Ne => Cmp::Ne,
        CompareKind::Lt if unsigned => Cmp::ULt,
        CompareKind::Le if unsigned => Cmp::ULe,
        CompareKind::Gt if unsigned => Cmp::UGt,
        CompareKind::Ge if unsigned => Cmp::UGe,
        CompareKind::Lt => Cmp::Lt,
        CompareKind::Le => Cmp::Le,
        CompareKind::Gt => Cmp::Gt,
        CompareKind::Ge => Cmp::Ge,
    };
    k.cmp(cmp, a, b)
}

pub fn select(k: &mut KernelBuilder, cond: Val, a: Val, b: Val) -> Val {
    let (a, b) = alike(k, a, b);
    let n = a.lanes().max(cond.lanes());
    let wide = |k: &mut KernelBuilder, v: Val| if v.lanes() < n { k.splat(v, n) } else { v };
    let (a, b) = (wide(k, a), wide(k, b));
    k.select(cond, a, b)
}

/// [`convert`] by a `cast` that saturates and rounds to the nearest.
pub fn cast(k: &mut KernelBuilder, from: DType, to: DType, x: Val) -> Val {
    convert(k, from, &Cast::to(to), x)
}

/// `cast`: see the op for what happens out of range.
pub fn convert(k: &mut KernelBuilder, from: DType, op: &Cast, x: Val) -> Val {
    let to = op.to;
    let target = register(to);
    if from == to {
        return x;
    }
    if let Some(f) = SmallFloat::of(from) {
        let x = small::decode(k, &f, x);
        return convert(k, DType::F32, op, x);
    }
    if let Some(f) = SmallFloat::of(to) {
        let x = match small::wide_enough(x.ty()) {
            Scalar::F64 => cast(k, from, DType::F64, x),
            _ => cast(k, from, DType::F32, x),
        };
        return small::encode(k, &f, x, op.overflow, op.round);
    }
    if to == DType::Bool {
        let zero = k.zero(x.ty());
        return k.ne(x, zero);
    }
    if from == DType::Bool {
        if !to.is_float() {
            return k.zext(x, target);
        }
        let wide = k.zext(x, Scalar::I32);
        return k.to_float(wide, target);
    }
    match (from.is_float(), to.is_float()) {
        (true, true) => k.to_float_type(x, target),
        (true, false) => saturate(k, x, to),
        (false, true) => int_to_float(k, from, x, target),
        (false, false) => {
            let y = match target.bits().cmp(&x.elem().bits()) {
                std::cmp::Ordering::Less => k.trunc(x, target),
                std::cmp::Ordering::Equal => x,
                std::cmp::Ordering::Greater if unsigned(from) => k.zext(x, target),
                std::cmp::Ordering::Greater => k.sext(x, target),
            };
            narrow(k, to, y)
        }
    }
}

/// `bitcast`, of register values.
pub fn bitcast(k: &mut KernelBuilder, from: DType, to: DType, x: Val) -> Val {
    let x = to_store(k, from, x);
    let Some(s) = storage(to) else { return narrow(k, to, x) };
    let y = k.bitcast(x, x.ty().with(s));
    loaded(k, to, y)
}

/// The low bits of a byte as an element that has fewer than 8.
fn narrow(k: &mut KernelBuilder, d: DType, x: Val) -> Val {
    if !d.is_packed() {
        return x;
    }
    let up = k.int(x.ty(), i64::from(8 - d.bits()));
    let top = k.shl(x, up);
    if d.class() == DTypeClass::Int { k.sar(top, up) } else { k.shr(top, up) }
}

fn int_to_float(k: &mut KernelBuilder, from: DType, x: Val, to: Scalar) -> Val {
    let narrow = x.elem().bits() < 32;
    match unsigned(from) {
        true if narrow => {
            let x = k.zext(x, Scalar::I32);
            k.to_float(x, to)
        }
        true => k.unsigned_to_float(x, to),
        false if narrow => {
            let x = k.sext(x, Scalar::I32);
            k.to_float(x, to)
        }
        false => k.to_float(x, to),
    }
}

/// Towards zero, held in the range of `to`; a NaN becomes 0.
pub fn saturate(k: &mut KernelBuilder, x: Val, to: DType) -> Val {
    let ty = x.ty();
    let (lo, hi) = to.int_range().unwrap_or((0, 1));
    let (nan, zero) = (k.is_nan(x), k.zero(ty));
    let x = k.select(nan, zero, x);
    let digits = if ty.elem() == Scalar::F64 { 53 } else { 24 };
    // The largest float that is in range.
    let bits = to.bits() - u32::from(lo < 0);
    let top = if bits <= digits { hi as f64 } else { 2f64.powi(bits as i32) - 2f64.powi((bits - digits) as i32) };
    let (low, high) = (k.float(ty, lo as f64), k.float(ty, top));
    let clamped = k.max(x, low);
    let clamped = k.min(clamped, high);
    let target = register(to);
    let y = match (to, target) {
        (DType::U64, _) => k.to_unsigned(clamped, Scalar::I64),
        (DType::U32, _) => {
            let y = k.to_int(clamped, Scalar::I64);
            k.trunc(y, Scalar::I32)
        }
        (_, Scalar::I32 | Scalar::I64) => k.to_int(clamped, target),
        _ => {
            let y = k.to_int(clamped, Scalar::I32);
            k.trunc(y, target)
        }
    };
    if bits <= digits {
        return y;
    }
    let (limit, most) = (k.float(ty, 2f64.powi(bits as i32)), k.int(y.ty(), hi as i64));
    let over = k.ge(x, limit);
    k.select(over, most, y)
}

/// `clamp(round(x / scale) + zero)`; `zero` is a code. With `narrow` the lowest signed code is not used.
pub fn quant(k: &mut KernelBuilder, x: Val, scale: Val, zero: Option<Val>, to: DType, narrow: bool) -> Val {
    let (x, scale) = alike(k, x, scale);
    let q = k.div(x, scale);
    let q = k.round_even(q);
    let ty = q.ty();
    let (lo, hi) = to.int_range().unwrap_or((0, 1));
    let lo = if narrow && lo < 0 { -hi } else { lo };
    if to.bits() <= 16 {
        // A NaN counts as 0, which is what `max` makes of it where that is the least code.
        let mut q = match (lo, zero) {
            (0, None) => q,
            _ => {
                let (nan, none) = (k.is_nan(q), k.zero(ty));
                k.select(nan, none, q)
            }
        };
        if let Some(z) = zero {
            let z = int_to_float(k, to, z, ty.elem());
            let (a, z) = alike(k, q, z);
            q = k.add(a, z);
        }
        let ty = q.ty();
        let (low, high) = (k.float(ty, lo as f64), k.float(ty, hi as f64));
        let q = k.max(q, low);
        let q = k.min(q, high);
        let q = k.to_int(q, Scalar::I32);
        return k.trunc(q, register(to));
    }
    let mut v = saturate(k, q, DType::I64);
    if let Some(z) = zero {
        let (low, high) = (k.int(v.ty(), -(1 << 62)), k.int(v.ty(), 1 << 62));
        v = k.max(v, low);
        v = k.min(v, high);
        let z = cast(k, to, DType::I64, z);
        let (a, z) = alike(k, v, z);
        v = k.add(a, z);
    }
    let (low, high) = (k.int(v.ty(), lo as i64), k.int(v.ty(), i64::try_from(hi).unwrap_or(i64::MAX)));
    let v = k.max(v, low);
    let v = k.min(v, high);
    cast(k, DType::I64, to, v)
}
