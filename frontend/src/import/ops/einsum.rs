//! `Einsum`: pairs of operands become one product each.

use super::Topic;
use crate::import::Meaning;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::{MatMul, Reduce, Slice};
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

/// The equation with a letter for each axis that an ellipsis stands for, counted from the last.
fn spelled(cx: &NodeCx, equation: &str, operands: &[ValueId]) -> Result<String> {
    let bad = || cx.invalid(format!("the equation \"{}\" does not fit its operands", equation.escape_debug()));
    let axis = |i: usize| char::from_u32(0xE000 + i as u32);
    let (left, right) = equation.split_once("->").map_or((equation, None), |(l, r)| (l, Some(r)));
    let (mut terms, mut most) = (vec![], 0);
    for (i, t) in left.split(',').enumerate() {
        let rank = operands.get(i).map(|&v| cx.ty(v).rank()).ok_or_else(bad)?;
        let hidden = (rank + 3).checked_sub(t.chars().count());
        match (t.contains("..."), hidden) {
            (true, Some(n)) => {
                most = most.max(n);
                let axes: String = (0..n).rev().filter_map(axis).collect();
                terms.push(t.replacen("...", &axes, 1));
            }
            (true, None) => return Err(bad()),
            (false, _) => terms.push(t.to_string()),
        }
    }
    let all: String = (0..most).rev().filter_map(axis).collect();
    let right = match right {
        Some(r) if most > 0 && !r.contains("...") => return Err(bad()),
        Some(r) => r.replacen("...", &all, 1),
        None => {
            let mut once: Vec<char> =
                left.chars().filter(|c| c.is_ascii_alphabetic() && left.matches(*c).count() == 1).collect();
            once.sort_unstable();
            all.chars().chain(once).collect()
        }
    };
    Ok(format!("{}->{right}", terms.join(",")))
}

/// The diagonal over the axes of a letter that stands several times: one axis of them moves next to another, and every `n + 1`-th of their `n²` elements stays.
fn diagonal(cx: &mut NodeCx, mut t: Term) -> Result<Term> {
    while let Some(j) = (0..t.axes.len()).find(|&j| t.axes[..j].contains(&t.axes[j])) {
        let i = t.axes.iter().position(|a| *a == t.axes[j]).unwrap_or(0);
        let shape = cx.ty(t.v).shape.to_vec();
        cx.equal(&shape[j], &shape[i], &format!("axis {} has extent", t.axes[j]))?;
        let n = cx.fixed(&shape[i], "a diagonal")? as i64;
        let mut perm: Vec<u8> = (0..shape.len() as u8).filter(|&a| a as usize != j).collect();
        perm.insert(i + 1, j as u8);
        let v = cx.transpose(t.v, perm)?;
        let mut flat = shape;
        flat.remove(j);
        flat[i] = Dim::from(n) * n.into();
        let v = cx.reshape(v, flat)?;
        t.v = cx.op(Slice { axis: i as u8, start: 0.into(), len: n.into(), step: n + 1 }, &[v])?;
        t.axes.remove(j);
    }
    Ok(t)
}

/// Without the axes of extent 1 that others broadcast to.
fn unbroadcast(cx: &mut NodeCx, mut t: Term, wide: &[char]) -> Result<Term> {
    let shape = cx.ty(t.v).shape.to_vec();
    let kept: Vec<usize> =
        (0..shape.len()).filter(|&i| !(shape[i] == Dim::Const(1) && wide.contains(&t.axes[i]))).collect();
    t.v = cx.reshape(t.v, kept.iter().map(|&i| shape[i].clone()).collect())?;
    t.axes = kept.iter().map(|&i| t.axes[i]).collect();
    Ok(t)
}

fn einsum(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let operands = cx.all_inputs()?;
    let mut equation: String = cx.string("equation", "").chars().filter(|c| !c.is_whitespace()).collect();
    if equation.contains('.') {
        equation = spelled(cx, &equation, &operands)?;
    }
    let ellipsis = |c: &char| ('\u{E000}'..'\u{F000}').contains(c);
    let (left, right) = equation.split_once("->").map_or((&*equation, None), |(l, r)| (l, Some(r)));
    let terms: Vec<Vec<char>> = left.split(',').map(|t| t.chars().collect()).collect();
    let letters = left.chars().chain(right.unwrap_or("").chars()).filter(|c| *c != ',');
    let sound =
        letters.clone().all(|c| c.is_ascii_alphabetic() || ellipsis(&c)) && right.is_none_or(|r| !r.contains(','));
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
    if out.iter().enumerate().any(|(i, c)| out[..i].contains(c)) {
        return Err(cx.invalid("a letter twice in the result"));
    }
    if let Some(c) = out.iter().find(|c| !terms.iter().any(|t| t.contains(c))) {
        return Err(cx.invalid(format!("no operand has the axis {c}")));
    }
    let mut parts = vec![];
    for (i, (axes, &v)) in terms.into_iter().zip(&operands).enumerate() {
        if cx.ty(v).rank() != axes.len() {
            return Err(cx.invalid(format!("{} letters for operand {i} of {}", axes.len(), cx.ty(v))));
        }
        parts.push(diagonal(cx, Term { v, axes })?);
    }
    let wide: Vec<char> = parts
        .iter()
        .flat_map(|t| t.axes.iter().zip(cx.ty(t.v).shape.to_vec()).filter(|(c, d)| ellipsis(c) && *d != Dim::Const(1)))
        .map(|(c, _)| *c)
        .collect();
    let mut terms = vec![];
    for t in parts {
        terms.push(unbroadcast(cx, t, &wide)?);
    }
    let mut sum: Option<Term> = None;
    let axes: Vec<Vec<char>> = terms.iter().map(|t| t.axes.clone()).collect();
    for (i, t) in terms.into_iter().enumerate() {
        let later: Vec<char> = axes[i + 1..].iter().flatten().chain(&out).copied().collect();
        let before = sum.as_ref().map_or(vec![], |s| s.axes.clone());
        let needed: Vec<char> = later.iter().copied().chain(before).collect();
        let t = sum_unneeded(cx, t, &needed)?;
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
