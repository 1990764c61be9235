//! Matrix products with a fused epilogue.
//!
//! Products with a constant right side run on packed weights ([`weights`]); all others pack the right side on the way ([`batched`]). Either way the nodes after
//! the product see sixteen sums at a time.

pub mod batched;
pub mod block;
pub mod rows;
pub mod weights;

#[cfg(test)]
mod tests;

use super::element;
use super::encoded::Encoded;
use super::encoded::codes::Codes;
use super::expr::{Fused, Point, Row};
use super::micro::Scheme;
use super::pack::Matrix;
use crate::emit::{Scalar, Val};
use crate::fuse::is_rows;
use crate::kernel::{GroupCx, Launch, LaunchBuilder};
use rows::{Change, Coded};
use tersor_ir::ops::MatMul;
use tersor_ir::{DType, Diagnostic, Dim, Failure, Op, ValueId};
use weights::{Left, Product, Weights};

/// The kernel of a group whose anchor is a product.
pub fn build(cx: &GroupCx) -> Result<Launch, Diagnostic> {
    let node = &cx.f.nodes[cx.group.anchor.expect("a group with an anchor")];
    let Op::MatMul(op) = &node.op else {
        let message = format!("{} is not a product", node.op.mnemonic());
        return Err(Diagnostic::error("B0360", message).failure(Failure::Internal));
    };
    let (a, w, y) = (node.operands[0], node.operands[1], node.results[0]);
    let fused = Fused::new(cx, y)?;
    let elem = storage(cx.ty(a).dtype)?;
    storage(cx.ty(y).dtype)?;
    let one = cx.ty(w).shape[..cx.ty(w).rank() - 2].iter().all(|d| *d == Dim::Const(1));
    if !op.trans_a && one && is_rows(&cx.view(a), &cx.ty(a).shape) {
        let (k, n) = depth_and_columns(cx, op, w);
        let trans_b = op.trans_b;
        let at = move |_: usize, i: usize, j: usize| if trans_b { j * k + i } else { i * n + j };
        let matrix = Matrix { groups: 1, k, n, at: &at };
        if let Some(weights) = constant(cx, (a, w, y), &matrix) {
            return Ok(match Coded::of(cx, a) {
                Some(coded) => build_coded(cx, &fused, (a, y), coded, weights, &matrix),
                None => build_with(cx, &fused, (a, y), elem, weights, &matrix),
            });
        }
    }
    storage(cx.ty(w).dtype)?;
    Ok(batched::build(cx, op, &fused, (a, w, y)))
}

/// Extents of a right operand; 0 where they are not known.
fn depth_and_columns(cx: &GroupCx, op: &MatMul, w: ValueId) -> (usize, usize) {
    let extent = |back: usize| cx.ty(w).shape[cx.ty(w).rank() - back].as_const().unwrap_or(0) as usize;
    if op.trans_b { (extent(1), extent(2)) } else { (extent(2), extent(1)) }
}

/// The arithmetic for the constant weights `w`, and what is stored of them: codes where products can keep them, else elements. `None` where `w` is not constant.
pub fn constant(cx: &GroupCx, (a, w, y): (ValueId, ValueId, ValueId), matrix: &Matrix) -> Option<(Scheme, Weights)> {
    if let Some(e) = Encoded::of(cx, w, matrix) {
        return Some((Scheme::Encoded(e.format, cx.isa.wide()), Weights::Encoded(e)));
    }
    let t = cx.constant(w)?;
    let (scheme, layout) = Scheme::choose(cx.ty(a).dtype, &t, matrix, element::register(cx.ty(y).dtype), cx.isa);
    Some((scheme, Weights::Elements(t, layout)))
}

/// The type of elements in memory.
pub fn storage(d: DType) -> Result<Scalar, Diagnostic> {
    element::storage(d).filter(|_| d != DType::Bool).ok_or_else(|| {
        Diagnostic::error("B0361", format!("no kernel multiplies {d}"))
            .with_note("cast the operands to a float or to integers of at least 8 bits first")
            .failure(Failure::Unsupported)
    })
}

/// The epilogue: the nodes after `y`, stored.
pub fn finish<'a>(fused: &'a Fused<'a>, y: ValueId) -> impl Fn(&mut LaunchBuilder, Val, Val, Val, Option<Val>) + 'a {
    move |b, sums, row, col, count| {
        let at = Point { row: Row::Flat(row), col, lanes: sums.lanes(), count, merged: 1 };
        fused.store_outputs(b, &[(y, sums)], &at);
    }
}

/// A kernel's name.
pub fn name(cx: &GroupCx, types: [&str; 3], what: &str, tile: (i64, i64)) -> String {
    format!("{}_{what}_{}x{}__{}", types.join("_"), tile.0, tile.1 * 16, cx.isa.suffix())
}

/// How stored elements become those of packed rows, and whether that adds 128.
pub fn change(scheme: Scheme, from: DType, elem: Scalar) -> Change {
    let bias = if matches!(scheme, Scheme::Quads | Scheme::ShortQuads) && from == DType::I8 { 128 } else { 0 };
    let unsigned = matches!(from, DType::U8 | DType::U16 | DType::U32);
    Change { from: elem, to: scheme.row(), unsigned, bias }
}

/// The kernel on constant weights of rows that are codes.
fn build_coded(
    cx: &GroupCx,
    fused: &Fused,
    (a, y): (ValueId, ValueId),
    coded: Coded,
    (mut scheme, weights): (Scheme, Weights),
    matrix: &Matrix,
) -> Launch {
    let ta = cx.ty(a);
    if let Weights::Encoded(w) = &weights {
        scheme = Codes::of(w.format, coded.group, w.narrow, cx.isa).map_or(scheme, Scheme::Codes);
    }
    let m = ta.shape[..ta.rank() - 1].iter().fold(Dim::from(1), |m, d| m * d.clone());
    let product = Product { scheme, isa: cx.isa, m, weights, matrix, biased: false };
    let rows = format!("i8g{}", coded.group);
    let types = [&rows[..], &product.weights.name(), cx.ty(y).dtype.name()];
    let mut b = LaunchBuilder::new(name(cx, types, "gemm", product.tile()));
    let (codes, scales) = (b.read(coded.codes), b.read(coded.scales));
    let depth = matrix.k as i64;
    let pack = |b: &mut LaunchBuilder, _: Val, index: Val, to: Val| {
        let (row, groups) = (b.i64(depth), b.i64(depth / coded.group));
        let (skip, first) = (b.mul(index, row), b.mul(index, groups));
        let (from, scales) = (b.gep(codes, skip), b.elem(scales, first, Scalar::F32));
        match scheme {
            Scheme::Codes(c) => coded.copy(b, &c, (from, scales), to, depth),
            _ => coded.decode(b, (from, scales), to, depth),
        }
    };
    let finish = finish(fused, y);
    let change = Change { from: scheme.row(), to: scheme.row(), unsigned: false, bias: 0 };
    product.build(b, &Left::Packed(&pack, change), &finish)
}

/// The kernel on constant weights.
fn build_with(
    cx: &GroupCx,
    fused: &Fused,
    (a, y): (ValueId, ValueId),
    elem: Scalar,
    (scheme, weights): (Scheme, Weights),
    matrix: &Matrix,
) -> Launch {
    let (ta, k) = (cx.ty(a), matrix.k);
    let rank = ta.rank();
    let change = change(scheme, ta.dtype, elem);
    let m = ta.shape[..rank - 1].iter().fold(Dim::from(1), |m, d| m * d.clone());
    let product = Product { scheme, isa: cx.isa, m: m.clone(), weights, matrix, biased: change.bias != 0 };
    let types = [ta.dtype.name(), &product.weights.name(), cx.ty(y).dtype.name()];
    let mut b = LaunchBuilder::new(name(cx, types, "gemm", product.tile()));
    let view = cx.view(a);
    let stride =
        (0..rank - 1).rev().find(|&i| ta.shape[i] != Dim::from(1)).map_or(Dim::from(k), |i| view.strides[i].clone());
    let size = i64::from(elem.bytes());
    let pitch = stride.clone() * size.into();
    let few = m.as_const().is_some_and(|m| m < 32);
    let far = pitch.as_const().is_some_and(|p| p % 4096 == 0) && !few;
    let there = product.takes(&change) && !far;
    let base = b.read(a);
    let offset = b.extent(&view.offset);
    let row = b.elem(base, offset, elem);
    let pitch = b.extent(&stride);
    let bytes = b.i64(size);
    let pitch = b.mul(pitch, bytes);
    let finish = finish(fused, y);
    let pack = |b: &mut LaunchBuilder, _: Val, index: Val, to: Val| {
        let skip = b.mul(index, pitch);
        let from = b.gep(row, skip);
        change.run(b, from, to, k as i64);
    };
    let left = if there { Left::There { row, pitch } } else { Left::Packed(&pack, change) };
    product.build(b, &left, &finish)
}
