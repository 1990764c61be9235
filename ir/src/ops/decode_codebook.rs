//! `decode.codebook`: floats from numbers of table entries.

use super::declare::{Meaning, Sample};
use super::shape::*;
use super::sharing::Sharing;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, DTypeClass, Type};

op! {
    /// `table[q]`, or `table[q] * scale`. Codes are unsigned integers of at most 8 bits and the table has an entry for each of their values. With `group` 0, `scale` broadcasts to `q`;
    /// otherwise `group` neighbours along `axis` share one, as in `decode.affine`. The result has the table's element type.
    pub struct DecodeCodebook = "decode.codebook" {
        operands(q: Code, table: Float, scale: Float(opt)),
        results(w),
        attrs {
            /// The axis along which elements share a scale.
            axis: u8 = 0,
            /// How many share it.
            group: u32 = 0,
        },
    }
}

impl DecodeCodebook {
    /// How codes share scales.
    pub fn sharing(&self) -> Sharing {
        Sharing { axis: self.axis.into(), group: self.group as usize }
    }
}

impl Meaning for DecodeCodebook {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        let (q, table) = (t[0], t[1]);
        if q.dtype.class() != DTypeClass::UInt || q.dtype.bits() > 8 {
            return Err(mismatch(
                "T0365",
                format!("codes of type {}, expected unsigned ones of at most 8 bits", q.dtype),
            ));
        }
        let entries = 1i64 << q.dtype.bits();
        if table.shape[..] != [Dim::from(entries)] {
            return Err(mismatch("T0366", format!("a table {table} for codes of type {}", q.dtype))
                .with_help(format!("give it {entries} entries along one axis")));
        }
        if let Some(s) = t.get(2) {
            same_dtype(&t[1..])?;
            self.sharing().check(q, s, "scale")?;
        }
        Ok(vec![q.with_dtype(table.dtype)])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let (shape, table) = (x[0].shape(), x[1].to_f64());
        let scale = x.get(2).map(|s| (s, self.sharing().positions(shape, s.shape())));
        let one = |i: usize| table[x[0].get_i64(i) as usize] * scale.as_ref().map_or(1.0, |(s, at)| s.get_f64(at[i]));
        Ok(vec![Tensor::from_f64(x[1].dtype(), shape, &(0..x[0].len()).map(one).collect::<Vec<_>>())])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let q = g.one_of(&[DType::U2, DType::U3, DType::U4, DType::U8]);
        let rank = g.int(1, 3) as usize;
        let shape = g.shape(rank);
        let (sharing, s) = Sharing::sample(g, &shape);
        let mut t = vec![g.ty(q, &shape), g.ty(DType::F32, &[1 << q.bits()])];
        if g.flip() {
            t.push(g.ty(DType::F32, &s));
        }
        (DecodeCodebook { axis: sharing.axis as u8, group: sharing.group as u32 }, t)
    }
}
