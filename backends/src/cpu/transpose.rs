//! Transposes that turn the vector axis, in square tiles held in registers.
//!
//! The result's last axis and the operand's last axis span planes of tiles; a grid point is one strip of tiles along the result's last axis. What sticks out of whole tiles is moved
//! element by element.

use super::element;
use super::nest::{product, unravel};
use crate::emit::{KernelBuilder, Scalar, Ty, Val};
use crate::kernel::{GroupCx, Launch, LaunchBuilder, View};
use tersor_ir::{Dim, Op, Type, ValueId};

/// A transpose with axes that stay neighbours taken as one: extents of the operand, and which of its axes each of the result's is.
pub struct Turn {
    x: ValueId,
    shape: Vec<Dim>,
    perm: Vec<usize>,
}

/// The transpose that a group consists of, if it turns the last axis of a dense operand.
pub fn fits(cx: &GroupCx) -> Option<Turn> {
    let [n] = cx.group.nodes[..] else { return None };
    let node = &cx.f.nodes[n];
    let Op::Transpose(t) = &node.op else { return None };
    let x = node.operands[0];
    let ty = cx.ty(x);
    element::storage(ty.dtype)?;
    if cx.view(x) != View::dense(x, ty) {
        return None;
    }
    // Runs of the operand's axes, in the order of the result.
    let mut runs: Vec<Vec<usize>> = vec![];
    for p in t.perm.iter().map(|&p| usize::from(p)) {
        let next = |r: &&mut Vec<usize>| r.last().is_some_and(|&l| l + 1 == p);
        match runs.last_mut().filter(next) {
            Some(r) => r.push(p),
            None => runs.push(vec![p]),
        }
    }
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by_key(|&i| runs[i][0]);
    let extent = |r: &[usize]| r.iter().fold(Dim::from(1), |a, &i| a * ty.shape[i].clone());
    let shape: Vec<Dim> = order.iter().map(|&i| extent(&runs[i])).collect();
    let mut perm = vec![0; runs.len()];
    order.iter().enumerate().for_each(|(axis, &i)| perm[i] = axis);
    let last = shape.len().checked_sub(1)?;
    let wide = |d: &Dim| d.as_const().is_none_or(|n| n >= 4);
    (perm[last] != last && wide(&shape[last]) && wide(&shape[perm[last]])).then_some(Turn { x, shape, perm })
}

/// Builds the kernel of such a group.
pub fn build(cx: &GroupCx, turn: &Turn) -> Launch {
    let (dtype, y) = (cx.ty(turn.x).dtype, cx.f.nodes[cx.group.nodes[0]].results[0]);
    let s = element::storage(dtype).unwrap_or(Scalar::I8);
    let n: u32 = if s.bytes() == 8 { 4 } else { 8 };
    let mut b = LaunchBuilder::new(format!("{dtype}_transpose__{}", cx.isa.suffix()));
    let (shape, perm, rank) = (&turn.shape, &turn.perm, turn.shape.len());
    let strides = |shape: &[Dim]| View::dense(turn.x, &Type::new(dtype, shape)).strides;
    let from = strides(shape);
    let to = strides(&perm.iter().map(|&p| shape[p].clone()).collect::<Vec<_>>());
    // In the operand's axes: `row` becomes the result's last axis, `rank - 1` is the operand's.
    let row = perm[rank - 1];
    let place = |axis: usize| perm.iter().position(|&p| p == axis).expect("a permutation");
    let others: Vec<usize> = (0..rank - 1).filter(|&a| a != row).collect();
    let extents: Vec<Dim> = others.iter().map(|&a| shape[a].clone()).collect();
    let (rows, cols) = (shape[row].clone(), shape[rank - 1].clone());
    let strips = cols.clone().ceil_div(n.into());
    let (source, target) = (b.read(turn.x), b.write(y));
    let (per_plane, row_count, col_count) = (b.extent(&strips), b.extent(&rows), b.extent(&cols));
    let (in_row, out_col) = (b.extent(&from[row]), b.extent(&to[place(rank - 1)]));
    let steps: Vec<(Val, Val)> = others.iter().map(|&a| (b.extent(&from[a]), b.extent(&to[place(a)]))).collect();
    let (begin, end) = b.range();
    b.loop_(begin, end, 1, |b, i| {
        let (plane, strip) = (b.div(i, per_plane), b.rem(i, per_plane));
        let index = unravel(b, plane, &extents);
        let (mut source_at, mut target_at) = (b.i64(0), b.i64(0));
        for (&i, &(f, t)) in index.iter().zip(&steps) {
            let (f, t) = (b.mul(i, f), b.mul(i, t));
            (source_at, target_at) = (b.add(source_at, f), b.add(target_at, t));
        }
        let size = b.i64(n.into());
        let col = b.mul(strip, size);
        let out = b.mul(col, out_col);
        let (source_at, target_at) = (b.add(source_at, col), b.add(target_at, out));
        let (source, target) = (b.elem(source, source_at, s), b.elem(target, target_at, s));
        let left = b.sub(col_count, col);
        let width = b.min(left, size);
        let full = b.ge(left, size);
        let (zero, tiles) = (b.i64(0), b.div(row_count, size));
        let whole = b.mul(tiles, size);
        let k: &mut KernelBuilder = b;
        let whole = k.select(full, whole, zero);
        k.loop_(zero, whole, n.into(), |k, r| {
            let at = k.mul(r, in_row);
            let rows: Vec<Val> = (0..n)
                .map(|i| {
                    let down = k.i64(i.into());
                    let down = k.mul(down, in_row);
                    let at = k.add(at, down);
                    let p = k.elem(source, at, s);
                    k.load(p, s.x(n))
                })
                .collect();
            for (j, v) in turned(k, rows).into_iter().enumerate() {
                let across = k.i64(j as i64);
                let across = k.mul(across, out_col);
                let at = k.add(across, r);
                let p = k.elem(target, at, s);
                k.store(v, p);
            }
        });
        k.loop_(zero, width, 1, |k, j| {
            k.loop_(whole, row_count, 1, |k, r| one(k, s, source, target, (r, in_row), (j, out_col)));
        });
    });
    let each = rows.as_const().unwrap_or(256).max(1) * i64::from(n);
    let grain = (super::loops::GRAIN / each).max(1);
    b.launch(product(&extents) * strips, 0, grain)
}

fn one(k: &mut KernelBuilder, s: Scalar, source: Val, target: Val, row: (Val, Val), col: (Val, Val)) {
    let at = k.mul(row.0, row.1);
    let at = k.add(at, col.0);
    let p = k.elem(source, at, s);
    let v = k.load(p, Ty::Scalar(s));
    let at = k.mul(col.0, col.1);
    let at = k.add(at, row.0);
    let p = k.elem(target, at, s);
    k.store(v, p);
}

/// Columns of a square of rows, by rounds that interleave the two halves.
fn turned(k: &mut KernelBuilder, mut rows: Vec<Val>) -> Vec<Val> {
    let n = rows.len() as u32;
    let half = n / 2;
    let low: Vec<u32> = (0..half).flat_map(|i| [i, n + i]).collect();
    let high: Vec<u32> = (half..n).flat_map(|i| [i, n + i]).collect();
    for _ in 0..n.ilog2() {
        let pairs = (0..half as usize).map(|i| (rows[i], rows[i + half as usize])).collect::<Vec<_>>();
        rows = pairs.into_iter().flat_map(|(a, c)| [k.shuffle(a, c, &low), k.shuffle(a, c, &high)]).collect();
    }
    rows
}
