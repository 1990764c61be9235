//! Ops that need not be appended: what constants decide, what undoes or goes on with a movement, and composites that are one op.
//!
//! Files spell out what the IR has ops for, and wrap operands in axes that an operator takes off again; here both end, whichever operator they come from.

use super::Importer;
use super::ops::Selected;
use tersor_ir::diag::Result;
use tersor_ir::module::Node;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::unary::UnaryKind;
use tersor_ir::ops::{Binary, Cast, Compare, Extent, QuantDynamic, Reduce, Reshape, Rope, Select, Slice, Unary};
use tersor_ir::simplify::{self, Simpler};
use tersor_ir::{DType, Def, Dim, Op, Tensor, Type, ValueId};

impl Importer<'_> {
    /// What stands for an op of these operands; `None` for itself.
    pub(super) fn simpler(&mut self, op: &Op, operands: &[ValueId]) -> Option<Simpler> {
        match (op, operands) {
            (Op::Unary(Unary { kind: UnaryKind::Reciprocal }), &[x]) => self.rsqrt(x),
            (Op::Binary(Binary { kind: BinaryKind::Mul }), &[a, b]) => self.silu(a, b).or_else(|| self.silu(b, a)),
            (Op::Binary(Binary { kind: BinaryKind::Add }), &[a, b]) => self.rope(a, b).or_else(|| self.rope(b, a)),
            (Op::Binary(Binary { kind: BinaryKind::Or }), &[a, b]) => {
                self.selected(a, b).or_else(|| self.selected(b, a))
            }
            (Op::Select(_), &[c, a, b]) => self.selected_twice(c, a, b),
            (Op::Cast(c), &[x]) if *c == Cast::to(DType::I8) => self.row_codes(x).map(Simpler::Value),
            (Op::Reshape(r), &[x]) => match self.grouped_codes(r, x) {
                Some(codes) => Some(Simpler::Value(codes)),
                None => simplify::movement(self.b.func, op, operands),
            },
            _ => simplify::movement(self.b.func, op, operands),
        }
    }

    /// An extent as a number, once in each region.
    pub(super) fn number(&mut self, of: Dim) -> Result<ValueId> {
        let key = (self.b.region, of.clone());
        if let Some(&known) = self.numbers.get(&key) {
            return Ok(known);
        }
        let v = self.append(Extent { of }.into(), &[])?[0];
        self.numbers.insert(key, v);
        Ok(v)
    }

    /// The scale that stands for a value in this region; mostly the value itself.
    pub(super) fn stands_for(&self, mut v: ValueId) -> ValueId {
        while let Some(&scale) = self.scales.get(&(self.b.region, v)) {
            v = scale;
        }
        v
    }

    /// Results that are constants, where all operands are small ones.
    pub(super) fn fold(&mut self, op: &Op, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let decided = match op {
            // Weights that come encoded stay so.
            _ if op.decodes() => false,
            // What is drawn is drawn by the run.
            Op::Random(_) => false,
            Op::Iota(_) => true,
            Op::Extent(e) => e.of.as_const().is_some(),
            _ => !operands.is_empty(),
        };
        // What depends on an extent is the run's.
        let mut open = false;
        op.symbols(&mut |_| open = true);
        if !decided || open {
            return Ok(None);
        }
        let types: Vec<&Type> = operands.iter().map(|&v| self.b.ty(v)).collect();
        if types.iter().any(|t| t.static_elements().is_none_or(|n| n > self.options.limits.folded_elements)) {
            return Ok(None);
        }
        let constants: Option<Vec<Tensor>> =
            operands.iter().map(|&v| self.b.consts[self.b.func.def_const(v)?].tensor().cloned()).collect();
        let Some(x) = constants else { return Ok(None) };
        let results = op.infer(&types)?;
        if results.iter().any(|t| t.static_elements().is_none_or(|n| n > self.options.limits.folded_elements)) {
            return Ok(None);
        }
        let work = op.work(&types, &results).madds.as_const().and_then(|w| usize::try_from(w).ok());
        let all = self.folded.saturating_add(work.unwrap_or(usize::MAX));
        if all > self.options.limits.folded_work {
            return Ok(None);
        }
        self.folded = all;
        let y = op.eval(&x.iter().collect::<Vec<_>>(), &Default::default())?;
        let name = self.b.name.clone();
        Ok(Some(y.iter().map(|t| self.b.constant(&name, t)).collect()))
    }

    fn made_by(&self, v: ValueId) -> Option<&Node> {
        self.b.func.def_node(v)
    }

    /// The operands of a binary function.
    fn binary_of(&self, v: ValueId, kind: BinaryKind) -> Option<[ValueId; 2]> {
        let node = self.made_by(v)?;
        (node.op == Binary { kind }.into()).then(|| [node.operands[0], node.operands[1]])
    }

    fn is_number(&self, v: ValueId, n: f64) -> bool {
        self.b.func.def_const(v).is_some_and(|c| self.b.consts[c].splat() == Some(n))
    }

    fn unary_of(&self, v: ValueId, kind: UnaryKind) -> Option<ValueId> {
        let node = self.made_by(v)?;
        (node.op == Unary { kind }.into()).then(|| node.operands[0])
    }

    fn rsqrt(&self, x: ValueId) -> Option<Simpler> {
        let x = self.unary_of(x, UnaryKind::Sqrt)?;
        Some(Simpler::Op(Unary { kind: UnaryKind::Rsqrt }.into(), vec![x]))
    }

    /// `x * sigmoid(x)`.
    fn silu(&self, x: ValueId, gate: ValueId) -> Option<Simpler> {
        let same = self.unary_of(gate, UnaryKind::Sigmoid)? == x;
        same.then(|| Simpler::Op(Unary { kind: UnaryKind::Silu }.into(), vec![x]))
    }

    /// `c and a or not c and b` of truth values of one shape.
    fn selected(&self, first: ValueId, second: ValueId) -> Option<Simpler> {
        let (first, second) = (self.binary_of(first, BinaryKind::And)?, self.binary_of(second, BinaryKind::And)?);
        let [c, a] = first;
        let [not, b] = second;
        let operands = vec![c, a, b];
        let types: Vec<&Type> = operands.iter().map(|&v| self.b.ty(v)).collect();
        let fits = self.unary_of(not, UnaryKind::Not)? == c && types[1] == types[2];
        (fits && Op::from(Select {}).infer(&types).ok()?[0] == *types[1])
            .then(|| Simpler::Op(Select {}.into(), operands))
    }

    /// What is selected by the same condition already.
    fn selected_twice(&self, c: ValueId, a: ValueId, b: ValueId) -> Option<Simpler> {
        let (node, mut budget) = (self.made_by(b)?, Selected::COMPARED);
        let [inner, first, _] = node.operands[..] else { return None };
        let same =
            matches!(node.op, Op::Select(_)) && self.same(inner, c, &mut budget) && self.same(first, a, &mut budget);
        (same && self.b.ty(c) == self.b.ty(inner)).then_some(Simpler::Value(b))
    }

    /// `x * cos + turned(x) * sin`, where turning exchanges the halves of the last axis and negates what comes first then.
    fn rope(&self, straight: ValueId, turned: ValueId) -> Option<Simpler> {
        let factors = |v: ValueId| {
            let node = self.made_by(v)?;
            let product = node.op == Binary { kind: BinaryKind::Mul }.into();
            product.then(|| [(node.operands[0], node.operands[1]), (node.operands[1], node.operands[0])])
        };
        let (straight, turned) = (factors(straight)?, factors(turned)?);
        let (x, sin) = turned.into_iter().find_map(|(v, sin)| Some((self.turned(v)?, sin)))?;
        let (_, cos) = straight.into_iter().find(|(v, _)| *v == x)?;
        let (op, operands) = (Op::from(Rope { interleaved: false }), vec![x, cos, sin]);
        let types: Vec<&Type> = operands.iter().map(|&v| self.b.ty(v)).collect();
        op.infer(&types).ok()?;
        Some(Simpler::Op(op, operands))
    }

    /// What `v` is with halves exchanged: `concat(-upper, lower)` along the last axis.
    fn turned(&self, v: ValueId) -> Option<ValueId> {
        let node = self.made_by(v)?;
        let (Op::Concat(c), &[upper, lower]) = (&node.op, &node.operands[..]) else { return None };
        let (upper, lower) = (self.made_by(self.unary_of(upper, UnaryKind::Neg)?)?, self.made_by(lower)?);
        let x = lower.operands.first().copied().filter(|&x| upper.operands[..] == [x])?;
        let half = self.b.ty(x).shape.last()?.exact_div(&2.into())?;
        let last = c.axis as usize + 1 == self.b.ty(x).rank();
        let part = |n: &Node, start: Dim| n.op == Slice { axis: c.axis, start, len: half.clone(), step: 1 }.into();
        (last && part(lower, 0.into()) && part(upper, half.clone())).then_some(x)
    }

    /// Symmetric codes of rows, `round(x / step)` with `step = max(abs(x)) / 127` along the last axis, where rows of zeros are divided by 1. The scale stands for `step` from
    /// then on.
    fn row_codes(&mut self, rounded: ValueId) -> Option<ValueId> {
        let [x, divisor] = self.binary_of(self.unary_of(rounded, UnaryKind::Round)?, BinaryKind::Div)?;
        let choice = self.made_by(divisor).filter(|n| matches!(n.op, Op::Select(_)))?;
        let [empty, one, step] = choice.operands[..] else { return None };
        let test = self.made_by(empty).filter(|n| n.op == Compare { kind: CompareKind::Eq }.into())?;
        let guarded = test.operands[0] == step && self.is_number(test.operands[1], 0.0) && self.is_number(one, 1.0);
        let [largest, most] = self.binary_of(step, BinaryKind::Div)?;
        let (node, rank) = (self.made_by(largest)?, self.b.ty(x).rank());
        let row = Reduce { kind: ReduceKind::Max, axes: vec![rank.checked_sub(1)? as u8], keep: true };
        let magnitudes = node.operands.first().copied().filter(|_| node.op == row.into())?;
        let own = self.unary_of(magnitudes, UnaryKind::Abs) == Some(x);
        if !(own && guarded && self.is_number(most, 127.0)) {
            return None;
        }
        let op = QuantDynamic { group: 0 };
        Op::from(op.clone()).infer(&[self.b.ty(x)]).ok()?;
        let results = self.b.ops(op, &[x]).ok()?;
        self.scales.insert((self.b.region, step), results[1]);
        Some(results[0])
    }

    /// Codes of rows that are the groups of longer ones, put together to these.
    fn grouped_codes(&mut self, r: &Reshape, x: ValueId) -> Option<ValueId> {
        let Def::Node(n, 0) = self.b.func.values[x].def else { return None };
        let node = &self.b.func.nodes[n];
        if node.op != (QuantDynamic { group: 0 }).into() {
            return None;
        }
        let (of, scale) = (node.operands[0], node.results[1]);
        let parts = &self.b.ty(x).shape;
        let last = r.shape.len().checked_sub(1)?;
        let [count, group] = parts.get(last..)? else { return None };
        let joined = r.shape[..last] == parts[..last] && count.clone() * group.clone() == r.shape[last];
        let group = u32::try_from(group.as_const().filter(|_| joined)?).ok()?;
        let whole = self.one(r.clone(), &[of]).ok()?;
        let results = self.b.ops(QuantDynamic { group }, &[whole]).ok()?;
        let shape = self.b.ty(scale).shape.to_vec();
        let stands = self.one(Reshape { shape }, &[results[1]]).ok()?;
        self.scales.insert((self.b.region, scale), stands);
        Some(results[0])
    }
}
