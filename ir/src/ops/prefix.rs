//! `prefix`: an extent that data decide.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// The first `count` slices along an axis, where `count` is a scalar `i64` that the run computes, from 0 to the axis's extent: that extent is the *cap*. Binds the symbol
    /// `extent`, which nothing else binds, to the count; what follows has extents over it as over any other symbol. A count outside of the cap is an error of the run.
    pub struct Prefix = "prefix" {
        operands(x: Any, count: Int),
        results(y),
        attrs {
            /// The axis.
            axis: u8 = 0,
            /// The symbol.
            extent: Dim,
        },
    }
}

impl Meaning for Prefix {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        check_axis(self.axis.into(), t[0].rank())?;
        if *t[1] != Type::scalar(DType::I64) {
            return Err(mismatch("T0397", format!("the count is {}, expected i64[]", t[1])));
        }
        let Some(symbol) = self.extent.as_symbol() else {
            return Err(mismatch("T0397", format!("the extent is {}, expected a symbol", self.extent)));
        };
        if t[0].shape[self.axis as usize].mentions(symbol) {
            return Err(mismatch("T0397", format!("{symbol} is an extent of the operand {}", t[0])));
        }
        let mut out = t[0].clone();
        out.shape[self.axis as usize] = self.extent.clone();
        Ok(vec![out])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let (axis, count) = (self.axis as usize, x[1].get_i64(0));
        let mut shape = x[0].shape().to_vec();
        let Some(n) = usize::try_from(count).ok().filter(|&n| n <= shape[axis]) else {
            return Err(mismatch("T0398", format!("{} is {count}, allowed is 0..={}", self.extent, shape[axis])));
        };
        shape[axis] = n;
        let s = strides(x[0].shape());
        let mut at = vec![];
        for_each_index(&shape, |ix| at.push(ix.iter().zip(&s).map(|(i, s)| i * s).sum()));
        Ok(vec![pick(x[0], shape, at)])
    }
    fn work(&self, _: &[&Type], outs: &[Type]) -> Work {
        Work::movement(&[&outs[0]], outs)
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, rank) = (g.one_of(DType::ALL), g.int(1, 4) as usize);
        let shape = g.shape(rank);
        let axis = g.int(0, rank as i64 - 1) as u8;
        (Prefix { axis, extent: "n".into() }, vec![g.ty(dtype, &shape), Type::scalar(DType::I64)])
    }
}
