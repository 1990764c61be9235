//! Encoded weights times rows that are codes as well: sums of integers over a segment, then one multiplication by both scales.
//!
//! A row is `i8` codes whose scale stays the same over a segment of K, as those of the weight do. Few rows multiply codes taken from panels in registers, four
//! neighbours along K at once; many rows multiply bytes that were taken from panels before, with tile registers. Both see the same integers, so that both give the
//! same sums up to the rounding of floats.
//!
//! In scratch a row is its codes, and beside them for each segment the scale, `f32`, and what takes back that weights are unsigned in registers, `i32`.

use super::decode::{Decoder, LANES};
use super::{Format, planes};
use crate::emit::{Dot, Intrinsic, KernelBuilder, Scalar, Ty, Val};
use crate::kernel::Isa;

/// Bytes beside a row for each segment.
pub const PARAM_BYTES: i64 = 8;
/// Units that are written out one after the other; more of them take a loop.
const UNROLLED: i64 = 4;
/// Bytes of a vector, of a tile's row, and of a panel's scales.
const LINE: i64 = 64;
/// Elements of a segment, at most: it is written out line by line, and its sum is an `i32`.
const LONGEST: i64 = 1024;
/// A number in each byte of a word.
const EACH: i64 = 0x0101_0101;

/// How codes meet codes.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Codes {
    /// The weight's panels.
    pub format: Format,
    /// Elements of K over which no scale changes; they divide K.
    pub segment: i64,
    /// Whether there are tile registers.
    pub tiles: bool,
}

/// Rows and panels of a tile.
pub struct Operands<'a> {
    /// The first row's codes.
    pub row: Val,
    /// What stands beside them.
    pub params: Val,
    /// Bytes between rows.
    pub pitch: Val,
    pub rows: i64,
    /// The first segment of each panel.
    pub panels: &'a [Val],
    /// Elements of a row, whole segments.
    pub depth: Val,
    /// Asks for codes this many bytes ahead.
    pub ahead: Option<i64>,
}

impl Codes {
    /// How rows with a scale for each `group` meet a weight, where they can without decoding either: on machines that add products of bytes in 32 bits,
    /// where the weight's scales change with the rows' or more often, and its codes less their zero points are bytes (`narrow`).
    pub fn of(format: Format, group: i64, narrow: bool, isa: Isa) -> Option<Codes> {
        let segment = if format.grouped() { format.group } else { group };
        let whole = group % segment == 0 && format.k % group == 0 && segment % format.unit() == 0 && segment <= LONGEST;
        let fits = isa.wide() && !format.table && format.sparse.is_none() && narrow && whole;
        fits.then_some(Codes { format, segment, tiles: isa.tiles() })
    }
    /// What the weight's codes have added to be unsigned.
    fn middle(&self) -> i64 {
        1 << (self.format.bits - 1)
    }
    /// What the sum of a segment's codes is multiplied by for the number beside the row.
    pub fn factor(&self) -> i64 {
        if self.format.zero { -1 } else { -self.middle() }
    }
    /// Bytes of a segment of a panel.
    pub fn segment_bytes(&self) -> i64 {
        self.segment / self.format.chunk() * self.format.chunk_bytes()
    }
    /// Bytes of a segment of a panel that [`Codes::prepare`] has made: scales, where they differ, and bytes.
    pub fn ready_bytes(&self) -> i64 {
        self.scale_bytes() + self.segment * i64::from(LANES)
    }
    fn scale_bytes(&self) -> i64 {
        if self.format.scale.is_some() { LINE } else { 0 }
    }

    /// Quad `q` of the unit at `unit` as unsigned bytes: rows `4q..4q + 4` of sixteen columns.
    fn quad(&self, k: &mut KernelBuilder, unit: Val, q: i64) -> Val {
        let ty = Scalar::I32.x(LANES);
        let (mut below, mut plane, mut quad) = (self.format.bits, 0, None);
        for &p in planes(self.format.bits) {
            below -= p;
            let (per_word, bits) = (i64::from(8 / p), i64::from(p));
            let at = k.offset(unit, plane + q / per_word * LINE);
            let mut part = k.load_aligned(at, ty, if self.format.grouped() { 16 } else { 64 });
            if q % per_word > 0 {
                let by = k.int(ty, bits * (q % per_word));
                part = k.shr(part, by);
            }
            if quad.is_none() {
                let top = k.int(ty, (EACH << (p - 1)) as i32 as i64);
                part = k.xor(part, top);
            }
            if p < 8 {
                let mask = k.int(ty, EACH * ((1 << p) - 1));
                part = k.and(part, mask);
            }
            if below > 0 {
                let by = k.int(ty, below.into());
                part = k.shl(part, by);
            }
            quad = Some(quad.map_or(part, |q| k.or(q, part)));
            plane += self.format.unit() * bits * 2;
        }
        let quad = quad.expect("a plane");
        k.bitcast(quad, Scalar::I8.x(4 * LANES))
    }

    /// Calls `each` with the first byte of every unit of a segment and how many elements come before it.
    fn units(
        &self,
        k: &mut KernelBuilder,
        codes: Val,
        state: Vec<Val>,
        mut each: impl FnMut(&mut KernelBuilder, Val, Val, Vec<Val>) -> Vec<Val>,
    ) -> Vec<Val> {
        let (unit, bytes) = (self.format.unit(), self.format.unit_bytes());
        let count = self.segment / unit;
        let mut one = |k: &mut KernelBuilder, i: Val, state: Vec<Val>| {
            let (bytes, unit) = (k.i64(bytes), k.i64(unit));
            let (skip, before) = (k.mul(i, bytes), k.mul(i, unit));
            let at = k.gep(codes, skip);
            each(k, at, before, state)
        };
        if count > UNROLLED {
            let (zero, end, step) = (k.i64(0), k.i64(count), k.i64(1));
            return k.for_(zero, end, step, &state, |k, i, state| one(k, i, state.to_vec()));
        }
        (0..count).fold(state, |state, i| {
            let i = k.i64(i);
            one(k, i, state)
        })
    }

    /// Sixteen sums for each panel and row: rows of the first panel, rows of the second…
    pub fn sums(&self, k: &mut KernelBuilder, o: &Operands) -> Vec<Val> {
        let decoder = Decoder::new(k, self.format, true, None);
        let (rows, count) = (o.rows as usize, o.rows as usize * o.panels.len());
        let at_row = |k: &mut KernelBuilder, first: Val, r: i64| {
            let r = k.i64(r);
            let skip = k.mul(r, o.pitch);
            k.gep(first, skip)
        };
        let (zero, one, float) = (k.i64(0), k.i64(1), k.zero(Scalar::F32.x(LANES)));
        let size = k.i64(self.segment);
        let segments = k.div(o.depth, size);
        k.for_(zero, segments, one, &vec![float; count], |k, segment, sums| {
            let (bytes, elements, param) = (k.i64(self.segment_bytes()), k.i64(self.segment), k.i64(PARAM_BYTES));
            let (skip, along, beside) = (k.mul(segment, bytes), k.mul(segment, elements), k.mul(segment, param));
            let panels: Vec<Val> = o.panels.iter().map(|&p| k.gep(p, skip)).collect();
            let codes: Vec<Val> = (0..o.rows)
                .map(|r| {
                    let row = at_row(k, o.row, r);
                    k.gep(row, along)
                })
                .collect();
            let params: Vec<Val> = (0..o.rows)
                .map(|r| {
                    let row = at_row(k, o.params, r);
                    k.gep(row, beside)
                })
                .collect();
            if let Some(ahead) = o.ahead {
                for &panel in &panels {
                    for line in (0..self.segment_bytes()).step_by(LINE as usize) {
                        let far = k.offset(panel, ahead + line);
                        k.prefetch(far, 3);
                    }
                }
            }
            let mut sums = sums.to_vec();
            for (p, &panel) in panels.iter().enumerate() {
                let head = decoder.head(k, panel);
                let zeros = head.zero.map(|z| {
                    let middle = k.int(z.ty(), self.middle());
                    k.add(z, middle)
                });
                let start = params.iter().map(|&at| {
                    let at = k.offset(at, 4);
                    let back = k.load(at, Ty::I32);
                    let back = k.splat(back, LANES);
                    zeros.map_or(back, |z| k.mul(z, back))
                });
                let start = start.collect();
                let at = k.offset(panel, self.format.head_bytes());
                let own = self.units(k, at, start, |k, unit, before, mut own| {
                    let from: Vec<Val> = codes.iter().map(|&row| k.gep(row, before)).collect();
                    for q in 0..self.format.unit() / 4 {
                        let w = self.quad(k, unit, q);
                        for (sum, &row) in own.iter_mut().zip(&from) {
                            let at = k.offset(row, 4 * q);
                            let x = k.load_aligned(at, Ty::I32, 4);
                            let x = k.splat(x, LANES);
                            let x = k.bitcast(x, Scalar::I8.x(4 * LANES));
                            *sum = k.intrinsic(Intrinsic::Vpdpbusd512, &[*sum, w, x]);
                        }
                    }
                    own
                });
                for (r, (&own, &at)) in own.iter().zip(&params).enumerate() {
                    let sum = &mut sums[p * rows + r];
                    *sum = scaled(k, own, head.scale, at, *sum);
                }
            }
            sums
        })
    }

    /// Takes the codes of `depth` rows of a panel as signed bytes, less their zero points, in the order of tile registers.
    pub fn prepare(&self, k: &mut KernelBuilder, panel: Val, depth: Val, to: Val) {
        let decoder = Decoder::new(k, self.format, true, None);
        let (zero, size) = (k.i64(0), k.i64(self.segment));
        let segments = k.div(depth, size);
        k.loop_(zero, segments, 1, |k, segment| {
            let (bytes, ready) = (k.i64(self.segment_bytes()), k.i64(self.ready_bytes()));
            let (skip, along) = (k.mul(segment, bytes), k.mul(segment, ready));
            let (at, to) = (k.gep(panel, skip), k.gep(to, along));
            let head = decoder.head(k, at);
            if let Some(scale) = head.scale {
                k.store_aligned(scale, to, 64);
            }
            let word = Scalar::I32.x(LANES);
            let zeros = match head.zero {
                Some(z) => {
                    let (middle, low, each) = (k.int(word, self.middle()), k.int(word, 255), k.int(word, EACH));
                    let z = k.add(z, middle);
                    let z = k.and(z, low);
                    k.mul(z, each)
                }
                None => k.int(word, (EACH * self.middle()) as i32 as i64),
            };
            let zeros = k.bitcast(zeros, Scalar::I8.x(4 * LANES));
            let (at, to) = (k.offset(at, self.format.head_bytes()), k.offset(to, self.scale_bytes()));
            self.units(k, at, vec![], |k, unit, before, _| {
                let lanes = k.i64(LANES.into());
                let skip = k.mul(before, lanes);
                let to = k.gep(to, skip);
                for q in 0..self.format.unit() / 4 {
                    let w = self.quad(k, unit, q);
                    let w = k.sub(w, zeros);
                    let to = k.offset(to, q * LINE);
                    k.store_aligned(w, to, 64);
                }
                vec![]
            });
        });
    }

    /// [`Codes::sums`] of panels that [`Codes::prepare`] has made, sixteen rows at a time, stored at `to` or added to what is there: panels side by side, rows
    /// `to_pitch` bytes apart.
    pub fn tile_sums(&self, k: &mut KernelBuilder, o: &Operands, (to, to_pitch): (Val, Val), add: bool) {
        let spill = k.alloca(1024, 64);
        for first in (0..o.rows).step_by(16) {
            let down = k.i64(first);
            let (skip, down) = (k.mul(down, o.pitch), k.mul(down, to_pitch));
            let (row, params, to) = (k.gep(o.row, skip), k.gep(o.params, skip), k.gep(to, down));
            let each = |k: &mut KernelBuilder, first: Val, pitch: Val| -> Vec<Val> {
                (0..16)
                    .map(|r| {
                        let r = k.i64(r);
                        let skip = k.mul(r, pitch);
                        k.gep(first, skip)
                    })
                    .collect()
            };
            for (p, &panel) in o.panels.iter().enumerate() {
                let to = k.offset(to, p as i64 * LINE);
                let places = each(k, to, to_pitch);
                let ty = Scalar::F32.x(LANES);
                let start = places.iter().map(|&at| if add { k.load_aligned(at, ty, 64) } else { k.zero(ty) });
                let start: Vec<Val> = start.collect();
                let (zero, one, size) = (k.i64(0), k.i64(1), k.i64(self.segment));
                let segments = k.div(o.depth, size);
                let sums = k.for_(zero, segments, one, &start, |k, segment, sums| {
                    let (ready, elements, param) = (k.i64(self.ready_bytes()), k.i64(self.segment), k.i64(PARAM_BYTES));
                    let (skip, along) = (k.mul(segment, ready), k.mul(segment, elements));
                    let beside = k.mul(segment, param);
                    let (panel, row, params) = (k.gep(panel, skip), k.gep(row, along), k.gep(params, beside));
                    let scale = self.format.scale.map(|_| k.load_aligned(panel, ty, 64));
                    let bytes = k.offset(panel, self.scale_bytes());
                    self.dot(k, (row, o.pitch), bytes, spill);
                    let params = each(k, params, o.pitch);
                    let lines = (0..16).zip(params).zip(sums).map(|((r, at), &sum)| {
                        let from = k.offset(spill, r * LINE);
                        let own = k.load_aligned(from, Scalar::I32.x(LANES), 64);
                        scaled(k, own, scale, at, sum)
                    });
                    lines.collect()
                });
                for (sum, at) in sums.into_iter().zip(places) {
                    k.store_aligned(sum, at, 64);
                }
            }
        }
    }

    /// Sixteen rows of a segment times sixteen columns, as integers.
    fn dot(&self, k: &mut KernelBuilder, (row, pitch): (Val, Val), bytes: Val, to: Val) {
        let line = k.i64(LINE);
        let mut sum = k.tile_zero(16, 64);
        for from in (0..self.segment).step_by(LINE as usize) {
            let depth = (self.segment - from).min(LINE) as u16;
            let (x, w) = (k.offset(row, from), k.offset(bytes, from * i64::from(LANES)));
            let x = k.tile_load(x, pitch, 16, depth);
            let w = k.tile_load(w, line, depth / 4, 64);
            let dot = Intrinsic::TileDot { dot: Dot::SS, rows: 16, row_bytes: 64, depth_bytes: depth };
            sum = k.intrinsic(dot, &[sum, x, w]);
        }
        k.tile_store(sum, to, line, 16, 64);
    }
}

/// `sum` and the segment's sum of integers times the scales of the columns and of the row, which is at `param`.
fn scaled(k: &mut KernelBuilder, own: Val, columns: Option<Val>, param: Val, sum: Val) -> Val {
    let own = k.to_float(own, Scalar::F32);
    let own = columns.map_or(own, |s| k.mul(own, s));
    let row = k.load(param, Ty::F32);
    let row = k.splat(row, LANES);
    k.fma(own, row, sum)
}
