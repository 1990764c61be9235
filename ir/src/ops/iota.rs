//! `iota`: 0, 1, 2, …

use super::declare::{Meaning, Sample};
use super::shape::*;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// The numbers from 0 to `len - 1`.
    pub struct Iota = "iota" {
        operands(),
        results(y),
        attrs {
            /// How many.
            len: Dim,
            /// Element type.
            dtype: DType = DType::I64,
        },
    }
}

impl Meaning for Iota {
    fn infer(&self, _: &[&Type]) -> Result<Vec<Type>> {
        if !super::Class::Num.accepts(self.dtype) || self.len.as_const().is_some_and(|n| n < 0) {
            return Err(mismatch("T0358", format!("{} elements of {}", self.len, self.dtype)));
        }
        Ok(vec![Type::new(self.dtype, [&self.len])])
    }
    fn eval(&self, _: &[&Tensor], env: &Bindings) -> Result<Vec<Tensor>> {
        let n = values(std::slice::from_ref(&self.len), env)?[0];
        Ok(vec![Tensor::from_i64(self.dtype, [n], &(0..n as i64).collect::<Vec<_>>())])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        (Iota { len: g.int(0, 9).into(), dtype: g.num() }, vec![])
    }
}
