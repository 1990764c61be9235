//! Operators of ONNX Runtime (`com.microsoft`) that its optimizer and its exporters write.

use super::Topic;
use super::attention::{from_heads, heads_of, rotated, to_heads};
use super::elementwise::swish;
use super::nn::rms_norm;
use crate::import::Meaning;
use crate::import::build::done;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, Mul};
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::unary::UnaryKind::{self, Gelu, GeluTanh};
use tersor_ir::ops::{DecodeAffine, Gather, LayerNorm, MatMul, Real, RmsNorm};
use tersor_ir::{DType, Dim, Tensor, ValueId};

/// An activation after an optional bias.
fn biased(cx: &mut NodeCx, kind: UnaryKind) -> Result<Vec<Meaning>> {
    let (mut x, bias) = (cx.input(0)?, cx.optional(1)?);
    if let Some(b) = bias {
        x = cx.binary(Add, x, b)?;
    }
    done(cx.unary(kind, x)?)
}

fn fused_matmul(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    if cx.int("transBatchA", 0) != 0 || cx.int("transBatchB", 0) != 0 {
        return Err(cx.unsupported("a batch axis that is not the first"));
    }
    let op = MatMul { trans_a: cx.int("transA", 0) != 0, trans_b: cx.int("transB", 0) != 0, wide: false };
    let y = cx.op(op, &[a, b])?;
    let alpha = cx.float("alpha", 1.0);
    done(if alpha == 1.0 { y } else { cx.with_scalar(Mul, y, alpha)? })
}

/// A norm over the last axis of the sum of an operand, a skipped one and, at input `bias`, a bias. The sum is result 3.
fn skip_norm(cx: &mut NodeCx, root_mean_square: bool) -> Result<Vec<Meaning>> {
    let (x, skip, scale) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let eps = Real(cx.float("epsilon", 1e-12));
    let mut operands = vec![scale];
    if !root_mean_square {
        operands.extend(cx.optional(3)?);
    }
    let bias = cx.optional(if root_mean_square { 3 } else { 4 })?;
    let mut sum = cx.binary(Add, x, skip)?;
    if let Some(b) = bias {
        sum = cx.binary(Add, sum, b)?;
    }
    operands.insert(0, sum);
    if cx.wants(1) || cx.wants(2) {
        return Err(cx.unsupported("the results mean and inv_std_var"));
    }
    let axis = (cx.ty(sum).rank().max(1) - 1) as u8;
    let y = if root_mean_square {
        cx.op(RmsNorm { axis, eps }, &operands)?
    } else {
        cx.op(LayerNorm { axis, eps }, &operands)?
    };
    // Results 1 and 2 are not asked for.
    Ok(vec![value(y), value(sum), value(sum), value(sum)])
}

/// Rows of a table of codes, decoded. Codes of less than 8 bits lie in bytes, with their middle as zero, or are of a narrow type, with none.
fn gather_block_quantized(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (data, at, scales, zeros) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.optional(3)?);
    let (block, bits) = (cx.int("block_size", 128), cx.int("bits", 4));
    let block = u32::try_from(block).ok().filter(|b| *b > 0).ok_or_else(|| cx.invalid(format!("blocks of {block}")))?;
    let rank = cx.ty(data).rank();
    let (axis, along) = (cx.axis(cx.int("gather_axis", 0), rank)?, cx.axis(cx.int("quantize_axis", 1), rank)? as u8);
    let packed = cx.ty(data).dtype == DType::U8;
    let mut unpack = |v: ValueId| -> Result<ValueId> {
        let to = match (packed, bits) {
            (false, _) => return Ok(v),
            (true, 2) => DType::U2,
            (true, 4) => DType::U4,
            (true, 8) => return Ok(v),
            _ => return Err(cx.unsupported(format!("codes of {bits} bits in bytes"))),
        };
        let t = cx.constant_of(v).ok_or_else(|| cx.undecided_value(v, "packed codes that are not constant"))?;
        let mut shape = t.shape().to_vec();
        *shape.last_mut().ok_or_else(|| cx.invalid("codes without an axis"))? *= 8 / bits as usize;
        let t = Tensor::from_blob(to, shape, t.blob().clone()).ok_or_else(|| cx.invalid("codes of another size"))?;
        Ok(cx.emit_constant(&t))
    };
    let codes = unpack(data)?;
    let zeros = match zeros {
        Some(z) => {
            let (z, n) = (unpack(z)?, cx.ty(scales).shape.last().cloned().unwrap_or(1.into()));
            // Rows of packed zero points end at whole bytes.
            Some(cx.part(z, rank - 1, 0.into(), n)?)
        }
        None if packed => {
            let middle = cx.emit_constant(&Tensor::scalar(cx.ty(codes).dtype, f64::from(1u32 << (bits - 1))));
            Some(cx.broadcast(middle, cx.ty(scales).shape.to_vec())?)
        }
        None => None,
    };
    let operands: Vec<ValueId> = [codes, scales].into_iter().chain(zeros).collect();
    let table = cx.op(DecodeAffine { axis: along, group: block }, &operands)?;
    done(cx.op(Gather { axis: axis as u8 }, &[table, at])?)
}

/// The sum of embeddings of words, positions and segments, its norm, and how many words each sequence has.
fn embed_layer_norm(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (ids, segments) = (cx.input(0)?, cx.optional(1)?);
    let (words, positions, of_segments) = (cx.input(2)?, cx.input(3)?, cx.optional(4)?);
    let (scale, bias, mask) = (cx.input(5)?, cx.input(6)?, cx.optional(7)?);
    let shape = cx.ty(ids).shape.to_vec();
    let [batch, length] = <[Dim; 2]>::try_from(shape).map_err(|_| cx.invalid("words without a batch axis"))?;
    let position = match cx.optional(8)? {
        Some(at) => cx.op(Gather { axis: 0 }, &[positions, at])?,
        None => cx.part(positions, 0, 0.into(), length)?,
    };
    let mut sum = cx.op(Gather { axis: 0 }, &[words, ids])?;
    sum = cx.binary(Add, sum, position)?;
    match (segments, of_segments) {
        (Some(s), Some(table)) => {
            let s = cx.op(Gather { axis: 0 }, &[table, s])?;
            sum = cx.binary(Add, sum, s)?;
        }
        (None, None) => {}
        _ => return Err(cx.invalid("segments without their embeddings, or embeddings without segments")),
    }
    let y = cx.op(LayerNorm { axis: 2, eps: Real(cx.float("epsilon", 1e-12)) }, &[sum, scale, bias])?;
    cx.int("mask_index_type", 0);
    let count = match mask {
        Some(m) => {
            let given = cx.compare_scalar(CompareKind::Eq, m, 1.0)?;
            let given = cx.cast(given, DType::I32)?;
            cx.reduce(ReduceKind::Sum, given, &[1], false)?
        }
        None => {
            let zero = cx.emit_constant(&Tensor::scalar(DType::I32, 0.0));
            cx.broadcast(zero, vec![batch])?
        }
    };
    Ok([y, count, sum].map(value).into())
}

pub(super) fn product(cx: &mut NodeCx, x: ValueId, w: ValueId) -> Result<ValueId> {
    if cx.ty(x).rank() < 2 {
        return Err(cx.unsupported("an operand of less than two axes"));
    }
    cx.matmul(x, w, true)
}

/// Positions are given one by one, or as that of the first token; heads that are not counted are as wide as the tables.
fn rotary_embedding(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, ids, cos) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    if cx.int("is_packed_batching", 0) != 0 || cx.float("scale", 1.0) != 1.0 {
        return Err(cx.unsupported("packed batches or a scale"));
    }
    let t = cx.ty(x);
    let heads = cx.int("num_heads", 0);
    let x = match (t.rank(), cx.ty(cos).shape.get(1)) {
        (3, Some(half)) if heads == 0 => {
            let d = half.clone() * 2.into();
            let heads = t.shape[2].exact_div(&d);
            let heads = heads.ok_or_else(|| cx.invalid(format!("heads of {d} in {t}")))?;
            heads_of(cx, x, heads, d)?
        }
        _ => to_heads(cx, x, "num_heads")?,
    };
    let [batch, length] = [0, 2].map(|a| cx.ty(x).shape[a].clone());
    let ids = if cx.ty(ids).rank() == 1 {
        let first = cx.reshape(ids, vec![1.into(), 1.into()])?;
        let p = cx.positions(&length, 1, 2, cx.ty(ids).dtype)?;
        let p = cx.binary(Add, p, first)?;
        cx.broadcast(p, vec![batch, length])?
    } else {
        ids
    };
    let y = rotated(cx, x, Some(ids), [2, 3], "interleaved")?;
    done(from_heads(cx, y, t.rank())?)
}

pub(super) const OPS: Topic = &[
    ("com.microsoft:Gelu", |cx| biased(cx, Gelu)),
    ("com.microsoft:BiasGelu", |cx| biased(cx, Gelu)),
    ("com.microsoft:FastGelu", |cx| biased(cx, GeluTanh)),
    ("com.microsoft:QuickGelu", |cx| cx.input(0).and_then(|x| swish(cx, x, 1.702)).and_then(done)),
    ("com.microsoft:FusedMatMul", fused_matmul),
    ("com.microsoft:SkipLayerNormalization", |cx| skip_norm(cx, false)),
    ("com.microsoft:SkipSimplifiedLayerNormalization", |cx| skip_norm(cx, true)),
    // Written for the domain `ai.onnx`.
    ("SimplifiedLayerNormalization", rms_norm),
    ("com.microsoft:RotaryEmbedding", rotary_embedding),
    ("com.microsoft:EmbedLayerNormalization", embed_layer_norm),
    ("com.microsoft:GatherBlockQuantized", gather_block_quantized),
];
