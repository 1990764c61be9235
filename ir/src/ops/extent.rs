//! `extent`: an extent as a number.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// The value of an extent expression, as an `i64` scalar.
    pub struct Extent = "extent" {
        operands(),
        results(y),
        attrs {
            /// The expression.
            of: Dim,
        },
    }
}

impl Meaning for Extent {
    fn infer(&self, _: &[&Type]) -> Result<Vec<Type>> {
        Ok(vec![Type::scalar(DType::I64)])
    }
    fn eval(&self, _: &[&Tensor], env: &Bindings) -> Result<Vec<Tensor>> {
        Ok(vec![Tensor::from_i64(DType::I64, [], &[value(&self.of, env)?])])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work::movement(ins, outs)
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        (Extent { of: g.int(0, 9).into() }, vec![])
    }
}
