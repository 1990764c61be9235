//! Comparison of two broadcast operands.

use super::declare::{Meaning, Sample};
use super::shape::{broadcast, broadcast_positions, broadcast_static, mismatch, same_dtype};
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

crate::attr_enum! {
    /// Orders; with NaN all but `ne` are false.
    pub enum CompareKind {
        /// equal
        Eq = "eq",
        /// different
        Ne = "ne",
        /// less
        Lt = "lt",
        /// less or equal
        Le = "le",
        /// greater
        Gt = "gt",
        /// greater or equal
        Ge = "ge",
    }
}

op! {
    /// Compares two operands element by element, broadcast as ONNX does.
    pub struct Compare by CompareKind {
        operands(a: Any, b: Any),
        results(y),
        attrs {},
    }
}

impl CompareKind {
    fn apply<T: PartialOrd>(self, a: T, b: T) -> bool {
        match self {
            CompareKind::Eq => a == b,
            CompareKind::Ne => a != b,
            CompareKind::Lt => a < b,
            CompareKind::Le => a <= b,
            CompareKind::Gt => a > b,
            CompareKind::Ge => a >= b,
        }
    }
}

impl Meaning for Compare {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        same_dtype(t)?;
        if t[0].dtype == DType::Str && !matches!(self.kind, CompareKind::Eq | CompareKind::Ne) {
            return Err(mismatch("T0380", "strings are equal or not, and have no order"));
        }
        if t[0].dtype.part().is_some() {
            return Err(mismatch("T0210", format!("not defined for {}", t[0].dtype)));
        }
        Ok(vec![Type { dtype: DType::Bool, shape: broadcast(&[&t[0].shape, &t[1].shape])? }])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let (a, b) = (x[0], x[1]);
        let shape = broadcast_static(&[a.shape(), b.shape()]);
        let at = broadcast_positions(a.shape(), &shape).into_iter().zip(broadcast_positions(b.shape(), &shape));
        let one = |(i, j)| {
            i64::from(match a.dtype() {
                d if d.is_float() => self.kind.apply(a.get_f64(i), b.get_f64(j)),
                DType::U64 => self.kind.apply(a.get_i64(i) as u64, b.get_i64(j) as u64),
                _ => self.kind.apply(a.get_i64(i), b.get_i64(j)),
            })
        };
        let y: Vec<i64> = at.map(one).collect();
        Ok(vec![Tensor::from_i64(DType::Bool, shape, &y)])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (kind, dtype, rank) = (g.one_of(CompareKind::ALL), g.num(), g.int(0, 3) as usize);
        let shape = g.shape(rank);
        let b = g.broadcastable(&shape);
        (Compare { kind }, vec![g.ty(dtype, &shape), g.ty(dtype, &b)])
    }
}
