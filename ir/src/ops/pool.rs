//! Windows reduced to one element.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

crate::attr_enum! {
    /// What a window becomes.
    pub enum PoolKind {
        /// largest element inside the image
        Max = "pool.max",
        /// mean
        Avg = "pool.avg",
    }
}

op! {
    /// Reduces windows over the spatial axes of `[N, C, spatial…]`, or `[N, spatial…, C]` with `channels_last`.
    pub struct Pool by PoolKind {
        operands(x: Num),
        results(y),
        attrs {
            /// Window extents.
            kernel: Vec<i64>,
            /// Steps.
            strides: Vec<i64>,
            /// Padding before each spatial axis, then after each.
            pads: Vec<i64>,
            /// Distances of window elements.
            dilations: Vec<i64>,
            /// A mean divides by the whole window, padding included.
            count_pad: bool = false,
            /// The channel axis is the last.
            channels_last: bool = false,
        },
    }
}

use super::conv::{Conv, check_window, window_extent};

impl Meaning for Pool {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        let x = t[0];
        if x.rank() < 3 || self.kernel.len() != x.rank() - 2 {
            return Err(mismatch(
                "T0330",
                format!("a window of {} axes over a tensor of rank {}", self.kernel.len(), x.rank()),
            ));
        }
        let spatial = x.rank() - 2;
        check_window(spatial, &self.strides, &self.pads, &self.dilations)?;
        let sa = Conv::axes(self.channels_last, x.rank()).2;
        let mut shape = x.shape.clone();
        for i in 0..spatial {
            let pads = self.pads[i] + self.pads[spatial + i];
            let d = window_extent(&x.shape[sa + i], self.kernel[i], self.strides[i], pads, self.dilations[i]);
            if self.kernel[i] < 1 || d.as_const().is_some_and(|d| d < 0) {
                return Err(mismatch(
                    "T0325",
                    format!("a window of {} does not fit extent {} with pads {pads}", self.kernel[i], x.shape[sa + i]),
                ));
            }
            shape[sa + i] = d;
        }
        Ok(vec![Type { dtype: x.dtype, shape }])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let x = x[0];
        let shape = self.infer(&[&x.ty()])?.remove(0).static_shape().expect("static operand");
        let (_, ca, sa) = Conv::axes(self.channels_last, shape.len());
        let s = strides(x.shape());
        let taps: Vec<usize> = self.kernel.iter().map(|&k| k as usize).collect();
        let lowest = x.dtype().int_range().map_or(f64::NEG_INFINITY, |r| r.0 as f64);
        let mut y = Vec::with_capacity(shape.iter().product());
        for_each_index(&shape, |ix| {
            let (mut sum, mut max, mut count) = (0.0, lowest, 0);
            for_each_index(&taps, |k| {
                let mut at = ix[0] * s[0] + ix[ca] * s[ca];
                for i in 0..k.len() {
                    let p = ix[sa + i] as i64 * self.strides[i] - self.pads[i] + k[i] as i64 * self.dilations[i];
                    if p < 0 || p >= x.shape()[sa + i] as i64 {
                        return;
                    }
                    at += p as usize * s[sa + i];
                }
                let v = x.get_f64(at);
                sum += v;
                max = if v.is_nan() { v } else { f64::max(max, v) };
                count += 1;
            });
            let divisor = if self.count_pad { taps.iter().product() } else { count };
            y.push(if self.kind == PoolKind::Max { max } else { sum / divisor as f64 });
        });
        Ok(vec![Tensor::from_f64(x.dtype(), shape, &y)])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work { madds: outs[0].elements() * self.kernel.iter().product::<i64>().into(), bytes: Work::traffic(ins, outs) }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (conv, t) = Conv::sample(g);
        let spatial = conv.strides.len();
        let kernel: Vec<i64> = (0..spatial).map(|_| g.int(2, 3)).collect();
        let pads = conv.pads.iter().map(|&p| p.min(1)).collect();
        let (kind, strides, dilations) = (g.one_of(PoolKind::ALL), conv.strides, vec![1; spatial]);
        let op =
            Pool { kind, kernel, strides, pads, dilations, count_pad: g.flip(), channels_last: conv.channels_last };
        (op, vec![t[0].with_dtype(DType::F32)])
    }
}
