//! What decides the kernel of a group, so that equal groups need one kernel built and printed once.

use crate::fuse::Fusion;
use crate::kernel::Group;
use foldhash::HashMap;
use tersor_ir::{Def, Dim, EntityId, Func, Module, Op, Type, ValueId};

/// Ops, types, and which operand is which: two groups with one signature have the same kernel, over buffers of their own.
#[derive(PartialEq, Eq, Hash, Debug)]
pub struct Signature {
    anchor: Option<usize>,
    ops: Vec<Op>,
    /// Of each node: operands, results, and an end.
    uses: Vec<Use>,
    /// Of values, in the order of [`Signature::of`].
    types: Vec<Type>,
    outputs: Vec<usize>,
}

#[derive(PartialEq, Eq, Hash, Debug)]
enum Use {
    /// A value by position; a constant that a loop reads as well.
    Value(usize),
    /// A view by position: the position of its root, the first element and the strides.
    View(usize, usize, Dim, Vec<Dim>),
    /// A constant by the number that a loop holds.
    Number(u64, Type),
    /// A value that is known before a run: its elements may be part of the kernel, so it stands for itself.
    Known(ValueId),
    End,
}

impl Signature {
    /// Of a group, with the values that it reads and writes in order; `known` says which are known before a run.
    pub fn of(m: &Module, f: &Func, group: &Group, fusion: &Fusion, known: &[bool]) -> (Signature, Vec<ValueId>) {
        let (mut values, mut positions) = (vec![], HashMap::default());
        let mut position = |v| {
            *positions.entry(v).or_insert_with(|| {
                values.push(v);
                values.len() - 1
            })
        };
        let (mut ops, mut uses) = (Vec::with_capacity(group.nodes.len()), vec![]);
        for &n in &group.nodes {
            let node = &f.nodes[n];
            ops.push(node.op.clone());
            for &v in node.operands.iter().chain(&node.results) {
                uses.push(match (f.values[v].def, group.anchor, fusion.views.get(&v)) {
                    (.., Some(view)) if known[view.root.index()] => Use::Known(v),
                    (.., Some(view)) => {
                        Use::View(position(v), position(view.root), view.offset.clone(), view.strides.clone())
                    }
                    (Def::Const(_), None, _) => match group.number(m, f, v) {
                        Some(x) => Use::Number(x.to_bits(), f.values[v].ty.clone()),
                        None => Use::Value(position(v)),
                    },
                    _ if known[v.index()] => Use::Known(v),
                    _ => Use::Value(position(v)),
                });
            }
            uses.push(Use::End);
        }
        let anchor = group.anchor.and_then(|a| group.nodes.iter().position(|&n| n == a));
        let outputs = group.outputs.iter().map(|&v| position(v)).collect();
        let types = values.iter().map(|&v| f.values[v].ty.clone()).collect();
        (Signature { anchor, ops, uses, types, outputs }, values)
    }
}
