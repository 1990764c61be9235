//! Images channels last: every convolution and window runs on `[N, spatial…, C]`, and what lies between stays that way.
//!
//! Exact. The function is rebuilt node by node; each value may exist channels first, channels last, or both, and is transposed at most once. Constants that
//! meet a channels-last value are transposed here.

use foldhash::HashMap;
use tersor_ir::diag::Result;
use tersor_ir::module::{Builder, Def, FuncId};
use tersor_ir::ops::{Broadcast, Concat, Gather, Pad, Reduce, Reshape, Slice, Transpose};
use tersor_ir::{Dim, Func, Module, NodeId, Op, ValueId};

/// Rewrites a function to channels-last convolutions and pools. One without any stays as it is.
pub fn channels_last(m: &mut Module, id: FuncId) -> Result<()> {
    let old = &m.funcs[id];
    let needs = |n: &NodeId| match &old.nodes[*n].op {
        Op::Conv(c) => !c.channels_last,
        Op::Pool(p) => !p.channels_last,
        _ => false,
    };
    if !old.live_nodes().iter().any(needs) || old.nodes.values().any(|n| !n.regions.is_empty()) {
        return Ok(());
    }
    let old = old.clone();
    let mut func = Func::new(old.name.clone());
    func.inputs = old.inputs.clone();
    func.outputs = old.outputs.clone();
    let body = func.body_id();
    let mut first = HashMap::default();
    for &p in &old.body().params {
        let v = func.add_param(body, &old.values[p].name, old.values[p].ty.clone());
        first.insert(p, v);
    }
    let mut r = Rebuild { old: &old, b: Builder::new(&mut m.consts, &mut func), first, last: HashMap::default() };
    for &n in &old.body().nodes {
        r.node(n)?;
    }
    let results = old.body().results.iter().map(|&v| r.first(v)).collect::<Result<Vec<_>>>()?;
    func.body_mut().results = results;
    m.funcs[id] = func;
    Ok(())
}

/// Axis order that moves the channel axis from second to last.
fn to_last(rank: usize) -> Vec<u8> {
    let mut p: Vec<u8> = (0..rank as u8).collect();
    p.remove(1);
    p.push(1);
    p
}

/// Axis order that moves the channel axis from last to second.
fn to_first(rank: usize) -> Vec<u8> {
    let mut p: Vec<u8> = (0..rank as u8 - 1).collect();
    p.insert(1, rank as u8 - 1);
    p
}

/// Where axis `a` of a channels-first tensor stands in the channels-last one.
fn axis_last(a: u8, rank: usize) -> u8 {
    match a {
        0 => 0,
        1 => rank as u8 - 1,
        a => a - 1,
    }
}

struct Rebuild<'a, 'm> {
    old: &'a Func,
    b: Builder<'m>,
    /// New values in the old axis order.
    first: HashMap<ValueId, ValueId>,
    /// New values with the channel axis last.
    last: HashMap<ValueId, ValueId>,
}

impl Rebuild<'_, '_> {
    fn rank(&self, v: ValueId) -> usize {
        self.old.values[v].ty.rank()
    }

    /// The value in its old axis order.
    fn first(&mut self, v: ValueId) -> Result<ValueId> {
        if let Some(&n) = self.first.get(&v) {
            return Ok(n);
        }
        let n = match self.old.values[v].def {
            Def::Const(c) => self.b.const_value(c),
            _ => {
                let l = self.last[&v];
                self.b.name = format!("{}.first", self.old.values[v].name);
                self.b.op(Transpose { perm: to_first(self.rank(v)) }, &[l])?
            }
        };
        self.first.insert(v, n);
        Ok(n)
    }

    /// The value with its channel axis last, as an operand that broadcasts into a tensor of `rank`.
    fn last(&mut self, v: ValueId, rank: usize) -> Result<ValueId> {
        let own = self.rank(v);
        if own == rank
            && let Some(&n) = self.last.get(&v)
        {
            return Ok(n);
        }
        let x = self.first(v)?;
        if own == 0 || self.old.values[v].ty.shape.iter().all(|d| *d == Dim::Const(1)) && own < rank {
            return Ok(x);
        }
        let mut shape: Vec<Dim> = vec![Dim::from(1); rank - own];
        shape.extend(self.old.values[v].ty.shape.iter().cloned());
        let perm = to_last(rank);
        self.b.name = format!("{}.last", self.old.values[v].name);
        if let Some(c) = self.old.def_const(v)
            && let Some(t) = self.b.consts[c].tensor()
        {
            let shape: Vec<usize> = shape.iter().map(|d| d.as_const().unwrap_or(0) as usize).collect();
            let t = t.reshaped(shape).expect("unit axes added");
            let t = Op::from(Transpose { perm }).eval(&[&t], &Default::default())?.remove(0);
            let name = self.b.name.clone();
            return Ok(self.b.constant(&name, &t));
        }
        let x = if own < rank { self.b.op(Reshape { shape }, &[x])? } else { x };
        let n = self.b.op(Transpose { perm }, &[x])?;
        if own == rank {
            self.last.insert(v, n);
        }
        Ok(n)
    }

    /// Whether the value is there channels last only, so that going on in that order is free.
    fn is_last(&self, v: ValueId) -> bool {
        self.last.contains_key(&v) && !self.first.contains_key(&v)
    }

    fn node(&mut self, n: NodeId) -> Result<()> {
        let node = &self.old.nodes[n];
        let (x, y) = (node.operands.first().copied(), node.results[0]);
        let (name, loc) = (self.old.values[y].name.to_string(), node.loc.clone());
        let rank = self.rank(y);
        self.b.loc = loc;
        let done = match (&node.op, x) {
            (Op::Conv(c), Some(x)) if !c.channels_last => {
                let (xl, w) = (self.last(x, rank)?, self.first(node.operands[1])?);
                self.named(&name, tersor_ir::ops::Conv { channels_last: true, ..c.clone() }, &[xl, w])?
            }
            (Op::Pool(p), Some(x)) if !p.channels_last => {
                let xl = self.last(x, rank)?;
                self.named(&name, tersor_ir::ops::Pool { channels_last: true, ..p.clone() }, &[xl])?
            }
            (Op::Transpose(t), Some(x)) if self.is_last(x) => {
                // Compose with the order that the value already has.
                let back = to_first(rank);
                let perm: Vec<u8> = t.perm.iter().map(|&p| back[p as usize]).collect();
                let l = self.last[&x];
                let v = if perm.iter().copied().eq(0..rank as u8) {
                    l
                } else {
                    self.named(&name, Transpose { perm }, &[l])?
                };
                self.first.insert(y, v);
                return Ok(());
            }
            (Op::Reshape(r), Some(x)) if self.is_last(x) => match self.reshape(&name, x, &r.shape)? {
                Some((v, true)) => v,
                Some((v, false)) => {
                    self.first.insert(y, v);
                    return Ok(());
                }
                None => return self.plain(n),
            },
            (Op::Reduce(r), Some(x)) if self.is_last(x) => {
                let rank = self.rank(x);
                let mut axes: Vec<u8> = r.axes.iter().map(|&a| axis_last(a, rank)).collect();
                axes.sort_unstable();
                let l = self.last[&x];
                // Without the kept axes the rest is in order again only if the channel axis went or all spatial axes did.
                let in_order = r.keep
                    || r.axes.contains(&1)
                    || r.axes.len() + 2 == rank && !r.axes.contains(&0)
                    || r.axes.len() + 1 >= rank;
                if !in_order {
                    return self.plain(n);
                }
                let v = self.named(&name, Reduce { axes, ..r.clone() }, &[l])?;
                if !r.keep {
                    self.first.insert(y, v);
                    return Ok(());
                }
                v
            }
            (Op::Concat(c), _) if rank >= 3 && node.operands.iter().any(|&v| self.is_last(v)) => {
                let operands = node.operands.iter().map(|&v| self.last(v, rank)).collect::<Result<Vec<_>>>()?;
                self.named(&name, Concat { axis: axis_last(c.axis, rank) }, &operands)?
            }
            (Op::Slice(s), Some(x)) if self.is_last(x) => {
                let l = self.last[&x];
                self.named(&name, Slice { axis: axis_last(s.axis, rank), ..s.clone() }, &[l])?
            }
            (Op::Pad(p), Some(x)) if self.is_last(x) => {
                let order = |v: &[i64]| to_last(rank).iter().map(|&a| v[a as usize]).collect();
                let l = self.last[&x];
                self.named(&name, Pad { lo: order(&p.lo), hi: order(&p.hi), ..p.clone() }, &[l])?
            }
            (Op::Gather(g), Some(x)) if self.is_last(x) && self.rank(node.operands[1]) == 1 => {
                let (l, i) = (self.last[&x], self.first(node.operands[1])?);
                self.named(&name, Gather { axis: axis_last(g.axis, rank) }, &[l, i])?
            }
            (Op::Broadcast(b), Some(x)) if self.is_last(x) && self.rank(x) == rank => {
                let shape = to_last(rank).iter().map(|&a| b.shape[a as usize].clone()).collect();
                let l = self.last[&x];
                self.named(&name, Broadcast { shape }, &[l])?
            }
            (Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_), _)
            | (Op::Cast(_) | Op::BitCast(_) | Op::Quant(_), _)
                if rank >= 3 && self.elementwise_last(n) =>
            {
                let operands = node.operands.iter().map(|&v| self.last(v, rank)).collect::<Result<Vec<_>>>()?;
                self.named(&name, node.op.clone(), &operands)?
            }
            (Op::DecodeAffine(d), _) if d.group == 0 && rank >= 3 && self.elementwise_last(n) => {
                let operands = node.operands.iter().map(|&v| self.last(v, rank)).collect::<Result<Vec<_>>>()?;
                self.named(&name, node.op.clone(), &operands)?
            }
            _ => return self.plain(n),
        };
        self.last.insert(y, done);
        Ok(())
    }

    fn named(&mut self, name: &str, op: impl Into<Op>, operands: &[ValueId]) -> Result<ValueId> {
        self.b.name = name.into();
        self.b.op(op, operands)
    }

    /// Some operand of full rank is there channels last only, and no other of full rank is there channels first only, unless it is a constant.
    fn elementwise_last(&self, n: NodeId) -> bool {
        let node = &self.old.nodes[n];
        let rank = self.rank(node.results[0]);
        let mut full = node.operands.iter().filter(|&&v| self.rank(v) == rank && self.old.def_const(v).is_none());
        node.operands.iter().any(|&v| self.rank(v) == rank && self.is_last(v))
            && full.all(|v| self.last.contains_key(v) || self.small(*v))
    }

    /// Operands that are cheap to transpose: at most one axis besides the batch is larger than 1.
    fn small(&self, v: ValueId) -> bool {
        self.old.values[v].ty.shape.iter().skip(1).filter(|d| **d != Dim::Const(1)).count() <= 1
    }

    /// A reshape of a channels-last value that stays free: all spatial extents are 1, or it only merges the spatial axes.
    /// The flag says whether the result is channels last.
    fn reshape(&mut self, name: &str, x: ValueId, shape: &[Dim]) -> Result<Option<(ValueId, bool)>> {
        let (from, l) = (self.old.values[x].ty.shape.clone(), self.last[&x]);
        if from[2..].iter().all(|d| *d == Dim::Const(1)) {
            return Ok(Some((self.named(name, Reshape { shape: shape.to_vec() }, &[l])?, false)));
        }
        let merged = from[2..].iter().fold(Dim::from(1), |a, d| a * d.clone());
        if shape.len() >= 3
            && shape[..2] == from[..2]
            && shape[2..].iter().fold(Dim::from(1), |a, d| a * d.clone()) == merged
        {
            let mut to = vec![shape[0].clone()];
            to.extend(shape[2..].iter().cloned());
            to.push(shape[1].clone());
            return Ok(Some((self.named(name, Reshape { shape: to }, &[l])?, true)));
        }
        Ok(None)
    }

    fn plain(&mut self, n: NodeId) -> Result<()> {
        let node = &self.old.nodes[n];
        let operands = node.operands.iter().map(|&v| self.first(v)).collect::<Result<Vec<_>>>()?;
        self.b.name = self.old.values[node.results[0]].name.to_string();
        let results = self.b.ops(node.op.clone(), &operands)?;
        for (&old, new) in node.results.iter().zip(results) {
            self.first.insert(old, new);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tersor_ir::testing::{Gen, max_abs};

    fn check(text: &str, transposes: usize) {
        let m = tersor_ir::text::parse(text, &Default::default()).unwrap_or_else(|e| panic!("{}", e[0]));
        let mut last = m.clone();
        let main = last.main().unwrap();
        channels_last(&mut last, main).unwrap();
        assert!(tersor_ir::verify::verify(&last).is_empty());
        let printed = tersor_ir::text::print(&last);
        assert_eq!(printed.matches(" = transpose ").count(), transposes, "{printed}");
        let f = &m.funcs[m.main().unwrap()];
        let mut g = Gen::new(5);
        let inputs: Vec<_> = f.body().params.iter().map(|&p| g.tensor(&f.values[p].ty)).collect();
        let (a, b) = (tersor_ir::interp::run(&m, &inputs).unwrap(), tersor_ir::interp::run(&last, &inputs).unwrap());
        for (a, b) in a.iter().zip(&b) {
            assert_eq!(a.shape(), b.shape());
            assert!(max_abs(a, b) < 1e-5);
        }
    }

    #[test]
    fn a_network_is_transposed_at_its_edges_only() {
        check(
            "module @m {
  const @w1 : f32[4,3,3,3] = rng normal(0, 0.3) seed 1
  const @w2 : f32[4,4,1,1] = rng normal(0, 0.3) seed 2
  const @b : f32[4,1,1] = rng normal(0, 1) seed 3
  const @fc : f32[4,5] = rng normal(0, 1) seed 4
  func @main(%x: f32[2,3,6,6]) -> (%y: f32[2,5], %z: f32[2,4,6,6]) {
    %c1 = conv %x, @w1 {strides=[1,1], pads=[1,1,1,1], dilations=[1,1]} : f32[2,4,6,6]
    %a1 = add %c1, @b : f32[2,4,6,6]
    %r1 = relu %a1 : f32[2,4,6,6]
    %c2 = conv %r1, @w2 {strides=[1,1], pads=[0,0,0,0], dilations=[1,1]} : f32[2,4,6,6]
    %s = add %c2, %r1 : f32[2,4,6,6]
    %cat = concat %s, %r1 {axis=1} : f32[2,8,6,6]
    %half = slice %cat {axis=1, start=2, len=4} : f32[2,4,6,6]
    %p = pool.max %half {kernel=[2,2], strides=[2,2], pads=[0,0,0,0], dilations=[1,1]} : f32[2,4,3,3]
    %g = reduce.mean %p {axes=[2,3], keep} : f32[2,4,1,1]
    %flat = reshape %g {shape=[2,4]} : f32[2,4]
    %y = matmul %flat, @fc : f32[2,5]
    return %y, %s
  }
}",
            2,
        );
    }

    #[test]
    fn patch_embedding_needs_no_transpose_after_it() {
        check(
            "module @m {
  const @w : f32[4,3,2,2] = rng normal(0, 0.3) seed 1
  func @main(%x: f32[2,3,6,6]) -> (%y: f32[2,9,4]) {
    %c = conv %x, @w {strides=[2,2], pads=[0,0,0,0], dilations=[1,1]} : f32[2,4,3,3]
    %r = reshape %c {shape=[2,4,9]} : f32[2,4,9]
    %y = transpose %r {perm=[0,2,1]} : f32[2,9,4]
    return %y
  }
}",
            1,
        );
    }
}
