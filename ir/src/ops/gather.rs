//! `gather`: elements of an axis by index.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// Replaces an axis by the indices' axes: rows of a table by number. A negative index counts from the end; what then is outside is clamped to the axis.
    pub struct Gather = "gather" {
        operands(x: Any, indices: Int),
        results(y),
        attrs {
            /// The axis.
            axis: u8 = 0,
        },
    }
}

impl Meaning for Gather {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        let axis = self.axis as usize;
        check_axis(axis, t[0].rank())?;
        if t[0].shape[axis] == Dim::Const(0) && t[1].elements() != Dim::Const(0) {
            return Err(mismatch("T0357", format!("axis {axis} of {} has no elements", t[0])));
        }
        Ok(vec![Type::new(t[0].dtype, t[0].shape[..axis].iter().chain(&t[1].shape).chain(&t[0].shape[axis + 1..]))])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let (axis, n) = (self.axis as usize, x[0].shape()[self.axis as usize] as i64);
        let shape: Vec<usize> = [&x[0].shape()[..axis], x[1].shape(), &x[0].shape()[axis + 1..]].concat();
        let inner: usize = x[0].shape()[axis + 1..].iter().product();
        let outer: usize = x[0].shape()[..axis].iter().product();
        if n == 0 && !x[1].is_empty() {
            return Err(mismatch("T0357", format!("axis {axis} of {} has no elements", x[0].ty())));
        }
        let mut at = vec![];
        for o in 0..outer {
            for i in x[1].to_i64() {
                let i = if i < 0 { i + n } else { i }.clamp(0, n - 1) as usize;
                at.extend((0..inner).map(|j| (o * n as usize + i) * inner + j));
            }
        }
        Ok(vec![pick(x[0], shape, at)])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work { bytes: Work::traffic(&[&outs[0], ins[1]], outs), ..Work::movement(ins, outs) }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, rank, ranki) = (g.num(), g.int(1, 3) as usize, g.int(0, 2) as usize);
        let (shape, indices) = (g.shape(rank), g.shape(ranki));
        let it = g.one_of(&[DType::I64, DType::I32, DType::U8]);
        (Gather { axis: g.int(0, rank as i64 - 1) as u8 }, vec![g.ty(dtype, &shape), g.ty(it, &indices)])
    }
}
