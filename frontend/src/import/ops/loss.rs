//! Losses of classifiers.

use super::Topic;
use crate::import::Meaning;
use crate::import::build::done;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::Softmax;
use tersor_ir::ops::binary::BinaryKind::{Div, Mul};
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::reduce::ReduceKind::{Mean, Sum};
use tersor_ir::ops::unary::UnaryKind::Neg;
use tersor_ir::{DType, ValueId};

/// Minus the weighted logarithm of the target class's probability; `log` is `[N, C, …]`, the target `[N, …]`.
fn likelihood(cx: &mut NodeCx, log: ValueId, target: ValueId, weight: Option<ValueId>) -> Result<ValueId> {
    let t = cx.ty(log);
    if t.rank() < 2 || cx.ty(target).rank() + 1 != t.rank() {
        return Err(cx.invalid(format!("a target of {} for scores of {t}", cx.ty(target))));
    }
    let target = cx.cast(target, DType::I64)?;
    let target = cx.insert_axis(target, 1)?;
    let class = cx.positions(&t.shape[1], 1, t.rank(), DType::I64)?;
    let hit = cx.compare(CompareKind::Eq, target, class)?;
    let zero = cx.scalar_like(log, 0.0);
    // What one class contributes to the loss and to its divisor.
    let share = match weight {
        Some(w) => cx.along(w, 1, t.rank())?,
        None => cx.scalar_like(log, 1.0),
    };
    let mut hit = hit;
    if cx.has("ignore_index") {
        let kept = cx.compare_scalar(CompareKind::Ne, target, cx.int("ignore_index", 0) as f64)?;
        hit = cx.binary(tersor_ir::ops::binary::BinaryKind::And, hit, kept)?;
    }
    let loss = cx.unary(Neg, log)?;
    let loss = cx.binary(Mul, loss, share)?;
    let loss = cx.select(hit, loss, zero)?;
    let loss = cx.reduce(Sum, loss, &[1], false)?;
    let all: Vec<usize> = (0..t.rank() - 1).collect();
    match cx.string("reduction", "mean").as_str() {
        "none" => Ok(loss),
        "sum" => cx.reduce(Sum, loss, &all, false),
        "mean" if weight.is_none() && !cx.has("ignore_index") => cx.reduce(Mean, loss, &all, false),
        "mean" => {
            let shares = cx.select(hit, share, zero)?;
            let shares = cx.reduce(Sum, shares, &(0..t.rank()).collect::<Vec<_>>(), false)?;
            let loss = cx.reduce(Sum, loss, &all, false)?;
            cx.binary(Div, loss, shares)
        }
        other => Err(cx.invalid(format!("reduction {}", other.escape_debug()))),
    }
}

fn negative_log_likelihood(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, target, weight) = (cx.input(0)?, cx.input(1)?, cx.optional(2)?);
    done(likelihood(cx, x, target, weight)?)
}

fn softmax_cross_entropy(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, target, weight) = (cx.input(0)?, cx.input(1)?, cx.optional(2)?);
    let log = cx.op(Softmax { axis: 1, log: true }, &[x])?;
    Ok(vec![value(likelihood(cx, log, target, weight)?), value(log)])
}

pub(super) const OPS: Topic =
    &[("NegativeLogLikelihoodLoss", negative_log_likelihood), ("SoftmaxCrossEntropyLoss", softmax_cross_entropy)];
