//! `decode.affine`: floats from integer codes.

use super::declare::{Meaning, Sample};
use super::shape::*;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
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
    fn param_shape(&self, q: &[Dim]) -> Vec<Dim> {
        let mut s = q.to_vec();
        s[self.axis as usize] = s[self.axis as usize].clone().ceil_div(self.group.into());
        s
    }
}

impl Meaning for DecodeAffine {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        let q = t[0];
        if self.group > 0 {
            check_axis(self.axis.into(), q.rank())?;
        }
        for (p, name) in t[1..].iter().zip(["scale", "zero"]) {
            let fits = if self.group == 0 {
                broadcast(&[&q.shape, &p.shape])? == q.shape
            } else {
                p.shape[..] == self.param_shape(&q.shape)[..]
            };
            if !fits {
                return Err(mismatch(
                    "T0364",
                    format!("{name} {p} does not fit codes {q} in groups of {}", self.group),
                ));
            }
        }
        Ok(vec![q.with_dtype(t[1].dtype)])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let shape = x[0].shape();
        let position = |t: &Tensor| {
            if self.group == 0 {
                return broadcast_positions(t.shape(), shape);
            }
            let (s, mut at) = (strides(t.shape()), vec![]);
            for_each_index(shape, |ix| {
                let one =
                    |(a, &i): (usize, &usize)| if a == self.axis as usize { i / self.group as usize } else { i } * s[a];
                at.push(ix.iter().enumerate().map(one).sum());
            });
            at
        };
        let scale_at = position(x[1]);
        let zero = x.get(2).map(|z| (z, position(z)));
        let one = |i: usize| {
            (x[0].get_f64(i) - zero.as_ref().map_or(0.0, |(z, at)| z.get_f64(at[i]))) * x[1].get_f64(scale_at[i])
        };
        Ok(vec![Tensor::from_f64(x[1].dtype(), shape, &(0..x[0].len()).map(one).collect::<Vec<_>>())])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let q = g.one_of(&[DType::I8, DType::U8, DType::I4, DType::U4, DType::I2, DType::F8E4M3]);
        let rank = g.int(1, 3) as usize;
        let shape = g.shape(rank);
        let axis = g.int(0, rank as i64 - 1) as usize;
        let group = g.int(0, 3) as usize;
        let mut s = if group == 0 { g.broadcastable(&shape) } else { shape.clone() };
        if group > 0 {
            s[axis] = s[axis].div_ceil(group);
        }
        let mut t = vec![g.ty(q, &shape), g.ty(DType::F32, &s)];
        if g.flip() {
            t.push(g.ty(q, &s));
        }
        (DecodeAffine { axis: axis as u8, group: group as u32 }, t)
    }
}
