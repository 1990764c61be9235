//! Normalisation over trailing axes.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::Type;

op! {
    /// `(x - mean) / sqrt(variance + eps) * scale + bias` over the axes from `axis` on (Ba et al., 2016; ONNX `LayerNormalization`).
    pub struct LayerNorm = "layer_norm" {
        operands(x: Float, scale: Float(opt), bias: Float(opt)),
        results(y),
        attrs {
            /// First normalised axis.
            axis: u8,
            /// Added to the variance.
            eps: Real = Real(1e-5),
        },
    }
}

op! {
    /// `x / sqrt(mean(x²) + eps) * scale` over the axes from `axis` on (Zhang and Sennrich, 2019).
    pub struct RmsNorm = "rms_norm" {
        operands(x: Float, scale: Float(opt)),
        results(y),
        attrs {
            /// First normalised axis.
            axis: u8,
            /// Added to the mean square.
            eps: Real = Real(1e-5),
        },
    }
}

use super::Real;

fn infer_norm(t: &[&Type], axis: u8) -> Result<Vec<Type>> {
    same_dtype(t)?;
    check_axis(axis.into(), t[0].rank())?;
    for p in &t[1..] {
        if broadcast(&[&t[0].shape, &p.shape])? != t[0].shape || p.rank() > t[0].rank() - axis as usize {
            let message = format!(
                "a parameter of shape {} does not fit the normalised axes of {}",
                show(&p.shape),
                show(&t[0].shape)
            );
            return Err(mismatch("T0220", message));
        }
    }
    Ok(vec![t[0].clone()])
}

fn eval_norm(x: &[&Tensor], axis: u8, eps: f64, centre: bool) -> Tensor {
    let (v, shape) = (x[0].to_f64(), x[0].shape());
    let n: usize = shape[axis as usize..].iter().product();
    let param = |i: usize| x.get(i).map(|p| (p.to_f64(), broadcast_positions(p.shape(), &shape[axis as usize..])));
    let (scale, bias) = (param(1), param(2));
    let mut y = vec![0.0; v.len()];
    for (r, row) in v.chunks(n.max(1)).enumerate() {
        let mean = if centre { row.iter().sum::<f64>() / n as f64 } else { 0.0 };
        let variance = row.iter().map(|a| (a - mean) * (a - mean)).sum::<f64>() / n as f64;
        for (i, a) in row.iter().enumerate() {
            let s = scale.as_ref().map_or(1.0, |(p, at)| p[at[i]]);
            let b = bias.as_ref().map_or(0.0, |(p, at)| p[at[i]]);
            y[r * n + i] = (a - mean) / (variance + eps).sqrt() * s + b;
        }
    }
    Tensor::from_f64(x[0].dtype(), shape, &y)
}

fn sample_norm(g: &mut Gen, params: i64) -> (u8, Vec<Type>) {
    let (dtype, rank) = (g.float(), g.int(1, 3) as usize);
    let shape = g.shape(rank);
    let axis = g.int(0, rank as i64 - 1) as usize;
    let mut t = vec![g.ty(dtype, &shape)];
    for _ in 0..g.int(0, params) {
        t.push(g.ty(dtype, &shape[axis..]));
    }
    (axis as u8, t)
}

impl Meaning for LayerNorm {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        infer_norm(t, self.axis)
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        Ok(vec![eval_norm(x, self.axis, self.eps.0, true)])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work { madds: ins[0].elements() * 4.into(), bytes: Work::traffic(ins, outs) }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (axis, t) = sample_norm(g, 2);
        (LayerNorm { axis, eps: Real(g.one_of(&[1e-5, 1e-3])) }, t)
    }
}

impl Meaning for RmsNorm {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        infer_norm(t, self.axis)
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        Ok(vec![eval_norm(x, self.axis, self.eps.0, false)])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work { madds: ins[0].elements() * 3.into(), bytes: Work::traffic(ins, outs) }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (axis, t) = sample_norm(g, 1);
        (RmsNorm { axis, eps: Real(g.one_of(&[1e-5, 1e-3])) }, t)
    }
}
