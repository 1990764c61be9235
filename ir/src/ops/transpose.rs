//! `transpose`: another order of axes.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// Axis `i` of the result is axis `perm[i]` of the operand.
    pub struct Transpose = "transpose" {
        operands(x: Any),
        results(y),
        attrs {
            /// A permutation of the axes.
            perm: Vec<u8>,
        },
    }
}

impl Meaning for Transpose {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..t[0].rank() as u8) {
            return Err(mismatch("T0352", format!("{:?} is not a permutation of {} axes", self.perm, t[0].rank())));
        }
        Ok(vec![Type::new(t[0].dtype, self.perm.iter().map(|&p| &t[0].shape[p as usize]))])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let s = strides(x[0].shape());
        let shape: Vec<usize> = self.perm.iter().map(|&p| x[0].shape()[p as usize]).collect();
        let mut at = Vec::with_capacity(x[0].len());
        for_each_index(&shape, |ix| at.push(ix.iter().zip(&self.perm).map(|(i, &p)| i * s[p as usize]).sum()));
        Ok(vec![pick(x[0], shape, at)])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work::movement(ins, outs)
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, rank) = (g.one_of(DType::ALL), g.int(0, 4) as usize);
        let shape = g.shape(rank);
        (Transpose { perm: g.permutation(rank) }, vec![g.ty(dtype, &shape)])
    }
}
