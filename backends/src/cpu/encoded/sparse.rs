//! Weights of which only a part is stored.
//!
//! A chunk of a panel is its scales and zero points where there are groups, the number of its first value (`u32`), and for each `run` of rows a mask of sixteen bits, one for each column.
//! The values lie apart, one after the other: row after row, in a row by column. They are floats, bytes, or codes of 2 to 4 bits side by side; bytes that may be read and
//! mean nothing follow the last. Instructions spread a row's values to the lanes of its mask, eight at a time by a table of permutations, or sixteen at once.

use super::Format;
use super::decode::LANES;
use super::source::Source;
use crate::cpu::pack::{Matrix, PANEL};
use crate::emit::{Intrinsic, KernelBuilder, Scalar, Val};
use std::ops::Range;
use tersor_ir::types::DTypeClass;
use tersor_ir::{DType, Tensor};

/// What panels of a sparse weight hold.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Sparse {
    /// The type of values that are stored as they are; others are signed codes.
    pub float: Option<Scalar>,
    /// Rows that share a mask.
    pub run: i64,
}

impl Sparse {
    /// Rows of a chunk where there are no groups.
    pub const CHUNK: i64 = 64;
    /// Bytes of the number of the first value.
    pub const FIRST_BYTES: i64 = 4;
    /// Bytes of a mask.
    pub const MASK_BYTES: i64 = PANEL as i64 / 8;

    /// Rows that are written out one after the other.
    pub fn unit(&self) -> i64 {
        self.run.max(4)
    }
}

/// Bytes after the last value.
const PADDING: usize = 64;
/// Rows that may share a mask, the most first.
const RUNS: [i64; 5] = [16, 8, 4, 2, 1];

/// The values of a weight as they are collected.
pub struct Values<'a> {
    /// Bits of each.
    pub bits: u32,
    float: Option<Scalar>,
    /// The longest run that all masks agree on.
    run: i64,
    source: &'a Source,
    keep: &'a [bool],
    bytes: Vec<u8>,
    count: usize,
}

impl<'a> Values<'a> {
    /// Of a source that stores a part: floats, or signed codes.
    pub fn of(source: &'a Source, m: &Matrix) -> Option<Values<'a>> {
        let keep = source.keep.as_deref()?;
        let dtype = source.codes.dtype();
        let (float, bits) = match dtype {
            DType::F32 => (Some(Scalar::F32), 32),
            DType::F16 => (Some(Scalar::F16), 16),
            DType::BF16 => (Some(Scalar::BF16), 16),
            _ if dtype.class() != DTypeClass::Int || dtype.bits() > 8 || source.table.is_some() => return None,
            _ => (None, if dtype.bits() <= 4 { dtype.bits() } else { 8 }),
        };
        let same = |k: usize| {
            let there = |k: usize, g: usize, n: usize| keep[source.position((m.at)(g, k, n))];
            (0..m.groups).all(|g| (0..m.n).all(|n| there(k - 1, g, n) == there(k, g, n)))
        };
        let run = (1..m.k).fold(RUNS[0], |run, k| {
            if run > 1 && k as i64 % run != 0 && !same(k) {
                RUNS.into_iter().find(|&r| k as i64 % r == 0).unwrap_or(1)
            } else {
                run
            }
        });
        Some(Values { bits, float, run, source, keep, bytes: vec![], count: 0 })
    }

    /// The format's part that says how they lie.
    pub fn format(&self, format: &Format) -> Sparse {
        let fits = |run: &i64| self.run % run == 0 && (!format.grouped() || format.group % run == 0);
        Sparse { float: self.float, run: RUNS.into_iter().find(fits).unwrap_or(1) }
    }

    /// Appends a chunk to a panel, without its head, and its values to the others. `code` is where the element of a row and column lies in the source, where it exists.
    pub fn chunk(
        &mut self,
        format: &Format,
        rows: Range<usize>,
        code: &dyn Fn(usize, usize) -> Option<usize>,
        panel: &mut Vec<u8>,
    ) -> Option<()> {
        let unit = format.unit() as usize;
        let run = format.sparse?.run as usize;
        panel.extend_from_slice(&u32::try_from(self.count).ok()?.to_le_bytes());
        for from in (rows.start..rows.start + rows.len().next_multiple_of(unit)).step_by(run) {
            let there = |i: &usize| from < rows.end && code(from, *i).is_some_and(|c| self.keep[c]);
            let columns: Vec<usize> = (0..PANEL).filter(there).collect();
            let mask = columns.iter().fold(0u16, |mask, i| mask | 1 << i);
            panel.extend_from_slice(&mask.to_le_bytes());
            for row in from..(from + run).min(rows.end) {
                columns.iter().for_each(|&i| self.push(code(row, i)));
            }
        }
        Some(())
    }

    fn push(&mut self, at: Option<usize>) {
        let codes = &self.source.codes;
        let size = self.bits as usize / 8;
        match at {
            Some(at) if self.float.is_some() => self.bytes.extend_from_slice(&codes.bytes()[at * size..][..size]),
            at => {
                let code = at.map_or(0, |at| codes.get_i64(at)) as u64 & (u64::MAX >> (64 - self.bits));
                let bit = self.count * self.bits as usize;
                let wide = code << (bit % 8);
                let end = (bit + self.bits as usize).div_ceil(8);
                self.bytes.resize(end, 0);
                (bit / 8..end).zip(wide.to_le_bytes()).for_each(|(i, b)| self.bytes[i] |= b);
            }
        }
        self.count += 1;
    }

    /// All of them.
    pub fn finish(mut self) -> Option<Tensor> {
        let count = self.bytes.len() + PADDING;
        self.bytes.resize(count, 0);
        Tensor::from_blob(DType::U8, vec![count], self.bytes.into())
    }
}

/// Spreads values to lanes.
pub struct Spreader {
    bits: u32,
    sparse: Sparse,
    values: Val,
    /// [`permutations`], where masks of sixteen bits are not used at once.
    picks: Option<Val>,
}

/// The lanes of a run of rows.
pub struct Lanes {
    /// On or off, of sixteen.
    mask: Option<Val>,
    /// The number of each lane's value, of eight.
    picks: Vec<Val>,
    /// Values of the first eight, and of all.
    counts: [Val; 2],
}

/// For each mask of eight bits the number of each lane's value, negative for none.
fn permutations() -> Vec<u8> {
    let row = |mask: u32| {
        (0..8).map(move |lane| {
            let before = (mask & ((1 << lane) - 1)).count_ones() as u8;
            if mask >> lane & 1 == 1 { before } else { 0x80 | before }
        })
    };
    (0..256).flat_map(row).collect()
}

impl Spreader {
    /// For values of so many bits; whether vectors have 512.
    pub fn new(k: &mut KernelBuilder, bits: u32, sparse: Sparse, wide: bool, values: Val) -> Spreader {
        let picks = (!wide || bits < 8).then(|| k.table(permutations(), 64));
        Spreader { bits, sparse, values, picks }
    }

    /// The lanes of the mask at `at`.
    pub fn lanes(&self, k: &mut KernelBuilder, at: Val) -> Lanes {
        let mask = k.load_aligned(at, Scalar::I16.x(1), 1);
        let all = k.zext(mask, Scalar::I64);
        let byte = k.i64(0xff);
        let low = k.and(all, byte);
        let counts = [k.popcount(low), k.popcount(all)];
        let Some(table) = self.picks else {
            let mask = k.bitcast(mask, Scalar::I1.x(LANES));
            return Lanes { mask: Some(mask), picks: vec![], counts };
        };
        let eight = k.i64(8);
        let high = k.shr(all, eight);
        let picks = [low, high].map(|half| {
            let at = k.elem(table, half, Scalar::I64);
            let picks = k.load_aligned(at, Scalar::I8.x(8), 8);
            k.sext(picks, Scalar::I32)
        });
        Lanes { mask: None, picks: picks.to_vec(), counts }
    }

    /// The sixteen floats of a row whose first value is number `first`, and the number of the next row's.
    pub fn row(&self, k: &mut KernelBuilder, lanes: &Lanes, first: Val) -> (Val, Val) {
        let next = k.add(first, lanes.counts[1]);
        if let Some(mask) = lanes.mask {
            let v = self.load(k, first, LANES);
            let zero = k.zero(v.ty());
            return (k.intrinsic(Intrinsic::Vexpandps512, &[v, zero, mask]), next);
        }
        let above = k.add(first, lanes.counts[0]);
        let halves = [(first, lanes.picks[0]), (above, lanes.picks[1])].map(|(first, picks)| {
            let v = if self.bits >= 8 {
                let v = self.load(k, first, 8);
                k.intrinsic(Intrinsic::Vpermps256, &[v, picks])
            } else {
                self.codes(k, first, picks)
            };
            let none = k.zero(picks.ty());
            let (off, zero) = (k.lt(picks, none), k.zero(v.ty()));
            k.select(off, zero, v)
        });
        (k.concat(halves[0], halves[1]), next)
    }

    /// Neighbours from number `first` on as floats.
    fn load(&self, k: &mut KernelBuilder, first: Val, count: u32) -> Val {
        let stored = self.sparse.float.unwrap_or(Scalar::I8);
        let at = k.elem(self.values, first, stored);
        let v = k.load_aligned(at, stored.x(count), stored.bytes());
        match self.sparse.float {
            Some(Scalar::F32) => v,
            Some(_) => k.to_float_type(v, Scalar::F32),
            None => {
                let v = k.sext(v, Scalar::I32);
                k.to_float(v, Scalar::F32)
            }
        }
    }

    /// Codes of few bits from number `first` on, each lane the one that it picks, as floats.
    fn codes(&self, k: &mut KernelBuilder, first: Val, picks: Val) -> Val {
        let (bits, three, seven) = (k.i64(self.bits.into()), k.i64(3), k.i64(7));
        let bit = k.mul(first, bits);
        let (byte, within) = (k.shr(bit, three), k.and(bit, seven));
        let at = k.gep(self.values, byte);
        let word = k.load_aligned(at, Scalar::I64.x(1), 1);
        let word = k.shr(word, within);
        let word = k.trunc(word, Scalar::I32);
        let word = k.splat(word, 8);
        let ty = picks.ty();
        let (seven, size, rest) = (k.int(ty, 7), k.int(ty, self.bits.into()), k.int(ty, i64::from(32 - self.bits)));
        let number = k.and(picks, seven);
        let below = k.mul(number, size);
        let up = k.sub(rest, below);
        let code = k.shl(word, up);
        let code = k.sar(code, rest);
        k.to_float(code, Scalar::F32)
    }
}
