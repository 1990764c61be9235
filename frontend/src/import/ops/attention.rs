//! `Attention` and `RotaryEmbedding` (opset 23).

use super::Topic;
use crate::import::Meaning;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, Div, Mul};
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::unary::UnaryKind::Tanh;
use tersor_ir::ops::{Attention, Compare, Concat, Gather, Iota, MatMul, Real, Rope, Select, Slice, Softmax};
use tersor_ir::{DType, Dim, Tensor, ValueId};

/// `[B, S, H*D]` as `[B, H, S, D]`; four axes stay.
fn to_heads(cx: &mut NodeCx, x: ValueId, heads: &str) -> Result<ValueId> {
    let t = cx.ty(x);
    match t.rank() {
        4 => Ok(x),
        3 => {
            let h = cx.int(heads, 0);
            let d = if h > 0 { t.shape[2].exact_div(&h.into()) } else { None };
            let d = d.ok_or_else(|| cx.invalid(format!("{} elements in {heads} = {h} heads", t.shape[2])))?;
            let split = cx.reshape(x, vec![t.shape[0].clone(), t.shape[1].clone(), h.into(), d])?;
            cx.transpose(split, vec![0, 2, 1, 3])
        }
        rank => Err(cx.invalid(format!("an operand of rank {rank}, expected 3 or 4"))),
    }
}

/// The inverse of [`to_heads`] for operands that had three axes.
fn from_heads(cx: &mut NodeCx, y: ValueId, rank: usize) -> Result<ValueId> {
    if rank == 4 {
        return Ok(y);
    }
    let y = cx.transpose(y, vec![0, 2, 1, 3])?;
    let t = cx.ty(y);
    cx.reshape(y, vec![t.shape[0].clone(), t.shape[1].clone(), t.shape[2].clone() * t.shape[3].clone()])
}

/// 0 where a condition holds, else negative infinity.
fn hide(cx: &mut NodeCx, keep: ValueId, dtype: DType) -> Result<ValueId> {
    let zero = cx.emit_constant(&Tensor::scalar(dtype, 0.0));
    let hidden = cx.emit_constant(&Tensor::scalar(dtype, f64::NEG_INFINITY));
    cx.op(Select {}, &[keep, zero, hidden])
}

/// The mask under which position `s` sees `t <= s`.
fn lower_triangle(cx: &mut NodeCx, rows: Dim, columns: Dim, dtype: DType) -> Result<ValueId> {
    let row = cx.op(Iota { len: rows.clone(), dtype: DType::I64 }, &[])?;
    let row = cx.reshape(row, vec![rows, 1.into()])?;
    let column = cx.op(Iota { len: columns, dtype: DType::I64 }, &[])?;
    let keep = cx.op(Compare { kind: CompareKind::Le }, &[column, row])?;
    hide(cx, keep, dtype)
}

fn attention(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (q, k, v, mask) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.optional(3)?);
    let (past_k, past_v) = (cx.optional(4)?, cx.optional(5)?);
    let rank = cx.ty(q).rank();
    let dtype = cx.ty(q).dtype;
    let q = to_heads(cx, q, "q_num_heads")?;
    let (mut k, mut v) = (to_heads(cx, k, "kv_num_heads")?, to_heads(cx, v, "kv_num_heads")?);
    if let (Some(pk), Some(pv)) = (past_k, past_v) {
        (k, v) = (cx.op(Concat { axis: 2 }, &[pk, k])?, cx.op(Concat { axis: 2 }, &[pv, v])?);
    }
    let (rows, columns) = (cx.ty(q).shape[2].clone(), cx.ty(k).shape[2].clone());
    let width = cx.ty(q).shape[3].as_const().ok_or_else(|| cx.unsupported("heads of unknown width"))?;
    let scale = if cx.has("scale") { cx.float("scale", 1.0) } else { 1.0 / (width as f64).sqrt() };
    let mut mask = match mask {
        Some(m) if cx.ty(m).dtype == DType::Bool => Some(hide(cx, m, dtype)?),
        m => m,
    };
    // The op's own rule aligns the last query with the last key, which is what follows a cache; otherwise both start at 0.
    let mut causal = cx.int("is_causal", 0) == 1;
    if causal && past_k.is_none() && rows != columns {
        let triangle = lower_triangle(cx, rows.clone(), columns.clone(), dtype)?;
        mask = Some(match mask {
            Some(m) => cx.binary(Add, m, triangle)?,
            None => triangle,
        });
        causal = false;
    }
    let softcap = cx.float("softcap", 0.0);
    let y = if softcap == 0.0 {
        let operands: Vec<ValueId> = [q, k, v].into_iter().chain(mask).collect();
        cx.op(Attention { scale: Real(scale), causal }, &operands)?
    } else {
        let (k, v) = (repeat_heads(cx, k, q)?, repeat_heads(cx, v, q)?);
        let scores = cx.op(MatMul { trans_a: false, trans_b: true, wide: false }, &[q, k])?;
        let scores = cx.with_scalar(Mul, scores, scale)?;
        // What the mask hides must stay hidden, so the cap comes first.
        let small = cx.with_scalar(Div, scores, softcap)?;
        let capped = cx.unary(Tanh, small)?;
        let mut scores = cx.with_scalar(Mul, capped, softcap)?;
        if let Some(m) = mask {
            scores = cx.binary(Add, scores, m)?;
        }
        if causal && past_k.is_some() {
            return Err(cx.unsupported("softcap with is_causal and a cache"));
        }
        if causal {
            let triangle = lower_triangle(cx, rows, columns, dtype)?;
            scores = cx.binary(Add, scores, triangle)?;
        }
        let p = cx.op(Softmax { axis: 3, log: false }, &[scores])?;
        cx.op(MatMul { trans_a: false, trans_b: false, wide: false }, &[p, v])?
    };
    Ok(vec![value(from_heads(cx, y, rank)?), value(k), value(v)])
}

/// Keys or values with as many heads as the queries.
fn repeat_heads(cx: &mut NodeCx, x: ValueId, like: ValueId) -> Result<ValueId> {
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
    let interleaved = cx.int("interleaved", 0) == 1;
    let x = to_heads(cx, x, "num_heads")?;
    let (cos, sin) = (angles(cx, 1, ids, interleaved)?, angles(cx, 2, ids, interleaved)?);
    let whole = cx.ty(x).shape[3].clone();
    let part = match cx.int("rotary_embedding_dim", 0) {
        0 => whole.clone(),
        n => n.into(),
    };
    let y = if part == whole {
        cx.op(Rope { interleaved }, &[x, cos, sin])?
    } else {
        let turned = cx.op(Slice { axis: 3, start: 0.into(), len: part.clone(), step: 1 }, &[x])?;
        let rest = cx.op(Slice { axis: 3, start: part.clone(), len: whole - part, step: 1 }, &[x])?;
        let turned = cx.op(Rope { interleaved }, &[turned, cos, sin])?;
        cx.op(Concat { axis: 3 }, &[turned, rest])?
    };
    Ok(vec![value(from_heads(cx, y, rank)?)])
}

pub(super) const OPS: Topic = &[("Attention", attention), ("RotaryEmbedding", rotary_embedding)];
