//! Control flow: branches of known conditions and repetitions of a known number, where these are few, are written out; other repetitions are loops that run.

use super::Topic;
use super::loops::{Kind, Trip, is_empty_list, runs};
use crate::import::node::{NodeCx, value};
use crate::import::{Form, Meaning};
use crate::proto::GraphProto;
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::Mul;
use tersor_ir::ops::unary::UnaryKind::Not;
use tersor_ir::{DType, Dim, Tensor, Type, ValueId};

/// Most repetitions that are written out.
const REPETITIONS: i64 = 4096;
/// Loops that come to no more nodes are written out.
const WRITTEN_OUT: i64 = 4096;

/// Of a condition that is not known both branches are computed, since nothing in them has an effect, and one is selected; where that is much work, or one of them may not be possible,
/// the run takes one.
fn branches(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let cond = cx.input(0)?;
    let (then, other) = (cx.graph("then_branch")?, cx.graph("else_branch")?);
    if let Some(t) = cx.constant(0)? {
        if t.len() != 1 {
            return Err(cx.invalid(format!("a condition of {} elements", t.len())));
        }
        return cx.inline(if t.get_i64(0) != 0 { then } else { other }, vec![]);
    }
    let (before, notes) = (cx.importer.errors.len(), cx.importer.notes.len());
    let nodes = cx.importer.b.func.body().nodes.len();
    let (a, b) = (cx.inline(then, vec![]), cx.inline(other, vec![]));
    // The branch that is not taken may not fit what is around it.
    if cx.importer.errors.len() > before || a.is_err() || b.is_err() {
        let why = cx.undecided_value(
            cond,
            "a branch that does not fit, and a condition that is not known when the model is compiled",
        );
        if why.help.is_some() {
            cx.importer.errors.truncate(before);
            return Err(why);
        }
    }
    let (a, b) = (a?, b?);
    if a.len() != b.len() {
        return Err(cx.invalid(format!("branches of {} and {} results", a.len(), b.len())));
    }
    let cond = cx.reshape(cond, vec![])?;
    let mut pairs = vec![];
    for (a, b) in a.iter().zip(&b) {
        if [a, b].iter().any(|m| !matches!(m.form, Form::Tensor)) {
            return Err(
                cx.undecided_value(cond, "branches of sequences or optionals, and a condition that is not known")
            );
        }
        let (a, b) = (cx.value_of(a)?, cx.value_of(b)?);
        if cx.ty(a) != cx.ty(b) {
            let what = format!("branches of types {} and {}", cx.ty(a), cx.ty(b));
            return Err(cx.undecided_value(cond, what));
        }
        pairs.push((a, b));
    }
    if pairs.iter().any(|p| !is_plain(&cx.ty(p.0))) || !is_apart(cx, nodes) {
        return pairs.into_iter().map(|(a, b)| Ok(value(cx.select(cond, a, b)?))).collect();
    }
    // What was imported of both to know their types goes: nothing reads it.
    cx.importer.notes.truncate(notes);
    let mut state = vec![];
    for (a, _) in pairs {
        let ty = cx.ty(a);
        let zero = cx.emit_constant(&Tensor::scalar(ty.dtype, 0.0));
        state.push(value(cx.broadcast(zero, ty.shape.to_vec())?));
    }
    let not = cx.unary(Not, cond)?;
    for (cond, branch) in [(cond, then), (not, other)] {
        let once = Trip::of(cx, 1.into())?;
        state = runs(cx, branch, once, Kind::Branch(cond), &state, &[])?.0;
    }
    Ok(state)
}

/// Whether functions of loops may have it.
fn is_plain(ty: &Type) -> bool {
    ty.dtype != DType::Str && ty.dtype.part().is_none()
}

/// Whether nodes from that one on are much work, or need what operands may not have, and can be a function: without strings and complex numbers.
fn is_apart(cx: &NodeCx, from: usize) -> bool {
    use tersor_ir::Op;
    let f = &cx.importer.b.func;
    let work = |op: &Op| matches!(op, Op::MatMul(_) | Op::Conv(_) | Op::Attention(_) | Op::Recurrence(_) | Op::Loop(_));
    let nodes = || f.body().nodes[from..].iter().map(|&n| &f.nodes[n]);
    nodes().flat_map(|n| n.operands.iter().chain(&n.results)).all(|&v| is_plain(&f.values[v].ty))
        && nodes().any(|n| work(&n.op) || !n.needs(f).is_empty())
}

/// Whether a loop goes on; it must be known.
fn goes_on(cx: &mut NodeCx, cond: &Meaning) -> Result<bool> {
    let v = cx.value_of(cond)?;
    let t = cx.constant_of(v).filter(|t| t.len() == 1);
    t.map(|t| t.get_i64(0) != 0)
        .ok_or_else(|| cx.undecided_value(v, "a condition that is not known when the model is compiled"))
}

fn repetition(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let body = cx.graph("body")?;
    let cond = match cx.optional(1)? {
        Some(_) => cx.meaning(1)?,
        None => cx.constant_meaning(&Tensor::scalar(DType::Bool, 1.0)),
    };
    let state = (2..cx.input_count()).map(|i| cx.meaning(i)).collect::<Result<Vec<_>>>()?;
    let scans = (body.output.len()).checked_sub(1 + state.len());
    let scans = scans.ok_or_else(|| cx.invalid(format!("a body of {} results", body.output.len())))?;
    let most = match cx.is_given(0) {
        true => cx.known(0).and_then(|k| k.numbers()).and_then(|n| n.first().copied()),
        false => Some(i64::MAX),
    };
    let (errors, undecided) = (cx.importer.errors.len(), cx.importer.rounds.undecided.clone());
    let write = |cx: &mut NodeCx| written_out(cx, body, most, cond.clone(), state.clone(), scans);
    let fit = state.iter().all(|m| matches!(m.form, Form::Tensor) || is_empty_list(m));
    let lists = state.iter().any(is_empty_list);
    let few = most.is_some_and(|m| m.saturating_mul(body.node.len() as i64) <= WRITTEN_OUT) || !cx.is_given(0);
    let mut unwritten = None;
    if few || lists || !fit {
        match write(cx) {
            Err(d) if fit && !cx.importer.rounds.again => unwritten = Some(d),
            written => return written,
        }
    }
    // What it would take to write it out is asked for where it cannot run either.
    cx.importer.errors.truncate(errors);
    let asked = std::mem::replace(&mut cx.importer.rounds.undecided, undecided);
    let trip = Trip::of_loop(cx, &cond, scans > 0 || lists);
    match trip.and_then(|trip| runs(cx, body, trip, Kind::Loop(&cond), &state, &[])) {
        Ok((last, collected)) => Ok(last.into_iter().chain(collected.into_iter().map(value)).collect()),
        Err(d) if cx.importer.rounds.again => Err(d),
        // Repetitions whose values change their types have to be written out.
        Err(_) if unwritten.is_none() && most.is_some_and(|m| m <= REPETITIONS) => {
            cx.importer.errors.truncate(errors);
            write(cx)
        }
        Err(mut d) => {
            cx.importer.rounds.undecided.extend(asked);
            d.help = d.help.or(unwritten.and_then(|d| d.help));
            Err(d)
        }
    }
}

fn written_out(
    cx: &mut NodeCx,
    body: &GraphProto,
    most: Option<i64>,
    mut cond: Meaning,
    mut state: Vec<Meaning>,
    scans: usize,
) -> Result<Vec<Meaning>> {
    let most = match most {
        Some(m) => m,
        None => cx.numbers(0)?.first().copied().unwrap_or(0),
    };
    let mut parts = vec![vec![]; scans];
    let mut i = 0;
    while i < most && goes_on(cx, &cond)? {
        if i >= REPETITIONS {
            return Err(cx.unsupported(format!("more than {REPETITIONS} repetitions")));
        }
        let count = cx.constant_meaning(&Tensor::from_i64(DType::I64, [], &[i]));
        let mut results = cx.inline(body, [count, cond].into_iter().chain(state.clone()).collect())?.into_iter();
        cond = results.next().ok_or_else(|| cx.invalid("a body without results"))?;
        state = results.by_ref().take(state.len()).collect();
        for (part, m) in parts.iter_mut().zip(results) {
            part.push(cx.value_of(&m)?);
        }
        i += 1;
    }
    for part in parts {
        if part.is_empty() {
            return Err(cx.unsupported("the collected results of no repetition"));
        }
        state.push(value(cx.stack(&part, 0)?));
    }
    Ok(state)
}

/// Axis and direction of each operand or result that is taken apart.
fn sides(cx: &NodeCx, axes: &str, directions: &str, n: usize) -> Result<Vec<(i64, bool)>> {
    let list = |name: &str| {
        let v = cx.ints(name).unwrap_or_else(|| vec![0; n]);
        if v.len() == n { Ok(v) } else { Err(cx.invalid(format!("{} {name} for {n}", v.len()))) }
    };
    let back = |d: i64| match d {
        0 | 1 => Ok(d == 1),
        _ => Err(cx.invalid(format!("{directions} {d}, expected 0 or 1"))),
    };
    list(axes)?.into_iter().zip(list(directions)?).map(|(axis, d)| Ok((axis, back(d)?))).collect()
}

fn scan_once(cx: &mut NodeCx, body: &GraphProto, mut state: Vec<Meaning>, xs: &[ValueId]) -> Result<Vec<Meaning>> {
    let (n, scans) = (xs.len(), body.output.len().checked_sub(state.len()));
    let scans = scans.ok_or_else(|| cx.invalid(format!("a body of {} results", body.output.len())))?;
    let ins = sides(cx, "scan_input_axes", "scan_input_directions", n)?;
    let outs = sides(cx, "scan_output_axes", "scan_output_directions", scans)?;
    let mut places = vec![];
    for (&x, (axis, _)) in xs.iter().zip(&ins) {
        let t = cx.ty(x);
        let axis = cx.axis(*axis, t.rank())?;
        places.push((axis, t.shape[axis].clone()));
    }
    let extent = places.first().map_or(0.into(), |p| p.1.clone());
    for (_, d) in &places {
        cx.equal(d, &extent, "what is scanned has an extent of")?;
    }
    let few = |n: &i64| *n > 0 && n.saturating_mul(body.node.len() as i64) <= WRITTEN_OUT;
    let Some(steps) = extent.as_const().filter(few) else {
        let xs: Vec<_> = xs.iter().zip(&ins).zip(&places).map(|((&x, i), p)| (x, p.0, i.1)).collect();
        let trip = Trip::of(cx, extent)?;
        let (mut results, collected) = runs(cx, body, trip, Kind::Scan, &state, &xs)?;
        for (mut y, (axis, back)) in collected.into_iter().zip(outs) {
            let rank = cx.ty(y).rank();
            let axis = cx.axis(axis, rank)?;
            if back {
                y = cx.flip(y, 0)?;
            }
            let mut perm: Vec<u8> = (1..rank as u8).collect();
            perm.insert(axis, 0);
            results.push(value(cx.transpose(y, perm)?));
        }
        return Ok(results);
    };
    let mut parts = vec![vec![]; scans];
    for i in 0..steps {
        let mut arguments = state;
        for ((&x, (_, back)), (axis, _)) in xs.iter().zip(&ins).zip(&places) {
            let at = if *back { steps - 1 - i } else { i };
            arguments.push(value(cx.element(x, *axis, at.into())?));
        }
        let carried = arguments.len() - n;
        let mut results = cx.inline(body, arguments)?.into_iter();
        state = results.by_ref().take(carried).collect();
        for (part, m) in parts.iter_mut().zip(results) {
            part.push(cx.value_of(&m)?);
        }
    }
    for (mut part, (axis, back)) in parts.into_iter().zip(outs) {
        if back {
            part.reverse();
        }
        let rank = part.first().map_or(0, |&p| cx.ty(p).rank());
        let axis = cx.axis(axis, rank + 1)?;
        state.push(value(cx.stack(&part, axis)?));
    }
    Ok(state)
}

/// Opset 8 has a batch axis before all others.
fn scan(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let body = cx.graph("body")?;
    let batched = cx.opset < 9;
    if batched && cx.optional(0)?.is_some() {
        return Err(cx.unsupported("lengths of sequences"));
    }
    let all = (usize::from(batched)..cx.input_count()).map(|i| cx.input(i)).collect::<Result<Vec<_>>>()?;
    let n = usize::try_from(cx.int("num_scan_inputs", 0)).ok().filter(|n| (1..=all.len()).contains(n));
    let n = n.ok_or_else(|| cx.invalid(format!("num_scan_inputs of {} operands", all.len())))?;
    let (state, xs) = all.split_at(all.len() - n);
    if !batched {
        return scan_once(cx, body, state.iter().map(|&v| value(v)).collect(), xs);
    }
    let batch = cx.ty(xs[0]).shape.first().cloned().unwrap_or(Dim::from(1));
    let batch = cx.fixed(&batch, "a scan of batches")? as i64;
    if !(1..=REPETITIONS).contains(&batch) {
        return Err(cx.unsupported(format!("a batch of {batch}")));
    }
    let mut parts: Vec<Vec<ValueId>> = vec![vec![]; body.output.len()];
    for i in 0..batch {
        let one =
            |cx: &mut NodeCx, v: &[ValueId]| v.iter().map(|&v| cx.element(v, 0, i.into())).collect::<Result<Vec<_>>>();
        let (state, xs) = (one(cx, state)?, one(cx, xs)?);
        for (part, m) in parts.iter_mut().zip(scan_once(cx, body, state.into_iter().map(value).collect(), &xs)?) {
            part.push(cx.value_of(&m)?);
        }
    }
    parts.iter().map(|p| cx.stack(p, 0).map(value)).collect()
}

/// Attention with graphs that change scores and probabilities.
fn flex_attention(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (q, k, v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let t = cx.ty(q);
    if t.rank() != 4 || cx.ty(k).rank() != 4 || cx.ty(v).rank() != 4 {
        return Err(cx.invalid(format!("an operand of {t}, expected four axes")));
    }
    let wide = cx.dtype_attr("softmax_precision", if t.dtype == DType::F64 { DType::F64 } else { DType::F32 })?;
    let scale = match cx.has("scale") {
        true => cx.float("scale", 1.0),
        false => 1.0 / (cx.fixed(&t.shape[3], "heads")? as f64).sqrt(),
    };
    let (k, v) = (super::attention::repeat_heads(cx, k, q)?, super::attention::repeat_heads(cx, v, q)?);
    let (q, k) = (cx.cast(q, wide)?, cx.cast(k, wide)?);
    let scores = cx.matmul(q, k, true)?;
    let mut scores = cx.with_scalar(Mul, scores, scale)?;
    if cx.has("score_mod") {
        let g = cx.graph("score_mod")?;
        scores = modified(cx, g, scores)?;
    }
    let mut p = cx.op(tersor_ir::ops::Softmax { axis: 3, log: false }, &[scores])?;
    if cx.has("prob_mod") {
        let g = cx.graph("prob_mod")?;
        p = modified(cx, g, p)?;
    }
    let v = cx.cast(v, wide)?;
    let y = cx.matmul(p, v, false)?;
    Ok(vec![value(cx.cast(y, t.dtype)?)])
}

fn modified(cx: &mut NodeCx, g: &GraphProto, x: ValueId) -> Result<ValueId> {
    let results = cx.inline(g, vec![value(x)])?;
    let [y] = &results[..] else { return Err(cx.invalid(format!("a modifier of {} results", results.len()))) };
    let y = cx.value_of(y)?;
    if cx.ty(y) == cx.ty(x) {
        Ok(y)
    } else {
        Err(cx.invalid(format!("a modifier gives {} for {}", cx.ty(y), cx.ty(x))))
    }
}

pub(super) const OPS: Topic =
    &[("If", branches), ("Loop", repetition), ("Scan", scan), ("ai.onnx.preview:FlexAttention", flex_attention)];
