//! Register tiles: the innermost loops of products.
//!
//! A tile multiplies a few rows with one or more panels of 16 columns and keeps every sum in registers. The arithmetic is one of a few [`Scheme`]s, chosen by
//! storage types and instruction set; each says in which form it wants its rows. Sums run over K in one order, whatever the tile.

use super::encoded::Format;
use super::encoded::codes::{Codes, Operands};
use super::encoded::decode::{Decoder, Rows};
use super::pack::{Layout, Matrix};
use crate::emit::{Dot, Intrinsic, KernelBuilder, Scalar, Ty, Val};
use crate::kernel::Isa;
use tersor_ir::{DType, Tensor};

/// The arithmetic of a product.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// One multiplication for each element, in the type of the sums.
    Plain(Scalar),
    /// Weights of 16 bits, widened on the way to `f32`.
    Half(Scalar),
    /// Pairs of `i16`: bytes of any sign, exact.
    Pairs,
    /// The same with weights that are pairs already (see [`prepare`]).
    ReadyPairs,
    /// Four unsigned by signed bytes at once. Signed rows have 128 added, which the starting sums take back.
    Quads,
    /// The same in two steps, the first of which adds two products in 16 bits: for weights whose neighbours are small enough (see [`Matrix::narrow`]).
    ShortQuads,
    /// Tiles of bytes; whether those of the rows are unsigned.
    TileBytes(bool),
    /// Tiles of `bf16`.
    TileHalf,
    /// Codes of a format, decoded to `f32`; whether vectors have 512 bits.
    Encoded(Format, bool),
    /// Codes times codes.
    Codes(Codes),
    /// The same with weights that are bytes already, in tiles.
    ReadyCodes(Codes),
}

impl Scheme {
    /// The scheme for rows of type `a` and constant weights, and the weights' layout. `None` where no kernel multiplies them.
    pub fn choose(a: DType, w: &Tensor, matrix: &Matrix, acc: Scalar, isa: Isa) -> (Scheme, Layout) {
        let b = w.dtype();
        let layout = Layout::of(b);
        let bytes = matches!(a, DType::I8 | DType::U8) && b == DType::I8;
        match (a, b, isa) {
            (DType::BF16, DType::BF16, Isa::Amx) => (Scheme::TileHalf, layout),
            (DType::BF16, DType::BF16, _) => (Scheme::Half(Scalar::BF16), layout),
            (DType::F16, DType::F16, _) => (Scheme::Half(Scalar::F16), layout),
            (_, _, Isa::V3) if bytes && matrix.narrow(w) => (Scheme::ShortQuads, layout),
            (_, _, Isa::V3) if bytes => (Scheme::Pairs, layout),
            (_, _, Isa::V4) if bytes => (Scheme::Quads, layout),
            (_, _, Isa::Amx) if bytes => (Scheme::TileBytes(a == DType::U8), layout),
            _ => (Scheme::Plain(acc), Layout { dtype: plain(acc), unit: 1, depth: 1 }),
        }
    }
    /// The type of sums.
    pub fn acc(self) -> Scalar {
        match self {
            Scheme::Plain(s) => s,
            Scheme::Half(_) | Scheme::TileHalf | Scheme::Encoded(..) => Scalar::F32,
            Scheme::Codes(_) | Scheme::ReadyCodes(_) => Scalar::F32,
            _ => Scalar::I32,
        }
    }
    /// The type of the rows' elements.
    pub fn row(self) -> Scalar {
        match self {
            Scheme::Plain(s) => s,
            Scheme::Half(_) | Scheme::Encoded(..) => Scalar::F32,
            Scheme::Pairs | Scheme::ReadyPairs => Scalar::I16,
            Scheme::Quads | Scheme::ShortQuads | Scheme::TileBytes(_) => Scalar::I8,
            Scheme::Codes(_) | Scheme::ReadyCodes(_) => Scalar::I8,
            Scheme::TileHalf => Scalar::BF16,
        }
    }
    /// Rows have a multiple of this many elements.
    pub fn unit(self) -> i64 {
        match self {
            Scheme::Plain(_) | Scheme::Encoded(..) => 1,
            Scheme::Half(_) | Scheme::ReadyPairs => 2,
            Scheme::Pairs | Scheme::Quads | Scheme::ShortQuads => 4,
            Scheme::TileBytes(_) => 64,
            Scheme::TileHalf => 32,
            Scheme::Codes(c) | Scheme::ReadyCodes(c) => c.segment,
        }
    }
    /// What multiplies weights that [`prepare`] has widened for several tiles of rows, where that pays.
    pub fn ready(self) -> Option<Scheme> {
        match self {
            Scheme::Half(_) | Scheme::Encoded(..) => Some(Scheme::Plain(Scalar::F32)),
            Scheme::Pairs => Some(Scheme::ReadyPairs),
            Scheme::Codes(c) if c.tiles => Some(Scheme::ReadyCodes(c)),
            _ => None,
        }
    }
    /// How codes meet codes, where they do.
    pub fn coded(self) -> Option<Codes> {
        match self {
            Scheme::Codes(c) | Scheme::ReadyCodes(c) => Some(c),
            _ => None,
        }
    }
    /// Up to how many rows weights that [`Scheme::ready`] names are not worth their preparation, where any number of more rows is.
    pub fn few(self) -> Option<i64> {
        matches!(self, Scheme::Codes(c) if c.tiles).then_some(4)
    }
    /// K may be cut at multiples of this.
    pub fn cut(self) -> i64 {
        match self {
            Scheme::Encoded(format, _) => format.chunk(),
            _ => self.unit(),
        }
    }
    /// Bytes of a panel between places where K may be cut.
    pub fn cut_bytes(self) -> i64 {
        match self {
            Scheme::Encoded(format, _) => format.chunk_bytes(),
            Scheme::Codes(c) => c.segment_bytes(),
            Scheme::ReadyCodes(c) => c.ready_bytes(),
            _ => self.unit() * self.weight_bytes() * i64::from(LANES),
        }
    }
    /// Bytes of one column's element of weights. Codes have none.
    pub fn weight_bytes(self) -> i64 {
        match self {
            Scheme::Plain(s) => s.bytes().into(),
            Scheme::Half(_) | Scheme::TileHalf | Scheme::ReadyPairs => 2,
            _ => 1,
        }
    }
    /// Whether tile registers are used: rows are then read 16 at a time, whether they exist or not.
    pub fn tiles(self) -> bool {
        matches!(self, Scheme::TileBytes(_) | Scheme::TileHalf)
    }
    /// Rows and panels of the largest tile for a product of so many panels.
    pub fn shape(self, isa: Isa, panels: Option<i64>) -> (i64, i64) {
        let few = panels.is_some_and(|p| p == 1);
        match self {
            _ if self.tiles() => (32, if few { 1 } else { 2 }),
            Scheme::Codes(c) | Scheme::ReadyCodes(c) => (if c.tiles { 32 } else { 6 }, if few { 1 } else { 2 }),
            Scheme::Plain(s) if s.bytes() == 8 => (2, 1),
            // Products wait in a register before they are added.
            Scheme::Pairs | Scheme::ReadyPairs | Scheme::ShortQuads => (5, 1),
            _ if !isa.wide() => (6, 1),
            _ if few => (14, 1),
            _ if panels.is_some_and(|p| p % 3 == 0) => (8, 3),
            Scheme::Quads | Scheme::Plain(_) | Scheme::Encoded(..) => (12, 2),
            _ => (10, 2),
        }
    }
}

/// The IR's type of elements that sums of this type are made of.
fn plain(acc: Scalar) -> DType {
    match acc {
        Scalar::F64 => DType::F64,
        Scalar::I64 => DType::I64,
        Scalar::I32 => DType::I32,
        Scalar::I16 => DType::I16,
        Scalar::I8 => DType::I8,
        _ => DType::F32,
    }
}

/// What a tile multiplies.
pub struct Tile<'a> {
    pub scheme: Scheme,
    /// The first element of the first row.
    pub row: Val,
    /// Bytes between rows.
    pub pitch: Val,
    /// Bytes between a row's elements.
    pub step: Val,
    /// How elements of rows lie in memory, where that is not what the scheme takes: type, and whether without sign. Plain schemes only.
    pub stored: Option<(Scalar, bool)>,
    pub rows: i64,
    /// The first element of each panel.
    pub panels: &'a [Val],
    /// Elements of a row, a multiple of the scheme's unit.
    pub depth: Val,
    /// `depth` where it is known.
    pub known: Option<i64>,
    /// What sums start from: 16 lanes for each panel. Not with tile registers.
    pub start: Option<&'a [Val]>,
    /// Asks for weights this many bytes ahead, where they come from far away.
    pub ahead: Option<i64>,
    /// The table of encoded weights.
    pub lookup: Option<Val>,
    /// What stands beside the first row, where rows are codes.
    pub params: Option<Val>,
}

const LANES: u32 = 16;

impl Tile<'_> {
    /// The sums, 16 lanes for each panel, panels side by side and rows `pitch` bytes apart, stored at `to` or added to what is there.
    pub fn run(&self, k: &mut KernelBuilder, to: Val, pitch: Val, add: bool) {
        if self.scheme.tiles() {
            return self.tile_registers(k, to, pitch, add);
        }
        if let (Scheme::ReadyCodes(c), Some(o)) = (self.scheme, self.coded()) {
            return c.tile_sums(k, &o, (to, pitch), add);
        }
        let sums = self.sums(k);
        for (i, v) in sums.into_iter().enumerate() {
            let (panel, row) = (i as i64 / self.rows, k.i64(i as i64 % self.rows));
            let bytes = i64::from(v.ty().bytes());
            let skip = k.mul(row, pitch);
            let at = k.gep(to, skip);
            let at = k.offset(at, panel * bytes);
            let v = if add {
                let before = k.load_aligned(at, v.ty(), v.ty().bytes().min(64));
                k.add(before, v)
            } else {
                v
            };
            k.store_aligned(v, at, v.ty().bytes().min(64));
        }
    }

    /// The operands of a product of codes.
    fn coded(&self) -> Option<Operands<'_>> {
        let Tile { row, pitch, rows, panels, depth, ahead, .. } = *self;
        self.params.map(|params| Operands { row, params, pitch, rows, panels, depth, ahead })
    }

    /// The sums in registers: rows of the first panel, rows of the second…
    pub fn sums(&self, k: &mut KernelBuilder) -> Vec<Val> {
        if let (Scheme::Codes(c), Some(o)) = (self.scheme, self.coded()) {
            return c.sums(k, &o);
        }
        let rows: Vec<Val> = (0..self.rows)
            .map(|r| {
                let r = k.i64(r);
                let offset = k.mul(r, self.pitch);
                k.gep(self.row, offset)
            })
            .collect();
        if let Scheme::Encoded(format, wide) = self.scheme {
            let (panels, depth, known, ahead) = (self.panels, self.depth, self.known, self.ahead);
            let decoder = Decoder::new(k, format, wide, self.lookup);
            return decoder.sums(k, &Rows { rows: &rows, panels, depth, known, ahead });
        }
        let count = self.rows as usize * self.panels.len();
        let ty = self.scheme.acc().x(LANES);
        // Few sums would wait for each other: they are kept several times, for different elements of K.
        let wide = ty.bytes() > 32;
        let sets = match count {
            _ if !wide => 1,
            1 => 4,
            2 | 3 => 2,
            _ => 1,
        };
        let zero = k.zero(ty);
        let mut start = vec![zero; count * sets];
        if let Some(first) = self.start {
            for (i, v) in start.iter_mut().take(count).enumerate() {
                *v = first[i / self.rows as usize];
            }
        }
        let unit = self.scheme.unit();
        let unroll = match self.scheme {
            Scheme::Plain(_) => 4,
            Scheme::ReadyPairs => 2.max(sets as i64),
            _ => (8 / unit).max(sets as i64),
        };
        let step = unit * unroll;
        let (low, whole) = match self.known {
            Some(d) => (k.i64(0), k.i64(d / step * step)),
            None => {
                let by = k.i64(step);
                let n = k.div(self.depth, by);
                (k.i64(0), k.mul(n, by))
            }
        };
        let by = k.i64(step);
        let mut sums = k.for_(low, whole, by, &start, |k, i, sums| {
            let mut sums = sums.to_vec();
            for u in 0..unroll {
                let set = u as usize % sets * count;
                self.unit(k, &rows, i, u * unit, &mut sums[set..set + count]);
            }
            sums
        });
        match self.known {
            Some(d) => {
                for u in 0..(d - d / step * step) / unit {
                    let set = u as usize % sets * count;
                    self.unit(k, &rows, whole, u * unit, &mut sums[set..set + count]);
                }
            }
            None => {
                let by = k.i64(unit);
                let (first, rest) = sums.split_at(count);
                let first = k.for_(whole, self.depth, by, first, |k, i, sums| {
                    let mut sums = sums.to_vec();
                    self.unit(k, &rows, i, 0, &mut sums);
                    sums
                });
                sums = [first, rest.to_vec()].concat();
            }
        }
        let mut each = sums.chunks(count).map(<[Val]>::to_vec).collect::<Vec<_>>();
        while each.len() > 1 {
            let half = each.split_off(each.len() / 2);
            for (a, b) in each.iter_mut().zip(half) {
                for (a, b) in a.iter_mut().zip(b) {
                    *a = k.add(*a, b);
                }
            }
        }
        each.swap_remove(0).into_iter().map(|v| self.in_order(k, v)).collect()
    }

    /// Sums of pairs are kept in the order in which weights are cheapest to widen.
    fn in_order(&self, k: &mut KernelBuilder, v: Val) -> Val {
        if !matches!(self.scheme, Scheme::Pairs | Scheme::ReadyPairs) {
            return v;
        }
        let order: Vec<u32> = (0..16).map(|c| c / 8 * 8 + [0, 1, 4, 5, 2, 3, 6, 7][c as usize % 8]).collect();
        k.shuffle(v, v, &order)
    }

    /// Adds the products of one unit of K, `skip` elements after element `i`.
    fn unit(&self, k: &mut KernelBuilder, rows: &[Val], i: Val, skip: i64, sums: &mut [Val]) {
        let weights = self.weights(k, i, skip);
        let along = k.mul(i, self.step);
        let skipped = k.i64(skip);
        let skipped = k.mul(skipped, self.step);
        for (r, &row) in rows.iter().enumerate() {
            let at = k.gep(row, along);
            let at = k.gep(at, skipped);
            let x = self.elements(k, at);
            for (p, w) in weights.iter().enumerate() {
                let sum = &mut sums[p * rows.len() + r];
                *sum = self.add(k, &x, w, *sum);
            }
        }
    }

    /// A unit of the weights of each panel, in as many values as there are multiplications.
    fn weights(&self, k: &mut KernelBuilder, i: Val, skip: i64) -> Vec<Vec<Val>> {
        let size = self.scheme.weight_bytes();
        let bytes = k.i64(size * i64::from(LANES));
        let offset = k.mul(i, bytes);
        let mut out = vec![];
        for &panel in self.panels {
            let at = k.gep(panel, offset);
            let at = k.offset(at, skip * size * i64::from(LANES));
            if let Some(ahead) = self.ahead {
                let far = k.offset(at, ahead);
                k.prefetch(far, 3);
            }
            out.push(match self.scheme {
                Scheme::ReadyPairs => (0..2)
                    .map(|i| {
                        let at = k.offset(at, i * 32);
                        k.load_aligned(at, Scalar::I16.x(16), 32)
                    })
                    .collect(),
                scheme => widened(k, scheme, at),
            });
        }
        out
    }

    /// A unit of a row in all lanes, one value for each multiplication.
    fn elements(&self, k: &mut KernelBuilder, at: Val) -> Vec<Val> {
        match self.scheme {
            Scheme::Plain(s) => {
                let x = match self.stored {
                    Some((from, unsigned)) => {
                        let x = k.load(at, Ty::Scalar(from));
                        widen(k, x, s, unsigned)
                    }
                    None => k.load(at, Ty::Scalar(s)),
                };
                vec![k.splat(x, LANES)]
            }
            Scheme::Half(_) => [0, 4]
                .map(|o| {
                    let at = k.offset(at, o);
                    let x = k.load(at, Ty::F32);
                    k.splat(x, LANES)
                })
                .to_vec(),
            Scheme::Pairs | Scheme::ReadyPairs => (0..self.scheme.unit() / 2)
                .map(|pair| {
                    let at = k.offset(at, pair * 4);
                    let x = k.load_aligned(at, Ty::I32, 2);
                    let x = k.splat(x, 8);
                    k.bitcast(x, Scalar::I16.x(16))
                })
                .collect(),
            scheme => {
                let lanes = if scheme == Scheme::ShortQuads { LANES / 2 } else { LANES };
                let x = k.load_aligned(at, Ty::I32, 1);
                let x = k.splat(x, lanes);
                vec![k.bitcast(x, Scalar::I8.x(4 * lanes))]
            }
        }
    }

    fn add(&self, k: &mut KernelBuilder, x: &[Val], w: &[Val], sum: Val) -> Val {
        match self.scheme {
            Scheme::Plain(s) if !s.is_float() => {
                let product = k.mul(x[0], w[0]);
                k.add(sum, product)
            }
            Scheme::Plain(_) | Scheme::Half(_) => x.iter().zip(w).fold(sum, |sum, (&x, &w)| k.fma(x, w, sum)),
            Scheme::Pairs | Scheme::ReadyPairs => {
                let halves = [0u32, 1].map(|half| {
                    let part = k.slice(sum, half * 8, 8);
                    x.iter().enumerate().fold(part, |part, (pair, &x)| {
                        let products = k.intrinsic(Intrinsic::Vpmaddwd256, &[x, w[pair * 2 + half as usize]]);
                        k.add(part, products)
                    })
                });
                k.concat(halves[0], halves[1])
            }
            Scheme::ShortQuads => {
                let ones = k.int(Scalar::I16.x(16), 1);
                let halves = [0u32, 1].map(|half| {
                    let (part, w) = (k.slice(sum, half * 8, 8), k.slice(w[0], half * 32, 32));
                    let pairs = k.intrinsic(Intrinsic::Vpmaddubsw256, &[x[0], w]);
                    let quads = k.intrinsic(Intrinsic::Vpmaddwd256, &[pairs, ones]);
                    k.add(part, quads)
                });
                k.concat(halves[0], halves[1])
            }
            _ => k.intrinsic(Intrinsic::Vpdpbusd512, &[sum, x[0], w[0]]),
        }
    }

    /// Up to two by two tile registers.
    fn tile_registers(&self, k: &mut KernelBuilder, to: Val, pitch: Val, add: bool) {
        let (blocks, panels) = (self.rows as usize / 16, self.panels.len());
        let dot = match self.scheme {
            Scheme::TileBytes(true) => Dot::US,
            Scheme::TileBytes(false) => Dot::SS,
            _ => Dot::Bf16,
        };
        let row_bytes = 64;
        let size = i64::from(self.scheme.row().bytes());
        let place = |k: &mut KernelBuilder, i: usize| {
            let (panel, row) = (i / blocks, k.i64((i % blocks * 16) as i64));
            let skip = k.mul(row, pitch);
            let at = k.gep(to, skip);
            k.offset(at, panel as i64 * 64)
        };
        let start: Vec<Val> = (0..blocks * panels)
            .map(|i| {
                if !add {
                    return k.tile_zero(16, row_bytes);
                }
                let at = place(k, i);
                k.tile_load(at, pitch, 16, row_bytes)
            })
            .collect();
        let (zero, unit) = (k.i64(0), k.i64(self.scheme.unit()));
        let stride = k.i64(64);
        let sums = k.for_(zero, self.depth, unit, &start, |k, i, sums| {
            let bytes = k.i64(size);
            let along = k.mul(i, bytes);
            let panel_bytes = k.i64(size * i64::from(LANES));
            let offset = k.mul(i, panel_bytes);
            let rows: Vec<Val> = (0..blocks)
                .map(|block| {
                    let first = k.i64(16 * block as i64);
                    let skip = k.mul(first, self.pitch);
                    let at = k.gep(self.row, skip);
                    let at = k.gep(at, along);
                    k.tile_load(at, self.pitch, 16, row_bytes)
                })
                .collect();
            let mut out = sums.to_vec();
            for (p, &panel) in self.panels.iter().enumerate() {
                let at = k.gep(panel, offset);
                let w = k.tile_load(at, stride, 16, row_bytes);
                for (block, &x) in rows.iter().enumerate() {
                    let intrinsic = Intrinsic::TileDot { dot, rows: 16, row_bytes, depth_bytes: 64 };
                    let sum = &mut out[p * blocks + block];
                    *sum = k.intrinsic(intrinsic, &[*sum, x, w]);
                }
            }
            out
        });
        for (i, sum) in sums.into_iter().enumerate() {
            let at = place(k, i);
            k.tile_store(sum, at, pitch, 16, row_bytes);
        }
    }
}

/// A unit of sixteen columns of weights at `at`, in as many values as there are multiplications.
fn widened(k: &mut KernelBuilder, scheme: Scheme, at: Val) -> Vec<Val> {
    match scheme {
        Scheme::Half(s) => {
            let w = k.load_aligned(at, s.x(2 * LANES), 64);
            if s == Scalar::BF16 {
                let bits = Scalar::I32.x(LANES);
                let (both, sixteen, high) = (k.bitcast(w, bits), k.int(bits, 16), k.int(bits, 0xffff_0000));
                let (low, high) = (k.shl(both, sixteen), k.and(both, high));
                return vec![k.bitcast(low, Scalar::F32.x(LANES)), k.bitcast(high, Scalar::F32.x(LANES))];
            }
            [0, 1]
                .map(|odd| {
                    let v = k.shuffle(w, w, &(0..LANES).map(|l| 2 * l + odd).collect::<Vec<_>>());
                    k.to_float_type(v, Scalar::F32)
                })
                .to_vec()
        }
        Scheme::Pairs => {
            let w = k.load_aligned(at, Scalar::I8.x(4 * LANES), 64);
            pairs(k, w)
        }
        Scheme::Plain(s) => vec![k.load_aligned(at, s.x(LANES), (s.bytes() * LANES).min(64))],
        _ => vec![k.load_aligned(at, Scalar::I8.x(4 * LANES), 64)],
    }
}

/// Pairs of `i16` from quads of bytes: elements 0 and 1 of each column, in two halves of 8 columns, then elements 2 and 3.
fn pairs(k: &mut KernelBuilder, w: Val) -> Vec<Val> {
    let quads: Vec<Val> = (0..4)
        .map(|q| {
            let v = k.slice(w, q * 16, 16);
            let v = k.sext(v, Scalar::I16);
            k.bitcast(v, Scalar::F32.x(8))
        })
        .collect();
    let pick = |(pair, half): (u32, usize)| {
        let lanes = [0, 2, 8, 10, 4, 6, 12, 14].map(|l| l + pair);
        let v = k.shuffle(quads[2 * half], quads[2 * half + 1], &lanes);
        k.bitcast(v, Scalar::I16.x(16))
    };
    [(0, 0), (0, 1), (1, 0), (1, 1)].map(pick).to_vec()
}

/// Widens `depth` elements of a panel's columns into what `scheme.ready()` multiplies.
pub fn prepare(k: &mut KernelBuilder, scheme: Scheme, panel: Val, depth: Val, to: Val) {
    let ready = scheme.ready().expect("a scheme that widens").weight_bytes();
    let zero = k.i64(0);
    k.loop_(zero, depth, scheme.unit(), |k, i| {
        let (from, out) = (k.i64(scheme.weight_bytes() * i64::from(LANES)), k.i64(ready * i64::from(LANES)));
        let (from, out) = (k.mul(i, from), k.mul(i, out));
        let (from, mut out) = (k.gep(panel, from), k.gep(to, out));
        for v in widened(k, scheme, from) {
            k.store_aligned(v, out, 32);
            out = k.offset(out, v.ty().bytes().into());
        }
    });
}

/// An element in the type of the sums.
pub fn widen(k: &mut KernelBuilder, v: Val, to: Scalar, unsigned: bool) -> Val {
    match v.elem() {
        from if from == to => v,
        from if from.is_float() => k.to_float_type(v, to),
        _ if unsigned => k.zext(v, to),
        _ => k.sext(v, to),
    }
}
