//! `rope`: rotary position embedding.

use super::declare::{Meaning, Sample};
use super::shape::*;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::Type;

op! {
    /// `x * cos + rotate(x) * sin` over the last axis (Su et al., 2021). `rotate` maps halves `(a, b)` to `(-b, a)`, or with `interleaved` neighbours. `cos` and `sin`
    /// broadcast to `x`.
    pub struct Rope = "rope" {
        operands(x: Float, cos: Float, sin: Float),
        results(y),
        attrs {
            /// Pairs are neighbours instead of halves.
            interleaved: bool = false,
        },
    }
}

impl Meaning for Rope {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        same_dtype(t)?;
        if t[0].shape.last().and_then(Dim::as_const).is_none_or(|d| d % 2 != 0) {
            return Err(mismatch("T0345", format!("the last extent of {} is not known to be even", t[0])));
        }
        for p in &t[1..] {
            if broadcast(&[&t[0].shape, &p.shape])? != t[0].shape {
                return Err(mismatch("T0346", format!("{p} does not broadcast to {}", t[0])));
            }
        }
        Ok(vec![t[0].clone()])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let shape = x[0].shape();
        let d = shape[shape.len() - 1];
        let v: Vec<Vec<f64>> = x.iter().map(|t| t.to_f64()).collect();
        let at: Vec<Vec<usize>> = x.iter().map(|t| broadcast_positions(t.shape(), shape)).collect();
        let one = |i: usize| {
            let c = i % d;
            let (partner, sign) = match self.interleaved {
                true if c.is_multiple_of(2) => (i + 1, -1.0),
                true => (i - 1, 1.0),
                false if c < d / 2 => (i + d / 2, -1.0),
                false => (i - d / 2, 1.0),
            };
            v[0][i] * v[1][at[1][i]] + sign * v[0][partner] * v[2][at[2][i]]
        };
        Ok(vec![Tensor::from_f64(x[0].dtype(), shape, &(0..x[0].len()).map(one).collect::<Vec<_>>())])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, rank) = (g.float(), g.int(1, 4) as usize);
        let mut shape = g.shape(rank);
        shape[rank - 1] *= 2;
        let (c, s) = (g.broadcastable(&shape), g.broadcastable(&shape));
        (Rope { interleaved: g.flip() }, vec![g.ty(dtype, &shape), g.ty(dtype, &c), g.ty(dtype, &s)])
    }
}
