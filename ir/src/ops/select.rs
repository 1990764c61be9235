//! `select`: one of two values, by a condition.

use super::declare::{Meaning, Sample};
use super::shape::{broadcast, broadcast_positions, broadcast_static, same_dtype};
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// `a` where the condition holds, else `b`; all three broadcast (ONNX `Where`).
    pub struct Select = "select" {
        operands(cond: Bool, a: Any, b: Any),
        results(y),
        attrs {},
    }
}

impl Meaning for Select {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        same_dtype(&t[1..])?;
        Ok(vec![Type { dtype: t[1].dtype, shape: broadcast(&[&t[0].shape, &t[1].shape, &t[2].shape])? }])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let shape = broadcast_static(&[x[0].shape(), x[1].shape(), x[2].shape()]);
        let at: Vec<Vec<usize>> = x.iter().map(|t| broadcast_positions(t.shape(), &shape)).collect();
        let pick = |i: usize| if x[0].get_i64(at[0][i]) != 0 { (x[1], at[1][i]) } else { (x[2], at[2][i]) };
        let n: usize = shape.iter().product();
        Ok(vec![Tensor::collected(x[1].dtype(), shape, (0..n).map(pick))])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, rank) = (g.num(), g.int(0, 3) as usize);
        let shape = g.shape(rank);
        let (c, b) = (g.broadcastable(&shape), g.broadcastable(&shape));
        (Select {}, vec![g.ty(DType::Bool, &c), g.ty(dtype, &shape), g.ty(dtype, &b)])
    }
}
