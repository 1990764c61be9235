//! `Attention` and `RotaryEmbedding` (since opset 23).

use super::Topic;
use crate::import::Meaning;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, And, Div, Mul, Sub};
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::pad::PadMode;
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::unary::UnaryKind::Tanh;
use tersor_ir::ops::{Attention, Concat, Extent, Gather, Pad, Real, Rope, Select, Slice, Softmax};
use tersor_ir::{DType, Dim, Op, Tensor, ValueId};

/// `[B, S, H*D]` as `[B, H, S, D]`; four axes stay.
pub(super) fn to_heads(cx: &mut NodeCx, x: ValueId, heads: &str) -> Result<ValueId> {
    let t = cx.ty(x);
    match t.rank() {
        4 => Ok(x),
        3 => {
            let h = cx.int(heads, 0);
            let d = if h > 0 { t.shape[2].exact_div(&h.into()) } else { None };
            let d = d.ok_or_else(|| cx.invalid(format!("{} elements in {heads} = {h} heads", t.shape[2])))?;
            heads_of(cx, x, h.into(), d)
        }
        rank => Err(cx.invalid(format!("an operand of rank {rank}, expected 3 or 4"))),
    }
}

/// `[B, S, H*D]` as `[B, H, S, D]`.
pub(super) fn heads_of(cx: &mut NodeCx, x: ValueId, heads: Dim, d: Dim) -> Result<ValueId> {
    let t = cx.ty(x);
    let split = cx.reshape(x, vec![t.shape[0].clone(), t.shape[1].clone(), heads, d])?;
    cx.transpose(split, vec![0, 2, 1, 3])
}

/// The inverse of [`to_heads`] for operands that had three axes.
pub(super) fn from_heads(cx: &mut NodeCx, y: ValueId, rank: usize) -> Result<ValueId> {
    if rank == 4 {
        return Ok(y);
    }
    let y = cx.transpose(y, vec![0, 2, 1, 3])?;
    let t = cx.ty(y);
    cx.reshape(y, vec![t.shape[0].clone(), t.shape[1].clone(), t.shape[2].clone() * t.shape[3].clone()])
}

/// 0 where a condition holds, else negative infinity.
pub(super) fn hide(cx: &mut NodeCx, keep: ValueId, dtype: DType) -> Result<ValueId> {
    let zero = cx.emit_constant(&Tensor::scalar(dtype, 0.0));
    let hidden = cx.emit_constant(&Tensor::scalar(dtype, f64::NEG_INFINITY));
    cx.op(Select {}, &[keep, zero, hidden])
}

/// What each query sees: bounds on `query + offset - key`, none where negative.
pub(super) struct Bounds {
    pub causal: bool,
    pub left: i64,
    pub right: i64,
}

impl Bounds {
    fn none(&self) -> bool {
        !self.causal && self.left < 0 && self.right < 0
    }

    /// The mask of the bounds, `[S, T]` or with a batch axis of the offset before it.
    fn mask(&self, cx: &mut NodeCx, rows: &Dim, columns: &Dim, offset: ValueId, dtype: DType) -> Result<ValueId> {
        let rank = cx.ty(offset).rank().max(2);
        let row = cx.positions(rows, rank - 2, rank, DType::I64)?;
        let row = cx.binary(Add, row, offset)?;
        let column = cx.positions(columns, rank - 1, rank, DType::I64)?;
        let ahead = cx.binary(Sub, row, column)?;
        let mut keep: Option<ValueId> = None;
        let least = if self.causal { Some(0) } else { (self.right >= 0).then_some(-self.right) };
        let bounds = [(CompareKind::Ge, least), (CompareKind::Le, (self.left >= 0).then_some(self.left))];
        for (kind, bound) in bounds.into_iter().filter_map(|(k, b)| Some((k, b?))) {
            let holds = cx.compare_scalar(kind, ahead, bound as f64)?;
            keep = Some(match keep {
                Some(k) => cx.binary(And, k, holds)?,
                None => holds,
            });
        }
        let keep = keep.ok_or_else(|| cx.invalid("no bounds"))?;
        hide(cx, keep, dtype)
    }
}

/// The mask as what is added to scores, as wide as the keys: what it does not reach is hidden. Repeated it need not be, since it broadcasts.
pub(super) fn additive(cx: &mut NodeCx, mask: ValueId, columns: &Dim, dtype: DType) -> Result<ValueId> {
    let whole = cx.ty(mask).shape.last() == Some(columns);
    let repeated = cx.importer.b.func.def_node(mask).filter(|n| whole && matches!(n.op, Op::Broadcast(_)));
    let mask = repeated.map_or(mask, |n| n.operands[0]);
    let mask = if cx.ty(mask).dtype == DType::Bool { hide(cx, mask, dtype)? } else { mask };
    let t = cx.ty(mask);
    let Some(last) = t.shape.last() else { return Ok(mask) };
    if last == columns || *last == Dim::from(1) {
        return Ok(mask);
    }
    let (Some(have), Some(n)) = (last.as_const(), columns.as_const()) else { return Ok(mask) };
    if have > n {
        return Err(cx.invalid(format!("a mask of {t} for {columns} keys")));
    }
    let mut hi = vec![0; t.rank()];
    hi[t.rank() - 1] = n - have;
    let pad = Pad { lo: vec![0; t.rank()], hi, mode: PadMode::Constant, value: Real(f64::NEG_INFINITY) };
    cx.op(pad, &[mask])
}

pub(super) fn plus(cx: &mut NodeCx, a: Option<ValueId>, b: ValueId) -> Result<ValueId> {
    match a {
        Some(a) => cx.binary(Add, a, b),
        None => Ok(b),
    }
}

/// Rows of which a mask shows nothing become 0, where there can be some.
fn guard(cx: &mut NodeCx, y: ValueId, mask: Option<ValueId>) -> Result<ValueId> {
    let Some(m) = mask.filter(|&m| !cx.importer.is_bounded_below(m)) else { return Ok(y) };
    let m = if cx.ty(m).rank() == 0 { cx.reshape(m, vec![1.into()])? } else { m };
    let last = cx.ty(m).rank() - 1;
    let best = cx.reduce(ReduceKind::Max, m, &[last], true)?;
    let empty = cx.compare_scalar(CompareKind::Eq, best, f64::NEG_INFINITY)?;
    let zero = cx.scalar_like(y, 0.0);
    cx.select(empty, zero, y)
}

fn attention(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (q, k, v, mask) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.optional(3)?);
    let (past_k, past_v) = (cx.optional(4)?, cx.optional(5)?);
    let valid = if cx.opset >= 24 { cx.optional(6)? } else { None };
    let (rank, dtype) = (cx.ty(q).rank(), cx.ty(q).dtype);
    let q = to_heads(cx, q, "q_num_heads")?;
    let (mut k, mut v) = (to_heads(cx, k, "kv_num_heads")?, to_heads(cx, v, "kv_num_heads")?);
    let mut before = Dim::from(0);
    match (past_k, past_v) {
        (Some(pk), Some(pv)) => {
            if cx.ty(pk).rank() != 4 || valid.is_some() {
                return Err(cx.invalid("a cache that is not of four axes, or beside lengths of another one"));
            }
            before = cx.ty(pk).shape[2].clone();
            (k, v) = (cx.op(Concat { axis: 2 }, &[pk, k])?, cx.op(Concat { axis: 2 }, &[pv, v])?);
        }
        (None, None) => {}
        _ => return Err(cx.invalid("one of past_key and past_value without the other")),
    }
    let (rows, columns) = (cx.ty(q).shape[2].clone(), cx.ty(k).shape[2].clone());
    let bounds = Bounds {
        causal: cx.int("is_causal", 0) == 1,
        left: cx.int("left_window_size", -1),
        right: cx.int("right_window_size", -1),
    };
    let (softcap, mode) = (cx.float("softcap", 0.0), cx.int("qk_matmul_output_mode", 0));
    let mut hidden = match mask {
        Some(m) => Some(additive(cx, m, &columns, dtype)?),
        None => None,
    };
    let mut first = None;
    if let Some(n) = valid {
        let n = cx.along(n, 0, 4)?;
        let s = cx.op(Extent { of: rows }, &[])?;
        first = Some(cx.binary(Sub, n, s)?);
        let padding = beyond(cx, n, &columns, dtype)?;
        hidden = Some(plus(cx, hidden, padding)?);
    }
    let scale = scale_of(cx, q)?;
    let shown = cx.wants(3).then_some(mode);
    let (y, shown) = attend(cx, [q, k, v], Attend { scale, softcap, bounds, before, first, hidden, shown })?;
    let y = value(from_heads(cx, y, rank)?);
    Ok([y, value(k), value(v)].into_iter().chain(shown.map(value)).collect())
}

/// The attribute `scale`, or what follows from the width of a head.
pub(super) fn scale_of(cx: &mut NodeCx, q: ValueId) -> Result<f64> {
    let width = cx.ty(q).shape[3].as_const().ok_or_else(|| cx.unsupported("heads of unknown width"))?;
    Ok(if cx.has("scale") { cx.float("scale", 1.0) } else { 1.0 / (width as f64).sqrt() })
}

/// Hides keys from the `n`-th on; `n` is one number for each batch, of four axes.
pub(super) fn beyond(cx: &mut NodeCx, n: ValueId, columns: &Dim, dtype: DType) -> Result<ValueId> {
    let key = cx.positions(columns, 3, 4, DType::I64)?;
    let keep = cx.compare(CompareKind::Lt, key, n)?;
    hide(cx, keep, dtype)
}

/// How heads attend.
pub(super) struct Attend {
    pub scale: f64,
    /// Scores are bent to at most so much; 0 for not at all.
    pub softcap: f64,
    pub bounds: Bounds,
    /// The position of the first query: how many keys precede those of the queries.
    pub before: Dim,
    /// That position where each batch has its own.
    pub first: Option<ValueId>,
    /// What is added to the scores.
    pub hidden: Option<ValueId>,
    /// Which scores are a result too: scaled, bent, masked, or as shares.
    pub shown: Option<i64>,
}

/// Queries, keys and values of four axes, and the results of each head; what is hidden from a query altogether gives 0.
pub(super) fn attend(cx: &mut NodeCx, [q, k, v]: [ValueId; 3], a: Attend) -> Result<(ValueId, Option<ValueId>)> {
    let (rows, columns, dtype) = (cx.ty(q).shape[2].clone(), cx.ty(k).shape[2].clone(), cx.ty(q).dtype);
    let Attend { bounds, hidden, .. } = &a;
    // The op's own rule aligns the last query with the last key.
    let whole = a.softcap == 0.0 && a.shown.is_none();
    let only_causal = bounds.causal && bounds.left < 0 && bounds.right < 0;
    let own = whole && only_causal && a.first.is_none() && columns.clone() - rows.clone() == a.before;
    // All that hides, for rows of which nothing is left; causality alone leaves each query its own key.
    let mut all = *hidden;
    if !bounds.none() && (!own || hidden.is_some()) {
        let offset = match a.first {
            Some(n) => n,
            None => cx.op(Extent { of: a.before.clone() }, &[])?,
        };
        let m = bounds.mask(cx, &rows, &columns, offset, dtype)?;
        all = Some(plus(cx, *hidden, m)?);
    }
    if whole {
        let added = if own { *hidden } else { all };
        let operands: Vec<ValueId> = [q, k, v].into_iter().chain(added).collect();
        let y = cx.op(Attention { scale: Real(a.scale), causal: own }, &operands)?;
        return Ok((guard(cx, y, all)?, None));
    }
    let (wide_k, wide_v) = (repeat_heads(cx, k, q)?, repeat_heads(cx, v, q)?);
    let scores = cx.matmul(q, wide_k, true)?;
    let mut scores = cx.with_scalar(Mul, scores, a.scale)?;
    let mut shown = scores;
    if a.softcap != 0.0 {
        // What the mask hides must stay hidden, so the cap comes first.
        let small = cx.with_scalar(Div, scores, a.softcap)?;
        let capped = cx.unary(Tanh, small)?;
        scores = cx.with_scalar(Mul, capped, a.softcap)?;
    }
    let at = |mode| a.shown == Some(mode);
    shown = if at(1) { scores } else { shown };
    if let Some(m) = all {
        scores = cx.binary(Add, scores, m)?;
    }
    shown = if at(2) { scores } else { shown };
    let p = cx.op(Softmax { axis: 3, log: false }, &[scores])?;
    let p = guard(cx, p, all)?;
    shown = if at(3) { p } else { shown };
    let y = cx.matmul(p, wide_v, false)?;
    Ok((y, a.shown.map(|_| shown)))
}

/// Keys or values with as many heads as the queries.
pub(super) fn repeat_heads(cx: &mut NodeCx, x: ValueId, like: ValueId) -> Result<ValueId> {
    let (t, heads) = (cx.ty(x), cx.ty(like).shape[1].clone());
    if t.shape[1] == heads {
        return Ok(x);
    }
    let times = heads.exact_div(&t.shape[1]).ok_or_else(|| cx.invalid("heads that groups do not divide"))?;
    let [b, g, s, d] = [0, 1, 2, 3].map(|i| t.shape[i].clone());
    let x = cx.reshape(x, vec![b.clone(), g.clone(), 1.into(), s.clone(), d.clone()])?;
    let x = cx.broadcast(x, vec![b.clone(), g, times, s.clone(), d.clone()])?;
    cx.reshape(x, vec![b, heads, s, d])
}

/// A table of angles `[B, S, R/2]` as `[B, 1, S, R]`: each angle for both partners.
fn angles(cx: &mut NodeCx, i: usize, ids: Option<ValueId>, interleaved: bool) -> Result<ValueId> {
    let mut table = cx.input(i)?;
    if let Some(ids) = ids {
        table = cx.op(Gather { axis: 0 }, &[table, ids])?;
    }
    let t = cx.ty(table);
    if t.rank() != 3 {
        return Err(cx.invalid(format!("a table of {t}, expected three axes")));
    }
    let [b, s, r] = [0, 1, 2].map(|i| t.shape[i].clone());
    let both = if interleaved {
        let x = cx.reshape(table, vec![b.clone(), s.clone(), r.clone(), 1.into()])?;
        cx.broadcast(x, vec![b.clone(), s.clone(), r.clone(), 2.into()])?
    } else {
        cx.op(Concat { axis: 2 }, &[table, table])?
    };
    cx.reshape(both, vec![b, 1.into(), s, r * 2.into()])
}

fn rotary_embedding(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, ids) = (cx.input(0)?, cx.optional(3)?);
    let rank = cx.ty(x).rank();
    let x = to_heads(cx, x, "num_heads")?;
    let y = rotated(cx, x, ids, [1, 2], "interleaved")?;
    Ok(vec![value(from_heads(cx, y, rank)?)])
}

/// `[B, H, S, D]` turned by the angles of the two tables, which are inputs, at positions `ids`; an attribute says whether partners are neighbours.
pub(super) fn rotated(
    cx: &mut NodeCx,
    x: ValueId,
    ids: Option<ValueId>,
    tables: [usize; 2],
    interleaved: &str,
) -> Result<ValueId> {
    let interleaved = cx.int(interleaved, 0) == 1;
    let (cos, sin) = (angles(cx, tables[0], ids, interleaved)?, angles(cx, tables[1], ids, interleaved)?);
    let whole = cx.ty(x).shape[3].clone();
    let part = match cx.int("rotary_embedding_dim", 0) {
        0 => whole.clone(),
        n => n.into(),
    };
    if part == whole {
        cx.op(Rope { interleaved }, &[x, cos, sin])
    } else {
        let turned = cx.op(Slice { axis: 3, start: 0.into(), len: part.clone(), step: 1 }, &[x])?;
        let rest = cx.op(Slice { axis: 3, start: part.clone(), len: whole - part, step: 1 }, &[x])?;
        let turned = cx.op(Rope { interleaved }, &[turned, cos, sin])?;
        cx.op(Concat { axis: 3 }, &[turned, rest])
    }
}

pub(super) const OPS: Topic = &[("Attention", attention), ("RotaryEmbedding", rotary_embedding)];
