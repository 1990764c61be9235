//! Windows: largest element or mean.
//!
//! A grid point is a row of results; vectors run along the channels, which are last in every image that compilation lays out itself. Other images are taken one
//! element at a time. Taps outside the image are left out by the bounds of the loops over the window.

use super::element;
use super::expr::{Fused, Point, Row};
use super::loops::{GRAIN, lanes};
use super::nest::{Columns, outputs, product, unravel};
use crate::emit::{KernelBuilder, Ty, Val};
use crate::kernel::{GroupCx, Launch, LaunchBuilder};
use tersor_ir::diag::Result;
use tersor_ir::ops::Pool;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::pool::PoolKind;
use tersor_ir::{DType, Dim, NodeId, ValueId};

/// Builds the kernel of a group whose anchor is a pool.
pub fn build(cx: &GroupCx, anchor: NodeId, op: &Pool) -> Result<Launch> {
    let node = &cx.f.nodes[anchor];
    let (x, y) = (node.operands[0], node.results[0]);
    let mut b =
        LaunchBuilder::new(format!("{}_{}__{}", cx.ty(x).dtype, op.kind.name().replace('.', "_"), cx.isa.suffix()));
    let (from, shape) = (cx.ty(x).shape.to_vec(), cx.ty(y).shape.to_vec());
    let wide = if op.channels_last { lanes(cx) } else { 1 };
    let columns = Columns::new(cx, &shape, 1, wide);
    let late = outputs(cx, anchor).1;
    let pool =
        Windows { op, x, y, dtype: cx.ty(x).dtype, from, source: Fused::new(cx, x)?, to: Fused::new(cx, y)?, late };
    let rank = shape.len();
    let (begin, end) = b.range();
    b.loop_(begin, end, 1, |b, i| {
        let index = unravel(b, i, &shape[..rank - 1]);
        columns.each(b, &Row::Flat(i), |b, at| pool.window(b, &index, at));
    });
    let each = shape[rank - 1].as_const().unwrap_or(64) * op.kernel.iter().product::<i64>();
    Ok(b.launch(product(&shape[..rank - 1]), 0, (GRAIN / each.max(1)).max(1)))
}

struct Windows<'a> {
    op: &'a Pool,
    x: ValueId,
    y: ValueId,
    dtype: DType,
    from: Vec<Dim>,
    source: Fused<'a>,
    to: Fused<'a>,
    late: Vec<ValueId>,
}

impl Windows<'_> {
    fn sums(&self) -> DType {
        match self.dtype {
            d if self.op.kind == PoolKind::Max || d.is_float() => d,
            d if d.int_range().is_some_and(|r| r.0 == 0) => DType::U64,
            _ => DType::I64,
        }
    }

    fn window(&self, b: &mut LaunchBuilder, index: &[Val], at: &Point) {
        let rank = self.from.len();
        let spatial = rank - 2;
        let first = if self.op.channels_last { 1 } else { 2 };
        let mut full = index.to_vec();
        full.push(at.col);
        // Input positions of the first tap, and the taps that are inside.
        let (mut bounds, mut count) = (vec![], b.i64(1));
        for i in 0..spatial {
            let (stride, pad, extent) =
                (b.i64(self.op.strides[i]), b.i64(self.op.pads[i]), b.extent(&self.from[first + i]));
            let origin = b.mul(full[first + i], stride);
            let origin = b.sub(origin, pad);
            let (zero, taps) = (b.i64(0), b.i64(self.op.kernel[i]));
            let before = b.sub(zero, origin);
            let before = b.max(before, zero);
            let lo = b.ceil_div(before, self.op.dilations[i]);
            let after = b.sub(extent, origin);
            let after = b.max(after, zero);
            let hi = b.ceil_div(after, self.op.dilations[i]);
            let hi = b.min(hi, taps);
            let inside = b.sub(hi, lo);
            let inside = b.max(inside, zero);
            count = b.mul(count, inside);
            bounds.push((origin, lo, hi));
        }
        let sums = self.sums();
        let start = match self.op.kind {
            PoolKind::Max if self.dtype.is_float() => element::immediate(b, sums, f64::NEG_INFINITY),
            PoolKind::Max => {
                let low = self.dtype.int_range().map_or(0, |r| r.0);
                b.int(Ty::Scalar(element::register(sums)), low as i64)
            }
            PoolKind::Avg => element::immediate(b, sums, 0.0),
        };
        let start = b.splat(start, at.lanes);
        let acc = self.taps(b, &bounds, first, &full, at, start);
        let y = if self.op.kind == PoolKind::Max { acc } else { self.mean(b, acc, count) };
        let values = self.to.emit(b, &[(self.y, y)], at, &self.late);
        for (&v, y) in self.late.iter().zip(values) {
            self.to.store(b, v, y, at);
        }
    }

    /// Loops over the window's axes from `full[axis]` on.
    fn taps(
        &self,
        b: &mut LaunchBuilder,
        bounds: &[(Val, Val, Val)],
        axis: usize,
        full: &[Val],
        at: &Point,
        acc: Val,
    ) -> Val {
        let Some((&(origin, lo, hi), rest)) = bounds.split_first() else {
            let last = full.len() - 1;
            let at = Point { row: Row::Index(full[..last].to_vec()), col: full[last], ..at.clone() };
            let v = self.source.emit(b, &[], &at, &[self.x])[0];
            let k: &mut KernelBuilder = b;
            let v = element::cast(k, self.dtype, self.sums(), v);
            let op = if self.op.kind == PoolKind::Max { BinaryKind::Max } else { BinaryKind::Add };
            return element::binary(k, op, self.sums(), acc, v);
        };
        let spatial = self.from.len() - 2 - bounds.len();
        let (one, dilation) = (b.i64(1), b.i64(self.op.dilations[spatial]));
        b.for_(lo, hi, one, &[acc], |b, tap, acc| {
            let offset = b.mul(tap, dilation);
            let mut full = full.to_vec();
            full[axis] = b.add(origin, offset);
            vec![self.taps(b, rest, axis + 1, &full, at, acc[0])]
        })[0]
    }

    fn mean(&self, b: &mut LaunchBuilder, sum: Val, inside: Val) -> Val {
        let n = if self.op.count_pad { b.i64(self.op.kernel.iter().product()) } else { inside };
        let k: &mut KernelBuilder = b;
        if self.dtype.is_float() {
            let n = k.to_float(n, sum.elem());
            return k.div(sum, n);
        }
        let q = element::binary(k, BinaryKind::Div, self.sums(), sum, n);
        element::cast(k, self.sums(), self.dtype, q)
    }
}
