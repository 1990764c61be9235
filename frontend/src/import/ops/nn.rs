//! Operators of networks: products, convolutions, windows, norms, attention.

use super::Topic;
use crate::import::Meaning;
use crate::import::build::done;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, Div, Mul, Sub};
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::pad::PadMode;
use tersor_ir::ops::pool::PoolKind;
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::unary::UnaryKind::{Rsqrt, Sqrt};
use tersor_ir::ops::{Compare, Conv, LayerNorm, MatMul, Pad, Pool, Real, Reduce, RmsNorm, Select, Softmax};
use tersor_ir::{Dim, Op, ValueId};

/// NumPy's product: vectors get an axis that goes again.
pub(super) fn product(cx: &mut NodeCx, mut a: ValueId, mut b: ValueId) -> Result<ValueId> {
    let (ta, tb) = (cx.ty(a), cx.ty(b));
    if ta.rank() == 0 || tb.rank() == 0 {
        return Err(cx.invalid("a scalar operand"));
    }
    if ta.rank() == 1 {
        a = cx.reshape(a, vec![1.into(), ta.shape[0].clone()])?;
    }
    if tb.rank() == 1 {
        b = cx.reshape(b, vec![tb.shape[0].clone(), 1.into()])?;
    }
    let y = cx.op(MatMul { trans_a: false, trans_b: false, wide: false }, &[a, b])?;
    let mut shape = cx.ty(y).shape.to_vec();
    let n = shape.len();
    if tb.rank() == 1 {
        shape.remove(n - 1);
    }
    if ta.rank() == 1 {
        shape.remove(n - 2);
    }
    cx.reshape(y, shape)
}

fn gemm(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let op = MatMul { trans_a: cx.int("transA", 0) != 0, trans_b: cx.int("transB", 0) != 0, wide: false };
    if cx.ty(a).rank() != 2 || cx.ty(b).rank() != 2 {
        return Err(cx.invalid("operands must be matrices"));
    }
    let (alpha, beta) = (cx.float("alpha", 1.0), cx.float("beta", 1.0));
    cx.has("broadcast");
    let mut y = cx.op(op, &[a, b])?;
    if alpha != 1.0 {
        y = cx.with_scalar(Mul, y, alpha)?;
    }
    if let Some(mut c) = cx.optional(2)? {
        if beta != 1.0 {
            c = cx.with_scalar(Mul, c, beta)?;
        }
        y = cx.binary(Add, y, c)?;
    }
    done(y)
}

/// Strides, dilations and pads of a window over `spatial` axes. `ceil` adds padding at the end where ONNX rounds the extent up.
pub(super) struct Window {
    pub(super) kernel: Vec<i64>,
    pub(super) strides: Vec<i64>,
    pub(super) dilations: Vec<i64>,
    pub(super) pads: Vec<i64>,
    /// Padding that only rounding up added.
    extra: Vec<i64>,
}

pub(super) fn window(cx: &NodeCx, x: &[Dim], kernel: Vec<i64>) -> Result<Window> {
    let n = kernel.len();
    if x.len() != n + 2 {
        return Err(cx.invalid(format!("a window of {n} axes over a tensor of rank {}", x.len())));
    }
    let list = |name: &str, count: usize, default: i64| {
        let v = cx.ints(name).unwrap_or_else(|| vec![default; count]);
        if v.len() == count { Ok(v) } else { Err(cx.invalid(format!("{} {name} for {n} axes", v.len()))) }
    };
    let (strides, dilations, mut pads) = (list("strides", n, 1)?, list("dilations", n, 1)?, list("pads", 2 * n, 0)?);
    let sane = |v: &[i64], low: i64| v.iter().all(|v| (low..=1 << 31).contains(v));
    if !sane(&strides, 1) || !sane(&dilations, 1) || !sane(&kernel, 1) || !sane(&pads, 0) {
        return Err(cx.invalid("strides, dilations and kernel must be positive, pads not negative, none above 2^31"));
    }
    let auto = cx.string("auto_pad", "NOTSET");
    let mut extra = vec![0; n];
    for i in 0..n {
        let reach = dilations[i] * (kernel[i] - 1) + 1;
        match auto.as_str() {
            "NOTSET" | "" => {}
            "VALID" => (pads[i], pads[n + i]) = (0, 0),
            "SAME_UPPER" | "SAME_LOWER" => {
                let total = match x[2 + i].as_const() {
                    Some(d) => ((d + strides[i] - 1) / strides[i] - 1) * strides[i] + reach - d,
                    None if strides[i] == 1 => reach - 1,
                    None => return Err(cx.unsupported("automatic padding of an extent that is not known")),
                }
                .max(0);
                let (small, large) = (total / 2, total - total / 2);
                (pads[i], pads[n + i]) = if auto == "SAME_UPPER" { (small, large) } else { (large, small) };
            }
            other => return Err(cx.invalid(format!("auto_pad {other}"))),
        }
        if cx.int("ceil_mode", 0) == 1 {
            let d = x[2 + i].as_const().ok_or_else(|| cx.unsupported("rounding up an extent that is not known"))?;
            let span = d + pads[i] + pads[n + i] - reach;
            let rest = span.rem_euclid(strides[i]);
            // A last window that would start in the padding after the image does not exist.
            let starts = (span - rest + strides[i]) < d + pads[i];
            if span >= 0 && rest > 0 && starts {
                extra[i] = strides[i] - rest;
                pads[n + i] += extra[i];
            }
        }
    }
    Ok(Window { kernel, strides, dilations, pads, extra })
}

pub(super) fn conv_bias(cx: &mut NodeCx, y: ValueId, bias: Option<ValueId>) -> Result<ValueId> {
    let Some(b) = bias else { return Ok(y) };
    let mut shape = cx.ty(b).shape.to_vec();
    shape.extend(vec![Dim::from(1); cx.ty(y).rank() - 2]);
    let b = cx.reshape(b, shape)?;
    cx.binary(Add, y, b)
}

/// The convolution that the node's attributes describe, without bias.
pub(super) fn convolve(cx: &mut NodeCx, x: ValueId, w: ValueId) -> Result<ValueId> {
    let kernel = cx
        .ty(w)
        .static_shape()
        .filter(|s| s.len() >= 3)
        .ok_or_else(|| cx.unsupported("a kernel whose extents are not known"))?;
    let kernel: Vec<i64> = kernel[2..].iter().map(|&k| k as i64).collect();
    if cx.ints("kernel_shape").is_some_and(|k| k != kernel) {
        return Err(cx.invalid(format!("kernel_shape differs from the weights' {kernel:?}")));
    }
    let Window { strides, dilations, pads, .. } = window(cx, &cx.ty(x).shape, kernel)?;
    let groups = cx.int("group", 1);
    cx.op(Conv { strides, pads, dilations, groups, channels_last: false, wide: false }, &[x, w])
}

fn conv(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, w, bias) = (cx.input(0)?, cx.input(1)?, cx.optional(2)?);
    let y = convolve(cx, x, w)?;
    done(conv_bias(cx, y, bias)?)
}

fn pool(cx: &mut NodeCx, kind: PoolKind) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    Ok(pooled(cx, x, kind)?.into_iter().map(value).collect())
}

/// The pool that the node's attributes describe, and the places of maxima where they are asked for.
pub(super) fn pooled(cx: &mut NodeCx, mut x: ValueId, kind: PoolKind) -> Result<Vec<ValueId>> {
    let kernel = cx.ints("kernel_shape").ok_or_else(|| cx.invalid("no kernel_shape"))?;
    let mut w = window(cx, &cx.ty(x).shape, kernel)?;
    let at = match cx.wants(1) {
        true if kind == PoolKind::Max => Some(super::unpool::places_of_maxima(cx, x, &w)?),
        _ => None,
    };
    let mut count_pad = kind == PoolKind::Avg && cx.int("count_include_pad", 0) == 1;
    if count_pad && w.extra.iter().any(|&e| e > 0) {
        // What rounding up added is outside, what the node pads is not.
        let n = w.extra.len();
        let at = |side: usize| [0, 0].into_iter().chain((0..n).map(|i| w.pads[side * n + i])).collect::<Vec<i64>>();
        let (lo, mut hi) = (at(0), at(1));
        hi[2..].iter_mut().zip(&w.extra).for_each(|(h, e)| *h -= e);
        x = cx.op(Pad { lo, hi, mode: PadMode::Constant, value: Real(0.0) }, &[x])?;
        w.pads = vec![0; n].into_iter().chain(w.extra).collect();
        count_pad = false;
    }
    let y = cx.op(
        Pool {
            kind,
            kernel: w.kernel,
            strides: w.strides,
            pads: w.pads,
            dilations: w.dilations,
            count_pad,
            channels_last: false,
        },
        &[x],
    )?;
    Ok(std::iter::once(y).chain(at).collect())
}

fn global_pool(cx: &mut NodeCx, kind: ReduceKind) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let axes = (2..cx.ty(x).rank() as u8).collect();
    done(cx.op(Reduce { kind, axes, keep: true }, &[x])?)
}

/// Inference: one factor and one summand for each channel.
fn batch_norm(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    // The outputs said it before an attribute did.
    let training = if cx.opset < 14 {
        cx.node.output.iter().skip(1).any(|o| !o.is_empty())
    } else {
        cx.int("training_mode", 0) == 1
    };
    if cx.int("spatial", 1) == 0 {
        return Err(cx.unsupported("parameters for each element"));
    }
    let x = cx.input(0)?;
    let rank = cx.ty(x).rank();
    let mut p = vec![];
    for i in 1..5 {
        let v = cx.input(i)?;
        let c = cx.ty(v).shape.first().cloned().ok_or_else(|| cx.invalid("a scalar parameter"))?;
        let mut shape = vec![c];
        shape.extend(vec![Dim::from(1); rank.saturating_sub(2)]);
        p.push(cx.reshape(v, shape)?);
    }
    if training {
        return batch_norm_training(cx, x, [p[0], p[1], p[2], p[3]]);
    }
    let variance = cx.with_scalar(Add, p[3], cx.float("epsilon", 1e-5))?;
    let deviation = cx.unary(Sqrt, variance)?;
    let factor = cx.binary(Div, p[0], deviation)?;
    let moved = cx.binary(Mul, p[2], factor)?;
    let summand = cx.binary(Sub, p[1], moved)?;
    let y = cx.binary(Mul, x, factor)?;
    done(cx.binary(Add, y, summand)?)
}

/// The batch's own mean and variance in place of the running ones, which move towards them.
fn batch_norm_training(
    cx: &mut NodeCx,
    x: ValueId,
    [scale, bias, mean, variance]: [ValueId; 4],
) -> Result<Vec<Meaning>> {
    if cx.opset < 14 {
        return Err(cx.unsupported("training mode before opset 14"));
    }
    let rank = cx.ty(x).rank();
    if rank < 2 {
        return Err(cx.invalid(format!("an operand of rank {rank}")));
    }
    let axes: Vec<u8> = (0..rank as u8).filter(|&a| a != 1).collect();
    let y = normalize(cx, x, axes.clone(), cx.float("epsilon", 1e-5))?;
    let y = cx.binary(Mul, y, scale)?;
    let mut results = vec![value(cx.binary(Add, y, bias)?)];
    let axes: Vec<usize> = axes.into_iter().map(usize::from).collect();
    let own_mean = cx.reduce(ReduceKind::Mean, x, &axes, true)?;
    let centred = cx.binary(Sub, x, own_mean)?;
    let square = cx.binary(Mul, centred, centred)?;
    let own_variance = cx.reduce(ReduceKind::Mean, square, &axes, true)?;
    let keep = cx.float("momentum", 0.9);
    for (old, own) in [(mean, own_mean), (variance, own_variance)] {
        let list = vec![cx.ty(own).elements()];
        let (old, own) = (cx.reshape(old, list.clone())?, cx.reshape(own, list)?);
        let own = cx.cast(own, cx.ty(old).dtype)?;
        let (old, own) = (cx.with_scalar(Mul, old, keep)?, cx.with_scalar(Mul, own, 1.0 - keep)?);
        results.push(value(cx.binary(Add, old, own)?));
    }
    Ok(results)
}

/// Mean, distance from it, and `1 / sqrt(var + eps)` over the given axes, kept.
fn moments(cx: &mut NodeCx, x: ValueId, axes: Vec<u8>, eps: f64) -> Result<(ValueId, ValueId, ValueId)> {
    let mean = cx.op(Reduce { kind: ReduceKind::Mean, axes: axes.clone(), keep: true }, &[x])?;
    let centred = cx.binary(Sub, x, mean)?;
    let square = cx.binary(Mul, centred, centred)?;
    let variance = cx.op(Reduce { kind: ReduceKind::Mean, axes, keep: true }, &[square])?;
    let variance = cx.with_scalar(Add, variance, eps)?;
    Ok((mean, centred, cx.unary(Rsqrt, variance)?))
}

/// `(x - mean) / sqrt(var + eps)` over the given axes, kept.
fn normalize(cx: &mut NodeCx, x: ValueId, axes: Vec<u8>, eps: f64) -> Result<ValueId> {
    let (_, centred, factor) = moments(cx, x, axes, eps)?;
    cx.binary(Mul, centred, factor)
}

fn per_channel(cx: &mut NodeCx, y: ValueId, first: usize) -> Result<ValueId> {
    let rank = cx.ty(y).rank();
    let mut p = vec![];
    for i in first..first + 2 {
        let v = cx.input(i)?;
        let mut shape = cx.ty(v).shape.to_vec();
        shape.extend(vec![Dim::from(1); rank - 2]);
        p.push(cx.reshape(v, shape)?);
    }
    let y = cx.binary(Mul, y, p[0])?;
    cx.binary(Add, y, p[1])
}

fn instance_norm(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let rank = cx.ty(x).rank();
    if rank < 2 {
        return Err(cx.invalid(format!("a tensor of rank {rank} has no channels")));
    }
    let y = normalize(cx, x, (2..rank as u8).collect(), cx.float("epsilon", 1e-5))?;
    done(per_channel(cx, y, 1)?)
}

fn group_norm(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let (t, groups) = (cx.ty(x), cx.int("num_groups", 0));
    if t.rank() < 3 || groups < 1 {
        return Err(cx.invalid(format!("{groups} groups of a tensor of rank {}", t.rank())));
    }
    let per = t.shape[1]
        .exact_div(&groups.into())
        .ok_or_else(|| cx.invalid(format!("{} channels in {groups} groups", t.shape[1])))?;
    let mut split = vec![t.shape[0].clone(), groups.into(), per];
    split.extend(t.shape[2..].iter().cloned());
    let g = cx.reshape(x, split)?;
    let axes = (2..cx.ty(g).rank() as u8).collect();
    let mut y = normalize(cx, g, axes, cx.float("epsilon", 1e-5))?;
    // Before opset 21 there was one scale for each group.
    if cx.opset < 21 {
        y = per_channel(cx, y, 1)?;
        return done(cx.reshape(y, t.shape.to_vec())?);
    }
    let y = cx.reshape(y, t.shape.to_vec())?;
    done(per_channel(cx, y, 1)?)
}

fn layer_norm(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let axis = cx.axis(cx.int("axis", -1), cx.ty(x).rank())? as u8;
    let eps = cx.float("epsilon", 1e-5);
    let (scale, bias) = (cx.input(1)?, cx.optional(2)?);
    let scale = Some(scale).filter(|&s| bias.is_some() || !is_one(cx, s));
    let params: Vec<ValueId> = scale.into_iter().chain(bias).collect();
    let y = normalised(cx, x, axis, LayerNorm { axis, eps: Real(eps) }, &params)?;
    let axes: Vec<u8> = (axis..cx.ty(x).rank() as u8).collect();
    let mut results = vec![value(y)];
    if cx.node.output.iter().skip(1).any(|o| !o.is_empty()) {
        let (mean, _, deviation) = moments(cx, x, axes, eps)?;
        results.extend([value(mean), value(deviation)]);
    }
    Ok(results)
}

pub(super) fn rms_norm(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    let axis = cx.axis(cx.int("axis", -1), cx.ty(x).rank())? as u8;
    let scale: Vec<ValueId> = Some(scale).filter(|&s| !is_one(cx, s)).into_iter().collect();
    done(normalised(cx, x, axis, RmsNorm { axis, eps: Real(cx.float("epsilon", 1e-5)) }, &scale)?)
}

/// Whether a scale is the number 1: what is written where there is none.
fn is_one(cx: &NodeCx, scale: ValueId) -> bool {
    cx.constant_of(scale).is_some_and(|t| t.len() == 1 && t.get_f64(0) == 1.0)
}

/// A norm with its scale and bias. Those that have axes before `axis` differ by row, and follow the norm as ops of their own.
fn normalised(cx: &mut NodeCx, x: ValueId, axis: u8, norm: impl Into<Op>, params: &[ValueId]) -> Result<ValueId> {
    let t = cx.ty(x);
    if params.iter().all(|&p| cx.ty(p).rank() <= t.rank() - axis as usize) {
        let operands: Vec<ValueId> = [x].into_iter().chain(params.iter().copied()).collect();
        return cx.op(norm, &operands);
    }
    let mut y = cx.op(norm, &[x])?;
    for (&p, kind) in params.iter().zip([Mul, Add]) {
        y = cx.binary(kind, y, p)?;
        if cx.ty(y).shape != t.shape {
            return Err(cx.invalid(format!("a parameter {} that is larger than {t}", cx.ty(p))));
        }
    }
    Ok(y)
}

/// Since opset 13 along one axis; before over all axes from one on, as a matrix.
fn softmax(cx: &mut NodeCx, log: bool) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let t = cx.ty(x);
    if cx.opset >= 13 {
        let axis = cx.axis(cx.int("axis", -1), t.rank())? as u8;
        return done(cx.op(Softmax { axis, log }, &[x])?);
    }
    let axis = cx.axis(cx.int("axis", 1), t.rank())?;
    if t.shape[axis + 1..].iter().all(|d| *d == Dim::Const(1)) {
        return done(cx.op(Softmax { axis: axis as u8, log }, &[x])?);
    }
    let product = |d: &[Dim]| d.iter().fold(Dim::from(1), |a, d| a * d.clone());
    let flat = cx.reshape(x, vec![product(&t.shape[..axis]), product(&t.shape[axis..])])?;
    let y = cx.op(Softmax { axis: 1, log }, &[flat])?;
    done(cx.reshape(y, t.shape.to_vec())?)
}

/// `x / (bias + alpha / size * Σ x²)^beta` over neighbouring channels (Krizhevsky et al., 2012): the sum is a mean window over channels.
fn lrn(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let (t, size) = (cx.ty(x), cx.int("size", 0));
    if t.rank() < 3 || !(1..=1 << 16).contains(&size) {
        return Err(cx.invalid(format!("{size} channels around each of a tensor of rank {}", t.rank())));
    }
    let square = cx.binary(Mul, x, x)?;
    let rest = t.shape[2..].iter().fold(Dim::from(1), |a, d| a * d.clone());
    let rows = cx.reshape(square, vec![t.shape[0].clone(), 1.into(), t.shape[1].clone(), rest])?;
    let pool = Pool {
        kind: PoolKind::Avg,
        kernel: vec![size, 1],
        strides: vec![1, 1],
        pads: vec![(size - 1) / 2, 0, size / 2, 0],
        dilations: vec![1, 1],
        count_pad: true,
        channels_last: false,
    };
    let mean = cx.op(pool, &[rows])?;
    let mean = cx.reshape(mean, t.shape.to_vec())?;
    let base = cx.with_scalar(Mul, mean, cx.float("alpha", 1e-4))?;
    let base = cx.with_scalar(Add, base, cx.float("bias", 1.0))?;
    let factor = cx.with_scalar(tersor_ir::ops::binary::BinaryKind::Pow, base, cx.float("beta", 0.75))?;
    done(cx.binary(Div, x, factor)?)
}

fn lp_normalization(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let axes = vec![cx.axis(cx.int("axis", -1), cx.ty(x).rank())? as u8];
    let p = cx.int("p", 2);
    let kind = ReduceKind::Sum;
    let norm = if p == 1 {
        let a = cx.unary(tersor_ir::ops::unary::UnaryKind::Abs, x)?;
        cx.op(Reduce { kind, axes, keep: true }, &[a])?
    } else {
        let s = cx.binary(Mul, x, x)?;
        let s = cx.op(Reduce { kind, axes, keep: true }, &[s])?;
        cx.unary(Sqrt, s)?
    };
    // Rows of zeros stay zeros.
    let (zero, one) = (cx.scalar_like(norm, 0.0), cx.scalar_like(norm, 1.0));
    let empty = cx.op(Compare { kind: CompareKind::Eq }, &[norm, zero])?;
    let norm = cx.op(Select {}, &[empty, one, norm])?;
    done(cx.binary(Div, x, norm)?)
}

fn matmul(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    done(product(cx, a, b)?)
}

pub(super) const OPS: Topic = &[
    ("MatMul", matmul),
    ("Gemm", gemm),
    ("Conv", conv),
    ("MaxPool", |cx| pool(cx, PoolKind::Max)),
    ("AveragePool", |cx| pool(cx, PoolKind::Avg)),
    ("GlobalAveragePool", |cx| global_pool(cx, ReduceKind::Mean)),
    ("GlobalMaxPool", |cx| global_pool(cx, ReduceKind::Max)),
    ("BatchNormalization", batch_norm),
    ("InstanceNormalization", instance_norm),
    ("GroupNormalization", group_norm),
    ("LayerNormalization", layer_norm),
    ("RMSNormalization", rms_norm),
    ("MeanVarianceNormalization", |cx| {
        let x = cx.input(0)?;
        let axes = cx.axes(&cx.ints("axes").unwrap_or_else(|| vec![0, 2, 3]), cx.ty(x).rank())?;
        done(normalize(cx, x, axes, 1e-9)?)
    }),
    ("LpNormalization", lp_normalization),
    ("LRN", lrn),
    ("Softmax", |cx| softmax(cx, false)),
    ("LogSoftmax", |cx| softmax(cx, true)),
];
