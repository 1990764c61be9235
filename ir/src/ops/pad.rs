//! `pad`: elements around a tensor.

use super::declare::{Class, Meaning, Sample, Work};
use super::shape::*;
use crate::diag::{Diagnostic, Result};
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::Type;

crate::attr_enum! {
    /// What padding holds.
    pub enum PadMode {
        /// a value
        Constant = "constant",
        /// the mirrored tensor, the edge not repeated
        Reflect = "reflect",
        /// the nearest edge element
        Edge = "edge",
        /// the tensor again
        Wrap = "wrap",
    }
}

op! {
    /// Adds `lo` elements before and `hi` after each axis.
    pub struct Pad = "pad" {
        operands(x: Any),
        results(y),
        attrs {
            /// Elements before each axis, not negative.
            lo: Vec<i64>,
            /// Elements after each axis, not negative.
            hi: Vec<i64>,
            /// What they hold.
            mode: PadMode = PadMode::Constant,
            /// The constant.
            value: Real = Real(0.0),
        },
    }
}

use super::Real;

impl PadMode {
    /// The source position of position `i` (before the tensor if negative); `None` for the constant.
    pub fn source(self, i: i64, extent: i64) -> Option<i64> {
        match self {
            PadMode::Constant => (0..extent).contains(&i).then_some(i),
            PadMode::Edge => Some(i.clamp(0, extent - 1)),
            PadMode::Wrap => Some(i.rem_euclid(extent)),
            PadMode::Reflect if extent == 1 => Some(0),
            PadMode::Reflect => {
                let p = i.rem_euclid(2 * (extent - 1));
                Some(p.min(2 * (extent - 1) - p))
            }
        }
    }
}

fn empty(axis: usize) -> Diagnostic {
    mismatch("T0356", format!("axis {axis} is empty and cannot be padded from its elements"))
}

impl Meaning for Pad {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        let rank = t[0].rank();
        if self.lo.len() != rank
            || self.hi.len() != rank
            || self.lo.iter().chain(&self.hi).any(|p| !(0..=1 << 31).contains(p))
        {
            return Err(mismatch("T0355", format!("pads {:?} and {:?} of a tensor of rank {rank}", self.lo, self.hi)));
        }
        let mut out = t[0].clone();
        if self.value.0 != 0.0 && !Class::Plain.accepts(t[0].dtype) {
            return Err(mismatch("T0381", "strings are padded with the empty string only, complex numbers with 0"));
        }
        for (i, d) in out.shape.iter_mut().enumerate() {
            if self.mode != PadMode::Constant && self.lo[i] + self.hi[i] > 0 && *d == Dim::Const(0) {
                return Err(empty(i));
            }
            *d = d.clone() + (self.lo[i] + self.hi[i]).into();
        }
        Ok(vec![out])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let x = x[0];
        let shape: Vec<usize> =
            x.shape().iter().enumerate().map(|(i, d)| d + (self.lo[i] + self.hi[i]) as usize).collect();
        if self.mode != PadMode::Constant
            && !shape.contains(&0)
            && let Some(axis) = x.shape().iter().position(|&n| n == 0)
        {
            return Err(empty(axis));
        }
        let s = strides(x.shape());
        let (value, mut from) = (Tensor::scalar(x.dtype(), self.value.0), vec![]);
        for_each_index(&shape, |ix| {
            let at = ix.iter().enumerate().try_fold(0, |at, (a, &i)| {
                Some(at + self.mode.source(i as i64 - self.lo[a], x.shape()[a] as i64)? as usize * s[a])
            });
            from.push(at.map_or((&value, 0), |p| (x, p)));
        });
        Ok(vec![Tensor::collected(x.dtype(), shape, from.into_iter())])
    }
    fn needs(&self, ins: &[&Type]) -> Vec<Dim> {
        let padded = |axis: &usize| self.mode != PadMode::Constant && self.lo[*axis] + self.hi[*axis] > 0;
        (0..ins[0].rank()).filter(padded).map(|axis| ins[0].shape[axis].clone() - 1.into()).collect()
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work::movement(ins, outs)
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, rank) = (g.num(), g.int(1, 3) as usize);
        let shape = g.shape(rank);
        let list = |g: &mut Gen| (0..rank).map(|_| g.int(0, 3)).collect();
        (Pad { lo: list(g), hi: list(g), mode: g.one_of(PadMode::ALL), value: Real(1.0) }, vec![g.ty(dtype, &shape)])
    }
}
