//! `saturate`: exact rules in an e-graph, and the cheapest program that they allow.
//!
//! The body is cut into regions of bounded size, where few values cross. Each region is saturated on its own with a limit on nodes, never on time, so that equal input gives
//! equal output. Equality is over the reals and under every plan: an alternative under a `choice` is never equal to another.

mod extract;
mod node;
mod pattern;
mod rules;

use crate::declare::Rewrite;
use crate::manager::PassCx;
use egg::Id;
use extract::{Choice, Costs};
use node::{Build, Graph, Node, Types};
use pattern::Pattern;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use tersor_ir::module::Builder;
use tersor_ir::{Def, Diagnostic, Func, Module, NodeId, Result, ValueId};

pass! {
    /// Rewrites with exact rules in an e-graph and takes the program of least cost on the target.
    ///
    /// Recognises attention, norms, GELU, SiLU and rotary embedding from their decomposed forms, folds scales into weights, and cancels data movement.
    pub struct Saturate = "saturate": Rewrite {
        options {
            /// Most nodes of a region's e-graph.
            nodes: u32 = 20000,
            /// Most rounds of all rules.
            rounds: u32 = 12,
        }
        stats {
            "rewrites": "equalities found",
            "regions": "regions that became cheaper",
        }
    }
}

/// Nodes of a region: more would let the search go over far places for little, and costs, added up as trees, grow with each use of a shared value.
const REGION: usize = 128;
/// Matches of one rule in one round.
const MATCHES: usize = 2000;

impl Rewrite for Saturate {
    fn run(&self, m: &mut Module, cx: &mut PassCx) -> Result<()> {
        let rules: Vec<(&rules::Rule, Pattern)> = rules::all().map(|r| (r, Pattern::parse(r.pattern))).collect();
        let hints = m.hints();
        let mut fired: BTreeMap<&str, u64> = BTreeMap::new();
        for id in m.funcs.keys() {
            let old = m.funcs[id].clone();
            let mut func = Func::new(old.name.clone());
            (func.inputs, func.outputs) = (old.inputs.clone(), old.outputs.clone());
            let body = func.body_id();
            if old.nodes.values().any(|n| !n.regions.is_empty()) {
                continue;
            }
            let mut new: HashMap<ValueId, ValueId> = HashMap::new();
            for &p in &old.body().params {
                new.insert(p, func.add_param(body, &old.values[p].name, old.values[p].ty.clone()));
            }
            let last = last_reads(&old);
            for range in regions(&old) {
                cx.check_interrupt()?;
                let nodes = &old.body().nodes[range.clone()];
                let mut region = Region::new(&old, nodes, std::mem::take(&mut m.consts));
                let costs = Costs { target: cx.target, hints: &hints };
                let outs = outputs(&old, &range, &last);
                let roots = |r: &Region| -> Vec<Id> { outs.iter().map(|v| r.g.find(r.ids[v])).collect() };
                // Priced before any classes join: afterwards one class may have several of the old nodes.
                let before = extract::price(&region.g, &costs, &region.choice(), &roots(&region));
                region.saturate(&rules, self, &mut fired);
                let roots = roots(&region);
                let after = extract::extract(&region.g, &costs);
                let better = extract::price(&region.g, &costs, &after, &roots) < before * (1.0 - 1e-9);
                cx.count("regions", better.into());
                let emitted = if better { Some(region.plan(&after, &roots)) } else { None };
                m.consts = std::mem::take(&mut region.g.analysis.consts);
                let mut b = Builder::new(&mut m.consts, &mut func);
                match emitted {
                    Some(plan) => emit(&old, nodes, plan, &mut b, &mut new)?,
                    None => copy(&old, nodes, &mut b, &mut new)?,
                }
            }
            let mut b = Builder::new(&mut m.consts, &mut func);
            let results = old.body().results.iter().map(|&v| value(&old, v, &mut b, &new)).collect();
            func.body_mut().results = results;
            func.remove_dead();
            m.funcs[id] = func;
        }
        cx.count("rewrites", fired.values().sum());
        for (rule, times) in fired {
            cx.remark(Diagnostic::note("S0401", format!("{rule}: {times}")));
        }
        Ok(())
    }
}

/// Cuts a body into runs of at most [`REGION`] nodes. A cut is made where the fewest values cross, in the second half of the run.
fn regions(f: &Func) -> Vec<Range<usize>> {
    let nodes = &f.body().nodes;
    let position: HashMap<NodeId, usize> = nodes.iter().enumerate().map(|(i, &n)| (n, i)).collect();
    // crossing[i]: values made before node i and read at or after it.
    let mut last_use = vec![0; nodes.len()];
    for (i, &n) in nodes.iter().enumerate() {
        for &v in &f.nodes[n].operands {
            if let Def::Node(d, _) = f.values[v].def {
                last_use[position[&d]] = i;
            }
        }
    }
    let mut change = vec![0i64; nodes.len() + 1];
    for (i, &last) in last_use.iter().enumerate() {
        if last > i {
            change[i + 1] += 1;
            change[last + 1] -= 1;
        }
    }
    let crossing: Vec<i64> = change
        .iter()
        .scan(0, |sum, c| {
            *sum += c;
            Some(*sum)
        })
        .collect();
    let (mut out, mut start) = (vec![], 0);
    while start < nodes.len() {
        let most = (start + REGION).min(nodes.len());
        let end = if most == nodes.len() {
            most
        } else {
            (most - REGION / 2..=most).rev().min_by_key(|&i| crossing[i]).unwrap_or(most)
        };
        out.push(start..end);
        start = end;
    }
    out
}

/// Where each value is read last; what the function returns, at the end.
fn last_reads(f: &Func) -> HashMap<ValueId, usize> {
    let nodes = &f.body().nodes;
    let reads = nodes.iter().enumerate().flat_map(|(i, &n)| f.nodes[n].operands.iter().map(move |&v| (v, i)));
    reads.chain(f.body().results.iter().map(|&v| (v, nodes.len()))).collect()
}

/// Values that the nodes make and later ones read, or the function returns, in order.
fn outputs(f: &Func, range: &Range<usize>, last: &HashMap<ValueId, usize>) -> Vec<ValueId> {
    let made = f.body().nodes[range.clone()].iter().flat_map(|&n| f.nodes[n].results.iter().copied());
    made.filter(|v| last.get(v).is_some_and(|&i| i >= range.end)).collect()
}

/// A run of nodes in an e-graph.
struct Region {
    g: Graph,
    /// The class of each value.
    ids: HashMap<ValueId, Id>,
}

impl Region {
    fn new(
        f: &Func,
        nodes: &[NodeId],
        consts: tersor_ir::entity::PrimaryMap<tersor_ir::ConstId, tersor_ir::Constant>,
    ) -> Region {
        let mut r = Region { g: Graph::new(Types { consts, values: HashMap::new() }), ids: HashMap::new() };
        for &n in nodes {
            let node = &f.nodes[n];
            let children: Vec<Id> = node.operands.iter().map(|&v| r.leaf(f, v)).collect();
            let id = r.g.add(Node::Op(node.op.clone(), children));
            for (i, &v) in node.results.iter().enumerate() {
                let class = if node.results.len() == 1 { id } else { r.g.add(Node::Result(i as u32, [id])) };
                r.ids.insert(v, class);
            }
        }
        r.g.rebuild();
        r
    }

    fn leaf(&mut self, f: &Func, v: ValueId) -> Id {
        if let Some(&id) = self.ids.get(&v) {
            return id;
        }
        let node = match f.values[v].def {
            Def::Const(c) => Node::Const(c),
            _ => {
                self.g.analysis.values.insert(v, f.values[v].ty.clone());
                Node::Value(v)
            }
        };
        let id = self.g.add(node);
        self.ids.insert(v, id);
        id
    }

    /// The program as it was: every class has one node yet.
    fn choice(&self) -> Choice {
        self.g.classes().map(|c| (c.id, c.nodes[0].clone())).collect()
    }

    fn saturate(
        &mut self,
        rules: &[(&'static rules::Rule, Pattern)],
        options: &Saturate,
        fired: &mut BTreeMap<&'static str, u64>,
    ) {
        for _ in 0..options.rounds {
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
                return;
            }
        }
    }

    /// The chosen nodes in order, over positions, and the position of each root.
    fn plan(&self, choice: &Choice, roots: &[Id]) -> Plan {
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
struct Plan {
    /// Nodes with the positions of their operands.
    nodes: Vec<(Node, Vec<usize>)>,
    /// Which old values each position has.
    values: Vec<(usize, ValueId)>,
}

/// The new value of an old one.
fn value(old: &Func, v: ValueId, b: &mut Builder, new: &HashMap<ValueId, ValueId>) -> ValueId {
    match old.values[v].def {
        Def::Const(c) => b.const_value(c),
        _ => new[&v],
    }
}

fn copy(old: &Func, nodes: &[NodeId], b: &mut Builder, new: &mut HashMap<ValueId, ValueId>) -> Result<()> {
    for &n in nodes {
        let node = &old.nodes[n];
        let operands: Vec<ValueId> = node.operands.iter().map(|&v| value(old, v, b, new)).collect();
        b.loc = node.loc.clone();
        b.name = old.values[node.results[0]].name.to_string();
        let results = b.ops(node.op.clone(), &operands)?;
        new.extend(node.results.iter().copied().zip(results));
    }
    Ok(())
}

fn emit(old: &Func, nodes: &[NodeId], plan: Plan, b: &mut Builder, new: &mut HashMap<ValueId, ValueId>) -> Result<()> {
    let made: HashMap<ValueId, NodeId> =
        nodes.iter().flat_map(|&n| old.nodes[n].results.iter().map(move |&v| (v, n))).collect();
    // A class that an old value has keeps that value's name and origin; others are named after the reader that comes next.
    let mut origin: Vec<Option<ValueId>> = vec![None; plan.nodes.len()];
    for &(i, v) in plan.values.iter().rev() {
        if made.contains_key(&v) {
            origin[i] = Some(v);
        }
    }
    let mut near: Vec<Option<ValueId>> = origin.clone();
    for (i, (_, children)) in plan.nodes.iter().enumerate().rev() {
        for &c in children {
            near[c] = near[c].or(near[i]);
        }
    }
    let mut results: Vec<Vec<ValueId>> = vec![];
    for (i, (node, children)) in plan.nodes.iter().enumerate() {
        let made_here = match node {
            Node::Const(c) => vec![b.const_value(*c)],
            Node::Value(v) => vec![new[v]],
            Node::Result(k, _) => vec![results[children[0]][*k as usize]],
            Node::Op(op, _) => {
                let operands: Vec<ValueId> = children.iter().map(|&c| results[c][0]).collect();
                let from = near[i].map(|v| (v, &old.nodes[made[&v]]));
                let unchanged = origin[i].is_some_and(|v| old.nodes[made[&v]].op == *op);
                b.loc = from.map_or_else(Default::default, |(_, n)| {
                    if unchanged { n.loc.clone() } else { n.loc.made_by("saturate") }
                });
                b.name = match (origin[i], from) {
                    (Some(v), _) => old.values[v].name.to_string(),
                    (None, Some((v, _))) => format!("{}.{}", old.values[v].name, op.mnemonic()),
                    (None, None) => op.mnemonic().to_string(),
                };
                b.ops(op.clone(), &operands)?.to_vec()
            }
        };
        results.push(made_here);
    }
    for &(i, v) in &plan.values {
        if made.contains_key(&v) {
            new.insert(v, results[i][0]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::filetest::{difference, run_passes};
    use proptest::prelude::*;
    use tersor_ir::module::Builder;
    use tersor_ir::ops::Unary;
    use tersor_ir::ops::binary::{Binary, BinaryKind};
    use tersor_ir::ops::unary::UnaryKind;
    use tersor_ir::{DType, Func, Module, Type};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]
        #[test]
        fn evaluation_is_kept(seed in any::<u64>(), size in 1usize..40) {
            let m = crate::random::module(seed % (1 << 60), size);
            let (mut after, mut again) = (m.clone(), m.clone());
            run_passes("saturate", &mut after).unwrap();
            prop_assert!(tersor_ir::verify::verify(&after).is_empty());
            let error = difference(&m, &after).unwrap();
            prop_assert!(error <= 1e-4, "{error}\n{}\n{}", tersor_ir::text::print(&m), tersor_ir::text::print(&after));
            run_passes("saturate", &mut again).unwrap();
            prop_assert_eq!(tersor_ir::text::print(&after), tersor_ir::text::print(&again));
        }
    }

    #[test]
    fn long_chains_take_linear_time() {
        let mut m = Module::new("chain");
        let mut f = Func::new("main");
        let body = f.body_id();
        let x = f.add_param(body, "x", Type::new(DType::F32, [2, 3]));
        let mut b = Builder::new(&mut m.consts, &mut f);
        let one = b.scalar(DType::F32, 1.5);
        let mut v = x;
        for i in 0..30_000 {
            v = match i % 3 {
                0 => b.op(Binary { kind: BinaryKind::Add }, &[v, one]),
                1 => b.op(Unary { kind: UnaryKind::Tanh }, &[v]),
                _ => b.op(Binary { kind: BinaryKind::Max }, &[v, one]),
            }
            .unwrap();
        }
        f.body_mut().results = vec![v];
        f.inputs = vec!["x".into()];
        f.outputs = vec!["y".into()];
        m.funcs.push(f);
        let start = std::time::Instant::now();
        run_passes("saturate", &mut m).unwrap();
        assert_eq!(m.funcs[m.main().unwrap()].body().nodes.len(), 30_000);
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
