//! Elements by computed positions: the tensor flattened, and the number of each element that the result takes.

use super::Topic;
use crate::import::Meaning;
use crate::import::build::{done, product};
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, Max, Min, Mod, Mul, Sub};
use tersor_ir::ops::compare::CompareKind::{Eq, Lt};
use tersor_ir::ops::scatter::ScatterKind;
use tersor_ir::ops::{ArgSort, Scatter};
use tersor_ir::{DType, Dim, ValueId};

/// A number of elements by which positions are stepped.
fn times(cx: &mut NodeCx, x: ValueId, d: &Dim) -> Result<ValueId> {
    match d.as_const() {
        Some(1) => Ok(x),
        Some(n) => cx.with_scalar(Mul, x, n as f64),
        None => {
            let e = cx.op(tersor_ir::ops::Extent { of: d.clone() }, &[])?;
            cx.binary(Mul, x, e)
        }
    }
}

/// Refuses constant positions that are none of an axis of this extent.
pub(super) fn inside(cx: &NodeCx, index: ValueId, extent: &Dim) -> Result<()> {
    if let (Some(n), Some(t)) = (extent.as_const(), cx.constant_of(index))
        && let Some(p) = (0..t.len()).map(|i| t.get_i64(i)).find(|p| !(-n..n).contains(p))
    {
        return Err(cx.invalid(format!("index {p} of an axis of {n}")));
    }
    Ok(())
}

/// Negative positions count from the end of an axis of this extent.
pub(super) fn wrap(cx: &mut NodeCx, index: ValueId, extent: &Dim) -> Result<ValueId> {
    let index = cx.cast(index, DType::I64)?;
    let negative = cx.compare_scalar(Lt, index, 0.0)?;
    let n = cx.op(tersor_ir::ops::Extent { of: extent.clone() }, &[])?;
    let from_end = cx.binary(Add, index, n)?;
    cx.select(negative, from_end, index)
}

/// The number of the element of `x` that has position `index` along an axis and else the same as in `index`.
pub(super) fn element_numbers(cx: &mut NodeCx, x: ValueId, index: ValueId, axis: usize) -> Result<ValueId> {
    let (t, ti) = (cx.ty(x), cx.ty(index));
    if t.rank() != ti.rank() {
        return Err(cx.invalid(format!("positions of {ti} in {t}")));
    }
    inside(cx, index, t.shape.get(axis).unwrap_or(&Dim::Const(1)))?;
    if t.rank() == 1 {
        // Ops that take numbers of elements count negative ones from the end.
        return Ok(index);
    }
    let at = wrap(cx, index, &t.shape[axis])?;
    let mut sum = times(cx, at, &product(&t.shape[axis + 1..]))?;
    for a in (0..t.rank()).filter(|&a| a != axis) {
        let p = cx.positions(&ti.shape[a], a, t.rank(), DType::I64)?;
        let p = times(cx, p, &product(&t.shape[a + 1..]))?;
        sum = cx.binary(Add, sum, p)?;
    }
    Ok(sum)
}

/// Elements of `x` by their position along one axis.
pub(super) fn elements(cx: &mut NodeCx, x: ValueId, index: ValueId, axis: usize) -> Result<ValueId> {
    let at = element_numbers(cx, x, index, axis)?;
    cx.take(x, at)
}

fn gather_elements(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, index) = (cx.input(0)?, cx.input(1)?);
    let axis = cx.axis(cx.int("axis", 0), cx.ty(x).rank())?;
    done(elements(cx, x, index, axis)?)
}

/// The number of the row, one of what the positions leave of `shape`, for each tuple of positions along the last axis of `index`, which stand for the axes after `batch` leading
/// ones; and how many axes that takes.
fn row_numbers(cx: &mut NodeCx, shape: &[Dim], index: ValueId, batch: usize) -> Result<(ValueId, usize)> {
    let ti = cx.ty(index);
    let depth = ti.shape.last().cloned().ok_or_else(|| cx.invalid("a scalar of positions"))?;
    let depth = cx.fixed(&depth, "positions")?;
    if batch >= ti.rank() || batch + depth > shape.len() {
        return Err(cx.invalid(format!("positions of {ti} in {} axes, {batch} in common", shape.len())));
    }
    let rank = ti.rank() - 1;
    if (batch, depth) == (0, 1) {
        // Ops that take numbers of rows count negative ones from the end.
        let at = cx.element(index, rank, 0.into())?;
        inside(cx, at, &shape[0])?;
        return Ok((at, 1));
    }
    let mut sum: Option<ValueId> = None;
    for a in 0..batch + depth {
        let p = if a < batch {
            cx.positions(&shape[a], a, rank, DType::I64)?
        } else {
            let p = cx.element(index, rank, Dim::from((a - batch) as i64))?;
            inside(cx, p, &shape[a])?;
            wrap(cx, p, &shape[a])?
        };
        let p = times(cx, p, &product(&shape[a + 1..batch + depth]))?;
        sum = Some(match sum {
            Some(s) => cx.binary(Add, s, p)?,
            None => p,
        });
    }
    let sum = sum.ok_or_else(|| cx.unsupported("positions without coordinates"))?;
    Ok((sum, batch + depth))
}

/// The tensor as a list of rows: one for each position of the first `axes` axes.
fn rows(cx: &mut NodeCx, x: ValueId, axes: usize) -> Result<ValueId> {
    let shape = cx.ty(x).shape.to_vec();
    let mut list = vec![product(&shape[..axes])];
    list.extend_from_slice(&shape[axes..]);
    cx.reshape(x, list)
}

fn gather_nd(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, index) = (cx.input(0)?, cx.input(1)?);
    let batch = usize::try_from(cx.int("batch_dims", 0)).map_err(|_| cx.invalid("negative batch_dims"))?;
    let (at, axes) = row_numbers(cx, &cx.ty(x).shape, index, batch)?;
    let list = rows(cx, x, axes)?;
    done(cx.op(tersor_ir::ops::Gather { axis: 0 }, &[list, at])?)
}

/// Rows of the first `axes` axes by number, replaced by updates or combined with them as `reduction` says.
fn scattered(cx: &mut NodeCx, x: ValueId, at: ValueId, axes: usize) -> Result<Vec<Meaning>> {
    let (t, updates, count) = (cx.ty(x), cx.input(2)?, product(&cx.ty(at).shape));
    let kind = match cx.string("reduction", "none").as_str() {
        "none" => ScatterKind::Set,
        "add" => ScatterKind::Add,
        "mul" => ScatterKind::Mul,
        "max" => ScatterKind::Max,
        "min" => ScatterKind::Min,
        other => return Err(cx.invalid(format!("reduction {}", other.escape_debug()))),
    };
    let mut shape = vec![count.clone()];
    shape.extend_from_slice(&t.shape[axes..]);
    let (list, at, updates) = (rows(cx, x, axes)?, cx.reshape(at, vec![count])?, cx.reshape(updates, shape)?);
    let y = cx.op(Scatter { kind }, &[list, at, updates])?;
    done(cx.reshape(y, t.shape.to_vec())?)
}

fn scatter_elements(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, index) = (cx.input(0)?, cx.input(1)?);
    let rank = cx.ty(x).rank();
    let axis = cx.axis(cx.int("axis", 0), rank)?;
    let at = element_numbers(cx, x, index, axis)?;
    scattered(cx, x, at, rank)
}

fn scatter_nd(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, index) = (cx.input(0)?, cx.input(1)?);
    let (at, axes) = row_numbers(cx, &cx.ty(x).shape, index, 0)?;
    scattered(cx, x, at, axes)
}

/// The first `lengths[b]` elements along the time axis from the last to the first.
fn reverse_sequence(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, lengths) = (cx.input(0)?, cx.input(1)?);
    let t = cx.ty(x);
    let (batch, time) = (cx.axis(cx.int("batch_axis", 1), t.rank())?, cx.axis(cx.int("time_axis", 0), t.rank())?);
    let lengths = cx.cast(lengths, DType::I64)?;
    let lengths = cx.along(lengths, batch, t.rank())?;
    done(reversed(cx, x, lengths, time)?)
}

/// Elements before `lengths`, which broadcasts, from the last to the first along an axis.
pub(super) fn reversed(cx: &mut NodeCx, x: ValueId, lengths: ValueId, time: usize) -> Result<ValueId> {
    let t = cx.ty(x);
    let p = cx.positions(&t.shape[time], time, t.rank(), DType::I64)?;
    let last = cx.with_scalar(Sub, lengths, 1.0)?;
    let from_end = cx.binary(Sub, last, p)?;
    let inside = cx.compare(Lt, p, lengths)?;
    let at = cx.select(inside, from_end, p)?;
    let at = cx.broadcast(at, t.shape.to_vec())?;
    elements(cx, x, at, time)
}

/// The cache with the update written at a position of each sequence.
fn tensor_scatter(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (cache, update, start) = (cx.input(0)?, cx.input(1)?, cx.optional(2)?);
    let (t, tu) = (cx.ty(cache), cx.ty(update));
    let axis = cx.axis(cx.int("axis", -2), t.rank())?;
    if axis == 0 || tu.rank() != t.rank() {
        return Err(cx.invalid(format!("an update of {tu} along axis {axis} of {t}")));
    }
    let mut at = cx.positions(&t.shape[axis], axis, t.rank(), DType::I64)?;
    if let Some(s) = start {
        let s = cx.along(s, 0, t.rank())?;
        at = cx.binary(Sub, at, s)?;
    }
    match cx.string("mode", "linear").as_str() {
        "linear" => {}
        "circular" => {
            let n = cx.op(tersor_ir::ops::Extent { of: t.shape[axis].clone() }, &[])?;
            at = cx.binary(Mod, at, n)?;
        }
        other => return Err(cx.invalid(format!("mode {}", other.escape_debug()))),
    }
    let last = cx.op(tersor_ir::ops::Extent { of: tu.shape[axis].clone() - 1.into() }, &[])?;
    let low = cx.with_scalar(Max, at, 0.0)?;
    let inside = cx.binary(Min, low, last)?;
    let hit = cx.compare(Eq, inside, at)?;
    let at = cx.broadcast(inside, t.shape.to_vec())?;
    let new = elements(cx, update, at, axis)?;
    done(cx.select(hit, new, cache)?)
}

/// The first of all elements along an axis, in their order.
fn top_k(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let t = cx.ty(x);
    let axis = cx.axis(cx.int("axis", -1), t.rank())?;
    cx.int("sorted", 1);
    let descending = cx.int("largest", 1) == 1;
    let order = cx.op(ArgSort { axis: axis as u8, descending }, &[x])?;
    let known = match cx.opset {
        ..10 => Some(vec![cx.int("k", 0)]),
        _ => cx.known(1).and_then(|k| k.numbers()),
    };
    let at = match known.as_deref() {
        Some([k]) => {
            if *k < 0 || t.shape[axis].as_const().is_some_and(|n| *k > n) {
                return Err(cx.invalid(format!("the {k} largest of {}", t.shape[axis])));
            }
            cx.part(order, axis, 0.into(), (*k).into())?
        }
        Some(_) => return Err(cx.invalid("k must be one number")),
        None => {
            let k = cx.input(1)?;
            let k = cx.cast(k, DType::I64)?;
            let k = cx.reshape(k, vec![])?;
            cx.prefix(order, axis, k)?
        }
    };
    Ok(vec![value(elements(cx, x, at, axis)?), value(at)])
}

pub(super) const OPS: Topic = &[
    ("GatherElements", gather_elements),
    ("GatherND", gather_nd),
    ("Scatter", scatter_elements),
    ("ScatterElements", scatter_elements),
    ("ScatterND", scatter_nd),
    ("ReverseSequence", reverse_sequence),
    ("TensorScatter", tensor_scatter),
    ("TopK", top_k),
];
