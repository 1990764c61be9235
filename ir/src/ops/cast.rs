//! `cast`: another element type.

use super::declare::{Meaning, Sample};
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// Converts each element. Floats round to nearest even; floats to integers truncate toward zero and saturate (NaN to 0); integers wrap; anything but zero
    /// becomes `true`.
    pub struct Cast = "cast" {
        operands(x: Any),
        results(y),
        attrs {
            /// The new element type.
            to: DType,
        },
    }
}

impl Meaning for Cast {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        Ok(vec![t[0].with_dtype(self.to)])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let x = x[0];
        Ok(vec![if x.dtype().is_float() || (self.to.is_float() && x.dtype() == DType::U64) {
            Tensor::from_f64(self.to, x.shape(), &x.to_f64())
        } else {
            Tensor::from_i64(self.to, x.shape(), &x.to_i64())
        }])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (from, to, rank) = (g.one_of(DType::ALL), g.one_of(DType::ALL), g.int(0, 3) as usize);
        let shape = g.shape(rank);
        (Cast { to }, vec![g.ty(from, &shape)])
    }
}
