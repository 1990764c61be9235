//! Reductions.

use super::Topic;
use crate::import::Meaning;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, Sub};
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::reduce::{ArgKind, ReduceKind};
use tersor_ir::ops::unary::UnaryKind::{Abs, Exp, Log, Sqrt};
use tersor_ir::ops::{ArgReduce, Compare, Iota, Reduce};
use tersor_ir::{DType, Dim, ValueId};

/// Axes and whether they stay; `None` for a reduction of nothing.
fn axes(cx: &mut NodeCx, x: ValueId) -> Result<Option<(Vec<u8>, bool)>> {
    let rank = cx.ty(x).rank();
    let since = if cx.node.op_type == "ReduceSum" { 13 } else { 18 };
    let given = cx.axes_arg(1, since)?;
    let (keep, nothing) = (cx.int("keepdims", 1) == 1, cx.int("noop_with_empty_axes", 0) == 1);
    match given {
        Some(a) if a.is_empty() && nothing => Ok(None),
        Some(a) if !a.is_empty() => Ok(Some((cx.axes(&a, rank)?, keep))),
        None if nothing => Ok(None),
        _ => Ok(Some(((0..rank as u8).collect(), keep))),
    }
}

/// `after(reduce(before(x)))`
fn reduce(
    cx: &mut NodeCx,
    kind: ReduceKind,
    before: fn(&mut NodeCx, ValueId) -> Result<ValueId>,
    after: fn(&mut NodeCx, ValueId) -> Result<ValueId>,
) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let y = before(cx, x)?;
    let y = match axes(cx, x)? {
        Some((axes, keep)) => cx.op(Reduce { kind, axes, keep }, &[y])?,
        None => y,
    };
    Ok(vec![value(after(cx, y)?)])
}

fn same(_: &mut NodeCx, x: ValueId) -> Result<ValueId> {
    Ok(x)
}

fn square(cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
    cx.binary(tersor_ir::ops::binary::BinaryKind::Mul, x, x)
}

/// `max + log Σ e^(x - max)`
fn log_sum_exp(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let Some((axes, keep)) = axes(cx, x)? else { return Ok(vec![value(x)]) };
    let max = cx.op(Reduce { kind: ReduceKind::Max, axes: axes.clone(), keep: true }, &[x])?;
    let d = cx.binary(Sub, x, max)?;
    let e = cx.unary(Exp, d)?;
    let s = cx.op(Reduce { kind: ReduceKind::Sum, axes, keep }, &[e])?;
    let l = cx.unary(Log, s)?;
    let shape = cx.ty(l).shape.to_vec();
    let max = cx.reshape(max, shape)?;
    Ok(vec![value(cx.binary(Add, l, max)?)])
}

fn arg(cx: &mut NodeCx, kind: ArgKind) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let axis = cx.axis(cx.int("axis", 0), cx.ty(x).rank())? as u8;
    let op = ArgReduce { kind, axis, keep: cx.int("keepdims", 1) == 1, last: cx.int("select_last_index", 0) == 1 };
    Ok(vec![value(cx.op(op, &[x])?)])
}

/// 1 at the first largest element along an axis, 0 elsewhere. Before opset 13 over all axes from one on, as a matrix.
fn hardmax(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let t = cx.ty(x);
    let axis = cx.axis(cx.int("axis", if cx.opset >= 13 { -1 } else { 1 }), t.rank())?;
    if cx.opset < 13 && axis + 1 < t.rank() {
        return Err(cx.unsupported("several axes (before opset 13)"));
    }
    let best = cx.op(ArgReduce { kind: ArgKind::Max, axis: axis as u8, keep: true, last: false }, &[x])?;
    let index = cx.op(Iota { len: t.shape[axis].clone(), dtype: DType::I64 }, &[])?;
    let mut along = vec![Dim::from(1); t.rank()];
    along[axis] = t.shape[axis].clone();
    let index = cx.reshape(index, along)?;
    let hit = cx.op(Compare { kind: CompareKind::Eq }, &[best, index])?;
    Ok(vec![value(cx.cast(hit, t.dtype)?)])
}

pub(super) const OPS: Topic = &[
    ("ReduceSum", |cx| reduce(cx, ReduceKind::Sum, same, same)),
    ("ReduceMean", |cx| reduce(cx, ReduceKind::Mean, same, same)),
    ("ReduceMax", |cx| reduce(cx, ReduceKind::Max, same, same)),
    ("ReduceMin", |cx| reduce(cx, ReduceKind::Min, same, same)),
    ("ReduceProd", |cx| reduce(cx, ReduceKind::Prod, same, same)),
    ("ReduceL1", |cx| reduce(cx, ReduceKind::Sum, |cx, x| cx.unary(Abs, x), same)),
    ("ReduceL2", |cx| reduce(cx, ReduceKind::Sum, square, |cx, x| cx.unary(Sqrt, x))),
    ("ReduceSumSquare", |cx| reduce(cx, ReduceKind::Sum, square, same)),
    ("ReduceLogSum", |cx| reduce(cx, ReduceKind::Sum, same, |cx, x| cx.unary(Log, x))),
    ("ReduceLogSumExp", log_sum_exp),
    ("ArgMax", |cx| arg(cx, ArgKind::Max)),
    ("Hardmax", hardmax),
    ("ArgMin", |cx| arg(cx, ArgKind::Min)),
];
