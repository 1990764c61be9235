//! Channels that must go together: dependency analysis for structured pruning, after DepGraph (Fang et al., 2023).
//!
//! A *group* is a set of axes joined by the ops between them, found by walking from one of them through [`relations`]. Each position of each axis belongs to a
//! *channel*; a channel goes or stays whole. So an output channel of a convolution, the bias added to it and the input channels of what reads it make one channel; a
//! key/value head with its query heads, the rows of the projection after it and their biases make another. Whatever an op does not let go bars the channels it touches, with a reason.
//!
//! What stands inside alternatives of a `choice` is not looked at. Removing a channel whose products with every consumer are zero leaves the outputs as they are, but for rounding.

pub mod order;
pub mod region;
pub mod relations;
pub mod remove;

#[cfg(test)]
pub(crate) mod tests;

use relations::{Bar, Fold, Map, Relations, Slot, Tie, extent, relations};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use tersor_ir::ops::Conv;
use tersor_ir::{Def, Func, FuncId, Module, NodeId, Op, ValueId};

/// What the channels of a group are.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Channels of images.
    Channel,
    /// Heads of attention; with grouped queries a key/value head and all that read it.
    Head,
    /// Inner features between two products.
    Feature,
}

/// A channel of a group.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Channel {
    /// Why it cannot go.
    pub barred: Option<String>,
}

/// A weight at which channels of a group begin or end.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Weight {
    /// The product or convolution.
    pub node: NodeId,
    /// Its constant.
    pub value: ValueId,
    /// The axis of the constant that channels are along.
    pub axis: usize,
    /// Which operand it is.
    pub operand: usize,
}

/// Axes whose channels go together.
#[derive(Clone, PartialEq, Debug)]
pub struct Group {
    /// The function.
    pub func: FuncId,
    /// Name of the value from which it was found.
    pub name: String,
    /// What its channels are.
    pub unit: Unit,
    /// Its channels, in the order of their first positions.
    pub channels: Vec<Channel>,
    /// The channel of each position of each axis.
    pub slots: BTreeMap<Slot, Vec<usize>>,
    /// Constant weights that make channels, in program order.
    pub producers: Vec<Weight>,
    /// Constant weights of which channels are contracted, in program order.
    pub consumers: Vec<Weight>,
}

impl Group {
    /// Channels that may go.
    pub fn free(&self) -> Vec<usize> {
        (0..self.channels.len()).filter(|&c| self.channels[c].barred.is_none()).collect()
    }
    /// Positions of an axis that stay when these channels go; `None` for an axis that is not the group's.
    pub fn kept(&self, slot: Slot, gone: &BTreeSet<usize>) -> Option<Vec<usize>> {
        let of = self.slots.get(&slot)?;
        Some((0..of.len()).filter(|&i| !gone.contains(&of[i])).collect())
    }
    /// The most frequent reason why channels are barred.
    pub fn reason(&self) -> Option<&str> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        self.channels.iter().filter_map(|c| c.barred.as_deref()).for_each(|r| *counts.entry(r).or_default() += 1);
        counts.into_iter().max_by_key(|&(r, n)| (n, std::cmp::Reverse(r))).map(|(r, _)| r)
    }
}

/// Every group of a function that begins at a constant weight or at the heads of an attention, in program order of where it was found.
pub fn groups(m: &Module, func: FuncId) -> Vec<Group> {
    let f = &m.funcs[func];
    let cx = Graph::of(m, func);
    let nodes = exact_nodes(f);
    let heads = nodes.iter().filter(|&&n| matches!(f.nodes[n].op, Op::Attention(_))).map(|&n| f.nodes[n].operands[1]);
    let heads = heads.map(|value| Slot { value, axis: 1 });
    let made = nodes.iter().filter_map(|&n| made(f, n)).map(|(_, slot)| slot);
    let mut taken: HashSet<Slot> = HashSet::new();
    let mut out = vec![];
    for seed in heads.chain(made) {
        if taken.contains(&seed) || extent(f, seed).is_none_or(|n| n < 2) {
            continue;
        }
        let group = find(&cx, func, seed, &taken);
        taken.extend(group.slots.keys());
        out.push(group);
    }
    out.sort_by_key(|g| g.producers.first().map(|p| p.node));
    out
}

/// The nodes of the exact program in order: those that it needs with every choice at its first alternative. Choices are among them.
pub fn exact_nodes(f: &Func) -> Vec<NodeId> {
    let (mut seen, mut stack) = (HashSet::new(), f.body().results.clone());
    while let Some(v) = stack.pop() {
        let Def::Node(n, _) = f.values[v].def else { continue };
        if seen.insert(n) {
            let node = &f.nodes[n];
            stack.extend(reads(f, n));
            let inner = node.regions.iter().flat_map(|&r| &f.regions[r].results);
            stack.extend(inner);
        }
    }
    f.live_nodes().into_iter().filter(|n| seen.contains(n)).collect()
}

/// The choice that stands at each value that has one.
pub fn choices(f: &Func) -> HashMap<ValueId, NodeId> {
    let all = f.live_nodes().into_iter().filter(|&n| matches!(f.nodes[n].op, Op::Choice(_)));
    all.map(|n| (f.nodes[n].operands[0], n)).collect()
}

/// The operands that the exact program needs of a node.
pub fn reads(f: &Func, n: NodeId) -> &[ValueId] {
    let node = &f.nodes[n];
    if matches!(node.op, Op::Choice(_)) { &node.operands[..1] } else { &node.operands }
}

/// How many factors of a product axis are tried as the one that channels are along.
const CHOICES: usize = 3;

fn find(cx: &Graph, func: FuncId, seed: Slot, taken: &HashSet<Slot>) -> Group {
    let mut first = None;
    for choice in 0..CHOICES {
        let mut walk = Walk::new(cx, choice, taken);
        walk.from(seed);
        let (ambiguous, group) = (walk.ambiguous, walk.finish(func, seed));
        if group.free().len() > 1 || !ambiguous {
            return group;
        }
        first.get_or_insert(group);
    }
    first.expect("one choice at least")
}

/// The constant weight that a product or convolution has, and the axis of its result that is along the weight's outputs.
fn made(f: &Func, n: NodeId) -> Option<(Weight, Slot)> {
    let node = &f.nodes[n];
    let (&x, &w) = (node.operands.first()?, node.operands.get(1)?);
    let rank = |v: ValueId| f.values[v].ty.rank();
    let value = node.results[0];
    match &node.op {
        Op::Conv(op) if f.def_const(w).is_some() => {
            let axis = Conv::axes(op.channels_last, rank(x)).1;
            Some((Weight { node: n, value: w, axis: 0, operand: 1 }, Slot { value, axis }))
        }
        Op::MatMul(op) if f.def_const(w).is_some() => {
            let axis = if op.trans_b { rank(w) - 2 } else { rank(w) - 1 };
            Some((Weight { node: n, value: w, axis, operand: 1 }, Slot { value, axis: rank(value) - 1 }))
        }
        Op::MatMul(op) if f.def_const(x).is_some() => {
            let axis = if op.trans_a { rank(x) - 1 } else { rank(x) - 2 };
            Some((Weight { node: n, value: x, axis, operand: 0 }, Slot { value, axis: rank(value) - 2 }))
        }
        _ => None,
    }
}

/// The constant weight that a product or convolution has, and the axis of its other operand that is contracted with it.
fn read(f: &Func, n: NodeId) -> Option<(Weight, Slot)> {
    let node = &f.nodes[n];
    let (weight, _) = made(f, n)?;
    let other = node.operands[1 - weight.operand];
    let rank = f.values[other].ty.rank();
    match &node.op {
        Op::Conv(op) if op.groups == 1 => {
            let axis = Conv::axes(op.channels_last, rank).1;
            Some((Weight { axis: 1, ..weight }, Slot { value: other, axis }))
        }
        Op::MatMul(op) => {
            let ends = 2 * f.values[weight.value].ty.rank() - 3;
            let transposed = if weight.operand == 1 { op.trans_a } else { op.trans_b };
            let inner = if (weight.operand == 1) != transposed { rank - 1 } else { rank - 2 };
            Some((Weight { axis: ends - weight.axis, ..weight }, Slot { value: other, axis: inner }))
        }
        _ => None,
    }
}

/// A function with what its nodes say.
struct Graph<'a> {
    f: &'a Func,
    relations: HashMap<NodeId, Relations>,
    /// The node that makes a value and those that read it.
    touching: HashMap<ValueId, Vec<NodeId>>,
    /// Values of which no axis may change, and why.
    fixed: HashMap<ValueId, &'static str>,
}

impl<'a> Graph<'a> {
    fn of(m: &Module, func: FuncId) -> Graph<'_> {
        let f = &m.funcs[func];
        let nodes = exact_nodes(f);
        let mut touching: HashMap<ValueId, Vec<NodeId>> = HashMap::new();
        for &n in &nodes {
            let node = &f.nodes[n];
            let values: BTreeSet<ValueId> = reads(f, n).iter().chain(&node.results).copied().collect();
            values.into_iter().for_each(|v| touching.entry(v).or_default().push(n));
        }
        let mut fixed = HashMap::new();
        for (id, r) in f.regions.iter() {
            let (inputs, outputs) = match id == f.body_id() {
                true => ("it is an input", "it is an output"),
                false => ("it enters a region", "it leaves a region"),
            };
            fixed.extend(r.params.iter().map(|&v| (v, inputs)));
            fixed.extend(r.results.iter().map(|&v| (v, outputs)));
        }
        let missing = |v: &tersor_ir::module::Value| matches!(v.def, Def::Const(c) if m.consts[c].tensor().is_none());
        let elsewhere = "the constant's elements are not in the store";
        fixed.extend(f.values.iter().filter(|(_, v)| missing(v)).map(|(v, _)| (v, elsewhere)));
        let relations = nodes.iter().map(|&n| (n, relations(f, n))).collect();
        Graph { f, relations, touching, fixed }
    }
    fn at(&self, v: ValueId) -> impl Iterator<Item = (NodeId, &Relations)> {
        self.touching.get(&v).into_iter().flatten().map(|n| (*n, &self.relations[n]))
    }
}

/// One walk: union-find over the positions of the axes entered so far.
struct Walk<'a> {
    cx: &'a Graph<'a>,
    /// Which factor of a product axis to take where nothing else decides.
    choice: usize,
    taken: &'a HashSet<Slot>,
    /// The first element of each axis.
    base: BTreeMap<Slot, usize>,
    parent: Vec<usize>,
    queue: VecDeque<Slot>,
    /// Product axes of which no factor was entered when they were.
    undecided: VecDeque<(Slot, &'a Fold)>,
    ambiguous: bool,
}

impl<'a> Walk<'a> {
    fn new(cx: &'a Graph<'a>, choice: usize, taken: &'a HashSet<Slot>) -> Walk<'a> {
        Walk {
            cx,
            choice,
            taken,
            base: BTreeMap::new(),
            parent: vec![],
            queue: VecDeque::new(),
            undecided: VecDeque::new(),
            ambiguous: false,
        }
    }

    fn root(&mut self, mut i: usize) -> usize {
        while self.parent[i] != i {
            self.parent[i] = self.parent[self.parent[i]];
            i = self.parent[i];
        }
        i
    }

    fn enter(&mut self, s: Slot) {
        if self.taken.contains(&s) || self.base.contains_key(&s) {
            return;
        }
        if let Some(n) = extent(self.cx.f, s) {
            self.base.insert(s, self.parent.len());
            self.parent.extend(self.parent.len()..self.parent.len() + n);
            self.queue.push_back(s);
        }
    }

    fn tie(&mut self, t: Tie) {
        self.enter(t.a);
        self.enter(t.b);
        let (Some(&a), Some(&b)) = (self.base.get(&t.a), self.base.get(&t.b)) else { return };
        let (na, nb) = (extent(self.cx.f, t.a).unwrap_or(0), extent(self.cx.f, t.b).unwrap_or(0));
        for i in 0..na {
            let j = t.map.of(i);
            if j < nb {
                let (x, y) = (self.root(a + i), self.root(b + j));
                // The smaller element stays the root: its order is that of discovery.
                self.parent[x.max(y)] = x.min(y);
            }
        }
    }

    fn from(&mut self, seed: Slot) {
        self.enter(seed);
        let cx = self.cx;
        loop {
            if let Some(s) = self.queue.pop_front() {
                for (_, r) in cx.at(s.value) {
                    r.ties.iter().filter(|t| t.a == s || t.b == s).for_each(|&t| self.tie(t));
                    r.folds.iter().for_each(|fold| self.fold(s, fold));
                }
            } else if let Some((s, fold)) = self.undecided.pop_front() {
                self.decide(s, fold);
            } else {
                return;
            }
        }
    }

    fn fold(&mut self, s: Slot, fold: &'a Fold) {
        if fold.merged == s {
            let known: Vec<_> = fold.parts.iter().filter(|p| self.base.contains_key(&p.0)).copied().collect();
            if known.is_empty() {
                self.undecided.push_back((s, fold));
            }
            known.into_iter().for_each(|(b, map)| self.tie(Tie { a: s, b, map }));
        } else if let Some(&(b, map)) = fold.parts.iter().find(|p| p.0 == s) {
            self.tie(Tie { a: fold.merged, b, map });
        }
    }

    /// Takes the factor that channels are already along, or else one by choice.
    fn decide(&mut self, s: Slot, fold: &Fold) {
        if fold.parts.iter().any(|p| self.base.contains_key(&p.0)) {
            return;
        }
        let (Some(&base), Some(n)) = (self.base.get(&s), extent(self.cx.f, s)) else { return };
        let along = |w: &mut Self, map: Map| {
            let mut first: HashMap<usize, usize> = HashMap::new();
            (0..n).all(|i| {
                let r = w.root(base + i);
                *first.entry(map.of(i)).or_insert(r) == r
            })
        };
        let part = match fold.parts.iter().find(|p| along(self, p.1)) {
            Some(p) => *p,
            None => {
                self.ambiguous = true;
                fold.parts[self.choice.min(fold.parts.len() - 1)]
            }
        };
        self.tie(Tie { a: s, b: part.0, map: part.1 });
    }

    /// Numbers the channels, and bars those that some node or place does not let go.
    fn finish(mut self, func: FuncId, seed: Slot) -> Group {
        let (f, cx) = (self.cx.f, self.cx);
        let bases: Vec<(Slot, usize)> = self.base.iter().map(|(s, b)| (*s, *b)).collect();
        let roots: BTreeSet<usize> = (0..self.parent.len()).map(|i| self.root(i)).collect();
        let number: HashMap<usize, usize> = roots.into_iter().enumerate().map(|(c, r)| (r, c)).collect();
        let mut channels = vec![Channel::default(); number.len()];
        let mut slots = BTreeMap::new();
        for (s, base) in bases {
            let of: Vec<usize> = (0..extent(f, s).unwrap_or(0)).map(|i| number[&self.root(base + i)]).collect();
            slots.insert(s, of);
        }
        let mut bar = |s: Slot, reason: &str| {
            for &c in &slots[&s] {
                channels[c].barred.get_or_insert_with(|| format!("%{}: {reason}", f.values[s.value].name));
            }
        };
        let (mut producers, mut consumers) = (BTreeMap::new(), BTreeMap::new());
        let mut heads = false;
        for &s in slots.keys() {
            if let Some(reason) = cx.fixed.get(&s.value) {
                bar(s, reason);
            }
            for (n, r) in cx.at(s.value) {
                r.bars.iter().filter(|b| b.at == s).for_each(|Bar { reason, .. }| bar(s, reason));
                let ties = r.ties.iter().filter(|t| t.a == s || t.b == s);
                if ties.flat_map(|t| [t.a, t.b]).any(|t| self.taken.contains(&t)) {
                    bar(s, "it is joined with another group");
                }
                producers.extend(made(f, n).filter(|(_, made)| *made == s).map(|(w, _)| (n, w)));
                consumers.extend(read(f, n).filter(|(_, read)| *read == s).map(|(w, _)| (n, w)));
                heads |= match &f.nodes[n].op {
                    Op::Attention(_) => s.axis == 1,
                    Op::MatMul(_) => made(f, n).is_none() && s.axis + 2 < f.values[s.value].ty.rank(),
                    _ => false,
                };
            }
        }
        let images = producers.keys().chain(consumers.keys()).any(|&n| matches!(f.nodes[n].op, Op::Conv(_)));
        let order: HashMap<NodeId, usize> = exact_nodes(f).into_iter().enumerate().map(|(i, n)| (n, i)).collect();
        let sorted = |map: BTreeMap<NodeId, Weight>| {
            let mut all: Vec<Weight> = map.into_values().collect();
            all.sort_by_key(|w| order[&w.node]);
            all
        };
        Group {
            func,
            name: f.values[seed.value].name.to_string(),
            unit: if heads {
                Unit::Head
            } else if images {
                Unit::Channel
            } else {
                Unit::Feature
            },
            channels,
            producers: sorted(producers),
            consumers: sorted(consumers),
            slots,
        }
    }
}
