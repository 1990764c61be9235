//! Nested graphs as functions of their own, for loops that run: the values that they see around them become operands.

use super::ops::Selected;
use super::ranges::Range;
use super::region::own_names;
use super::{BODY_OF_NODE, Form, Importer, Known, Meaning, lint};
use crate::proto::GraphProto;
use foldhash::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use tersor_ir::diag::Result;
use tersor_ir::module::{Def, RegionId};
use tersor_ir::{Dim, Func, NodeId, Op, ValueId};

/// What is set aside while a function is imported: the function around it, and what is known there.
pub(super) struct Outside {
    func: Func,
    scope: HashMap<String, Meaning>,
    selected: Vec<Selected>,
    ranges: HashMap<ValueId, Range>,
    rounded: HashMap<(RegionId, ValueId, u32), ValueId>,
    numbers: HashMap<(RegionId, Dim), ValueId>,
    scales: HashMap<(RegionId, ValueId), ValueId>,
    /// Constants so far.
    constants: usize,
    /// Values of the function around that are operands, in their order.
    pub(super) operands: Vec<ValueId>,
    /// What these and constants are inside.
    inside: HashMap<ValueId, ValueId>,
}

impl Importer<'_> {
    /// Goes into a new function, in whose extents a new symbol is the number of the call, of which there are up to `most`. Both are named after the node.
    pub(super) fn enter(&mut self, most: &Dim) -> Result<(Outside, Dim)> {
        use std::mem::take;
        let node = self.b.name.clone();
        let (mut stem, mut name) = (node.clone(), format!("{node}{BODY_OF_NODE}"));
        for n in 2.. {
            if self.bodies.iter().map(|f| &f.name).chain(&self.entered).all(|taken| **taken != *name) {
                break;
            }
            stem = format!("{node}.{n}");
            name = format!("{stem}{BODY_OF_NODE}");
        }
        let over = self.new_symbol(&stem, ".i", most)?;
        self.counters.extend(over.as_symbol().cloned());
        self.entered.push(name.as_str().into());
        let outside = Outside {
            func: std::mem::replace(self.b.func, Func::new(name)),
            scope: take(&mut self.scope),
            selected: take(&mut self.selected),
            ranges: take(&mut self.ranges),
            rounded: take(&mut self.rounded),
            numbers: take(&mut self.numbers),
            scales: take(&mut self.scales),
            constants: self.b.consts.len(),
            operands: vec![],
            inside: HashMap::default(),
        };
        Ok((outside, over))
    }

    /// Lets the function see what `g` reads of what is outside.
    pub(super) fn see(&mut self, outside: &mut Outside, g: &GraphProto) {
        let own = own_names(g).collect::<HashSet<_>>();
        for name in lint::reads(g).into_iter().filter(|n| !own.contains(n)) {
            if let Some(m) = outside.scope.get(name).cloned() {
                let m = self.seen(outside, m);
                self.scope.insert(name.into(), m);
            }
        }
    }

    /// What something outside is inside.
    fn seen(&mut self, outside: &mut Outside, m: Meaning) -> Meaning {
        let form = match m.form {
            Form::Sequence(all) => Form::Sequence(Rc::new(all.iter().map(|m| self.seen(outside, m.clone())).collect())),
            Form::Map(parts) => Form::Map(Box::new(parts.map(|m| self.seen(outside, m)))),
            // Only the loop that carries it appends to it.
            Form::Appended(_) | Form::Stacked(_) => Form::Stacked(vec![]),
            form => form,
        };
        Meaning { value: m.value.map(|v| self.operand(outside, v)), form, ..m }
    }

    /// The value inside for one outside: a constant, or an operand.
    pub(super) fn operand(&mut self, outside: &mut Outside, v: ValueId) -> ValueId {
        if let Some(&inside) = outside.inside.get(&v) {
            return inside;
        }
        let inside = match outside.func.values[v].def {
            Def::Const(c) => self.b.const_value(c),
            _ => self.carried(outside, v),
        };
        outside.inside.insert(v, inside);
        inside
    }

    /// One more operand, for a value outside.
    pub(super) fn carried(&mut self, outside: &mut Outside, v: ValueId) -> ValueId {
        let (name, ty) = (outside.func.values[v].name.clone(), outside.func.values[v].ty.clone());
        outside.operands.push(v);
        let body = self.b.func.body_id();
        let p = self.b.func.add_param(body, &name, ty);
        let name = self.b.func.values[p].name.clone();
        self.b.func.inputs.push(name);
        p
    }

    /// Goes back to the function around, and gives the one that was imported, with its operands: the first `carried` as they are, then those that it reads, in that order.
    pub(super) fn leave(&mut self, outside: Outside, carried: usize) -> (Func, Vec<ValueId>) {
        let Outside { func, scope, selected, ranges, rounded, numbers, scales, constants, operands, .. } = outside;
        let mut body = std::mem::replace(self.b.func, func);
        self.entered.pop();
        (self.scope, self.selected, self.ranges) = (scope, selected, ranges);
        (self.rounded, self.numbers, self.scales) = (rounded, numbers, scales);
        // Names of constants are the module's.
        for id in self.b.consts.keys().skip(constants).collect::<Vec<_>>() {
            let name = self.b.consts[id].name.clone();
            self.b.consts[id].name = self.b.func.fresh_name(&name);
        }
        body.remove_dead();
        let all = std::mem::take(&mut body.body_mut().params);
        let place: HashMap<ValueId, usize> = all.iter().copied().zip(0..).collect();
        let mut order: Vec<usize> = (0..carried.min(all.len())).collect();
        let mut seen: HashSet<usize> = order.iter().copied().collect();
        let read = body.body().nodes.iter().flat_map(|&n| &body.nodes[n].operands).chain(&body.body().results);
        order.extend(read.filter_map(|v| place.get(v).copied()).filter(|&i| seen.insert(i)));
        for (i, &at) in order.iter().enumerate() {
            body.values[all[at]].def = Def::Param(body.body_id(), i as u32);
        }
        body.inputs = order.iter().map(|&at| body.values[all[at]].name.clone()).collect();
        body.body_mut().params = order.iter().map(|&at| all[at]).collect();
        (body, order.into_iter().filter_map(|at| operands.get(at).copied()).collect())
    }

    /// Whether a function is imported, not the model's graph.
    pub(super) fn is_inside(&self) -> bool {
        !self.entered.is_empty()
    }

    /// Whether an extent is the number of a repetition.
    pub(super) fn is_counter(&self, d: &Dim) -> bool {
        d.as_symbol().is_some_and(|s| self.counters.contains(s))
    }

    /// Whether a function draws numbers by chance: it would draw the same ones each time.
    pub(super) fn draws_numbers(f: &Func) -> bool {
        f.live_nodes().iter().any(|&n| matches!(f.nodes[n].op, Op::Random(_)))
    }

    /// The symbols that only mean something inside of a function: those that its nodes bind, and the number of the repetition.
    pub(super) fn own_symbols(f: &Func, over: &Dim) -> HashSet<Arc<str>> {
        f.binders().into_keys().chain(over.as_symbol().cloned()).collect()
    }
}

/// An extent as an integer scalar.
pub(super) fn number(d: Dim) -> Meaning {
    Meaning { value: None, known: Some(Known::scalar(d)), form: Form::Tensor }
}

/// The functions that `main` calls, and those that these call.
pub(super) fn called(main: &Func, mut bodies: Vec<Func>) -> Vec<Func> {
    let mut out: Vec<Func> = vec![];
    for at in 0.. {
        let Some(f) = (if at == 0 { Some(main) } else { out.get(at - 1) }) else { break };
        let name = |n: NodeId| if let Op::Loop(l) = &f.nodes[n].op { Some(l.body.clone()) } else { None };
        let names: Vec<String> = f.live_nodes().into_iter().filter_map(name).collect();
        for name in names {
            out.extend(bodies.iter().position(|b| *b.name == *name).map(|i| bodies.swap_remove(i)));
        }
    }
    out
}
