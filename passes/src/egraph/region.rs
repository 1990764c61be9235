//! A run of nodes in an e-graph: building it, saturating it, and reading off the program that was chosen.

use super::Saturate;
use super::causal::Masks;
use super::extract::{self, Choice};
use super::node::{Build, Graph, Node, Types};
use super::pattern::Pattern;
use super::rules::Rule;
use crate::manager::PassCx;
use egg::Id;
use std::collections::{BTreeMap, HashMap, HashSet};
use tersor_ir::{Consts, Def, Func, NodeId, Op, Result, ValueId};

/// Matches of one rule in one round.
const MATCHES: usize = 2000;

/// A run of nodes in an e-graph.
pub struct Region {
    pub g: Graph,
    /// The class of each value.
    pub ids: HashMap<ValueId, Id>,
}

impl Region {
    /// The nodes over `consts`; `masks` are the causal masks among the function's values.
    pub fn new(f: &Func, nodes: &[NodeId], consts: Consts, masks: &Masks) -> Region {
        let mut r = Region { g: Graph::new(Types { consts, values: HashMap::new() }), ids: HashMap::new() };
        for &n in nodes {
            let node = &f.nodes[n];
            let children: Vec<Id> = node.operands.iter().map(|&v| r.leaf(f, v, masks)).collect();
            let id = r.g.add(Node::Op(node.op.clone(), children));
            for (i, &v) in node.results.iter().enumerate() {
                let class = if node.results.len() == 1 { id } else { r.g.add(Node::Result(i as u32, [id])) };
                r.ids.insert(v, class);
            }
        }
        r.g.rebuild();
        r
    }

    fn leaf(&mut self, f: &Func, v: ValueId, masks: &Masks) -> Id {
        if let Some(&id) = self.ids.get(&v) {
            return id;
        }
        let node = match f.values[v].def {
            Def::Const(c) => Node::Const(c),
            _ => {
                self.g.analysis.values.insert(v, (f.values[v].ty.clone(), masks.get(&v).cloned()));
                Node::Value(v)
            }
        };
        let id = self.g.add(node);
        self.ids.insert(v, id);
        id
    }

    /// The program as it was: every class has one node yet.
    pub fn choice(&self) -> Choice {
        self.g.classes().map(|c| (c.id, c.nodes[0].clone())).collect()
    }

    /// Applies all rules until nothing is new or a limit is reached. Returns how often each one found something.
    pub fn saturate(
        &mut self,
        rules: &[(&'static Rule, Pattern)],
        options: &Saturate,
        cx: &PassCx,
    ) -> Result<BTreeMap<&'static str, u64>> {
        let mut fired = BTreeMap::new();
        for _ in 0..options.rounds {
            cx.check_interrupt()?;
            let mut by_op: HashMap<&str, Vec<Id>> = HashMap::new();
            for class in self.g.classes() {
                for node in &class.nodes {
                    if let Node::Op(op, _) = node {
                        let list = by_op.entry(op.mnemonic()).or_default();
                        if list.last() != Some(&class.id) {
                            list.push(class.id);
                        }
                    }
                }
            }
            by_op.values_mut().for_each(|l| l.sort_unstable());
            let mut found = vec![];
            for (rule, pattern) in rules {
                let classes = by_op.get(pattern.root()).map_or(&[][..], Vec::as_slice);
                let matches =
                    classes.iter().flat_map(|&c| pattern.matches(&self.g, c).into_iter().map(move |b| (c, b)));
                found.extend(matches.take(MATCHES).map(|(c, b)| (*rule, c, b)));
            }
            let mut changed = false;
            for (rule, class, bind) in found {
                if self.g.total_size() > options.nodes as usize {
                    break;
                }
                let Some(equal) = (rule.apply)(&mut Build { g: &mut self.g }, &bind) else { continue };
                if self.g.find(equal) != self.g.find(class) && self.g[equal].data.types == self.g[class].data.types {
                    self.g.union(class, equal);
                    *fired.entry(rule.name).or_default() += 1;
                    changed = true;
                }
            }
            self.g.rebuild();
            if !changed || self.g.total_size() > options.nodes as usize {
                break;
            }
        }
        Ok(fired)
    }

    /// The chosen nodes in order, over positions, and the position of each root.
    pub fn plan(&self, choice: &Choice, roots: &[Id]) -> Plan {
        use egg::Language;
        let order = extract::order(&self.g, choice, roots);
        let position: HashMap<Id, usize> = order.iter().enumerate().map(|(i, &id)| (id, i)).collect();
        let nodes = order
            .iter()
            .map(|id| (choice[id].clone(), choice[id].children().iter().map(|&c| position[&self.g.find(c)]).collect()))
            .collect();
        let mut values: Vec<(usize, ValueId)> =
            self.ids.iter().filter_map(|(&v, &id)| Some((*position.get(&self.g.find(id))?, v))).collect();
        values.sort_unstable();
        Plan { nodes, values }
    }
}

/// What a region becomes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes with the positions of their operands.
    pub nodes: Vec<(Node, Vec<usize>)>,
    /// Which old values each position has.
    pub values: Vec<(usize, ValueId)>,
}

impl Plan {
    /// Whether each site has one choice at most: moved choices may be wanted beside what they were before, which no program can have.
    pub fn is_sound(&self) -> bool {
        let mut sites = HashSet::new();
        self.nodes.iter().all(|(n, _)| if let Node::Op(Op::Choice(c), _) = n { sites.insert(&c.site) } else { true })
    }
}
