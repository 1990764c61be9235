//! `saturate`: exact rules in an e-graph, and the cheapest program that they allow.
//!
//! The body is cut into regions of bounded size, where few values cross. Each region is saturated on its own with a limit on nodes, never on time, so that equal input gives
//! equal output. Equality is over the reals and under every plan: an alternative under a `choice` is never equal to another.

mod causal;
mod emit;
mod extract;
mod node;
mod pattern;
mod region;
mod replay;
mod rules;

use crate::declare::Rewrite;
use crate::manager::PassCx;
use egg::Id;
use extract::Costs;
use foldhash::HashMap;
use pattern::Pattern;
use region::Region;
use replay::{Form, Outcome};
use std::collections::BTreeMap;
use std::ops::Range;
use tersor_ir::module::Builder;
use tersor_ir::{Def, Diagnostic, EntityId, Func, Module, Result, ValueId};

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
            "replayed": "regions that are like an earlier one but for constants",
        }
    }
}

/// Nodes of a region: more would let the search go over far places for little, and costs, added up as trees, grow with each use of a shared value.
const REGION: usize = 128;

impl Rewrite for Saturate {
    fn run(&self, m: &mut Module, cx: &mut PassCx) -> Result<()> {
        let rules: Vec<(&rules::Rule, Pattern)> = rules::all().map(|r| (r, Pattern::parse(r.pattern))).collect();
        let hints = m.hints();
        let mut fired: BTreeMap<&str, u64> = BTreeMap::new();
        for id in m.funcs.keys() {
            let Module { consts, funcs, .. } = &mut *m;
            let old = &funcs[id];
            let mut func = Func::new(old.name.clone());
            (func.inputs, func.outputs) = (old.inputs.clone(), old.outputs.clone());
            let body = func.body_id();
            if old.nodes.values().any(|n| !n.regions.is_empty()) {
                continue;
            }
            let mut new: HashMap<ValueId, ValueId> = HashMap::default();
            for &p in &old.body().params {
                new.insert(p, func.add_param(body, &old.values[p].name, old.values[p].ty.clone()));
            }
            let last = last_reads(old);
            let masks = causal::masks(old, consts);
            let mut known: HashMap<Form, Outcome> = HashMap::default();
            for range in regions(old) {
                cx.check_interrupt()?;
                let nodes = &old.body().nodes[range.clone()];
                let outs = outputs(old, &range, &last);
                let (form, values) = replay::form(old, nodes, &outs, consts, &masks);
                let outcome = if let Some(like) = known.get(&form) {
                    cx.count("replayed", 1);
                    like.replay(old, &values)
                } else {
                    let mut region = Region::new(old, nodes, std::mem::take(consts), &masks);
                    let costs = Costs { target: cx.target, hints: &hints };
                    let outcome = self.search(&mut region, &rules, &costs, &outs, cx);
                    *consts = std::mem::take(&mut region.g.analysis.consts);
                    let outcome = outcome?;
                    known.entry(form).or_insert(Outcome { values, ..outcome }).clone()
                };
                cx.count("regions", outcome.plan.is_some().into());
                outcome.fired.iter().for_each(|(rule, times)| *fired.entry(rule).or_default() += times);
                let mut b = Builder::new(consts, &mut func);
                match &outcome.plan {
                    Some(plan) => emit::emit(old, nodes, plan, &mut b, &mut new)?,
                    None => emit::copy(old, nodes, &mut b, &mut new)?,
                }
            }
            let mut b = Builder::new(consts, &mut func);
            let results = old.body().results.iter().map(|&v| emit::value(old, v, &mut b, &new)).collect();
            func.body_mut().results = results;
            func.remove_dead();
            funcs[id] = func;
        }
        cx.count("rewrites", fired.values().sum());
        for (rule, times) in fired {
            cx.remark(Diagnostic::note("S0401", format!("{rule}: {times}")));
        }
        Ok(())
    }
}

impl Saturate {
    /// Saturates a region that makes `outs`, and takes the cheapest program if it is cheaper than the one that was.
    fn search(
        &self,
        region: &mut Region,
        rules: &[(&'static rules::Rule, Pattern)],
        costs: &Costs,
        outs: &[ValueId],
        cx: &mut PassCx,
    ) -> Result<Outcome> {
        let roots = |r: &Region| -> Vec<Id> { outs.iter().map(|v| r.g.find(r.ids[v])).collect() };
        // Priced before any classes join: afterwards one class may have several of the old nodes.
        let before = extract::price(&region.g, costs, &region.choice(), &roots(region));
        let fired = region.saturate(rules, self, cx)?;
        let roots = roots(region);
        let after = extract::extract(&region.g, costs);
        let price = extract::price(&region.g, costs, &after, &roots);
        let better = price < before * (1.0 - 1e-9);
        cx.detail(format!(
            "e-graph of {} nodes in {} classes; cost {before:.3e} -> {price:.3e}",
            region.g.total_size(),
            region.g.number_of_classes()
        ));
        let plan = better.then(|| region.plan(&after, &roots)).filter(region::Plan::is_sound);
        Ok(Outcome { values: vec![], plan, fired })
    }
}

/// Cuts a body into runs of at most [`REGION`] nodes. A cut is made where the fewest values cross, in the second half of the run. What binds a symbol is a run by
/// itself, so that what has extents over the symbol stays behind it.
fn regions(f: &Func) -> Vec<Range<usize>> {
    let nodes = &f.body().nodes;
    // Where what a node makes is read last.
    let mut last_use = vec![0; f.nodes.len()];
    for (i, &n) in nodes.iter().enumerate() {
        for &v in &f.nodes[n].operands {
            if let Def::Node(d, _) = f.values[v].def {
                last_use[d.index()] = i;
            }
        }
    }
    // crossing[i]: values made before node i and read at or after it.
    let mut change = vec![0i64; nodes.len() + 1];
    for (i, n) in nodes.iter().enumerate() {
        let last = last_use[n.index()];
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
    let binds = |i: &usize| f.nodes[nodes[*i]].op.binds().is_some();
    let (mut out, mut start) = (vec![], 0);
    while start < nodes.len() {
        let most = (start + REGION).min(nodes.len());
        let end = if binds(&start) {
            start + 1
        } else if let Some(binder) = (start..most).find(binds) {
            binder
        } else if most == nodes.len() {
            most
        } else {
            (most - REGION / 2..=most).rev().min_by_key(|&i| crossing[i]).unwrap_or(most)
        };
        out.push(start..end);
        start = end;
    }
    out
}

/// Where each value is read last; what the function returns, at the end; 0 for what nothing reads.
fn last_reads(f: &Func) -> Vec<usize> {
    let (nodes, mut last) = (&f.body().nodes, vec![0; f.values.len()]);
    for (i, &n) in nodes.iter().enumerate() {
        f.nodes[n].operands.iter().for_each(|v| last[v.index()] = i);
    }
    f.body().results.iter().for_each(|v| last[v.index()] = nodes.len());
    last
}

/// Values that the nodes make and later ones read, or the function returns, in order.
fn outputs(f: &Func, range: &Range<usize>, last: &[usize]) -> Vec<ValueId> {
    let made = f.body().nodes[range.clone()].iter().flat_map(|&n| f.nodes[n].results.iter().copied());
    made.filter(|v| last[v.index()] >= range.end).collect()
}

#[cfg(test)]
mod tests {
    use crate::filetest::run_passes;
    use crate::random::difference;
    use proptest::prelude::*;
    use tersor_ir::module::Builder;
    use tersor_ir::ops::Unary;
    use tersor_ir::ops::binary::{Binary, BinaryKind};
    use tersor_ir::ops::unary::UnaryKind;
    use tersor_ir::{DType, Func, Module, Op, Type};

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
    fn equal_regions_are_searched_once() {
        let (mut consts, mut lines, mut v) = (String::new(), String::new(), "%x".to_string());
        for i in 0..256 {
            consts += &format!("  const @c{i} : f32[4] = rng normal(1, 0.1) seed {i}\n");
            lines += &format!(
                "    %m{i} = mul {v}, @c{i} : f32[N,4]
    %t{i} = tanh %m{i} : f32[N,4]
    %s{i} = sigmoid %t{i} : f32[N,4]
    %p{i} = mul %t{i}, %s{i} : f32[N,4]\n"
            );
            v = format!("%p{i}");
        }
        let text = format!(
            "module @m {{\n{consts}  func @main(%x: f32[N,4]) -> (%y: f32[N,4]) {{\n{lines}    return {v}\n  }}\n}}\n"
        );
        let m = tersor_ir::text::parse(&text, &Default::default()).unwrap();
        let mut after = m.clone();
        let steps = run_passes("saturate", &mut after).unwrap();
        assert!(steps[0].counts.contains(&("replayed", 7)), "{:?}", steps[0].counts);
        let f = &after.funcs[after.main().unwrap()];
        let silu = |n: &&tersor_ir::NodeId| matches!(&f.nodes[**n].op, Op::Unary(u) if u.kind == UnaryKind::Silu);
        assert_eq!(f.body().nodes.iter().filter(silu).count(), 256);
        assert!(difference(&m, &after).unwrap() < 1e-5);
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
