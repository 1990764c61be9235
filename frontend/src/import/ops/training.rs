//! Steps of optimizers (`ai.onnx.preview.training`).

use super::Topic;
use crate::import::Meaning;
use crate::import::node::{NodeCx, value};
use tersor_ir::ValueId;
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, Div, Mul, Pow, Sub};
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::unary::UnaryKind::Sqrt;

/// Rate, step, and `N` operands for each tensor, which stand list after list.
fn operands<const N: usize>(cx: &mut NodeCx) -> Result<(ValueId, ValueId, Vec<[ValueId; N]>)> {
    let all = cx.all_inputs()?;
    if all.len() < 2 + N || (all.len() - 2) % N != 0 {
        return Err(cx.invalid(format!("{} inputs, expected 2 and {N} for each tensor", all.len())));
    }
    let n = (all.len() - 2) / N;
    Ok((all[0], all[1], (0..n).map(|i| std::array::from_fn(|list| all[2 + list * n + i])).collect()))
}

/// The gradient with that of the squared norm.
fn regularized(cx: &mut NodeCx, x: ValueId, g: ValueId) -> Result<ValueId> {
    let decay = cx.with_scalar(Mul, x, cx.float("norm_coefficient", 0.0))?;
    cx.binary(Add, decay, g)
}

fn mix(cx: &mut NodeCx, old: ValueId, new: ValueId, keep: f64, add: f64) -> Result<ValueId> {
    let (old, new) = (cx.with_scalar(Mul, old, keep)?, cx.with_scalar(Mul, new, add)?);
    cx.binary(Add, old, new)
}

fn results(lists: Vec<Vec<ValueId>>) -> Result<Vec<Meaning>> {
    Ok(lists.into_iter().flatten().map(value).collect())
}

/// Duchi et al., 2011.
fn adagrad(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (rate, step, tensors) = operands(cx)?;
    let dtype = cx.ty(rate).dtype;
    let step = cx.cast(step, dtype)?;
    let slower = cx.with_scalar(Mul, step, cx.float("decay_factor", 0.0))?;
    let slower = cx.with_scalar(Add, slower, 1.0)?;
    let rate = cx.binary(Div, rate, slower)?;
    let mut out = vec![vec![]; 2];
    for [x, g, h] in tensors {
        let g = regularized(cx, x, g)?;
        let square = cx.binary(Mul, g, g)?;
        let h = cx.binary(Add, h, square)?;
        let root = cx.unary(Sqrt, h)?;
        let root = cx.with_scalar(Add, root, cx.float("epsilon", 0.0))?;
        let d = cx.binary(Div, g, root)?;
        let d = cx.binary(Mul, rate, d)?;
        out[0].push(cx.binary(Sub, x, d)?);
        out[1].push(h);
    }
    results(out)
}

/// Kingma and Ba, 2015.
fn adam(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (rate, step, tensors) = operands(cx)?;
    let (alpha, beta) = (cx.float("alpha", 0.9), cx.float("beta", 0.999));
    let dtype = cx.ty(rate).dtype;
    let later = cx.compare_scalar(CompareKind::Gt, step, 0.0)?;
    let step = cx.cast(step, dtype)?;
    let bias = |cx: &mut NodeCx, base: f64| -> Result<ValueId> {
        let (one, base) = (cx.scalar_like(step, 1.0), cx.scalar_like(step, base));
        let p = cx.binary(Pow, base, step)?;
        cx.binary(Sub, one, p)
    };
    let (first, second) = (bias(cx, alpha)?, bias(cx, beta)?);
    let second = cx.unary(Sqrt, second)?;
    let factor = cx.binary(Div, second, first)?;
    let corrected = cx.binary(Mul, rate, factor)?;
    let rate = cx.select(later, corrected, rate)?;
    let mut out = vec![vec![]; 3];
    for [x, g, v, h] in tensors {
        let g = regularized(cx, x, g)?;
        let square = cx.binary(Mul, g, g)?;
        let v = mix(cx, v, g, alpha, 1.0 - alpha)?;
        let h = mix(cx, h, square, beta, 1.0 - beta)?;
        let root = cx.unary(Sqrt, h)?;
        let root = cx.with_scalar(Add, root, cx.float("epsilon", 0.0))?;
        let d = cx.binary(Mul, rate, v)?;
        let d = cx.binary(Div, d, root)?;
        let y = cx.binary(Sub, x, d)?;
        out[0].push(cx.with_scalar(Mul, y, 1.0 - cx.float("norm_coefficient_post", 0.0))?);
        out[1].push(v);
        out[2].push(h);
    }
    results(out)
}

/// Polyak, 1964; with `nesterov` as in Sutskever et al., 2013.
fn momentum(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (rate, step, tensors) = operands(cx)?;
    let (alpha, beta) = (cx.float("alpha", 0.0), cx.float("beta", 0.0));
    let nesterov = match cx.string("mode", "").as_str() {
        "standard" => false,
        "nesterov" => true,
        other => return Err(cx.invalid(format!("mode \"{}\"", other.escape_debug()))),
    };
    let later = cx.compare_scalar(CompareKind::Gt, step, 0.0)?;
    let mut out = vec![vec![]; 2];
    for [x, g, v] in tensors {
        let g = regularized(cx, x, g)?;
        let (damped, whole) = (cx.scalar_like(g, beta), cx.scalar_like(g, 1.0));
        let share = cx.select(later, damped, whole)?;
        let (old, new) = (cx.with_scalar(Mul, v, alpha)?, cx.binary(Mul, g, share)?);
        let v = cx.binary(Add, old, new)?;
        let d = if nesterov {
            let ahead = cx.with_scalar(Mul, v, alpha)?;
            cx.binary(Add, g, ahead)?
        } else {
            v
        };
        let d = cx.binary(Mul, rate, d)?;
        out[0].push(cx.binary(Sub, x, d)?);
        out[1].push(v);
    }
    results(out)
}

pub(super) const OPS: Topic = &[
    ("ai.onnx.preview.training:Adagrad", adagrad),
    ("ai.onnx.preview.training:Adam", adam),
    ("ai.onnx.preview.training:Momentum", momentum),
];
