//! Chooses one node for each class by cost on the target.
//!
//! Costs are added up as a tree until they settle, which picks composites over the many nodes that they replace; the result is then priced as a graph, shared
//! classes once, and must beat the program as it was. Every node costs something, so the choice has no cycles.

use super::node::{Graph, Node};
use egg::Id;
use std::collections::{HashMap, HashSet};
use tersor_ir::dim::Bindings;
use tersor_ir::target::Target;
use tersor_ir::{Op, Type};

/// Seconds of a node that costs next to nothing.
const NOTHING: f64 = 1e-13;
/// Elementwise work is absorbed by the kernels around it.
const ABSORBED: f64 = 0.2;

/// Prices nodes.
pub struct Costs<'a> {
    /// The machine.
    pub target: &'a dyn Target,
    /// Values of symbols that costs assume.
    pub hints: &'a Bindings,
}

impl Costs<'_> {
    fn node(&self, g: &Graph, class: Id, node: &Node) -> f64 {
        let facts = &g[class].data;
        let Node::Op(op, children) = node else { return NOTHING };
        let decoded = || children.iter().any(|&c| g[c].data.encoded) && !op.decodes();
        if facts.weight && !decoded() {
            return NOTHING;
        }
        let ins: Vec<&Type> = children.iter().map(|&c| &g[c].data.types[0]).collect();
        let seconds = || self.target.seconds(op, &ins, &facts.types, self.hints);
        NOTHING
            + match op {
                Op::Reshape(_) | Op::Slice(_) | Op::Choice(_) | Op::Broadcast(_) => NOTHING,
                Op::Unary(_)
                | Op::Binary(_)
                | Op::Compare(_)
                | Op::Select(_)
                | Op::Cast(_)
                | Op::BitCast(_)
                | Op::Quant(_) => seconds() * ABSORBED,
                _ => seconds(),
            }
    }
}

/// One node for each class.
pub type Choice = HashMap<Id, Node>;

/// The choice of least cost for the classes that `roots` need.
pub fn extract(g: &Graph, costs: &Costs) -> Choice {
    let mut ids: Vec<Id> = g.classes().map(|c| c.id).collect();
    ids.sort_unstable();
    let mut best: HashMap<Id, (f64, usize)> = HashMap::new();
    let prices: HashMap<Id, Vec<f64>> =
        ids.iter().map(|&id| (id, g[id].nodes.iter().map(|n| costs.node(g, id, n)).collect())).collect();
    loop {
        let mut changed = false;
        for &id in &ids {
            for (i, node) in g[id].nodes.iter().enumerate() {
                use egg::Language;
                let children = node.children().iter().map(|&c| best.get(&g.find(c)).map(|b| b.0));
                let Some(sum) = children.sum::<Option<f64>>() else { continue };
                let cost = prices[&id][i] + sum;
                // Rounding must not make two classes take turns.
                if best.get(&id).is_none_or(|b| cost < b.0 * (1.0 - 1e-13)) {
                    best.insert(id, (cost, i));
                    changed = true;
                }
            }
        }
        if !changed {
            break;
        }
    }
    best.into_iter().map(|(id, (_, i))| (id, g[id].nodes[i].clone())).collect()
}

/// The classes that `roots` need under a choice, operands first.
pub fn order(g: &Graph, choice: &Choice, roots: &[Id]) -> Vec<Id> {
    use egg::Language;
    let (mut out, mut done) = (vec![], HashSet::new());
    let mut stack: Vec<(Id, bool)> = roots.iter().rev().map(|&r| (g.find(r), false)).collect();
    while let Some((id, operands_done)) = stack.pop() {
        if operands_done {
            out.push(id);
        } else if done.insert(id) {
            stack.push((id, true));
            stack.extend(choice[&id].children().iter().rev().map(|&c| (g.find(c), false)));
        }
    }
    out
}

/// Seconds of the chosen nodes, each once.
pub fn price(g: &Graph, costs: &Costs, choice: &Choice, roots: &[Id]) -> f64 {
    order(g, choice, roots).into_iter().map(|id| costs.node(g, id, &choice[&id])).sum()
}
