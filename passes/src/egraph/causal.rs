//! Causal masks: what is known of a value that is added to attention's scores.
//!
//! A mask `[.., S, T]` is causal with the offset `d` when it holds 0 where `t <= s + d` and hides the rest, with `d` not negative, so that every position sees something.
//! One of truth values says so where it is true.

use foldhash::HashMap;
use tersor_ir::constant::ConstData;
use tersor_ir::{Constant, Consts, DType, Dim, Func, Op, Type, ValueId};

/// A score to which this or less is added has a weight of 0, to the last bit.
pub const HIDDEN: f64 = -1e9;

/// The offsets of the causal masks among values.
pub type Masks = HashMap<ValueId, Dim>;

/// The offset of a constant that is a causal mask.
pub fn of_constant(c: &Constant) -> Option<Dim> {
    let shape = c.ty.static_shape()?;
    let (&columns, lead) = shape.split_last()?;
    let (&rows, lead) = lead.split_last()?;
    let truth = c.ty.dtype == DType::Bool;
    let (shows, hides) = (|v: f64| (v != 0.0) == truth, |v: f64| if truth { v == 0.0 } else { v <= HIDDEN });
    if !(truth || c.ty.dtype.is_float())
        || lead.iter().any(|&d| d != 1)
        || rows < 2
        || columns < 2
        || !matches!(c.data(), ConstData::Bytes(_))
    {
        return None;
    }
    let t = c.tensor()?;
    // Weights are ruled out by the first row's ends.
    if !shows(t.get_f64(0)) || !hides(t.get_f64(columns - 1)) {
        return None;
    }
    let seen = (0..columns).take_while(|&j| shows(t.get_f64(j))).count();
    let fits = |i: usize, j: usize| {
        let v = t.get_f64(i * columns + j);
        if j < seen + i { shows(v) } else { hides(v) }
    };
    (0..rows).all(|i| (0..columns).all(|j| fits(i, j))).then(|| Dim::from(seen as i64 - 1))
}

/// The offset of what an op makes of a causal mask, if that is one. `splats` are the values of its other operands, where all their elements are one.
pub fn of_op(op: &Op, x: &Type, offset: &Dim, splats: &[Option<f64>], y: &Type) -> Option<Dim> {
    let rank = x.rank();
    match op {
        Op::Slice(s) if s.step == 1 && s.axis as usize + 2 == rank => Some(offset.clone() + s.start.clone()),
        Op::Slice(s) if s.step == 1 && s.axis as usize + 1 == rank && s.start == Dim::Const(0) => Some(offset.clone()),
        Op::Select(_) => {
            let zero_or_hidden = splats[0] == Some(0.0) && splats[1]? <= HIDDEN;
            (x.shape == y.shape && zero_or_hidden).then(|| offset.clone())
        }
        Op::Reshape(_) if y.rank() >= 2 && rank >= 2 => {
            let ((lead, last), (y_lead, y_last)) = (x.shape.split_at(rank - 2), y.shape.split_at(y.rank() - 2));
            let one = |d: &Dim| *d == Dim::Const(1);
            (last == y_last && lead.iter().chain(y_lead).all(one)).then(|| offset.clone())
        }
        _ => None,
    }
}

/// The causal masks among a function's values, constants aside.
pub fn masks(f: &Func, consts: &Consts) -> Masks {
    let mut out = Masks::default();
    for &n in &f.body().nodes {
        let node = &f.nodes[n];
        let (Op::Slice(_) | Op::Reshape(_) | Op::Select(_), [x, rest @ ..], [y]) =
            (&node.op, &node.operands[..], &node.results[..])
        else {
            continue;
        };
        let constant = |v: &ValueId| f.def_const(*v).map(|c| &consts[c]);
        let Some(offset) = out.get(x).cloned().or_else(|| of_constant(constant(x)?)) else { continue };
        let splats: Vec<Option<f64>> = rest.iter().map(|v| constant(v)?.splat()).collect();
        let found = of_op(&node.op, &f.values[*x].ty, &offset, &splats, &f.values[*y].ty);
        out.extend(found.map(|o| (*y, o)));
    }
    out
}
