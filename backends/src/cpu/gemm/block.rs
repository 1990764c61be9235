//! Blocks of a product: panels outside, tiles of rows inside, and the epilogue after each tile.
//!
//! A tile's sums go through a few lines of stack on their way to the epilogue, which is thus emitted once for whole vectors and once for a last partial one,
//! whatever the number of tile shapes.

use crate::cpu::encoded::decode::Decoder;
use crate::cpu::micro::{Scheme, Tile, prepare};
use crate::cpu::pack::PANEL;
use crate::emit::{Scalar, Val};
use crate::kernel::LaunchBuilder;

/// Takes 16 sums: (sums, row, first column, how many exist).
pub type Finish<'a> = dyn Fn(&mut LaunchBuilder, Val, Val, Val, Option<Val>) + 'a;

/// Rows times panels.
pub struct Block<'a> {
    pub scheme: Scheme,
    /// Rows and panels of the largest tile.
    pub tile: (i64, i64),
    /// The first element of the first row.
    pub row: Val,
    pub pitch: Val,
    pub step: Val,
    pub stored: Option<(Scalar, bool)>,
    /// Number of the first row, for the epilogue, and how many there are.
    pub first_row: Val,
    pub rows: Val,
    /// Every value that `rows` may have, where these are known.
    pub counts: Option<&'a [i64]>,
    /// The first panel, bytes between panels, and how many there are.
    pub panel: Val,
    pub panel_bytes: Val,
    pub panels: Val,
    /// Whether the number of panels is always a multiple of the tile's.
    pub even: bool,
    /// Column of the first panel, for the epilogue; the columns end at `columns`.
    pub first_column: Val,
    pub columns: Val,
    /// Whether the last panel may have columns that do not exist.
    pub partial: bool,
    pub depth: Val,
    pub known: Option<i64>,
    /// Where sums start, for the first panel's columns. Not for sums that stay.
    pub start: Option<Val>,
    /// Room for one tile's panels, widened.
    pub ready: Option<Val>,
    /// Sums that stay for another part of K, instead of an epilogue: the first row's, for the first panel, and bytes between rows.
    pub stay: Option<(Val, Val)>,
    /// The table of encoded weights.
    pub lookup: Option<Val>,
    /// What stands beside the first row, where rows are codes.
    pub params: Option<Val>,
    /// Stack for one tile.
    pub stack: Val,
    /// Whether tiles need every register.
    pub tight: bool,
    pub finish: &'a Finish<'a>,
}

/// Bytes of stack that a block's tiles need.
pub fn stack_bytes(scheme: Scheme, tile: (i64, i64)) -> u32 {
    (tile.0 * tile.1) as u32 * PANEL as u32 * scheme.acc().bytes()
}

impl Block<'_> {
    /// Computes the block.
    pub fn run(&self, b: &mut LaunchBuilder) {
        let (zero, wide) = (b.i64(0), self.tile.1);
        if wide == 1 {
            return b.loop_(zero, self.panels, 1, |b, p| self.band(b, p, 1));
        }
        let by = b.i64(wide);
        let whole = b.div(self.panels, by);
        let whole = b.mul(whole, by);
        b.loop_(zero, whole, wide, |b, p| self.band(b, p, wide));
        if !self.even {
            b.loop_(whole, self.panels, 1, |b, p| self.band(b, p, 1));
        }
    }

    /// All rows times `wide` panels from number `panel` on.
    fn band(&self, b: &mut LaunchBuilder, panel: Val, wide: i64) {
        let offset = b.mul(panel, self.panel_bytes);
        let first = b.gep(self.panel, offset);
        let panels: Vec<Val> = (0..wide)
            .map(|i| {
                let i = b.i64(i);
                let offset = b.mul(i, self.panel_bytes);
                b.gep(first, offset)
            })
            .collect();
        let sixteen = b.i64(PANEL as i64);
        let skip = b.mul(panel, sixteen);
        let column = b.add(self.first_column, skip);
        let start = self.start.filter(|_| self.stay.is_none()).map(|p| {
            let ty = self.scheme.acc().x(PANEL as u32);
            let at = b.elem(p, skip, self.scheme.acc());
            (0..wide)
                .map(|i| {
                    let at = b.offset(at, i * i64::from(ty.bytes()));
                    b.load_aligned(at, ty, ty.bytes().min(64))
                })
                .collect::<Vec<_>>()
        });
        let most = self.tile.0;
        let zero = b.i64(0);
        let unready = (self.scheme, &panels[..]);
        let tile = |b: &mut LaunchBuilder, (scheme, panels): (Scheme, &[Val]), from: Val, rows: i64, exist: Val| {
            let skip = b.mul(from, self.pitch);
            let row = b.gep(self.row, skip);
            let t = Tile {
                scheme,
                row,
                pitch: self.pitch,
                step: self.step,
                stored: self.stored,
                rows,
                panels,
                depth: self.depth,
                known: self.known,
                start: start.as_deref(),
                ahead: (rows <= 2).then_some(2048),
                lookup: self.lookup,
                params: self.params.map(|p| b.gep(p, skip)),
            };
            let bytes = i64::from(self.scheme.acc().x(PANEL as u32).bytes());
            match self.stay {
                Some((sums, pitch)) => {
                    let (down, size) = (b.mul(from, pitch), b.i64(bytes));
                    let across = b.mul(panel, size);
                    let to = b.gep(sums, down);
                    let to = b.gep(to, across);
                    t.run(b, to, pitch, true);
                }
                None => {
                    let pitch = b.i64(wide * bytes);
                    t.run(b, self.stack, pitch, false);
                    let count = b.i64(wide);
                    self.epilogue(b, (self.stack, pitch), (from, exist), column, count);
                }
            }
        };
        // Whole tiles, then what is left.
        let by = b.i64(most);
        let fits = |n: i64| self.counts.is_none_or(|c| c.iter().any(|&r| r >= n));
        let whole = b.div(self.rows, by);
        let whole = b.mul(whole, by);
        let few = self.scheme.few();
        let widened = self.ready.zip(self.scheme.ready()).filter(|_| fits(few.map_or(most, |f| f + 1)));
        let widened =
            widened.map(|(room, ready)| (ready, self.widen(b, &panels, (room, ready), few.unwrap_or(most - 1))));
        if fits(most) {
            let all = widened.as_ref().map_or(unready, |(ready, panels)| (*ready, &panels[..]));
            b.loop_(zero, whole, most, |b, r| tile(b, all, r, most, by));
        }
        let rest = |n: i64| self.counts.is_none_or(|c| c.iter().any(|&r| r % most == n));
        let left = b.sub(self.rows, whole);
        if self.scheme.tiles() {
            for half in [true, false] {
                let (low, high) = if half { (1, 16) } else { (17, 31) };
                if (low..=high).any(rest) {
                    let (low, high) = (b.i64(low), b.i64(high));
                    let (above, below) = (b.ge(left, low), b.le(left, high));
                    let this = b.and(above, below);
                    b.when(this, |b| tile(b, unready, whole, if half { 16 } else { 32 }, left));
                }
            }
            return;
        }
        if let (Some(few), Some((ready, panels))) = (few, &widened) {
            for (low, high) in [(few + 1, 16), (17, most - 1)] {
                if (low..=high).any(rest) {
                    let (from, to) = (b.i64(low), b.i64(high));
                    let (above, below) = (b.ge(left, from), b.le(left, to));
                    let this = b.and(above, below);
                    b.when(this, |b| tile(b, (*ready, panels), whole, (high + 1) / 16 * 16, left));
                }
            }
        }
        let each = most <= 6 || few.is_some();
        for n in (1..few.map_or(most, |f| f + 1)).rev().filter(|&n| each || n.count_ones() == 1) {
            if each {
                if rest(n) {
                    let count = b.i64(n);
                    let this = b.eq(left, count);
                    b.when(this, |b| tile(b, unready, whole, n, count));
                }
            } else if self.counts.is_none_or(|c| c.iter().any(|&r| (r % most) & n != 0)) {
                let count = b.i64(n);
                let bit = b.and(left, count);
                let this = b.ne(bit, zero);
                // Larger parts come first.
                let mask = b.i64(-2 * n);
                let before = b.and(left, mask);
                let from = b.add(whole, before);
                b.when(this, |b| tile(b, unready, from, n, count));
            }
        }
    }

    /// Widens these panels where there are more than `few` rows; gives where they are then.
    fn widen(&self, b: &mut LaunchBuilder, panels: &[Val], (room, ready): (Val, Scheme), few: i64) -> Vec<Val> {
        let few = b.i64(few);
        let some = b.gt(self.rows, few);
        let (cut, size) = (b.i64(ready.cut()), b.i64(ready.cut_bytes()));
        let bytes = b.div(self.depth, cut);
        let bytes = b.mul(bytes, size);
        let mut to = room;
        let mut widened = vec![];
        for _ in panels {
            widened.push(to);
            to = b.gep(to, bytes);
        }
        b.when(some, |b| {
            for (&from, &to) in panels.iter().zip(&widened) {
                match self.scheme {
                    Scheme::Encoded(format, wide) => {
                        let decoder = Decoder::new(b, format, wide, self.lookup);
                        decoder.store(b, from, self.depth, self.known, to);
                    }
                    Scheme::Codes(c) => c.prepare(b, from, self.depth, to),
                    scheme => prepare(b, scheme, from, self.depth, to),
                }
            }
        });
        widened
    }

    /// Gives sums that stay their first values.
    pub fn begin(&self, b: &mut LaunchBuilder) {
        let Some((sums, pitch)) = self.stay else { return };
        let (zero, ty) = (b.i64(0), self.scheme.acc().x(PANEL as u32));
        b.loop_(zero, self.panels, 1, |b, p| {
            let bytes = b.i64(ty.bytes().into());
            let across = b.mul(p, bytes);
            let first = match self.start {
                Some(start) => {
                    let at = b.gep(start, across);
                    b.load_aligned(at, ty, ty.bytes().min(64))
                }
                None => b.zero(ty),
            };
            let column = b.gep(sums, across);
            b.loop_(zero, self.rows, 1, |b, r| {
                let down = b.mul(r, pitch);
                let at = b.gep(column, down);
                b.store_aligned(first, at, ty.bytes().min(64));
            });
        });
    }

    /// Hands all sums that stayed to the epilogue.
    pub fn end(&self, b: &mut LaunchBuilder) {
        let Some(stay) = self.stay else { return };
        let zero = b.i64(0);
        self.epilogue(b, stay, (zero, self.rows), self.first_column, self.panels);
    }

    /// Hands rows `from..from + rows` of `panels` panels to the epilogue.
    fn epilogue(
        &self,
        b: &mut LaunchBuilder,
        (sums, pitch): (Val, Val),
        (from, rows): (Val, Val),
        column: Val,
        panels: Val,
    ) {
        let (zero, ty) = (b.i64(0), self.scheme.acc().x(PANEL as u32));
        let before = b.spare_registers(self.tight);
        b.loop_(zero, rows, 1, |b, r| {
            let down = b.mul(r, pitch);
            let line = b.gep(sums, down);
            let row = b.add(from, r);
            let row = b.add(self.first_row, row);
            b.loop_(zero, panels, 1, |b, p| {
                let (bytes, sixteen) = (b.i64(ty.bytes().into()), b.i64(PANEL as i64));
                let (across, skip) = (b.mul(p, bytes), b.mul(p, sixteen));
                let at = b.gep(line, across);
                let sums = b.load_aligned(at, ty, ty.bytes().min(64));
                let column = b.add(column, skip);
                if !self.partial {
                    return (self.finish)(b, sums, row, column, None);
                }
                let left = b.sub(self.columns, column);
                let whole = b.ge(left, sixteen);
                b.if_(
                    whole,
                    |b| {
                        (self.finish)(b, sums, row, column, None);
                        vec![]
                    },
                    |b| {
                        (self.finish)(b, sums, row, column, Some(left));
                        vec![]
                    },
                );
            });
        });
        b.spare_registers(before);
    }
}
