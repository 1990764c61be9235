//! Rows written by number.
//!
//! A grid point is a column of the tensor taken as a matrix: its rows are copied, then the updates are applied in order. Nothing joins the group, since an element is not final
//! before the last update.

use super::element;
use super::expr::{Fused, Point, Row};
use super::loops::GRAIN;
use super::nest::{product, unravel};
use crate::emit::{KernelBuilder, Ty, Val};
use crate::kernel::{GroupCx, Launch, LaunchBuilder};
use tersor_ir::diag::Result;
use tersor_ir::ops::Scatter;
use tersor_ir::{DType, Dim, NodeId};

/// Builds the kernel of a group whose anchor is a scatter.
pub fn build(cx: &GroupCx, anchor: NodeId, op: &Scatter) -> Result<Launch> {
    let node = &cx.f.nodes[anchor];
    let (x, indices, updates, y) = (node.operands[0], node.operands[1], node.operands[2], node.results[0]);
    let (dtype, shape) = (cx.ty(x).dtype, cx.ty(x).shape.to_vec());
    let name = format!("{dtype}_{}__{}", op.kind.name().replace('.', "_"), cx.isa.suffix());
    let mut b = LaunchBuilder::new(name);
    let (from, at_list, list) = (Fused::new(cx, x)?, Fused::new(cx, indices)?, Fused::new(cx, updates)?);
    let inner = &shape[1..];
    let width = b.extent(&product(inner));
    let (rows, count) = (b.extent(&shape[0]), b.extent(&cx.ty(updates).shape[0]));
    let (begin, end) = b.range();
    let point = |b: &mut LaunchBuilder, row: Val, column: Val| {
        let mut index = vec![row];
        index.extend(unravel(b, column, inner));
        let last = index.pop().unwrap_or(row);
        Point::new(Row::Index(index), last, 1)
    };
    let element_of = |b: &mut LaunchBuilder, row: Val, column: Val| {
        let start = b.mul(row, width);
        let at = b.add(start, column);
        let (to, ty) = (b.write(y), element::storage(dtype).unwrap_or(crate::emit::Scalar::I8));
        (b.elem(to, at, ty), Ty::Scalar(ty))
    };
    let zero = b.i64(0);
    b.loop_(zero, rows, 1, |b, row| {
        b.loop_(begin, end, 1, |b, column| {
            let at = point(b, row, column);
            let v = from.emit(b, &[], &at, &[x])[0];
            from.store(b, y, v, &at);
        });
    });
    // Without rows there is nowhere to write.
    let some = b.gt(rows, zero);
    let count = b.select(some, count, zero);
    b.loop_(zero, count, 1, |b, m| {
        let at = Point::new(Row::Index(vec![]), m, 1);
        let i = at_list.emit(b, &[], &at, &[indices])[0];
        let k: &mut KernelBuilder = b;
        let i = element::cast(k, cx.ty(indices).dtype, DType::I64, i);
        let (negative, turned, one) = (k.lt(i, zero), k.add(i, rows), k.i64(1));
        let i = k.select(negative, turned, i);
        let last = k.sub(rows, one);
        let i = k.max(i, zero);
        let i = k.min(i, last);
        b.loop_(begin, end, 1, |b, column| {
            let at = point(b, m, column);
            let mut v = list.emit(b, &[], &at, &[updates])[0];
            let (to, ty) = element_of(b, i, column);
            if let Some(kind) = op.kind.combine() {
                let old = b.load(to, ty);
                let old = element::loaded(b, dtype, old);
                v = element::binary(b, kind, dtype, old, v);
            }
            let v = element::to_store(b, dtype, v);
            b.store(v, to);
        });
    });
    let each = [&shape[0], &cx.ty(updates).shape[0]].iter().map(|d| d.as_const().unwrap_or(64)).sum::<i64>();
    let grid: Dim = product(inner);
    Ok(b.launch(grid, 0, (GRAIN / each.max(1)).max(1)))
}
