//! The two products of attention, a tile at a time, and the packing of their right sides.
//!
//! Everything here is `f32` in scratch. Panels have 16 columns; a panel's row is 64 bytes.

use super::rows::{Rows, Unit, transpose8};
use crate::emit::{KernelBuilder, Scalar, Ty, Val};

/// Columns of a panel.
pub const PANEL: i64 = 16;
/// Sixteen floats: one register with AVX-512, two with AVX2.
pub const V16: Ty = Ty::Vec(16, Scalar::F32);
const V8: Ty = Ty::Vec(8, Scalar::F32);

/// The left side of a product: rows of `f32` in scratch.
pub struct Left {
    /// Element (0, 0).
    pub ptr: Val,
    /// Bytes between rows.
    pub pitch: i64,
    /// Rows.
    pub rows: usize,
}

/// The right side of a product: `panels` panels, from `ptr`.
pub struct Right {
    /// Element (0, 0) of the first panel.
    pub ptr: Val,
    /// Bytes between a panel's rows.
    pub row: Val,
    /// Bytes between panels.
    pub panel: Val,
    /// Panels.
    pub panels: u32,
}

/// Rows of `k` or `v`, packed or read as one block.
pub struct Span<'a> {
    /// The operand.
    pub rows: &'a Rows,
    /// The first row of the head.
    pub head: Val,
    /// The first row of the block.
    pub from: Val,
    /// Rows of the block, at least one.
    pub count: Val,
}

impl Span<'_> {
    fn first(&self, k: &mut KernelBuilder) -> Val {
        self.rows.step(k, self.head, 2, self.from)
    }
}

/// `acc + left * right` with an accumulator for each row of each panel, panel after panel. `depth` counts what is summed, a multiple of `unroll`.
pub fn product(k: &mut KernelBuilder, left: &Left, right: &Right, depth: Val, unroll: i64, acc: &[Val]) -> Vec<Val> {
    let Left { ptr, pitch, rows } = *left;
    let (zero, step) = (k.i64(0), k.i64(unroll));
    k.for_(zero, depth, step, acc, |k, i, acc| {
        let mut acc = acc.to_vec();
        let a = k.elem(ptr, i, Scalar::F32);
        let offset = k.mul(i, right.row);
        let mut b = k.gep(right.ptr, offset);
        for u in 0..unroll {
            let mut column = b;
            let mut columns = Vec::new();
            for _ in 0..right.panels {
                columns.push(k.load(column, V16));
                column = k.gep(column, right.panel);
            }
            for r in 0..rows {
                let at = k.offset(a, r as i64 * pitch + 4 * u);
                let x = k.load(at, Ty::F32);
                let x = k.splat(x, 16);
                for (p, &c) in columns.iter().enumerate() {
                    acc[p * rows + r] = k.fma(x, c, acc[p * rows + r]);
                }
            }
            b = k.gep(b, right.row);
        }
        acc
    })
}

/// Packs rows of `k`, which have `depth` columns, as `panels` panels `[depth][16]`: a panel's columns are rows of `k`. Panels are filled up with any of the
/// rows.
pub fn pack_keys(k: &mut KernelBuilder, span: &Span, panels: Val, depth: i64, to: Val) {
    let (keys, count, first) = (span.rows, span.count, span.first(k));
    let (zero, one) = (k.i64(0), k.i64(1));
    let last = k.sub(count, one);
    let bytes = k.i64(depth * PANEL * 4);
    k.loop_(zero, panels, 1, |k, p| {
        let sixteen = k.i64(PANEL);
        let (t, offset) = (k.mul(p, sixteen), k.mul(p, bytes));
        let to = k.gep(to, offset);
        if keys.before == Unit::One {
            let t = k.min(t, last);
            let left = k.sub(count, t);
            let column = keys.step(k, first, 2, t);
            let depth = k.i64(depth);
            return k.loop_(zero, depth, 1, |k, d| {
                let from = keys.step(k, column, 3, d);
                let v = keys.chunk_first(k, from, 2, 16, left);
                let offset = k.i64(PANEL * 4);
                let offset = k.mul(d, offset);
                k.store_at(v, to, offset);
            });
        }
        for half in 0..2 {
            let rows: Vec<Val> = (0..8)
                .map(|i| {
                    let i = k.i64(8 * half + i);
                    let t = k.add(t, i);
                    let t = k.min(t, last);
                    keys.step(k, first, 2, t)
                })
                .collect();
            let block = |k: &mut KernelBuilder, d: Val, valid: u32| {
                let loaded = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| {
                    let from = keys.step(k, rows[i], 3, d);
                    keys.chunk(k, from, 3, 8, valid)
                });
                let columns = transpose8(k, loaded);
                let offset = k.i64(PANEL * 4);
                let offset = k.mul(d, offset);
                let to = k.gep(to, offset);
                for (i, &c) in columns.iter().enumerate().take(valid as usize) {
                    let to = k.offset(to, i as i64 * PANEL * 4 + half * 32);
                    k.store(c, to);
                }
            };
            let whole = k.i64(depth / 8 * 8);
            k.loop_(zero, whole, 8, |k, d| block(k, d, 8));
            if depth % 8 > 0 {
                block(k, whole, (depth % 8) as u32);
            }
        }
    });
}

/// Packs rows of `v` as panels `[ceil(width / 16)][pitch][16]`; rows up to `padded` and columns past `width` are zero.
pub fn pack_values(k: &mut KernelBuilder, span: &Span, padded: Val, width: i64, pitch: i64, to: Val) {
    let (values, count, first) = (span.rows, span.count, span.first(k));
    let (zero, row) = (k.i64(0), k.i64(PANEL * 4));
    let panels = (width + PANEL - 1) / PANEL;
    k.loop_(zero, count, 1, |k, t| {
        let (from, offset) = (values.step(k, first, 2, t), k.mul(t, row));
        let to = k.gep(to, offset);
        for p in 0..panels {
            let column = k.i64(p * PANEL);
            let from = values.step(k, from, 3, column);
            let v = values.chunk(k, from, 3, 16, (width - p * PANEL).min(PANEL) as u32);
            let to = k.offset(to, p * pitch * PANEL * 4);
            k.store(v, to);
        }
    });
    k.loop_(count, padded, 1, |k, t| {
        let (nothing, offset) = (k.zero(V16), k.mul(t, row));
        let to = k.gep(to, offset);
        for p in 0..panels {
            let to = k.offset(to, p * pitch * PANEL * 4);
            k.store(nothing, to);
        }
    });
}

/// Products of one row of queries at `query` (padded with zeros to a multiple of 8) with rows of `k`, eight at a time, to `to`. What lies up to the
/// next multiple of 8 is written too.
pub fn stream_keys(k: &mut KernelBuilder, span: &Span, depth: i64, query: Val, to: Val) {
    let (keys, count, first) = (span.rows, span.count, span.first(k));
    let (zero, one) = (k.i64(0), k.i64(1));
    let last = k.sub(count, one);
    k.loop_(zero, count, 8, |k, t| {
        let rows = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| {
            let i = k.i64(i);
            let t = k.add(t, i);
            let t = k.min(t, last);
            keys.step(k, first, 2, t)
        });
        let step = |k: &mut KernelBuilder, d: Val, valid: u32, acc: &[Val]| -> Vec<Val> {
            let at = k.elem(query, d, Scalar::F32);
            let q = k.load(at, V8);
            let each = rows.iter().zip(acc).map(|(&row, &acc)| {
                let from = keys.step(k, row, 3, d);
                let x = keys.chunk(k, from, 3, 8, valid);
                k.fma(x, q, acc)
            });
            each.collect()
        };
        let (whole, eight, start) = (k.i64(depth / 8 * 8), k.i64(8), k.zero(V8));
        let mut acc = k.for_(zero, whole, eight, &[start; 8], |k, d, acc| step(k, d, 8, acc));
        if depth % 8 > 0 {
            acc = step(k, whole, (depth % 8) as u32, &acc);
        }
        let columns = transpose8(k, acc.try_into().expect("eight"));
        let sum = columns.into_iter().reduce(|a, b| k.add(a, b)).expect("eight");
        let to = k.elem(to, t, Scalar::F32);
        k.store(sum, to);
    });
}

/// `acc` plus one row of weights times rows of `v`, without packing. An accumulator for each 16 columns from column `from` on, of which `width` exist.
pub fn stream_values(k: &mut KernelBuilder, span: &Span, weights: Val, from: i64, width: i64, acc: &[Val]) -> Vec<Val> {
    let (values, count, first) = (span.rows, span.count, span.first(k));
    let (zero, one) = (k.i64(0), k.i64(1));
    k.for_(zero, count, one, acc, |k, t, acc| {
        let (row, at) = (values.step(k, first, 2, t), k.elem(weights, t, Scalar::F32));
        let w = k.load(at, Ty::F32);
        let w = k.splat(w, 16);
        let mut out = Vec::new();
        for (i, &acc) in acc.iter().enumerate() {
            let column = i as i64 * PANEL;
            let index = k.i64(from + column);
            let at = values.step(k, row, 3, index);
            let v = values.chunk(k, at, 3, 16, (width - column).min(PANEL) as u32);
            out.push(k.fma(w, v, acc));
        }
        out
    })
}
