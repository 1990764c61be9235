//! Elementwise semantics on words: one word per lane, the value's bits in its low end.

use super::super::op::{Bin, Cmp, Convert, Un};
use super::super::types::{Scalar, Ty};
use half::{bf16, f16};

/// The lane as a signed integer.
pub(super) fn signed(bits: u64, elem: Scalar) -> i64 {
    let unused = 64 - elem.bits();
    ((bits << unused) as i64) >> unused
}

/// The lane as a float; exact for every float type.
fn float(bits: u64, elem: Scalar) -> f64 {
    match elem {
        Scalar::F16 => f16::from_bits(bits as u16).to_f64(),
        Scalar::BF16 => bf16::from_bits(bits as u16).to_f64(),
        Scalar::F32 => f32::from_bits(bits as u32).into(),
        _ => f64::from_bits(bits),
    }
}

fn map2(a: &[u64], b: &[u64], f: impl Fn(u64, u64) -> u64) -> Vec<u64> {
    a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()
}

/// Floats of 32 and 64 bits; the builder has no arithmetic on others.
macro_rules! by_float {
    ($elem:expr, |$f:ident, $from:ident, $to:ident| $body:expr) => {
        match $elem {
            Scalar::F64 => {
                type $f = f64;
                let ($from, $to) = (f64::from_bits, f64::to_bits);
                $body
            }
            _ => {
                type $f = f32;
                let ($from, $to) = (|bits: u64| f32::from_bits(bits as u32), |x: f32| u64::from(x.to_bits()));
                $body
            }
        }
    };
}

pub(super) fn binary(bin: Bin, elem: Scalar, a: &[u64], b: &[u64]) -> Result<Vec<u64>, String> {
    if elem.is_float() {
        return Ok(float_binary(bin, elem, a, b));
    }
    let mask = elem.mask();
    let s = |x: u64| signed(x, elem);
    if matches!(bin, Bin::DivS | Bin::DivU | Bin::RemS | Bin::RemU) && b.contains(&0) {
        return Err("division by zero".into());
    }
    if matches!(bin, Bin::Shl | Bin::ShrU | Bin::ShrS) && b.iter().any(|&b| b >= elem.bits().into()) {
        return Err("shift by the width or more".into());
    }
    let one = |x: u64, y: u64| match bin {
        Bin::Add => x.wrapping_add(y),
        Bin::Sub => x.wrapping_sub(y),
        Bin::Mul => x.wrapping_mul(y),
        Bin::DivS => s(x).wrapping_div(s(y)) as u64,
        Bin::DivU => x / y,
        Bin::RemS => s(x).wrapping_rem(s(y)) as u64,
        Bin::RemU => x % y,
        Bin::MinS => s(x).min(s(y)) as u64,
        Bin::MaxS => s(x).max(s(y)) as u64,
        Bin::MinU => x.min(y),
        Bin::MaxU => x.max(y),
        Bin::And => x & y,
        Bin::Or => x | y,
        Bin::Xor => x ^ y,
        Bin::Shl => x << y,
        Bin::ShrU => x >> y,
        Bin::ShrS => (s(x) >> y) as u64,
        Bin::Div | Bin::Min | Bin::Max | Bin::MinNan | Bin::MaxNan => unreachable!("float operation"),
    };
    Ok(map2(a, b, |x, y| one(x, y) & mask))
}

fn float_binary(bin: Bin, elem: Scalar, a: &[u64], b: &[u64]) -> Vec<u64> {
    by_float!(elem, |F, from, to| {
        let minimum = |x: F, y: F| match () {
            () if x.is_nan() || y.is_nan() => F::NAN,
            () if x == y => {
                if x.is_sign_negative() {
                    x
                } else {
                    y
                }
            }
            () => x.min(y),
        };
        let f: &dyn Fn(F, F) -> F = match bin {
            Bin::Add => &|x, y| x + y,
            Bin::Sub => &|x, y| x - y,
            Bin::Mul => &|x, y| x * y,
            Bin::Div => &|x, y| x / y,
            Bin::Min => &|x, y| if x < y { x } else { y },
            Bin::Max => &|x, y| if x > y { x } else { y },
            Bin::MinNan => &minimum,
            Bin::MaxNan => &|x, y| -minimum(-x, -y),
            _ => unreachable!("integer operation"),
        };
        map2(a, b, |x, y| to(f(from(x), from(y))))
    })
}

pub(super) fn unary(un: Un, elem: Scalar, a: &[u64]) -> Vec<u64> {
    if un == Un::Popcount {
        return a.iter().map(|x| x.count_ones().into()).collect();
    }
    by_float!(elem, |F, from, to| {
        let f = match un {
            Un::Neg => |x: F| -x,
            Un::Abs => F::abs,
            Un::Sqrt => F::sqrt,
            Un::Floor => F::floor,
            Un::Ceil => F::ceil,
            Un::RoundEven => F::round_ties_even,
            Un::Popcount => unreachable!("done above"),
        };
        a.iter().map(|&x| to(f(from(x)))).collect()
    })
}

pub(super) fn fma(elem: Scalar, a: &[u64], b: &[u64], c: &[u64]) -> Vec<u64> {
    by_float!(elem, |F, from, to| {
        (0..a.len()).map(|i| to(F::mul_add(from(a[i]), from(b[i]), from(c[i])))).collect()
    })
}

pub(super) fn compare(cmp: Cmp, elem: Scalar, a: &[u64], b: &[u64]) -> Vec<u64> {
    if elem.is_float() {
        let f: fn(f64, f64) -> bool = match cmp {
            Cmp::Eq => |x, y| x == y,
            Cmp::Ne => |x, y| x != y,
            Cmp::Lt => |x, y| x < y,
            Cmp::Le => |x, y| x <= y,
            Cmp::Gt => |x, y| x > y,
            Cmp::Ge => |x, y| x >= y,
            Cmp::Nan => |x, y| x.is_nan() || y.is_nan(),
            _ => unreachable!("integer comparison"),
        };
        return map2(a, b, |x, y| f(float(x, elem), float(y, elem)).into());
    }
    let s = |x: u64| signed(x, elem);
    map2(a, b, |x, y| {
        u64::from(match cmp {
            Cmp::Eq => x == y,
            Cmp::Ne => x != y,
            Cmp::Lt => s(x) < s(y),
            Cmp::Le => s(x) <= s(y),
            Cmp::Gt => s(x) > s(y),
            Cmp::Ge => s(x) >= s(y),
            Cmp::ULt => x < y,
            Cmp::ULe => x <= y,
            Cmp::UGt => x > y,
            Cmp::UGe => x >= y,
            Cmp::Nan => unreachable!("float comparison"),
        })
    })
}

/// A double as the bits of another float type.
fn narrow(value: f64, elem: Scalar) -> u64 {
    match elem {
        Scalar::F16 => f16::from_f64(value).to_bits().into(),
        Scalar::BF16 => bf16::from_f64(value).to_bits().into(),
        Scalar::F32 => (value as f32).to_bits().into(),
        _ => value.to_bits(),
    }
}

pub(super) fn convert(convert: Convert, from: Scalar, to: Scalar, a: &[u64]) -> Vec<u64> {
    let one = |x: u64| match convert {
        Convert::SignExtend => signed(x, from) as u64 & to.mask(),
        Convert::ZeroExtend | Convert::Truncate => x & to.mask(),
        // The native instruction takes denormals as zero.
        Convert::Round if to == Scalar::BF16 && f32::from_bits(x as u32).is_subnormal() => (x >> 16) & 0x8000,
        Convert::Extend | Convert::Round => narrow(float(x, from), to),
        Convert::SignedToFloat if to == Scalar::F32 => (signed(x, from) as f32).to_bits().into(),
        Convert::SignedToFloat => (signed(x, from) as f64).to_bits(),
        Convert::UnsignedToFloat if to == Scalar::F32 => (x as f32).to_bits().into(),
        Convert::UnsignedToFloat => (x as f64).to_bits(),
        Convert::FloatToSigned => to_signed(float(x, from), to),
        Convert::FloatToUnsigned => float(x, from) as u64 & to.mask(),
    };
    a.iter().map(|&x| one(x)).collect()
}

/// Out of range gives the machine's "integer indefinite".
fn to_signed(value: f64, to: Scalar) -> u64 {
    let width = to.bits().max(32);
    let limit = 2f64.powi(width as i32 - 1);
    let whole = if value >= -limit && value < limit { value as i64 } else { i64::MIN >> (64 - width) };
    whole as u64 & to.mask()
}

/// The bits of the lanes, packed as in memory; booleans take one bit each.
pub(super) fn bitcast(a: &[u64], from: Ty, to: Ty) -> Vec<u64> {
    let (narrow, wide) = (from.elem().bits(), to.elem().bits());
    if narrow == wide {
        return a.to_vec();
    }
    let mut out = vec![0u64; to.lanes() as usize];
    let step = narrow.min(wide);
    for part in 0..from.lanes() * narrow / step {
        let bit = part * step;
        let source = a[(bit / narrow) as usize] >> (bit % narrow);
        let piece = source & (u64::MAX >> (64 - step));
        out[(bit / wide) as usize] |= piece << (bit % wide);
    }
    out
}
