//! From proposals to decisions: puts alternatives under `choice` ops, measures each against the exact op, picks, and resolves what was picked.

use crate::coupling::{choices, exact_nodes, reads};
use crate::manager::PassCx;
use crate::measure;
use crate::propose::{Alternative, ConstNames, Editor, Narrowed, Propose, Site};
use crate::statistics::Statistics;
use std::collections::{BTreeMap, HashMap, HashSet};
use tersor_ir::diag::Failure;
use tersor_ir::ops::choice::Choice;
use tersor_ir::plan::{Plan, resolve_only};
use tersor_ir::target::Target;
use tersor_ir::{Def, Diagnostic, Func, FuncId, Module, NodeId, Op, Result, ValueId};

/// The name of the exact op among alternatives.
pub const EXACT: &str = "exact";

/// What became of one site.
#[derive(Clone, PartialEq, Debug)]
pub struct Decision {
    /// Name of the site.
    pub site: String,
    /// The ONNX node it comes from.
    pub node: Option<String>,
    /// The op that makes the value.
    pub op: String,
    /// The alternative that stands there now; `None` when the exact op stays.
    pub picked: Option<String>,
    /// Bytes of constants that the exact op reads.
    pub bytes_before: usize,
    /// Bytes of constants that what stands there now reads.
    pub bytes_after: usize,
    /// `|alternative - exact| / |exact|` of the site's value, on calibration samples where there are statistics and else on seeded normal inputs; measured for the best
    /// alternative, picked or not.
    pub rel_l2: Option<f64>,
    /// Why the exact op stays.
    pub reason: Option<String>,
    /// What there was to choose from: the exact op, then what was offered; empty where nothing was.
    pub considered: Vec<Considered>,
}

/// One of the expressions that would have done at a site, and what it costs.
#[derive(Clone, PartialEq, Debug)]
pub struct Considered {
    /// The alternative; `exact` is the op itself.
    pub name: String,
    /// Bytes of constants that it reads.
    pub bytes: usize,
    /// Seconds that its products take at typical extents, with what looks at whole rows for them, by the target's cost model.
    pub seconds: f64,
    /// As of a [`Decision`]; `None` where it was not measured, and for the exact op.
    pub rel_l2: Option<f64>,
}

impl Decision {
    pub(crate) fn refused(site: &Site, reason: String) -> Decision {
        Decision {
            site: site.name.clone(),
            node: site.node.clone(),
            op: site.ops[0].clone(),
            picked: None,
            bytes_before: 0,
            bytes_after: 0,
            rel_l2: None,
            reason: Some(reason),
            considered: vec![],
        }
    }
}

impl std::fmt::Display for Decision {
    /// `%fc1 matmul int8  401408 B -> 100864 B  rel-l2 0.0041`, or why not.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "%{} {} ", self.site, self.op)?;
        match (&self.picked, &self.reason) {
            (Some(p), _) => write!(f, "{p}  {} B -> {} B", self.bytes_before, self.bytes_after)?,
            (None, reason) => write!(f, "kept: {}", reason.as_deref().unwrap_or("not offered"))?,
        }
        match self.rel_l2 {
            Some(e) => write!(f, "  rel-l2 {e:.2e}"),
            None => Ok(()),
        }
    }
}

/// A site with what was built for it.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The site.
    pub site: Site,
    /// The name of the site in its `choice` op.
    pub choice: String,
    /// Alternatives that the pass added.
    pub alternatives: Vec<Alternative>,
    /// Nodes of all alternatives so far, in order.
    nodes: Vec<NodeId>,
    /// What takes the place of values that only the exact op's part reads.
    narrowed: Vec<Narrowed>,
}

/// Asks a pass for alternatives and puts them under `choice` ops, one for each site; a site that has a choice gets further alternatives.
pub fn offer(pass: &dyn Propose, m: &mut Module, cx: &mut PassCx) -> Result<Vec<Offer>> {
    let mut by_func: BTreeMap<FuncId, HashMap<ValueId, Site>> = BTreeMap::new();
    let exact: HashMap<FuncId, HashSet<NodeId>> =
        m.funcs.iter().map(|(id, f)| (id, exact_nodes(f).into_iter().collect())).collect();
    for s in pass.sites(m, cx)? {
        // What stands inside an alternative is no site of its own.
        if matches!(m.funcs[s.func].values[s.value].def, Def::Node(n, _) if exact[&s.func].contains(&n)) {
            by_func.entry(s.func).or_default().insert(s.value, s);
        }
    }
    let mut names = ConstNames::of(m);
    let mut offers = vec![];
    for (func, mut sites) in by_func {
        let Module { consts, funcs, .. } = &mut *m;
        let f = &mut funcs[func];
        let existing = choices(f);
        // The choice that stands for each site's value, and the site whose value a new node may see as it is.
        let (mut chosen, mut owner) = (HashMap::new(), HashMap::new());
        for region in f.regions.keys().collect::<Vec<_>>() {
            for n in std::mem::take(&mut f.regions[region].nodes) {
                // Behind the exact op, or before the choice that its value has: there an alternative may read the others.
                let made = f.nodes[n].results.first().filter(|v| !existing.contains_key(v)).copied();
                let chosen_by = f.nodes[n].operands.first().filter(|v| existing.get(v) == Some(&n)).copied();
                if chosen_by.is_none() {
                    f.regions[region].nodes.push(n);
                }
                if let Some(site) = chosen_by.or(made).and_then(|v| sites.remove(&v)) {
                    cx.check_interrupt()?;
                    let first = f.regions[region].nodes.len();
                    let (loc, name) = (f.nodes[n].loc.made_by(cx.pass()), f.values[site.value].name.to_string());
                    let (consts, names, choice) = (&mut *consts, &mut names, chosen_by.map(|_| n));
                    let narrowed = vec![];
                    let mut b =
                        Editor { consts, func: &mut *f, region, loc: loc.clone(), name, choice, narrowed, names };
                    let mut alternatives = pass.propose(&site, &mut b, cx)?;
                    let narrowed = b.narrowed;
                    if alternatives.is_empty() {
                        f.regions[region].nodes.truncate(first);
                    } else {
                        let mut nodes = f.regions[region].nodes[first..].to_vec();
                        owner.extend(nodes.iter().map(|&n| (n, site.value)));
                        let choice = if chosen_by.is_some() {
                            nodes = others(f, n, &exact[&func]).into_iter().chain(nodes).collect();
                            let Op::Choice(op) = &mut f.nodes[n].op else { unreachable!("filtered above") };
                            alternatives.iter_mut().for_each(|a| a.name = fresh_name(&op.names, &a.name));
                            op.names.extend(alternatives.iter().map(|a| a.name.clone()));
                            let choice = op.site.clone();
                            f.nodes[n].operands.extend(alternatives.iter().map(|a| a.value));
                            choice
                        } else {
                            let names = std::iter::once(EXACT.to_string());
                            let names = names.chain(alternatives.iter().map(|a| a.name.clone())).collect();
                            let operands: Vec<_> =
                                std::iter::once(site.value).chain(alternatives.iter().map(|a| a.value)).collect();
                            let op = Choice { site: site.name.clone(), names };
                            let base = f.values[site.value].name.to_string();
                            let c = f.add_node(region, op.into(), &operands, &base, loc)?;
                            chosen.insert(site.value, f.nodes[c].results[0]);
                            owner.insert(c, site.value);
                            site.name.clone()
                        };
                        offers.push(Offer { site, choice, alternatives, nodes, narrowed });
                    }
                }
                if chosen_by.is_some() {
                    f.regions[region].nodes.push(n);
                }
            }
        }
        if let Some(s) = sites.values().next() {
            let message = format!("{}: site {} is not the first result of an op", cx.pass(), s.name);
            return Err(Diagnostic::error("S0106", message).failure(Failure::Internal));
        }
        let swap = |v: &mut ValueId, keep: Option<&ValueId>| {
            if keep != Some(v)
                && let Some(&c) = chosen.get(v)
            {
                *v = c;
            }
        };
        for n in f.live_nodes() {
            f.nodes[n].operands.iter_mut().for_each(|v| swap(v, owner.get(&n)));
        }
        f.regions.values_mut().flat_map(|r| &mut r.results).for_each(|v| swap(v, None));
        // An alternative may be the value of another site as it is.
        for o in offers.iter_mut().filter(|o: &&mut Offer| o.site.func == func) {
            o.alternatives.iter_mut().for_each(|a| swap(&mut a.value, Some(&o.site.value)));
        }
    }
    Ok(offers)
}

/// The nodes that a choice's alternatives need and the exact program does not, in an order of reading.
fn others(f: &Func, choice: NodeId, exact: &HashSet<NodeId>) -> Vec<NodeId> {
    let (mut seen, mut stack) = (HashSet::new(), f.nodes[choice].operands[1..].to_vec());
    while let Some(v) = stack.pop() {
        if let Def::Node(n, _) = f.values[v].def
            && !exact.contains(&n)
            && seen.insert(n)
        {
            stack.extend(&f.nodes[n].operands);
        }
    }
    f.regions.values().flat_map(|r| &r.nodes).filter(|n| seen.contains(n)).copied().collect()
}

/// `base`, or `base.2`, `base.3`, …
fn fresh_name(taken: &[String], base: &str) -> String {
    let numbered = (2..).map(|n| format!("{base}.{n}"));
    let mut names = std::iter::once(base.to_string()).chain(numbered);
    names.find(|n| !taken.contains(n)).unwrap_or_default()
}

/// The code of what a pass says that finds no site.
pub(crate) const NO_SITE: &str = "S0117";

/// What stands at sites until passes that amend it have run.
#[derive(Default)]
pub(crate) struct Held {
    /// Alternative by choice.
    plan: Plan,
    /// Bytes of constants that it reads.
    bytes: HashMap<String, usize>,
    offers: Vec<Offer>,
}

/// Offers, measures and picks, for a pass that is decided on by itself. Then resolves what stands at all sites; or holds it, and leaves of each choice the exact op and
/// what stands.
pub(crate) fn run_proposal(
    pass: &dyn Propose,
    m: &mut Module,
    cx: &mut PassCx,
    measure: bool,
    held: &mut Held,
    hold: bool,
) -> Result<Vec<Decision>> {
    let offers = offer(pass, m, cx)?;
    let mut decided = vec![];
    for o in &offers {
        cx.check_interrupt()?;
        let mut d = decide(m, o, cx, measure)?;
        if let Some(&before) = held.bytes.get(&o.choice) {
            d.bytes_before = before;
            d.bytes_after = if d.picked.is_some() { d.bytes_after } else { before };
        }
        if let Some(p) = &d.picked {
            held.plan.picks.insert(o.choice.clone(), p.clone());
            held.bytes.insert(o.choice.clone(), d.bytes_after);
        } else {
            held.plan.picks.entry(o.choice.clone()).or_insert_with(|| EXACT.into());
        }
        decided.push(((o.site.func, o.site.value), d));
    }
    held.offers.extend(offers);
    if hold {
        narrow(m, &held.plan)?;
    } else {
        let Held { plan, offers, .. } = std::mem::take(held);
        resolve_only(m, &plan).map_err(|mut e| e.remove(0).failure(Failure::Internal))?;
        name_picked(m, &offers, &plan);
        named_narrowed(m, &offers, cx);
    }
    let mut all = std::mem::take(&mut cx.refusals);
    all.extend(decided);
    all.sort_by_key(|(key, _)| *key);
    let decisions: Vec<Decision> = all.into_iter().map(|(_, d)| d).collect();
    if decisions.is_empty() && pass.amends() {
        let message = format!("{} changed nothing: nothing stands there that it could amend", cx.pass());
        cx.remark(Diagnostic::warning(NO_SITE, message).with_help("put it right behind the pass that it amends"));
    } else if decisions.is_empty() {
        cx.remark(Diagnostic::warning(NO_SITE, format!("{} changed nothing: there is no site for it", cx.pass())));
    } else if decisions.iter().all(|d| d.picked.is_none()) {
        let mut d = Diagnostic::warning("S0105", format!("{} changed nothing", cx.pass()));
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        decisions.iter().filter_map(|d| d.reason.as_deref()).for_each(|r| *reasons.entry(r).or_default() += 1);
        for (reason, n) in reasons {
            d = d.with_note(format!("{n} sites: {reason}"));
        }
        cx.remark(d);
    }
    Ok(decisions)
}

/// Notes which values stand narrowed in place of others.
fn named_narrowed(m: &Module, offers: &[Offer], cx: &mut PassCx) {
    for o in offers {
        let f = &m.funcs[o.site.func];
        let live: HashSet<NodeId> = f.live_nodes().into_iter().collect();
        let stands = |v: ValueId| matches!(f.values[v].def, Def::Node(n, _) if live.contains(&n));
        let own = o.alternatives.iter().filter(|a| o.narrowed.iter().any(|n| n.old == o.site.value && stands(a.value)));
        let own = own.map(|a| (o.site.value, a.value, vec![]));
        let inner = o.narrowed.iter().map(|n| (n.old, n.new, n.kept.clone()));
        let mut first: HashMap<ValueId, String> = HashMap::new();
        for (old, new, kept) in inner.chain(own).filter(|n| stands(n.1)) {
            let name = f.values[new].name.to_string();
            let was = first.entry(old).or_insert_with(|| name.clone()).clone();
            cx.narrowed.push((was, name, kept));
        }
    }
}

/// Resolves choices at which the exact op stands, and leaves of the others that op and what stands.
fn narrow(m: &mut Module, standing: &Plan) -> Result<()> {
    let exact: BTreeMap<_, _> =
        standing.picks.iter().filter(|p| p.1 == EXACT).map(|(s, p)| (s.clone(), p.clone())).collect();
    resolve_only(m, &Plan { picks: exact }).map_err(|mut e| e.remove(0).failure(Failure::Internal))?;
    for f in m.funcs.values_mut() {
        for n in f.live_nodes() {
            let node = &mut f.nodes[n];
            let Op::Choice(c) = &mut node.op else { continue };
            let Some(at) = standing.picks.get(&c.site).and_then(|p| c.names.iter().position(|n| n == p)) else {
                continue;
            };
            c.names = vec![EXACT.into(), c.names[at].clone()];
            node.operands = [node.operands[0], node.operands[at]].into_iter().collect();
        }
        f.remove_dead();
    }
    Ok(())
}

/// What stands at a site bears its name, and what takes the place of a value that is gone the name of that.
fn name_picked(m: &mut Module, offers: &[Offer], plan: &Plan) {
    for o in offers {
        if let Some(a) = o.alternatives.iter().find(|a| plan.picks.get(&o.choice) == Some(&a.name)) {
            let f = &mut m.funcs[o.site.func];
            let live: HashSet<ValueId> = f.live_nodes().iter().flat_map(|&n| f.nodes[n].results.to_vec()).collect();
            let moved = o.narrowed.iter().filter(|n| live.contains(&n.new) && !live.contains(&n.old));
            // What was there before it was offered keeps its own name.
            let made = matches!(f.values[a.value].def, Def::Node(n, _) if o.nodes.contains(&n));
            let own = made.then_some((o.site.value, a.value));
            for (old, new) in moved.map(|n| (n.old, n.new)).chain(own) {
                f.swap_names(old, new);
            }
        }
    }
}

/// Resolves all choices of the module under a plan, and says of each offer what became of it. Sites that the plan does not name stay exact.
pub(crate) fn settle(
    m: &mut Module,
    offers: &[Offer],
    plan: &Plan,
    target: &dyn Target,
    statistics: Option<&Statistics>,
    measure: bool,
) -> Result<Vec<Decision>, Vec<Diagnostic>> {
    let judged = |o: &Offer| {
        let picked = plan.picks.get(&o.choice).and_then(|p| o.alternatives.iter().position(|a| a.name == *p));
        let reason = picked.is_none().then(|| match plan.picks.get(&o.choice) {
            Some(other) => format!("the plan takes {other}"),
            None => "the plan does not name it".into(),
        });
        let measured = |i: usize| measure && picked == Some(i);
        Ok(decision(o, considered(m, o, target, statistics, measured)?, picked.unwrap_or(0), reason))
    };
    let decisions: Result<Vec<Decision>> = offers.iter().map(judged).collect();
    let decisions = decisions.map_err(|d| vec![d])?;
    tersor_ir::plan::resolve(m, plan)?;
    name_picked(m, offers, plan);
    Ok(decisions)
}

/// Whether an op takes time of its own. Elementwise work around a product is its kernel's prologue and epilogue and costs next to nothing, but what has to see a row before
/// it gives anything, such as the codes of activations, does not fit there.
fn is_heavy(op: &Op) -> bool {
    matches!(op, Op::MatMul(_) | Op::Conv(_) | Op::Attention(_) | Op::QuantDynamic(_) | Op::Reduce(_))
}

/// How many products use what a node gives: codes of a value are found once for all that read it.
fn shared(f: &Func, n: NodeId) -> usize {
    let node = &f.nodes[n];
    let reads = |r: &&NodeId| matches!(f.nodes[**r].op, Op::MatMul(_)) && f.nodes[**r].operands[0] == node.operands[0];
    if let Op::QuantDynamic(_) = node.op { exact_nodes(f).iter().filter(reads).count().max(1) } else { 1 }
}

/// Bytes of constants that nodes read, each once, and seconds that their products take, with what looks at whole rows for them.
pub fn costs_of(m: &Module, func: FuncId, nodes: &[NodeId], target: &dyn Target) -> (usize, f64) {
    let f = &m.funcs[func];
    let consts = nodes.iter().flat_map(|&n| &f.nodes[n].operands).filter_map(|&v| f.def_const(v));
    let unique: std::collections::BTreeSet<_> = consts.collect();
    let bytes = unique.into_iter().map(|c| m.consts[c].byte_len()).sum::<usize>();
    let hints = m.hints();
    let one = |&n: &NodeId| target.node(&m.consts, f, n, &hints) / shared(f, n) as f64;
    (bytes, nodes.iter().filter(|&&n| is_heavy(&f.nodes[n].op)).map(one).sum())
}

/// Bytes and seconds of what an alternative takes the place of.
fn exact_costs(m: &Module, o: &Offer, a: &Alternative, target: &dyn Target) -> (usize, f64) {
    costs_of(m, o.site.func, &replaced(m, o, a), target)
}

/// Bytes and seconds of an alternative.
fn costs(m: &Module, o: &Offer, a: &Alternative, target: &dyn Target) -> (usize, f64) {
    costs_of(m, o.site.func, &slice(m, o, a.value), target)
}

/// The error of an alternative at its site.
fn site_error(m: &Module, o: &Offer, a: &Alternative, statistics: Option<&Statistics>) -> Result<Option<f64>> {
    let nodes = slice(m, o, a.value);
    let exact: Vec<NodeId> = replaced(m, o, a).into_iter().rev().collect();
    measure::error(m, &o.site, &exact, &nodes, a.value, statistics)
}

/// The exact op and all alternatives of an offer with their costs, and the errors of those whose position is `measured`.
fn considered(
    m: &Module,
    o: &Offer,
    target: &dyn Target,
    statistics: Option<&Statistics>,
    measured: impl Fn(usize) -> bool,
) -> Result<Vec<Considered>> {
    let (bytes, seconds) = exact_costs(m, o, &o.alternatives[0], target);
    let mut out = vec![Considered { name: EXACT.into(), bytes, seconds, rel_l2: None }];
    for (i, a) in o.alternatives.iter().enumerate() {
        let (bytes, seconds) = costs(m, o, a, target);
        let rel_l2 = if measured(i) { site_error(m, o, a, statistics)? } else { None };
        out.push(Considered { name: a.name.clone(), bytes, seconds, rel_l2 });
    }
    Ok(out)
}

/// What became of an offer of which the alternative of that position was best: it stands at the site unless there is a reason against it.
fn decision(o: &Offer, considered: Vec<Considered>, best: usize, reason: Option<String>) -> Decision {
    let (exact, best) = (&considered[0], &considered[1 + best]);
    Decision {
        site: o.site.name.clone(),
        node: o.site.node.clone(),
        op: o.site.ops[0].clone(),
        picked: reason.is_none().then(|| best.name.clone()),
        bytes_before: exact.bytes,
        bytes_after: if reason.is_none() { best.bytes } else { exact.bytes },
        rel_l2: best.rel_l2,
        reason,
        considered,
    }
}

/// The best alternative that an offer has: the one that reads the fewest bytes, taken where it is smaller or faster than the exact op.
fn decide(m: &Module, o: &Offer, cx: &PassCx, measure: bool) -> Result<Decision> {
    let all = considered(m, o, cx.target, cx.statistics, |_| measure)?;
    let exact = &all[0];
    let Some((at, best)) = all[1..].iter().enumerate().min_by_key(|(_, a)| a.bytes) else {
        unreachable!("offers have alternatives")
    };
    let pays = best.bytes < exact.bytes || best.seconds < exact.seconds;
    let reason = (!pays).then(|| {
        format!(
            "{} is neither smaller ({} B after, {} B before) nor faster on {} ({:.3} us after, {:.3} us before)",
            best.name,
            best.bytes,
            exact.bytes,
            cx.target.name(),
            best.seconds * 1e6,
            exact.seconds * 1e6
        )
    });
    Ok(decision(o, all, at, reason))
}

/// The nodes of the exact program that nothing needs any more when the alternative stands at the site: the op that makes it, and what only that needs.
fn replaced(m: &Module, o: &Offer, a: &Alternative) -> Vec<NodeId> {
    let f = &m.funcs[o.site.func];
    let nodes = slice(m, o, a.value);
    let mut needed: HashSet<ValueId> = nodes.iter().flat_map(|&n| f.nodes[n].operands.iter().copied()).collect();
    needed.insert(a.value);
    needed.extend(f.regions.values().flat_map(|r| r.results.iter().copied()));
    let mut out = vec![];
    for n in exact_nodes(f).into_iter().rev() {
        if f.nodes[n].results.contains(&o.site.value) {
            out.push(n);
        } else if out.is_empty() || f.nodes[n].results.iter().any(|v| needed.contains(v)) {
            needed.extend(reads(f, n));
        } else {
            out.push(n);
        }
    }
    // A site of another alternative is no part of the exact program, but its own op goes.
    if let (true, Def::Node(n, _)) = (out.is_empty(), f.values[o.site.value].def) {
        out.push(n);
    }
    out
}

/// The added nodes that a value needs, in order.
fn slice(m: &Module, o: &Offer, value: ValueId) -> Vec<NodeId> {
    let f = &m.funcs[o.site.func];
    let mut needed = HashSet::from([value]);
    let mut out = vec![];
    for &n in o.nodes.iter().rev() {
        if f.nodes[n].results.iter().any(|v| needed.contains(v)) {
            needed.extend(f.nodes[n].operands.iter().copied());
            out.push(n);
        }
    }
    out.reverse();
    out
}

#[cfg(test)]
mod tests {
    use crate::filetest::run_passes;
    use proptest::prelude::*;
    use tersor_ir::testing::rel_l2;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_measured_error_is_what_whole_programs_give(
            seed in 1u64..1000,
            inner in 1usize..40,
            outer in 1usize..40,
            pass in prop_oneof![Just("quantize{acts=none, skip-small=false}"), Just("quantize{acts=dynamic, skip-small=false}"), Just("precision")],
        ) {
            let text = format!(
                "module @m {{ const @w : f32[{inner},{outer}] = rng normal(0, 1) seed {seed}
                 func @main(%x: f32[5,{inner}]) -> (%y: f32[5,{outer}]) {{
                 %y = matmul %x, @w : f32[5,{outer}] return %y }} }}"
            );
            let before = tersor_ir::text::parse(&text, &Default::default()).unwrap();
            let mut after = before.clone();
            let steps = run_passes(pass, &mut after).unwrap();
            let f = &before.funcs[before.main().unwrap()];
            let x = crate::sample::tensor(f, f.body().params[0], &[5, inner], None);
            let run = |m| tersor_ir::interp::run(m, std::slice::from_ref(&x)).unwrap().remove(0);
            let d = &steps[0].decisions[0];
            prop_assert!(d.picked.is_some() || d.reason.is_some());
            if d.picked.is_some() {
                prop_assert_eq!(d.rel_l2.unwrap(), rel_l2(&run(&after), &run(&before)));
                prop_assert!(d.rel_l2.unwrap() < 0.05);
                prop_assert_eq!(d.bytes_after, after.constant_bytes());
            }
            prop_assert_eq!(d.bytes_before, before.constant_bytes());
        }
    }
}
