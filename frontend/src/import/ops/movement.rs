//! Operators that move data or change its shape.

use super::Topic;
use crate::import::build::done;
use crate::import::node::{NodeCx, value};
use crate::import::{Known, Meaning, extents};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::pad::PadMode;
use tersor_ir::ops::shape::broadcast;
use tersor_ir::ops::{Compare, Concat, CumSum, Gather, Iota, Pad, Real, Select, Slice};
use tersor_ir::{DType, Dim, Tensor, Type, ValueId};

fn reshape(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let from = cx.ty(x);
    let mut to = match cx.opset {
        5.. => cx.dims(1)?,
        _ => cx.ints("shape").unwrap_or_default().into_iter().map(Dim::Const).collect(),
    };
    if cx.int("allowzero", 0) == 0 {
        for (i, d) in to.iter_mut().enumerate().filter(|(_, d)| **d == Dim::Const(0)) {
            *d =
                from.shape.get(i).cloned().ok_or_else(|| {
                    cx.invalid(format!("extent {i} is to be kept, the input has {} axes", from.rank()))
                })?;
        }
    }
    let open: Vec<usize> = (0..to.len()).filter(|&i| to[i] == Dim::Const(-1)).collect();
    match open[..] {
        [] => {}
        [i] => {
            to[i] = 1.into();
            let rest = to.iter().fold(Dim::from(1), |a, d| a * d.clone());
            let all = from.elements();
            let q = if rest == Dim::Const(0) {
                Some(0.into())
            } else {
                all.exact_div(&rest).or_else(|| factor(&from, &to))
            };
            to[i] = q.ok_or_else(|| cx.invalid(format!("{all} elements do not divide into {rest}")))?;
        }
        _ => return Err(cx.invalid("more than one extent is -1")),
    }
    if to.iter().any(|d| d.as_const().is_some_and(|d| d < 0)) {
        return Err(cx.invalid("a negative extent"));
    }
    done(cx.reshape(x, to)?)
}

/// The open extent when the product has several terms: common factors are taken off one by one.
fn factor(from: &Type, to: &[Dim]) -> Option<Dim> {
    let mut left: Vec<Dim> = from.shape.to_vec();
    let mut constant = 1;
    for d in to {
        match (left.iter().position(|l| l == d), d.as_const()) {
            (Some(i), _) => {
                left.remove(i);
            }
            (None, Some(c)) => constant *= c,
            (None, None) => {
                let i = left.iter().position(|l| l.exact_div(d).is_some())?;
                left[i] = left[i].exact_div(d)?;
            }
        }
    }
    left.into_iter().fold(Dim::from(1), |a, d| a * d).exact_div(&constant.into())
}

fn squeeze(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let t = cx.ty(x);
    let axes = match cx.axes_arg(1, 13)? {
        Some(a) => cx.axes(&a, t.rank())?,
        None => (0..t.rank()).filter(|&i| t.shape[i] == Dim::Const(1)).map(|i| i as u8).collect(),
    };
    for &a in &axes {
        cx.equal(&t.shape[a as usize], &Dim::from(1), &format!("axis {a} to be removed has extent"))?;
    }
    let shape = (0..t.rank()).filter(|&i| !axes.contains(&(i as u8))).map(|i| t.shape[i].clone()).collect();
    done(cx.reshape(x, shape)?)
}

fn unsqueeze(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let t = cx.ty(x);
    let axes = cx.axes_arg(1, 13)?.ok_or_else(|| cx.invalid("no axes"))?;
    let axes = cx.axes(&axes, t.rank() + axes.len())?;
    let mut shape = t.shape.to_vec();
    axes.iter().for_each(|&a| shape.insert(a as usize, 1.into()));
    done(cx.reshape(x, shape)?)
}

fn transpose(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let rank = cx.ty(x).rank();
    let perm = match cx.ints("perm") {
        Some(p) => p.iter().map(|&a| cx.axis(a, rank).map(|a| a as u8)).collect::<Result<Vec<_>>>()?,
        None => (0..rank as u8).rev().collect(),
    };
    if perm.len() != rank {
        return Err(cx.invalid(format!("{} axes are permuted, the input has {rank}", perm.len())));
    }
    done(cx.transpose(x, perm)?)
}

fn concat(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let all = cx.all_inputs()?;
    let first = *all.first().ok_or_else(|| cx.invalid("no inputs"))?;
    let axis = cx.axis(cx.int("axis", i64::from(cx.opset < 4)), cx.ty(first).rank())?;
    done(if all.len() == 1 { first } else { cx.op(Concat { axis: axis as u8 }, &all)? })
}

/// One axis of ONNX `Slice`, with positions clamped as it says (Slice-13).
fn slice_axis(cx: &mut NodeCx, x: ValueId, axis: usize, start: &Dim, end: &Dim, step: i64) -> Result<ValueId> {
    let extent = cx.ty(x).shape[axis].clone();
    if step == 0 {
        return Err(cx.invalid("step 0"));
    }
    let place = |d: &Dim, low: i64, high: Dim| -> Option<Dim> {
        let c = match d.as_const() {
            None => return Some(d.clone()),
            Some(c) => c,
        };
        if let Some(n) = extent.as_const() {
            return Some((if c < 0 { c.saturating_add(n) } else { c }).clamp(low, high.as_const()?).into());
        }
        // An extent that the data decide may end before any number.
        if cx.is_bound(&extent) {
            return Some(if c < 0 { (extent.clone() + c.into()).max(low.into()) } else { high.min(c.into()) });
        }
        // With an open extent, large numbers mean the end, and small ones are taken to lie inside.
        match c {
            c if c >= 1 << 24 => Some(high),
            c if c <= -(1 << 24) => Some(low.into()),
            c if c < 0 => Some(extent.clone() + c.into()),
            c => Some(c.into()),
        }
    };
    let (start, len) = if step > 0 {
        let (s, e) = (place(start, 0, extent.clone()), place(end, 0, extent.clone()));
        let (s, e) = s.zip(e).ok_or_else(|| cx.unsupported("positions"))?;
        (s.clone(), (e - s).ceil_div(step))
    } else {
        let high = extent.clone() - 1.into();
        let (s, e) = (place(start, -1, high.clone()), place(end, -1, high));
        let (s, e) = s.zip(e).ok_or_else(|| cx.unsupported("positions"))?;
        (s.clone(), (s - e).ceil_div(step.saturating_neg()))
    };
    let len = if len.as_const().is_some_and(|n| n < 0) || cx.is_bound(&len) { len.max(0.into()) } else { len };
    let start = if len == Dim::Const(0) { Dim::from(0) } else { start };
    if start == Dim::Const(0) && len == extent && step == 1 {
        return Ok(x);
    }
    cx.op(Slice { axis: axis as u8, start, len, step }, &[x])
}

fn slice(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let mut x = cx.input(0)?;
    let rank = cx.ty(x).rank();
    if cx.opset >= 10 && (cx.known(1).is_none() || cx.known(2).is_none()) {
        return computed_slices(cx, x);
    }
    let (starts, ends, axes, steps) = if cx.opset >= 10 {
        (cx.integers(1)?, cx.integers(2)?, cx.optional_numbers(3)?, cx.optional_numbers(4)?)
    } else {
        let list = |name: &str| cx.ints(name).unwrap_or_default().into_iter().map(Dim::Const).collect();
        (list("starts"), list("ends"), cx.ints("axes"), None)
    };
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(cx.invalid("starts, ends, axes and steps differ in number"));
    }
    cx.axes(&axes, rank)?;
    for i in 0..starts.len() {
        let axis = cx.axis(axes[i], rank)?;
        x = slice_axis(cx, x, axis, &starts[i], &ends[i], steps[i])?;
    }
    done(x)
}

/// Slices by positions that are computed.
fn computed_slices(cx: &mut NodeCx, mut x: ValueId) -> Result<Vec<Meaning>> {
    let (rank, starts, ends) = (cx.ty(x).rank(), cx.input(1)?, cx.input(2)?);
    let n = cx.ty(starts).elements();
    if cx.ty(ends).elements() != n || n.as_const().is_none_or(|n| n > rank as i64) {
        return Err(cx.undecided(1, format!("positions {} and {}", cx.ty(starts), cx.ty(ends))));
    }
    let (axes, steps) = (cx.optional_numbers(3)?, cx.optional_numbers(4)?);
    let axes = axes.unwrap_or_else(|| (0..n.as_const().unwrap_or(0)).collect());
    let steps = steps.unwrap_or_else(|| vec![1; axes.len()]);
    if n != Dim::from(axes.len()) || steps.len() != axes.len() || steps.contains(&0) {
        return Err(cx.invalid("starts, ends, axes and steps differ in number, or a step is 0"));
    }
    cx.axes(&axes, rank)?;
    for (i, (&axis, &step)) in axes.iter().zip(&steps).enumerate() {
        let axis = cx.axis(axis, rank)?;
        let (start, end) = (cx.element(starts, 0, i.into())?, cx.element(ends, 0, i.into())?);
        x = super::selection::computed_slice(cx, x, axis, start, end, step)?;
    }
    done(x)
}

fn split(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let t = cx.ty(x);
    let axis = cx.axis(cx.int("axis", 0), t.rank())?;
    let extent = t.shape[axis].clone();
    let sizes = if cx.opset >= 13 || cx.opset == 1 && cx.input_count() > 1 {
        if extent != Dim::Const(0) && cx.known(1).is_none() && cx.optional(1)?.is_some() {
            return computed_parts(cx, x, axis);
        }
        cx.optional_numbers(1)?
    } else {
        cx.ints("split")
    };
    let sizes: Vec<Dim> = match sizes {
        Some(s) => s.into_iter().map(Dim::Const).collect(),
        None => {
            let parts = cx.int("num_outputs", cx.node.output.len() as i64);
            if parts < 1 || parts as usize != cx.node.output.len() {
                return Err(cx.invalid(format!("{parts} parts for {} outputs", cx.node.output.len())));
            }
            let n = extent.as_const().ok_or_else(|| cx.unsupported("equal parts of an extent that is not known"))?;
            let each = (n + parts - 1) / parts;
            (0..parts).map(|i| Dim::Const(each.min(n - i * each).max(0))).collect()
        }
    };
    let total = sizes.iter().fold(Dim::from(0), |a, d| a + d.clone());
    if sizes.iter().any(|d| d.as_const().is_some_and(|d| d < 0)) {
        return Err(cx.invalid("a part of negative extent"));
    }
    cx.equal(&total, &extent, "all parts together have extent")?;
    let mut start = Dim::from(0);
    let mut out = vec![];
    for len in sizes {
        let whole = start == Dim::Const(0) && len == extent;
        let op = Slice { axis: axis as u8, start: start.clone(), len: len.clone(), step: 1 };
        out.push(value(if whole { x } else { cx.op(op, &[x])? }));
        start = start + len;
    }
    Ok(out)
}

/// Parts of extents that are computed: the first ends after so many elements, each of the others begins where the one before ends.
fn computed_parts(cx: &mut NodeCx, x: ValueId, axis: usize) -> Result<Vec<Meaning>> {
    let sizes = cx.input(1)?;
    cx.equal(&cx.ty(sizes).elements(), &cx.node.output.len().into(), "extents of parts are")?;
    let (mut out, mut end) = (vec![], None);
    for i in 0..cx.node.output.len() {
        let size = cx.element(sizes, 0, i.into())?;
        let size = cx.cast(size, DType::I64)?;
        let (part, next) = match end {
            None => (cx.prefix(x, axis, size)?, size),
            Some(start) => {
                let next = cx.binary(BinaryKind::Add, start, size)?;
                (super::selection::computed_slice(cx, x, axis, start, next, 1)?, next)
            }
        };
        out.push(value(part));
        end = Some(next);
    }
    Ok(out)
}

fn gather(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, i) = (cx.input(0)?, cx.input(1)?);
    let axis = cx.axis(cx.int("axis", 0), cx.ty(x).rank())?;
    super::indexing::inside(cx, i, &cx.ty(x).shape[axis])?;
    // One constant position is a slice, and so is the number of a repetition.
    let n = cx.ty(x).shape[axis].as_const();
    let place = |k: &Known| match (&k.items[..], n) {
        ([Dim::Const(p)], Some(n)) => Some(Dim::from(if p.is_negative() { p + n } else { *p })),
        ([d], _) if cx.importer.is_counter(d) => Some(d.clone()),
        _ => None,
    };
    if let Some(k) = cx.known(1)
        && let Some(start) = place(&k)
    {
        let s = cx.part(x, axis, start, 1.into())?;
        let mut shape = cx.ty(s).shape.to_vec();
        if k.shape.is_empty() {
            shape.remove(axis);
        }
        return done(cx.reshape(s, shape)?);
    }
    done(cx.op(Gather { axis: axis as u8 }, &[x, i])?)
}

fn expand(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let (t, to) = (cx.ty(x), cx.dims(1)?);
    if let Some((a, b)) = extents::broadcast(&[&t.shape, &to]) {
        cx.equal(&a, &b, "an axis of extent")?;
    }
    let shape = broadcast(&[&t.shape, &to]).map_err(|d| cx.invalid(d.message))?;
    done(cx.broadcast(x, shape.to_vec())?)
}

fn tile(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let (t, mut repeats) = (cx.ty(x), cx.dims(1)?);
    if cx.opset < 6 {
        let axes = cx.numbers(2)?;
        let ([n], [axis]) = (&repeats[..], &axes[..]) else { return Err(cx.invalid("takes one number and one axis")) };
        let axis = cx.axis(*axis, t.rank())?;
        repeats = (0..t.rank()).map(|i| if i == axis { n.clone() } else { 1.into() }).collect();
    }
    if repeats.len() != t.rank() {
        return Err(cx.invalid(format!("{} repeats for {} axes", repeats.len(), t.rank())));
    }
    // [a, b] -> [1, a, 1, b] -> [r, a, s, b] -> [r*a, s*b]
    let (mut split, mut wide, mut joined) = (vec![], vec![], vec![]);
    for (d, r) in t.shape.iter().zip(&repeats) {
        split.extend([1.into(), d.clone()]);
        wide.extend([r.clone(), d.clone()]);
        joined.push(r.clone() * d.clone());
    }
    let v = cx.reshape(x, split)?;
    let v = cx.broadcast(v, wide)?;
    done(cx.reshape(v, joined)?)
}

fn pad(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let mut x = cx.input(0)?;
    let rank = cx.ty(x).rank();
    let (pads, fill) = if cx.opset >= 11 {
        (cx.numbers(1)?, cx.constant_scalar(2)?.unwrap_or(0.0))
    } else {
        (cx.ints(if cx.opset == 1 { "paddings" } else { "pads" }).unwrap_or_default(), cx.float("value", 0.0))
    };
    let axes = if cx.opset >= 18 { cx.optional_numbers(3)? } else { None };
    let axes = axes.unwrap_or_else(|| (0..rank as i64).collect());
    if pads.len() != 2 * axes.len() {
        return Err(cx.invalid(format!("{} pads for {} axes", pads.len(), axes.len())));
    }
    let mode = match cx.string("mode", "constant").as_str() {
        "constant" => PadMode::Constant,
        "reflect" => PadMode::Reflect,
        "edge" => PadMode::Edge,
        "wrap" => PadMode::Wrap,
        other => return Err(cx.invalid(format!("mode {other}"))),
    };
    let (mut lo, mut hi) = (vec![0; rank], vec![0; rank]);
    for (i, &a) in axes.iter().enumerate() {
        let a = cx.axis(a, rank)?;
        (lo[a], hi[a]) = (pads[i], pads[axes.len() + i]);
    }
    // Negative pads cut off.
    for a in 0..rank {
        let (cut, end) = ((-lo[a]).max(0), (-hi[a]).max(0));
        if cut + end > 0 {
            let len = cx.ty(x).shape[a].clone() - (cut + end).into();
            x = cx.op(Slice { axis: a as u8, start: cut.into(), len, step: 1 }, &[x])?;
            (lo[a], hi[a]) = (lo[a].max(0), hi[a].max(0));
        }
    }
    if lo.iter().chain(&hi).all(|&p| p == 0) {
        return done(x);
    }
    done(cx.op(Pad { lo, hi, mode, value: Real(fill) }, &[x])?)
}

fn depth_to_space(cx: &mut NodeCx, to_depth: bool) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let (t, b) = (cx.ty(x), cx.int("blocksize", 0));
    if t.rank() != 4 || b < 1 {
        return Err(cx.invalid(format!("block {b} of a tensor of rank {}", t.rank())));
    }
    let [n, c, h, w] = [0, 1, 2, 3].map(|i| t.shape[i].clone());
    let part = |d: &Dim, by: i64| {
        d.exact_div(&by.into()).ok_or_else(|| cx.invalid(format!("extent {d} does not divide by {by}")))
    };
    let block = Dim::from(b);
    let (split, perm, joined): (Vec<Dim>, Vec<u8>, Vec<Dim>) = if to_depth {
        let (h, w) = (part(&h, b)?, part(&w, b)?);
        let perm = if cx.string("mode", "DCR") == "CRD" { vec![0, 1, 3, 5, 2, 4] } else { vec![0, 3, 5, 1, 2, 4] };
        (
            vec![n.clone(), c.clone(), h.clone(), block.clone(), w.clone(), block],
            perm,
            vec![n, c * (b * b).into(), h, w],
        )
    } else {
        let c = part(&c, b * b)?;
        let out = vec![n.clone(), c.clone(), h.clone() * block.clone(), w.clone() * block.clone()];
        if cx.string("mode", "DCR") == "CRD" {
            (vec![n, c, block.clone(), block, h, w], vec![0, 1, 4, 2, 5, 3], out)
        } else {
            (vec![n, block.clone(), block, c, h, w], vec![0, 3, 4, 1, 5, 2], out)
        }
    };
    let v = cx.reshape(x, split)?;
    let v = cx.transpose(v, perm)?;
    done(cx.reshape(v, joined)?)
}

fn trilu(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let t = cx.ty(x);
    let k = cx.optional_numbers(1)?.and_then(|k| k.first().copied()).unwrap_or(0);
    if t.rank() < 2 {
        return Err(cx.invalid(format!("a tensor of rank {}", t.rank())));
    }
    let (rows, cols) = (t.shape[t.rank() - 2].clone(), t.shape[t.rank() - 1].clone());
    let row = cx.op(Iota { len: rows.clone(), dtype: DType::I64 }, &[])?;
    let row = cx.with_scalar(BinaryKind::Add, row, k as f64)?;
    let row = cx.reshape(row, vec![rows, 1.into()])?;
    let col = cx.op(Iota { len: cols, dtype: DType::I64 }, &[])?;
    let kind = if cx.int("upper", 1) == 1 { CompareKind::Ge } else { CompareKind::Le };
    let keep = cx.op(Compare { kind }, &[col, row])?;
    let zero = cx.scalar_like(x, 0.0);
    done(cx.op(Select {}, &[keep, x, zero])?)
}

fn cumsum(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let axis = cx.numbers(1)?;
    let axis = cx.axis(axis.first().copied().unwrap_or(0), cx.ty(x).rank())?;
    done(cx.op(
        CumSum { axis: axis as u8, exclusive: cx.int("exclusive", 0) == 1, reverse: cx.int("reverse", 0) == 1 },
        &[x],
    )?)
}

fn one_hot(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (i, values) = (cx.input(0)?, cx.input(2)?);
    let depth = cx.constant_scalar(1)?.ok_or_else(|| cx.invalid("input 1 is missing"))? as i64;
    let rank = cx.ty(i).rank();
    let axis = cx.axis(cx.int("axis", -1), rank + 1)?;
    let index = cx.cast(i, DType::I64)?;
    // Negative indices count from the end.
    let zero = cx.scalar_like(index, 0.0);
    let negative = cx.op(Compare { kind: CompareKind::Lt }, &[index, zero])?;
    let wrapped = cx.with_scalar(BinaryKind::Add, index, depth as f64)?;
    let index = cx.op(Select {}, &[negative, wrapped, index])?;
    let mut shape = cx.ty(index).shape.to_vec();
    shape.insert(axis, 1.into());
    let index = cx.reshape(index, shape)?;
    let classes = cx.op(Iota { len: depth.into(), dtype: DType::I64 }, &[])?;
    let mut along = vec![Dim::from(1); rank + 1];
    along[axis] = depth.into();
    let classes = cx.reshape(classes, along)?;
    let hit = cx.op(Compare { kind: CompareKind::Eq }, &[index, classes])?;
    let part = |cx: &mut NodeCx, at: i64| -> Result<ValueId> {
        let s = cx.op(Slice { axis: 0, start: at.into(), len: 1.into(), step: 1 }, &[values])?;
        cx.reshape(s, vec![])
    };
    let (off, on) = (part(cx, 0)?, part(cx, 1)?);
    done(cx.op(Select {}, &[hit, on, off])?)
}

fn eye_like(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let t = cx.ty(x);
    let Some(&[r, c]) = t.static_shape().as_deref().and_then(|s| <&[usize; 2]>::try_from(s).ok()) else {
        return Err(cx.unsupported("a shape that is not two known extents"));
    };
    let dtype = match cx.int("dtype", 0) {
        0 => t.dtype,
        n => crate::tensor::dtype(n as i32).ok_or_else(|| cx.unsupported(format!("element type {n}")))?,
    };
    if dtype == DType::Str {
        return Err(cx.invalid("a matrix of strings"));
    }
    if r.saturating_mul(c) > 1 << 24 {
        return Err(cx.unsupported("more than 2^24 elements"));
    }
    let k = cx.int("k", 0);
    let on = |i: usize| (i % c) as i128 == (i / c) as i128 + i128::from(k);
    let values: Vec<f64> = (0..r * c).map(|i| f64::from(u8::from(on(i)))).collect();
    let eye = Tensor::from_f64(dtype, [r, c], &values);
    done(cx.emit_constant(&eye))
}

pub(super) const OPS: Topic = &[
    ("Reshape", reshape),
    ("Squeeze", squeeze),
    ("Unsqueeze", unsqueeze),
    ("Transpose", transpose),
    ("Concat", concat),
    ("Slice", slice),
    ("Split", split),
    ("Gather", gather),
    ("Expand", expand),
    ("Tile", tile),
    ("Pad", pad),
    ("DepthToSpace", |cx| depth_to_space(cx, false)),
    ("SpaceToDepth", |cx| depth_to_space(cx, true)),
    ("Trilu", trilu),
    ("CumSum", cumsum),
    ("OneHot", one_hot),
    ("EyeLike", eye_like),
];
