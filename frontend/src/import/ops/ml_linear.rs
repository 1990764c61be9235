//! Linear models of `ai.onnx.ml`.

use super::{Topic, text};
use crate::import::Meaning;
use crate::import::build::done;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, Sub};
use tersor_ir::ops::compare::CompareKind::Gt;
use tersor_ir::ops::reduce::ArgKind;
use tersor_ir::ops::unary::UnaryKind::Sigmoid;
use tersor_ir::ops::{ArgReduce, Gather, Softmax};
use tersor_ir::{DType, Tensor, ValueId};

/// The scores `[N, classes]` as `post_transform` says.
pub(super) fn transformed(cx: &mut NodeCx, scores: ValueId, transform: &str) -> Result<ValueId> {
    match transform {
        "NONE" => Ok(scores),
        "LOGISTIC" => cx.unary(Sigmoid, scores),
        "SOFTMAX" => cx.op(Softmax { axis: 1, log: false }, &[scores]),
        other => Err(cx.unsupported(format!("post_transform {}", other.escape_debug()))),
    }
}

/// The class labels, numbers or strings.
pub(super) fn classes(cx: &NodeCx, numbers: &str) -> Result<Tensor> {
    text::labels(cx, numbers, "classlabels_strings")?.ok_or_else(|| cx.invalid("no class labels"))
}

/// For each row the label of the largest score, the first of equal ones.
pub(super) fn best(cx: &mut NodeCx, scores: ValueId, labels: &Tensor) -> Result<ValueId> {
    let at = cx.op(ArgReduce { kind: ArgKind::Max, axis: 1, keep: false, last: false }, &[scores])?;
    let labels = cx.emit_constant(labels);
    cx.op(Gather { axis: 0 }, &[labels, at])
}

/// Rows of features, in `f32` unless they are `f64`.
pub(super) fn rows(cx: &mut NodeCx) -> Result<ValueId> {
    let x = cx.input(0)?;
    let x = if cx.ty(x).dtype == DType::F64 { x } else { cx.cast(x, DType::F32)? };
    match cx.ty(x).rank() {
        1 => cx.insert_axis(x, 0),
        2 => Ok(x),
        _ => Err(cx.invalid(format!("features of {}, expected rows", cx.ty(x)))),
    }
}

/// `x wᵀ + b` with a row of coefficients for each of `targets`.
pub(super) fn product(cx: &mut NodeCx, x: ValueId, targets: usize, intercepts: &[f32]) -> Result<ValueId> {
    let w = cx.floats("coefficients").unwrap_or_default();
    let features = cx.fixed(&cx.ty(x).shape[1], "features")?;
    if targets.checked_mul(features) != Some(w.len()) {
        return Err(cx.invalid(format!("{} coefficients for {features} features and {targets} targets", w.len())));
    }
    let dtype = cx.ty(x).dtype;
    let table = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let w = cx.table(dtype, &[targets, features], &table(&w));
    let y = cx.matmul(x, w, true)?;
    match intercepts.len() {
        0 => Ok(y),
        n if n == targets => {
            let b = cx.table(dtype, &[n], &table(intercepts));
            cx.binary(Add, y, b)
        }
        n => Err(cx.invalid(format!("{n} intercepts for {targets} targets"))),
    }
}

fn linear_regressor(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = rows(cx)?;
    let targets = usize::try_from(cx.int("targets", 1)).map_err(|_| cx.invalid("a negative number of targets"))?;
    let intercepts = cx.floats("intercepts").unwrap_or_default();
    let y = product(cx, x, targets, &intercepts)?;
    let y = transformed(cx, y, &cx.string("post_transform", "NONE"))?;
    done(cx.cast(y, DType::F32)?)
}

fn linear_classifier(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = rows(cx)?;
    let labels = classes(cx, "classlabels_ints")?;
    let intercepts = cx.floats("intercepts").unwrap_or_default();
    cx.int("multi_class", 0);
    let transform = cx.string("post_transform", "NONE");
    if (labels.len(), intercepts.len()) == (2, 1) {
        if transform != "LOGISTIC" {
            return Err(cx.unsupported(format!("post_transform {transform} of one score for two classes")));
        }
        let score = product(cx, x, 1, &intercepts)?;
        let score = transformed(cx, score, &transform)?;
        let (label, both) = two_classes(cx, score, &labels, 0.5)?;
        return Ok(vec![value(label), value(cx.cast(both, DType::F32)?)]);
    }
    let scores = product(cx, x, labels.len(), &intercepts)?;
    let label = best(cx, scores, &labels)?;
    let scores = transformed(cx, scores, &transform)?;
    Ok(vec![value(label), value(cx.cast(scores, DType::F32)?)])
}

/// Both classes' scores and the label from the score of the second, `threshold` apart: `[1 - s, s]` or `[-s, s]`.
pub(super) fn two_classes(
    cx: &mut NodeCx,
    score: ValueId,
    labels: &Tensor,
    threshold: f64,
) -> Result<(ValueId, ValueId)> {
    let second = cx.compare_scalar(Gt, score, threshold)?;
    let table = cx.emit_constant(labels);
    let at = cx.cast(second, DType::I64)?;
    let at = cx.reshape(at, vec![cx.ty(score).shape[0].clone()])?;
    let label = cx.op(Gather { axis: 0 }, &[table, at])?;
    let whole = cx.scalar_like(score, 2.0 * threshold);
    let first = cx.binary(Sub, whole, score)?;
    Ok((label, cx.concat(&[first, score], 1)?))
}

pub(super) const OPS: Topic =
    &[("ai.onnx.ml:LinearClassifier", linear_classifier), ("ai.onnx.ml:LinearRegressor", linear_regressor)];
