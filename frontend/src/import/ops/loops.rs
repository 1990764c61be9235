//! Loops that run: a nested graph becomes a function, which the op `loop` calls.

use crate::import::body::{Outside, number};
use crate::import::node::{NodeCx, formed, value};
use crate::import::{Form, Importer, Meaning};
use crate::proto::GraphProto;
use std::rc::Rc;
use tersor_ir::diag::Result;
use tersor_ir::ops::Loop;
use tersor_ir::{DType, Dim, Tensor, ValueId};

/// Repetitions that a loop has at most where nothing is known of them.
const UNBOUNDED: i64 = 1 << 31;

/// Whether something is a sequence without elements, which a loop may append to.
pub(super) fn is_empty_list(m: &Meaning) -> bool {
    matches!(&m.form, Form::Sequence(all) if all.is_empty())
}

/// How often something is repeated at most, apart from its condition.
pub(super) struct Trip {
    count: ValueId,
    /// The count as an extent, or what bounds it.
    most: Dim,
    /// Whether `most` is the count.
    exact: bool,
}

impl Trip {
    pub(super) fn of(cx: &mut NodeCx, d: Dim) -> Result<Trip> {
        let count = cx.value_of(&number(d.clone()))?;
        let most = if d.is_never_negative() { d } else { d.max(0.into()) };
        Ok(Trip { count, most, exact: true })
    }

    /// Of a `Loop`, where it is known or may be computed by the run: without `limit`, what is collected of that has no extent.
    pub(super) fn of_loop(cx: &mut NodeCx, cond: &Meaning, collects: bool) -> Result<Trip> {
        // The largest number says that there is none.
        let known = cx.known(0).and_then(|k| <[Dim; 1]>::try_from(k.items).ok()).map(|[d]| d);
        if let Some(d) = known.filter(|d| *d != Dim::Const(i64::MAX)) {
            return Trip::of(cx, d);
        }
        let limit = cx.importer.options.limits.computed_extent;
        let given = cx.optional(0)?;
        if collects && limit == 0 {
            let decides = given.map_or_else(|| cx.value_of(cond), Ok)?;
            return Err(cx.open_extent(decides, "what is collected over a number of repetitions that the run decides"));
        }
        let count = match given {
            Some(v) => {
                let v = cx.cast(v, DType::I64)?;
                cx.reshape(v, vec![])?
            }
            None => cx.emit_constant(&Tensor::from_i64(DType::I64, [], &[i64::MAX])),
        };
        Ok(Trip { count, most: if collects { limit.into() } else { UNBOUNDED.into() }, exact: false })
    }
}

/// A condition as the scalar that `loop` takes.
fn condition(cx: &mut NodeCx, m: &Meaning) -> Result<ValueId> {
    let v = cx.value_of(m)?;
    let v = cx.cast(v, DType::Bool)?;
    cx.reshape(v, vec![])
}

/// What a nested graph takes and gives.
pub(super) enum Kind<'m> {
    /// The number of the repetition, a condition, which holds, and what is carried; a condition, what is carried and what is collected.
    Loop(&'m Meaning),
    /// What is carried and elements; what is carried and what is collected.
    Scan,
    /// Nothing; what is carried. It is called where that holds.
    Branch(ValueId),
}

/// A loop that runs: `state` is carried, elements along an axis of `xs`, from the last one where that says so, are taken one at a time. Gives what was carried last, then what was
/// collected along a first axis.
pub(super) fn runs(
    cx: &mut NodeCx,
    body: &GraphProto,
    trip: Trip,
    kind: Kind,
    state: &[Meaning],
    xs: &[(ValueId, usize, bool)],
) -> Result<(Vec<Meaning>, Vec<ValueId>)> {
    let is_list: Vec<bool> = state.iter().map(is_empty_list).collect();
    let tensors = state.iter().filter(|m| !is_empty_list(m));
    let state = tensors.map(|m| cx.value_of(m)).collect::<Result<Vec<_>>>()?;
    let first = match kind {
        Kind::Loop(c) => condition(cx, c)?,
        Kind::Scan => cx.emit_constant(&Tensor::scalar(DType::Bool, 1.0)),
        Kind::Branch(c) => c,
    };
    let (mut outside, over) = cx.importer.enter(&trip.most)?;
    let inside = |cx: &mut NodeCx, outside: &mut Outside| -> Result<(bool, Vec<usize>)> {
        let mut arguments = vec![];
        if let Kind::Loop(_) = kind {
            // It is only called where the condition holds.
            arguments = vec![number(over.clone()), cx.constant_meaning(&Tensor::scalar(DType::Bool, 1.0))];
        }
        let carried: Vec<ValueId> = state.iter().map(|&v| cx.importer.carried(outside, v)).collect();
        cx.importer.see(outside, body);
        if !matches!(kind, Kind::Branch(_)) {
            let mut tensors = carried.iter().map(|&v| value(v));
            let of = |&list: &bool| if list { Some(formed(Form::Appended(vec![]))) } else { tensors.next() };
            arguments.extend(is_list.iter().filter_map(of));
        }
        for &(x, axis, back) in xs {
            let x = cx.importer.operand(outside, x);
            let len = cx.extent_of(x, axis)?;
            let at = if back { len - 1.into() - over.clone() } else { over.clone() };
            arguments.push(value(cx.element(x, axis, at)?));
        }
        let mut results = cx.inline(body, arguments)?.into_iter();
        let cond = match kind {
            Kind::Loop(_) => {
                let c = results.next().ok_or_else(|| cx.invalid("a body without results"))?;
                condition(cx, &c)?
            }
            _ => cx.emit_constant(&Tensor::scalar(DType::Bool, 1.0)),
        };
        let (mut values, mut rows, mut appended) = (vec![cond], vec![], vec![]);
        for &list in &is_list {
            let m = results.next().ok_or_else(|| cx.invalid("a body with too few results"))?;
            match m.form {
                Form::Appended(all) if list => {
                    appended.push(all.len());
                    let all = all.iter().map(|m| cx.value_of(m)).collect::<Result<Vec<_>>>()?;
                    match all[..] {
                        [] => {}
                        [one] => rows.push(one),
                        _ => rows.push(cx.stack(&all, 0)?),
                    }
                }
                _ => values.push(cx.value_of(&m)?),
            }
        }
        values.append(&mut rows);
        for m in results {
            values.push(cx.value_of(&m)?);
        }
        for (&p, &v) in carried.iter().zip(&values[1..]) {
            if cx.ty(p) != cx.ty(v) {
                let (before, after) = (cx.ty(p), cx.ty(v));
                return Err(
                    cx.unsupported(format!("{before} becomes {after} with each repetition of a loop that runs"))
                );
            }
        }
        let f = &cx.importer.b.func;
        let own = Importer::own_symbols(f, &over);
        for &v in &values[1 + carried.len()..] {
            let ty = cx.ty(v);
            if own.iter().any(|s| ty.shape.iter().any(|d| d.mentions(s))) {
                return Err(cx.unsupported(format!("collected tensors of unlike extents, {ty}")));
            }
            if ty.dtype.bits() < 8 || ty.dtype == DType::Str {
                return Err(cx.unsupported(format!("collected tensors of {}", ty.dtype)));
            }
        }
        let always = cx.constant_of(values[0]).is_some_and(|t| t.get_i64(0) != 0);
        let f = &mut cx.importer.b.func;
        f.outputs = (0..values.len()).map(|i| format!("y{i}").into()).collect();
        f.body_mut().results = values;
        Ok((always, appended))
    };
    let done = inside(cx, &mut outside);
    let (f, mut operands) = cx.importer.leave(outside, state.len());
    let (always, appended) = done?;
    if Importer::draws_numbers(&f) && !matches!(kind, Kind::Branch(_)) {
        return Err(cx.unsupported("numbers drawn by chance inside of a loop that runs"));
    }
    let carried = state.len();
    let row = |&v: &ValueId| {
        let mut ty = f.values[v].ty.clone();
        ty.shape.insert(0, trip.most.clone());
        ty
    };
    let rows = f.body().results[1 + carried..].iter().map(row);
    let results = state.iter().map(|&v| cx.ty(v)).chain(rows).collect();
    if operands.is_empty() {
        return Err(cx.unsupported("a loop that neither carries nor sees anything"));
    }
    operands.splice(0..0, [trip.count, first]);
    let name = f.name.to_string();
    let op = Loop { body: name, over, most: trip.most.clone(), carried: carried as u32, results };
    let made = cx.importer.append(op.into(), &operands)?;
    cx.importer.bodies.push(f);
    let exact = trip.exact && always && cx.constant_of(first).is_some_and(|t| t.get_i64(0) != 0);
    let mut collected = made[1 + carried..].to_vec();
    if !exact {
        let mut count: Option<Dim> = None;
        for v in &mut collected {
            *v = match &count {
                None => cx.prefix(*v, 0, made[0])?,
                Some(n) => cx.part(*v, 0, 0.into(), n.clone())?,
            };
            count = Some(cx.extent_of(*v, 0)?);
        }
    }
    let mut tensors = made[1..1 + carried].iter().copied();
    let mut rows = collected.into_iter();
    let mut appended = appended.into_iter();
    let mut last = vec![];
    for list in is_list {
        let each = if list { appended.next().unwrap_or(0) } else { 0 };
        last.push(match (list, each) {
            (false, _) => value(tensors.next().ok_or_else(|| cx.invalid("a body with too few results"))?),
            (true, 0) => formed(Form::Sequence(Rc::default())),
            (true, _) => {
                let mut v = rows.next().ok_or_else(|| cx.invalid("a body with too few results"))?;
                if each > 1 {
                    let mut shape = cx.ty(v).shape.to_vec();
                    shape[0] = shape[0].clone() * shape.remove(1);
                    v = cx.reshape(v, shape)?;
                }
                Meaning { form: Form::Stacked(vec![trip.count, first]), ..value(v) }
            }
        });
    }
    Ok((last, rows.collect()))
}
