//! Which positions of a node's operands and results go or stay together.
//!
//! A [`Tie`] joins two axes position by position; a [`Fold`] joins one axis with several of which it is the product (a reshape); a [`Bar`] says that no position of
//! an axis can go. An axis of a node in none of the three carries no constraint: its positions may go as far as this node is concerned.

use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::{Conv, MatMul, Reshape};
use tersor_ir::{Def, Dim, Func, NodeId, Op, ValueId};

/// One axis of one value.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Slot {
    /// The value.
    pub value: ValueId,
    /// The axis.
    pub axis: usize,
}

/// How a position of one axis finds its partner on the other.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Map {
    /// `i + n`.
    Shift(usize),
    /// `i / div % modulo`.
    Digit { div: usize, modulo: usize },
    /// The first of the `n` neighbours that `i` is among.
    Floor(usize),
}

impl Map {
    /// The partner of position `i`.
    pub fn of(self, i: usize) -> usize {
        match self {
            Map::Shift(n) => i + n,
            Map::Digit { div, modulo } => i / div % modulo,
            Map::Floor(n) => i - i % n,
        }
    }
}

/// Positions `i` of `a` and `map.of(i)` of `b` go together.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Tie {
    /// The axis that the map is from.
    pub a: Slot,
    /// The axis that it is to.
    pub b: Slot,
    /// Which partner.
    pub map: Map,
}

/// `merged` is the row-major product of `parts`; positions go along one of the parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fold {
    /// The product.
    pub merged: Slot,
    /// Its factors, outermost first, with extents above 1.
    pub parts: Vec<(Slot, Map)>,
}

/// No position of this axis can go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bar {
    /// The axis.
    pub at: Slot,
    /// Why.
    pub reason: String,
}

/// What one node says.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Relations {
    /// Axes joined.
    pub ties: Vec<Tie>,
    /// Axes that are products.
    pub folds: Vec<Fold>,
    /// Axes that must stay.
    pub bars: Vec<Bar>,
}

const SAME: Map = Map::Shift(0);

impl Relations {
    fn tie(&mut self, a: (ValueId, usize), b: (ValueId, usize), map: Map) {
        self.ties.push(Tie { a: Slot { value: a.0, axis: a.1 }, b: Slot { value: b.0, axis: b.1 }, map });
    }
    fn bar(&mut self, value: ValueId, axis: usize, reason: impl Into<String>) {
        self.bars.push(Bar { at: Slot { value, axis }, reason: reason.into() });
    }
    /// Ties axes of values that broadcast against each other, aligned at the end. Axes of extent 1 that stretch stay as they are.
    fn broadcast(&mut self, f: &Func, values: &[ValueId], result: ValueId) {
        let out = &f.values[result].ty.shape;
        for &v in values {
            let shape = &f.values[v].ty.shape;
            let skip = out.len() - shape.len();
            for (axis, d) in shape.iter().enumerate() {
                if *d == out[skip + axis] {
                    self.tie((v, axis), (result, skip + axis), SAME);
                }
            }
        }
    }
    /// Ties every axis of `x` but those in `except` with the same axis of `y`.
    fn through(&mut self, rank: usize, x: ValueId, y: ValueId, except: impl Fn(usize) -> bool) {
        (0..rank).filter(|&a| !except(a)).for_each(|a| self.tie((x, a), (y, a), SAME));
    }
}

/// The extent of an axis, where it is known.
pub fn extent(f: &Func, s: Slot) -> Option<usize> {
    f.values[s.value].ty.shape[s.axis].as_const().and_then(|d| usize::try_from(d).ok())
}

/// What a node of `f` says about its operands' and results' axes.
pub fn relations(f: &Func, node: NodeId) -> Relations {
    let n = &f.nodes[node];
    let mut r = Relations::default();
    let rank = |v: ValueId| f.values[v].ty.rank();
    let (x, y) = (n.operands.first().copied(), n.results.first().copied());
    let (Some(x), Some(y)) = (x, y) else {
        n.results.iter().for_each(|&v| (0..rank(v)).for_each(|a| r.bar(v, a, "it counts positions")));
        return r;
    };
    match &n.op {
        Op::Unary(_) | Op::Cast(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) | Op::Quant(_) => {
            r.broadcast(f, &n.operands, y)
        }
        Op::Choice(_) => r.broadcast(f, &[x], y),
        Op::DecodeAffine(op) if op.group == 0 => r.broadcast(f, &n.operands, y),
        Op::DecodeAffine(op) => {
            for &v in &n.operands {
                r.through(rank(v), v, y, |a| a == op.axis as usize);
            }
            r.bar(y, op.axis.into(), "its codes share scales along this axis");
        }
        Op::QuantDynamic(op) => {
            let last = rank(x) - 1;
            r.through(rank(x), x, y, |a| a == last && op.group > 0);
            if op.group > 0 {
                r.bar(x, last, "its elements share scales along this axis");
                r.bar(y, last, "its codes share scales along this axis");
            }
            r.through(last, x, n.results[1], |_| false);
        }
        Op::Rope(op) => {
            r.broadcast(f, &n.operands, y);
            let last = rank(y) - 1;
            if let Some(d) = extent(f, Slot { value: y, axis: last }) {
                let pair = if op.interleaved { Map::Floor(2) } else { Map::Digit { div: 1, modulo: d / 2 } };
                r.tie((y, last), (y, last), pair);
            }
        }
        Op::MatMul(op) => matmul(&mut r, f, op, [x, n.operands[1], y]),
        Op::Conv(op) => conv(&mut r, f, op, [x, n.operands[1], y]),
        Op::Attention(_) => attention(&mut r, f, &n.operands, y),
        Op::Pool(op) => {
            let (_, channel, first) = Conv::axes(op.channels_last, rank(x));
            r.through(rank(x), x, y, |a| a != 0 && a != channel);
            (first..first + rank(x) - 2).for_each(|a| r.bar(x, a, "windows run along this axis"));
        }
        Op::Transpose(op) => op.perm.iter().enumerate().for_each(|(to, &from)| r.tie((x, from.into()), (y, to), SAME)),
        Op::Reshape(op) => reshape(&mut r, f, op, x, y),
        Op::Broadcast(_) => r.broadcast(f, &[x], y),
        Op::Concat(op) => {
            let (axis, mut at) = (op.axis as usize, Some(0));
            for &v in &n.operands {
                r.through(rank(v), v, y, |a| a == axis);
                match (at, extent(f, Slot { value: v, axis })) {
                    (Some(start), Some(d)) => {
                        r.tie((v, axis), (y, axis), Map::Shift(start));
                        at = Some(start + d);
                    }
                    _ => {
                        r.bar(v, axis, "a part of unknown length is joined along this axis");
                        at = None;
                    }
                }
            }
        }
        Op::Slice(op) => {
            let axis = op.axis as usize;
            r.through(rank(x), x, y, |a| a == axis);
            let start = op.start.as_const().and_then(|s| usize::try_from(s).ok());
            match (start, op.len.as_const(), op.step) {
                (Some(start), Some(_), 1) => r.tie((y, axis), (x, axis), Map::Shift(start)),
                _ => {
                    r.bar(x, axis, "a part with a step or of unknown extent is taken along this axis");
                    r.bar(y, axis, "it is a part with a step or of unknown extent");
                }
            }
        }
        Op::Pad(op) => {
            for a in 0..rank(x) {
                match op.lo[a] + op.hi[a] {
                    0 => r.tie((x, a), (y, a), SAME),
                    _ => r.bar(x, a, "this axis is padded"),
                }
            }
        }
        Op::Gather(op) => {
            let (axis, indices) = (op.axis as usize, n.operands[1]);
            (0..axis).for_each(|a| r.tie((x, a), (y, a), SAME));
            (axis + 1..rank(x)).for_each(|a| r.tie((x, a), (y, a - 1 + rank(indices)), SAME));
            (0..rank(indices)).for_each(|a| r.tie((indices, a), (y, axis + a), SAME));
            r.bar(x, axis, "it is looked up by number along this axis");
        }
        Op::Softmax(op) => {
            r.through(rank(x), x, y, |_| false);
            r.bar(x, op.axis.into(), "softmax runs along this axis");
        }
        Op::CumSum(op) => {
            r.through(rank(x), x, y, |_| false);
            r.bar(x, op.axis.into(), "a running sum runs along this axis");
        }
        Op::Reduce(op) => {
            let mut to = 0;
            for a in 0..rank(x) {
                if !op.axes.contains(&(a as u8)) {
                    r.tie((x, a), (y, to), SAME);
                } else if op.kind != ReduceKind::Sum {
                    r.bar(x, a, format!("{} runs along this axis", n.op.mnemonic()));
                }
                to += usize::from(op.keep || !op.axes.contains(&(a as u8)));
            }
        }
        Op::LayerNorm(op) => norm(&mut r, f, &n.operands, y, op.axis.into(), true),
        Op::RmsNorm(op) => norm(&mut r, f, &n.operands, y, op.axis.into(), false),
        _ => {
            let reason = format!("{} is not seen through", n.op.mnemonic());
            for &v in n.operands.iter().chain(&n.results) {
                (0..rank(v)).for_each(|a| r.bar(v, a, reason.clone()));
            }
        }
    }
    r
}

fn matmul(r: &mut Relations, f: &Func, op: &MatMul, [a, b, y]: [ValueId; 3]) {
    let rank = |v: ValueId| f.values[v].ty.rank();
    let (ra, rb, ry) = (rank(a), rank(b), rank(y));
    let (row_a, in_a) = if op.trans_a { (ra - 1, ra - 2) } else { (ra - 2, ra - 1) };
    let (in_b, col_b) = if op.trans_b { (rb - 1, rb - 2) } else { (rb - 2, rb - 1) };
    r.tie((a, in_a), (b, in_b), SAME);
    r.tie((a, row_a), (y, ry - 2), SAME);
    r.tie((b, col_b), (y, ry - 1), SAME);
    let out = &f.values[y].ty.shape;
    for (v, n) in [(a, ra), (b, rb)] {
        for axis in 0..n - 2 {
            if f.values[v].ty.shape[axis] == out[ry - n + axis] {
                r.tie((v, axis), (y, ry - n + axis), SAME);
            }
        }
    }
}

fn conv(r: &mut Relations, f: &Func, op: &Conv, [x, w, y]: [ValueId; 3]) {
    let (_, channel, first) = Conv::axes(op.channels_last, f.values[x].ty.rank());
    let kernel = f.values[w].ty.static_shape().unwrap_or_default();
    let [outs, ins, ..] = kernel[..] else { return };
    let groups = op.groups as usize;
    r.tie((x, 0), (y, 0), SAME);
    r.tie((w, 0), (y, channel), SAME);
    match (groups, ins) {
        (1, _) => r.tie((x, channel), (w, 1), SAME),
        // A channel of a depthwise convolution goes with its results, and one group less is left.
        (_, 1) => r.tie((y, channel), (x, channel), Map::Digit { div: outs / groups, modulo: groups }),
        // Groups keep equal widths: what goes, goes from each.
        _ => {
            r.tie((x, channel), (w, 1), Map::Digit { div: 1, modulo: ins });
            r.tie((y, channel), (y, channel), Map::Digit { div: 1, modulo: outs / groups });
        }
    }
    for a in 0..f.values[x].ty.rank() - 2 {
        r.bar(x, first + a, "windows run along this axis");
        r.bar(y, first + a, "it is an axis of an image");
        r.bar(w, 2 + a, "it is an axis of a kernel");
    }
}

fn attention(r: &mut Relations, f: &Func, operands: &[ValueId], y: ValueId) {
    let (q, k, v) = (operands[0], operands[1], operands[2]);
    let heads = |v| extent(f, Slot { value: v, axis: 1 });
    r.tie((q, 0), (k, 0), SAME);
    r.tie((k, 0), (v, 0), SAME);
    r.tie((k, 1), (v, 1), SAME);
    r.tie((k, 2), (v, 2), SAME);
    r.tie((q, 3), (k, 3), SAME);
    r.tie((v, 3), (y, 3), SAME);
    (0..3).for_each(|a| r.tie((q, a), (y, a), SAME));
    if let (Some(h), Some(g)) = (heads(q), heads(k)) {
        r.tie((q, 1), (k, 1), Map::Digit { div: h / g.max(1), modulo: g });
    }
    for x in [q, k] {
        r.bar(x, 2, "it is an axis of positions");
    }
    if let Some(&m) = operands.get(3) {
        let skip = 4 - f.values[m].ty.rank();
        for (axis, d) in f.values[m].ty.shape.iter().enumerate() {
            match skip + axis {
                to @ (0 | 1) if *d == f.values[q].ty.shape[to] => r.tie((m, axis), (q, to), SAME),
                _ => r.bar(m, axis, "it is an axis of a mask"),
            }
        }
    }
}

/// Zeros leave a sum of squares as it is, so channels of `rms_norm` may go with a change of scale; those of `layer_norm` may not: they are centred.
fn norm(r: &mut Relations, f: &Func, operands: &[ValueId], y: ValueId, axis: usize, centred: bool) {
    r.broadcast(f, operands, y);
    let rank = f.values[y].ty.rank();
    let gain = operands.get(1).is_some_and(|&v| matches!(f.values[v].def, Def::Const(_)));
    for a in axis..rank {
        match (centred, gain && axis + 1 == rank) {
            (true, _) => r.bar(y, a, "layer_norm runs along this axis"),
            (false, false) => r.bar(y, a, "rms_norm over this axis has no constant scale to make up for it"),
            (false, true) => {}
        }
    }
}

/// Splits both shapes into runs of equal products; symbolic extents must stand alone in theirs.
fn reshape(r: &mut Relations, f: &Func, op: &Reshape, x: ValueId, y: ValueId) {
    let one = Dim::from(1);
    let axes = |shape: &[Dim]| (0..shape.len()).filter(|&a| shape[a] != one).collect::<Vec<_>>();
    let (xs, ys) = (&f.values[x].ty.shape, &op.shape);
    let (ax, ay) = (axes(xs), axes(ys));
    // An axis of one position cannot lose it.
    (0..xs.len()).filter(|&a| xs[a] == one).for_each(|a| r.bar(x, a, "it is the only position"));
    (0..ys.len()).filter(|&a| ys[a] == one).for_each(|a| r.bar(y, a, "it is the only position"));
    let (mut i, mut j) = (0, 0);
    while i < ax.len() || j < ay.len() {
        let (i0, j0) = (i, j);
        let (mut px, mut py) = (one.clone(), one.clone());
        loop {
            // The shorter product grows; of two that cannot be compared, the one that has fewer axes yet.
            let less = match (px.as_const(), py.as_const()) {
                (Some(a), Some(b)) => a < b || (a == b && i == i0),
                _ => i - i0 <= j - j0,
            };
            if (less || j == ay.len()) && i < ax.len() {
                px = px * xs[ax[i]].clone();
                i += 1;
            } else if j < ay.len() {
                py = py * ys[ay[j]].clone();
                j += 1;
            } else {
                break;
            }
            if px == py && i > i0 && j > j0 {
                break;
            }
        }
        run(r, f, (x, &ax[i0..i]), (y, &ay[j0..j]));
    }
}

/// Relates the axes of one run.
fn run(r: &mut Relations, f: &Func, (x, ax): (ValueId, &[usize]), (y, ay): (ValueId, &[usize])) {
    let known = |v: ValueId, axes: &[usize]| -> Option<Vec<usize>> {
        axes.iter().map(|&axis| extent(f, Slot { value: v, axis })).collect()
    };
    match (ax, ay) {
        ([a], [b]) => return r.tie((x, *a), (y, *b), SAME),
        ([a], parts) if let Some(extents) = known(y, parts) => return fold(r, (x, *a), y, parts, &extents),
        (parts, [b]) if let Some(extents) = known(x, parts) => return fold(r, (y, *b), x, parts, &extents),
        _ => {}
    }
    for (v, axes) in [(x, ax), (y, ay)] {
        axes.iter().for_each(|&a| r.bar(v, a, "a reshape mixes this axis with others"));
    }
}

fn fold(r: &mut Relations, merged: (ValueId, usize), v: ValueId, parts: &[usize], extents: &[usize]) {
    let part = |k: usize| {
        let div = extents[k + 1..].iter().product();
        (Slot { value: v, axis: parts[k] }, Map::Digit { div, modulo: extents[k] })
    };
    r.folds
        .push(Fold { merged: Slot { value: merged.0, axis: merged.1 }, parts: (0..parts.len()).map(part).collect() });
}
