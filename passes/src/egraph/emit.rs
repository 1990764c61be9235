//! From a plan back to nodes, and how they are named.
//!
//! A value that stays, whatever makes it now, keeps its name and origin. *An anchor keeps its name*: a product, convolution or attention that takes over the work of
//! one that is gone has that one's name, even where its own value is new (a convolution that swallowed a batch normalisation makes what the normalisation made). Users
//! name layers by these. Everything else is named after the reader that comes next.

use super::node::Node;
use super::region::Plan;
use foldhash::{HashMap, HashSet};
use smallvec::SmallVec;
use std::collections::VecDeque;
use tersor_ir::module::Builder;
use tersor_ir::{Def, Func, Loc, NodeId, Op, Result, ValueId};

/// Nodes that are looked at for the anchor that another one replaces.
const NEAR: usize = 64;

/// What a user knows a layer by.
fn is_anchor(op: &Op) -> bool {
    matches!(op, Op::MatMul(_) | Op::Conv(_) | Op::Attention(_))
}

/// The new value of an old one.
pub fn value(old: &Func, v: ValueId, b: &mut Builder, new: &HashMap<ValueId, ValueId>) -> ValueId {
    match old.values[v].def {
        Def::Const(c) => b.const_value(c),
        _ => new[&v],
    }
}

/// Appends the nodes as they were.
pub fn copy(old: &Func, nodes: &[NodeId], b: &mut Builder, new: &mut HashMap<ValueId, ValueId>) -> Result<()> {
    for &n in nodes {
        let node = &old.nodes[n];
        let operands: SmallVec<[ValueId; 4]> = node.operands.iter().map(|&v| value(old, v, b, new)).collect();
        b.loc = node.loc.clone();
        b.name.clear();
        b.name.push_str(&old.values[node.results[0]].name);
        let results = b.ops(node.op.clone(), &operands)?;
        new.extend(node.results.iter().copied().zip(results));
    }
    Ok(())
}

/// Appends what the nodes become.
pub fn emit(
    old: &Func,
    nodes: &[NodeId],
    plan: &Plan,
    b: &mut Builder,
    new: &mut HashMap<ValueId, ValueId>,
) -> Result<()> {
    let namer = Namer::new(old, nodes, plan);
    let mut results: Vec<Vec<ValueId>> = vec![];
    for (i, (node, children)) in plan.nodes.iter().enumerate() {
        let made_here = match node {
            Node::Const(c) => vec![b.const_value(*c)],
            Node::Value(v) => vec![new[v]],
            Node::Result(k, _) => vec![results[children[0]][*k as usize]],
            Node::Op(op, _) => {
                let operands: Vec<ValueId> = children.iter().map(|&c| results[c][0]).collect();
                (b.name, b.loc) = namer.name(i, op);
                b.ops(op.clone(), &operands)?.to_vec()
            }
        };
        results.push(made_here);
    }
    for &(i, v) in &plan.values {
        if namer.made.contains_key(&v) {
            new.insert(v, results[i][0]);
        }
    }
    Ok(())
}

/// Names and origins of a plan's nodes.
struct Namer<'a> {
    old: &'a Func,
    /// The nodes of the region by what they make.
    made: HashMap<ValueId, NodeId>,
    /// The old value that each position has.
    origin: Vec<Option<ValueId>>,
    /// That, or the one of the next reader that has one.
    near: Vec<Option<ValueId>>,
    /// Old values whose names went to anchors at other positions.
    lent: HashMap<usize, ValueId>,
    taken: HashSet<ValueId>,
}

impl<'a> Namer<'a> {
    fn new(old: &'a Func, nodes: &[NodeId], plan: &Plan) -> Namer<'a> {
        let made: HashMap<ValueId, NodeId> =
            nodes.iter().flat_map(|&n| old.nodes[n].results.iter().map(move |&v| (v, n))).collect();
        let mut origin: Vec<Option<ValueId>> = vec![None; plan.nodes.len()];
        for &(i, v) in plan.values.iter().rev().filter(|(_, v)| made.contains_key(v)) {
            origin[i] = Some(v);
        }
        let mut near = origin.clone();
        for (i, (_, children)) in plan.nodes.iter().enumerate().rev() {
            for &c in children {
                near[c] = near[c].or(near[i]);
            }
        }
        let mut namer = Namer { old, made, origin, near, lent: HashMap::default(), taken: HashSet::default() };
        let positions: HashMap<ValueId, usize> = plan.values.iter().map(|&(i, v)| (v, i)).collect();
        for (i, (node, _)) in plan.nodes.iter().enumerate() {
            let (Node::Op(op, _), Some(v)) = (node, namer.near[i]) else { continue };
            if !is_anchor(op) || namer.origin[i].is_some_and(|v| is_anchor(namer.op(v))) {
                continue;
            }
            // The value of an anchor that something else makes now, such as a reshape of this one.
            let now = |v| {
                if let Some((Node::Op(op, _), _)) = positions.get(v).map(|&p| &plan.nodes[p]) { Some(op) } else { None }
            };
            let passed_on = is_anchor(namer.op(v)) && now(&v).is_some_and(|op| !is_anchor(op));
            let from = namer.replaced(v, op, &positions).or(passed_on.then_some(v));
            if let Some(from) = from
                && namer.taken.insert(from)
            {
                namer.lent.insert(i, from);
            }
        }
        namer
    }

    fn op(&self, v: ValueId) -> &'a Op {
        &self.old.nodes[self.made[&v]].op
    }

    /// The nearest anchor of the kind of `op` among what made `v`, if its value is gone.
    fn replaced(&self, v: ValueId, op: &Op, kept: &HashMap<ValueId, usize>) -> Option<ValueId> {
        let (mut queue, mut seen) = (VecDeque::from([v]), HashSet::default());
        while let Some(v) = queue.pop_front() {
            if !self.made.contains_key(&v) || !seen.insert(v) || seen.len() > NEAR {
                continue;
            }
            if !is_anchor(self.op(v)) {
                queue.extend(&self.old.nodes[self.made[&v]].operands);
            } else if self.op(v).mnemonic() == op.mnemonic() && !kept.contains_key(&v) && !self.taken.contains(&v) {
                return Some(v);
            }
        }
        None
    }

    fn name(&self, i: usize, op: &Op) -> (String, Loc) {
        let lent = self.lent.get(&i).copied();
        let Some(from) = lent.or(self.near[i]) else { return (op.mnemonic().to_string(), Loc::default()) };
        let (name, loc) = (&self.old.values[from].name, &self.old.nodes[self.made[&from]].loc);
        let unchanged = self.origin[i] == Some(from) && self.op(from) == op;
        let own = lent.is_some() || (self.origin[i] == Some(from) && !self.taken.contains(&from));
        (
            if own { name.to_string() } else { format!("{name}.{}", op.mnemonic()) },
            if unchanged { loc.clone() } else { loc.made_by("saturate") },
        )
    }
}
