//! Arithmetic and logic of two broadcast operands.

use super::declare::{Meaning, Sample};
use super::shape::{broadcast, broadcast_positions, broadcast_static, mismatch, same_dtype};
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

crate::attr_enum! {
    /// Functions of two elements. Integers wrap around; integer division truncates and by zero gives 0 (as ONNX leaves it open).
    pub enum BinaryKind {
        /// `a + b`
        Add = "add",
        /// `a - b`
        Sub = "sub",
        /// `a * b`
        Mul = "mul",
        /// `a / b`
        Div = "div",
        /// `a ^ b`
        Pow = "pow",
        /// the larger, NaN if either is
        Max = "max",
        /// the smaller, NaN if either is
        Min = "min",
        /// remainder with the sign of `b`
        Mod = "mod",
        /// remainder with the sign of `a`
        Rem = "rem",
        /// logical and; bitwise for integers
        And = "and",
        /// logical or; bitwise for integers
        Or = "or",
        /// logical exclusive or; bitwise for integers
        Xor = "xor",
    }
}

op! {
    /// Combines two operands element by element, broadcast as ONNX does.
    pub struct Binary by BinaryKind {
        operands(a: Any, b: Any),
        results(y),
        attrs {},
    }
}

impl BinaryKind {
    /// Whether the kind is defined for `dtype`.
    pub fn accepts(self, dtype: DType) -> bool {
        use BinaryKind::*;
        match self {
            And | Or | Xor => dtype == DType::Bool || super::Class::Int.accepts(dtype),
            _ => super::Class::Num.accepts(dtype),
        }
    }
    /// The function on floats.
    pub fn apply(self, a: f64, b: f64) -> f64 {
        use BinaryKind::*;
        match self {
            Add => a + b,
            Sub => a - b,
            Mul => a * b,
            Div => a / b,
            Pow => a.powf(b),
            Max => {
                if a.is_nan() || b.is_nan() {
                    f64::NAN
                } else {
                    a.max(b)
                }
            }
            Min => {
                if a.is_nan() || b.is_nan() {
                    f64::NAN
                } else {
                    a.min(b)
                }
            }
            Mod => {
                let r = a % b;
                if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
            }
            Rem => a % b,
            And => f64::from(a != 0.0 && b != 0.0),
            Or => f64::from(a != 0.0 || b != 0.0),
            Xor => f64::from((a != 0.0) != (b != 0.0)),
        }
    }
    /// The function on integers that fit in i64 (u64 compares as unsigned).
    pub fn apply_int(self, a: i64, b: i64, unsigned: bool) -> i64 {
        use BinaryKind::*;
        let (ua, ub) = (a as u64, b as u64);
        match self {
            Add => a.wrapping_add(b),
            Sub => a.wrapping_sub(b),
            Mul => a.wrapping_mul(b),
            Div if b == 0 => 0,
            Div if unsigned => (ua / ub) as i64,
            Div => a.wrapping_div(b),
            Pow if b < 0 => {
                if a == 1 {
                    1
                } else if a == -1 {
                    if b % 2 == 0 { 1 } else { -1 }
                } else {
                    0
                }
            }
            Pow => a.wrapping_pow(b.min(u32::MAX.into()) as u32),
            Max if unsigned => ua.max(ub) as i64,
            Max => a.max(b),
            Min if unsigned => ua.min(ub) as i64,
            Min => a.min(b),
            Mod | Rem if b == 0 => 0,
            Mod | Rem if unsigned => (ua % ub) as i64,
            Mod => {
                let r = a.wrapping_rem(b);
                if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
            }
            Rem => a.wrapping_rem(b),
            And => a & b,
            Or => a | b,
            Xor => a ^ b,
        }
    }
}

impl Meaning for Binary {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        same_dtype(t)?;
        if !self.kind.accepts(t[0].dtype) {
            return Err(mismatch("T0210", format!("not defined for {}", t[0].dtype)));
        }
        Ok(vec![Type { dtype: t[0].dtype, shape: broadcast(&[&t[0].shape, &t[1].shape])? }])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let (a, b) = (x[0], x[1]);
        let shape = broadcast_static(&[a.shape(), b.shape()]);
        let at = broadcast_positions(a.shape(), &shape).into_iter().zip(broadcast_positions(b.shape(), &shape));
        Ok(vec![if a.dtype().is_float() || a.dtype() == DType::Bool {
            let (av, bv) = (a.to_f64(), b.to_f64());
            let y: Vec<f64> = at.map(|(i, j)| self.kind.apply(av[i], bv[j])).collect();
            Tensor::from_f64(a.dtype(), shape, &y)
        } else {
            let (av, bv) = (a.to_i64(), b.to_i64());
            let unsigned = a.dtype() == DType::U64;
            let y: Vec<i64> = at.map(|(i, j)| self.kind.apply_int(av[i], bv[j], unsigned)).collect();
            Tensor::from_i64(a.dtype(), shape, &y)
        }])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let kind = g.one_of(BinaryKind::ALL);
        let dtype = if kind.accepts(DType::F32) { g.num() } else { g.one_of(&[DType::Bool, DType::I32]) };
        let rank = g.int(0, 4) as usize;
        let shape = g.shape(rank);
        let (a, b) = (shape.clone(), g.broadcastable(&shape));
        let (a, b) = if g.flip() { (a, b) } else { (b, a) };
        (Binary { kind }, vec![g.ty(dtype, &a), g.ty(dtype, &b)])
    }
}
