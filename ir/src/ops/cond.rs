//! `if`: one of two regions.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// Runs the first region where the condition holds, else the second; regions have no parameters, see the values around them, and end in the results.
    pub struct If = "if" {
        operands(cond: Bool),
        results(y),
        attrs {
            /// Types of the results.
            results: Vec<Type>,
        },
    }
}

impl Meaning for If {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        if t[0].rank() != 0 {
            return Err(mismatch("T0374", format!("the condition is {}, expected a scalar", t[0])));
        }
        Ok(self.results.clone())
    }
    fn eval(&self, _: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        Err(mismatch("T0375", "regions are run by the interpreter").failure(crate::diag::Failure::Internal))
    }
    fn work(&self, _: &[&Type], _: &[Type]) -> Work {
        Work { madds: 0.into(), bytes: 0.into() }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let shape = g.shape(2);
        let ty = g.ty(DType::F32, &shape);
        (If { results: vec![ty] }, vec![Type::scalar(DType::Bool)])
    }
}
