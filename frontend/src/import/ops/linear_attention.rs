//! Attention without softmax, as a recurrence over positions, and the causal convolution that goes before it.

use super::Topic;
use crate::import::Meaning;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::Conv;
use tersor_ir::ops::binary::BinaryKind::{Add, Mul, Sub};
use tersor_ir::ops::unary::UnaryKind::{Exp, Silu};
use tersor_ir::{DType, Dim, Tensor, ValueId};

/// Most positions of one node.
const LONGEST: usize = 1024;

/// `[B, T, H*D]` as `[B, H, T, D]`, in `f32`.
fn heads(cx: &mut NodeCx, x: ValueId, heads: &Dim) -> Result<ValueId> {
    let t = cx.ty(x);
    if t.rank() != 3 {
        return Err(cx.invalid(format!("an operand of {t}, expected three axes")));
    }
    let d =
        t.shape[2].exact_div(heads).ok_or_else(|| cx.invalid(format!("{} elements in {heads} heads", t.shape[2])))?;
    let x = cx.reshape(x, vec![t.shape[0].clone(), t.shape[1].clone(), heads.clone(), d])?;
    let x = cx.transpose(x, vec![0, 2, 1, 3])?;
    cx.cast(x, DType::F32)
}

/// Keys and values write outer products into a state, queries read it (Katharopoulos et al., 2020); gates and the delta rule follow Yang et al., 2024.
fn linear_attention(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (q, k, v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (past, decay, beta) = (cx.optional(3)?, cx.optional(4)?, cx.optional(5)?);
    let (queries, groups) = (cx.int("q_num_heads", 0), cx.int("kv_num_heads", 0));
    cx.int("chunk_size", 64);
    if queries < 1 || groups < 1 || queries % groups != 0 {
        return Err(cx.invalid(format!("{queries} heads of queries for {groups} of keys")));
    }
    let rule = cx.string("update_rule", "gated_delta");
    let (gated, delta) = match rule.as_str() {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(cx.invalid(format!("update_rule {}", other.escape_debug()))),
    };
    if gated != decay.is_some() || delta != beta.is_some() {
        return Err(cx.invalid(format!("operands decay and beta do not fit update_rule {rule}")));
    }
    let dtype = cx.ty(q).dtype;
    let (q, k, v) = (heads(cx, q, &queries.into())?, heads(cx, k, &groups.into())?, heads(cx, v, &groups.into())?);
    let (tq, tv) = (cx.ty(q), cx.ty(v));
    let [b, h, t, dk] = [0, 1, 2, 3].map(|i| tq.shape[i].clone());
    let dv = tv.shape[3].clone();
    let steps = cx.fixed(&t, "a sequence")?;
    if steps == 0 || steps > LONGEST {
        return Err(cx.unsupported(format!("{steps} positions, the most are {LONGEST}")));
    }
    let decay = match decay {
        Some(d) => {
            let d = heads(cx, d, &groups.into())?;
            Some(cx.unary(Exp, d)?)
        }
        None => None,
    };
    let beta = match beta {
        Some(x) if cx.ty(x).shape.last() == Some(&Dim::from(1)) => Some(heads(cx, x, &1.into())?),
        Some(x) => Some(heads(cx, x, &groups.into())?),
        None => None,
    };
    let scale = match cx.float("scale", 0.0) {
        0.0 => 1.0 / (cx.fixed(&dk, "heads")? as f64).sqrt(),
        s => s,
    };
    let state_dtype = past.map_or(dtype, |p| cx.ty(p).dtype);
    let mut state = match past {
        Some(p) => cx.cast(p, DType::F32)?,
        None => {
            let zero = cx.emit_constant(&Tensor::scalar(DType::F32, 0.0));
            cx.broadcast(zero, vec![b.clone(), groups.into(), dk.clone(), dv.clone()])?
        }
    };
    let q = cx.with_scalar(Mul, q, scale)?;
    // A group's queries are rows: [B, G, H/G, T, D].
    let per = queries / groups;
    let q = cx.reshape(q, vec![b.clone(), groups.into(), per.into(), t.clone(), dk])?;
    let mut outputs = vec![];
    for i in 0..steps as i64 {
        let at = |cx: &mut NodeCx, x: ValueId| cx.part(x, 2, i.into(), 1.into());
        let (key, mut new) = (at(cx, k)?, at(cx, v)?);
        if let Some(d) = decay {
            let d = at(cx, d)?;
            let column = cx.transpose(d, vec![0, 1, 3, 2])?;
            state = cx.binary(Mul, state, column)?;
        }
        if let Some(rate) = beta {
            let (rate, held) = (at(cx, rate)?, cx.matmul(key, state, false)?);
            let miss = cx.binary(Sub, new, held)?;
            new = cx.binary(Mul, rate, miss)?;
        }
        let column = cx.transpose(key, vec![0, 1, 3, 2])?;
        let written = cx.binary(Mul, column, new)?;
        state = cx.binary(Add, state, written)?;
        let query = cx.element(q, 3, i.into())?;
        outputs.push(cx.matmul(query, state, false)?);
    }
    // [B, G, H/G, D] each, to [B, T, H*D]
    let y = cx.stack(&outputs, 1)?;
    let y = cx.reshape(y, vec![b, t, h * dv])?;
    Ok(vec![value(cx.cast(y, dtype)?), value(cx.cast(state, state_dtype)?)])
}

fn causal_conv(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, w, bias, past) = (cx.input(0)?, cx.input(1)?, cx.optional(2)?, cx.optional(3)?);
    let (t, tw) = (cx.ty(x), cx.ty(w));
    if t.rank() != 3 || tw.rank() != 3 {
        return Err(cx.invalid(format!("operands {t} and {tw}, expected three axes each")));
    }
    let (channels, taps) = (cx.fixed(&tw.shape[0], "channels")?, cx.fixed(&tw.shape[2], "a kernel")?);
    let before = Dim::from(taps as i64 - 1);
    let past = match past {
        Some(p) => p,
        None => {
            let zero = cx.scalar_like(x, 0.0);
            cx.broadcast(zero, vec![t.shape[0].clone(), t.shape[1].clone(), before.clone()])?
        }
    };
    let all = cx.concat(&[past, x], 2)?;
    let op = Conv {
        strides: vec![1],
        pads: vec![0, 0],
        dilations: vec![1],
        groups: channels as i64,
        channels_last: false,
        wide: false,
    };
    let y = cx.op(op, &[all, w])?;
    let mut y = super::nn::conv_bias(cx, y, bias)?;
    match cx.string("activation", "none").as_str() {
        "none" => {}
        "silu" | "swish" => y = cx.unary(Silu, y)?,
        other => return Err(cx.invalid(format!("activation {}", other.escape_debug()))),
    }
    let kept = cx.part(all, 2, t.shape[2].clone(), before)?;
    Ok(vec![value(y), value(kept)])
}

pub(super) const OPS: Topic = &[("LinearAttention", linear_attention), ("CausalConvWithState", causal_conv)];
