//! `decode.sparse`: a tensor from the elements that are not left out.

use super::declare::{Meaning, Sample};
use super::shape::*;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// The tensor of `shape` that has the next of `values` wherever its bit in `mask` is set, in row-major order, and 0 elsewhere.
    ///
    /// A row of the mask, the last axis, has one bit for each run of `run` neighbours in a row of the tensor (the last run may be shorter), the first in the low bit of the
    /// first byte, and ends at a whole byte; its other extents are the tensor's. Values may be codes: `decode.affine` makes floats of the result.
    /// Values left over stand nowhere; where there are too few, 0 does.
    pub struct DecodeSparse = "decode.sparse" {
        operands(values: Plain, mask: Code),
        results(w),
        attrs {
            /// Extents of the result.
            shape: Vec<Dim>,
            /// Neighbours that share a bit.
            run: u32 = 1,
        },
    }
}

impl DecodeSparse {
    /// Extents of the mask of a tensor of rank 1 or more.
    pub fn mask_shape(shape: &[usize], run: usize) -> Vec<usize> {
        let mut out = shape.to_vec();
        if let Some(last) = out.last_mut() {
            *last = last.div_ceil(run).div_ceil(8);
        }
        out
    }
    /// Values and mask of a tensor that is 0 wherever `keep`, in row-major order, says no. What is kept of a run is kept whole.
    pub fn encode(t: &Tensor, keep: &[bool], run: usize) -> (Tensor, Tensor) {
        let mask_shape = DecodeSparse::mask_shape(t.shape(), run);
        let (cols, bytes) = (t.shape().last().copied().unwrap_or(1), mask_shape.last().copied().unwrap_or(1));
        let mut mask = vec![0u8; mask_shape.iter().product()];
        for (at, _) in keep.iter().enumerate().filter(|(_, k)| **k) {
            let bit = at % cols / run;
            mask[at / cols * bytes + bit / 8] |= 1 << (bit % 8);
        }
        let set = |at: &usize| mask[at / cols * bytes + at % cols / run / 8] >> (at % cols / run % 8) & 1 == 1;
        let kept: Vec<usize> = (0..t.len()).filter(set).collect();
        let values = t.gathered(vec![kept.len()], &kept);
        (values, Tensor::from_blob(DType::U8, mask_shape, mask.into()).expect("a byte for each element"))
    }
}

impl Meaning for DecodeSparse {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        let fail = |message: String| Err(mismatch("T0367", message));
        if self.run == 0 || self.shape.is_empty() {
            return fail("runs have 1 element or more, and the result 1 axis or more".into());
        }
        if t[0].rank() != 1 {
            return fail(format!("values {} have one axis", t[0]));
        }
        let mut mask = self.shape.clone();
        if let Some(last) = mask.last_mut() {
            *last = last.clone().ceil_div(self.run.into()).ceil_div(8);
        }
        let mask = Type::new(DType::U8, mask);
        if *t[1] != mask {
            return fail(format!("a mask {}, expected {mask}", t[1]));
        }
        Ok(vec![Type::new(t[0].dtype, self.shape.clone())])
    }
    fn eval(&self, x: &[&Tensor], env: &Bindings) -> Result<Vec<Tensor>> {
        let shape = values(&self.shape, env)?;
        let (cols, bytes) = (shape[shape.len() - 1], x[1].shape()[shape.len() - 1]);
        let mut dense = vec![0.0; shape.iter().product()];
        let mut next = 0;
        for (i, v) in dense.iter_mut().enumerate() {
            let bit = i % cols / self.run as usize;
            if x[1].get_i64(i / cols * bytes + bit / 8) >> (bit % 8) & 1 == 1 {
                *v = if next < x[0].len() { x[0].get_f64(next) } else { 0.0 };
                next += 1;
            }
        }
        Ok(vec![Tensor::from_f64(x[0].dtype(), shape, &dense)])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let rank = g.int(1, 3) as usize;
        let shape = g.shape(rank);
        let run = g.int(1, 3) as usize;
        let dtype = g.one_of(&[DType::F32, DType::F16, DType::I8, DType::I4]);
        let kept = g.int(0, shape.iter().product::<usize>() as i64) as usize;
        let mask = DecodeSparse::mask_shape(&shape, run);
        (DecodeSparse { shape: g.dims(&shape), run: run as u32 }, vec![g.ty(dtype, &[kept]), g.ty(DType::U8, &mask)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(seed in 1u64..1 << 40, rows in 1usize..6, cols in 1usize..30, run in 1usize..6, half in any::<bool>()) {
            let mut g = Gen::new(seed);
            let keep: Vec<bool> = (0..rows * cols).map(|_| g.int(0, 3) == 0).collect();
            let dense = g.tensor(&Type::new(if half { DType::I4 } else { DType::F32 }, [rows, cols]));
            let whole = |at: usize| {
                let first = at % cols / run * run;
                (first..(first + run).min(cols)).any(|c| keep[at / cols * cols + c])
            };
            let sparse: Vec<f64> = dense.to_f64().iter().enumerate().map(|(at, v)| if whole(at) { *v } else { 0.0 }).collect();
            let (values, mask) = DecodeSparse::encode(&dense, &keep, run);
            let op = DecodeSparse { shape: g.dims(&[rows, cols]), run: run as u32 };
            prop_assert_eq!(op.infer(&[&values.ty(), &mask.ty()]).unwrap()[0].clone(), dense.ty());
            let back = op.eval(&[&values, &mask], &Bindings::new()).unwrap().remove(0);
            prop_assert_eq!(back.to_f64(), sparse);
            prop_assert_eq!(values.len(), (0..rows * cols).filter(|&at| whole(at)).count());
        }
    }
}
