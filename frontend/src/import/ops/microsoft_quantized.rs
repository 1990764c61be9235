//! Operators of ONNX Runtime (`com.microsoft`) on codes: decoded, computed in floats, and coded again.

use super::Topic;
use super::microsoft_attention::heads_of_projection;
use super::nn::{conv_bias, convolve, pooled};
use super::quantized::{along, centred, dynamic_codes, scale};
use crate::import::Meaning;
use crate::import::build::done;
use crate::import::node::NodeCx;
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{self, Add, Max, Min, Mul};
use tersor_ir::ops::pool::PoolKind;
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::unary::UnaryKind::Sigmoid;
use tersor_ir::ops::{DecodeAffine, MatMul, Quant, Softmax};
use tersor_ir::{DType, Dim, ValueId};

/// A scale or a zero point as a scalar.
fn single(cx: &mut NodeCx, i: usize, v: ValueId) -> Result<ValueId> {
    if cx.ty(v).elements() != Dim::Const(1) {
        return Err(cx.unsupported(format!("a scale or a zero point of {} at input {i}", cx.ty(v))));
    }
    cx.reshape(v, vec![])
}

fn single_scale(cx: &mut NodeCx, i: usize) -> Result<ValueId> {
    let v = scale(cx, i)?;
    single(cx, i, v)
}

/// The numbers of the codes at input `i`, whose scale and zero point follow.
fn decoded(cx: &mut NodeCx, i: usize) -> Result<ValueId> {
    let mut operands = vec![cx.input(i)?, single_scale(cx, i + 1)?];
    if let Some(zero) = cx.optional(i + 2)? {
        operands.push(single(cx, i + 2, zero)?);
    }
    cx.op(DecodeAffine { axis: 0, group: 0 }, &operands)
}

/// Codes of `y` by the scale at input `i` and the zero point after it.
fn coded(cx: &mut NodeCx, y: ValueId, i: usize, like: DType) -> Result<Vec<Meaning>> {
    let (mut operands, mut to) = (vec![y, single_scale(cx, i)?], like);
    if let Some(zero) = cx.optional(i + 1)? {
        let zero = single(cx, i + 1, zero)?;
        to = cx.ty(zero).dtype;
        operands.push(zero);
    }
    done(cx.op(Quant { to, narrow: false }, &operands)?)
}

fn elementwise(cx: &mut NodeCx, kind: BinaryKind) -> Result<Vec<Meaning>> {
    let (a, b) = (decoded(cx, 0)?, decoded(cx, 3)?);
    let y = cx.binary(kind, a, b)?;
    let x = cx.input(0)?;
    coded(cx, y, 6, cx.ty(x).dtype)
}

/// A function of one operand, the result's scale at input 3.
fn function(cx: &mut NodeCx, f: impl FnOnce(&mut NodeCx, ValueId) -> Result<ValueId>) -> Result<Vec<Meaning>> {
    let x = decoded(cx, 0)?;
    let y = f(cx, x)?;
    let x = cx.input(0)?;
    coded(cx, y, 3, cx.ty(x).dtype)
}

fn leaky_relu(cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
    let (above, below) = (cx.with_scalar(Max, x, 0.0)?, cx.with_scalar(Min, x, 0.0)?);
    let below = cx.with_scalar(Mul, below, cx.float("alpha", 0.01))?;
    cx.binary(Add, above, below)
}

fn global_average(cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
    let rank = cx.ty(x).rank();
    let axes: Vec<usize> = match cx.int("channels_last", 0) {
        0 => (2..rank).collect(),
        _ => (1..rank.saturating_sub(1)).collect(),
    };
    cx.reduce(ReduceKind::Mean, x, &axes, true)
}

/// `f` of an operand whose channels are last, where an attribute says so, as of one whose channels are second.
fn channels_second(
    cx: &mut NodeCx,
    last: bool,
    x: ValueId,
    f: impl FnOnce(&mut NodeCx, ValueId) -> Result<ValueId>,
) -> Result<ValueId> {
    let rank = cx.ty(x).rank() as u8;
    if !last || rank < 3 {
        return f(cx, x);
    }
    let x = cx.transpose(x, [0, rank - 1].into_iter().chain(1..rank - 1).collect())?;
    let y = f(cx, x)?;
    cx.transpose(y, std::iter::once(0).chain(2..rank).chain([1]).collect())
}

fn average(cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
    let last = cx.int("channels_last", 0) != 0;
    channels_second(cx, last, x, |cx, x| Ok(pooled(cx, x, PoolKind::Avg)?[0]))
}

/// A convolution of images and kernels whose channels are last.
fn nhwc_conv(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, w, bias) = (cx.input(0)?, cx.input(1)?, cx.optional(2)?);
    let rank = cx.ty(w).rank() as u8;
    if rank < 3 {
        return Err(cx.invalid(format!("a kernel of {}", cx.ty(w))));
    }
    let w = cx.transpose(w, [0, rank - 1].into_iter().chain(1..rank - 1).collect())?;
    done(channels_second(cx, true, x, |cx, x| {
        let y = convolve(cx, x, w)?;
        conv_bias(cx, y, bias)
    })?)
}

/// Projections of codes by codes of weights, whose heads attend as floats.
fn attention(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    if cx.int("do_rotary", 0) != 0 {
        return Err(cx.unsupported("rotary positions"));
    }
    let (a, b) = (centred(cx, 0, 6, 1)?.0, centred(cx, 1, 7, 1)?.0);
    let scales = [scale(cx, 3)?, scale(cx, 4)?];
    let qkv = scaled(cx, a, b, scales, 2)?;
    heads_of_projection(cx, qkv, 5, 8, None)
}

fn softmax(cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
    let rank = cx.ty(x).rank();
    let axis = cx.axis(cx.int("axis", -1), rank)?;
    if cx.int("opset", 13) < 13 && axis + 1 != rank {
        return Err(cx.unsupported("a softmax over several axes"));
    }
    cx.op(Softmax { axis: axis as u8, log: false }, &[x])
}

fn concat(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let mut parts = vec![];
    for i in (2..cx.input_count()).step_by(3) {
        parts.push(decoded(cx, i)?);
    }
    let first = cx.input(2)?;
    let axis = cx.axis(cx.int("axis", 0), cx.ty(first).rank())?;
    let y = cx.concat(&parts, axis)?;
    coded(cx, y, 0, cx.ty(first).dtype)
}

/// The product of centred codes as numbers, the second's scale by column, and a bias at input `bias`.
fn scaled(cx: &mut NodeCx, a: ValueId, b: ValueId, scales: [ValueId; 2], bias: usize) -> Result<ValueId> {
    let (a, b) = (cx.cast(a, DType::I32)?, cx.cast(b, DType::I32)?);
    let sum = super::nn::product(cx, a, b)?;
    let rank = cx.ty(sum).rank();
    let (row, column) = (rank.saturating_sub(2), rank.saturating_sub(1));
    let (of_a, of_b) = (along(cx, scales[0], row, rank)?, along(cx, scales[1], column, rank)?);
    let scale = cx.binary(Mul, of_a, of_b)?;
    let sum = cx.cast(sum, cx.ty(scale).dtype)?;
    let y = cx.binary(Mul, sum, scale)?;
    match cx.optional(bias)? {
        Some(b) => cx.binary(Add, y, b),
        None => Ok(y),
    }
}

fn matmul_to_float(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let (row, column) = (cx.ty(a).rank().saturating_sub(2), cx.ty(b).rank().saturating_sub(1));
    let (a, b) = (centred(cx, 0, 4, row)?.0, centred(cx, 1, 5, column)?.0);
    let scales = [scale(cx, 2)?, scale(cx, 3)?];
    done(scaled(cx, a, b, scales, 6)?)
}

fn dynamic_matmul(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, b) = (cx.input(0)?, cx.input(1)?);
    let column = cx.ty(b).rank().saturating_sub(1);
    let b = centred(cx, 1, 3, column)?.0;
    let [q, of_a, zero] = dynamic_codes(cx, x)?;
    let (q, zero) = (cx.cast(q, DType::I32)?, cx.cast(zero, DType::I32)?);
    let a = cx.binary(BinaryKind::Sub, q, zero)?;
    let scales = [of_a, scale(cx, 2)?];
    done(scaled(cx, a, b, scales, 4)?)
}

/// `alpha (a b + c)` of codes, whose scales multiply too: floats, or codes where inputs 7 and 8 say of what scale.
fn gemm(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let [trans_a, trans_b] = ["transA", "transB"].map(|name| cx.int(name, 0) != 0);
    let (a, b) = (centred(cx, 0, 2, usize::from(trans_a))?.0, centred(cx, 3, 5, usize::from(!trans_b))?.0);
    let (a, b) = (cx.cast(a, DType::I32)?, cx.cast(b, DType::I32)?);
    let mut sum = cx.op(MatMul { trans_a, trans_b, wide: false }, &[a, b])?;
    if let Some(c) = cx.optional(6)? {
        sum = cx.binary(Add, sum, c)?;
    }
    let (of_a, of_b) = (single_scale(cx, 1)?, scale(cx, 4)?);
    let of_b = along(cx, of_b, 1, 2)?;
    let scale = cx.binary(Mul, of_a, of_b)?;
    let scale = cx.with_scalar(Mul, scale, cx.float("alpha", 1.0))?;
    let sum = cx.cast(sum, cx.ty(scale).dtype)?;
    let y = cx.binary(Mul, sum, scale)?;
    if !cx.is_given(7) {
        return done(y);
    }
    let x = cx.input(0)?;
    coded(cx, y, 7, cx.ty(x).dtype)
}

pub(super) const OPS: Topic = &[
    ("com.microsoft:DynamicQuantizeMatMul", dynamic_matmul),
    ("com.microsoft:MatMulIntegerToFloat", matmul_to_float),
    ("com.microsoft:NhwcConv", nhwc_conv),
    ("com.microsoft:QAttention", attention),
    ("com.microsoft:QGemm", gemm),
    ("com.microsoft:QLinearAdd", |cx| elementwise(cx, Add)),
    ("com.microsoft:QLinearAveragePool", |cx| function(cx, average)),
    ("com.microsoft:QLinearConcat", concat),
    ("com.microsoft:QLinearGlobalAveragePool", |cx| function(cx, global_average)),
    ("com.microsoft:QLinearLeakyRelu", |cx| function(cx, leaky_relu)),
    ("com.microsoft:QLinearMul", |cx| elementwise(cx, Mul)),
    ("com.microsoft:QLinearSigmoid", |cx| function(cx, |cx, x| cx.unary(Sigmoid, x))),
    ("com.microsoft:QLinearSoftmax", |cx| function(cx, softmax)),
];
