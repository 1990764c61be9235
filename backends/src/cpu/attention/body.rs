//! The loops over the grid, blocks of keys and tiles of rows.

use super::amx::pack_value_pairs;
use super::output::Output;
use super::rows::Rows;
use super::softmax::{Row, update};
use super::tile::{Left, PANEL, Right, Span, V16, pack_keys, pack_values, product, stream_keys, stream_values};
use super::{Plan, round_up};
use crate::emit::{KernelBuilder, Scalar, Ty, Val};
use crate::kernel::LaunchBuilder;

/// How keys and values are read.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Way {
    Packed,
    Streamed,
    /// By the number of rows, when the kernel runs.
    Either,
}

/// Where things are in scratch, in bytes; rows of the same kind are `pitch` bytes apart.
pub struct Layout {
    pub queries: i64,
    pub query_pitch: i64,
    pub sums: i64,
    pub sum_pitch: i64,
    /// Maximum and sum of each row.
    pub states: i64,
    /// How many keys each row sees.
    pub limits: i64,
    pub scores: i64,
    pub score_pitch: i64,
    /// One factor for each row of a tile.
    pub factors: i64,
    pub keys: i64,
    pub values: i64,
    /// Bytes in all.
    pub total: i64,
}

impl Layout {
    pub fn new(plan: &Plan, way: Way) -> Layout {
        let mut total = 0;
        let mut take = |bytes: i64| {
            let at = total;
            total += round_up(bytes, 64);
            at
        };
        let (query_pitch, sum_pitch) = (4 * round_up(plan.depth, PANEL), 4 * round_up(plan.width, PANEL));
        // A line more than the scores, so that a tile's rows do not fall on few sets of the cache.
        let score_pitch = 4 * (plan.keys + PANEL);
        let shrink = if plan.tiles { 2 } else { 1 };
        let packed = if way == Way::Streamed { 0 } else { 1 };
        Layout {
            queries: take(plan.queries * query_pitch),
            query_pitch,
            sums: take(plan.queries * sum_pitch),
            sum_pitch,
            states: take(plan.queries * 8),
            limits: take(plan.queries * 8),
            scores: take(plan.tile_rows * score_pitch),
            score_pitch,
            factors: take(plan.tile_rows * 4),
            keys: take(packed * plan.keys * plan.depth * 4 / shrink),
            values: take(packed * plan.keys * sum_pitch / shrink),
            total,
        }
    }
}

/// Everything that the kernel's instructions refer to.
pub struct Body<'a> {
    pub plan: &'a Plan,
    pub layout: Layout,
    pub queries: Rows,
    pub keys: Rows,
    pub values: Rows,
    pub mask: Option<Rows>,
    pub output: Output<'a>,
    /// Query rows of a key-value head.
    pub rows: Val,
    /// Grid points of a key-value head.
    pub blocks: Val,
    /// Query rows of a head.
    pub each_rows: Val,
    /// Query heads of a key-value head.
    pub each_heads: Val,
    /// Key-value heads.
    pub groups: Val,
    pub total_keys: Val,
    /// Keys before the first query.
    pub past: Val,
}

/// A tile of rows with a block of keys.
pub struct Tile {
    /// First row of the grid point.
    pub first: Val,
    /// Last row, exclusive.
    pub end: Val,
    /// First key of the block.
    pub from: Val,
    /// Keys of the block.
    pub count: Val,
    /// Keys that some row sees, at least one.
    pub seen: Val,
    /// Packed keys.
    pub keys: Val,
    /// Packed values.
    pub values: Val,
}

/// One grid point.
pub struct Point {
    batch: Val,
    group: Val,
    /// First row, of the key-value head.
    first: Val,
    /// Rows.
    count: Val,
}

impl Body<'_> {
    pub fn grid(&self, k: &mut LaunchBuilder, way: Way) {
        let ((begin, end), one, none) = (k.range(), k.i64(1), k.i64(-1));
        k.for_(begin, end, one, &[none], |k, index, packed| {
            let head = k.div(index, self.blocks);
            let block = k.mul(head, self.blocks);
            let block = k.sub(index, block);
            let batch = k.div(head, self.groups);
            let group = k.mul(batch, self.groups);
            let group = k.sub(head, group);
            let size = k.i64(self.plan.queries);
            let first = k.mul(block, size);
            let count = k.sub(self.rows, first);
            let count = k.min(count, size);
            let point = Point { batch, group, first, count };
            self.start(k, &point);
            let packed = match way {
                Way::Packed => self.packed(k, &point, head, packed[0]),
                Way::Streamed => {
                    self.streamed(k, &point);
                    none
                }
                Way::Either => {
                    let few = k.i64(super::FEW);
                    let few = k.lt(self.rows, few);
                    k.if_(
                        few,
                        |k| {
                            self.streamed(k, &point);
                            vec![none]
                        },
                        |k| vec![self.packed(k, &point, head, packed[0])],
                    )[0]
                }
            };
            self.finish(k, &point);
            vec![packed]
        });
    }

    pub fn scratch(&self, k: &mut KernelBuilder, at: i64) -> Val {
        let scratch = k.scratch();
        k.offset(scratch, at)
    }

    /// Row `row` of an array in scratch.
    pub fn row(&self, k: &mut KernelBuilder, at: i64, pitch: i64, row: Val) -> Val {
        let (base, pitch) = (self.scratch(k, at), k.i64(pitch));
        let offset = k.mul(row, pitch);
        k.gep(base, offset)
    }

    /// Query head and position of a row of a grid point.
    fn place(&self, k: &mut KernelBuilder, point: &Point, row: Val) -> (Val, Val) {
        let row = k.add(point.first, row);
        let head = k.div(row, self.each_rows);
        let skipped = k.mul(head, self.each_rows);
        let position = k.sub(row, skipped);
        let first = k.mul(point.group, self.each_heads);
        (k.add(first, head), position)
    }

    /// Copies queries to scratch: scaled `f32`, or as they are for tiles.
    fn copy_queries(&self, k: &mut KernelBuilder, point: &Point, scaled: bool) {
        let zero = k.i64(0);
        let scale = k.f32(self.plan.scale);
        k.loop_(zero, point.count, 1, |k, row| {
            let (head, position) = self.place(k, point, row);
            let from = self.queries.head(k, point.batch, head);
            let from = self.queries.step(k, from, 2, position);
            let to = self.row(k, self.layout.queries, self.layout.query_pitch, row);
            for column in (0..self.plan.depth).step_by(16) {
                let index = k.i64(column);
                let from = self.queries.step(k, from, 3, index);
                let (x, size) = if scaled {
                    let x = self.queries.chunk(k, from, 3, 16, (self.plan.depth - column).min(16) as u32);
                    (k.mul(x, scale), 4)
                } else {
                    (k.load(from, self.queries.elem.x(16)), 2)
                };
                let to = k.offset(to, size * column);
                k.store(x, to);
            }
        });
    }

    /// Clears what is kept of rows.
    fn start(&self, k: &mut KernelBuilder, point: &Point) {
        let (zero, nothing) = (k.i64(0), k.zero(V16));
        k.loop_(zero, point.count, 1, |k, row| {
            let sums = self.row(k, self.layout.sums, self.layout.sum_pitch, row);
            for column in (0..self.layout.sum_pitch).step_by(64) {
                let to = k.offset(sums, column);
                k.store(nothing, to);
            }
            let state = self.row(k, self.layout.states, 8, row);
            let start = k.vec_f32(&[f32::NEG_INFINITY, 0.0]);
            k.store(start, state);
            if self.plan.causal {
                let (_, position) = self.place(k, point, row);
                let one = k.i64(1);
                let limit = k.add(position, one);
                let limit = k.add(limit, self.past);
                let limit = k.max(limit, zero);
                let to = self.row(k, self.layout.limits, 8, row);
                k.store(limit, to);
            }
        });
    }

    /// How many of `count` keys from `from` on the row sees.
    fn visible(&self, k: &mut KernelBuilder, row: Val, from: Val, count: Val) -> Val {
        if !self.plan.causal {
            return count;
        }
        let at = self.row(k, self.layout.limits, 8, row);
        let (limit, zero) = (k.load(at, Ty::I64), k.i64(0));
        let limit = k.sub(limit, from);
        let limit = k.max(limit, zero);
        k.min(limit, count)
    }

    /// The largest [`Body::visible`] of some rows.
    fn most_visible(&self, k: &mut KernelBuilder, rows: (Val, Val), from: Val, count: Val) -> Val {
        if !self.plan.causal {
            return count;
        }
        let (zero, one) = (k.i64(0), k.i64(1));
        k.for_(rows.0, rows.1, one, &[zero], |k, row, most| {
            let n = self.visible(k, row, from, count);
            vec![k.max(n, most[0])]
        })[0]
    }

    /// Runs `body` for blocks of keys: the first and how many.
    fn key_blocks(&self, k: &mut KernelBuilder, point: &Point, body: impl FnOnce(&mut KernelBuilder, Val, Val)) {
        let zero = k.i64(0);
        let end = self.most_visible(k, (zero, point.count), zero, self.total_keys);
        k.loop_(zero, end, self.plan.keys, |k, from| {
            let (left, most) = (k.sub(self.total_keys, from), k.i64(self.plan.keys));
            let count = k.min(left, most);
            body(k, from, count);
        });
    }

    /// Softmax of one row of scores in a block.
    fn soften(&self, k: &mut KernelBuilder, point: &Point, row: Val, from: Val, scores: Row) -> Val {
        let mask = self.mask.as_ref().map(|mask| {
            let (head, position) = self.place(k, point, row);
            let at = mask.head(k, point.batch, head);
            let at = mask.step(k, at, 2, position);
            (mask, mask.step(k, at, 3, from))
        });
        update(k, &scores, mask)
    }

    /// All keys for the rows of a grid point from packed panels. `packed` is the head whose panels are in scratch; returns the one that is there then.
    fn packed(&self, k: &mut KernelBuilder, point: &Point, head: Val, packed: Val) -> Val {
        let (plan, layout) = (self.plan, &self.layout);
        let (zero, most) = (k.i64(0), k.i64(plan.keys));
        let (other, several) = (k.ne(head, packed), k.gt(self.total_keys, most));
        let pack = k.or(other, several);
        let key_head = self.keys.head(k, point.batch, point.group);
        let value_head = self.values.head(k, point.batch, point.group);
        let (keys, values) = (self.scratch(k, layout.keys), self.scratch(k, layout.values));
        self.copy_queries(k, point, !plan.tiles);
        self.key_blocks(k, point, |k, from, count| {
            k.when(pack, |k| {
                let panels = k.ceil_div(count, plan.tile_panels * PANEL);
                let each = k.i64(plan.tile_panels);
                let panels = k.mul(panels, each);
                let pairs = self.keys.pairs(k);
                let (rows, depth) = if plan.tiles { (&pairs, plan.depth / 2) } else { (&self.keys, plan.depth) };
                pack_keys(k, &Span { rows, head: key_head, from, count }, panels, depth, keys);
                let span = Span { rows: &self.values, head: value_head, from, count };
                if plan.tiles {
                    let padded = round_to(k, count, 32);
                    pack_value_pairs(k, &span, padded, plan.width, plan.keys, values);
                } else {
                    let padded = round_to(k, count, 4);
                    pack_values(k, &span, padded, plan.width, plan.keys, values);
                }
            });
            k.loop_(zero, point.count, plan.tile_rows, |k, first| {
                let size = k.i64(plan.tile_rows);
                let end = k.add(first, size);
                let end = k.min(end, point.count);
                let seen = self.most_visible(k, (first, end), from, count);
                let some = k.gt(seen, zero);
                let tile = Tile { first, end, from, count, seen, keys, values };
                k.when(some, |k| match plan.tiles {
                    true => self.amx_tile(k, point, &tile),
                    false => self.tile(k, point, &tile),
                });
            });
        });
        head
    }

    /// One tile of rows with one block of keys.
    fn tile(&self, k: &mut KernelBuilder, point: &Point, tile: &Tile) {
        let Tile { first, seen, keys, values, .. } = *tile;
        let (plan, layout, zero) = (self.plan, &self.layout, k.i64(0));
        let rows = plan.tile_rows as usize;
        let (scores, factors) = (self.scratch(k, layout.scores), self.scratch(k, layout.factors));
        let query = self.row(k, layout.queries, layout.query_pitch, first);
        let left = Left { ptr: query, pitch: layout.query_pitch, rows };
        let (line, panel, depth) = (k.i64(64), k.i64(plan.depth * 64), k.i64(plan.depth));
        let unroll = [4, 2, 1].into_iter().find(|u| plan.depth % u == 0).unwrap_or(1);
        k.loop_(zero, seen, plan.tile_panels * PANEL, |k, t| {
            let row = k.i64(4 * plan.depth);
            let offset = k.mul(t, row);
            let ptr = k.gep(keys, offset);
            let right = Right { ptr, row: line, panel, panels: plan.tile_panels as u32 };
            let start = vec![k.zero(V16); rows * plan.tile_panels as usize];
            let acc = product(k, &left, &right, depth, unroll, &start);
            let to = k.elem(scores, t, Scalar::F32);
            for (i, &acc) in acc.iter().enumerate() {
                let (panel, row) = ((i / rows) as i64, (i % rows) as i64);
                let to = k.offset(to, row * layout.score_pitch + panel * 64);
                k.store(acc, to);
            }
        });
        let fill = round_to(k, seen, 16);
        self.soften_tile(k, point, tile, fill, |k, inside, factor| {
            let to = k.elem(factors, inside, Scalar::F32);
            k.store(factor, to);
        });
        let left = Left { ptr: scores, pitch: layout.score_pitch, rows };
        let (depth, panel) = (round_to(k, seen, 4), k.i64(plan.keys * 64));
        let sums = self.row(k, layout.sums, layout.sum_pitch, first);
        let all = layout.sum_pitch / 64;
        let mut done = 0;
        while done < all {
            let panels = plan.tile_panels.min(all - done);
            let place = |i: usize| (i % rows) as i64 * layout.sum_pitch + (done + (i / rows) as i64) * 64;
            let start: Vec<Val> = (0..rows * panels as usize)
                .map(|i| {
                    let (at, factor) = (k.offset(sums, place(i)), k.offset(factors, 4 * (i % rows) as i64));
                    let (sum, factor) = (k.load(at, V16), k.load(factor, Ty::F32));
                    k.mul(sum, factor)
                })
                .collect();
            let ptr = k.offset(values, done * plan.keys * 64);
            let right = Right { ptr, row: line, panel, panels: panels as u32 };
            let acc = product(k, &left, &right, depth, 4, &start);
            for (i, &acc) in acc.iter().enumerate() {
                let to = k.offset(sums, place(i));
                k.store(acc, to);
            }
            done += panels;
        }
    }

    /// Softmax of the rows of a tile. `then` gets the row's number in the tile and the factor for what was summed before.
    pub fn soften_tile(
        &self,
        k: &mut KernelBuilder,
        point: &Point,
        tile: &Tile,
        fill: Val,
        then: impl FnOnce(&mut KernelBuilder, Val, Val),
    ) {
        let Tile { first, end, from, count, .. } = *tile;
        let (scale, weights) = match self.plan.tiles {
            true => (Some(self.plan.scale), Scalar::BF16),
            false => (None, Scalar::F32),
        };
        k.loop_(first, end, 1, |k, row| {
            let inside = k.sub(row, first);
            let scores = self.row(k, self.layout.scores, self.layout.score_pitch, inside);
            let (valid, state) = (self.visible(k, row, from, count), self.row(k, self.layout.states, 8, row));
            let factor = self.soften(k, point, row, from, Row { scores, valid, fill, state, scale, weights });
            then(k, inside, factor);
        });
    }

    /// All keys for the rows of a grid point, read where they are.
    fn streamed(&self, k: &mut KernelBuilder, point: &Point) {
        let (plan, layout, zero) = (self.plan, &self.layout, k.i64(0));
        self.copy_queries(k, point, true);
        let key_head = self.keys.head(k, point.batch, point.group);
        let value_head = self.values.head(k, point.batch, point.group);
        let scores = self.scratch(k, layout.scores);
        self.key_blocks(k, point, |k, from, count| {
            k.loop_(zero, point.count, 1, |k, row| {
                let valid = self.visible(k, row, from, count);
                let some = k.gt(valid, zero);
                k.when(some, |k| {
                    let query = self.row(k, layout.queries, layout.query_pitch, row);
                    let span = Span { rows: &self.keys, head: key_head, from, count: valid };
                    stream_keys(k, &span, plan.depth, query, scores);
                    let state = self.row(k, layout.states, 8, row);
                    let soft = Row { scores, valid, fill: zero, state, scale: None, weights: Scalar::F32 };
                    let factor = self.soften(k, point, row, from, soft);
                    let sums = self.row(k, layout.sums, layout.sum_pitch, row);
                    let span = Span { rows: &self.values, head: value_head, ..span };
                    for column in (0..plan.width).step_by(64) {
                        let width = (plan.width - column).min(64);
                        let at = k.offset(sums, 4 * column);
                        let start: Vec<Val> = (0..round_up(width, PANEL) / PANEL)
                            .map(|i| {
                                let at = k.offset(at, 64 * i);
                                let sum = k.load(at, V16);
                                k.mul(sum, factor)
                            })
                            .collect();
                        let acc = stream_values(k, &span, scores, column, width, &start);
                        for (i, &acc) in acc.iter().enumerate() {
                            let to = k.offset(at, 64 * i as i64);
                            k.store(acc, to);
                        }
                    }
                });
            });
        });
    }

    /// Divides by the sums of weights and stores. The weighted sum of no keys at all is 0; rows from which all keys are hidden give NaN.
    fn finish(&self, k: &mut LaunchBuilder, point: &Point) {
        let (layout, zero) = (&self.layout, k.i64(0));
        let empty = k.eq(self.total_keys, zero);
        k.loop_(zero, point.count, 1, |k, row| {
            let (head, position) = self.place(k, point, row);
            let state = self.row(k, layout.states, 8, row);
            let sum = k.offset(state, 4);
            let (sum, one) = (k.load(sum, Ty::F32), k.f32(1.0));
            let sum = k.select(empty, one, sum);
            let inverse = k.div(one, sum);
            let sums = self.row(k, layout.sums, layout.sum_pitch, row);
            for column in (0..self.plan.width).step_by(16) {
                let at = k.offset(sums, 4 * column);
                let y = k.load(at, V16);
                let y = k.mul(y, inverse);
                self.output.store(k, [point.batch, head, position], column, y);
            }
        });
    }
}

/// The next multiple of `to`.
pub fn round_to(k: &mut KernelBuilder, n: Val, to: i64) -> Val {
    let (n, to) = (k.ceil_div(n, to), k.i64(to));
    k.mul(n, to)
}
