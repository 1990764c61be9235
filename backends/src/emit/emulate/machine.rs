//! The address space of a run, and the machine's special instructions.

use super::super::intrinsic::{Dot, Intrinsic};
use super::super::types::Ty;
use super::memory::Buffer;

/// What fresh memory is filled with.
pub(super) const STACK: u8 = 0xff;

/// A pointer is a region's number above these bits, and below them an offset from their middle.
const REGION: u32 = 44;
const MIDDLE: u64 = 1 << (REGION - 1);

struct Region {
    name: String,
    buffer: usize,
    writable: bool,
}

/// The buffers of a run, and which of them each region of addresses shows.
#[derive(Default)]
pub(super) struct Space {
    pub(super) buffers: Vec<Buffer>,
    regions: Vec<Region>,
}

impl Space {
    pub(super) fn new(buffers: Vec<Buffer>) -> Self {
        Self { buffers, regions: Vec::new() }
    }

    /// The address of a buffer.
    pub(super) fn operand(&mut self, name: &str, buffer: usize, writable: bool) -> u64 {
        self.regions.push(Region { name: name.into(), buffer, writable });
        ((self.regions.len() as u64) << REGION) + MIDDLE
    }

    /// The address of new memory.
    pub(super) fn fresh(&mut self, name: &str, bytes: &[u8], writable: bool) -> u64 {
        self.buffers.push(Buffer::from_slice(bytes));
        self.operand(name, self.buffers.len() - 1, writable)
    }

    /// The buffer and offset of `len` bytes at `pointer`.
    fn find(&self, pointer: u64, len: usize, align: u32, write: bool) -> Result<(usize, usize), String> {
        let (region, offset) = ((pointer >> REGION) as usize, pointer & ((1 << REGION) - 1));
        let offset = offset as i64 - MIDDLE as i64;
        let Region { name, buffer, writable } =
            region.checked_sub(1).and_then(|r| self.regions.get(r)).ok_or("wild pointer")?;
        let size = self.buffers.get(*buffer).ok_or("no such buffer")?.bytes().len();
        if offset < 0 || offset as usize + len > size {
            return Err(format!("{len} bytes at offset {offset} of `{name}`, which has {size}"));
        }
        if !(offset as u64).is_multiple_of(align.into()) {
            return Err(format!("offset {offset} of `{name}` is not a multiple of {align}"));
        }
        if write && !writable {
            return Err(format!("`{name}` is read only"));
        }
        Ok((*buffer, offset as usize))
    }

    pub(super) fn load_bytes(&self, pointer: u64, len: usize) -> Result<&[u8], String> {
        let (buffer, at) = self.find(pointer, len, 1, false)?;
        Ok(&self.buffers[buffer].bytes()[at..at + len])
    }

    pub(super) fn store_bytes(&mut self, pointer: u64, bytes: &[u8]) -> Result<(), String> {
        let (buffer, at) = self.find(pointer, bytes.len(), 1, true)?;
        self.buffers[buffer].bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    pub(super) fn load(&self, pointer: u64, ty: Ty, align: u32) -> Result<Vec<u64>, String> {
        let (buffer, at) = self.find(pointer, ty.bytes() as usize, align, false)?;
        let bytes = &self.buffers[buffer].bytes()[at..at + ty.bytes() as usize];
        let word = |lane: &[u8]| lane.iter().rev().fold(0, |word, &b| word << 8 | u64::from(b));
        Ok(bytes.chunks_exact((ty.bytes() / ty.lanes()) as usize).map(word).collect())
    }

    pub(super) fn store(&mut self, pointer: u64, ty: Ty, value: &[u64], align: u32) -> Result<(), String> {
        let (buffer, at) = self.find(pointer, ty.bytes() as usize, align, true)?;
        let size = (ty.bytes() / ty.lanes()) as usize;
        let bytes = &mut self.buffers[buffer].bytes_mut()[at..at + ty.bytes() as usize];
        for (lane, word) in bytes.chunks_exact_mut(size).zip(value) {
            lane.copy_from_slice(&word.to_le_bytes()[..size]);
        }
        Ok(())
    }
}

/// What an instruction comes to.
pub(super) enum Effect {
    Value(Vec<u64>),
    /// Bytes to store, by address.
    Store(Vec<(u64, Vec<u8>)>),
}

pub(super) fn intrinsic(intrinsic: Intrinsic, args: &[&[u64]], space: &Space) -> Result<Effect, String> {
    let value = match intrinsic {
        Intrinsic::Vpdpbusd512 | Intrinsic::Vpdpbusd256 => {
            let one = |i: usize| {
                let sum: i32 =
                    (4 * i..4 * i + 4).map(|j| i32::from(args[1][j] as u8) * i32::from(args[2][j] as i8)).sum();
                (args[0][i] as i32).wrapping_add(sum) as u32 as u64
            };
            (0..args[0].len()).map(one).collect()
        }
        Intrinsic::Vpmaddwd256 | Intrinsic::Vpmaddwd512 => {
            let product = |j: usize| i32::from(args[0][j] as i16) * i32::from(args[1][j] as i16);
            (0..args[0].len() / 2).map(|i| product(2 * i).wrapping_add(product(2 * i + 1)) as u32 as u64).collect()
        }
        Intrinsic::Vpmaddubsw256 | Intrinsic::Vpmaddubsw512 => {
            let product = |j: usize| i32::from(args[0][j] as u8) * i32::from(args[1][j] as i8);
            let one =
                |i: usize| (product(2 * i) + product(2 * i + 1)).clamp(i16::MIN.into(), i16::MAX.into()) as u16 as u64;
            (0..args[0].len() / 2).map(one).collect()
        }
        Intrinsic::Vdpbf16ps512 => {
            let one = |i: usize| {
                let pair = |j: usize| dot_bf16(args[1][j] as u16, args[2][j] as u16);
                u64::from(pair(2 * i)(pair(2 * i + 1)(f32::from_bits(args[0][i] as u32))).to_bits())
            };
            (0..16).map(one).collect()
        }
        Intrinsic::Vpermps256 | Intrinsic::Vpermps512 => {
            args[1].iter().map(|&i| args[0][i as usize % args[0].len()]).collect()
        }
        Intrinsic::Vexpandps512 => {
            let mut packed = args[0].iter();
            let one = |(&on, &other): (&u64, &u64)| if on != 0 { packed.next().map_or(0, |&v| v) } else { other };
            args[2].iter().zip(args[1]).map(one).collect()
        }
        Intrinsic::Vpshufb256 | Intrinsic::Vpshufb512 => {
            let one = |(i, &pick): (usize, &u64)| {
                if pick & 0x80 != 0 { 0 } else { args[0][i / 16 * 16 + pick as usize % 16] }
            };
            args[1].iter().enumerate().map(one).collect()
        }
        Intrinsic::TileZero { .. } => vec![0; 128],
        Intrinsic::TileLoad { rows, row_bytes } => {
            let mut tile = vec![0; 1024];
            for row in 0..usize::from(rows) {
                let at = args[0][0].wrapping_add(args[1][0].wrapping_mul(row as u64));
                tile[row * 64..row * 64 + usize::from(row_bytes)]
                    .copy_from_slice(space.load_bytes(at, row_bytes.into())?);
            }
            pack(&tile)
        }
        Intrinsic::TileStore { rows, row_bytes } => {
            let tile = unpack(args[2]);
            let row = |row: usize| {
                let at = args[0][0].wrapping_add(args[1][0].wrapping_mul(row as u64));
                (at, tile[row * 64..row * 64 + usize::from(row_bytes)].to_vec())
            };
            return Ok(Effect::Store((0..rows.into()).map(row).collect()));
        }
        Intrinsic::TileDot { dot, rows, row_bytes, depth_bytes } => {
            let (a, b, mut acc) = (unpack(args[1]), unpack(args[2]), unpack(args[0]));
            for m in 0..usize::from(rows) {
                for n in 0..usize::from(row_bytes) / 4 {
                    let pairs = (0..usize::from(depth_bytes) / 4)
                        .map(|k| (&a[m * 64 + k * 4..][..4], &b[k * 64 + n * 4..][..4]));
                    let cell = &mut acc[m * 64 + n * 4..][..4];
                    let sum = [cell[0], cell[1], cell[2], cell[3]];
                    cell.copy_from_slice(&tile_cell(dot, sum, pairs));
                }
                acc[m * 64 + usize::from(row_bytes)..(m + 1) * 64].fill(0);
            }
            acc[usize::from(rows) * 64..].fill(0);
            pack(&acc)
        }
        gpu => return Err(format!("{gpu:?} runs on a GPU only")),
    };
    Ok(Effect::Value(value))
}

/// Adds the products of pairs of four bytes, or of two bf16, to an accumulator.
fn tile_cell<'a>(dot: Dot, sum: [u8; 4], pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> [u8; 4] {
    if dot == Dot::Bf16 {
        let half = |x: &[u8], i: usize| u16::from_le_bytes([x[2 * i], x[2 * i + 1]]);
        let (even, odd) = pairs.fold((0.0, 0.0), |(even, odd), (a, b)| {
            (dot_bf16(half(a, 0), half(b, 0))(even), dot_bf16(half(a, 1), half(b, 1))(odd))
        });
        return flush(flush(f32::from_le_bytes(sum)) + flush(even + odd)).to_le_bytes();
    }
    let (a_signed, b_signed) = (matches!(dot, Dot::SS | Dot::SU), matches!(dot, Dot::SS | Dot::US));
    let int = |x: u8, signed: bool| if signed { i32::from(x as i8) } else { i32::from(x) };
    let four =
        |a: &[u8], b: &[u8]| -> i32 { a.iter().zip(b).map(|(&a, &b)| int(a, a_signed) * int(b, b_signed)).sum() };
    pairs.fold(i32::from_le_bytes(sum), |sum, (a, b)| sum.wrapping_add(four(a, b))).to_le_bytes()
}

/// Denormals as zero of their sign.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// Adds one product of bf16: rounded once, denormals are zero on the way in and out.
fn dot_bf16(a: u16, b: u16) -> impl Fn(f32) -> f32 {
    let wide = |x: u16| flush(f32::from_bits(u32::from(x) << 16));
    let (a, b) = (wide(a), wide(b));
    move |sum| flush(a.mul_add(b, flush(sum)))
}

fn pack(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("eight bytes"))).collect()
}

fn unpack(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}
