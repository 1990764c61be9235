//! Kernels that need a whole row before they can write any of it: softmax, normalisations, dynamic quantisation.
//!
//! A grid point is one row. Its elements are computed once, by the nodes before the anchor, kept in scratch where that is more than a read, and finished by the nodes after it. A
//! softmax along another axis than the last takes vectors of columns and goes over its axis three times.

use super::element;
use super::expr::{Fused, Point, Row};
use super::loops::{GRAIN, lanes, per_point};
use super::nest::{Columns, outputs, over, present, product, unravel};
use super::wide;
use crate::emit::{KernelBuilder, Scalar, Ty, Val, math};
use crate::kernel::{GroupCx, Launch, LaunchBuilder};
use tersor_ir::diag::Result;
use tersor_ir::ops::Softmax;
use tersor_ir::ops::unary::UnaryKind;
use tersor_ir::{DType, Dim, NodeId, Op, ValueId};

/// Builds the kernel of a group whose anchor works on rows.
pub fn build(cx: &GroupCx, anchor: NodeId) -> Result<Launch> {
    let node = &cx.f.nodes[anchor];
    let x = node.operands[0];
    let name = format!("{}_{}__{}", cx.ty(x).dtype, node.op.mnemonic().replace('.', "_"), cx.isa.suffix());
    let mut b = LaunchBuilder::new(name);
    let shape = cx.ty(x).shape.to_vec();
    let merged = match &node.op {
        Op::LayerNorm(n) => shape.len() - usize::from(n.axis),
        Op::RmsNorm(n) => shape.len() - usize::from(n.axis),
        _ => 1,
    };
    let (early, late) = outputs(cx, anchor);
    let mut columns = Columns::new(cx, &shape, merged, lanes(cx));
    if let Op::QuantDynamic(q) = &node.op
        && q.group > 0
    {
        // Vectors start at multiples of their lanes, in every group.
        let whole = 1 << q.group.trailing_zeros();
        columns = Columns::new(cx, &[i64::from(q.group).into()], 1, lanes(cx).min(whole));
    }
    let float = element::register(cx.ty(x).dtype);
    let kept = cx.inside(x) || matches!(node.op, Op::Softmax(_));
    let fused = Fused::new(cx, x)?;
    let rows = Rows { cx, x, y: node.results[0], shape, fused, early, late, columns, float, kept };
    if let Op::Softmax(s) = &node.op
        && usize::from(s.axis) + 1 != rows.shape.len()
    {
        let grid = rows.strided_softmax(&mut b, s);
        return Ok(b.launch(grid, 0, 8));
    }
    let (begin, end) = b.range();
    b.loop_(begin, end, 1, |b, row| match &node.op {
        Op::Softmax(s) => rows.softmax(b, row, s.log),
        Op::LayerNorm(n) => rows.norm(b, row, true, n.eps.0, &node.operands[1..]),
        Op::RmsNorm(n) => rows.norm(b, row, false, n.eps.0, &node.operands[1..]),
        _ => rows.quant(b, row, &node.results),
    });
    let grid = product(&rows.shape[..rows.shape.len() - merged]);
    let cols = product(&rows.shape[rows.shape.len() - merged..]);
    let bytes = (cols.clone() + 64.into()) * i64::from(float.bytes()).into();
    let scratch = if rows.kept { bytes } else { Dim::from(0) };
    let grain = per_point(GRAIN / 8, &cols);
    Ok(b.launch(grid, scratch, grain))
}

struct Rows<'a> {
    cx: &'a GroupCx<'a>,
    x: ValueId,
    y: ValueId,
    shape: Vec<Dim>,
    fused: Fused<'a>,
    early: Vec<ValueId>,
    late: Vec<ValueId>,
    columns: Columns,
    float: Scalar,
    /// Scratch holds the row after it was first read.
    kept: bool,
}

fn exp(k: &mut KernelBuilder, x: Val) -> Val {
    if x.elem() == Scalar::F64 { wide::exp(k, x) } else { math::exp(k, x) }
}

fn add(k: &mut KernelBuilder, a: &[Val], b: &[Val]) -> Vec<Val> {
    vec![k.add(a[0], b[0])]
}

impl Rows<'_> {
    /// The element where a pass begins: computed, with outputs on the way stored.
    fn first(&self, b: &mut LaunchBuilder, at: &Point) -> Val {
        let mut roots = self.early.clone();
        roots.push(self.x);
        let values = self.fused.emit(b, &[], at, &roots);
        for (&v, &y) in self.early.iter().zip(&values) {
            self.fused.store(b, v, y, at);
        }
        values[self.early.len()]
    }

    /// The element in a later pass.
    fn again(&self, b: &mut LaunchBuilder, at: &Point) -> Val {
        if self.cx.inside(self.x) { self.kept_at(b, at) } else { self.first(b, at) }
    }

    fn slot(&self, b: &mut LaunchBuilder, at: &Point) -> Val {
        let scratch = b.scratch();
        b.elem(scratch, at.col, self.float)
    }

    /// Lanes past the count hold what was kept there.
    fn kept_at(&self, b: &mut LaunchBuilder, at: &Point) -> Val {
        let from = self.slot(b, at);
        b.load(from, self.float.x(at.lanes))
    }

    fn keep(&self, b: &mut LaunchBuilder, at: &Point, v: Val) {
        let to = self.slot(b, at);
        b.store(v, to);
    }

    fn finish(&self, b: &mut LaunchBuilder, at: &Point, x: Option<Val>, y: Val) {
        let mut known = vec![(self.y, y)];
        known.extend(x.map(|x| (self.x, x)));
        let values = self.fused.emit(b, &known, at, &self.late);
        for (&v, y) in self.late.iter().zip(values) {
            self.fused.store(b, v, y, at);
        }
    }

    fn zero(&self, b: &mut LaunchBuilder) -> Val {
        b.zero(Ty::Scalar(self.float))
    }

    fn softmax(&self, b: &mut LaunchBuilder, row: Val, log: bool) {
        let (row, inside) = (Row::Flat(row), self.cx.inside(self.x));
        let low = b.float(Ty::Scalar(self.float), f64::NEG_INFINITY);
        // A NaN is dropped here and comes back through the sum.
        let max = self.columns.fold(
            b,
            &row,
            &[low],
            2,
            |b, at, acc| {
                let v = self.first(b, at);
                if inside {
                    self.keep(b, at, v);
                }
                let next = b.max(v, acc[0]);
                vec![present(b, at, next, acc[0])]
            },
            |k, a, c| vec![k.max(a[0], c[0])],
        )[0];
        let zero = self.zero(b);
        let sum = self.columns.fold(
            b,
            &row,
            &[zero],
            2,
            |b, at, acc| {
                let v = self.again(b, at);
                let max = b.splat(max, at.lanes);
                let v = b.sub(v, max);
                let e = exp(b, v);
                if !log {
                    self.keep(b, at, e);
                }
                let next = b.add(acc[0], e);
                vec![present(b, at, next, acc[0])]
            },
            add,
        )[0];
        if log {
            let l = element::unary(b, UnaryKind::Log, self.cx.ty(self.x).dtype, sum);
            self.columns.each(b, &row, |b, at| {
                let x = self.again(b, at);
                let (max, l) = (b.splat(max, at.lanes), b.splat(l, at.lanes));
                let v = b.sub(x, max);
                let y = b.sub(v, l);
                self.finish(b, at, Some(x), y);
            });
            return;
        }
        let one = b.float(sum.ty(), 1.0);
        let scale = b.div(one, sum);
        self.columns.each(b, &row, |b, at| {
            let e = self.kept_at(b, at);
            let scale = b.splat(scale, at.lanes);
            let y = b.mul(e, scale);
            self.finish(b, at, None, y);
        });
    }

    /// Softmax along an axis before the last.
    fn strided_softmax(&self, b: &mut LaunchBuilder, s: &Softmax) -> Dim {
        let (rank, axis) = (self.shape.len(), usize::from(s.axis));
        let mut kept = self.shape[..rank - 1].to_vec();
        kept[axis] = 1.into();
        let n = i64::from(self.columns.lanes);
        let vectors = self.columns.extent.clone().ceil_div(n);
        let (per_row, cols, (begin, end)) = (b.extent(&vectors), b.extent(&self.columns.extent), b.range());
        b.loop_(begin, end, 1, |b, i| {
            let (row, vector) = (b.div(i, per_row), b.rem(i, per_row));
            let index = unravel(b, row, &kept);
            let lo = {
                let n = b.i64(n);
                b.mul(vector, n)
            };
            let left = b.sub(cols, lo);
            let whole = {
                let n = b.i64(n);
                b.ge(left, n)
            };
            b.if_(
                whole,
                |b| {
                    self.slab(b, axis, &index, lo, self.columns.lanes, s.log);
                    vec![]
                },
                |b| {
                    b.loop_(lo, cols, 1, |b, col| self.slab(b, axis, &index, col, 1, s.log));
                    vec![]
                },
            );
        });
        product(&kept) * vectors
    }

    fn slab(&self, b: &mut LaunchBuilder, axis: usize, index: &[Val], col: Val, lanes: u32, log: bool) {
        let point = |index: &[Val]| self.columns.point(&Row::Index(index.to_vec()), col, lanes);
        let ty = self.float.x(lanes);
        let (low, zero) = (b.float(ty, f64::NEG_INFINITY), b.zero(ty));
        let max = over(b, &self.shape, &[axis], index, &[low], &|b, index, acc| {
            let v = self.first(b, &point(index));
            vec![b.max(v, acc[0])]
        })[0];
        let again = |b: &mut LaunchBuilder, at: &Point| self.fused.emit(b, &[], at, &[self.x])[0];
        let sum = over(b, &self.shape, &[axis], index, &[zero], &|b, index, acc| {
            let v = again(b, &point(index));
            let v = b.sub(v, max);
            let e = exp(b, v);
            vec![b.add(acc[0], e)]
        })[0];
        let sum = if log { element::unary(b, UnaryKind::Log, self.cx.ty(self.x).dtype, sum) } else { sum };
        over(b, &self.shape, &[axis], index, &[], &|b, index, _| {
            let at = point(index);
            let x = again(b, &at);
            let v = b.sub(x, max);
            let y = if log {
                b.sub(v, sum)
            } else {
                let e = exp(b, v);
                b.div(e, sum)
            };
            self.finish(b, &at, Some(x), y);
            vec![]
        });
    }

    fn norm(&self, b: &mut LaunchBuilder, row: Val, centred: bool, eps: f64, params: &[ValueId]) {
        let row = Row::Flat(row);
        let zero = self.zero(b);
        let extent = b.extent(&self.columns.extent);
        let n = b.to_float(extent, self.float);
        let mean = centred.then(|| {
            let sum = self.columns.fold(
                b,
                &row,
                &[zero],
                4,
                |b, at, acc| {
                    let v = self.first(b, at);
                    if self.kept {
                        self.keep(b, at, v);
                    }
                    let next = b.add(acc[0], v);
                    vec![present(b, at, next, acc[0])]
                },
                add,
            )[0];
            b.div(sum, n)
        });
        let squares = self.columns.fold(
            b,
            &row,
            &[zero],
            4,
            |b, at, acc| {
                let v = match mean {
                    Some(mean) => {
                        let v = self.again(b, at);
                        let mean = b.splat(mean, at.lanes);
                        b.sub(v, mean)
                    }
                    None => {
                        let v = self.first(b, at);
                        if self.kept {
                            self.keep(b, at, v);
                        }
                        v
                    }
                };
                let next = b.fma(v, v, acc[0]);
                vec![present(b, at, next, acc[0])]
            },
            add,
        )[0];
        let variance = b.div(squares, n);
        let eps = b.float(variance.ty(), eps);
        let sum = b.add(variance, eps);
        let root = b.sqrt(sum);
        let one = b.float(root.ty(), 1.0);
        let scale = b.div(one, root);
        self.columns.each(b, &row, |b, at| {
            let x = self.again(b, at);
            let p = self.fused.emit(b, &[(self.x, x)], at, params);
            let scale = b.splat(scale, at.lanes);
            let v = match mean {
                Some(mean) => {
                    let mean = b.splat(mean, at.lanes);
                    b.sub(x, mean)
                }
                None => x,
            };
            let mut y = b.mul(v, scale);
            y = match p[..] {
                [] => y,
                [s] => b.mul(y, s),
                [s, bias, ..] => b.fma(y, s, bias),
            };
            self.finish(b, at, Some(x), y);
        });
    }

    /// Group after group of a row's elements; a row is one where they are not grouped.
    fn quant(&self, b: &mut LaunchBuilder, row: Val, results: &[ValueId]) {
        let groups = self.cx.ty(results[1]).shape.last().expect("one axis").clone();
        let (zero, count, each) = (b.i64(0), b.extent(&groups), b.extent(&self.columns.extent));
        let first = b.mul(row, count);
        b.loop_(zero, count, 1, |b, group| {
            let from = b.mul(group, each);
            let at = b.add(first, group);
            self.quant_group(b, row, (from, at), results);
        });
    }

    /// The group that starts at column `from`; its scale is number `at` of all.
    fn quant_group(&self, b: &mut LaunchBuilder, row: Val, (from, at_scale): (Val, Val), results: &[ValueId]) {
        let (at_row, d) = (Row::Flat(row), self.cx.ty(self.x).dtype);
        let shifted = |b: &mut LaunchBuilder, at: &Point| Point { col: b.add(at.col, from), ..at.clone() };
        let zero = self.zero(b);
        let max = self.columns.fold(
            b,
            &at_row,
            &[zero],
            2,
            |b, at, acc| {
                let at = &shifted(b, at);
                let v = self.first(b, at);
                if self.kept {
                    self.keep(b, at, v);
                }
                let size = b.abs(v);
                let next = b.max(size, acc[0]);
                vec![present(b, at, next, acc[0])]
            },
            |k, a, c| vec![k.max(a[0], c[0])],
        )[0];
        let most = b.float(max.ty(), 127.0);
        let scale = b.div(max, most);
        let stored = element::to_store(b, d, scale);
        let scale = element::loaded(b, d, stored);
        if self.late.contains(&results[1]) {
            let to = b.write(results[1]);
            let to = b.elem(to, at_scale, stored.elem());
            b.store(stored, to);
        }
        if !self.late.contains(&results[0]) {
            return;
        }
        let empty = b.eq(scale, zero);
        self.columns.each(b, &at_row, |b, at| {
            let at = &shifted(b, at);
            let x = self.again(b, at);
            let scale = b.splat(scale, at.lanes);
            let q = element::quant(b, x, scale, None, DType::I8, true);
            let none = b.zero(q.ty());
            let q = b.select(empty, none, q);
            self.fused.store(b, results[0], q, at);
        });
    }
}
