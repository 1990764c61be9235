//! Instructions that decode panels: in registers on the way to a product, or into scratch.

use super::panels::bit;
use super::sparse::{Lanes, Sparse, Spreader};
use super::{Format, planes};
use crate::emit::{Intrinsic, KernelBuilder, Scalar, Val};
use std::collections::HashMap;

/// Columns of a panel.
pub const LANES: u32 = 16;
/// Units that are written out one after the other; more of them take a loop.
const UNROLLED: i64 = 4;

/// Decodes one format.
pub struct Decoder {
    format: Format,
    /// Whether vectors have 512 bits.
    wide: bool,
    /// Entries in registers: one vector of them by four bits of an index, or two of eight.
    entries: Vec<Val>,
    /// All entries in memory.
    lookup: Option<Val>,
    /// What reads the values of sparse weights.
    spreader: Option<Spreader>,
}

/// What stands before the codes of a chunk.
pub(super) struct Head {
    pub(super) scale: Option<Val>,
    pub(super) zero: Option<Val>,
    /// The number of the first value of a sparse chunk.
    first: Option<Val>,
}

/// A unit of a panel, its words loaded as they are needed.
struct Unit {
    at: Val,
    words: HashMap<i64, Val>,
    /// The number of the next value of a sparse one, and the lanes of its rows.
    next: Option<Val>,
    lanes: Option<Lanes>,
}

impl Unit {
    fn new(at: Val, next: Option<Val>) -> Unit {
        Unit { at, words: HashMap::new(), next, lanes: None }
    }
}

/// Rows that panels multiply.
pub struct Rows<'a> {
    /// The first element of each.
    pub rows: &'a [Val],
    /// The first chunk of each panel.
    pub panels: &'a [Val],
    /// Elements of a row, a multiple of the format's chunk or what is left at the end of K.
    pub depth: Val,
    /// `depth` where it is known.
    pub known: Option<i64>,
    /// Asks for codes this many bytes ahead.
    pub ahead: Option<i64>,
}

impl Decoder {
    /// Entries of a table are loaded here, before any loop. Integers of few bits are looked up as well, where sixteen entries are one vector.
    pub fn new(k: &mut KernelBuilder, format: Format, wide: bool, lookup: Option<Val>) -> Decoder {
        let entries = match lookup {
            Some(at) if format.table && format.bits <= 4 => {
                let most = if wide { 16 } else { 8 };
                let count = 1u32 << format.bits;
                let part = |k: &mut KernelBuilder, i: u32| {
                    let at = k.offset(at, i64::from(i * most * 4));
                    let v = k.load(at, Scalar::F32.x(count.min(most)));
                    if count >= most {
                        return v;
                    }
                    let lanes: Vec<u32> = (0..most).map(|l| l % count).collect();
                    k.shuffle(v, v, &lanes)
                };
                (0..count.div_ceil(most)).map(|i| part(k, i)).collect()
            }
            None if wide && format.sparse.is_none() && matches!(format.bits, 2 | 4) => {
                let sign = 32 - format.bits;
                let value = |code: i32| (code << sign >> sign) as f32;
                vec![k.vec_f32(&(0..LANES as i32).map(value).collect::<Vec<_>>())]
            }
            _ => vec![],
        };
        let spreader = format.sparse.zip(lookup).map(|(s, values)| Spreader::new(k, format.bits, s, wide, values));
        Decoder { format, wide, entries, lookup, spreader }
    }

    pub(super) fn head(&self, k: &mut KernelBuilder, at: Val) -> Head {
        let align = if self.spreader.is_some() { 1 } else { 16 };
        let scale = self.format.scale.map(|s| {
            let v = k.load_aligned(at, s.x(LANES), align);
            if s == Scalar::F32 { v } else { k.to_float_type(v, Scalar::F32) }
        });
        let zero = self.format.zero.then(|| {
            let at = k.offset(at, self.format.scale.map_or(0, |s| i64::from(s.bytes() * LANES)));
            let v = k.load_aligned(at, Scalar::I8.x(LANES), align);
            k.sext(v, Scalar::I32)
        });
        let first = self.spreader.is_some().then(|| {
            let at = k.offset(at, self.format.head_bytes() - Sparse::FIRST_BYTES);
            let first = k.load_aligned(at, Scalar::I32.x(1), 1);
            k.zext(first, Scalar::I64)
        });
        Head { scale, zero, first }
    }

    /// The words of a unit that lie `offset` bytes after its first.
    fn word(&self, k: &mut KernelBuilder, unit: &mut Unit, offset: i64) -> Val {
        let at = unit.at;
        *unit.words.entry(offset).or_insert_with(|| {
            let at = k.offset(at, offset);
            k.load_aligned(at, Scalar::I32.x(LANES), if self.format.grouped() { 16 } else { 64 })
        })
    }

    /// The codes of row `j` of a unit.
    fn code(&self, k: &mut KernelBuilder, unit: &mut Unit, j: u32) -> Val {
        let ty = Scalar::I32.x(LANES);
        let (mut below, mut plane, mut code) = (self.format.bits, 0, None);
        for &p in planes(self.format.bits) {
            below -= p;
            let offset = plane + i64::from(j / (32 / p)) * 64;
            let w = self.word(k, unit, offset);
            let shift = |k: &mut KernelBuilder, f: fn(&mut KernelBuilder, Val, Val) -> Val, v: Val, by: u32| {
                let by = k.int(ty, by.into());
                f(k, v, by)
            };
            let at = bit(p, j);
            let top = at + p == 32;
            let mut part = if code.is_none() && !self.format.table {
                let v = if top { w } else { shift(k, KernelBuilder::shl, w, 32 - p - at) };
                shift(k, KernelBuilder::sar, v, 32 - p)
            } else {
                let v = if at == 0 { w } else { shift(k, KernelBuilder::shr, w, at) };
                if top { v } else { shift(k, KernelBuilder::and, v, u32::MAX >> (32 - p)) }
            };
            if below > 0 {
                part = shift(k, KernelBuilder::shl, part, below);
            }
            code = Some(code.map_or(part, |c| k.or(c, part)));
            plane += self.format.unit() * i64::from(p) * 2;
        }
        code.expect("a plane")
    }

    /// The floats of row `j` of a unit, without their scale. Rows are asked for in order.
    fn value(&self, k: &mut KernelBuilder, unit: &mut Unit, head: &Head, j: u32) -> Val {
        if let (Some(spreader), Some(sparse), Some(first)) = (&self.spreader, self.format.sparse, unit.next) {
            let (run, at) = (i64::from(j) / sparse.run, unit.at);
            let fresh = i64::from(j) % sparse.run == 0;
            let lanes = unit.lanes.take().filter(|_| !fresh).unwrap_or_else(|| {
                let at = k.offset(at, run * Sparse::MASK_BYTES);
                spreader.lanes(k, at)
            });
            let (v, next) = spreader.row(k, &lanes, first);
            (unit.next, unit.lanes) = (Some(next), Some(lanes));
            return head.zero.map_or(v, |z| {
                let z = k.to_float(z, Scalar::F32);
                k.sub(v, z)
            });
        }
        if let ([all], true, &[p]) = (&self.entries[..], self.wide, planes(self.format.bits)) {
            // Bits above the code's do not matter: an index has four, and entries are there again for each value of the others.
            let word = self.word(k, unit, i64::from(j / (32 / p)) * 64);
            let by = k.int(word.ty(), bit(p, j).into());
            let index = if bit(p, j) == 0 { word } else { k.shr(word, by) };
            let v = k.intrinsic(Intrinsic::Vpermps512, &[*all, index]);
            return head.zero.map_or(v, |z| {
                let z = k.to_float(z, Scalar::F32);
                k.sub(v, z)
            });
        }
        let code = self.code(k, unit, j);
        if self.format.table {
            return self.entry(k, code);
        }
        let code = head.zero.map_or(code, |z| k.sub(code, z));
        k.to_float(code, Scalar::F32)
    }

    /// The entries of these numbers.
    fn entry(&self, k: &mut KernelBuilder, code: Val) -> Val {
        match (self.wide, &self.entries[..]) {
            (true, &[all]) => k.intrinsic(Intrinsic::Vpermps512, &[all, code]),
            (false, [low, rest @ ..]) => {
                let halves = [0, 8].map(|first| {
                    let code = k.slice(code, first, 8);
                    let below = k.intrinsic(Intrinsic::Vpermps256, &[*low, code]);
                    let Some(&high) = rest.first() else { return below };
                    let above = k.intrinsic(Intrinsic::Vpermps256, &[high, code]);
                    let seven = k.int(code.ty(), 7);
                    let upper = k.gt(code, seven);
                    k.select(upper, above, below)
                });
                k.concat(halves[0], halves[1])
            }
            _ => {
                let table = self.lookup.expect("a table of many entries is in memory");
                let size = k.int(code.ty(), 4);
                let offsets = k.mul(code, size);
                k.gather(table, offsets, Scalar::F32)
            }
        }
    }

    /// Asks for what comes so many bytes after a unit.
    fn fetch(&self, k: &mut KernelBuilder, unit: Val, next: Option<Val>, ahead: i64) {
        let (at, bytes) = match (next, self.lookup) {
            (Some(next), Some(values)) => {
                let (size, three) = (k.i64(self.format.bits.into()), k.i64(3));
                let bits = k.mul(next, size);
                let skip = k.shr(bits, three);
                // Of a unit's elements about half are stored.
                (k.gep(values, skip), self.format.unit() * i64::from(LANES * self.format.bits) / 16)
            }
            _ => (unit, self.format.unit_bytes()),
        };
        for line in (0..bytes).step_by(64) {
            let far = k.offset(at, ahead + line);
            k.prefetch(far, 3);
        }
    }

    /// Calls `each` with the units of `n` rows from `at` on, their first row, and how many they have; `state` goes from one to the next.
    fn units(
        &self,
        k: &mut KernelBuilder,
        n: i64,
        state: Vec<Val>,
        mut each: impl FnMut(&mut KernelBuilder, Val, i64, Vec<Val>) -> Vec<Val>,
    ) -> Vec<Val> {
        let unit = self.format.unit();
        let whole = n / unit;
        let mut state = state;
        if whole <= UNROLLED {
            for i in 0..whole {
                let i = k.i64(i);
                state = each(k, i, unit, state);
            }
        } else {
            let (zero, end, one) = (k.i64(0), k.i64(whole), k.i64(1));
            state = k.for_(zero, end, one, &state, |k, i, state| each(k, i, unit, state.to_vec()));
        }
        if n % unit > 0 {
            let i = k.i64(whole);
            state = each(k, i, n % unit, state);
        }
        state
    }

    /// Calls `each` with every chunk of `depth` rows: its number and how many rows it has.
    fn chunks(
        &self,
        k: &mut KernelBuilder,
        (depth, known): (Val, Option<i64>),
        state: Vec<Val>,
        mut each: impl FnMut(&mut KernelBuilder, Val, i64, Vec<Val>) -> Vec<Val>,
    ) -> Vec<Val> {
        let (chunk, rest) = (self.format.chunk(), self.format.k % self.format.chunk());
        let (zero, one, size) = (k.i64(0), k.i64(1), k.i64(chunk));
        let whole = match known {
            Some(d) => k.i64(d / chunk),
            None => k.div(depth, size),
        };
        let state = match known {
            Some(d) if d / chunk == 0 => state,
            Some(d) if d / chunk == 1 => each(k, zero, chunk, state),
            _ => k.for_(zero, whole, one, &state, |k, i, state| each(k, i, chunk, state.to_vec())),
        };
        if rest == 0 || known.is_some_and(|d| d % chunk == 0) {
            return state;
        }
        if known.is_some() {
            return each(k, whole, rest, state);
        }
        let done = k.mul(whole, size);
        let more = k.lt(done, depth);
        let before = state.clone();
        k.if_(more, |k| each(k, whole, rest, state), |_| before)
    }

    /// Sixteen sums for each panel and row: rows of the first panel, rows of the second…
    pub fn sums(&self, k: &mut KernelBuilder, r: &Rows) -> Vec<Val> {
        let count = r.rows.len() * r.panels.len();
        let ty = Scalar::F32.x(LANES);
        let registers = count as u32 * if self.wide { 1 } else { 2 };
        // Few sums would wait for each other; many leave no room for a group's own.
        let sets = if registers <= 2 { 2 } else { 1 };
        let apart = self.format.scale.is_some() && registers <= if self.wide { 12 } else { 4 };
        let zero = k.zero(ty);
        let sums = self.chunks(k, (r.depth, r.known), vec![zero; count * sets], |k, i, n, sums| {
            let (bytes, elements) = (k.i64(self.format.chunk_bytes()), k.i64(self.format.chunk() * 4));
            let (skip, along) = (k.mul(i, bytes), k.mul(i, elements));
            let chunks: Vec<Val> = r.panels.iter().map(|&p| k.gep(p, skip)).collect();
            let rows: Vec<Val> = r.rows.iter().map(|&x| k.gep(x, along)).collect();
            let heads: Vec<Head> = chunks.iter().map(|&at| self.head(k, at)).collect();
            let start = if apart { vec![zero; count * sets] } else { sums.clone() };
            let next = heads.iter().filter_map(|h| h.first);
            let start = start.into_iter().chain(next).collect();
            let own = self.units(k, n, start, |k, u, n, mut own| {
                let next = own.split_off(count * sets);
                let (bytes, elements) = (k.i64(self.format.unit_bytes()), k.i64(self.format.unit() * 4));
                let (skip, along) = (k.mul(u, bytes), k.mul(u, elements));
                let mut units = vec![];
                for (i, &at) in chunks.iter().enumerate() {
                    let at = k.offset(at, self.format.head_bytes());
                    let at = k.gep(at, skip);
                    if let Some(ahead) = r.ahead {
                        self.fetch(k, at, next.get(i).copied(), ahead);
                    }
                    units.push(Unit::new(at, next.get(i).copied()));
                }
                let rows: Vec<Val> = rows.iter().map(|&x| k.gep(x, along)).collect();
                for j in 0..n {
                    let set = j as usize % sets * count;
                    for (p, (unit, head)) in units.iter_mut().zip(&heads).enumerate() {
                        let mut w = self.value(k, unit, head, j as u32);
                        if let Some(s) = head.scale.filter(|_| !apart) {
                            w = k.mul(w, s);
                        }
                        for (row, &x) in rows.iter().enumerate() {
                            let at = k.offset(x, j * 4);
                            let x = k.load(at, Scalar::F32.x(1));
                            let x = k.splat(x, LANES);
                            let sum = &mut own[set + p * rows.len() + row];
                            *sum = k.fma(x, w, *sum);
                        }
                    }
                }
                own.extend(units.iter().filter_map(|u| u.next));
                own
            });
            let own = own[..count * sets].to_vec();
            if !apart {
                return own;
            }
            let scale = |i: usize| heads[i % count / r.rows.len()].scale.expect("scales in groups");
            (0..sums.len()).map(|i| k.fma(own[i], scale(i), sums[i])).collect()
        });
        let (first, rest) = sums.split_at(count);
        let mut first = first.to_vec();
        for set in rest.chunks(count) {
            for (a, &b) in first.iter_mut().zip(set) {
                *a = k.add(*a, b);
            }
        }
        first
    }

    /// Decodes `depth` rows of a panel to `[depth][16]` floats.
    pub fn store(&self, k: &mut KernelBuilder, panel: Val, depth: Val, known: Option<i64>, to: Val) {
        self.chunks(k, (depth, known), vec![], |k, i, n, _| {
            let (bytes, elements) = (k.i64(self.format.chunk_bytes()), k.i64(self.format.chunk() * 64));
            let (skip, along) = (k.mul(i, bytes), k.mul(i, elements));
            let (at, to) = (k.gep(panel, skip), k.gep(to, along));
            let head = self.head(k, at);
            let next = head.first.into_iter().collect();
            self.units(k, n, next, |k, u, n, next| {
                let (bytes, elements) = (k.i64(self.format.unit_bytes()), k.i64(self.format.unit() * 64));
                let (skip, along) = (k.mul(u, bytes), k.mul(u, elements));
                let (at, to) = (k.offset(at, self.format.head_bytes()), k.gep(to, along));
                let mut unit = Unit::new(k.gep(at, skip), next.first().copied());
                for j in 0..n {
                    let v = self.value(k, &mut unit, &head, j as u32);
                    let v = head.scale.map_or(v, |s| k.mul(v, s));
                    let to = k.offset(to, j * 64);
                    k.store_aligned(v, to, 64);
                }
                unit.next.into_iter().collect()
            });
            vec![]
        });
    }
}
