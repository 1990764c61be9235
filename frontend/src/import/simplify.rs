//! Ops that need not be appended: what constants decide, what undoes or goes on with a movement, and composites that are one op.
//!
//! Files spell out what the IR has ops for, and wrap operands in axes that an operator takes off again; here both end, whichever operator they come from.

use super::Importer;
use tersor_ir::diag::Result;
use tersor_ir::module::Node;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::unary::UnaryKind;
use tersor_ir::ops::{Binary, Concat, Extent, Reshape, Rope, Slice, Transpose, Unary};
use tersor_ir::{DType, Dim, Op, Tensor, Type, ValueId};

/// What stands for an op.
pub(super) enum Simpler {
    /// A value that is there.
    Value(ValueId),
    /// Another op.
    Op(Op, Vec<ValueId>),
}

impl Importer<'_> {
    /// What stands for an op of these operands; `None` for itself.
    pub(super) fn simpler(&mut self, op: &Op, operands: &[ValueId]) -> Option<Simpler> {
        match (op, operands) {
            (Op::Extent(Extent { of: Dim::Const(n) }), _) => {
                let name = self.b.name.clone();
                Some(Simpler::Value(self.b.constant(&name, &Tensor::from_i64(DType::I64, [], &[*n]))))
            }
            (Op::Reshape(r), &[x]) => self.reshaped(r, x),
            (Op::Transpose(t), &[x]) => self.transposed(t, x),
            (Op::Slice(s), &[x]) => self.part_of_concat(s, x).map(Simpler::Value),
            (Op::Concat(c), parts) => self.whole(c, parts).map(Simpler::Value),
            (Op::Unary(Unary { kind: UnaryKind::Reciprocal }), &[x]) => self.rsqrt(x),
            (Op::Binary(Binary { kind: BinaryKind::Mul }), &[a, b]) => self.silu(a, b).or_else(|| self.silu(b, a)),
            (Op::Binary(Binary { kind: BinaryKind::Add }), &[a, b]) => self.rope(a, b).or_else(|| self.rope(b, a)),
            _ => None,
        }
    }

    /// Results that are constants, where all operands are small ones.
    pub(super) fn fold(&mut self, op: &Op, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        // Weights that come encoded stay so.
        if matches!(op, Op::DecodeAffine(_) | Op::DecodeCodebook(_) | Op::DecodeSparse(_)) {
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
        let y = op.eval(&x.iter().collect::<Vec<_>>(), &Default::default())?;
        let name = self.b.name.clone();
        Ok(Some(y.iter().map(|t| self.b.constant(&name, t)).collect()))
    }

    fn made_by(&self, v: ValueId) -> Option<&Node> {
        self.b.func.def_node(v)
    }

    fn unary_of(&self, v: ValueId, kind: UnaryKind) -> Option<ValueId> {
        let node = self.made_by(v)?;
        (node.op == Unary { kind }.into()).then(|| node.operands[0])
    }

    fn reshaped(&self, r: &Reshape, x: ValueId) -> Option<Simpler> {
        let before = self.made_by(x).filter(|n| matches!(n.op, Op::Reshape(_)))?.operands[0];
        let same = self.b.ty(before).shape[..] == r.shape;
        Some(if same { Simpler::Value(before) } else { Simpler::Op(r.clone().into(), vec![before]) })
    }

    fn transposed(&self, t: &Transpose, x: ValueId) -> Option<Simpler> {
        let node = self.made_by(x)?;
        let Op::Transpose(first) = &node.op else { return None };
        let perm: Option<Vec<u8>> = t.perm.iter().map(|&p| first.perm.get(p as usize).copied()).collect();
        let (perm, before) = (perm?, node.operands[0]);
        let same = perm.iter().copied().eq(0..perm.len() as u8);
        Some(if same { Simpler::Value(before) } else { Simpler::Op(Transpose { perm }.into(), vec![before]) })
    }

    /// The part of a concatenation that a slice takes out whole.
    fn part_of_concat(&self, s: &Slice, x: ValueId) -> Option<ValueId> {
        let node = self.made_by(x).filter(|n| s.step == 1 && n.op == Concat { axis: s.axis }.into())?;
        let mut at = Dim::from(0);
        for &part in &node.operands {
            let extent = self.b.ty(part).shape.get(s.axis as usize)?.clone();
            if at == s.start {
                return (extent == s.len).then_some(part);
            }
            at = at + extent;
        }
        None
    }

    /// The value whose parts, all of them and in order, are put together.
    fn whole(&self, c: &Concat, parts: &[ValueId]) -> Option<ValueId> {
        let (mut at, mut of) = (Dim::from(0), None);
        for &part in parts {
            let node = self.made_by(part)?;
            let Op::Slice(s) = &node.op else { return None };
            let next = s.axis == c.axis && s.step == 1 && s.start == at;
            if !next || *of.get_or_insert(node.operands[0]) != node.operands[0] {
                return None;
            }
            at = at + s.len.clone();
        }
        of.filter(|&x| self.b.ty(x).shape.get(c.axis as usize) == Some(&at))
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
}
