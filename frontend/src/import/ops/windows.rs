//! Powers and sums over windows and axes, columns back to images, and crops.

use super::Topic;
use crate::import::Meaning;
use crate::import::build::done;
use crate::import::node::NodeCx;
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, Mul, Pow};
use tersor_ir::ops::pad::PadMode;
use tersor_ir::ops::pool::PoolKind;
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::unary::UnaryKind::Abs;
use tersor_ir::ops::{Pad, Pool, Real};
use tersor_ir::{Dim, ValueId};

fn order(cx: &NodeCx) -> Result<f64> {
    match cx.int("p", 2) {
        p if p >= 1 => Ok(p as f64),
        p => Err(cx.invalid(format!("the norm of order {p}"))),
    }
}

/// `(Σ |x|^p)^(1/p)`, the sum by `sum`.
fn norm(cx: &mut NodeCx, sum: impl FnOnce(&mut NodeCx, ValueId) -> Result<ValueId>) -> Result<Vec<Meaning>> {
    let (x, p) = (cx.input(0)?, order(cx)?);
    let a = cx.unary(Abs, x)?;
    let a = if p == 1.0 { a } else { cx.with_scalar(Pow, a, p)? };
    let s = sum(cx, a)?;
    done(if p == 1.0 { s } else { cx.with_scalar(Pow, s, 1.0 / p)? })
}

/// The sum of a window is its mean, padding included, times its size.
fn lp_pool(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    norm(cx, |cx, x| {
        let kernel = cx.ints("kernel_shape").ok_or_else(|| cx.invalid("no kernel_shape"))?;
        let size: f64 = kernel.iter().map(|&k| k as f64).product();
        let shape = cx.ty(x).shape.to_vec();
        let w = super::nn::window(cx, &shape, kernel)?;
        let pool = Pool {
            kind: PoolKind::Avg,
            kernel: w.kernel,
            strides: w.strides,
            pads: w.pads,
            dilations: w.dilations,
            count_pad: true,
            channels_last: false,
        };
        let mean = cx.op(pool, &[x])?;
        cx.with_scalar(Mul, mean, size)
    })
}

fn global_lp_pool(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    norm(cx, |cx, x| {
        let axes: Vec<usize> = (2..cx.ty(x).rank()).collect();
        cx.reduce(ReduceKind::Sum, x, &axes, true)
    })
}

/// Elements before an axis, which loses as many at its end: `[…, 1, 1, a, b]` for `[…, a, b, c, d]` and 2.
fn delayed(cx: &mut NodeCx, x: ValueId, axis: usize, by: i64) -> Result<ValueId> {
    let t = cx.ty(x);
    let kept = cx.part(x, axis, 0.into(), t.shape[axis].clone() - by.into())?;
    let mut lo = vec![0; t.rank()];
    lo[axis] = by;
    cx.op(Pad { lo, hi: vec![0; t.rank()], mode: PadMode::Constant, value: Real(1.0) }, &[kept])
}

/// Running products in as many steps as the extent has binary digits (Hillis and Steele, 1986).
fn cum_prod(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let mut x = cx.input(0)?;
    let axis = cx.numbers(1)?.first().copied().unwrap_or(0);
    let axis = cx.axis(axis, cx.ty(x).rank())?;
    let n = cx.fixed(&cx.ty(x).shape[axis], "running products")? as i64;
    let reverse = cx.int("reverse", 0) == 1;
    if reverse {
        x = cx.flip(x, axis)?;
    }
    if cx.int("exclusive", 0) == 1 && n > 0 {
        x = delayed(cx, x, axis, 1)?;
    }
    let mut by = 1;
    while by < n {
        let before = delayed(cx, x, axis, by)?;
        x = cx.binary(Mul, x, before)?;
        by *= 2;
    }
    done(if reverse { cx.flip(x, axis)? } else { x })
}

fn center_crop_pad(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let mut x = cx.input(0)?;
    let (to, rank) = (cx.numbers(1)?, cx.ty(x).rank());
    let axes = cx.ints("axes").unwrap_or_else(|| (0..rank as i64).collect());
    if axes.len() != to.len() {
        return Err(cx.invalid(format!("{} extents for {} axes", to.len(), axes.len())));
    }
    for (&axis, &n) in axes.iter().zip(&to) {
        let axis = cx.axis(axis, rank)?;
        let have = cx.fixed(&cx.ty(x).shape[axis], "a crop")? as i64;
        if !(0..=1 << 31).contains(&n) {
            return Err(cx.invalid(format!("extent {n}")));
        }
        if n < have {
            x = cx.part(x, axis, ((have - n) / 2).into(), n.into())?;
        } else if n > have {
            let (mut lo, mut hi) = (vec![0; rank], vec![0; rank]);
            lo[axis] = (n - have) / 2;
            hi[axis] = n - have - lo[axis];
            x = cx.op(Pad { lo, hi, mode: PadMode::Constant, value: Real(0.0) }, &[x])?;
        }
    }
    done(x)
}

/// The sum of blocks at the places that they were taken from: for each position in a block its elements, spread by the strides and moved there.
fn col2im(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let (image, block, t) = (cx.numbers(1)?, cx.numbers(2)?, cx.ty(x));
    let n = image.len();
    let list = |name: &str, count: usize, default: i64, least: i64| {
        let v = cx.ints(name).unwrap_or_else(|| vec![default; count]);
        let sane = v.len() == count && v.iter().all(|v| (least..=1 << 31).contains(v));
        if sane { Ok(v) } else { Err(cx.invalid(format!("{name} {v:?} for {n} axes"))) }
    };
    let (strides, dilations, pads) =
        (list("strides", n, 1, 1)?, list("dilations", n, 1, 1)?, list("pads", 2 * n, 0, 0)?);
    let sane = |v: &[i64]| v.iter().all(|v| (1..=1 << 31).contains(v));
    if t.rank() != 3 || n == 0 || block.len() != n || !sane(&image) || !sane(&block) {
        return Err(cx.invalid(format!("blocks of {block:?} of an image of {image:?} from {t}")));
    }
    let taps = block.iter().try_fold(1i64, |a, &b| a.checked_mul(b)).filter(|&k| k <= 4096);
    let taps = taps.ok_or_else(|| cx.unsupported("blocks of more than 4096 elements"))?;
    let channels = t.shape[1].exact_div(&taps.into());
    let channels = channels.ok_or_else(|| cx.invalid(format!("{} rows for blocks of {taps}", t.shape[1])))?;
    let whole: Vec<i64> = (0..n).map(|i| image[i] + pads[i] + pads[n + i]).collect();
    let count: Vec<i64> =
        (0..n).map(|i| (whole[i] - dilations[i] * (block[i] - 1) - 1).div_euclid(strides[i]) + 1).collect();
    if count.iter().any(|&c| c < 1) {
        return Err(cx.invalid("a block does not fit the image"));
    }
    let mut split = vec![t.shape[0].clone(), channels, taps.into()];
    split.extend(count.iter().map(|&c| Dim::from(c)));
    let x = cx.reshape(x, split)?;
    let mut sum: Option<ValueId> = None;
    for k in 0..taps {
        let mut y = cx.element(x, 2, k.into())?;
        let (mut lo, mut hi, mut rest) = (vec![0; n + 2], vec![0; n + 2], k);
        for i in (0..n).rev() {
            if strides[i] > 1 {
                y = super::transposed::spread(cx, y, 2 + i, strides[i])?;
            }
            let used = (count[i] - 1) * strides[i] + 1;
            y = cx.part(y, 2 + i, 0.into(), used.into())?;
            lo[2 + i] = rest % block[i] * dilations[i];
            hi[2 + i] = whole[i] - lo[2 + i] - used;
            rest /= block[i];
        }
        y = cx.op(Pad { lo, hi, mode: PadMode::Constant, value: Real(0.0) }, &[y])?;
        sum = Some(match sum {
            Some(s) => cx.binary(Add, s, y)?,
            None => y,
        });
    }
    let mut y = sum.ok_or_else(|| cx.invalid("an empty block"))?;
    for i in 0..n {
        y = cx.part(y, 2 + i, pads[i].into(), image[i].into())?;
    }
    done(y)
}

pub(super) const OPS: Topic = &[
    ("LpPool", lp_pool),
    ("GlobalLpPool", global_lp_pool),
    ("CumProd", cum_prod),
    ("CenterCropPad", center_crop_pad),
    ("Col2Im", col2im),
];
