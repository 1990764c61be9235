//! Rows and loop nests that carry accumulators, for kernels that combine elements along axes.

use super::expr::{Point, Row};
use super::loops::masks;
use crate::emit::{KernelBuilder, Val};
use crate::kernel::{GroupCx, LaunchBuilder};
use tersor_ir::{Dim, NodeId, ValueId};

/// The columns of a row.
pub struct Columns {
    /// How many.
    pub extent: Dim,
    /// Axes taken as one.
    pub merged: usize,
    /// Lanes of a vector.
    pub lanes: u32,
    /// The last vector is a masked one; otherwise the last elements are taken one by one.
    masked: bool,
}

impl Columns {
    /// The last `merged` axes of `shape`.
    pub fn new(cx: &GroupCx, shape: &[Dim], merged: usize, lanes: u32) -> Columns {
        let extent = product(&shape[shape.len() - merged..]);
        let lanes = match extent.as_const() {
            Some(c) if c < i64::from(lanes) => c.max(1).ilog2().min(31),
            _ => lanes.ilog2(),
        };
        Columns { extent, merged, lanes: 1 << lanes, masked: masks(cx) }
    }

    /// A point in a row.
    pub fn point(&self, row: &Row, col: Val, lanes: u32) -> Point {
        Point { row: row.clone(), col, lanes, count: None, merged: self.merged }
    }

    /// Calls `body` for all columns of a row, carrying accumulators that start as the scalars `init`, and combines them. `body` gets
    /// accumulators with as many lanes as the point; lanes past the point's count must leave them as they are.
    pub fn fold(
        &self,
        b: &mut LaunchBuilder,
        row: &Row,
        init: &[Val],
        unroll: u32,
        body: impl Fn(&mut LaunchBuilder, &Point, &[Val]) -> Vec<Val>,
        combine: impl Fn(&mut KernelBuilder, &[Val], &[Val]) -> Vec<Val>,
    ) -> Vec<Val> {
        let (n, zero, cols) = (i64::from(self.lanes), b.i64(0), b.extent(&self.extent));
        let one = b.i64(1);
        if self.lanes == 1 {
            return b.for_(zero, cols, one, init, |b, col, acc| body(b, &self.point(row, col, 1), acc));
        }
        let width = init.len();
        let unroll = match self.extent.as_const() {
            Some(c) => i64::from(unroll).min(c / n).max(1) as usize,
            None => unroll as usize,
        };
        let step = n * unroll as i64;
        let (vector, block) = (b.i64(n), b.i64(step));
        let start: Vec<Val> = init.iter().map(|&v| b.splat(v, self.lanes)).collect();
        let blocks = b.div(cols, block);
        let blocks = b.mul(blocks, block);
        let whole = b.div(cols, vector);
        let whole = b.mul(whole, vector);
        let accs = b.for_(zero, blocks, block, &start.repeat(unroll), |b, col, accs| {
            let one = |i: usize| {
                let offset = b.i64(i as i64 * n);
                let col = b.add(col, offset);
                body(b, &self.point(row, col, self.lanes), &accs[i * width..(i + 1) * width])
            };
            (0..unroll).flat_map(one).collect()
        });
        let mut sets: Vec<Vec<Val>> = accs.chunks(width.max(1)).map(<[Val]>::to_vec).collect();
        if width == 0 {
            sets = vec![vec![]];
        }
        let exact = |by: i64| self.extent.as_const().is_some_and(|c| c % by == 0);
        if !exact(step) {
            sets[0] = b.for_(blocks, whole, vector, &sets[0].clone(), |b, col, acc| {
                body(b, &self.point(row, col, self.lanes), acc)
            });
        }
        if !exact(n) && self.masked {
            sets[0] = b.for_(whole, cols, vector, &sets[0].clone(), |b, col, acc| {
                let count = b.sub(cols, col);
                body(b, &self.point(row, col, self.lanes).first(count), acc)
            });
        }
        let mut acc = sets.remove(0);
        for other in sets {
            acc = combine(b, &acc, &other);
        }
        let mut lanes = self.lanes;
        while lanes > 1 && width > 0 {
            lanes /= 2;
            let low: Vec<Val> = acc.iter().map(|&v| b.slice(v, 0, lanes)).collect();
            let high: Vec<Val> = acc.iter().map(|&v| b.slice(v, lanes, lanes)).collect();
            acc = combine(b, &low, &high);
        }
        if !exact(n) && !self.masked {
            acc = b.for_(whole, cols, one, &acc, |b, col, acc| body(b, &self.point(row, col, 1), acc));
        }
        acc
    }

    /// Calls `body` for all columns of a row.
    pub fn each(&self, b: &mut LaunchBuilder, row: &Row, body: impl Fn(&mut LaunchBuilder, &Point)) {
        let none = |b: &mut LaunchBuilder, at: &Point, _: &[Val]| {
            body(b, at);
            vec![]
        };
        self.fold(b, row, &[], 1, none, |_, _, _| vec![]);
    }
}

/// `v` where the point's lanes exist, else `other`.
pub fn present(k: &mut KernelBuilder, at: &Point, v: Val, other: Val) -> Val {
    match at.count {
        Some(count) => {
            let mask = k.first_lanes(at.lanes, count);
            k.select(mask, v, other)
        }
        None => v,
    }
}

/// The product of extents.
pub fn product(shape: &[Dim]) -> Dim {
    shape.iter().fold(Dim::from(1), |a, d| a * d.clone())
}

/// The index along each axis of a row-major index over them.
pub fn unravel(b: &mut LaunchBuilder, index: Val, extents: &[Dim]) -> Vec<Val> {
    let mut out = vec![b.i64(0); extents.len()];
    let real: Vec<usize> = (0..extents.len()).filter(|&i| extents[i] != Dim::Const(1)).collect();
    let mut rest = index;
    for (place, &i) in real.iter().enumerate().rev() {
        if place == 0 {
            out[i] = rest;
            break;
        }
        let d = b.extent(&extents[i]);
        out[i] = b.rem(rest, d);
        rest = b.div(rest, d);
    }
    out
}

/// A loop body: the index along each axis and the accumulators; gives the next accumulators.
type Body<'a> = &'a dyn Fn(&mut LaunchBuilder, &[Val], &[Val]) -> Vec<Val>;

/// Runs `body` for every index of the axes `over`, outermost first, with the other entries of `index` as they are; accumulators are carried.
pub fn over(b: &mut LaunchBuilder, shape: &[Dim], axes: &[usize], index: &[Val], acc: &[Val], body: Body) -> Vec<Val> {
    let Some((&axis, rest)) = axes.split_first() else { return body(b, index, acc) };
    let (zero, one, n) = (b.i64(0), b.i64(1), b.extent(&shape[axis]));
    b.for_(zero, n, one, acc, |b, i, acc| {
        let mut index = index.to_vec();
        index[axis] = i;
        over(b, shape, rest, &index, acc, body)
    })
}

/// The outputs of a group that nodes before the anchor make, and the others.
pub fn outputs(cx: &GroupCx, anchor: NodeId) -> (Vec<ValueId>, Vec<ValueId>) {
    let at = cx.group.nodes.iter().position(|&n| n == anchor).unwrap_or(0);
    let before = &cx.group.nodes[..at];
    let early = |v: &ValueId| before.iter().any(|&n| cx.f.nodes[n].results.contains(v));
    cx.group.outputs.iter().copied().partition(early)
}
