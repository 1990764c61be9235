//! The same elements under another shape, and repetition along axes.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// The same elements in row-major order under another shape.
    pub struct Reshape = "reshape" {
        operands(x: Any),
        results(y),
        attrs {
            /// The new extents.
            shape: Vec<Dim>,
        },
    }
}

op! {
    /// Repeats axes of extent 1 and adds leading axes to reach a shape (ONNX `Expand` to a shape that contains the operand's).
    pub struct Broadcast = "broadcast" {
        operands(x: Any),
        results(y),
        attrs {
            /// The new extents.
            shape: Vec<Dim>,
        },
    }
}

impl Meaning for Reshape {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        let out = Type::new(t[0].dtype, &self.shape);
        if out.elements() != t[0].elements() {
            return Err(mismatch("T0350", format!("{} elements cannot become {}", t[0].elements(), show(&self.shape)))
                .with_note(format!("the operand is {}", t[0])));
        }
        Ok(vec![out])
    }
    fn eval(&self, x: &[&Tensor], env: &Bindings) -> Result<Vec<Tensor>> {
        let shape = values(&self.shape, env)?;
        let error = || mismatch("T0350", format!("{} elements cannot become {shape:?}", x[0].len()));
        Ok(vec![x[0].reshaped(shape.clone()).ok_or_else(error)?])
    }
    fn work(&self, _: &[&Type], _: &[Type]) -> Work {
        Work { madds: 0.into(), bytes: 0.into() }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, rank) = (g.one_of(DType::ALL), g.int(0, 4) as usize);
        let mut shape = g.shape(rank);
        let t = g.ty(dtype, &shape);
        if shape.len() > 1 && g.flip() {
            let last = shape.pop().unwrap_or(1);
            *shape.last_mut().expect("two axes") *= last;
        }
        shape.insert(g.int(0, shape.len() as i64) as usize, 1);
        (Reshape { shape: g.dims(&shape) }, vec![t])
    }
}

impl Meaning for Broadcast {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        if broadcast(&[&t[0].shape, &self.shape])?[..] != self.shape {
            return Err(mismatch("T0351", format!("{} does not broadcast to {}", t[0], show(&self.shape))));
        }
        Ok(vec![Type::new(t[0].dtype, &self.shape)])
    }
    fn eval(&self, x: &[&Tensor], env: &Bindings) -> Result<Vec<Tensor>> {
        let shape = values(&self.shape, env)?;
        let at = broadcast_positions(x[0].shape(), &shape);
        Ok(vec![pick(x[0], shape, at)])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work::movement(ins, outs)
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, rank) = (g.one_of(DType::ALL), g.int(0, 4) as usize);
        let shape = g.shape(rank);
        let from = g.broadcastable(&shape);
        (Broadcast { shape: g.dims(&shape) }, vec![g.ty(dtype, &from)])
    }
}
