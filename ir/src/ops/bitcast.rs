//! `bitcast`: the same bits as another element type.

use super::declare::{Class, Meaning, Sample};
use super::shape::mismatch;
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// Reads the bits of each element as another type of as many bits (ONNX `BitCast`). Any byte but 0 is `true`.
    pub struct BitCast = "bitcast" {
        operands(x: Plain),
        results(y),
        attrs {
            /// The new element type.
            to: DType,
        },
    }
}

impl Meaning for BitCast {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        if t[0].dtype.bits() != self.to.bits() || !Class::Plain.accepts(self.to) {
            let (x, to) = (t[0].dtype, self.to);
            return Err(mismatch("T0368", format!("{x} has {} bits, {to} has {}", x.bits(), to.bits())));
        }
        Ok(vec![t[0].with_dtype(self.to)])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        Ok(vec![Tensor::from_bits(self.to, x[0].shape(), (0..x[0].len()).map(|i| x[0].get_bits(i)))])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (from, rank) = (g.plain(), g.int(0, 3) as usize);
        let like: Vec<DType> =
            DType::ALL.iter().copied().filter(|d| Class::Plain.accepts(*d) && d.bits() == from.bits()).collect();
        let shape = g.shape(rank);
        (BitCast { to: g.one_of(&like) }, vec![g.ty(from, &shape)])
    }
}
