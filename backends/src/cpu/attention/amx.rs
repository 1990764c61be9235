//! The two products with tile registers: `bf16` in, `f32` out, 32 rows by 32 columns.
//!
//! Keys are packed as words of two columns, panels `[depth/2][16][2]`; values as words of two rows, panels `[keys/2][16][2]`.

use super::body::{Body, Point, Tile, round_to};
use super::tile::{PANEL, Span, V16};
use crate::emit::{Dot, Intrinsic, KernelBuilder, Scalar, Val};

/// Rows and columns of a tile of results.
const SIDE: i64 = 16;
const DOT: Intrinsic = Intrinsic::TileDot { dot: Dot::Bf16, rows: 16, row_bytes: 64, depth_bytes: 64 };

/// Packs rows of `v`, `width` columns (a multiple of 16) of `bf16`, as panels `[pitch/2][16][2]`; rows up to `padded`, an even number, are zero.
pub fn pack_value_pairs(k: &mut KernelBuilder, span: &Span, padded: Val, width: i64, pitch: i64, to: Val) {
    let half = Scalar::BF16.x(16);
    let (zero, two, row_bytes) = (k.i64(0), k.i64(2), k.i64(2 * PANEL));
    let first = span.rows.step(k, span.head, 2, span.from);
    let store = |k: &mut KernelBuilder, t: Val, rows: u32| {
        let from = span.rows.step(k, first, 2, t);
        let offset = k.mul(t, row_bytes);
        let to = k.gep(to, offset);
        for p in 0..width / PANEL {
            let mut pair = [k.zero(half); 2];
            for (i, x) in pair.iter_mut().enumerate().take(rows as usize) {
                let i = k.i64(i as i64);
                let at = span.rows.step(k, from, 2, i);
                let at = k.offset(at, p * PANEL * 2);
                *x = k.load(at, half);
            }
            let words: Vec<u32> = (0..16).flat_map(|lane| [lane, lane + 16]).collect();
            let words = k.shuffle(pair[0], pair[1], &words);
            let to = k.offset(to, p * pitch * PANEL * 2);
            k.store(words, to);
        }
    };
    let even = k.div(span.count, two);
    let even = k.mul(even, two);
    k.for_(zero, even, two, &[], |k, t, _| {
        store(k, t, 2);
        vec![]
    });
    k.for_(even, span.count, two, &[], |k, t, _| {
        store(k, t, 1);
        vec![]
    });
    let rest = round_to(k, span.count, 2);
    k.for_(rest, padded, two, &[], |k, t, _| {
        store(k, t, 0);
        vec![]
    });
}

/// `acc[i][j] += left tile i * right tile j`.
fn dots(k: &mut KernelBuilder, acc: &[Val], left: [(Val, Val); 2], right: &[Val]) -> Vec<Val> {
    let line = k.i64(64);
    let left = left.map(|(at, pitch)| k.tile_load(at, pitch, 16, 64));
    let right: Vec<Val> = right.iter().map(|&at| k.tile_load(at, line, 16, 64)).collect();
    let pairs = left.into_iter().flat_map(|a| right.iter().map(move |&b| (a, b)));
    pairs.zip(acc).map(|((a, b), &acc)| k.intrinsic(DOT, &[acc, a, b])).collect()
}

impl Body<'_> {
    /// One tile of rows with one block of keys.
    pub fn amx_tile(&self, k: &mut KernelBuilder, point: &Point, tile: &Tile) {
        let (plan, layout, zero) = (self.plan, &self.layout, k.i64(0));
        let scores = self.scratch(k, layout.scores);
        let query = self.row(k, layout.queries, layout.query_pitch, tile.first);
        let (query_pitch, score_pitch) = (k.i64(layout.query_pitch), k.i64(layout.score_pitch));
        k.loop_(zero, tile.seen, 2 * SIDE, |k, t| {
            let bytes = k.i64(2 * plan.depth);
            let offset = k.mul(t, bytes);
            let panel = k.gep(tile.keys, offset);
            let mut acc: Vec<Val> = (0..4).map(|_| k.tile_zero(16, 64)).collect();
            for d in 0..plan.depth / 32 {
                let left = [0, 1].map(|i| (k.offset(query, i * SIDE * layout.query_pitch + d * 64), query_pitch));
                let right = [0, 1].map(|j| k.offset(panel, j * plan.depth * 2 * PANEL + d * 1024));
                acc = dots(k, &acc, left, &right);
            }
            let to = k.elem(scores, t, Scalar::F32);
            for (n, acc) in acc.into_iter().enumerate() {
                let (i, j) = (n as i64 / 2, n as i64 % 2);
                let to = k.offset(to, i * SIDE * layout.score_pitch + j * 64);
                k.tile_store(acc, to, score_pitch, 16, 64);
            }
        });
        let fill = round_to(k, tile.seen, 32);
        self.soften_tile(k, point, tile, fill, |k, inside, factor| {
            let row = k.add(tile.first, inside);
            let sums = self.row(k, layout.sums, layout.sum_pitch, row);
            for column in (0..layout.sum_pitch).step_by(64) {
                let at = k.offset(sums, column);
                let sum = k.load(at, V16);
                let sum = k.mul(sum, factor);
                k.store(sum, at);
            }
        });
        let sums = self.row(k, layout.sums, layout.sum_pitch, tile.first);
        let (sum_pitch, step) = (k.i64(layout.sum_pitch), k.i64(32));
        let panels = plan.width / PANEL;
        for first in (0..panels).step_by(2) {
            let columns = (panels - first).min(2);
            let places: Vec<Val> = (0..2 * columns)
                .map(|n| k.offset(sums, n / columns * SIDE * layout.sum_pitch + (first + n % columns) * 64))
                .collect();
            let start: Vec<Val> = places.iter().map(|&at| k.tile_load(at, sum_pitch, 16, 64)).collect();
            let acc = k.for_(zero, fill, step, &start, |k, t, acc| {
                let weights = k.elem(scores, t, Scalar::BF16);
                let left = [0, 1].map(|i| (k.offset(weights, i * SIDE * layout.score_pitch), score_pitch));
                let bytes = k.i64(2 * PANEL);
                let offset = k.mul(t, bytes);
                let at = k.gep(tile.values, offset);
                let right: Vec<Val> = (0..columns).map(|j| k.offset(at, (first + j) * plan.keys * 2 * PANEL)).collect();
                dots(k, acc, left, &right)
            });
            for (acc, at) in acc.into_iter().zip(places) {
                k.tile_store(acc, at, sum_pitch, 16, 64);
            }
        }
    }
}
