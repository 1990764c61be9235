//! `Einsum`: pairs of operands become one product each.

use super::Topic;
use crate::import::Meaning;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::{MatMul, Reduce};
use tersor_ir::{Dim, ValueId};

/// A value with a letter for each axis.
struct Term {
    v: ValueId,
    axes: Vec<char>,
}

/// Sums over the axes that nobody else needs.
fn sum_unneeded(cx: &mut NodeCx, t: Term, needed: &[char]) -> Result<Term> {
    let axes: Vec<u8> = (0..t.axes.len()).filter(|&i| !needed.contains(&t.axes[i])).map(|i| i as u8).collect();
    if axes.is_empty() {
        return Ok(t);
    }
    let v = cx.op(Reduce { kind: ReduceKind::Sum, axes, keep: false }, &[t.v])?;
    Ok(Term { v, axes: t.axes.into_iter().filter(|c| needed.contains(c)).collect() })
}

/// The term with its axes in another order, as a matrix of these groups.
fn grouped(cx: &mut NodeCx, t: &Term, groups: [&[char]; 3]) -> Result<ValueId> {
    let place = |c: &char| t.axes.iter().position(|a| a == c).unwrap_or(0) as u8;
    let v = cx.transpose(t.v, groups.iter().flat_map(|g| g.iter().map(place)).collect())?;
    let shape = cx.ty(t.v).shape.to_vec();
    let extent = |g: &[char]| g.iter().fold(Dim::from(1), |a, c| a * shape[place(c) as usize].clone());
    cx.reshape(v, groups.map(extent).into())
}

/// Contracts two terms over the letters that both have and nobody else needs.
fn contract(cx: &mut NodeCx, a: Term, b: Term, needed: &[char]) -> Result<Term> {
    let common: Vec<char> = a.axes.iter().copied().filter(|c| b.axes.contains(c)).collect();
    let (batch, inner): (Vec<char>, Vec<char>) = common.iter().partition(|c| needed.contains(c));
    let free = |t: &Term| t.axes.iter().copied().filter(|c| !common.contains(c)).collect::<Vec<char>>();
    let (fa, fb) = (free(&a), free(&b));
    let extent = |cx: &NodeCx, t: &Term, c: &char| {
        t.axes.iter().position(|x| x == c).map_or(Dim::from(1), |i| cx.ty(t.v).shape[i].clone())
    };
    for c in &common {
        let (x, y) = (extent(cx, &a, c), extent(cx, &b, c));
        cx.equal(&x, &y, &format!("axis {c} has extent"))?;
    }
    let all: Vec<Dim> = batch.iter().chain(&fa).map(|c| extent(cx, &a, c)).collect();
    let shape: Vec<Dim> = all.into_iter().chain(fb.iter().map(|c| extent(cx, &b, c))).collect();
    let (x, y) = (grouped(cx, &a, [&batch, &fa, &inner])?, grouped(cx, &b, [&batch, &inner, &fb])?);
    let v = cx.op(MatMul { trans_a: false, trans_b: false, wide: false }, &[x, y])?;
    Ok(Term { v: cx.reshape(v, shape)?, axes: batch.into_iter().chain(fa).chain(fb).collect() })
}

fn einsum(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let operands = cx.all_inputs()?;
    let equation: String = cx.string("equation", "").chars().filter(|c| !c.is_whitespace()).collect();
    if equation.contains('.') {
        return Err(cx.unsupported("an ellipsis"));
    }
    let (left, right) = equation.split_once("->").map_or((&*equation, None), |(l, r)| (l, Some(r)));
    let terms: Vec<Vec<char>> = left.split(',').map(|t| t.chars().collect()).collect();
    let letters = left.chars().chain(right.unwrap_or("").chars()).filter(|c| *c != ',');
    let sound = letters.clone().all(|c| c.is_ascii_alphabetic()) && right.is_none_or(|r| !r.contains(','));
    if !sound || terms.len() != operands.len() {
        return Err(cx.invalid(format!("the equation \"{}\" does not fit its operands", equation.escape_debug())));
    }
    let out: Vec<char> = match right {
        Some(r) => r.chars().collect(),
        // Without an arrow: the letters that occur once, in order.
        None => {
            let mut once: Vec<char> = left.chars().filter(|c| *c != ',' && left.matches(*c).count() == 1).collect();
            once.sort_unstable();
            once
        }
    };
    let repeated = |t: &[char]| t.iter().enumerate().any(|(i, c)| t[..i].contains(c));
    if terms.iter().any(|t| repeated(t)) || repeated(&out) {
        return Err(cx.unsupported("a letter twice in one operand"));
    }
    if let Some(c) = out.iter().find(|c| !terms.iter().any(|t| t.contains(c))) {
        return Err(cx.invalid(format!("no operand has the axis {c}")));
    }
    let mut sum: Option<Term> = None;
    for (i, (axes, &v)) in terms.iter().zip(&operands).enumerate() {
        if cx.ty(v).rank() != axes.len() {
            return Err(cx.invalid(format!("{} letters for operand {i} of {}", axes.len(), cx.ty(v))));
        }
        let later: Vec<char> = terms[i + 1..].iter().flatten().chain(&out).copied().collect();
        let before = sum.as_ref().map_or(vec![], |s| s.axes.clone());
        let needed: Vec<char> = later.iter().copied().chain(before).collect();
        let t = sum_unneeded(cx, Term { v, axes: axes.clone() }, &needed)?;
        let joint = match sum {
            None => t,
            Some(s) => {
                let needed: Vec<char> = later.iter().chain(&t.axes).copied().collect();
                let s = sum_unneeded(cx, s, &needed)?;
                contract(cx, s, t, &later)?
            }
        };
        sum = Some(sum_unneeded(cx, joint, &later)?);
    }
    let sum = sum.ok_or_else(|| cx.invalid("no operands"))?;
    let perm = out.iter().filter_map(|c| sum.axes.iter().position(|a| a == c)).map(|i| i as u8).collect();
    Ok(vec![value(cx.transpose(sum.v, perm)?)])
}

pub(super) const OPS: Topic = &[("Einsum", einsum)];
