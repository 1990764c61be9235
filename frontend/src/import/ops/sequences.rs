//! Sequences and optionals: which tensors there are is decided at import, and what an operator takes out of them, so that the module has tensors alone.

use super::Topic;
use crate::import::body::number;
use crate::import::node::{NodeCx, formed, value};
use crate::import::{Form, Meaning};
use std::rc::Rc;
use tersor_ir::diag::Result;
use tersor_ir::ops::{Gather, Reshape, Slice};
use tersor_ir::{DType, Dim, Tensor};

/// Most elements of a sequence.
const ELEMENTS: usize = 1 << 16;

/// The elements of an input that is a sequence.
fn elements(cx: &mut NodeCx, i: usize) -> Result<Rc<Vec<Meaning>>> {
    let m = cx.meaning(i)?;
    match m.form {
        Form::Sequence(all) => Ok(all),
        Form::Appended(_) | Form::Stacked(_) => Err(cx.importer.open_sequence(&m)),
        _ => Err(cx.invalid(format!("input {i} is not a sequence"))),
    }
}

/// Refuses a sequence of that many elements if it is too long.
fn bounded(cx: &NodeCx, elements: usize) -> Result<()> {
    if elements > ELEMENTS {
        return Err(cx.unsupported(format!("a sequence of {elements} elements, {ELEMENTS} are the most")));
    }
    Ok(())
}

fn sequence(cx: &mut NodeCx, all: Vec<Meaning>) -> Result<Vec<Meaning>> {
    bounded(cx, all.len())?;
    if !all.iter().all(|m| matches!(m.form, Form::Tensor)) {
        return Err(cx.invalid("an element of a sequence is no tensor"));
    }
    cx.importer.sequenced += all.len();
    let (made, limits) = (cx.importer.sequenced, &cx.importer.options.limits);
    if made > limits.sequence_elements {
        let what = format!("sequences come to {made} elements");
        return Err(limits.exceeded("O0007", "sequence_elements", what));
    }
    Ok(vec![formed(Form::Sequence(Rc::new(all)))])
}

/// The position that input `i` says, counted from the end of `n` elements if negative; `default` where there is no such input. `last` is the largest.
fn position(cx: &mut NodeCx, i: usize, n: usize, last: Option<usize>, default: Option<usize>) -> Result<usize> {
    let Some(at) = cx.optional_numbers(i)? else {
        return default.ok_or_else(|| cx.invalid("a position in no elements"));
    };
    let [at] = at[..] else { return Err(cx.invalid(format!("{} positions, expected one", at.len()))) };
    let from_start = if at < 0 { at.saturating_add(n as i64) } else { at };
    let found = usize::try_from(from_start).ok().filter(|&p| last.is_some_and(|last| p <= last));
    found.ok_or_else(|| cx.invalid(format!("position {at} of {n} elements")))
}

fn construct(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let all = (0..cx.input_count()).map(|i| cx.meaning(i)).collect::<Result<_>>()?;
    sequence(cx, all)
}

fn insert(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    if let Form::Appended(mut all) = cx.meaning(0)?.form
        && !cx.is_given(2)
    {
        all.push(cx.meaning(1)?);
        return Ok(vec![formed(Form::Appended(all))]);
    }
    let (all, new) = (elements(cx, 0)?, cx.meaning(1)?);
    let mut all = Rc::unwrap_or_clone(all);
    let n = all.len();
    let at = position(cx, 2, n, Some(n), Some(n))?;
    all.insert(at, new);
    sequence(cx, all)
}

fn erase(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let mut all = Rc::unwrap_or_clone(elements(cx, 0)?);
    let last = all.len().checked_sub(1);
    let at = position(cx, 1, all.len(), last, last)?;
    all.remove(at);
    sequence(cx, all)
}

/// The value whose slices input 0 is, where it is what a loop appended.
fn stacked(cx: &mut NodeCx) -> Result<Option<tersor_ir::ValueId>> {
    let m = cx.meaning(0)?;
    Ok(m.value.filter(|_| matches!(m.form, Form::Stacked(_))))
}

fn at(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    if let Some(v) = stacked(cx)? {
        let at = cx.input(1)?;
        let at = cx.reshape(at, vec![])?;
        return Ok(vec![value(cx.op(Gather { axis: 0 }, &[v, at])?)]);
    }
    let all = elements(cx, 0)?;
    let at = position(cx, 1, all.len(), all.len().checked_sub(1), None)?;
    Ok(vec![all[at].clone()])
}

fn length(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    if let Some(v) = stacked(cx)? {
        return Ok(vec![number(cx.extent_of(v, 0)?)]);
    }
    let n = elements(cx, 0)?.len();
    Ok(vec![cx.constant_meaning(&Tensor::from_i64(DType::I64, [], &[n as i64]))])
}

fn joined(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    if let Some(v) = stacked(cx)? {
        let (t, new) = (cx.ty(v), cx.int("new_axis", 0) != 0);
        let axis = cx.axis(cx.int("axis", 0), t.rank() - usize::from(!new))?;
        let mut perm: Vec<u8> = (1..t.rank() as u8).collect();
        perm.insert(axis, 0);
        let y = cx.transpose(v, perm)?;
        let mut shape = cx.ty(y).shape.to_vec();
        if !new {
            shape[axis] = shape[axis].clone() * shape.remove(axis + 1);
        }
        return Ok(vec![value(cx.reshape(y, shape)?)]);
    }
    let all = elements(cx, 0)?.iter().map(|m| cx.value_of(m)).collect::<Result<Vec<_>>>()?;
    let new = cx.int("new_axis", 0) != 0;
    let first = *all.first().ok_or_else(|| cx.unsupported("a sequence without elements"))?;
    let axis = cx.axis(cx.int("axis", 0), cx.ty(first).rank() + usize::from(new))?;
    Ok(vec![value(if new { cx.stack(&all, axis)? } else { cx.concat(&all, axis)? })])
}

/// Parts of one extent, where the split is one number, or of the extents that it lists; without a split, of extent 1.
fn split(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let t = cx.ty(x);
    let axis = cx.axis(cx.int("axis", 0), t.rank())?;
    let listed = cx.known(1).is_some_and(|k| !k.shape.is_empty());
    let parts = match cx.optional_numbers(1)? {
        Some(parts) if listed => parts,
        each => {
            let each = each.map_or(Some(1), |n| n.first().copied()).filter(|&n| n > 0);
            let each = each.ok_or_else(|| cx.invalid("parts must have a positive extent"))?;
            let extent = cx.fixed(&t.shape[axis], "parts of a sequence")? as i64;
            bounded(cx, usize::try_from(extent / each).unwrap_or(usize::MAX))?;
            (0..extent).step_by(each as usize).map(|start| each.min(extent - start)).collect()
        }
    };
    let total = parts.iter().try_fold(0i64, |a, &n| if n < 0 { None } else { a.checked_add(n) });
    let total = total.ok_or_else(|| cx.invalid(format!("parts of extents {parts:?}")))?;
    cx.equal(&total.into(), &t.shape[axis], "all parts together have extent")?;
    let drop = cx.int("keepdims", 1) == 0 && !cx.is_given(1);
    let (mut all, mut start) = (vec![], 0);
    for len in parts {
        let slice = Slice { axis: axis as u8, start: start.into(), len: len.into(), step: 1 };
        let mut part = cx.op(slice, &[x])?;
        if drop {
            let shape: Vec<Dim> =
                t.shape.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, d)| d.clone()).collect();
            part = cx.op(Reshape { shape }, &[part])?;
        }
        all.push(value(part));
        start += len;
    }
    sequence(cx, all)
}

/// The body for each element of the first sequence, with the elements of the others at its place, and tensors as they are.
fn map(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let body = cx.graph("body")?;
    let inputs = (0..cx.input_count()).map(|i| cx.meaning(i)).collect::<Result<Vec<_>>>()?;
    let n = elements(cx, 0)?.len();
    let mut results = vec![vec![]; body.output.len()];
    for i in 0..n {
        let mut arguments = vec![];
        for m in &inputs {
            arguments.push(match &m.form {
                Form::Sequence(all) => all.get(i).cloned().ok_or_else(|| cx.invalid("sequences of unlike length"))?,
                _ => m.clone(),
            });
        }
        results.iter_mut().zip(cx.inline(body, arguments)?).for_each(|(all, m)| all.push(m));
    }
    let sequences = results.into_iter().map(|all| sequence(cx, all));
    Ok(sequences.collect::<Result<Vec<_>>>()?.concat())
}

fn optional(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    cx.ignores_attributes();
    cx.takes(0);
    Ok(vec![if cx.is_given(0) { cx.meaning(0)? } else { formed(Form::Nothing) }])
}

fn has_element(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    cx.takes(0);
    let there = cx.is_given(0) && !matches!(cx.meaning(0)?.form, Form::Nothing);
    Ok(vec![cx.constant_meaning(&Tensor::scalar(DType::Bool, f64::from(there)))])
}

fn get_element(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let m = cx.meaning(0)?;
    if matches!(m.form, Form::Nothing) {
        return Err(cx.invalid("the optional has no element"));
    }
    Ok(vec![m])
}

pub(super) const OPS: Topic = &[
    ("SequenceConstruct", construct),
    ("SequenceEmpty", |cx| {
        cx.int("dtype", 1);
        sequence(cx, vec![])
    }),
    ("SequenceInsert", insert),
    ("SequenceErase", erase),
    ("SequenceAt", at),
    ("SequenceLength", length),
    ("ConcatFromSequence", joined),
    ("SplitToSequence", split),
    ("SequenceMap", map),
    ("Optional", optional),
    ("OptionalHasElement", has_element),
    ("OptionalGetElement", get_element),
];
