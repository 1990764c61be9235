//! Regions that are equal up to their constants and what they read, as the layers of a transformer are: what became of the first becomes of the others.

use super::causal::{self, Masks};
use super::node::Node;
use super::region::Plan;
use foldhash::HashMap;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use tersor_ir::{ConstId, Constant, Consts, Def, Dim, Func, NodeId, Op, Type, ValueId};

/// All that rules and costs see of a region.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Form {
    /// Ops with their operands; values are numbered in the order in which they turn up, leaves and results alike.
    nodes: Vec<(Op, SmallVec<[usize; 4]>)>,
    leaves: Vec<(usize, Leaf)>,
    outputs: Vec<usize>,
}

/// A constant or a value from outside, as far as rules look at it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Leaf {
    ty: Type,
    constant: bool,
    splat: Option<u64>,
    causal: Option<Dim>,
}

/// What became of a region.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The values by number.
    pub values: Vec<ValueId>,
    /// The cheaper program; `None` where the region stays.
    pub plan: Option<Plan>,
    /// How often each rule found something.
    pub fired: BTreeMap<&'static str, u64>,
}

/// The form of a region, and its values by number.
pub fn form(f: &Func, nodes: &[NodeId], outputs: &[ValueId], consts: &Consts, masks: &Masks) -> (Form, Vec<ValueId>) {
    let (mut numbers, mut values) = (HashMap::<ValueId, usize>::default(), vec![]);
    let mut form = Form { nodes: vec![], leaves: vec![], outputs: vec![] };
    let mut number = |v: ValueId| {
        let next = numbers.len();
        let n = *numbers.entry(v).or_insert(next);
        if n == next {
            values.push(v);
        }
        (n, n == next)
    };
    for &n in nodes {
        let node = &f.nodes[n];
        let mut operands = SmallVec::new();
        for &v in &node.operands {
            let (n, new) = number(v);
            operands.push(n);
            if new {
                let constant = f.def_const(v).map(|c| &consts[c]);
                let leaf = Leaf {
                    ty: f.values[v].ty.clone(),
                    constant: constant.is_some(),
                    splat: constant.and_then(Constant::splat).map(f64::to_bits),
                    causal: constant.map_or_else(|| masks.get(&v).cloned(), causal::of_constant),
                };
                form.leaves.push((n, leaf));
            }
        }
        form.nodes.push((node.op.clone(), operands));
        node.results.iter().for_each(|&v| {
            number(v);
        });
    }
    form.outputs = outputs.iter().map(|&v| number(v).0).collect();
    (form, values)
}

impl Outcome {
    /// The same for a region of the same form that has `values`.
    pub fn replay(&self, f: &Func, values: &[ValueId]) -> Outcome {
        let to: HashMap<ValueId, ValueId> = self.values.iter().copied().zip(values.iter().copied()).collect();
        let as_const = |v: ValueId| if let Def::Const(c) = f.values[v].def { Some(c) } else { None };
        let consts: HashMap<ConstId, ConstId> =
            to.iter().filter_map(|(&a, &b)| Some((as_const(a)?, as_const(b)?))).collect();
        let node = |n: &Node| match n {
            Node::Const(c) => Node::Const(consts.get(c).copied().unwrap_or(*c)),
            Node::Value(v) => Node::Value(to[v]),
            n => n.clone(),
        };
        let plan = self.plan.as_ref().map(|p| Plan {
            nodes: p.nodes.iter().map(|(n, children)| (node(n), children.clone())).collect(),
            values: p.values.iter().map(|(i, v)| (*i, to[v])).collect(),
        });
        Outcome { values: values.to_vec(), plan, fired: self.fired.clone() }
    }
}
