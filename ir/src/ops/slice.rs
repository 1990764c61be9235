//! `slice`: a regular part of one axis.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// Elements `start, start + step, …` (`len` of them) along an axis. The last one must exist; `step` may be negative.
    pub struct Slice = "slice" {
        operands(x: Any),
        results(y),
        attrs {
            /// The axis.
            axis: u8,
            /// First position.
            start: Dim = Dim::Const(0),
            /// How many.
            len: Dim,
            /// Distance, not 0.
            step: i64 = 1,
        },
    }
}

impl Slice {
    /// The position of the last element.
    fn last(&self) -> Dim {
        self.start.clone() + (self.len.clone() - 1.into()) * self.step.into()
    }
}

impl Meaning for Slice {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        check_axis(self.axis.into(), t[0].rank())?;
        let extent = &t[0].shape[self.axis as usize];
        let last = self.last();
        let negative = |d: &Dim| d.as_const().is_some_and(|d| d < 0);
        let empty = self.len == Dim::Const(0);
        let outside = |d: &Dim| !empty && (negative(d) || negative(&(extent.clone() - 1.into() - d.clone())));
        if self.step == 0 || negative(&self.len) || outside(&self.start) || outside(&last) {
            let message =
                format!("{} elements from {} by {} leave the axis of extent {extent}", self.len, self.start, self.step);
            return Err(mismatch("T0353", message));
        }
        let mut out = t[0].clone();
        out.shape[self.axis as usize] = self.len.clone();
        Ok(vec![out])
    }
    fn eval(&self, x: &[&Tensor], env: &Bindings) -> Result<Vec<Tensor>> {
        let (axis, start) = (self.axis as usize, value(&self.start, env)?);
        let mut shape = x[0].shape().to_vec();
        let extent = shape[axis] as i64;
        shape[axis] = values(std::slice::from_ref(&self.len), env)?[0];
        let last = start + (shape[axis] as i64 - 1) * self.step;
        if shape[axis] > 0 && (start.min(last) < 0 || start.max(last) >= extent) {
            return Err(mismatch("T0353", format!("elements {start} to {last} leave the axis of extent {extent}")));
        }
        let s = strides(x[0].shape());
        let mut at = Vec::new();
        for_each_index(&shape, |ix| {
            let one = |(a, &i): (usize, &usize)| {
                if a == axis { (start + i as i64 * self.step) as usize * s[a] } else { i * s[a] }
            };
            at.push(ix.iter().enumerate().map(one).sum());
        });
        Ok(vec![pick(x[0], shape, at)])
    }
    fn needs(&self, ins: &[&Type]) -> Vec<Dim> {
        let (first, last) =
            if self.step > 0 { (self.start.clone(), self.last()) } else { (self.last(), self.start.clone()) };
        vec![first, ins[0].shape[self.axis as usize].clone() - 1.into() - last]
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work { bytes: Work::traffic(&[&outs[0]], outs), ..Work::movement(ins, outs) }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, rank) = (g.one_of(DType::ALL), g.int(1, 4) as usize);
        let shape = g.shape(rank);
        let axis = g.int(0, rank as i64 - 1);
        let extent = shape[axis as usize] as i64;
        let (start, step) = (g.int(0, extent - 1), g.one_of(&[1, 2, -1]));
        let len = g.int(0, if step > 0 { (extent - 1 - start) / step + 1 } else { start + 1 });
        (Slice { axis: axis as u8, start: start.into(), len: len.into(), step }, vec![g.ty(dtype, &shape)])
    }
}
