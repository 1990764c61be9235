//! `conv`: convolution over any number of spatial axes.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// Cross-correlation, as in ONNX `Conv`, without bias. `x` is `[N, C, spatial…]`, or `[N, spatial…, C]` with `channels_last`; the result is laid out as `x` is.
    /// `w` is always `[O, C/groups, kernel…]`. Types as in `matmul`.
    pub struct Conv = "conv" {
        operands(x: Num, w: Num),
        results(y),
        attrs {
            /// One step for each spatial axis.
            strides: Vec<i64>,
            /// Padding before each spatial axis, then after each.
            pads: Vec<i64>,
            /// Distance of kernel taps for each spatial axis.
            dilations: Vec<i64>,
            /// Channel groups.
            groups: i64 = 1,
            /// The channel axis of `x` and of the result is the last.
            channels_last: bool = false,
            /// Operands of `bf16` or `f16` give `f32`.
            wide: bool = false,
        },
    }
}

/// Extent of a window's output: `floor((x + pads - dilation*(k-1) - 1) / stride) + 1`.
pub(crate) fn window_extent(x: &Dim, k: i64, stride: i64, pads: i64, dilation: i64) -> Dim {
    (x.clone() + Dim::from(pads - dilation * (k - 1) - 1)).floor_div(stride) + Dim::from(1)
}

/// Checks the window attributes of `conv` and `pool`.
pub(crate) fn check_window(spatial: usize, strides: &[i64], pads: &[i64], dilations: &[i64]) -> Result<()> {
    if strides.len() != spatial || dilations.len() != spatial || pads.len() != 2 * spatial {
        let message = format!(
            "{} strides, {} dilations and {} pads for {spatial} spatial axes",
            strides.len(),
            dilations.len(),
            pads.len()
        );
        return Err(mismatch("T0320", message));
    }
    if strides.iter().chain(dilations).any(|&v| !(1..=1 << 31).contains(&v))
        || pads.iter().any(|v| !(0..=1 << 31).contains(v))
    {
        return Err(mismatch("T0321", "strides and dilations must be positive, pads not negative, none above 2^31"));
    }
    Ok(())
}

impl Conv {
    /// The positions of the batch, channel and first spatial axis.
    pub fn axes(channels_last: bool, rank: usize) -> (usize, usize, usize) {
        if channels_last { (0, rank - 1, 1) } else { (0, 1, 2) }
    }
}

impl Meaning for Conv {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        let (x, w) = (t[0], t[1]);
        if x.rank() < 3 || w.rank() != x.rank() {
            return Err(mismatch(
                "T0322",
                format!("operands of rank {} and {}, expected the same and at least 3", x.rank(), w.rank()),
            ));
        }
        let spatial = x.rank() - 2;
        check_window(spatial, &self.strides, &self.pads, &self.dilations)?;
        let (_, ca, sa) = Conv::axes(self.channels_last, x.rank());
        let Some(ws) = w.static_shape() else { return Err(mismatch("T0323", "the kernel's extents must be known")) };
        if self.groups < 1 || x.shape[ca] != Dim::from(ws[1]) * self.groups.into() || ws[0] % self.groups as usize != 0
        {
            let message = format!(
                "{} channels and {} groups do not fit a kernel of {}",
                x.shape[ca],
                self.groups,
                show(&w.shape)
            );
            return Err(mismatch("T0324", message));
        }
        let mut shape = x.shape.clone();
        shape[ca] = Dim::from(ws[0]);
        for i in 0..spatial {
            let pads = self.pads[i] + self.pads[spatial + i];
            let d = window_extent(&x.shape[sa + i], ws[2 + i] as i64, self.strides[i], pads, self.dilations[i]);
            if d.as_const().is_some_and(|d| d < 0) || ws[2 + i] == 0 {
                return Err(mismatch(
                    "T0325",
                    format!("a kernel of {} does not fit extent {} with pads {pads}", ws[2 + i], x.shape[sa + i]),
                ));
            }
            shape[sa + i] = d;
        }
        Ok(vec![Type { dtype: super::matmul::product_dtype(x.dtype, w.dtype, self.wide)?, shape }])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let (xt, wt) = (x[0], x[1]);
        let out = self.infer(&[&xt.ty(), &wt.ty()])?.remove(0);
        let shape = out.static_shape().expect("static operands");
        let rank = shape.len();
        let (_, ca, sa) = Conv::axes(self.channels_last, rank);
        let (xs, ws, ys) = (strides(xt.shape()), strides(wt.shape()), strides(&shape));
        let (xv, wv) = (xt.to_f64(), wt.to_f64());
        let (cg, og) = (wt.shape()[1], wt.shape()[0] / self.groups as usize);
        let (taps, last) = (&wt.shape()[2..], rank - 3);
        let mut y = vec![0.0; shape.iter().product()];
        // Rows of pixels innermost: whole networks are evaluated too.
        let rows = &shape[sa..sa + last];
        for_each_index(&[shape[0], shape[ca], cg], |ix| {
            let (n, o, c) = (ix[0], ix[1], ix[2]);
            let (image, plane) = (n * xs[0] + (o / og * cg + c) * xs[ca], n * ys[0] + o * ys[ca]);
            for_each_index(taps, |k| {
                let w = wv[o * ws[0] + c * ws[1] + k.iter().zip(&ws[2..]).map(|(k, s)| k * s).sum::<usize>()];
                let place = |axis: usize, i: usize| {
                    let p = i as i64 * self.strides[axis] - self.pads[axis] + k[axis] as i64 * self.dilations[axis];
                    usize::try_from(p).ok().filter(|&p| p < xt.shape()[sa + axis])
                };
                let inside: Vec<(usize, usize)> = (0..shape[sa + last])
                    .filter_map(|i| Some((plane + i * ys[sa + last], image + place(last, i)? * xs[sa + last])))
                    .collect();
                for_each_index(rows, |r| {
                    let (mut from, mut to) = (0, 0);
                    for (axis, &i) in r.iter().enumerate() {
                        let Some(p) = place(axis, i) else { return };
                        from += p * xs[sa + axis];
                        to += i * ys[sa + axis];
                    }
                    inside.iter().for_each(|(t, f)| y[to + t] += w * xv[from + f]);
                });
            });
        });
        let ints = || y.iter().map(|&v| v as i64).collect::<Vec<_>>();
        Ok(vec![if out.dtype.is_float() {
            Tensor::from_f64(out.dtype, shape, &y)
        } else {
            Tensor::from_i64(out.dtype, shape, &ints())
        }])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        let taps = ins[1].shape[1..].iter().fold(Dim::from(1), |a, d| a * d.clone());
        Work { madds: outs[0].elements() * taps, bytes: Work::traffic(ins, outs) }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let spatial = g.int(1, 2) as usize;
        let groups = g.int(1, 2);
        let (cg, og) = (g.int(1, 3), g.int(1, 3));
        let list = |g: &mut Gen, lo, hi, n| (0..n).map(|_| g.int(lo, hi)).collect::<Vec<i64>>();
        let (dx, dw) = g.one_of(&[(DType::F32, DType::F32), (DType::U8, DType::I8), (DType::BF16, DType::BF16)]);
        let op = Conv {
            strides: list(g, 1, 2, spatial),
            pads: list(g, 0, 2, 2 * spatial),
            dilations: list(g, 1, 2, spatial),
            groups,
            channels_last: g.flip(),
            wide: dx == DType::BF16 && g.flip(),
        };
        let kernel: Vec<usize> = list(g, 1, 3, spatial).iter().map(|&k| k as usize).collect();
        let image: Vec<usize> = list(g, 5, 8, spatial).iter().map(|&k| k as usize).collect();
        let mut x = vec![g.int(1, 2) as usize];
        let c = (groups * cg) as usize;
        if op.channels_last {
            x.extend(&image);
            x.push(c);
        } else {
            x.push(c);
            x.extend(&image);
        }
        let mut w = vec![(groups * og) as usize, cg as usize];
        w.extend(&kernel);
        (op, vec![g.ty(dx, &x), g.ty(dw, &w)])
    }
}
