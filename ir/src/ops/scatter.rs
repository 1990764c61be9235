//! `scatter`: rows written by number.

use super::binary::BinaryKind;
use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

crate::attr_enum! {
    /// What becomes of a row and its update.
    pub enum ScatterKind {
        /// the update
        Set = "scatter",
        /// their sum
        Add = "scatter.add",
        /// their product
        Mul = "scatter.mul",
        /// the larger
        Max = "scatter.max",
        /// the smaller
        Min = "scatter.min",
    }
}

impl ScatterKind {
    /// How a row and its update are combined; `None` where the update replaces the row.
    pub fn combine(self) -> Option<BinaryKind> {
        match self {
            ScatterKind::Set => None,
            ScatterKind::Add => Some(BinaryKind::Add),
            ScatterKind::Mul => Some(BinaryKind::Mul),
            ScatterKind::Max => Some(BinaryKind::Max),
            ScatterKind::Min => Some(BinaryKind::Min),
        }
    }
}

op! {
    /// `x: [N, d…]` with rows `indices: [M]` combined with `updates: [M, d…]`, one after the other in order (ONNX `ScatterND`, with positions as numbers of rows). A negative
    /// index counts from the end; what then is outside is clamped to the rows.
    pub struct Scatter by ScatterKind {
        operands(x: Any, indices: Int, updates: Any),
        results(y),
        attrs {},
    }
}

/// The row of `n` (at least one) that an index names.
fn row_of(i: i64, n: i64) -> usize {
    if i < 0 { i + n } else { i }.clamp(0, n - 1) as usize
}

impl Meaning for Scatter {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        let (x, at, u) = (t[0], t[1], t[2]);
        same_dtype(&[x, u])?;
        if x.rank() == 0 || at.rank() != 1 || u.rank() != x.rank() {
            return Err(mismatch("T0372", format!("rows of {x}, indices {at}, updates {u}")));
        }
        if u.shape[0] != at.shape[0] || u.shape[1..] != x.shape[1..] {
            return Err(mismatch("T0373", format!("updates are {u}, expected one row of {x} for each of {at}")));
        }
        if self.kind.combine().is_some_and(|k| !k.accepts(x.dtype)) {
            return Err(mismatch("T0210", format!("not defined for {}", x.dtype)));
        }
        Ok(vec![x.clone()])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let (n, shape) = (x[0].shape()[0] as i64, x[0].shape().to_vec());
        let inner: usize = shape[1..].iter().product();
        let Some(combine) = self.kind.combine() else {
            let mut from: Vec<(&Tensor, usize)> = (0..x[0].len()).map(|i| (x[0], i)).collect();
            for (row, i) in x[1].to_i64().into_iter().enumerate().filter(|_| n > 0) {
                let i = row_of(i, n);
                (0..inner).for_each(|k| from[i * inner + k] = (x[2], row * inner + k));
            }
            return Ok(vec![Tensor::collected(x[0].dtype(), shape, from.into_iter())]);
        };
        let int = x[0].dtype().is_int();
        let (mut ints, mut floats) = if int { (x[0].to_i64(), vec![]) } else { (vec![], x[0].to_f64()) };
        for (row, i) in x[1].to_i64().into_iter().enumerate().filter(|_| n > 0) {
            let i = row_of(i, n);
            for k in 0..inner {
                let (to, from) = (i * inner + k, row * inner + k);
                if int {
                    let u = x[2].get_i64(from);
                    let unsigned = x[0].dtype() == DType::U64;
                    let y = combine.apply_int(ints[to], u, unsigned);
                    // Sums and products wrap in the element type.
                    ints[to] = Tensor::from_i64(x[0].dtype(), [], &[y]).get_i64(0);
                } else {
                    let u = x[2].get_f64(from);
                    let y = combine.apply(floats[to], u);
                    floats[to] = Tensor::scalar(x[0].dtype(), y).get_f64(0);
                }
            }
        }
        Ok(vec![if int {
            Tensor::from_i64(x[0].dtype(), shape, &ints)
        } else {
            Tensor::from_f64(x[0].dtype(), shape, &floats)
        }])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work::movement(ins, outs)
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, rank, m) = (g.num(), g.int(1, 3) as usize, g.int(1, 4) as usize);
        let shape = g.shape(rank);
        let mut updates = shape.clone();
        updates[0] = m;
        let it = g.one_of(&[DType::I64, DType::I32]);
        let kind = g.one_of(ScatterKind::ALL);
        (Scatter { kind }, vec![g.ty(dtype, &shape), g.ty(it, &[m]), g.ty(dtype, &updates)])
    }
}
