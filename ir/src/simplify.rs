//! Movements that need not be: what undoes the one before or goes on with it, and parts that are put together or taken apart again.

use crate::dim::Dim;
use crate::module::{Func, ValueId};
use crate::ops::{Concat, Op, Reshape, Slice, Transpose};

/// Parts of a concatenation that are looked through for one.
const MOST_PARTS: usize = 64;

/// What stands for an op.
pub enum Simpler {
    /// A value that is there.
    Value(ValueId),
    /// Another op and its operands.
    Op(Op, Vec<ValueId>),
}

/// What equals a movement of these operands; `None` for itself. The op before is taken to be as simple as it can be.
pub fn movement(f: &Func, op: &Op, operands: &[ValueId]) -> Option<Simpler> {
    match (op, operands) {
        (Op::Reshape(r), &[x]) => reshaped(f, r, x),
        (Op::Transpose(t), &[x]) => transposed(f, t, x),
        (Op::Slice(s), &[x]) => part_of_concat(f, s, x).map(Simpler::Value),
        (Op::Concat(c), parts) => whole(f, c, parts).map(Simpler::Value),
        _ => None,
    }
}

fn reshaped(f: &Func, r: &Reshape, x: ValueId) -> Option<Simpler> {
    let before = f.def_node(x).filter(|n| matches!(n.op, Op::Reshape(_)))?.operands[0];
    let same = f.values[before].ty.shape[..] == r.shape;
    Some(if same { Simpler::Value(before) } else { Simpler::Op(r.clone().into(), vec![before]) })
}

fn transposed(f: &Func, t: &Transpose, x: ValueId) -> Option<Simpler> {
    let node = f.def_node(x)?;
    let Op::Transpose(first) = &node.op else { return None };
    if t.perm.len() != first.perm.len() {
        return None;
    }
    let perm: Option<Vec<u8>> = t.perm.iter().map(|&p| first.perm.get(p as usize).copied()).collect();
    let (perm, before) = (perm?, node.operands[0]);
    let same = perm.iter().copied().eq(0..perm.len() as u8);
    Some(if same { Simpler::Value(before) } else { Simpler::Op(Transpose { perm }.into(), vec![before]) })
}

/// The part of a concatenation that a slice takes out whole.
fn part_of_concat(f: &Func, s: &Slice, x: ValueId) -> Option<ValueId> {
    let node = f.def_node(x).filter(|n| s.step == 1 && n.op == Concat { axis: s.axis }.into())?;
    if node.operands.len() > MOST_PARTS {
        return None;
    }
    let mut at = Dim::from(0);
    for &part in &node.operands {
        let extent = f.values[part].ty.shape.get(s.axis as usize)?.clone();
        if at == s.start {
            return (extent == s.len).then_some(part);
        }
        at = at + extent;
    }
    None
}

/// The value whose parts, all of them and in order, are put together.
fn whole(f: &Func, c: &Concat, parts: &[ValueId]) -> Option<ValueId> {
    let (mut at, mut of) = (Dim::from(0), None);
    for &part in parts {
        let node = f.def_node(part)?;
        let Op::Slice(s) = &node.op else { return None };
        let next = s.axis == c.axis && s.step == 1 && s.start == at;
        if !next || *of.get_or_insert(node.operands[0]) != node.operands[0] {
            return None;
        }
        at = at + s.len.clone();
    }
    of.filter(|&x| f.values[x].ty.shape.get(c.axis as usize) == Some(&at))
}
