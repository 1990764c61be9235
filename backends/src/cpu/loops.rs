//! Loops over the index space of elementwise nodes and moves.
//!
//! The last axis is the vector axis; where all operands allow it, axes are taken as one so that vectors stay full. A grid point is a block of columns of a
//! row, a row, or a block of rows, whichever is about [`BLOCK`] elements.

use super::expr::{Fused, Point, Row};
use super::{packed, transpose};
use crate::emit::Val;
use crate::kernel::{GroupCx, Launch, LaunchBuilder, View};
use tersor_ir::diag::Result;
use tersor_ir::{DType, Dim, Op, ValueId};

/// Elements of one grid point.
const BLOCK: i64 = 4096;
/// Elements worth a thread: some 50 µs.
pub const GRAIN: i64 = 1 << 16;

/// Builds the loop kernel of a group.
pub fn build(cx: &GroupCx) -> Result<Launch> {
    let domain_of = *cx.group.outputs.iter().max_by_key(|&&v| cx.ty(v).rank()).expect("a group has outputs");
    if packed::fits(cx) {
        return packed::build(cx, domain_of);
    }
    if let Some(turn) = transpose::fits(cx) {
        return Ok(transpose::build(cx, &turn));
    }
    if let Some(launch) = concat(cx)? {
        return Ok(launch);
    }
    let fused = Fused::new(cx, domain_of)?;
    let mut b = LaunchBuilder::new(format!("{}_loop__{}", cx.ty(domain_of).dtype, cx.isa.suffix()));
    let space = Space::of(&fused, lanes(cx));
    let grid = space.blocks(&mut b, |b, at| fused.store_outputs(b, &[], at));
    Ok(b.launch(grid, 0, space.grain()))
}

/// Grid points of `elements` each that make up `work` elements.
pub fn per_point(work: i64, elements: &Dim) -> Dim {
    Dim::from(work).floor_div(elements.clone() + 1.into()).max(1.into())
}

/// A group that begins with a concatenation: each operand is copied to its place, through the nodes after it.
fn concat(cx: &GroupCx) -> Result<Option<Launch>> {
    let node = &cx.f.nodes[cx.group.nodes[0]];
    let Op::Concat(c) = &node.op else { return Ok(None) };
    let y = node.results[0];
    let rank = cx.ty(y).rank();
    let merged = rank - usize::from(c.axis);
    let dense = |&v: &ValueId| cx.view(v) == View::dense(v, cx.ty(v));
    if merged > 1 && (cx.group.nodes.len() > 1 || !node.operands.iter().all(dense)) {
        return Ok(None);
    }
    let fused = Fused::new(cx, y)?;
    let mut b = LaunchBuilder::new(format!("{}_concat__{}", cx.ty(y).dtype, cx.isa.suffix()));
    let sources = node.operands.iter().map(|&v| Fused::new(cx, v)).collect::<Result<Vec<_>>>()?;
    let whole = Space::new(fused.domain(), merged, lanes(cx));
    let (begin, end) = b.range();
    b.loop_(begin, end, 1, |b, row| {
        let mut start = Dim::from(0);
        for (&v, source) in node.operands.iter().zip(&sources) {
            let space = Space::new(source.domain(), merged, lanes(cx));
            let (zero, cols, shift) = (b.i64(0), b.extent(&space.cols), b.extent(&start));
            space.columns(b, row, zero, cols, |b, at| {
                let x = source.emit(b, &[], at, &[v])[0];
                let col = b.add(at.col, shift);
                fused.store_outputs(b, &[(y, x)], &Point { col, ..at.clone() });
            });
            start = start + space.cols;
        }
    });
    let grain = per_point(GRAIN, &whole.cols);
    Ok(Some(b.launch(whole.rows, 0, grain)))
}

/// Lanes of a loop: a few registers of the widest element type.
pub fn lanes(cx: &GroupCx) -> u32 {
    let wide = |v: &ValueId| cx.ty(*v).dtype.bits() == 64;
    if cx.group.outputs.iter().any(wide) { cx.isa.lanes() } else { 16 }
}

/// Whether tails are cheap by mask: elements of four bytes and more, or any with AVX-512.
pub fn masks(cx: &GroupCx) -> bool {
    let narrow = |v: &ValueId| matches!(cx.ty(*v).dtype, d if d.bits() < 32 || d == DType::Bool);
    cx.isa.wide() || !cx.group.inputs.iter().chain(&cx.group.outputs).any(narrow)
}

/// An index space as rows of columns, cut into grid points.
pub struct Space {
    rows: Dim,
    cols: Dim,
    merged: usize,
    lanes: u32,
}

impl Space {
    /// The index space of fused nodes, its last axes taken as one as far as the operands allow.
    pub fn of(fused: &Fused, lanes: u32) -> Space {
        let domain = fused.domain();
        let rank = domain.len();
        let most = (1..=rank).rev().find(|&n| n == 1 || fused.merges(n)).unwrap_or(0);
        Space::new(domain, most, lanes)
    }

    /// Rows of `merged` axes.
    pub fn new(domain: &[Dim], merged: usize, lanes: u32) -> Space {
        let product = |d: &[Dim]| d.iter().fold(Dim::from(1), |a, d| a * d.clone());
        let (rows, cols) = domain.split_at(domain.len() - merged);
        let cols = product(cols);
        let lanes = match cols.as_const() {
            Some(c) if c < i64::from(lanes) => 1.max(1 << (63 - (c.max(1) as u64).leading_zeros())) as u32,
            _ => lanes,
        };
        Space { rows: product(rows), cols, merged, lanes }
    }

    /// Fewest grid points worth a thread.
    pub fn grain(&self) -> Dim {
        match self.cols.as_const() {
            Some(c) if c < BLOCK => (GRAIN / ((BLOCK / c.max(1)) * c.max(1)).max(1)).max(1).into(),
            _ => per_point(GRAIN, &self.cols).max((GRAIN / BLOCK).into()),
        }
    }

    /// Emits `body` at every point of the kernel's range; gives the grid.
    pub fn blocks(&self, b: &mut LaunchBuilder, body: impl Fn(&mut LaunchBuilder, &Point)) -> Dim {
        let (begin, end) = b.range();
        let cols = b.extent(&self.cols);
        let zero = b.i64(0);
        match self.cols.as_const() {
            Some(c) if c < BLOCK => {
                // Several rows a grid point.
                let each = (BLOCK / c.max(1)).max(1);
                let rows = b.extent(&self.rows);
                let size = b.i64(each);
                let (lo, hi) = (b.mul(begin, size), b.mul(end, size));
                let hi = b.min(hi, rows);
                b.loop_(lo, hi, 1, |b, row| self.columns(b, row, zero, cols, &body));
                self.rows.clone().ceil_div(each)
            }
            _ => {
                let blocks = self.cols.clone().ceil_div(BLOCK);
                let per_row = b.extent(&blocks);
                b.loop_(begin, end, 1, |b, i| {
                    let (row, block) = (b.div(i, per_row), b.rem(i, per_row));
                    let size = b.i64(BLOCK);
                    let lo = b.mul(block, size);
                    let hi = b.add(lo, size);
                    let hi = b.min(hi, cols);
                    self.columns(b, row, lo, hi, &body);
                });
                self.rows.clone() * blocks
            }
        }
    }

    /// Emits `body` over columns `lo..hi` of a row, `lo` a multiple of the lanes.
    pub fn columns(
        &self,
        b: &mut LaunchBuilder,
        row: Val,
        lo: Val,
        hi: Val,
        body: impl Fn(&mut LaunchBuilder, &Point),
    ) {
        let point = |col: Val, lanes: u32| Point { row: Row::Flat(row), col, lanes, count: None, merged: self.merged };
        if self.merged == 0 {
            return body(b, &point(lo, 1));
        }
        let n = i64::from(self.lanes);
        if n == 1 {
            return b.loop_(lo, hi, 1, |b, col| body(b, &point(col, 1)));
        }
        let size = b.i64(n);
        let length = b.sub(hi, lo);
        let left = b.rem(length, size);
        let whole = b.sub(hi, left);
        b.loop_(lo, whole, n, |b, col| body(b, &point(col, self.lanes)));
        if self.cols.as_const().is_some_and(|c| c % n == 0) {
            return;
        }
        b.loop_(whole, hi, 1, |b, col| body(b, &point(col, 1)));
    }
}
