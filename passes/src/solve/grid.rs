//! Uniform grids: integer codes with a scale, and a zero point or not, for each group of neighbours in a row; and rounding to nearest.

use super::{Mat, by_rows};
use half::f16;
use std::fmt;

/// What codes stand for, element by element: how the sweeps of [`super`] round.
///
/// `decode(encode(w))` is the nearest value that has a code; `encode(decode(c)) == c` for every code that `encode` gives.
pub trait Codec: Sync {
    /// The code of a value at a row and column.
    fn encode(&self, row: usize, col: usize, w: f64) -> i16;
    /// The value of a code there.
    fn decode(&self, row: usize, col: usize, code: i16) -> f64;
    /// The nearest value that has a code.
    fn round(&self, row: usize, col: usize, w: f64) -> f64 {
        self.decode(row, col, self.encode(row, col, w))
    }
    /// The code of every element.
    fn codes(&self, w: &Mat) -> Vec<i16> {
        let mut out = vec![0; w.data.len()];
        by_rows(&mut out, w.cols, |i, row| {
            row.iter_mut().enumerate().for_each(|(j, c)| *c = self.encode(i, j, w.at(i, j)));
        });
        out
    }
    /// The matrix that codes stand for.
    fn decoded(&self, rows: usize, cols: usize, codes: &[i16]) -> Mat {
        Mat::from_fn(rows, cols, |i, j| self.decode(i, j, codes[i * cols + j]))
    }
    /// Every element rounded.
    fn rounded(&self, w: &Mat) -> Mat {
        self.decoded(w.rows, w.cols, &self.codes(w))
    }
}

/// The element type of stored scales.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum ScaleType {
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
}

impl ScaleType {
    /// The nearest stored scale; of a positive scale that vanishes in this type the least positive one.
    pub fn round(self, s: f64) -> f64 {
        match self {
            ScaleType::F32 if s > 0.0 => f64::from((s as f32).clamp(f32::MIN_POSITIVE, f32::MAX)),
            ScaleType::F16 if s > 0.0 => f16::from_f64(s).clamp(f16::MIN_POSITIVE, f16::MAX).to_f64(),
            _ => 1.0,
        }
    }
}

/// The kind of a uniform grid.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Grid {
    /// Bits of a code, 1 to 8; with `symmetric` 2 to 8.
    pub bits: u32,
    /// Neighbours in a row that share a scale; 0 for the whole row. The last group may be shorter.
    pub group: usize,
    /// Signed codes without zero point; otherwise unsigned codes with one.
    pub symmetric: bool,
    /// How scales are stored.
    pub scales: ScaleType,
}

/// How the range of a group is found.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Range {
    /// From its least to its largest element.
    Full,
    /// The part of it, no less than a fifth, with the least sum of `|w - w'|^power`.
    Search {
        /// What errors are raised to.
        power: f64,
    },
}

/// Shrinks of a range that are tried, in hundredths of it.
const SHRINKS: std::ops::RangeInclusive<usize> = 21..=100;

/// Codes `q` that stand for `(q - zero) * scale`.
#[derive(Clone, PartialEq, Debug)]
pub struct Affine {
    /// The kind.
    pub grid: Grid,
    /// Groups in a row.
    pub groups: usize,
    /// The scale of each group, row after row; positive.
    pub scale: Vec<f64>,
    /// The zero point of each group; all 0 when symmetric.
    pub zero: Vec<f64>,
}

impl fmt::Display for Grid {
    /// `w4g64`, `w8`; with zero points `w4g64z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}", self.bits)?;
        if self.group > 0 {
            write!(f, "g{}", self.group)?;
        }
        f.write_str(if self.symmetric { "" } else { "z" })
    }
}

impl Grid {
    /// The group's extent in a row of `cols` elements.
    pub fn width(&self, cols: usize) -> usize {
        if self.group == 0 { cols.max(1) } else { self.group.min(cols.max(1)) }
    }
    /// Least and largest code.
    pub fn codes(&self) -> (f64, f64) {
        let n = f64::from(1u32 << self.bits);
        if self.symmetric { (-n / 2.0, n / 2.0 - 1.0) } else { (0.0, n - 1.0) }
    }
    /// Scale and zero point over a range that contains 0. A range of nothing has scale 1.
    pub(super) fn over(&self, lo: f64, hi: f64) -> (f64, f64) {
        let (least, most) = self.codes();
        if self.symmetric {
            return (self.scales.round(hi.max(-lo) / most), 0.0);
        }
        let s = self.scales.round((hi - lo) / (most - least));
        (s, (-lo / s).round_ties_even().clamp(least, most))
    }
    pub(super) fn nearest(&self, w: f64, (s, z): (f64, f64)) -> f64 {
        let (least, most) = self.codes();
        (w / s + z).round_ties_even().clamp(least, most)
    }
    /// The grid of one group; `weights` weigh the squared errors of a search.
    fn fit(&self, w: &[f64], range: Range, weights: Option<&[f64]>) -> (f64, f64) {
        let (lo, hi) = w.iter().fold((0f64, 0f64), |(lo, hi), &v| (lo.min(v), hi.max(v)));
        let Range::Search { power } = range else { return self.over(lo, hi) };
        let error = |p: (f64, f64)| -> f64 {
            let one = |(j, &v): (usize, &f64)| {
                let d = (v - (self.nearest(v, p) - p.1) * p.0).abs();
                let d = if power == 2.0 { d * d } else { d.powf(power) };
                d * weights.map_or(1.0, |x| x[j])
            };
            w.iter().enumerate().map(one).sum()
        };
        let tried = SHRINKS.rev().map(|p| self.over(lo * p as f64 / 100.0, hi * p as f64 / 100.0));
        let best = tried.map(|p| (error(p), p)).min_by(|a, b| a.0.total_cmp(&b.0));
        best.map_or((1.0, 0.0), |b| b.1)
    }
}

impl Affine {
    /// The grid of a weight with finite elements. `weights`, one for each column, weigh the errors of a search.
    pub fn fit(w: &Mat, grid: Grid, range: Range, weights: Option<&[f64]>) -> Affine {
        let width = grid.width(w.cols);
        let groups = w.cols.div_ceil(width);
        let mut found = vec![(1.0, 0.0); w.rows * groups];
        by_rows(&mut found, groups, |i, row| {
            for (g, (p, part)) in row.iter_mut().zip(w.row(i).chunks(width)).enumerate() {
                *p = grid.fit(part, range, weights.map(|x| &x[g * width..g * width + part.len()]));
            }
        });
        let (scale, zero) = found.into_iter().unzip();
        Affine { grid, groups, scale, zero }
    }
    /// Rounds to nearest: the grid, and the code of every element.
    pub fn nearest(w: &Mat, grid: Grid, range: Range) -> (Affine, Vec<i16>) {
        let a = Affine::fit(w, grid, range, None);
        let codes = a.codes(w);
        (a, codes)
    }
    /// Neighbours that share a scale, 0 where all of a row do.
    pub fn stored_group(&self, cols: usize) -> usize {
        if self.grid.group >= cols { 0 } else { self.grid.group }
    }
    /// Scale and zero point at a row and column.
    pub fn at(&self, row: usize, col: usize) -> (f64, f64) {
        let group = col.checked_div(self.grid.group).unwrap_or(0);
        let at = row * self.groups + group;
        (self.scale[at], self.zero[at])
    }
}

impl Codec for Affine {
    fn encode(&self, row: usize, col: usize, w: f64) -> i16 {
        self.grid.nearest(w, self.at(row, col)) as i16
    }
    fn decode(&self, row: usize, col: usize, code: i16) -> f64 {
        let (s, z) = self.at(row, col);
        (f64::from(code) - z) * s
    }
}

#[cfg(test)]
mod tests {
    use super::super::problems::{Kind, assert_near, heavy, mean, normal};
    use super::*;
    use proptest::prelude::*;
    use tersor_ir::constant::SplitMix;

    fn grid(bits: u32, group: usize, symmetric: bool) -> Grid {
        Grid { bits, group, symmetric, scales: ScaleType::F32 }
    }
    fn rtn(w: &Mat, grid: Grid, range: Range) -> Mat {
        Affine::fit(w, grid, range, None).rounded(w)
    }

    proptest! {
        #[test]
        fn codes_are_near_and_stable(
            seed in any::<u64>(), rows in 1usize..9, cols in 1usize..40, bits in 1u32..9, group in 0usize..12, symmetric in any::<bool>(), narrow in any::<bool>(),
        ) {
            prop_assume!(!symmetric || bits > 1);
            let w = normal(rows, cols, &mut SplitMix(seed));
            let scales = if narrow { ScaleType::F16 } else { ScaleType::F32 };
            let g = Grid { scales, ..grid(bits, group, symmetric) };
            let (a, codes) = Affine::nearest(&w, g, Range::Full);
            let back = a.decoded(rows, cols, &codes);
            let (least, most) = g.codes();
            for i in 0..rows {
                for j in 0..cols {
                    let (s, z) = a.at(i, j);
                    let inside = ((least - z) * s..=(most - z) * s).contains(&w.at(i, j));
                    prop_assert!(!inside || (w.at(i, j) - back.at(i, j)).abs() <= s * (0.5 + 1e-9));
                }
            }
            prop_assert_eq!(a.codes(&back), codes);
            prop_assert!(a.zero.iter().all(|z| (least..=most).contains(z) && (!symmetric || *z == 0.0)));
            let searched = rtn(&w, g, Range::Search { power: 2.0 });
            prop_assert!(w.minus(&searched).squared_norm() <= w.minus(&back).squared_norm());
        }
    }

    #[test]
    fn error_falls_about_fourfold_by_bit_and_groups_beat_rows() {
        let w = normal(64, 256, &mut SplitMix(1));
        for symmetric in [false, true] {
            let error = |bits, group| w.minus(&rtn(&w, grid(bits, group, symmetric), Range::Full)).squared_norm();
            for bits in 3..8 {
                let ratio = error(bits, 0) / error(bits + 1, 0);
                assert!((3.0..7.0).contains(&ratio), "{bits}: {ratio}");
                assert!(error(bits, 64) < error(bits, 0));
            }
        }
    }

    #[test]
    fn degenerate_groups_are_exact() {
        let w = Mat { rows: 1, cols: 5, data: vec![0.0, 0.0, 3.0, 3.0, 1e-300] };
        for symmetric in [false, true] {
            for range in [Range::Full, Range::Search { power: 2.4 }] {
                let (a, codes) = Affine::nearest(&w, grid(4, 2, symmetric), range);
                let back = a.decoded(1, 5, &codes);
                assert_eq!(a.scale[0], 1.0);
                assert!(back.data.iter().zip(&w.data).all(|(a, b)| (a - b).abs() < 1e-6), "{back:?}");
            }
        }
    }

    #[test]
    fn weight_errors_are_the_published_ones() {
        let mut g = SplitMix(5);
        let (gauss, t4) = (normal(256, 512, &mut g), heavy(256, 512, &mut g));
        for (symmetric, on_gauss, on_t4) in [(true, 0.0117, 0.0260), (false, 0.0083, 0.0144)] {
            for (w, expected) in [(&gauss, on_gauss), (&t4, on_t4)] {
                let back = rtn(w, grid(4, 64, symmetric), Range::Full);
                assert_near("4 bits g64", w.minus(&back).squared_norm() / w.squared_norm(), expected);
            }
        }
    }

    #[test]
    fn layer_errors_are_the_published_ones() {
        let of = |bits, group| mean(Kind::S1, |p| p.error(&rtn(&p.w, grid(bits, group, false), Range::Full)));
        for (bits, row, group) in [(4, 0.0123, 0.0084), (3, 0.0554, 0.0394), (2, 0.293, 0.214)] {
            assert_near(&format!("rtn {bits}"), of(bits, 0), row);
            assert_near(&format!("rtn {bits} g64"), of(bits, 64), group);
        }
    }
}
