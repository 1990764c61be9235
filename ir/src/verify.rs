//! The verifier: finds every broken invariant of a module, not just the first.

use crate::diag::Diagnostic;
use crate::dim::Dim;
use crate::entity::EntityId;
use crate::module::{Def, Func, Module, Node, RegionId, ValueId};
use crate::ops::Op;
use crate::text::print_node;
use foldhash::HashSet;
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// All errors of a module; none for a sound one.
pub fn verify(m: &Module) -> Vec<Diagnostic> {
    let mut errors = vec![];
    let mut names = HashSet::default();
    for c in m.consts.values() {
        if !names.insert(&c.name) {
            errors.push(Diagnostic::error("T0501", format!("two constants are named @{}", c.name)).at_loc(&c.loc));
        }
    }
    if let Err(d) = m.main() {
        errors.push(d);
    }
    calls(m, &mut errors);
    for f in m.funcs.values() {
        let bound = f.live_nodes().into_iter().filter_map(|n| f.nodes[n].op.binds());
        let symbols = bound.map(|s| (&**s, false)).collect();
        let defined = vec![false; f.values.len()];
        let mut v = Verifier { m, f, errors: &mut errors, defined, sites: HashSet::default(), symbols };
        v.names();
        v.region(f.body_id());
    }
    errors
}

/// Loops nest no deeper.
const MAX_NESTING: usize = 64;

/// A function is the body of one loop at most, which passes and takes what the function takes and gives.
fn calls(m: &Module, errors: &mut Vec<Diagnostic>) {
    let mut callers: BTreeMap<&str, &str> = BTreeMap::new();
    for f in m.funcs.values() {
        for node in f.live_nodes().into_iter().map(|n| &f.nodes[n]) {
            let Op::Loop(l) = &node.op else { continue };
            let mut error = |code, message: String| errors.push(Diagnostic::error(code, message).at_loc(&node.loc));
            let Some(body) = m.func(&l.body).map(|id| &m.funcs[id]) else {
                error("T0513", format!("there is no function @{}", l.body));
                continue;
            };
            if &*body.name == "main" || callers.insert(&body.name, &f.name).is_some() {
                error("T0513", format!("@{} is called twice", l.body));
            }
            let type_of = |f: &Func, v: ValueId| f.values.get(v).map(|v| v.ty.clone());
            let given = node.operands.iter().skip(2).map(|&v| type_of(f, v));
            if !given.eq(body.body().params.iter().map(|&p| type_of(body, p))) {
                error("T0514", format!("@{} takes other operands", l.body));
            }
            let collected = |(i, t): (usize, &crate::types::Type)| {
                let mut t = t.clone();
                if i >= l.carried as usize {
                    t.shape.first()?;
                    t.shape.remove(0);
                }
                Some(t)
            };
            let gives = l.results.iter().enumerate().map(collected);
            let condition = Some(crate::types::Type::scalar(crate::types::DType::Bool));
            let results = body.body().results.iter().map(|&r| type_of(body, r));
            if !std::iter::once(condition).chain(gives).eq(results) {
                error("T0514", format!("@{} gives other results", l.body));
            }
            if l.over.as_symbol().is_some_and(|s| !m.symbols.contains_key(s)) {
                error("T0504", format!("symbol {} has no bounds", l.over));
            }
        }
    }
    for mut name in callers.keys().copied() {
        for depth in 0.. {
            let Some(&caller) = callers.get(name) else { break };
            if depth == MAX_NESTING {
                errors.push(Diagnostic::error("T0513", format!("@{name} calls itself, or loops nest too deeply")));
                break;
            }
            name = caller;
        }
    }
}

struct Verifier<'a> {
    m: &'a Module,
    f: &'a Func,
    errors: &'a mut Vec<Diagnostic>,
    defined: Vec<bool>,
    sites: HashSet<&'a str>,
    /// Symbols that a node binds, and whether it came already.
    symbols: BTreeMap<&'a str, bool>,
}

impl<'a> Verifier<'a> {
    fn error(&mut self, d: Diagnostic) {
        let name = &self.f.name;
        self.errors.push(if &**name == "main" { d } else { d.with_note(format!("in @{name}")) });
    }

    fn names(&mut self) {
        let f = self.f;
        let mut seen = HashSet::with_capacity_and_hasher(f.values.len(), Default::default());
        for v in f.values.values() {
            if !matches!(v.def, Def::Const(_)) && !seen.insert(&v.name) {
                self.error(Diagnostic::error("T0502", format!("two values are named %{}", v.name)));
            }
        }
        if f.inputs.len() != f.body().params.len() || f.outputs.len() != f.body().results.len() {
            self.error(Diagnostic::error("T0503", "outside names and parameters or results differ in number"));
        }
        for &p in &f.body().params {
            for d in &f.values[p].ty.shape {
                let mut unknown = vec![];
                d.symbols(&mut |s| {
                    if !self.m.symbols.contains_key(s) {
                        unknown.push(s.clone());
                    }
                });
                unknown.into_iter().for_each(|s| {
                    self.error(Diagnostic::error("T0504", format!("symbol {s} of %{} has no bounds", f.values[p].name)))
                });
            }
        }
    }

    fn usable(&mut self, v: ValueId) -> bool {
        let ok = match self.f.values.get(v).map(|v| v.def) {
            None => false,
            Some(Def::Const(c)) => self.m.consts.get(c).is_some(),
            _ => self.defined[v.index()],
        };
        if !ok {
            let name = self.f.values.get(v).map_or("?".into(), |v| v.name.clone());
            self.error(Diagnostic::error("T0505", format!("%{name} is used before it is defined")));
        }
        ok
    }

    /// Symbols are bound once, by what runs always and before what has extents over them.
    fn symbols(&mut self, r: RegionId, node: &'a Node) {
        let binds = node.op.binds();
        let at = |d: Diagnostic| d.at_loc(&node.loc);
        node.op.symbols(&mut |s| {
            if binds != Some(s) && self.symbols.get(&**s) == Some(&false) {
                self.error(at(Diagnostic::error("T0510", format!("extent {s} is used before it is bound"))));
            }
        });
        let Some(symbol) = binds else { return };
        if r != self.f.body_id() {
            self.error(at(Diagnostic::error("T0511", format!("{symbol} is bound in a region, which may not run"))));
        }
        let given = self.f.body().params.iter().flat_map(|&p| &self.f.values[p].ty.shape).any(|d| d.mentions(symbol));
        if given || self.symbols.insert(symbol, true) == Some(true) {
            self.error(at(Diagnostic::error("T0512", format!("extent {symbol} is bound twice"))));
        }
        if !self.m.symbols.contains_key(symbol) {
            self.error(at(Diagnostic::error("T0504", format!("symbol {symbol} has no bounds"))));
        }
    }

    fn region(&mut self, r: RegionId) {
        let f = self.f;
        for &p in &f.regions[r].params {
            self.defined[p.index()] = true;
        }
        for &n in &f.regions[r].nodes {
            let node = &f.nodes[n];
            self.symbols(r, node);
            let usable = node.operands.iter().filter(|&&v| self.usable(v)).count() == node.operands.len();
            if usable {
                let types: SmallVec<[_; 4]> = node.operands.iter().map(|&v| &f.values[v].ty).collect();
                match node.op.infer(&types) {
                    Err(d) => self.error(d.at_loc(&node.loc).at_op(print_node(f, n))),
                    Ok(t) => {
                        if !t.iter().eq(node.results.iter().map(|&v| &f.values[v].ty)) {
                            let d = Diagnostic::error(
                                "T0506",
                                format!("{}: result types are not the inferred ones", node.op.mnemonic()),
                            );
                            self.error(d.at_loc(&node.loc).at_op(print_node(f, n)));
                        }
                    }
                }
            }
            if let Op::Choice(c) = &node.op {
                let mut unique = HashSet::default();
                if !self.sites.insert(&c.site) || !c.names.iter().all(|n| unique.insert(n)) {
                    self.error(
                        Diagnostic::error(
                            "T0507",
                            format!("site @{} stands twice, or names an alternative twice", c.site),
                        )
                        .at_loc(&node.loc),
                    );
                }
            }
            for &inner in &node.regions {
                self.region(inner);
                let types: Vec<_> = f.regions[inner].results.iter().map(|&v| &f.values[v].ty).collect();
                if !types.into_iter().eq(node.results.iter().map(|&v| &f.values[v].ty)) {
                    self.error(
                        Diagnostic::error("T0508", "a region's results are not those of its op").at_loc(&node.loc),
                    );
                }
            }
            for &v in &node.results {
                self.defined[v.index()] = true;
                if f.values[v].ty.shape.iter().any(|d| matches!(d, Dim::Const(c) if *c < 0)) {
                    self.error(
                        Diagnostic::error(
                            "T0509",
                            format!("%{} has a negative extent: {}", f.values[v].name, f.values[v].ty),
                        )
                        .at_loc(&node.loc),
                    );
                }
            }
        }
        for &v in &f.regions[r].results.clone() {
            self.usable(v);
        }
    }
}
