//! `concat`: tensors one after the other along an axis.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// Joins operands along an axis; the other extents agree.
    pub struct Concat = "concat" {
        operands(x: Any(many)),
        results(y),
        attrs {
            /// The axis.
            axis: u8,
        },
    }
}

impl Meaning for Concat {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        same_dtype(t)?;
        let (axis, mut out) = (self.axis as usize, t[0].clone());
        check_axis(axis, out.rank())?;
        for (i, x) in t.iter().enumerate().skip(1) {
            let fits = x.rank() == out.rank() && (0..out.rank()).all(|a| a == axis || x.shape[a] == out.shape[a]);
            if !fits {
                return Err(mismatch(
                    "T0354",
                    format!("operand {i} is {x}, operand 0 is {}; only axis {axis} may differ", t[0]),
                ));
            }
            out.shape[axis] = out.shape[axis].clone() + x.shape[axis].clone();
        }
        Ok(vec![out])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let axis = self.axis as usize;
        let mut shape = x[0].shape().to_vec();
        shape[axis] = x.iter().map(|t| t.shape()[axis]).sum();
        let mut from = vec![];
        let inner: usize = shape[axis + 1..].iter().product();
        for o in 0..shape[..axis].iter().product() {
            for t in x {
                let n = t.shape()[axis] * inner;
                from.extend((o * n..(o + 1) * n).map(|i| (*t, i)));
            }
        }
        Ok(vec![Tensor::collected(x[0].dtype(), shape, from.into_iter())])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work::movement(ins, outs)
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, rank) = (g.one_of(DType::ALL), g.int(1, 3) as usize);
        let shape = g.shape(rank);
        let axis = g.int(0, rank as i64 - 1) as usize;
        let one = |g: &mut Gen| {
            let mut s = shape.clone();
            s[axis] = g.int(0, 4) as usize;
            g.ty(dtype, &s)
        };
        let types = (0..g.int(1, 3)).map(|_| one(g)).collect();
        (Concat { axis: axis as u8 }, types)
    }
}
