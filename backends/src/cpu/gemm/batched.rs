//! Products of two operands that arrive at run time, or whose axes are in any order.
//!
//! A grid point is one matrix of the batch and a block of its columns: these are packed into scratch in the type of the sums, then all rows pass.

use super::block::{Block, stack_bytes};
use super::{finish, name};
use crate::cpu::element;
use crate::cpu::expr::Fused;
use crate::cpu::micro::{Scheme, widen};
use crate::cpu::pack::PANEL;
use crate::emit::{Scalar, Val};
use crate::kernel::{GroupCx, Launch, LaunchBuilder, View};
use tersor_ir::ops::MatMul;
use tersor_ir::{DType, Dim, ValueId};

/// Panels of a block.
const PANELS: i64 = 4;
/// Multiply-adds worth another thread.
const THREAD_WORK: i64 = 1 << 19;

/// An operand: its first element, and bytes between rows and between columns.
struct Side {
    base: Val,
    row: Val,
    column: Val,
    /// Elements between columns.
    dense: bool,
    elem: Scalar,
    unsigned: bool,
    view: View,
    shape: Vec<Dim>,
}

impl Side {
    fn new(b: &mut LaunchBuilder, cx: &GroupCx, v: ValueId, trans: bool) -> Side {
        let (ty, view) = (cx.ty(v), cx.view(v));
        let elem = element::storage(ty.dtype).expect("checked before");
        let base = b.read(v);
        let offset = b.extent(&view.offset);
        let base = b.elem(base, offset, elem);
        let n = ty.rank();
        let (r, c) = if trans { (n - 1, n - 2) } else { (n - 2, n - 1) };
        let size = b.i64(elem.bytes().into());
        let (row, column) = (b.extent(&view.strides[r]), b.extent(&view.strides[c]));
        let dense = view.strides[c] == Dim::from(1);
        let unsigned = matches!(ty.dtype, DType::U8 | DType::U16 | DType::U32);
        let (row, column) = (b.mul(row, size), b.mul(column, size));
        Side { base, row, column, dense, elem, unsigned, view, shape: ty.shape.to_vec() }
    }

    /// The first element of the matrix at `coords` of a batch that this operand's batch broadcasts to.
    fn matrix(&self, b: &mut LaunchBuilder, coords: &[Val]) -> Val {
        let own = self.shape.len() - 2;
        let mut at = self.base;
        for (axis, &c) in (0..own).zip(&coords[coords.len() - own..]) {
            if self.shape[axis] == Dim::from(1) {
                continue;
            }
            let stride = b.extent(&self.view.strides[axis]);
            let skip = b.mul(c, stride);
            at = b.elem(at, skip, self.elem);
        }
        at
    }
}

/// The kernel of a group whose anchor is a product `y` of `a` and `w`.
pub fn build(cx: &GroupCx, op: &MatMul, fused: &Fused, (a, w, y): (ValueId, ValueId, ValueId)) -> Launch {
    let ty = cx.ty(y);
    let rank = ty.rank();
    let scheme = Scheme::Plain(element::register(ty.dtype));
    let acc = scheme.acc();
    let tile = scheme.shape(cx.isa, None);
    let mut b = LaunchBuilder::new(name(cx, [a, w, y].map(|v| cx.ty(v).dtype.name()), "matmul", tile));
    let (left, right) = (Side::new(&mut b, cx, a, op.trans_a), Side::new(&mut b, cx, w, op.trans_b));
    let (m, n) = (ty.shape[rank - 2].clone(), ty.shape[rank - 1].clone());
    let depth = left.shape[left.shape.len() - if op.trans_a { 2 } else { 1 }].clone();
    let batch: Vec<Dim> = ty.shape[..rank - 2].to_vec();
    let (rows, columns, k) = (b.extent(&m), b.extent(&n), b.extent(&depth));
    let extents: Vec<Val> = batch.iter().map(|d| b.extent(d)).collect();
    // Strides become operands of the kernel before its loops.
    for side in [&left, &right] {
        side.view.strides.iter().for_each(|s| {
            b.extent(s);
        });
    }
    let across = n.clone().ceil_div(PANELS * PANEL as i64);
    let blocks = b.extent(&across);
    let stack = b.alloca(stack_bytes(scheme, tile), 64);
    let (scratch, (begin, end)) = (b.scratch(), b.range());
    let finish = finish(fused, y);
    let counts = m.as_const().map(|m| [m]);
    b.loop_(begin, end, 1, |b, point| {
        let flat = b.div(point, blocks);
        let skip = b.mul(flat, blocks);
        let column_block = b.sub(point, skip);
        let mut rest = flat;
        let mut coords = vec![rest; batch.len()];
        for (axis, &d) in extents.iter().enumerate().rev() {
            let next = b.div(rest, d);
            let skip = b.mul(next, d);
            coords[axis] = b.sub(rest, skip);
            rest = next;
        }
        let (from, to) = (left.matrix(b, &coords), right.matrix(b, &coords));
        let (wide, sixteen) = (b.i64(PANELS * PANEL as i64), b.i64(PANEL as i64));
        let first = b.mul(column_block, wide);
        let count = b.sub(columns, first);
        let count = b.min(count, wide);
        let panels = b.ceil_div(count, PANEL as i64);
        let row_bytes = b.i64(PANEL as i64 * i64::from(acc.bytes()));
        let panel_bytes = b.mul(k, row_bytes);
        let zero = b.i64(0);
        b.loop_(zero, panels, 1, |b, p| {
            let skip = b.mul(p, panel_bytes);
            let panel = b.gep(scratch, skip);
            let skip = b.mul(p, sixteen);
            let column = b.add(first, skip);
            pack(b, &right, acc, to, column, columns, k, panel);
        });
        let stored = (left.elem != acc).then_some((left.elem, left.unsigned));
        let block = Block {
            scheme,
            tile,
            row: from,
            pitch: left.row,
            step: left.column,
            stored,
            first_row: b.mul(flat, rows),
            rows,
            counts: counts.as_ref().map(|c| &c[..]),
            panel: scratch,
            panel_bytes,
            panels,
            even: false,
            first_column: first,
            columns,
            partial: n.as_const().is_none_or(|n| n % PANEL as i64 != 0),
            depth: k,
            known: depth.as_const(),
            start: None,
            ready: None,
            stay: None,
            lookup: None,
            params: None,
            stack,
            tight: !cx.isa.wide(),
            finish: &finish,
        };
        block.run(b);
    });
    let work = m * depth.clone() * Dim::from(PANELS * PANEL as i64);
    let grain = Dim::from(THREAD_WORK).floor_div(work + 1.into()).max(1.into());
    let bytes = depth * Dim::from(PANELS * PANEL as i64 * i64::from(acc.bytes()));
    let grid = batch.into_iter().fold(across, |g, d| g * d);
    b.launch(grid, bytes, grain)
}

/// Packs sixteen columns from `column` on as `[K][16]` in the type of the sums; those that do not exist repeat others or are zero.
#[allow(clippy::too_many_arguments)]
fn pack(b: &mut LaunchBuilder, side: &Side, acc: Scalar, matrix: Val, column: Val, columns: Val, depth: Val, to: Val) {
    let zero = b.i64(0);
    let (one, row_bytes) = (b.i64(1), b.i64(PANEL as i64 * i64::from(acc.bytes())));
    if side.dense {
        let (left, from) = (b.sub(columns, column), b.elem(matrix, column, side.elem));
        let sixteen = b.i64(PANEL as i64);
        let whole = b.ge(left, sixteen);
        let copy = |b: &mut LaunchBuilder, first: Option<Val>| {
            b.loop_(zero, depth, 1, |b, i| {
                let skip = b.mul(i, side.row);
                let at = b.gep(from, skip);
                let ty = side.elem.x(PANEL as u32);
                let v = match first {
                    Some(count) => b.load_first(at, ty, count),
                    None => b.load(at, ty),
                };
                let v = widen(b, v, acc, side.unsigned);
                let skip = b.mul(i, row_bytes);
                b.store_at(v, to, skip);
            });
            vec![]
        };
        b.if_(whole, |b| copy(b, None), |b| copy(b, Some(left)));
        return;
    }
    let last = b.sub(columns, one);
    for c in 0..PANEL as i64 {
        let i = b.i64(c);
        let i = b.add(column, i);
        let i = b.min(i, last);
        let skip = b.mul(i, side.column);
        let from = b.gep(matrix, skip);
        b.loop_(zero, depth, 1, |b, i| {
            let skip = b.mul(i, side.row);
            let at = b.gep(from, skip);
            let v = b.load(at, side.elem.x(1));
            let v = widen(b, v, acc, side.unsigned);
            let skip = b.mul(i, row_bytes);
            let at = b.gep(to, skip);
            let at = b.offset(at, c * i64::from(acc.bytes()));
            b.store(v, at);
        });
    }
}
