//! `cast`: another element type.

use super::declare::{Class, Meaning, Sample};
use super::shape::mismatch;
use crate::diag::Result;
use crate::dim::Bindings;
use crate::small::{Rounding, SmallFloat};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// Converts each element (ONNX `Cast`). Floats round to nearest even; floats to integers truncate toward zero and saturate (NaN to 0); integers wrap; anything but
    /// zero becomes `true`. Floats of at most 8 bits saturate.
    pub struct Cast = "cast" {
        operands(x: Plain),
        results(y),
        attrs {
            /// The new element type.
            to: DType,
            /// What is beyond the range of a float of 8 bits becomes infinite, or NaN where nothing is infinite.
            overflow: bool = false,
            /// How `f8e8m0` is rounded.
            round: Rounding = Rounding::Nearest,
        },
    }
}

impl Cast {
    /// A conversion that saturates and rounds to the nearest.
    pub fn to(to: DType) -> Cast {
        Cast { to, overflow: false, round: Rounding::Nearest }
    }
}

impl Meaning for Cast {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        if !Class::Plain.accepts(self.to) {
            return Err(mismatch("T0210", format!("not defined for {}", self.to)));
        }
        Ok(vec![t[0].with_dtype(self.to)])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let x = x[0];
        if x.dtype() == self.to {
            return Ok(vec![x.clone()]);
        }
        if let Some(f) = SmallFloat::of(self.to) {
            let codes = x.to_f64().into_iter().map(|v| f.encode(v, self.overflow, self.round).into());
            return Ok(vec![Tensor::from_bits(self.to, x.shape(), codes)]);
        }
        Ok(vec![if x.dtype().is_float() || (self.to.is_float() && x.dtype() == DType::U64) {
            Tensor::from_f64(self.to, x.shape(), &x.to_f64())
        } else {
            Tensor::from_i64(self.to, x.shape(), &x.to_i64())
        }])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (from, to, rank) = (g.plain(), g.plain(), g.int(0, 3) as usize);
        let shape = g.shape(rank);
        (Cast { to, overflow: g.flip(), round: g.one_of(Rounding::ALL) }, vec![g.ty(from, &shape)])
    }
}
