//! `softmax` along one axis.

use super::declare::{Meaning, Sample};
use super::shape::*;
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::Type;

op! {
    /// `e^(x - max) / Σ e^(x - max)` along an axis; its logarithm with `log`. A row of `-inf` alone gives NaN.
    pub struct Softmax = "softmax" {
        operands(x: Float),
        results(y),
        attrs {
            /// The axis.
            axis: u8,
            /// Logarithm of the result (ONNX `LogSoftmax`).
            log: bool = false,
        },
    }
}

impl Meaning for Softmax {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        check_axis(self.axis.into(), t[0].rank())?;
        Ok(vec![t[0].clone()])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let (x, axis) = (x[0], self.axis as usize);
        let step: usize = x.shape()[axis + 1..].iter().product();
        let (n, v) = (x.shape()[axis], x.to_f64());
        let mut y = vec![0.0; v.len()];
        for o in 0..v.len() / (step * n).max(1) {
            for i in 0..step {
                let at = |k: usize| (o * n + k) * step + i;
                let max = (0..n).fold(f64::NEG_INFINITY, |m, k| m.max(v[at(k)]));
                let sum: f64 = (0..n).map(|k| (v[at(k)] - max).exp()).sum();
                for k in 0..n {
                    let d = v[at(k)] - max;
                    y[at(k)] = if self.log { d - sum.ln() } else { d.exp() / sum };
                }
            }
        }
        Ok(vec![Tensor::from_f64(x.dtype(), x.shape(), &y)])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, rank) = (g.float(), g.int(1, 4) as usize);
        let shape = g.shape(rank);
        (Softmax { axis: g.int(0, rank as i64 - 1) as u8, log: g.flip() }, vec![g.ty(dtype, &shape)])
    }
}
