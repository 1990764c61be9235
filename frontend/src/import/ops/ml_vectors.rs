//! Support vectors of `ai.onnx.ml`.

use super::Topic;
use super::ml_linear::{best, classes, product, rows, transformed};
use crate::import::Meaning;
use crate::import::build::done;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, Div, Max, Min, Mul, Pow, Sub};
use tersor_ir::ops::compare::CompareKind::{Gt, Lt};
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::unary::UnaryKind::{Abs, Exp, Neg, Sigmoid, Tanh};
use tersor_ir::{DType, ValueId};

fn widened(cx: &NodeCx, name: &str) -> Vec<f64> {
    cx.floats(name).unwrap_or_default().into_iter().map(f64::from).collect()
}

/// `k(x, s)` for each row and each of `count` support vectors.
fn kernel(cx: &mut NodeCx, x: ValueId, count: usize) -> Result<ValueId> {
    let features = cx.fixed(&cx.ty(x).shape[1], "features")?;
    let vectors = widened(cx, "support_vectors");
    if count.checked_mul(features) != Some(vectors.len()) {
        return Err(cx.invalid(format!("{} numbers of {count} vectors of {features}", vectors.len())));
    }
    let support = cx.table(cx.ty(x).dtype, &[count, features], &vectors);
    let p = widened(cx, "kernel_params");
    let [gamma, coef, degree] = p[..] else {
        return match cx.string("kernel_type", "LINEAR").as_str() {
            "LINEAR" => cx.matmul(x, support, true),
            _ => Err(cx.invalid(format!("{} kernel_params, expected 3", p.len()))),
        };
    };
    let scaled = |cx: &mut NodeCx| -> Result<ValueId> {
        let y = cx.matmul(x, support, true)?;
        let y = cx.with_scalar(Mul, y, gamma)?;
        cx.with_scalar(Add, y, coef)
    };
    match cx.string("kernel_type", "LINEAR").as_str() {
        "LINEAR" => cx.matmul(x, support, true),
        "POLY" => {
            let y = scaled(cx)?;
            cx.with_scalar(Pow, y, degree)
        }
        "SIGMOID" => {
            let y = scaled(cx)?;
            cx.unary(Tanh, y)
        }
        "RBF" => {
            let each = cx.insert_axis(x, 1)?;
            let d = cx.binary(Sub, each, support)?;
            let square = cx.binary(Mul, d, d)?;
            let distance = cx.reduce(ReduceKind::Sum, square, &[2], false)?;
            let distance = cx.with_scalar(Mul, distance, gamma)?;
            let distance = cx.unary(Neg, distance)?;
            cx.unary(Exp, distance)
        }
        other => Err(cx.invalid(format!("kernel_type {}", other.escape_debug()))),
    }
}

/// `Σ coefficient k(x, s) + rho`; without support vectors the coefficients are those of features.
fn svm_regressor(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = rows(cx)?;
    let rho = cx.floats("rho").and_then(|r| r.first().copied()).ok_or_else(|| cx.invalid("no rho"))?;
    let supports = usize::try_from(cx.int("n_supports", 0)).map_err(|_| cx.invalid("negative n_supports"))?;
    let y = if supports == 0 {
        cx.ignores_attributes();
        product(cx, x, 1, &[rho])?
    } else {
        let k = kernel(cx, x, supports)?;
        product(cx, k, 1, &[rho])?
    };
    let y = match cx.int("one_class", 0) {
        0 => transformed(cx, y, &cx.string("post_transform", "NONE"))?,
        _ => {
            let (in_class, out) = (cx.scalar_like(y, 1.0), cx.scalar_like(y, -1.0));
            let positive = cx.compare_scalar(Gt, y, 0.0)?;
            cx.select(positive, in_class, out)?
        }
    };
    done(cx.cast(y, DType::F32)?)
}

/// Most numbers in the table of coefficients of all pairs of classes.
const MAX_COEFFICIENTS: usize = 1 << 26;
/// Most classes with probabilities, each of which takes a step of every sweep.
const MAX_COUPLED: usize = 16;

/// Classes in pairs, `i` before `j`, in the order of their decisions.
fn pairs(classes: usize) -> Vec<(usize, usize)> {
    (0..classes).flat_map(|i| (i + 1..classes).map(move |j| (i, j))).collect()
}

/// One decision for each pair of classes `[N, pairs]`, positive for the first of the two: the coefficients of the vectors of one class stand in a row for each
/// other class.
fn decisions(cx: &mut NodeCx, x: ValueId, sizes: &[usize], vectors: usize) -> Result<ValueId> {
    let (pairs, coefficients, rho) = (pairs(sizes.len()), widened(cx, "coefficients"), widened(cx, "rho"));
    if (sizes.len() - 1).checked_mul(vectors) != Some(coefficients.len()) || rho.len() != pairs.len() {
        let (c, r) = (coefficients.len(), rho.len());
        return Err(
            cx.invalid(format!("{c} coefficients and {r} rho for {vectors} vectors of {} classes", sizes.len()))
        );
    }
    let total = pairs.len().checked_mul(vectors).filter(|&n| n <= MAX_COEFFICIENTS);
    let total = total.ok_or_else(|| cx.unsupported(format!("{vectors} vectors of {} classes", sizes.len())))?;
    let first: Vec<usize> = (0..sizes.len()).map(|i| sizes[..i].iter().sum()).collect();
    let mut table = vec![0.0; total];
    for (row, &(i, j)) in table.chunks_exact_mut(vectors).zip(&pairs) {
        for (class, of) in [(i, j - 1), (j, i)] {
            let vs = first[class]..first[class] + sizes[class];
            row[vs.clone()].copy_from_slice(&coefficients[of * vectors..][vs]);
        }
    }
    let (dtype, k) = (cx.ty(x).dtype, kernel(cx, x, vectors)?);
    let table = cx.table(dtype, &[pairs.len(), vectors], &table);
    let y = cx.matmul(k, table, true)?;
    let rho = cx.table(dtype, &[pairs.len()], &rho);
    cx.binary(Add, y, rho)
}

/// How many decisions `[N, pairs]` are for each class `[N, classes]`.
fn votes(cx: &mut NodeCx, decisions: ValueId, classes: usize) -> Result<ValueId> {
    let (dtype, pairs) = (cx.ty(decisions).dtype, pairs(classes));
    let first = cx.compare_scalar(Gt, decisions, 0.0)?;
    let first = cx.cast(first, dtype)?;
    let mut table = vec![0.0; classes * pairs.len()];
    for (p, &(i, j)) in pairs.iter().enumerate() {
        (table[i * pairs.len() + p], table[j * pairs.len() + p]) = (1.0, -1.0);
    }
    let table = cx.table(dtype, &[classes, pairs.len()], &table);
    // The second class of a pair has its vote until the first takes it.
    let before: Vec<f64> = (0..classes).map(|c| c as f64).collect();
    let before = cx.table(dtype, &[classes], &before);
    let y = cx.matmul(first, table, true)?;
    cx.binary(Add, y, before)
}

/// The probability of the first class of each pair `[N, pairs]`: a logistic function of the decision (Platt, 1999), away from 0 and 1.
fn pairwise(cx: &mut NodeCx, decisions: ValueId, a: &[f64], b: &[f64]) -> Result<ValueId> {
    let dtype = cx.ty(decisions).dtype;
    let (a, b) = (cx.table(dtype, &[a.len()], a), cx.table(dtype, &[b.len()], b));
    let y = cx.binary(Mul, decisions, a)?;
    let y = cx.binary(Add, y, b)?;
    let y = cx.unary(Neg, y)?;
    let y = cx.unary(Sigmoid, y)?;
    let y = cx.with_scalar(Max, y, 1e-7)?;
    cx.with_scalar(Min, y, 1.0 - 1e-7)
}

/// Sweeps of [`coupled`]. libsvm does up to 100; of millions of random and extreme probabilities of 2 to 12 classes none took more than 4.
const SWEEPS: usize = 5;

/// Probabilities of classes `[N, classes]` from those of pairs, by the second method of Wu, Lin and Weng (2004) as libsvm computes it and ONNX Runtime does: sweeps over
/// the classes minimise `pᵀQp`, and a row whose gradient is small is left as it is, which is short of the minimum by design.
fn coupled(cx: &mut NodeCx, pairwise: ValueId, classes: usize) -> Result<ValueId> {
    let (dtype, k, pairs) = (cx.ty(pairwise).dtype, classes, pairs(classes));
    let rows = cx.ty(pairwise).shape[0].clone();
    // r[i, j] is the probability of i against j.
    let (mut place, mut rest) = (vec![0.0; pairs.len() * k * k], vec![0.0; k * k]);
    for (p, &(i, j)) in pairs.iter().enumerate() {
        (place[p * k * k + i * k + j], place[p * k * k + j * k + i], rest[j * k + i]) = (1.0, -1.0, 1.0);
    }
    let place = cx.table(dtype, &[pairs.len(), k * k], &place);
    let rest = cx.table(dtype, &[k * k], &rest);
    let r = cx.matmul(pairwise, place, false)?;
    let r = cx.binary(Add, r, rest)?;
    let r = cx.reshape(r, vec![rows, k.into(), k.into()])?;
    let other = cx.transpose(r, vec![0, 2, 1])?;
    let squares = cx.binary(Mul, other, other)?;
    let diagonal = cx.reduce(ReduceKind::Sum, squares, &[2], false)?;
    let unit = |i: usize| (0..k).map(|j| f64::from(u8::from(i == j))).collect::<Vec<_>>();
    let identity = cx.table(dtype, &[k, k], &(0..k).flat_map(unit).collect::<Vec<_>>());
    let column = cx.insert_axis(diagonal, 2)?;
    let on = cx.binary(Mul, column, identity)?;
    let off = cx.binary(Mul, other, r)?;
    let q = cx.binary(Sub, on, off)?;
    let mut p = cx.table(dtype, &[1, k], &vec![1.0 / k as f64; k]);
    for _ in 0..SWEEPS {
        let each = cx.insert_axis(p, 1)?;
        let terms = cx.binary(Mul, q, each)?;
        let gradient = cx.reduce(ReduceKind::Sum, terms, &[2], false)?;
        let terms = cx.binary(Mul, p, gradient)?;
        let norm = cx.reduce(ReduceKind::Sum, terms, &[1], true)?;
        let gap = cx.binary(Sub, gradient, norm)?;
        let gap = cx.unary(Abs, gap)?;
        let gap = cx.reduce(ReduceKind::Max, gap, &[1], true)?;
        let over = cx.compare_scalar(Lt, gap, 0.005 / k as f64)?;
        let (mut next, mut state) = (p, (gradient, norm));
        for t in 0..k {
            let (row, corner) = (cx.element(q, 1, t.into())?, cx.part(diagonal, 1, t.into(), 1.into())?);
            let unit = cx.table(dtype, &[1, k], &unit(t));
            (next, state) = step(cx, next, state, t, unit, row, corner)?;
        }
        p = cx.select(over, p, next)?;
    }
    Ok(p)
}

/// `p` with its element `t` (of unit vector `unit`) moved to where `pᵀQp` is least, and of sum 1 again; with it `Qp` and `pᵀQp`.
fn step(
    cx: &mut NodeCx,
    p: ValueId,
    (gradient, norm): (ValueId, ValueId),
    t: usize,
    unit: ValueId,
    row: ValueId,
    corner: ValueId,
) -> Result<(ValueId, (ValueId, ValueId))> {
    let at = cx.part(gradient, 1, t.into(), 1.into())?;
    let d = cx.binary(Sub, norm, at)?;
    let d = cx.binary(Div, d, corner)?;
    let sum = cx.with_scalar(Add, d, 1.0)?;
    let moved = |cx: &mut NodeCx, x: ValueId, along: ValueId| -> Result<ValueId> {
        let change = cx.binary(Mul, d, along)?;
        let y = cx.binary(Add, x, change)?;
        cx.binary(Div, y, sum)
    };
    let twice = cx.with_scalar(Mul, at, 2.0)?;
    let curve = cx.binary(Mul, d, corner)?;
    let curve = cx.binary(Add, curve, twice)?;
    let norm = moved(cx, norm, curve)?;
    let norm = cx.binary(Div, norm, sum)?;
    Ok((moved(cx, p, unit)?, (moved(cx, gradient, row)?, norm)))
}

/// Scores of two classes from one decision, as ONNX Runtime gives them.
fn both(cx: &mut NodeCx, decision: ValueId, transform: &str) -> Result<ValueId> {
    let whole = match transform {
        "NONE" | "LOGISTIC" => 0.0,
        "SOFTMAX" | "SOFTMAX_ZERO" => 1.0,
        other => {
            return Err(cx.unsupported(format!("post_transform {} of one score for two classes", other.escape_debug())));
        }
    };
    let whole = cx.scalar_like(decision, whole);
    let first = cx.binary(Sub, whole, decision)?;
    let y = cx.concat(&[first, decision], 1)?;
    if transform == "LOGISTIC" { cx.unary(Sigmoid, y) } else { Ok(y) }
}

/// The label that most decisions between two classes are for, and their probabilities; without `prob_a` the decisions. Without support vectors one score for each
/// class, by coefficients of features.
fn svm_classifier(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = rows(cx)?;
    let labels = classes(cx, "classlabels_ints")?;
    let (k, transform) = (labels.len(), cx.string("post_transform", "NONE"));
    let sizes = cx.ints("vectors_per_class").unwrap_or_default().into_iter().map(|n| usize::try_from(n).ok());
    let sizes = sizes.collect::<Option<Vec<usize>>>().ok_or_else(|| cx.invalid("negative vectors_per_class"))?;
    let vectors = sizes.iter().try_fold(0usize, |all, &n| all.checked_add(n));
    let vectors = vectors.ok_or_else(|| cx.invalid("too many vectors_per_class"))?;
    let (a, b) = (widened(cx, "prob_a"), widened(cx, "prob_b"));
    if vectors == 0 {
        // Of two classes without probabilities ONNX Runtime takes the second one wherever the larger score is positive, which no definition says.
        if k == 2 && a.is_empty() {
            return Err(cx.unsupported("two classes without support vectors"));
        }
        cx.ignores_attributes();
        let rho = cx.floats("rho").and_then(|r| r.first().copied()).ok_or_else(|| cx.invalid("no rho"))?;
        let scores = product(cx, x, k, &vec![rho; k])?;
        let label = best(cx, scores, &labels)?;
        let scores = transformed(cx, scores, &transform)?;
        return Ok(vec![value(label), value(cx.cast(scores, DType::F32)?)]);
    }
    if k < 2 || sizes.len() != k {
        return Err(cx.invalid(format!("vectors of {} classes for {k} labels", sizes.len())));
    }
    let decisions = decisions(cx, x, &sizes, vectors)?;
    let votes = votes(cx, decisions, k)?;
    let label = best(cx, votes, &labels)?;
    let scores = match (a.len(), k) {
        (0, 2) => both(cx, decisions, &transform)?,
        (0, _) => transformed(cx, decisions, &transform)?,
        (n, _) if n != k * (k - 1) / 2 || b.len() != n => {
            return Err(cx.invalid(format!(
                "{n} prob_a and {} prob_b for {} pairs of classes",
                b.len(),
                k * (k - 1) / 2
            )));
        }
        (_, k) if k > MAX_COUPLED => {
            return Err(cx.unsupported(format!("probabilities of {k} classes, more than {MAX_COUPLED}")));
        }
        _ => {
            let p = pairwise(cx, decisions, &a, &b)?;
            let p = coupled(cx, p, k)?;
            transformed(cx, p, &transform)?
        }
    };
    Ok(vec![value(label), value(cx.cast(scores, DType::F32)?)])
}

pub(super) const OPS: Topic =
    &[("ai.onnx.ml:SVMClassifier", svm_classifier), ("ai.onnx.ml:SVMRegressor", svm_regressor)];
