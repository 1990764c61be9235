//! The part of a program that a group's removal rewrites: from where its channels begin to the one value, of unchanged type, through which all that they do gets out.

use super::remove::{Removal, scaled};
use super::{Group, exact_nodes, reads};
use crate::propose::{Editor, Narrowed};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use tersor_ir::ops::binary::{Binary, BinaryKind};
use tersor_ir::{Def, Func, NodeId, Op, Result, Tensor, ValueId};

/// A part of a function's body.
#[derive(Clone, PartialEq, Debug)]
pub struct Region {
    /// Its nodes in order.
    pub nodes: Vec<NodeId>,
    /// The result of its last node: the only value of it that the rest of the program reads.
    pub exit: ValueId,
}

/// What changes in a region beside what goes.
#[derive(Clone, Default)]
pub struct Changes {
    /// What stands for constants of these nodes' operands, as they are when the channels are gone.
    pub weights: BTreeMap<(NodeId, usize), Tensor>,
    /// What is added to the first results of these nodes, as it is when the channels are gone.
    pub shifts: BTreeMap<NodeId, Tensor>,
}

impl Region {
    /// The smallest region around a group; why there is none where there is none.
    pub fn around(f: &Func, g: &Group) -> Result<Region, String> {
        let body: HashSet<NodeId> = f.body().nodes.iter().copied().collect();
        let nodes: Vec<NodeId> = exact_nodes(f);
        let channels: HashSet<ValueId> = g.slots.keys().map(|s| s.value).collect();
        let touches = |n: NodeId| reads(f, n).iter().chain(&f.nodes[n].results).any(|v| channels.contains(v));
        if nodes.iter().any(|&n| touches(n) && !body.contains(&n)) {
            return Err("its channels enter a region".into());
        }
        let order: Vec<NodeId> = nodes.into_iter().filter(|n| body.contains(n)).collect();
        let Some(last) = order.iter().rposition(|&n| touches(n)) else {
            return Err("nothing reads its channels".into());
        };
        // Where each value is last read; what is read by inner regions or is a result is read to the end.
        let mut read_at: HashMap<ValueId, usize> = HashMap::new();
        for (at, &n) in order.iter().enumerate() {
            reads(f, n).iter().for_each(|&v| {
                read_at.insert(v, at);
            });
        }
        let inner = f.regions.iter().filter(|(id, _)| *id != f.body_id()).flat_map(|(_, r)| {
            let operands = r.nodes.iter().flat_map(|&n| f.nodes[n].operands.iter().copied());
            operands.chain(r.results.iter().copied()).collect::<Vec<_>>()
        });
        inner.chain(f.body().results.iter().copied()).for_each(|v| {
            read_at.insert(v, order.len());
        });
        let (mut inside, mut out) = (BTreeSet::new(), vec![]);
        for (at, &n) in order.iter().enumerate() {
            let node = &f.nodes[n];
            if touches(n) || reads(f, n).iter().any(|v| inside.contains(v)) {
                out.push(n);
                inside.extend(node.results.iter().copied());
            }
            inside.retain(|v| read_at.get(v).is_some_and(|&last| last > at));
            if at >= last
                && let (1, Some(&exit)) = (inside.len(), inside.first())
                && node.results.first() == Some(&exit)
                && !channels.contains(&exit)
            {
                return Ok(Region { nodes: out, exit });
            }
        }
        Err("what its channels do gets out at several places".into())
    }

    /// The values that it reads and does not make, in the order of their first use; constants are not among them.
    pub fn inputs(&self, f: &Func) -> Vec<ValueId> {
        let mut seen: HashSet<ValueId> = self.nodes.iter().flat_map(|&n| f.nodes[n].results.iter().copied()).collect();
        let read = self.nodes.iter().flat_map(|&n| reads(f, n).iter().copied());
        read.filter(|&v| f.def_const(v).is_none() && seen.insert(v)).collect()
    }

    /// Appends the region over what stays when channels go, and gives its exit.
    pub fn without(&self, b: &mut Editor, r: Removal, changes: &Changes) -> Result<ValueId> {
        let mut map: HashMap<ValueId, ValueId> = HashMap::new();
        let base = b.name.clone();
        for &n in &self.nodes {
            let (op, gain) = r.op(b.func, n);
            if matches!(op, Op::Choice(_)) {
                let node = &b.func.nodes[n];
                let (exact, result) = (node.operands[0], node.results[0]);
                map.insert(result, map.get(&exact).copied().unwrap_or(exact));
                continue;
            }
            let (operands, results) = (b.func.nodes[n].operands.clone(), b.func.nodes[n].results.clone());
            let mut new = vec![];
            for (i, &v) in operands.iter().enumerate() {
                let factor = gain.filter(|_| i == 1).unwrap_or(1.0);
                let weight = changes.weights.get(&(n, i));
                new.push(match b.func.values[v].def {
                    Def::Const(_) if weight.is_some() || factor != 1.0 || r.touches(b.func, v) => {
                        let Some((name, old)) = b.tensor(v) else { continue };
                        let name = format!("{}.kept", name.trim_end_matches(".kept"));
                        let t = weight.map_or_else(|| scaled(&r.sliced(v, old), factor), Tensor::clone);
                        b.constant(&name, &t)
                    }
                    _ => map.get(&v).copied().unwrap_or(v),
                });
            }
            b.name = b.func.values[results[0]].name.to_string();
            let mut made = b.ops(op, &new)?;
            if let (Some(shift), Some(first)) = (changes.shifts.get(&n), made.first_mut()) {
                // What bears a group's name is what its weight makes: the shifted value comes second.
                let (old, rank) = (results[0], b.ty(results[0]).rank());
                b.narrowed.push(Narrowed { old, new: *first, kept: r.positions(old, rank) });
                let shift = b.constant(&format!("{}.shift", b.name), shift);
                *first = b.op(Binary { kind: BinaryKind::Add }, &[*first, shift])?;
            }
            for (old, new) in results.into_iter().zip(made) {
                map.insert(old, new);
                if old != self.exit {
                    let rank = b.ty(old).rank();
                    b.narrowed.push(Narrowed { old, new, kept: r.positions(old, rank) });
                }
            }
        }
        b.name = base;
        Ok(map.get(&self.exit).copied().unwrap_or(self.exit))
    }
}
