//! Quantization operators.

use super::Topic;
use crate::import::Meaning;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, Div, Max, Min, Mul, Sub};
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::unary::UnaryKind;
use tersor_ir::ops::{Cast, Compare, DecodeAffine, Quant, Reduce, Select, Slice};
use tersor_ir::{DType, Dim, SmallFloat, ValueId};

/// A per-axis parameter of rank 1 as one that broadcasts to rank `rank` at `axis`.
pub(super) fn along(cx: &mut NodeCx, p: ValueId, axis: usize, rank: usize) -> Result<ValueId> {
    let t = cx.ty(p);
    if t.rank() == 0 || t.elements() == Dim::Const(1) && t.rank() <= 1 {
        return cx.reshape(p, vec![]);
    }
    if t.rank() > 1 {
        return Ok(p);
    }
    let mut shape = vec![Dim::from(1); rank];
    let at = shape
        .get_mut(axis)
        .ok_or_else(|| cx.invalid(format!("a parameter {t} along axis {axis} of a tensor of rank {rank}")))?;
    *at = t.shape[0].clone();
    cx.reshape(p, shape)
}

/// Axis and block of a QDQ operator. The axis means nothing to a single scale, and its default exceeds tensors of rank 1.
fn axis_and_block(cx: &mut NodeCx, rank: usize) -> Result<(usize, u32)> {
    let scale = cx.input(1)?;
    let (single, axis) = (cx.ty(scale).elements() == Dim::Const(1), cx.int("axis", 1));
    let axis = if single || !cx.has("axis") { axis.min(rank as i64 - 1) } else { axis };
    let axis = if rank == 0 { 0 } else { cx.axis(axis, rank)? };
    let block = u32::try_from(cx.int("block_size", 0)).map_err(|_| cx.invalid("a negative block size"))?;
    Ok((axis, block))
}

/// Input `i`, a scale: positive and finite where it is constant.
pub(super) fn scale(cx: &mut NodeCx, i: usize) -> Result<ValueId> {
    match cx.constant(i)? {
        Some(t) if t.to_f64().iter().any(|s| !(s.is_finite() && *s > 0.0)) => {
            Err(cx.invalid(format!("input {i}, a scale that is not positive and finite")))
        }
        _ => cx.input(i),
    }
}

fn quantize(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let rank = cx.ty(x).rank();
    let (axis, block) = axis_and_block(cx, rank)?;
    let scale = scale(cx, 1)?;
    let float = element(cx, "precision")?.unwrap_or(cx.ty(x).dtype);
    let s = spread(cx, scale, axis, block, x)?;
    let mut operands = vec![cx.cast(x, float)?, cx.cast(s, float)?];
    let mut to = element(cx, "output_dtype")?.unwrap_or(DType::U8);
    let mut zero = None;
    if let Some(z) = cx.optional(2)? {
        to = cx.ty(z).dtype;
        zero = if is_zero(cx, 2)? { None } else { Some(spread(cx, z, axis, block, x)?) };
    }
    if to.is_int() {
        operands.extend(zero);
        return Ok(vec![value(cx.op(Quant { to, narrow: false }, &operands)?)]);
    }
    if SmallFloat::of(to).is_none_or(|f| !f.signed) {
        return Err(cx.unsupported(format!("codes of type {to}")));
    }
    let mut y = cx.binary(Div, operands[0], operands[1])?;
    if let Some(z) = zero {
        let z = cx.cast(z, float)?;
        y = cx.binary(Add, y, z)?;
    }
    let overflow = !to.is_packed() && cx.int("saturate", 1) == 0;
    Ok(vec![value(cx.op(Cast { overflow, ..Cast::to(to) }, &[y])?)])
}

/// The element type that an attribute names, if it names one.
fn element(cx: &NodeCx, attr: &str) -> Result<Option<DType>> {
    match cx.int(attr, 0) {
        0 => Ok(None),
        n => cx.element_type(n).map(Some),
    }
}

/// A parameter of blocks of `block` along `axis`, or one that [`along`] takes, so that it broadcasts to `x`.
fn spread(cx: &mut NodeCx, p: ValueId, axis: usize, block: u32, x: ValueId) -> Result<ValueId> {
    let (shape, own) = (cx.ty(x).shape.to_vec(), cx.ty(p).shape.to_vec());
    if block == 0 {
        return along(cx, p, axis, shape.len());
    }
    let mut blocks = shape.clone();
    if let Some(d) = blocks.get_mut(axis) {
        *d = d.clone().ceil_div(block.into());
    }
    if own != blocks {
        return Err(cx.invalid(format!(
            "{} does not fit blocks of {block} along axis {axis} of {}",
            cx.ty(p),
            cx.ty(x)
        )));
    }
    if shape.is_empty() {
        return Ok(p);
    }
    let insert = |extent: Dim| {
        let mut s = blocks.clone();
        s.insert(axis + 1, extent);
        s
    };
    let mut merged = blocks.clone();
    merged[axis] = merged[axis].clone() * i64::from(block).into();
    let p = cx.reshape(p, insert(1.into()))?;
    let p = cx.broadcast(p, insert(i64::from(block).into()))?;
    let p = cx.reshape(p, merged.clone())?;
    if merged == shape {
        return Ok(p);
    }
    cx.op(Slice { axis: axis as u8, start: 0.into(), len: shape[axis].clone(), step: 1 }, &[p])
}

fn dequantize(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let q = cx.input(0)?;
    let rank = cx.ty(q).rank();
    let (axis, group) = axis_and_block(cx, rank)?;
    let scale = scale(cx, 1)?;
    let (named, powers) = (element(cx, "output_dtype")?, cx.ty(scale).dtype == DType::F8E8M0);
    if powers && named.is_none() {
        return Err(cx.invalid("a scale of type f8e8m0 without output_dtype"));
    }
    let s = if group > 0 { scale } else { along(cx, scale, axis, rank)? };
    let mut operands = vec![q, if powers { cx.cast(s, DType::F32)? } else { s }];
    if let Some(z) = cx.optional(2)? {
        let (tz, tq) = (cx.ty(z).dtype, cx.ty(q).dtype);
        if tz != tq {
            return Err(cx.invalid(format!("the zero point is {tz}, the codes are {tq}")));
        }
    }
    if let Some(z) = cx.optional(2)?
        && !is_zero(cx, 2)?
    {
        operands.push(if group > 0 { z } else { along(cx, z, axis, rank)? });
    }
    // 32-bit codes (biases) have no zero point.
    let y = cx.op(DecodeAffine { axis: axis as u8, group }, &operands)?;
    let to = named.unwrap_or(cx.ty(y).dtype);
    Ok(vec![value(cx.cast(y, to)?)])
}

/// Whether a constant input holds nothing but zeros.
fn is_zero(cx: &mut NodeCx, i: usize) -> Result<bool> {
    Ok(cx.constant(i)?.is_some_and(|t| t.to_f64().iter().all(|&v| v == 0.0)))
}

/// Codes less their zero point, where that is not 0. A list of zero points lies along `axis`.
pub(super) fn centred(cx: &mut NodeCx, i: usize, zero: usize, axis: usize) -> Result<(ValueId, bool)> {
    let x = cx.input(i)?;
    let Some(z) = cx.optional(zero)? else { return Ok((x, false)) };
    if is_zero(cx, zero)? {
        return Ok((x, false));
    }
    let rank = cx.ty(x).rank();
    let z = if rank == 0 { z } else { along(cx, z, axis.min(rank - 1), rank)? };
    let (x, z) = (cx.cast(x, DType::I32)?, cx.cast(z, DType::I32)?);
    Ok((cx.binary(Sub, x, z)?, true))
}

/// Both operands (input, zero point and its axis); wide where one of them had to be.
fn both_centred(cx: &mut NodeCx, at: [(usize, usize, usize); 2]) -> Result<(ValueId, ValueId)> {
    let [(a, za, axis_a), (b, zb, axis_b)] = at;
    let ((a, wide_a), (b, wide_b)) = (centred(cx, a, za, axis_a)?, centred(cx, b, zb, axis_b)?);
    if wide_a || wide_b { Ok((cx.cast(a, DType::I32)?, cx.cast(b, DType::I32)?)) } else { Ok((a, b)) }
}

fn matmul_integer(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    // Rows of the first operand, columns of the second.
    let (row, column) = (cx.ty(a).rank().saturating_sub(2), cx.ty(b).rank().saturating_sub(1));
    let (a, b) = both_centred(cx, [(0, 2, row), (1, 3, column)])?;
    Ok(vec![value(super::nn::product(cx, a, b)?)])
}

fn conv_integer(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, w) = both_centred(cx, [(0, 2, 1), (1, 3, 0)])?;
    Ok(vec![value(super::nn::convolve(cx, x, w)?)])
}

/// Codes of one unsigned byte with a scale and a zero point that the operand's range determines.
pub(super) fn dynamic_codes(cx: &mut NodeCx, x: ValueId) -> Result<[ValueId; 3]> {
    let axes: Vec<u8> = (0..cx.ty(x).rank() as u8).collect();
    let low = cx.op(Reduce { kind: ReduceKind::Min, axes: axes.clone(), keep: false }, &[x])?;
    let high = cx.op(Reduce { kind: ReduceKind::Max, axes, keep: false }, &[x])?;
    let (low, high) = (cx.with_scalar(Min, low, 0.0)?, cx.with_scalar(Max, high, 0.0)?);
    let range = cx.binary(Sub, high, low)?;
    let scale = cx.with_scalar(Div, range, 255.0)?;
    let (none, one) = (cx.scalar_like(scale, 0.0), cx.scalar_like(scale, 1.0));
    let empty = cx.op(Compare { kind: CompareKind::Eq }, &[scale, none])?;
    let scale = cx.op(Select {}, &[empty, one, scale])?;
    let below = cx.unary(UnaryKind::Neg, low)?;
    let zero = cx.op(Quant { to: DType::U8, narrow: false }, &[below, scale])?;
    let q = cx.op(Quant { to: DType::U8, narrow: false }, &[x, scale, zero])?;
    Ok([q, scale, zero])
}

fn dynamic_quantize(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    Ok(dynamic_codes(cx, x)?.map(value).into())
}

/// The exact integer product as floats, then codes of it. Scales of the operands are inputs 1 and 4, scale and zero point of the result 6 and 7.
fn requantize(cx: &mut NodeCx, sum: ValueId, axes: [usize; 2]) -> Result<Vec<Meaning>> {
    let rank = cx.ty(sum).rank();
    let (a, b, to_scale) = (scale(cx, 1)?, scale(cx, 4)?, scale(cx, 6)?);
    let (a, b) = (along(cx, a, axes[0], rank)?, along(cx, b, axes[1], rank)?);
    let product = cx.binary(Mul, a, b)?;
    let zero = cx.input(7)?;
    let y = cx.cast(sum, cx.ty(product).dtype)?;
    let y = cx.binary(Mul, y, product)?;
    let (to_scale, zero) = (along(cx, to_scale, axes[1], rank)?, along(cx, zero, axes[1], rank)?);
    let to = cx.ty(zero).dtype;
    Ok(vec![value(cx.op(Quant { to, narrow: false }, &[y, to_scale, zero])?)])
}

fn qlinear_matmul(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (a, b) = (cx.input(0)?, cx.input(3)?);
    let (ra, rb) = (cx.ty(a).rank(), cx.ty(b).rank());
    let (a, b) = both_centred(cx, [(0, 2, ra.saturating_sub(2)), (3, 5, rb.saturating_sub(1))])?;
    let y = super::nn::product(cx, a, b)?;
    let rank = cx.ty(y).rank();
    requantize(cx, y, [rank.saturating_sub(2), rank.saturating_sub(1)])
}

fn qlinear_conv(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, w) = both_centred(cx, [(0, 2, 1), (3, 5, 0)])?;
    let y = super::nn::convolve(cx, x, w)?;
    let bias = cx.optional(8)?;
    let y = super::nn::conv_bias(cx, y, bias)?;
    requantize(cx, y, [1, 1])
}

pub(super) const OPS: Topic = &[
    ("QuantizeLinear", quantize),
    ("DequantizeLinear", dequantize),
    ("MatMulInteger", matmul_integer),
    ("ConvInteger", conv_integer),
    ("DynamicQuantizeLinear", dynamic_quantize),
    ("QLinearMatMul", qlinear_matmul),
    ("QLinearConv", qlinear_conv),
];
