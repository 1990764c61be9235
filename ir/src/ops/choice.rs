//! `choice`: alternatives at a site.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// One of several expressions of one type, by the plan's word for the site. Two programs with choices are equal when they are equal under every plan. The first
    /// alternative is the exact one; without a plan it is meant.
    pub struct Choice = "choice" {
        operands(alternative: Any(many)),
        results(y),
        attrs {
            /// Name of the site.
            site: String,
            /// Names of the alternatives.
            names: Vec<String>,
        },
    }
}

impl Meaning for Choice {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        if self.names.len() != t.len() {
            return Err(mismatch("T0370", format!("{} names for {} alternatives", self.names.len(), t.len())));
        }
        if let Some(i) = t.iter().position(|x| *x != t[0]) {
            return Err(mismatch(
                "T0371",
                format!("alternative {} is {}, {} is {}", self.names[i], t[i], self.names[0], t[0]),
            ));
        }
        Ok(vec![t[0].clone()])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        Ok(vec![x[0].clone()])
    }
    fn work(&self, _: &[&Type], _: &[Type]) -> Work {
        Work { madds: 0.into(), bytes: 0.into() }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, rank, n) = (g.one_of(DType::ALL), g.int(0, 3) as usize, g.int(1, 3) as usize);
        let shape = g.shape(rank);
        let names = ["exact", "int8", "r64"][..n].iter().map(|s| s.to_string()).collect();
        (Choice { site: "layer0.fc1".into(), names }, vec![g.ty(dtype, &shape); n])
    }
}
