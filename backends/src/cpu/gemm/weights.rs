//! Products with constant weights: row blocks by column blocks.
//!
//! A grid point is a block of rows and a block of one group's columns. Rows that are not in the form that the scheme multiplies are packed into scratch,
//! once for neighbouring points. Blocks are such that the rows stay in the second-level cache while panels pass.

use super::block::{Block, Finish, stack_bytes};
use super::rows::Change;
use crate::cpu::encoded::Encoded;
use crate::cpu::encoded::codes::PARAM_BYTES;
use crate::cpu::micro::Scheme;
use crate::cpu::pack::{self, Layout, Matrix, PANEL};
use crate::emit::Val;
use crate::kernel::{Isa, Launch, LaunchBuilder};
use tersor_ir::{Dim, Tensor};

/// Multiply-adds worth another thread.
const THREAD_WORK: i64 = 1 << 19;
/// Multiply-adds of a grid point, where there is a choice.
const POINT_WORK: i64 = 1 << 22;
/// Bytes of a panel that stay in the caches nearby while rows pass: longer ones are cut along K.
const PANEL_BYTES: i64 = 64 << 10;
/// Bytes of rows that stay in the second-level cache.
const ROW_BYTES: i64 = 192 << 10;
/// The same where every block of rows takes weights apart anew.
const MANY_ROW_BYTES: i64 = 768 << 10;

/// Where rows come from.
pub enum Left<'a> {
    /// Memory as the scheme wants it: the first row and bytes between rows.
    There { row: Val, pitch: Val },
    /// A function that packs one row: (group, row, where to). The `Change` says what it packs to.
    Packed(&'a dyn Fn(&mut LaunchBuilder, Val, Val, Val), Change),
}

/// Constant weights of a product.
#[derive(Debug)]
pub enum Weights {
    /// Elements, to be packed in this layout.
    Elements(Tensor, Layout),
    /// Codes.
    Encoded(Encoded),
}

impl Weights {
    /// The type in kernel names.
    pub fn name(&self) -> String {
        match self {
            Weights::Elements(w, _) => w.dtype().to_string(),
            Weights::Encoded(w) => {
                let f = &w.format;
                let kind = if f.sparse.is_some() { "s" } else { "q" };
                let group = if f.grouped() { format!("g{}", f.group) } else { String::new() };
                format!("{kind}{}{group}", f.bits)
            }
        }
    }
}

/// Rows times constant weights.
pub struct Product<'a> {
    pub scheme: Scheme,
    pub isa: Isa,
    /// Rows.
    pub m: Dim,
    pub weights: Weights,
    pub matrix: &'a Matrix<'a>,
    /// Whether rows are bytes with 128 added.
    pub biased: bool,
}

impl Product<'_> {
    fn panels(&self) -> i64 {
        self.matrix.n.div_ceil(PANEL) as i64
    }
    /// Whether rows may be read where they are, elements in their order.
    pub fn takes(&self, change: &Change) -> bool {
        change.none() && !self.scheme.tiles() && self.matrix.k as i64 % self.scheme.unit() == 0
    }
    /// Elements of a packed row.
    pub fn depth(&self) -> i64 {
        (self.matrix.k as i64 + self.scheme.unit() - 1) / self.scheme.unit() * self.scheme.unit()
    }
    fn row_bytes(&self) -> i64 {
        self.depth() * i64::from(self.scheme.row().bytes())
    }
    /// Bytes beside a packed row.
    fn params(&self) -> i64 {
        self.scheme.coded().map_or(0, |c| self.depth() / c.segment * PARAM_BYTES)
    }
    /// Bytes between packed rows: never a multiple of what maps rows to the same cache lines.
    fn pitch(&self) -> i64 {
        let bytes = (self.row_bytes() + self.params() + 63) / 64 * 64;
        if bytes % 1024 == 0 { bytes + 64 } else { bytes }
    }
    /// Rows and panels of the largest tile.
    pub fn tile(&self) -> (i64, i64) {
        let (rows, panels) = self.scheme.shape(self.isa, Some(self.panels()));
        match self.m.as_const() {
            Some(m) if !self.scheme.tiles() && self.scheme.few().is_none() && m < rows => (m.max(1), panels),
            _ => (rows, panels),
        }
    }
    /// Elements of a part of K, and whether all parts have as many.
    fn part(&self) -> (i64, bool) {
        let (depth, unit) = (self.depth(), self.scheme.cut());
        let size = self.scheme.ready().unwrap_or(self.scheme).weight_bytes();
        let most = PANEL_BYTES / (PANEL as i64 * size);
        if depth <= most * 3 / 2 || self.m.as_const().is_some_and(|m| m <= self.tile().0) {
            return (depth, true);
        }
        let parts = (depth + most - 1) / most;
        let each = ((depth + parts - 1) / parts + unit - 1) / unit * unit;
        (each, each * parts == depth)
    }
    /// Rows of a block.
    fn rows(&self) -> i64 {
        let tile = self.tile().0;
        let work = (self.matrix.n * self.matrix.k).max(1) as i64;
        let bytes = self.part().0 * i64::from(self.scheme.row().bytes());
        let room = if self.scheme.few().is_some() { MANY_ROW_BYTES } else { ROW_BYTES };
        let most = (room / bytes.max(1)).min((POINT_WORK / work).max(4 * tile)).max(tile);
        let most = most / tile * tile;
        match self.m.as_const() {
            Some(m) => {
                let blocks = (m.max(1) + most - 1) / most;
                let each = (m.max(1) + blocks - 1) / blocks;
                (each + tile - 1) / tile * tile
            }
            None => most,
        }
    }
    /// Panels of a block.
    fn columns(&self) -> i64 {
        let wide = self.tile().1;
        let each = ((self.panels() + 31) / 32).max(4);
        let each = (each + wide - 1) / wide * wide;
        each.min(self.panels().max(1))
    }

    /// The kernel: all of the product, with `finish` for sixteen sums at a time. Columns count through all groups.
    pub fn build(&self, mut b: LaunchBuilder, left: &Left, finish: &Finish) -> Launch {
        let (rows, columns, tile) = (self.rows(), self.columns(), self.tile());
        let (groups, n) = (self.matrix.groups as i64, self.matrix.n as i64);
        let split = (self.panels() + columns - 1) / columns;
        let m = b.extent(&self.m);
        let (mut start, mut lookup, mut scaled) = (None, None, None);
        let (weights, panel_bytes) = match &self.weights {
            Weights::Elements(w, layout) => {
                if self.biased {
                    start = Some(b.packed("i32 [N/16][16]", pack::column_sums(w, self.matrix, -128)));
                }
                let data = pack::panels(w, self.matrix, *layout);
                (b.packed(layout.name(), data), layout.panel_bytes(self.matrix.k) as i64)
            }
            Weights::Encoded(w) => {
                (lookup, scaled) = (w.lookup(&mut b), Some(w.finish(&mut b, finish)));
                (b.packed(w.format.name(), w.panels.clone()), w.format.panel_bytes())
            }
        };
        let finish = scaled.as_deref().unwrap_or(finish);
        let stack = b.alloca(stack_bytes(self.scheme, tile), 64);
        let scratch = b.scratch();
        // Scratch: packed rows, widened panels, sums that stay.
        let packed = if matches!(left, Left::Packed(..)) { self.pitch() * ((rows + 31) / 32 * 32) } else { 0 };
        let (part, even_parts) = self.part();
        let least = self.scheme.few().map_or(2 * tile.0, |few| few + 1);
        let widened = self.scheme.ready().filter(|_| self.m.as_const().is_none_or(|m| m >= least));
        let room = widened.map_or(0, |s| part / s.cut() * s.cut_bytes() * tile.1);
        let sum_bytes = PANEL as i64 * i64::from(self.scheme.acc().bytes());
        let sums = if part < self.depth() { (rows + 31) / 32 * 32 * columns * sum_bytes } else { 0 };
        let (begin, end) = b.range();
        let (one, none) = (b.i64(1), b.i64(-1));
        let counts = self.m.as_const().map(|m| [rows.min(m), if m % rows == 0 { rows.min(m) } else { m % rows }]);
        b.for_(begin, end, one, &[none], |b, point, last| {
            let by = b.i64(split);
            let strip = b.div(point, by);
            let skip = b.mul(strip, by);
            let column_block = b.sub(point, skip);
            let by = b.i64(groups);
            let row_block = b.div(strip, by);
            let skip = b.mul(row_block, by);
            let group = b.sub(strip, skip);
            let by = b.i64(rows);
            let first_row = b.mul(row_block, by);
            let count = b.sub(m, first_row);
            let count = b.min(count, by);
            let (row, pitch) = match left {
                Left::There { row, pitch } => {
                    let skip = b.mul(first_row, *pitch);
                    (b.gep(*row, skip), *pitch)
                }
                Left::Packed(..) => (scratch, b.i64(self.pitch())),
            };
            if let Left::Packed(pack_row, change) = left {
                let fresh = b.ne(strip, last[0]);
                b.when(fresh, |b| self.pack(b, pack_row, change, group, first_row, count));
            }
            let by = b.i64(columns);
            let first = b.mul(column_block, by);
            let all = b.i64(self.panels());
            let panels = b.sub(all, first);
            let panels = b.min(panels, by);
            let skipped = b.mul(group, all);
            let skipped = b.add(skipped, first);
            let (bytes, sixteen, width) = (b.i64(panel_bytes), b.i64(PANEL as i64), b.i64(n));
            let offset = b.mul(skipped, bytes);
            let panel = b.gep(weights, offset);
            let start = start.map(|p| {
                let skip = b.mul(skipped, sixteen);
                b.elem(p, skip, self.scheme.acc())
            });
            let (group_column, within) = (b.mul(group, width), b.mul(first, sixteen));
            let step = b.i64(self.scheme.row().bytes().into());
            let stay = (sums > 0).then(|| (b.offset(scratch, packed + room), b.i64(columns * sum_bytes)));
            let params = self.scheme.coded().map(|_| b.offset(row, self.depth()));
            let mut block = Block {
                scheme: self.scheme,
                tile,
                row,
                pitch,
                step,
                stored: None,
                first_row,
                rows: count,
                counts: counts.as_ref().map(|c| &c[..]),
                panel,
                panel_bytes: bytes,
                panels,
                even: self.panels() % tile.1 == 0,
                first_column: b.add(group_column, within),
                columns: b.add(group_column, width),
                partial: n % PANEL as i64 != 0,
                depth: b.i64(part),
                known: Some(part),
                start,
                ready: widened.map(|_| b.offset(scratch, packed)),
                stay,
                lookup,
                params,
                stack,
                tight: !self.isa.wide(),
                finish,
            };
            if stay.is_none() {
                block.run(b);
                return vec![strip];
            }
            block.begin(b);
            let (zero, all) = (b.i64(0), b.i64(self.depth()));
            b.loop_(zero, all, part, |b, from| {
                let skip = b.mul(from, step);
                block.row = b.gep(row, skip);
                let (cut, bytes) = (b.i64(self.scheme.cut()), b.i64(self.scheme.cut_bytes()));
                let cuts = b.div(from, cut);
                block.params = params.map(|p| {
                    let size = b.i64(PARAM_BYTES);
                    let skip = b.mul(cuts, size);
                    b.gep(p, skip)
                });
                let skip = b.mul(cuts, bytes);
                block.panel = b.gep(panel, skip);
                if !even_parts {
                    let left = b.sub(all, from);
                    let most = b.i64(part);
                    (block.depth, block.known) = (b.min(left, most), None);
                }
                block.run(b);
            });
            block.end(b);
            vec![strip]
        });
        let work = columns * PANEL as i64 * self.matrix.k as i64;
        let most = self.m.as_const().map_or(rows, |m| m.min(rows));
        let grain = match self.m.as_const() {
            Some(_) => Dim::from((THREAD_WORK / (most * work + 1)).max(1)),
            None => Dim::from(THREAD_WORK).floor_div(self.m.clone() * work.into() + 1.into()).max(1.into()),
        };
        b.launch(self.m.clone().ceil_div(rows) * Dim::from(split * groups), packed + room + sums, grain)
    }

    fn pack(
        &self,
        b: &mut LaunchBuilder,
        pack_row: &dyn Fn(&mut LaunchBuilder, Val, Val, Val),
        change: &Change,
        group: Val,
        first_row: Val,
        count: Val,
    ) {
        let (zero, scratch) = (b.i64(0), b.scratch());
        b.loop_(zero, count, 1, |b, r| {
            let pitch = b.i64(self.pitch());
            let skip = b.mul(r, pitch);
            let to = b.gep(scratch, skip);
            let row = b.add(first_row, r);
            pack_row(b, group, row, to);
            let used = self.matrix.k as i64;
            let tail = b.offset(to, used * i64::from(change.to.bytes()));
            change.zeros(b, tail, self.depth() - used);
        });
    }
}
