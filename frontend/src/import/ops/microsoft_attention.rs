//! The attention operators of ONNX Runtime (`com.microsoft`), whose masks are lengths, tables of what is kept, and biases.

use super::Topic;
use super::attention::{Attend, Bounds, additive, attend, beyond, from_heads, hide, plus, rotated, scale_of, to_heads};
use crate::import::Meaning;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, And, Max, Mul, Sub};
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::{Concat, Extent, Gather, Slice};
use tersor_ir::{DType, Dim, ValueId};

/// Parts of `x` along an axis, one after the other.
fn parts(cx: &mut NodeCx, x: ValueId, axis: usize, extents: [Dim; 3]) -> Result<[ValueId; 3]> {
    let (mut start, mut out) = (Dim::from(0), [x; 3]);
    for (part, len) in out.iter_mut().zip(extents) {
        *part = cx.op(Slice { axis: axis as u8, start: start.clone(), len: len.clone(), step: 1 }, &[x])?;
        start = start + len;
    }
    if start != cx.ty(x).shape[axis] {
        return Err(cx.invalid(format!("{} of which parts along axis {axis} take {start}", cx.ty(x))));
    }
    Ok(out)
}

/// The keys that a mask at input `i` leaves, as what is added to scores `[B, heads, S, T]`: numbers of keys, first keys beside them, or a
/// table of what is kept.
fn padding(cx: &mut NodeCx, i: usize, batch: &Dim, columns: &Dim, dtype: DType) -> Result<Option<ValueId>> {
    let Some(m) = cx.optional(i)? else { return Ok(None) };
    let t = cx.ty(m);
    let column = |cx: &mut NodeCx, from: Dim| -> Result<ValueId> {
        let part = cx.part(m, 0, from, batch.clone())?;
        let part = cx.cast(part, DType::I64)?;
        cx.along(part, 0, 4)
    };
    let keep = match &t.shape[..] {
        [n] if n == batch => {
            let n = column(cx, 0.into())?;
            return Ok(Some(beyond(cx, n, columns, dtype)?));
        }
        [n] if *n == batch.clone() * 2.into() => {
            let (end, start) = (column(cx, 0.into())?, column(cx, batch.clone())?);
            let key = cx.positions(columns, 3, 4, DType::I64)?;
            let (after, before) = (cx.compare(CompareKind::Ge, key, start)?, cx.compare(CompareKind::Lt, key, end)?);
            cx.binary(And, after, before)?
        }
        [b, n] => cx.reshape(m, vec![b.clone(), 1.into(), 1.into(), n.clone()])?,
        [b, s, n] => cx.reshape(m, vec![b.clone(), 1.into(), s.clone(), n.clone()])?,
        _ => return Err(cx.unsupported(format!("a mask {t} for {batch} sequences of {columns} keys"))),
    };
    let keep = if cx.ty(keep).dtype == DType::Bool { keep } else { cx.compare_scalar(CompareKind::Ne, keep, 0.0)? };
    Ok(Some(hide(cx, keep, dtype)?))
}

/// Keys and values after those of a past, and how many that has.
fn after(cx: &mut NodeCx, k: ValueId, v: ValueId, past: Option<[ValueId; 2]>) -> Result<(ValueId, ValueId, Dim)> {
    let Some([pk, pv]) = past else { return Ok((k, v, 0.into())) };
    let before = extent(cx, pk, 2)?;
    let (k, v) = (cx.op(Concat { axis: 2 }, &[pk, k])?, cx.op(Concat { axis: 2 }, &[pv, v])?);
    Ok((k, v, before))
}

/// The extent of axis `axis`.
fn extent(cx: &NodeCx, x: ValueId, axis: usize) -> Result<Dim> {
    let t = cx.ty(x);
    t.shape.get(axis).cloned().ok_or_else(|| cx.invalid(format!("an operand {t}, expected more than {axis} axes")))
}

/// Inputs `i` and `i + 1`, both or neither.
fn pair(cx: &mut NodeCx, i: usize) -> Result<Option<[ValueId; 2]>> {
    match (cx.optional(i)?, cx.optional(i + 1)?) {
        (Some(a), Some(b)) => Ok(Some([a, b])),
        (None, None) => Ok(None),
        _ => Err(cx.invalid(format!("one of inputs {i} and {} without the other", i + 1))),
    }
}

/// Heads that attend, masked by the inputs `mask` and `bias`, where the operator has one; the results, `[B, S, width]`.
fn masked(cx: &mut NodeCx, [q, k, v]: [ValueId; 3], before: Dim, mask: usize, bias: Option<usize>) -> Result<ValueId> {
    let (columns, dtype) = (cx.ty(k).shape[2].clone(), cx.ty(q).dtype);
    let batch = cx.ty(q).shape[0].clone();
    // A large negative number in ONNX Runtime; shares of what is hidden are 0 by either.
    cx.float("mask_filter_value", -10000.0);
    let mut hidden = padding(cx, mask, &batch, &columns, dtype)?;
    let bias = bias.map(|i| cx.optional(i)).transpose()?.flatten();
    if let Some(b) = bias {
        hidden = Some(plus(cx, hidden, b)?);
    }
    let bounds = Bounds { causal: cx.int("unidirectional", 0) == 1, left: -1, right: -1 };
    let scale = scale_of(cx, q)?;
    let (y, _) =
        attend(cx, [q, k, v], Attend { scale, softcap: 0.0, bounds, before, first: None, hidden, shown: None })?;
    from_heads(cx, y, 3)
}

/// The three operands packed in one, `[B, S, heads, 3, width]`, or the last two, as `[B, heads, S, width]`.
fn unpacked<const N: usize>(cx: &mut NodeCx, x: ValueId) -> Result<[ValueId; N]> {
    let t = cx.ty(x);
    let heads = cx.int("num_heads", 0).into();
    cx.equal(&t.shape[2], &heads, "a number of heads")?;
    let mut out = [x; N];
    for (i, part) in out.iter_mut().enumerate() {
        let one = cx.element(x, 3, (i as i64).into())?;
        *part = cx.transpose(one, vec![0, 2, 1, 3])?;
    }
    if t.shape[3] != Dim::from(N as i64) {
        return Err(cx.invalid(format!("{t}, expected {N} operands along axis 3")));
    }
    Ok(out)
}

fn multi_head(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, key, val, bias) = (cx.input(0)?, cx.optional(1)?, cx.optional(2)?, cx.optional(3)?);
    if cx.is_given(8) || cx.is_given(9) || cx.wants(3) {
        return Err(cx.unsupported("a cache in place, beams, or the scores as a result"));
    }
    let rank = |cx: &NodeCx, v: Option<ValueId>| v.map_or(0, |v| cx.ty(v).rank());
    let [q, k, v] = match (cx.ty(x).rank(), rank(cx, key), key, val) {
        (5, ..) if bias.is_none() => unpacked(cx, x)?,
        (3, 5, Some(kv), None) if bias.is_none() => {
            let [k, v] = unpacked(cx, kv)?;
            [to_heads(cx, x, "num_heads")?, k, v]
        }
        (3, 3 | 4, Some(k), Some(v)) => {
            let mut all = [x, k, v];
            if let Some(b) = bias {
                let own = [extent(cx, x, 2)?, extent(cx, k, 2)?, extent(cx, v, 2)?];
                let biases = parts(cx, b, 0, own)?;
                for (v, b) in all.iter_mut().zip(biases) {
                    *v = cx.binary(Add, *v, b)?;
                }
            }
            let [q, k, v] = all;
            [to_heads(cx, q, "num_heads")?, to_heads(cx, k, "num_heads")?, to_heads(cx, v, "num_heads")?]
        }
        _ => return Err(cx.unsupported("operands of these numbers of axes")),
    };
    let past = pair(cx, 6)?;
    let (k, v, before) = after(cx, k, v, past)?;
    let y = masked(cx, [q, k, v], before, 4, Some(5))?;
    Ok([y, k, v].map(value).into())
}

/// The projections of one input, `[B, S, in]` by `[in, q + k + v]`.
fn packed(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, w, bias) = (cx.input(0)?, cx.input(1)?, cx.optional(2)?);
    if cx.int("do_rotary", 0) != 0 || cx.is_given(6) {
        return Err(cx.unsupported("rotary positions or a cache in place"));
    }
    let mut qkv = cx.matmul(x, w, false)?;
    if let Some(b) = bias {
        qkv = cx.binary(Add, qkv, b)?;
    }
    heads_of_projection(cx, qkv, 3, 4, Some(5))
}

/// The heads of projections side by side, with a mask, a past and a bias at the inputs of these numbers.
pub(super) fn heads_of_projection(
    cx: &mut NodeCx,
    qkv: ValueId,
    mask: usize,
    past: usize,
    bias: Option<usize>,
) -> Result<Vec<Meaning>> {
    let width = extent(cx, qkv, 2)?;
    let widths = match cx.ints("qkv_hidden_sizes").as_deref() {
        None | Some([]) => {
            let one = width.exact_div(&3.into()).ok_or_else(|| cx.invalid(format!("three operands in {width}")))?;
            [one.clone(), one.clone(), one]
        }
        Some(&[q, k, v]) => [q, k, v].map(Dim::from),
        Some(other) => return Err(cx.invalid(format!("{} widths in qkv_hidden_sizes", other.len()))),
    };
    let [q, k, v] = parts(cx, qkv, 2, widths)?;
    let [q, k, v] = [to_heads(cx, q, "num_heads")?, to_heads(cx, k, "num_heads")?, to_heads(cx, v, "num_heads")?];
    let both = match cx.optional(past)? {
        Some(p) => Some([cx.element(p, 0, 0.into())?, cx.element(p, 0, 1.into())?]),
        None => None,
    };
    let (k, v, before) = after(cx, k, v, both)?;
    let y = masked(cx, [q, k, v], before, mask, bias)?;
    let mut results = vec![value(y)];
    if cx.wants(1) {
        results.push(value(cx.stack(&[k, v], 0)?));
    }
    Ok(results)
}

/// The cache after a step: of each sequence the first `first` rows of `old`, the rows `new`, then zeros, in all `columns`; `first` is
/// `[B, 1, 1, 1]`.
fn placed(cx: &mut NodeCx, old: ValueId, new: ValueId, first: ValueId, columns: &Dim) -> Result<ValueId> {
    let (before, [b, h, s, d]) = (extent(cx, old, 2)?, [0, 1, 2, 3].map(|i| cx.ty(new).shape[i].clone()));
    let zero = cx.scalar_like(new, 0.0);
    let zero = cx.broadcast(zero, vec![b.clone(), h.clone(), 1.into(), d.clone()])?;
    let rows = cx.concat(&[old, new, zero], 2)?;
    let end = before.clone() + s.clone();
    let (heads, each) = (b.clone() * h.clone(), end.clone() + 1.into());
    let rows = cx.reshape(rows, vec![heads.clone() * each.clone(), d])?;
    let [before, s, end, each] = [before, s, end, each].map(|of| cx.op(Extent { of }, &[]));
    let to = cx.positions(columns, 2, 3, DType::I64)?;
    let first = cx.reshape(first, vec![b.clone(), 1.into(), 1.into()])?;
    let i = cx.binary(Sub, to, first)?;
    let (kept, added) = (cx.compare(CompareKind::Lt, to, first)?, cx.compare(CompareKind::Lt, i, s?)?);
    let moved = cx.binary(Add, i, before?)?;
    let from = cx.select(added, moved, end?)?;
    let from = cx.select(kept, to, from)?;
    let head = cx.positions(&heads, 0, 1, DType::I64)?;
    let head = cx.reshape(head, vec![b, h, 1.into()])?;
    let start = cx.binary(Mul, head, each?)?;
    let at = cx.binary(Add, start, from)?;
    cx.op(Gather { axis: 0 }, &[rows, at])
}

/// How many keys there are after a step: as many as the cache has place for, or as the longest sequence has.
fn present(cx: &mut NodeCx, before: &Dim, length: &Dim) -> Result<Dim> {
    let whole = before.clone() + length.clone();
    if cx.known(6).is_none() {
        return Ok(whole);
    }
    let total = <[Dim; 1]>::try_from(cx.dims(6)?);
    let [total] = total.map_err(|t| cx.invalid(format!("{} total lengths, expected one", t.len())))?;
    if (whole - total.clone()).as_const().is_some_and(|n| n < 0) {
        return Err(cx.invalid(format!("a total length of {total} with {length} tokens and a cache of {before}")));
    }
    Ok(total.max(before.clone()))
}

/// Queries of several heads for each of the keys. The cache may have more place than a sequence has keys: input 5 says how many each has
/// with those of this step, less one. A prompt shorter than the longest is padded at its end.
fn grouped(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, past) = (cx.input(0)?, pair(cx, 3)?);
    let (heads, groups) = (cx.int("num_heads", 0), cx.int("kv_num_heads", 0));
    if heads < 1 || groups < 1 {
        return Err(cx.invalid(format!("{heads} heads, {groups} of keys")));
    }
    let smooth = cx.int("smooth_softmax", 0) > 0 || cx.is_given(11);
    if smooth || cx.is_given(12) || cx.wants(3) || cx.int("qk_output", 0) != 0 {
        return Err(cx.unsupported("sinks, scales of a quantized cache, or the scores as a result"));
    }
    let [q, k, v] = match pair(cx, 1)? {
        Some([k, v]) => [x, k, v],
        None => {
            let width = extent(cx, x, 2)?;
            let one = width.exact_div(&(heads + 2 * groups).into());
            let one = one.ok_or_else(|| cx.invalid(format!("{heads} heads and {groups} pairs in {width}")))?;
            let rest = one.clone() * groups.into();
            parts(cx, x, 2, [one * heads.into(), rest.clone(), rest])?
        }
    };
    let [mut q, mut k, mut v] =
        [to_heads(cx, q, "num_heads")?, to_heads(cx, k, "kv_num_heads")?, to_heads(cx, v, "kv_num_heads")?];
    let [batch, length] = [0, 2].map(|a| cx.ty(q).shape[a].clone());
    let before = match past {
        Some([p, _]) => extent(cx, p, 2)?,
        None => 0.into(),
    };
    let columns = present(cx, &before, &length)?;
    let last = cx.input(5)?;
    let count = cx.cast(last, DType::I64)?;
    let count = cx.with_scalar(Add, count, 1.0)?;
    let count = cx.reshape(count, vec![batch.clone(), 1.into(), 1.into(), 1.into()])?;
    // Whether every sequence is known to fill the cache, so that its keys just follow.
    let end = before.clone() + length.clone();
    let full = cx.known(5).is_some_and(|k| k.items.iter().all(|n| n.clone() + 1.into() == end));
    let first = if full || past.is_none() {
        None
    } else {
        let s = cx.op(Extent { of: length.clone() }, &[])?;
        let first = cx.binary(Sub, count, s)?;
        Some(cx.with_scalar(Max, first, 0.0)?)
    };
    if cx.int("do_rotary", 0) != 0 {
        let ids = match cx.optional(9)? {
            Some(ids) => ids,
            None => {
                let start = match first {
                    Some(n) => cx.reshape(n, vec![batch.clone(), 1.into()])?,
                    None => cx.op(Extent { of: before.clone() }, &[])?,
                };
                let p = cx.positions(&length, 1, 2, DType::I64)?;
                let p = cx.binary(Add, p, start)?;
                cx.broadcast(p, vec![batch, length])?
            }
        };
        (q, k) = (turned(cx, q, ids)?, turned(cx, k, ids)?);
    }
    if let (Some([pk, pv]), Some(n)) = (past, first) {
        let of_values = extent(cx, pv, 2)?;
        cx.equal(&of_values, &before, "a cache of values of length")?;
        (k, v) = (placed(cx, pk, k, n, &columns)?, placed(cx, pv, v, n, &columns)?);
    } else {
        (k, v, _) = after(cx, k, v, past)?;
    }
    let (columns, dtype) = (cx.ty(k).shape[2].clone(), cx.ty(q).dtype);
    let mut hidden = if full { None } else { Some(beyond(cx, count, &columns, dtype)?) };
    if let Some(b) = cx.optional(10)? {
        let b = additive(cx, b, &columns, dtype)?;
        hidden = Some(plus(cx, hidden, b)?);
    }
    let window = cx.int("local_window_size", -1);
    let bounds = Bounds { causal: true, left: if window > 0 { window - 1 } else { -1 }, right: -1 };
    let scale = match cx.float("scale", 0.0) {
        0.0 => 1.0 / cx.fixed(&cx.ty(q).shape[3].clone(), "the width of a head").map(|n| (n as f64).sqrt())?,
        s => s,
    };
    let softcap = cx.float("softcap", 0.0);
    let (y, _) = attend(cx, [q, k, v], Attend { scale, softcap, bounds, before, first, hidden, shown: None })?;
    Ok([from_heads(cx, y, 3)?, k, v].map(value).into())
}

/// Heads turned by the tables at inputs 7 and 8.
fn turned(cx: &mut NodeCx, x: ValueId, ids: ValueId) -> Result<ValueId> {
    rotated(cx, x, Some(ids), [7, 8], "rotary_interleaved")
}

pub(super) const OPS: Topic = &[
    ("com.microsoft:Attention", packed),
    ("com.microsoft:GroupQueryAttention", grouped),
    ("com.microsoft:MultiHeadAttention", multi_head),
];
