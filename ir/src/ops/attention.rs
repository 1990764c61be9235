//! `attention`: scaled dot-product attention.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::Type;

op! {
    /// `softmax(q kᵀ * scale + mask) v` (Vaswani et al., 2017). `q` is `[B, H, S, D]`, `k` `[B, G, T, D]`, `v` `[B, G, T, E]` with `G` dividing `H` (grouped-query
    /// attention, Ainslie et al., 2023: head `h` reads group `h / (H/G)`); the mask broadcasts to `[B, H, S, T]` and is added. With `causal`, position `s` sees
    /// `t <= s + T - S`. A position that sees nothing gives NaN as softmax does.
    pub struct Attention = "attention" {
        operands(q: Float, k: Float, v: Float, mask: Float(opt)),
        results(y),
        attrs {
            /// Factor on the scores.
            scale: Real,
            /// Later positions are hidden.
            causal: bool = false,
        },
    }
}

use super::Real;

impl Meaning for Attention {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        same_dtype(t)?;
        let (q, k, v) = (t[0], t[1], t[2]);
        if q.rank() != 4 || k.rank() != 4 || v.rank() != 4 {
            return Err(mismatch("T0340", "q, k and v must have four axes"));
        }
        let whole = match (q.shape[1].as_const(), k.shape[1].as_const()) {
            (Some(h), Some(g)) => g > 0 && h % g == 0,
            _ => q.shape[1] == k.shape[1],
        };
        if !whole || q.shape[0] != k.shape[0] || q.shape[3] != k.shape[3] || k.shape[..3] != v.shape[..3] {
            return Err(mismatch("T0341", format!("{q}, {k} and {v} do not fit")));
        }
        let scores = [q.shape[0].clone(), q.shape[1].clone(), q.shape[2].clone(), k.shape[2].clone()];
        if let Some(m) = t.get(3)
            && broadcast(&[&m.shape, &scores])?[..] != scores
        {
            return Err(mismatch("T0342", format!("mask {m} does not broadcast to {}", show(&scores))));
        }
        Ok(vec![Type::new(q.dtype, [&q.shape[0], &q.shape[1], &q.shape[2], &v.shape[3]])])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let (qs, ks, e) = (x[0].shape(), x[1].shape(), x[2].shape()[3]);
        let (b, h, s, d, g, t) = (qs[0], qs[1], qs[2], qs[3], ks[1], ks[2]);
        let (q, k, v) = (x[0].to_f64(), x[1].to_f64(), x[2].to_f64());
        let mask = x.get(3).map(|m| (m.to_f64(), broadcast_positions(m.shape(), &[b, h, s, t])));
        let mut y = vec![0.0; b * h * s * e];
        for (ib, ih, is) in (0..b).flat_map(|i| (0..h).flat_map(move |j| (0..s).map(move |l| (i, j, l)))) {
            let kv = (ib * g + ih / (h / g)) * t;
            let row = (ib * h + ih) * s + is;
            let score = |it: usize| {
                if self.causal && it + s > is + t {
                    return f64::NEG_INFINITY;
                }
                let dot: f64 = (0..d).map(|c| q[row * d + c] * k[(kv + it) * d + c]).sum();
                dot * self.scale.0 + mask.as_ref().map_or(0.0, |(m, at)| m[at[row * t + it]])
            };
            let scores: Vec<f64> = (0..t).map(score).collect();
            let max = scores.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
            let weights: Vec<f64> = scores.iter().map(|a| (a - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for c in 0..e {
                y[row * e + c] = (0..t).map(|it| weights[it] / sum * v[(kv + it) * e + c]).sum();
            }
        }
        Ok(vec![Tensor::from_f64(x[0].dtype(), [b, h, s, e], &y)])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        let scores =
            ins[0].shape[0].clone() * ins[0].shape[1].clone() * ins[0].shape[2].clone() * ins[1].shape[2].clone();
        Work { madds: scores * (ins[0].shape[3].clone() + ins[2].shape[3].clone()), bytes: Work::traffic(ins, outs) }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (b, groups, per) = (g.int(1, 2) as usize, g.int(1, 2) as usize, g.int(1, 2) as usize);
        let (s, d, e, h) = (g.int(1, 4) as usize, g.int(1, 5) as usize, g.int(1, 5) as usize, groups * per);
        let t = s + g.int(0, 3) as usize;
        let dtype = g.float();
        let mut types =
            vec![g.ty(dtype, &[b, h, s, d]), g.ty(dtype, &[b, groups, t, d]), g.ty(dtype, &[b, groups, t, e])];
        if g.flip() {
            let m = g.broadcastable(&[b, h, s, t]);
            types.push(g.ty(dtype, &m));
        }
        (Attention { scale: Real(0.5), causal: g.flip() }, types)
    }
}
