//! Places of the maxima of windows, and maxima put back at their places.

use super::Topic;
use super::nn::{Window, window};
use crate::import::Meaning;
use crate::import::build::{done, product};
use crate::import::node::NodeCx;
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, Mul};
use tersor_ir::ops::pad::PadMode;
use tersor_ir::ops::reduce::ArgKind;
use tersor_ir::ops::scatter::ScatterKind;
use tersor_ir::ops::{ArgReduce, Gather, Pad, Real, Scatter};
use tersor_ir::{DType, Dim, Tensor, ValueId};

/// Most elements of all windows of a channel.
const TAPS: usize = 1 << 22;

/// The positions of a list of extents, the last fastest.
fn indices(extents: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    (0..extents.iter().product()).map(|mut i: usize| {
        let mut index = vec![0; extents.len()];
        for a in (0..extents.len()).rev() {
            (index[a], i) = (i % extents[a], i / extents[a]);
        }
        index
    })
}

/// The number in the flattened operand of the first largest element of each window; with `storage_order` 1 each image is counted column after column.
pub(super) fn places_of_maxima(cx: &mut NodeCx, x: ValueId, w: &Window) -> Result<ValueId> {
    let t = cx.ty(x);
    let n = w.kernel.len();
    let image: Vec<usize> = t.shape[2..].iter().map(|d| cx.fixed(d, "indices of maxima")).collect::<Result<_>>()?;
    let mut out = vec![];
    for (i, &d) in image.iter().enumerate() {
        let span = d as i64 + w.pads[i] + w.pads[n + i] - w.dilations[i] * (w.kernel[i] - 1) - 1;
        if span < 0 {
            return Err(cx.invalid(format!("a window of {} does not fit an extent of {}", w.kernel[i], d)));
        }
        out.push((span / w.strides[i] + 1) as usize);
    }
    let kernel: Vec<usize> = w.kernel.iter().map(|&k| k as usize).collect();
    let count = |e: &[usize]| e.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
    let sizes = count(&out).zip(count(&kernel)).filter(|&(o, k)| o.checked_mul(k).is_some_and(|n| n <= TAPS));
    let (windows, taps) = sizes.ok_or_else(|| cx.unsupported("indices of maxima of so many windows"))?;
    let columns = cx.int("storage_order", 0) == 1;
    let (mut from, mut number, mut outside) = (vec![], vec![], vec![]);
    for o in indices(&out) {
        for k in indices(&kernel) {
            let p: Vec<i64> =
                (0..n).map(|i| o[i] as i64 * w.strides[i] - w.pads[i] + k[i] as i64 * w.dilations[i]).collect();
            let inside = p.iter().zip(&image).all(|(&p, &d)| (0..d as i64).contains(&p));
            let step = |a: i64, i: usize| a * image[i] as i64 + p[i];
            let rows = if inside { (0..n).fold(0, step) } else { 0 };
            from.push(rows);
            number.push(if inside && columns { (0..n).rev().fold(0, step) } else { rows });
            outside.push(i64::from(!inside));
        }
    }
    let mut shape = vec![t.shape[0].clone(), t.shape[1].clone(), product(&t.shape[2..])];
    let flat = cx.reshape(x, shape.clone())?;
    let from = cx.emit_constant(&Tensor::from_i64(DType::I64, [windows, taps], &from));
    let mut all = cx.op(Gather { axis: 2 }, &[flat, from])?;
    if outside.contains(&1) {
        let outside = cx.emit_constant(&Tensor::from_i64(DType::Bool, [windows, taps], &outside));
        let least = t.dtype.int_range().map_or(f64::NEG_INFINITY, |r| r.0 as f64);
        let least = cx.scalar_like(x, least);
        all = cx.select(outside, least, all)?;
    }
    let tap = cx.op(ArgReduce { kind: ArgKind::Max, axis: 3, keep: false, last: false }, &[all])?;
    let first = cx.positions(&Dim::from(windows), 0, 1, DType::I64)?;
    let first = cx.with_scalar(Mul, first, taps as f64)?;
    let at = cx.binary(Add, tap, first)?;
    let number = cx.emit_constant(&Tensor::from_i64(DType::I64, [windows * taps], &number));
    let mut at = cx.op(Gather { axis: 0 }, &[number, at])?;
    // Images before this one.
    shape.truncate(2);
    let images = cx.positions(&product(&shape), 0, 1, DType::I64)?;
    shape.push(1.into());
    let images = cx.reshape(images, shape)?;
    let before = cx.with_scalar(Mul, images, image.iter().product::<usize>() as f64)?;
    at = cx.binary(Add, at, before)?;
    let result = [t.shape[0].clone(), t.shape[1].clone()].into_iter().chain(out.into_iter().map(Dim::from)).collect();
    cx.reshape(at, result)
}

/// Elements at their places among zeros; a given shape adds zeros behind.
fn max_unpool(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, at) = (cx.input(0)?, cx.input(1)?);
    let t = cx.ty(x);
    let kernel = cx.ints("kernel_shape").ok_or_else(|| cx.invalid("no kernel_shape"))?;
    let w = window(cx, &t.shape, kernel)?;
    let n = w.kernel.len();
    let mut shape = t.shape.to_vec();
    for i in 0..n {
        let pads = w.pads[i] + w.pads[n + i];
        shape[2 + i] = (shape[2 + i].clone() - 1.into()) * w.strides[i].into() + (w.kernel[i] - pads).into();
    }
    let zero = cx.scalar_like(x, 0.0);
    let room = cx.broadcast(zero, vec![product(&shape)])?;
    let (at, x) = (cx.reshape(at, vec![t.elements()])?, cx.reshape(x, vec![t.elements()])?);
    let y = cx.op(Scatter { kind: ScatterKind::Set }, &[room, at, x])?;
    let y = cx.reshape(y, shape.clone())?;
    if !cx.is_given(2) {
        return done(y);
    }
    let wanted = cx.dims(2)?;
    let more: Option<Vec<i64>> = match wanted.len() == shape.len() {
        true => wanted.iter().zip(&shape).map(|(a, b)| (a.clone() - b.clone()).as_const()).collect(),
        false => None,
    };
    let Some(hi) = more.filter(|m| m.iter().all(|&n| n >= 0)) else {
        let list = |d: &[Dim]| d.iter().map(Dim::to_string).collect::<Vec<_>>().join(", ");
        return Err(cx.invalid(format!("output_shape [{}] is less than [{}]", list(&wanted), list(&shape))));
    };
    done(cx.op(Pad { lo: vec![0; hi.len()], hi, mode: PadMode::Constant, value: Real(0.0) }, &[y])?)
}

pub(super) const OPS: Topic = &[("MaxUnpool", max_unpool)];
