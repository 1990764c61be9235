//! Nodes that read elsewhere than where they write: each maps a position of its result to positions of its operands.

use super::index::{Coord, Pos, Span, like};
use super::{Emit, element};
use crate::emit::{KernelBuilder, Scalar, Val};
use crate::kernel::LaunchBuilder;
use std::ops::Range;
use tersor_ir::ops::pad::PadMode;
use tersor_ir::ops::sharing::Sharing;
use tersor_ir::ops::{Concat, Gather, Pad, Reshape, Rope};
use tersor_ir::{DType, Dim, Node, Op, ValueId};

/// Whether a node can be entered by [`Emit`] as an index map.
pub fn is_movement(op: &Op) -> bool {
    matches!(
        op,
        Op::Reshape(_)
            | Op::Broadcast(_)
            | Op::Transpose(_)
            | Op::Slice(_)
            | Op::Prefix(_)
            | Op::Concat(_)
            | Op::Pad(_)
            | Op::Gather(_)
            | Op::Iota(_)
            | Op::Extent(_)
            | Op::Rope(_)
            | Op::DecodeAffine(_)
            | Op::DecodeCodebook(_)
            | Op::BitCast(_)
    )
}

impl Emit<'_, '_> {
    pub(super) fn movement(&mut self, node: &Node, result: ValueId, pos: &Pos) -> Val {
        let shape = self.shape(result);
        let x = node.operands.first().copied();
        match (&node.op, x) {
            (Op::BitCast(c), Some(x)) => self.read_as(x, c.to, pos),
            (Op::Broadcast(_), Some(x)) => self.operand(x, &shape, pos),
            (Op::Reshape(r), Some(x)) => self.reshape(r, x, &shape, pos),
            (Op::Transpose(t), Some(x)) => {
                let coords = pos.coords(self.b, &shape, self.lanes);
                let mut to = coords.clone();
                for (i, &p) in t.perm.iter().enumerate() {
                    to[p as usize] = coords[i];
                }
                self.value(x, &Pos::new(to, pos.mask))
            }
            (Op::Slice(s), Some(x)) => {
                let start = self.b.extent(&s.start);
                let pos = self.along(pos, &shape, s.axis.into(), |b, c| {
                    let c = c.times(b, s.step);
                    c.plus(b, start)
                });
                self.value(x, &pos)
            }
            (Op::Prefix(p), Some(x)) => {
                let pos = self.along(pos, &shape, p.axis.into(), |_, c| c);
                self.value(x, &pos)
            }
            (Op::Concat(c), _) => self.concat(c, &node.operands, &shape, pos),
            (Op::Pad(p), Some(x)) => self.pad(p, x, &shape, pos),
            (Op::Gather(g), Some(x)) => self.gather(g, x, node.operands[1], &shape, pos),
            (Op::Rope(r), Some(x)) => self.rope(r, x, &node.operands, &shape, pos),
            (Op::DecodeAffine(d), Some(q)) => {
                let mut x = vec![self.value(q, pos)];
                x.extend(
                    node.operands[1..].iter().map(|&p| self.shared(p, d.sharing(), &shape, pos)).collect::<Vec<_>>(),
                );
                let (code, to) = (self.fused.cx.ty(q).dtype, self.fused.cx.ty(result).dtype);
                self.decode(&x, code, to)
            }
            (Op::DecodeCodebook(d), Some(q)) => {
                let code = self.value(q, pos);
                let code = element::cast(self.b, self.fused.cx.ty(q).dtype, DType::I64, code);
                let at = if code.lanes() > 1 { Coord::Lanes(code) } else { Coord::One(code) };
                let entry = self.value(node.operands[1], &Pos::new(vec![at], pos.mask));
                let Some(&scale) = node.operands.get(2) else { return entry };
                let scale = self.shared(scale, d.sharing(), &shape, pos);
                let (entry, scale) = element::alike(self.b, entry, scale);
                self.b.mul(entry, scale)
            }
            (Op::Iota(i), _) => {
                let at = pos.coords(self.b, &shape, self.lanes)[0];
                let at = match at {
                    Coord::One(v) => v,
                    other => other.vector(self.b, self.lanes),
                };
                element::cast(self.b, DType::I64, i.dtype, at)
            }
            (Op::Extent(e), _) => self.b.extent(&e.of),
            (op, _) => unreachable!("{} is refused when the group is taken", op.mnemonic()),
        }
    }

    /// The position with one axis moved.
    fn along(
        &mut self,
        pos: &Pos,
        shape: &[Dim],
        axis: usize,
        f: impl FnOnce(&mut LaunchBuilder, Coord) -> Coord,
    ) -> Pos {
        let (mut before, rest) = pos.cut(self.b, shape, axis, self.lanes);
        let rest = Pos { spans: rest, mask: None };
        let (middle, after) = rest.cut(self.b, &shape[axis..], 1, self.lanes);
        let at = f(self.b, middle[0].at);
        before.push(Span { axes: 1, at });
        before.extend(after);
        Pos { spans: before, mask: pos.mask }
    }

    fn axis(&mut self, pos: &Pos, shape: &[Dim], axis: usize) -> Coord {
        let (_, rest) = pos.cut(self.b, shape, axis, self.lanes);
        Pos { spans: rest, mask: None }.cut(self.b, &shape[axis..], 1, self.lanes).0[0].at
    }

    fn reshape(&mut self, _: &Reshape, x: ValueId, shape: &[Dim], pos: &Pos) -> Val {
        let to = self.shape(x);
        let mut spans = vec![];
        for (own, other) in runs(shape, &to) {
            if other.is_empty() {
                continue;
            }
            let (_, rest) = pos.cut(self.b, shape, own.start, self.lanes);
            let rest = Pos { spans: rest, mask: None };
            let (part, _) = rest.cut(self.b, &shape[own.start..], own.len(), self.lanes);
            let at = self.joined(&part, &shape[own]);
            spans.push(Span { axes: other.len(), at });
        }
        self.value(x, &Pos { spans, mask: pos.mask })
    }

    /// The row-major index over consecutive spans.
    fn joined(&mut self, spans: &[Span], shape: &[Dim]) -> Coord {
        let mut axis = 0;
        let mut sum: Option<Coord> = None;
        let (b, lanes) = (&mut *self.b, self.lanes);
        for s in spans {
            axis += s.axes;
            let extents = &shape[axis - s.axes..axis];
            if extents.iter().all(|d| *d == Dim::Const(1)) {
                continue;
            }
            let inner = shape[axis..].iter().fold(Dim::from(1), |a, d| a * d.clone());
            let at = match (inner.as_const(), s.at) {
                (Some(c), at) => at.times(b, c),
                (None, at) => {
                    let d = b.extent(&inner);
                    at.map(b, lanes, |k, v| k.mul(v, d))
                }
            };
            sum = Some(match (sum, at) {
                (None, at) => at,
                (Some(Coord::One(v)), at) | (Some(at), Coord::One(v)) => at.plus(b, v),
                (Some(a), c) => {
                    let (a, c) = (a.vector(b, lanes), c.vector(b, lanes));
                    Coord::Lanes(b.add(a, c))
                }
            });
        }
        sum.unwrap_or_else(|| Coord::one(self.b, 0))
    }

    fn gather(&mut self, g: &Gather, x: ValueId, indices: ValueId, shape: &[Dim], pos: &Pos) -> Val {
        let (from, ix, axis) = (self.shape(x), self.shape(indices), usize::from(g.axis));
        let (mut spans, rest) = pos.cut(self.b, shape, axis, self.lanes);
        let rest = Pos { spans: rest, mask: None };
        let (middle, after) = rest.cut(self.b, &shape[axis..], ix.len(), self.lanes);
        let i = self.value(indices, &Pos { spans: middle, mask: pos.mask });
        let dtype = self.fused.cx.ty(indices).dtype;
        let n = self.b.extent(&from[axis]);
        let k: &mut KernelBuilder = self.b;
        let i = element::cast(k, dtype, DType::I64, i);
        let (zero, one) = (like(k, i, 0), k.i64(1));
        let (negative, turned) = (k.lt(i, zero), k.add(i, n));
        let i = k.select(negative, turned, i);
        let last = k.sub(n, one);
        let i = k.min(i, last);
        let i = k.max(i, zero);
        let at = if i.lanes() == self.lanes && self.lanes > 1 { Coord::Lanes(i) } else { Coord::One(i) };
        spans.push(Span { axes: 1, at });
        spans.extend(after);
        self.value(x, &Pos { spans, mask: pos.mask })
    }

    /// One of two evaluations; what they compute on the way stays in their blocks.
    fn branch(
        &mut self,
        cond: Val,
        then: impl FnOnce(&mut Self) -> Val,
        or_else: impl FnOnce(&mut Self) -> Val,
    ) -> Val {
        let memo = self.memo.clone();
        self.b.open_block();
        let a = then(self);
        let a = self.wide(a);
        let first = self.b.close_block(vec![a]);
        self.memo = memo.clone();
        self.b.open_block();
        let c = or_else(self);
        let c = self.wide(c);
        let second = self.b.close_block(vec![c]);
        self.memo = memo;
        self.b.choose(cond, first, second)[0]
    }

    fn wide(&mut self, v: Val) -> Val {
        if v.lanes() < self.lanes { self.b.splat(v, self.lanes) } else { v }
    }

    fn pad(&mut self, p: &Pad, x: ValueId, shape: &[Dim], pos: &Pos) -> Val {
        let (from, lanes) = (self.shape(x), self.lanes);
        let mut coords = pos.coords(self.b, shape, lanes);
        let (mut all, mut mask) = (None, pos.mask);
        for i in (0..coords.len()).filter(|&i| p.lo[i] + p.hi[i] > 0) {
            let extent = self.b.extent(&from[i]);
            let k: &mut KernelBuilder = self.b;
            let back = k.i64(-p.lo[i]);
            coords[i] = coords[i].plus(k, back);
            if p.mode != PadMode::Constant {
                coords[i] = coords[i].map(k, lanes, |k, v| source(k, p.mode, v, extent));
                continue;
            }
            let v = match coords[i] {
                Coord::One(v) => v,
                other => other.vector(k, lanes),
            };
            let zero = like(k, v, 0);
            let (low, high) = (k.ge(v, zero), k.lt(v, extent));
            let inside = k.and(low, high);
            let slot = if coords[i].varies() { &mut mask } else { &mut all };
            *slot = Some(match *slot {
                Some(m) => k.and(m, inside),
                None => inside,
            });
        }
        let dtype = self.fused.cx.ty(x).dtype;
        let inner = Pos::new(coords, mask);
        if p.mode != PadMode::Constant {
            return self.value(x, &inner);
        }
        let fill = element::immediate(self.b, dtype, if dtype.is_float() { p.value.0 } else { p.value.0.trunc() });
        let here = |e: &mut Self| {
            let y = e.value(x, &inner);
            match mask {
                Some(m) => element::select(e.b, m, y, fill),
                None => y,
            }
        };
        match all {
            Some(cond) => self.branch(cond, here, |_| fill),
            None => here(self),
        }
    }

    fn concat(&mut self, c: &Concat, operands: &[ValueId], shape: &[Dim], pos: &Pos) -> Val {
        let axis = usize::from(c.axis);
        let at = self.axis(pos, shape, axis);
        let mut starts = vec![Dim::from(0)];
        for &x in operands {
            let end = starts[starts.len() - 1].clone() + self.shape(x)[axis].clone();
            starts.push(end);
        }
        let place = |e: &mut Self, i: usize, mask: Option<Val>| {
            let back = e.b.extent(&(Dim::from(0) - starts[i].clone()));
            let inner = e.along(pos, shape, axis, |b, c| c.plus(b, back));
            let mask = match (pos.mask, mask) {
                (Some(a), Some(m)) => Some(e.b.and(a, m)),
                (a, m) => a.or(m),
            };
            Pos { mask, ..inner }
        };
        if let Coord::One(v) = at {
            return self.pick(operands, &starts, v, &place, 0);
        }
        let v = at.vector(self.b, self.lanes);
        let mut y: Option<Val> = None;
        for (i, &x) in operands.iter().enumerate() {
            let (low, high) = (self.b.extent(&starts[i]), self.b.extent(&starts[i + 1]));
            let (from, to) = (self.b.ge(v, low), self.b.lt(v, high));
            let inside = self.b.and(from, to);
            let pos = place(self, i, Some(inside));
            let part = self.value(x, &pos);
            y = Some(match y {
                Some(y) => element::select(self.b, inside, part, y),
                None => part,
            });
        }
        y.expect("an operand")
    }

    /// The operand that holds index `v`.
    fn pick(
        &mut self,
        operands: &[ValueId],
        starts: &[Dim],
        v: Val,
        place: &impl Fn(&mut Self, usize, Option<Val>) -> Pos,
        i: usize,
    ) -> Val {
        let here = |e: &mut Self| {
            let pos = place(e, i, None);
            e.value(operands[i], &pos)
        };
        if i + 1 == operands.len() {
            return here(self);
        }
        let end = self.b.extent(&starts[i + 1]);
        let inside = self.b.lt(v, end);
        self.branch(inside, here, |e| e.pick(operands, starts, v, place, i + 1))
    }

    fn rope(&mut self, r: &Rope, x: ValueId, operands: &[ValueId], shape: &[Dim], pos: &Pos) -> Val {
        let (rank, lanes) = (shape.len(), self.lanes);
        let d = shape[rank - 1].as_const().expect("checked by inference");
        let (own, cos, sin) =
            (self.value(x, pos), self.operand(operands[1], shape, pos), self.operand(operands[2], shape, pos));
        let (front, _) = pos.cut(self.b, shape, rank - 1, lanes);
        let at = self.axis(pos, shape, rank - 1);
        let neighbours = r.interleaved && lanes > 1 && matches!(at, Coord::Run { step: 1, .. }) && own.lanes() == lanes;
        let (partner, first) = if neighbours {
            let order: Vec<u32> = (0..lanes).map(|i| i ^ 1).collect();
            let swapped = self.b.shuffle(own, own, &order);
            let signs: Vec<i64> = (0..lanes).map(|i| i64::from(i % 2 == 0)).collect();
            (swapped, self.b.vec_int(Scalar::I1, &signs))
        } else {
            let half = d / 2;
            let whole = !r.interleaved && half % i64::from(lanes) == 0;
            let (moved, first) = match at {
                // Vectors start at multiples of their lanes: all lanes are in one half.
                Coord::Run { start, step: 1 } if whole => {
                    let (moved, first) = other_half(self.b, start, half);
                    (Coord::Run { start: moved, step: 1 }, first)
                }
                Coord::One(v) => {
                    let (v, first) = partner(self.b, v, half, r.interleaved);
                    (Coord::One(v), first)
                }
                other => {
                    let v = other.vector(self.b, lanes);
                    let (v, first) = partner(self.b, v, half, r.interleaved);
                    (Coord::Lanes(v), first)
                }
            };
            let mut spans = front;
            spans.push(Span { axes: 1, at: moved });
            (self.value(x, &Pos { spans, mask: pos.mask }), first)
        };
        let k: &mut KernelBuilder = self.b;
        let minus = k.neg(partner);
        let turned = element::select(k, first, minus, partner);
        let (a, c) = element::alike(k, own, cos);
        let straight = k.mul(a, c);
        let (t, s) = element::alike(k, turned, sin);
        let (t, straight) = element::alike(k, t, straight);
        let (s, straight) = element::alike(k, s, straight);
        k.fma(t, s, straight)
    }

    /// The parameter that the code at `pos` has.
    fn shared(&mut self, param: ValueId, sharing: Sharing, shape: &[Dim], pos: &Pos) -> Val {
        if sharing.group == 0 {
            return self.operand(param, shape, pos);
        }
        let (lanes, group) = (self.lanes, sharing.group as i64);
        let grouped = self.along(pos, shape, sharing.axis, |b, c| {
            c.map(b, lanes, |k, v| {
                let g = like(k, v, group);
                k.div(v, g)
            })
        });
        self.value(param, &grouped)
    }
}

/// Where padding takes the element of position `v` from.
fn source(k: &mut KernelBuilder, mode: PadMode, v: Val, extent: Val) -> Val {
    let (zero, one) = (like(k, v, 0), k.i64(1));
    let last = k.sub(extent, one);
    let modulo = |k: &mut KernelBuilder, v: Val, n: Val| {
        let n = if v.lanes() > 1 { k.splat(n, v.lanes()) } else { n };
        let r = k.rem(v, n);
        let (below, up) = (k.lt(r, zero), k.add(r, n));
        k.select(below, up, r)
    };
    match mode {
        PadMode::Wrap => modulo(k, v, extent),
        PadMode::Reflect => {
            let twice = k.add(last, last);
            // A single element is its own mirror image.
            let period = k.max(twice, one);
            let p = modulo(k, v, period);
            let back = k.sub(twice, p);
            k.min(p, back)
        }
        PadMode::Edge | PadMode::Constant => {
            let v = k.max(v, zero);
            k.min(v, last)
        }
    }
}

/// The same place in the other half of a row, and whether `v` is in the first.
fn other_half(k: &mut KernelBuilder, v: Val, half: i64) -> (Val, Val) {
    let half = like(k, v, half);
    let first = k.lt(v, half);
    let (up, down) = (k.add(v, half), k.sub(v, half));
    (k.select(first, up, down), first)
}

/// The index that `rope` pairs with `v`, and whether `v` is the first of the two.
fn partner(k: &mut KernelBuilder, v: Val, half: i64, interleaved: bool) -> (Val, Val) {
    if !interleaved {
        return other_half(k, v, half);
    }
    let (one, zero) = (like(k, v, 1), like(k, v, 0));
    let bit = k.and(v, one);
    (k.xor(v, one), k.eq(bit, zero))
}

/// Runs of axes of two shapes with equal products, outermost first.
fn runs(from: &[Dim], to: &[Dim]) -> Vec<(Range<usize>, Range<usize>)> {
    let (mut i, mut j) = (from.len(), to.len());
    let mut out = vec![];
    while i > 0 || j > 0 {
        let (end_i, end_j) = (i, j);
        let (mut p, mut q) = (Dim::from(1), Dim::from(1));
        loop {
            let equal = p == q && (end_i, end_j) != (i, j);
            if equal || (i == 0 && j == 0) {
                break;
            }
            let longer = p != Dim::Const(1) && (q == Dim::Const(1) || p.exact_div(&q).is_some());
            let take_to = j > 0 && (i == 0 || longer);
            if take_to {
                j -= 1;
                q = q * to[j].clone();
            } else {
                i -= 1;
                p = p * from[i].clone();
            }
        }
        out.push((i..end_i, j..end_j));
    }
    out.reverse();
    out
}
