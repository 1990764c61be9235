//! `decode.affine`: floats from integer codes.

use super::declare::{Meaning, Sample};
use super::sharing::Sharing;
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// `(q - zero) * scale`. With `group` 0, `scale` and `zero` broadcast to `q`; otherwise `group` neighbours along `axis` share one: the scale has `q`'s extents but for
    /// `ceil(extent / group)` along `axis` (ONNX `DequantizeLinear` with `block_size`). The result has the scale's element type.
    pub struct DecodeAffine = "decode.affine" {
        operands(q: Code, scale: Float, zero: Code(opt)),
        results(w),
        attrs {
            /// The axis along which elements share a scale.
            axis: u8 = 0,
            /// How many share it.
            group: u32 = 0,
        },
    }
}

impl DecodeAffine {
    /// How codes share scales and zero points.
    pub fn sharing(&self) -> Sharing {
        Sharing { axis: self.axis.into(), group: self.group as usize }
    }
}

impl Meaning for DecodeAffine {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        for (p, name) in t[1..].iter().zip(["scale", "zero"]) {
            self.sharing().check(t[0], p, name)?;
        }
        Ok(vec![t[0].with_dtype(t[1].dtype)])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let shape = x[0].shape();
        let position = |t: &Tensor| self.sharing().positions(shape, t.shape());
        let scale_at = position(x[1]);
        let zero = x.get(2).map(|z| (z, position(z)));
        let one = |i: usize| {
            (x[0].get_f64(i) - zero.as_ref().map_or(0.0, |(z, at)| z.get_f64(at[i]))) * x[1].get_f64(scale_at[i])
        };
        Ok(vec![Tensor::from_f64(x[1].dtype(), shape, &(0..x[0].len()).map(one).collect::<Vec<_>>())])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let q =
            g.one_of(&[DType::I8, DType::U8, DType::I4, DType::U4, DType::I2, DType::U3, DType::F8E4M3, DType::F4E2M1]);
        let rank = g.int(1, 3) as usize;
        let shape = g.shape(rank);
        let (sharing, s) = Sharing::sample(g, &shape);
        let mut t = vec![g.ty(q, &shape), g.ty(DType::F32, &s)];
        if g.flip() {
            t.push(g.ty(q, &s));
        }
        (DecodeAffine { axis: sharing.axis as u8, group: sharing.group as u32 }, t)
    }
}
