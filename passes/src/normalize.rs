//! `normalize`: the exact clean-up that every pipeline starts with, in one walk over the program.
//!
//! Constants are folded, equal ops and constants joined, ops that change nothing removed, chains of reshapes and of transposes made one, parts that are put together and
//! taken apart found again, `if`s of known condition decided, dead ops dropped. Encoded weights (`decode.*`) stay encoded; where both sides of a product are codes of 8 bits, it becomes one of integers. The walk is linear in the number of nodes.

use crate::declare::Rewrite;
use crate::integers::integers;
use crate::manager::PassCx;
use crate::propose::ConstNames;
use foldhash::fast::FixedState;
use foldhash::{HashMap, HashSet};
use std::hash::BuildHasher;
use tersor_ir::constant::{Constant, ContentHash};
use tersor_ir::dim::Bindings;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::unary::UnaryKind;
use tersor_ir::simplify::{Simpler, movement};
use tersor_ir::{ConstId, Consts, Dim, Func, Module, NodeId, Op, RegionId, Result, Type, ValueId};

/// A folded result is no larger, unless the constants that go with it are.
const MAX_BYTES: usize = 16 << 20;
/// Results of ops that only repeat or widen their operand are folded up to this size.
const MAX_GROWN_BYTES: usize = 64 << 10;
/// Element steps that all folding may take together.
const MAX_STEPS: i64 = 1_000_000_000;

pass! {
    /// Folds constants, joins equal ops, multiplies codes as integers, and removes ops that change nothing or that nobody needs.
    ///
    /// `x + 0` and the like are taken as equalities over the reals: the sign of a zero may differ.
    pub struct Normalize = "normalize": Rewrite {
        options {}
        stats {
            "folded": "ops on constants computed",
            "joined": "ops equal to an earlier one",
            "integers": "products of codes that became products of integers of 8 bits",
            "removed": "ops that changed nothing, or merged into a neighbour",
            "dead": "ops that nobody needed",
        }
    }
}

impl Rewrite for Normalize {
    fn run(&self, m: &mut Module, cx: &mut PassCx) -> Result<()> {
        let mut names = ConstNames::of(m);
        let mut steps = MAX_STEPS;
        let mut contents = Contents::default();
        let first: Vec<ConstId> = m.consts.keys().map(|id| contents.enter(id, &m.consts)).collect();
        for id in m.funcs.keys() {
            let Module { consts, funcs, .. } = &mut *m;
            let f = &mut funcs[id];
            cx.count("integers", integers(consts, f, &mut names)?);
            let uses = f.use_counts();
            let mut w = Walk {
                consts,
                f,
                names: &mut names,
                contents: &mut contents,
                stands_for: HashMap::default(),
                seen: HashMap::default(),
                uses,
                steps: &mut steps,
                counts: Counts::default(),
            };
            w.join_constants(&first);
            w.func(cx)?;
            let counts = w.counts;
            cx.count("folded", counts.folded);
            cx.count("joined", counts.joined);
            cx.count("removed", counts.removed);
            cx.count("dead", f.remove_dead() as u64);
        }
        Ok(())
    }
}

/// Constants by type and content. Those alone of their type are not read.
#[derive(Default)]
struct Contents(HashMap<Type, Same>);

enum Same {
    One(ConstId),
    Many(HashMap<ContentHash, ConstId>),
}

impl Contents {
    /// The first constant that was entered with the type and content of this one; the constant itself if it is the first.
    fn enter(&mut self, id: ConstId, consts: &Consts) -> ConstId {
        let Some(same) = self.0.get_mut(&consts[id].ty) else {
            self.0.insert(consts[id].ty.clone(), Same::One(id));
            return id;
        };
        if let Same::One(first) = *same {
            *same = Same::Many(HashMap::from_iter([(consts[first].hash(), first)]));
        }
        let Same::Many(by_hash) = same else { unreachable!("made above") };
        *by_hash.entry(consts[id].hash()).or_insert(id)
    }
}

#[derive(Copy, Clone, Default)]
struct Counts {
    folded: u64,
    joined: u64,
    removed: u64,
}

struct Walk<'m> {
    consts: &'m mut Consts,
    f: &'m mut Func,
    names: &'m mut ConstNames,
    contents: &'m mut Contents,
    /// Values that another value now stands for; never one that is itself replaced.
    stands_for: HashMap<ValueId, ValueId>,
    /// Ops seen so far in this and the surrounding regions, by the hash of op and operands.
    seen: HashMap<u64, NodeId>,
    uses: Vec<u32>,
    steps: &'m mut i64,
    counts: Counts,
}

/// What becomes of a node.
enum Fate {
    Keep,
    Becomes(ValueId),
    Inline(RegionId),
}

/// A region that is being walked.
struct Frame {
    /// Nodes to come, the next last.
    rest: Vec<NodeId>,
    region: RegionId,
    /// Ops to forget at its end, by hash.
    keys: Vec<u64>,
}

impl Walk<'_> {
    /// Lets the first of equal constants stand for the others.
    fn join_constants(&mut self, first: &[ConstId]) {
        for (c, v) in self.f.constants() {
            if let Some(&kept) = first.get(tersor_ir::EntityId::index(c)).filter(|&&k| k != c) {
                let kept = self.const_value(kept);
                self.stands_for.insert(v, kept);
            }
        }
    }

    fn func(&mut self, cx: &mut PassCx) -> Result<()> {
        let mut stack = vec![self.enter(self.f.body_id())];
        let mut done = 0u32;
        while let Some(frame) = stack.last_mut() {
            let (region, next) = (frame.region, frame.rest.pop());
            let Some(n) = next else {
                let frame = stack.pop().expect("the last");
                for v in 0..self.f.regions[region].results.len() {
                    let old = self.f.regions[region].results[v];
                    self.f.regions[region].results[v] = self.resolve(old);
                }
                frame.keys.iter().for_each(|k| {
                    self.seen.remove(k);
                });
                continue;
            };
            done += 1;
            if done.is_multiple_of(1024) {
                cx.check_interrupt()?;
            }
            for i in 0..self.f.nodes[n].operands.len() {
                let old = self.f.nodes[n].operands[i];
                self.f.nodes[n].operands[i] = self.resolve(old);
            }
            match self.fate(n)? {
                Fate::Keep => {
                    self.f.regions[region].nodes.push(n);
                    let inner = self.f.nodes[n].regions.clone();
                    if inner.is_empty() {
                        let key = self.key(n);
                        self.seen.insert(key, n);
                        stack.last_mut().expect("the frame").keys.push(key);
                    }
                    for r in inner.into_iter().rev() {
                        let frame = self.enter(r);
                        stack.push(frame);
                    }
                }
                Fate::Becomes(v) => self.replace(self.f.nodes[n].results[0], v),
                Fate::Inline(r) => {
                    let nodes = std::mem::take(&mut self.f.regions[r].nodes);
                    stack.last_mut().expect("the frame").rest.extend(nodes.into_iter().rev());
                    // The results are known once the region's nodes have been walked: until then the node's results stand for them as they are.
                    for i in 0..self.f.nodes[n].results.len() {
                        let (from, to) = (self.f.nodes[n].results[i], self.f.regions[r].results[i]);
                        self.stands_for.insert(from, to);
                    }
                    self.counts.removed += 1;
                }
            }
        }
        Ok(())
    }

    fn key(&self, n: NodeId) -> u64 {
        let node = &self.f.nodes[n];
        FixedState::default().hash_one((&node.op, &node.operands))
    }

    fn enter(&mut self, region: RegionId) -> Frame {
        let mut rest = std::mem::take(&mut self.f.regions[region].nodes);
        rest.reverse();
        Frame { rest, region, keys: vec![] }
    }

    fn resolve(&self, mut v: ValueId) -> ValueId {
        while let Some(&to) = self.stands_for.get(&v) {
            v = to;
        }
        v
    }

    fn replace(&mut self, from: ValueId, to: ValueId) {
        self.stands_for.insert(from, to);
    }

    fn const_value(&mut self, id: ConstId) -> ValueId {
        self.f.const_value(self.consts, id)
    }

    fn fate(&mut self, n: NodeId) -> Result<Fate> {
        if let Op::If(_) = &self.f.nodes[n].op {
            let cond = self.f.def_const(self.f.nodes[n].operands[0]).and_then(|c| self.consts[c].splat());
            let taken = cond.and_then(|c| self.f.nodes[n].regions.get(usize::from(c == 0.0)).copied());
            return Ok(taken.map_or(Fate::Keep, Fate::Inline));
        }
        if let Some(v) = self.simplify(n) {
            self.counts.removed += 1;
            return Ok(Fate::Becomes(v));
        }
        if self.fold(n)? {
            self.counts.folded += 1;
            // All results now stand for constants.
            return Ok(Fate::Becomes(self.resolve(self.f.nodes[n].results[0])));
        }
        let node = &self.f.nodes[n];
        let same = |earlier: &&NodeId| {
            let earlier = &self.f.nodes[**earlier];
            earlier.op == node.op && earlier.operands == node.operands && !matches!(node.op, Op::Choice(_))
        };
        if let Some(&earlier) = self.seen.get(&self.key(n)).filter(same) {
            self.counts.joined += 1;
            for i in 1..self.f.nodes[n].results.len() {
                self.replace(self.f.nodes[n].results[i], self.f.nodes[earlier].results[i]);
            }
            return Ok(Fate::Becomes(self.f.nodes[earlier].results[0]));
        }
        Ok(Fate::Keep)
    }

    /// Computes a node on constants, where that is allowed; its results then stand for new constants.
    fn fold(&mut self, n: NodeId) -> Result<bool> {
        let node = &self.f.nodes[n];
        if node.op.decodes() || matches!(node.op, Op::Choice(_) | Op::If(_)) || node.results.is_empty() {
            return Ok(false);
        }
        let consts: Option<Vec<ConstId>> = node.operands.iter().map(|&v| self.f.def_const(v)).collect();
        let Some(consts) = consts else { return Ok(false) };
        let outs: Vec<Type> = node.results.iter().map(|&v| self.f.values[v].ty.clone()).collect();
        let size = |t: &Type| t.static_elements().and_then(|n| t.dtype.bytes(n));
        let Some(bytes) = outs.iter().map(size).sum::<Option<usize>>() else { return Ok(false) };
        let freed: HashSet<ConstId> = (consts.iter().zip(&node.operands))
            .filter(|(_, v)| self.uses.get(tersor_ir::EntityId::index(**v)) == Some(&1))
            .map(|(c, _)| *c)
            .collect();
        let freed = freed.iter().map(|&c| self.consts[c].byte_len()).sum::<usize>();
        let grows = matches!(node.op, Op::Broadcast(_) | Op::Cast(_) | Op::Pad(_) | Op::Gather(_));
        if bytes > freed.max(if grows { MAX_GROWN_BYTES } else { MAX_BYTES }) {
            return Ok(false);
        }
        let ins: Vec<&Type> = node.operands.iter().map(|&v| &self.f.values[v].ty).collect();
        let env = Bindings::new();
        let madds = node.op.work(&ins, &outs).madds.eval(&env).unwrap_or(i64::MAX);
        let elements = ins.iter().copied().chain(&outs).filter_map(Type::static_elements).sum::<usize>();
        let steps = madds.saturating_add(elements as i64);
        if steps > *self.steps {
            return Ok(false);
        }
        let x: Option<Vec<_>> = consts.iter().map(|&c| self.consts[c].tensor()).collect();
        let Some(x) = x else { return Ok(false) };
        // What needs the value of a symbol waits until that is bound.
        let Ok(y) = node.op.eval(&x, &env) else { return Ok(false) };
        *self.steps -= steps;
        let (loc, results) = (node.loc.made_by("normalize"), node.results.clone());
        for (v, t) in results.into_iter().zip(y) {
            let name = self.names.fresh(&self.f.values[v].name);
            let id = self.consts.push(Constant::from_tensor(name, &t, loc.clone()));
            let kept = self.contents.enter(id, self.consts);
            let c = self.const_value(kept);
            self.replace(v, c);
        }
        Ok(true)
    }

    /// The value that a node's result equals, if it is one that exists; or merges the node with the one before it.
    fn simplify(&mut self, n: NodeId) -> Option<ValueId> {
        let node = &self.f.nodes[n];
        let x = *node.operands.first()?;
        let (ty, out) = (&self.f.values[x].ty, &self.f.values[*node.results.first()?].ty);
        match &node.op {
            Op::Cast(_) | Op::BitCast(_) | Op::Reshape(_) | Op::Broadcast(_) | Op::Slice(_) | Op::Pad(_)
                if ty == out && self.keeps(n) =>
            {
                Some(x)
            }
            Op::Transpose(t) if t.perm.iter().copied().eq(0..t.perm.len() as u8) => Some(x),
            Op::Concat(_) if node.operands.len() == 1 => Some(x),
            Op::Choice(_) if node.operands.iter().all(|v| *v == x) => Some(x),
            Op::Binary(b) => self.neutral(b.kind, n),
            Op::Unary(u) => match (u.kind, &self.f.def_node(x)?.op) {
                (UnaryKind::Relu | UnaryKind::Abs | UnaryKind::Floor | UnaryKind::Ceil | UnaryKind::Round, before)
                    if *before == node.op =>
                {
                    Some(x)
                }
                (UnaryKind::Neg | UnaryKind::Not, before) if *before == node.op => {
                    Some(self.f.def_node(x)?.operands[0])
                }
                _ => None,
            },
            op => match movement(self.f, op, &node.operands)? {
                Simpler::Value(v) => Some(v),
                Simpler::Op(op, operands) => {
                    let node = &mut self.f.nodes[n];
                    (node.op, node.operands) = (op, operands.into());
                    self.counts.removed += 1;
                    None
                }
            },
        }
    }

    /// Whether an op that keeps the type keeps the elements.
    fn keeps(&self, n: NodeId) -> bool {
        match &self.f.nodes[n].op {
            Op::Slice(s) => s.step == 1 && s.start == Dim::Const(0),
            Op::Pad(p) => p.lo.iter().chain(&p.hi).all(|&p| p == 0),
            _ => true,
        }
    }

    /// The operand that a binary op with a neutral other operand passes through.
    fn neutral(&self, kind: BinaryKind, n: NodeId) -> Option<ValueId> {
        let node = &self.f.nodes[n];
        let out = &self.f.values[node.results[0]].ty;
        let (neutral, either) = match kind {
            BinaryKind::Add => (0.0, true),
            BinaryKind::Sub => (0.0, false),
            BinaryKind::Mul => (1.0, true),
            BinaryKind::Div | BinaryKind::Pow => (1.0, false),
            _ => return None,
        };
        let pass = |through: usize, other: usize| {
            let v = node.operands[through];
            let c = self.f.def_const(node.operands[other])?;
            (self.f.values[v].ty == *out && uniform(&self.consts[c]) == Some(neutral)).then_some(v)
        };
        pass(0, 1).or_else(|| if either { pass(1, 0) } else { None })
    }
}

/// The one value that all elements of a small constant have.
fn uniform(c: &Constant) -> Option<f64> {
    c.splat().or_else(|| {
        let t = c.tensor().filter(|t| (1..=4096).contains(&t.len()))?;
        let first = t.get_f64(0);
        (1..t.len()).all(|i| t.get_f64(i) == first).then_some(first)
    })
}

#[cfg(test)]
mod tests {
    use crate::filetest::run_passes;
    use crate::random::difference;
    use proptest::prelude::*;
    use tersor_ir::module::Builder;
    use tersor_ir::ops::Reshape;
    use tersor_ir::ops::binary::{Binary, BinaryKind};
    use tersor_ir::{DType, Func, Module, Type};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn evaluation_is_kept(seed in any::<u64>(), size in 1usize..40) {
            let m = crate::random::module(seed % (1 << 60), size);
            prop_assert!(tersor_ir::verify::verify(&m).is_empty());
            let mut after = m.clone();
            run_passes("normalize", &mut after).unwrap();
            let error = difference(&m, &after).unwrap();
            prop_assert!(error <= 1e-6, "{error}\n{}\n{}", tersor_ir::text::print(&m), tersor_ir::text::print(&after));
            let once = tersor_ir::text::print(&after).replacen("// pipeline: normalize\n", "", 1);
            after.pipeline.clear();
            run_passes("normalize", &mut after).unwrap();
            let twice = tersor_ir::text::print(&after).replacen("// pipeline: normalize\n", "", 1);
            prop_assert_eq!(once, twice);
        }
    }

    #[test]
    fn long_chains_take_linear_time() {
        let mut m = Module::new("chain");
        let mut f = Func::new("main");
        let body = f.body_id();
        let x = f.add_param(body, "x", Type::new(DType::F32, [2, 3]));
        let mut b = Builder::new(&mut m.consts, &mut f);
        let zero = b.scalar(DType::F32, 0.0);
        let (mut v, mut c) = (x, zero);
        for i in 0..100_000 {
            v = b.op(Reshape { shape: vec![(2 + i % 2).into(), (3 - i % 2).into()] }, &[v]).unwrap();
            v = b.op(Binary { kind: BinaryKind::Add }, &[v, c]).unwrap();
            c = b.op(Binary { kind: BinaryKind::Add }, &[c, zero]).unwrap();
        }
        f.body_mut().results = vec![v];
        f.inputs = vec!["x".into()];
        f.outputs = vec!["y".into()];
        m.funcs.push(f);
        let start = std::time::Instant::now();
        run_passes("normalize", &mut m).unwrap();
        assert!(m.funcs[m.main().unwrap()].body().nodes.len() <= 1);
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
