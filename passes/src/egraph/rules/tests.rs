//! The property test of every rule, from its declaration.

use super::{Rule, all};
use crate::egraph::extract;
use crate::egraph::node::{Build, Node};
use crate::egraph::pattern::{Bind, Pattern};
use crate::egraph::region::Region;
use std::collections::HashMap;
use tersor_ir::module::Builder;
use tersor_ir::testing::{Gen, rel_l2};
use tersor_ir::{DType, Module, Op, interp, plan, text};

/// Instances of each rule that must be tried.
const INSTANCES: usize = 64;

/// An example with drawn extents and constants, as a module.
fn instance(example: &str, seed: u64) -> Module {
    let mut g = Gen::new(seed);
    let mut body = example.to_string();
    for name in ["A", "B", "C", "D"] {
        body = body.replace(&format!("{{{name}}}"), &g.int(1, 5).to_string());
    }
    let open = body.find('{').filter(|&i| body[..i].contains("->")).unwrap_or_else(|| panic!("no body in {body}"));
    let (signature, body) = body.split_at(open);
    let body = body[1..].trim_end().trim_end_matches('}');
    let (mut constants, mut lines) = (String::new(), String::new());
    for line in body.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if !line.starts_with("const ") {
            lines += &format!("    {line}\n");
            continue;
        }
        for c in line.split(';').map(str::trim).filter(|c| !c.is_empty()) {
            let (name, what) = c.trim_start_matches("const ").split_once(" = ").unwrap_or_else(|| panic!("{c}"));
            constants += &if let Some(ty) = what.strip_prefix("causal ") {
                format!("  const @{name} : {ty} = [{}]\n", causal(ty))
            } else if what.contains('[') {
                format!("  const @{name} : {what} = rng normal(0, 1) seed {}\n", g.int(1, 1 << 30))
            } else {
                format!("  const @{name} : f32[] = [{what}]\n")
            };
        }
    }
    let text = format!("module @m {{\n{constants}  func @main{signature}{{\n{lines}    return %y\n  }}\n}}\n");
    text::parse(&text, &Default::default()).unwrap_or_else(|e| panic!("{}\n{text}", e[0]))
}

/// The elements of a causal mask of a type with two extents.
fn causal(ty: &str) -> String {
    let shape = text::parse_type(ty).unwrap().static_shape().unwrap();
    let [shown, hidden] = if ty.starts_with("bool") { ["1", "0"] } else { ["0.0", "-3.0e38"] };
    let one = |i: usize, j: usize| if j <= i { shown } else { hidden };
    let all = (0..shape[0]).flat_map(|i| (0..shape[1]).map(move |j| one(i, j)));
    all.collect::<Vec<_>>().join(", ")
}

/// The example's result beside what the rule makes of it; `None` where the rule declines.
fn both_sides(rule: &Rule, m: &Module) -> Option<Module> {
    let pattern = Pattern::parse(rule.pattern);
    let f = &m.funcs[m.main().unwrap()];
    let masks = crate::egraph::causal::masks(f, &m.consts);
    let mut region = Region::new(f, &f.body().nodes, m.consts.clone(), &masks);
    let root = region.ids[&f.body().results[0]];
    let bind = pattern.matches(&region.g, root).into_iter().next()?;
    let equal = (rule.apply)(&mut Build { g: &mut region.g }, &bind)?;
    region.g.rebuild();
    // Without a union every class has one node: both sides are there.
    let choice = region.choice();
    let order = extract::order(&region.g, &choice, &[root, equal]);
    let mut both = Module { consts: region.g.analysis.consts.clone(), ..m.clone() };
    let mut func = tersor_ir::Func::new("main");
    let body = func.body_id();
    let mut params = HashMap::new();
    for &p in &f.body().params {
        params.insert(p, func.add_param(body, &f.values[p].name, f.values[p].ty.clone()));
    }
    (func.inputs, func.outputs) = (f.inputs.clone(), vec!["left".into(), "right".into()]);
    let mut b = Builder::new(&mut both.consts, &mut func);
    let mut values = HashMap::new();
    for id in order {
        let v = match &choice[&id] {
            Node::Const(c) => b.const_value(*c),
            Node::Value(v) => params[v],
            Node::Op(op, children) => {
                let operands: Vec<_> = children.iter().map(|c| values[&region.g.find(*c)]).collect();
                b.op(op.clone(), &operands).unwrap()
            }
            Node::Result(..) => panic!("no rule is about results of several"),
        };
        values.insert(id, v);
    }
    func.body_mut().results = vec![values[&region.g.find(root)], values[&region.g.find(equal)]];
    both.funcs[m.main().unwrap()] = func;
    Some(both)
}

/// Tries a rule on random instances; says what went wrong.
fn check(rule: &Rule) -> Result<(), String> {
    let mut tried = 0;
    for seed in 0..INSTANCES as u64 * 4 {
        let m = instance(rule.examples[seed as usize % rule.examples.len()], seed);
        let Some(both) = both_sides(rule, &m) else { continue };
        let f = &both.funcs[both.main().unwrap()];
        let mut g = Gen::new(seed + 1000);
        let inputs: Vec<_> = f.body().params.iter().map(|&p| g.tensor(&f.values[p].ty)).collect();
        for plan in plan::all(&both) {
            let mut both = both.clone();
            plan::resolve(&mut both, &plan).unwrap();
            let y = interp::run(&both, &inputs).map_err(|d| format!("{}: {d}\n{}", rule.name, text::print(&both)))?;
            // Codes may differ by one where a quotient is on the edge; floats are rounded at other places.
            let close = if y[0].dtype() == DType::I8 { y[0] == y[1] } else { rel_l2(&y[1], &y[0]) < 1e-4 };
            if y[0].ty() != y[1].ty() || !close {
                let by = rel_l2(&y[1], &y[0]);
                return Err(format!("{}: sides differ by {by} under {plan:?}\n{}", rule.name, text::print(&both)));
            }
        }
        tried += 1;
        if tried >= INSTANCES {
            return Ok(());
        }
    }
    Err(format!("{} applied to {tried} instances only", rule.name))
}

#[test]
fn every_rule_keeps_what_it_rewrites() {
    let failed: Vec<String> = all().filter_map(|r| check(r).err()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_wrong_rule_is_caught() {
    let silu = all().find(|r| r.name == "algebra/silu").unwrap();
    let wrong = Rule { name: "algebra/wrong", apply: |_, m| Some(m.var("x")), ..*silu };
    assert!(check(&wrong).unwrap_err().contains("differ"));
    let idle = Rule { name: "algebra/idle", apply: |_, _| None, ..*silu };
    assert!(check(&idle).unwrap_err().contains("0 instances"));
    // Right under the plan that takes the exact alternative, and under no other.
    let choice = all().find(|r| r.name == "choice/after-transpose").unwrap();
    let first = |b: &mut Build, m: &Bind| match m.op("t") {
        Op::Transpose(t) => super::movement::transpose(b, m.list("a")[0], t.perm.clone()),
        _ => None,
    };
    let partial = Rule { name: "choice/partial", apply: first, ..*choice };
    assert!(check(&partial).unwrap_err().contains("differ"));
}

#[test]
fn names_are_unique_and_have_topics() {
    let mut seen = std::collections::HashSet::new();
    assert!(all().all(|r| r.name.contains('/') && seen.insert(r.name) && !r.examples.is_empty()));
}
