//! `ConvTranspose`: zeros between the elements, then an ordinary convolution with the turned kernel.

use super::Topic;
use super::nn::conv_bias;
use crate::import::Meaning;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::pad::PadMode;
use tersor_ir::ops::{Conv, Pad, Real, Slice};
use tersor_ir::{Dim, ValueId};

/// `[C, O/g, k…]` as `[O, C/g, k…]` with the taps in reverse.
fn turn(cx: &mut NodeCx, w: ValueId, groups: i64) -> Result<ValueId> {
    let shape = cx.ty(w).shape.to_vec();
    let (taps, og) = (shape[2..].to_vec(), shape[1].clone());
    let cg = shape[0].exact_div(&groups.into());
    let cg = cg.ok_or_else(|| cx.invalid(format!("{} channels in {groups} groups", shape[0])))?;
    let mut split = vec![groups.into(), cg.clone(), og.clone()];
    split.extend(taps.iter().cloned());
    let w = cx.reshape(w, split)?;
    let mut perm = vec![0, 2, 1];
    perm.extend(3..3 + taps.len() as u8);
    let w = cx.transpose(w, perm)?;
    let mut joined = vec![og * groups.into(), cg];
    joined.extend(taps.iter().cloned());
    let mut w = cx.reshape(w, joined)?;
    for (i, k) in taps.into_iter().enumerate().filter(|(_, k)| *k != Dim::Const(1)) {
        w = cx.op(Slice { axis: 2 + i as u8, start: k.clone() - 1.into(), len: k, step: -1 }, &[w])?;
    }
    Ok(w)
}

/// `d` elements along an axis with `stride - 1` zeros after each: `[…, d, …] -> […, d, 1, …] -> […, d, stride, …] -> […, d*stride, …]`.
pub(super) fn spread(cx: &mut NodeCx, x: ValueId, axis: usize, stride: i64) -> Result<ValueId> {
    let mut shape = cx.ty(x).shape.to_vec();
    let d = shape[axis].clone();
    shape.insert(axis + 1, 1.into());
    let x = cx.reshape(x, shape.clone())?;
    let mut hi = vec![0; shape.len()];
    hi[axis + 1] = stride - 1;
    let pad = Pad { lo: vec![0; shape.len()], hi, mode: PadMode::Constant, value: Real(0.0) };
    let x = cx.op(pad, &[x])?;
    shape.remove(axis + 1);
    shape[axis] = d * stride.into();
    cx.reshape(x, shape)
}

fn conv_transpose(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (mut x, w, bias, groups) = (cx.input(0)?, cx.input(1)?, cx.optional(2)?, cx.int("group", 1));
    let (tx, tw) = (cx.ty(x), cx.ty(w));
    let kernel = tw.static_shape().ok_or_else(|| cx.unsupported("a kernel whose extents are not known"))?;
    if kernel.len() < 3 || kernel.len() != tx.rank() || groups < 1 {
        return Err(cx.invalid(format!("operands {tx} and {tw} in {groups} groups")));
    }
    let (n, kernel) = (kernel.len() - 2, kernel[2..].iter().map(|&k| k as i64).collect::<Vec<_>>());
    if cx.ints("kernel_shape").is_some_and(|k| k != kernel) {
        return Err(cx.invalid(format!("kernel_shape differs from the weights' {kernel:?}")));
    }
    let list = |name: &str, count: usize, default: i64, least: i64| {
        let v = cx.ints(name).unwrap_or_else(|| vec![default; count]);
        let sane = v.len() == count && v.iter().all(|v| (least..=1 << 31).contains(v));
        if sane { Ok(v) } else { Err(cx.invalid(format!("{name} {v:?} for {n} axes"))) }
    };
    let (strides, dilations) = (list("strides", n, 1, 1)?, list("dilations", n, 1, 1)?);
    let (mut pads, mut extra) = (list("pads", 2 * n, 0, 0)?, list("output_padding", n, 0, 0)?);
    let (auto, given) = (cx.string("auto_pad", "NOTSET"), cx.ints("output_shape"));
    let given = given.map(|g| if g.len() == n + 2 { g[2..].to_vec() } else { g });
    if given.as_ref().is_some_and(|g| g.len() != n) {
        return Err(cx.invalid("output_shape does not have one extent for each axis"));
    }
    if auto == "VALID" {
        pads.fill(0);
    }
    for i in 0..n {
        let same = auto == "SAME_UPPER" || auto == "SAME_LOWER";
        if given.is_none() && !same {
            continue;
        }
        let d = tx.shape[2 + i].as_const().ok_or_else(|| cx.unsupported("padding for an extent that is not known"))?;
        let full = strides[i] * (d - 1) + extra[i] + dilations[i] * (kernel[i] - 1) + 1;
        let out = given.as_ref().map_or(d * strides[i], |g| g[i]);
        let total = (full - out).max(0);
        let (small, large) = (total / 2, total - total / 2);
        (pads[i], pads[n + i]) = if auto == "SAME_UPPER" { (small, large) } else { (large, small) };
        extra[i] += out - (full - total);
    }
    let (mut lo, mut hi) = (vec![0; n], vec![0; n]);
    for i in 0..n {
        if strides[i] > 1 {
            x = spread(cx, x, 2 + i, strides[i])?;
        }
        // The zeros after the last element go again.
        let reach = dilations[i] * (kernel[i] - 1);
        (lo[i], hi[i]) = (reach - pads[i], reach - pads[n + i] + extra[i] - (strides[i] - 1));
        // Negative padding cuts off.
        let (start, end) = ((-lo[i]).max(0), (-hi[i]).max(0));
        if start + end > 0 {
            let len = cx.ty(x).shape[2 + i].clone() - (start + end).into();
            x = cx.op(Slice { axis: 2 + i as u8, start: start.into(), len, step: 1 }, &[x])?;
        }
    }
    let pads: Vec<i64> = lo.iter().chain(&hi).map(|&p| p.max(0)).collect();
    let w = turn(cx, w, groups)?;
    let op = Conv { strides: vec![1; n], pads, dilations, groups, channels_last: false, wide: false };
    let y = cx.op(op, &[x, w])?;
    Ok(vec![value(conv_bias(cx, y, bias)?)])
}

pub(super) const OPS: Topic = &[("ConvTranspose", conv_transpose)];
