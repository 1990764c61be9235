//! Reductions, indices of extremes and running sums over any axes.
//!
//! Where the last axes are reduced, a grid point is one result: vector accumulators along the row, combined at its end. Where the last axis stays, a grid
//! point is a block of columns, with one accumulator for each.

use super::element;
use super::expr::{Fused, Point, Row};
use super::loops::{GRAIN, lanes};
use super::nest::{Columns, outputs, over, present, product, unravel};
use crate::emit::{KernelBuilder, Scalar, Ty, Val};
use crate::kernel::{GroupCx, Launch, LaunchBuilder};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::reduce::{ArgKind, ReduceKind};
use tersor_ir::ops::{ArgReduce, CumSum, Reduce};
use tersor_ir::{DType, Dim, NodeId, Op, ValueId};

/// Columns of a grid point where the last axis stays.
const BLOCK: i64 = 64;

/// Builds the kernel of a group whose anchor reduces.
pub fn build(cx: &GroupCx, anchor: NodeId) -> Result<Launch> {
    let node = &cx.f.nodes[anchor];
    let (x, y) = (node.operands[0], node.results[0]);
    let name = format!("{}_{}__{}", cx.ty(x).dtype, node.op.mnemonic().replace('.', "_"), cx.isa.suffix());
    let mut b = LaunchBuilder::new(name);
    let axes: Vec<usize> = match &node.op {
        Op::Reduce(r) => r.axes.iter().map(|&a| a.into()).collect(),
        Op::ArgReduce(r) => vec![r.axis.into()],
        Op::CumSum(c) => vec![c.axis.into()],
        _ => vec![],
    };
    let (shape, from, to) = (cx.ty(x).shape.to_vec(), Fused::new(cx, x)?, Fused::new(cx, y)?);
    let work = Work { cx, x, y, axes, shape, from, to, anchor };
    let last = work.shape.len().checked_sub(1);
    let grid = match &node.op {
        Op::Reduce(r) if last.is_some_and(|l| work.axes.contains(&l)) => work.rows(&mut b, r),
        Op::Reduce(r) => work.columns(&mut b, |b, index, at| work.reduce_column(b, r, index, at)),
        Op::ArgReduce(r) if last == Some(r.axis.into()) => work.arg_rows(&mut b, r),
        Op::ArgReduce(r) => work.columns(&mut b, |b, index, at| work.arg_column(b, r, index, at)),
        Op::CumSum(c) => work.running(&mut b, c),
        _ => Dim::from(0),
    };
    let each = product(&work.shape).as_const().zip(grid.as_const()).map_or(1024, |(n, g)| n / g.max(1));
    Ok(b.launch(grid, 0, (GRAIN / each.max(1)).max(1)))
}

struct Work<'a> {
    cx: &'a GroupCx<'a>,
    x: ValueId,
    y: ValueId,
    axes: Vec<usize>,
    shape: Vec<Dim>,
    from: Fused<'a>,
    to: Fused<'a>,
    anchor: NodeId,
}

impl Work<'_> {
    fn dtype(&self) -> DType {
        self.cx.ty(self.x).dtype
    }

    /// The operand at a point; outputs of nodes before the reduction are stored on the way.
    fn operand(&self, b: &mut LaunchBuilder, at: &Point) -> Val {
        let mut roots = outputs(self.cx, self.anchor).0;
        roots.push(self.x);
        let values = self.from.emit(b, &[], at, &roots);
        for (&v, &y) in roots.iter().zip(&values).take(roots.len() - 1) {
            self.from.store(b, v, y, at);
        }
        values[roots.len() - 1]
    }

    fn finish(&self, b: &mut LaunchBuilder, result: Val, at: &Point) {
        let late = outputs(self.cx, self.anchor).1;
        let values = self.to.emit(b, &[(self.y, result)], at, &late);
        for (&v, y) in late.iter().zip(values) {
            self.to.store(b, v, y, at);
        }
    }

    /// Calls `body` for each point of a grid over kept axes, the last one in vectors: with the index of the other axes (0 where reduced) and a point of
    /// the result.
    fn columns(&self, b: &mut LaunchBuilder, body: impl Fn(&mut LaunchBuilder, &[Val], &Point)) -> Dim {
        let merged = usize::from(!self.shape.is_empty());
        let outer = self.shape.len() - merged;
        let columns = Columns::new(self.cx, &self.shape, merged, lanes(self.cx));
        let kept: Vec<Dim> =
            (0..outer).map(|i| if self.axes.contains(&i) { Dim::from(1) } else { self.shape[i].clone() }).collect();
        let (blocks, (begin, end)) = (columns.extent.clone().ceil_div(BLOCK), b.range());
        let (per_row, cols, size) = (b.extent(&blocks), b.extent(&columns.extent), b.i64(BLOCK));
        b.loop_(begin, end, 1, |b, i| {
            let (row, block) = (b.div(i, per_row), b.rem(i, per_row));
            let index = unravel(b, row, &kept);
            let lo = b.mul(block, size);
            let hi = b.add(lo, size);
            let hi = b.min(hi, cols);
            let n = i64::from(columns.lanes);
            let row = Row::Flat(row);
            if n == 1 {
                return b.loop_(lo, hi, 1, |b, col| body(b, &index, &columns.point(&row, col, 1)));
            }
            let vector = b.i64(n);
            let length = b.sub(hi, lo);
            let left = b.rem(length, vector);
            let whole = b.sub(hi, left);
            b.loop_(lo, whole, n, |b, col| body(b, &index, &columns.point(&row, col, columns.lanes)));
            b.loop_(whole, hi, 1, |b, col| body(b, &index, &columns.point(&row, col, 1)));
        });
        product(&kept) * blocks
    }

    fn reduce_column(&self, b: &mut LaunchBuilder, r: &Reduce, index: &[Val], at: &Point) {
        let start = start(b, r.kind, self.dtype());
        let start = b.splat(start, at.lanes);
        let acc = over(b, &self.shape, &self.axes, index, &[start], &|b, index, acc| {
            let v = self.operand(b, &Point { row: Row::Index(index.to_vec()), ..at.clone() });
            let v = widened(b, r.kind, self.dtype(), v);
            vec![combine(b, r.kind, self.dtype(), acc[0], v)]
        });
        let y = self.mean(b, r, acc[0]);
        self.finish(b, y, at);
    }

    /// Divides a mean, and gives the result its own type.
    fn mean(&self, b: &mut LaunchBuilder, r: &Reduce, acc: Val) -> Val {
        if r.kind != ReduceKind::Mean {
            return acc;
        }
        let axes: Vec<Dim> = self.axes.iter().map(|&a| self.shape[a].clone()).collect();
        let n = b.extent(&product(&axes));
        let (d, k): (DType, &mut KernelBuilder) = (self.dtype(), b);
        if d.is_float() {
            let n = k.to_float(n, acc.elem());
            return k.div(acc, n);
        }
        let one = k.i64(1);
        let n = k.max(n, one);
        let wide = wide_int(d);
        let q = element::binary(k, BinaryKind::Div, wide, acc, n);
        element::cast(k, wide, d, q)
    }

    /// The last axes are reduced.
    fn rows(&self, b: &mut LaunchBuilder, r: &Reduce) -> Dim {
        let rank = self.shape.len();
        let trailing = (1..=rank).take_while(|&n| self.axes.contains(&(rank - n))).count();
        let merged = (1..=trailing).rev().find(|&n| n == 1 || self.from.merges(n)).unwrap_or(1);
        let outer = rank - merged;
        let columns = Columns::new(self.cx, &self.shape, merged, lanes(self.cx));
        let inner: Vec<usize> = self.axes.iter().copied().filter(|&a| a < outer).collect();
        let kept: Vec<Dim> =
            (0..outer).map(|i| if inner.contains(&i) { Dim::from(1) } else { self.shape[i].clone() }).collect();
        let (d, (begin, end)) = (self.dtype(), b.range());
        b.loop_(begin, end, 1, |b, i| {
            let index = unravel(b, i, &kept);
            let first = start(b, r.kind, d);
            let acc = over(b, &self.shape, &inner, &index, &[first], &|b, index, acc| {
                let row = if inner.is_empty() { Row::Flat(i) } else { Row::Index(index.to_vec()) };
                let part = columns.fold(
                    b,
                    &row,
                    &[first],
                    4,
                    |b, at, acc| {
                        let v = self.operand(b, at);
                        let v = widened(b, r.kind, d, v);
                        let next = combine(b, r.kind, d, acc[0], v);
                        vec![present(b, at, next, acc[0])]
                    },
                    |k, a, c| vec![combine(k, r.kind, d, a[0], c[0])],
                );
                vec![combine(b, r.kind, d, acc[0], part[0])]
            });
            let y = self.mean(b, r, acc[0]);
            let zero = b.i64(0);
            let at = Point { row: Row::Flat(i), col: zero, lanes: 1, count: None, merged: 0 };
            self.finish(b, y, &at);
        });
        product(&kept)
    }

    /// The index of the extreme of each row: the extreme first, then where it is.
    fn arg_rows(&self, b: &mut LaunchBuilder, r: &ArgReduce) -> Dim {
        let d = self.dtype();
        let columns = Columns::new(self.cx, &self.shape, 1, lanes(self.cx));
        let (begin, end) = b.range();
        let kind = if r.kind == ArgKind::Max { ReduceKind::Max } else { ReduceKind::Min };
        b.loop_(begin, end, 1, |b, i| {
            let row = Row::Flat(i);
            let first = start(b, kind, d);
            // A NaN counts only where it comes first; `max` drops it.
            let extreme = |k: &mut KernelBuilder, acc: Val, v: Val| match (d.is_float(), kind) {
                (true, ReduceKind::Max) => k.max(v, acc),
                (true, _) => k.min(v, acc),
                _ => combine(k, kind, d, acc, v),
            };
            let best = columns.fold(
                b,
                &row,
                &[first],
                4,
                |b, at, acc| {
                    let v = self.operand(b, at);
                    let next = extreme(b, acc[0], v);
                    vec![present(b, at, next, acc[0])]
                },
                |k, a, c| vec![extreme(k, a[0], c[0])],
            )[0];
            let none = b.i64(if r.last { -1 } else { i64::MAX });
            let pick = |k: &mut KernelBuilder, a: Val, c: Val| if r.last { k.max(a, c) } else { k.min(a, c) };
            let at = columns.fold(
                b,
                &row,
                &[none],
                1,
                |b, at, acc| {
                    let v = self.operand(b, at);
                    let steps: Vec<i64> = (0..at.lanes.into()).collect();
                    let here = if at.lanes == 1 { b.i64(0) } else { b.vec_int(Scalar::I64, &steps) };
                    let here = b.add(at.col, here);
                    let best = b.splat(best, at.lanes);
                    let found = b.eq(v, best);
                    let next = pick(b, acc[0], here);
                    let next = b.select(found, next, acc[0]);
                    vec![present(b, at, next, acc[0])]
                },
                |k, a, c| vec![pick(k, a[0], c[0])],
            )[0];
            let zero = b.i64(0);
            let at = if d.is_float() {
                let front = self.operand(b, &columns.point(&row, zero, 1));
                let nan = b.is_nan(front);
                b.select(nan, zero, at)
            } else {
                at
            };
            let point = Point { row: Row::Flat(i), col: zero, lanes: 1, count: None, merged: 0 };
            self.finish(b, at, &point);
        });
        product(&self.shape[..self.shape.len() - 1])
    }

    fn arg_column(&self, b: &mut LaunchBuilder, r: &ArgReduce, index: &[Val], at: &Point) {
        let (d, axis) = (self.dtype(), self.axes[0]);
        let zero = b.i64(0);
        let point = |index: &[Val]| Point { row: Row::Index(index.to_vec()), ..at.clone() };
        let best = self.operand(b, &point(index));
        let none = b.splat(zero, at.lanes);
        let acc = over(b, &self.shape, &self.axes, index, &[best, none], &|b, index, acc| {
            let v = self.operand(b, &point(index));
            let k: &mut KernelBuilder = b;
            let kind = if r.kind == ArgKind::Max {
                tersor_ir::ops::compare::CompareKind::Gt
            } else {
                tersor_ir::ops::compare::CompareKind::Lt
            };
            let mut better = element::compare(k, kind, d, v, acc[0]);
            if r.last {
                let same = k.eq(v, acc[0]);
                better = k.or(better, same);
            }
            let here = k.splat(index[axis], at.lanes);
            vec![k.select(better, v, acc[0]), k.select(better, here, acc[1])]
        });
        self.finish(b, acc[1], at);
    }

    fn running(&self, b: &mut LaunchBuilder, c: &CumSum) -> Dim {
        let rank = self.shape.len();
        let axis = self.axes[0];
        let last = axis + 1 == rank;
        let body = |b: &mut LaunchBuilder, index: &[Val], point: &dyn Fn(&[Val]) -> Point| {
            let zero = start(b, ReduceKind::Sum, self.dtype());
            let first = point(index);
            let zero = b.splat(zero, first.lanes);
            over(b, &self.shape, &[axis], index, &[zero], &|b, index, acc| {
                let mut index = index.to_vec();
                if c.reverse {
                    let (n, one) = (b.extent(&self.shape[axis]), b.i64(1));
                    let end = b.sub(n, one);
                    index[axis] = b.sub(end, index[axis]);
                }
                let at = point(&index);
                let v = self.operand(b, &at);
                let sum = b.add(acc[0], v);
                self.finish(b, if c.exclusive { acc[0] } else { sum }, &at);
                vec![sum]
            });
        };
        if !last {
            return self.columns(b, |b, index, at| {
                body(b, index, &|index| Point { row: Row::Index(index.to_vec()), ..at.clone() });
            });
        }
        let (begin, end) = b.range();
        b.loop_(begin, end, 1, |b, i| {
            let mut index = unravel(b, i, &self.shape[..rank - 1]);
            index.push(i);
            body(b, &index, &|index| {
                let row = Row::Index(index[..rank - 1].to_vec());
                Point { row, col: index[rank - 1], lanes: 1, count: None, merged: 1 }
            });
        });
        product(&self.shape[..rank - 1])
    }
}

fn wide_int(d: DType) -> DType {
    if d.int_range().is_some_and(|r| r.0 == 0) { DType::U64 } else { DType::I64 }
}

/// Means of integers are summed in 64 bits.
fn widened(k: &mut KernelBuilder, kind: ReduceKind, d: DType, v: Val) -> Val {
    if kind == ReduceKind::Mean && !d.is_float() { element::cast(k, d, wide_int(d), v) } else { v }
}

/// What a reduction of nothing gives.
fn start(k: &mut KernelBuilder, kind: ReduceKind, d: DType) -> Val {
    let ty = Ty::Scalar(element::register(d));
    let (lo, hi) = d.int_range().unwrap_or((0, 1));
    match kind {
        ReduceKind::Mean if !d.is_float() => k.i64(0),
        ReduceKind::Sum | ReduceKind::Mean => k.zero(ty),
        ReduceKind::Prod => element::immediate(k, d, 1.0),
        ReduceKind::Max if d.is_float() => k.float(ty, f64::NEG_INFINITY),
        ReduceKind::Min if d.is_float() => k.float(ty, f64::INFINITY),
        ReduceKind::Max => k.int(ty, lo as i64),
        ReduceKind::Min => k.int(ty, hi as i64),
    }
}

fn combine(k: &mut KernelBuilder, kind: ReduceKind, d: DType, a: Val, b: Val) -> Val {
    let op = match kind {
        ReduceKind::Sum | ReduceKind::Mean => BinaryKind::Add,
        ReduceKind::Prod => BinaryKind::Mul,
        ReduceKind::Max if d == DType::Bool => BinaryKind::Or,
        ReduceKind::Min if d == DType::Bool => BinaryKind::And,
        ReduceKind::Max => BinaryKind::Max,
        ReduceKind::Min => BinaryKind::Min,
    };
    element::binary(k, op, d, a, b)
}
