//! Per-channel scales: exact identities `x W = (x / t) (W t)` chosen so that what is rounded afterwards loses less. SmoothQuant (Xiao et al., 2022) moves
//! outliers of activations into weights; AWQ (Lin et al., 2023) makes the weights of active channels large, and clips.

use super::grid::{Affine, Codec, Grid, Range};
use super::{Mat, by_rows, layer_error};
use crate::gram::Gram;

/// Least scale.
const LEAST: f64 = 1e-5;
/// Ranges that the clip search of AWQ tries, in twentieths, from the whole down to a little more than half.
const CLIPS: std::ops::Range<usize> = 0..10;

/// The scales of SmoothQuant: `max|x|^alpha / max|w|^(1-alpha)` for each channel, the second maximum over all weights that read the value. A channel of zeros has scale 1.
pub fn smooth(absmax: &[f32], weights: &[&Mat], alpha: f64) -> Vec<f64> {
    let one = |(j, &x): (usize, &f32)| {
        let w = weights.iter().flat_map(|w| (0..w.rows).map(|i| w.at(i, j).abs())).fold(0f64, f64::max);
        let t = f64::from(x).powf(alpha) / w.max(LEAST).powf(1.0 - alpha);
        if x > 0.0 && t.is_finite() { f64::from(t.max(LEAST) as f32) } else { 1.0 }
    };
    absmax.iter().enumerate().map(one).collect()
}

/// What AWQ found.
#[derive(Clone, PartialEq, Debug)]
pub struct Awq {
    /// The exponent of the scales; 0 without.
    pub alpha: f64,
    /// What inputs are divided by and the weight's columns multiplied with.
    pub scales: Vec<f64>,
    /// The grid of the scaled weight.
    pub affine: Affine,
}

impl Awq {
    /// Searches scales `mean|x|^alpha`, `alpha` from 0 to 0.95 (only 0 without `scale`), and, with `clip`, the range of every group, for the least error of the layer.
    /// As 0 is among them, the error is at most that of rounding to nearest.
    pub fn search(w: &Mat, absmean: &[f64], gram: &Gram, grid: Grid, scale: bool, clip: bool) -> Awq {
        let one = |step: usize| {
            let alpha = step as f64 / 20.0;
            let scales = if step == 0 { vec![1.0; w.cols] } else { powers(absmean, alpha) };
            let affine = Affine::fit(&w.scale_columns(&scales), grid, Range::Full, None);
            Awq { alpha, scales, affine }
        };
        let error = |a: &Awq| layer_error(w, &a.restored(w), gram);
        let tried = (0..if scale { 20 } else { 1 }).map(one).map(|a| (error(&a), a));
        let mut best = tried.min_by(|a, b| a.0.total_cmp(&b.0)).expect("0 is tried").1;
        if clip {
            let clipped = clip_ranges(&w.scale_columns(&best.scales), &gram.divided(&best.scales), grid);
            let clipped = Awq { affine: clipped, ..best.clone() };
            if error(&clipped) < error(&best) {
                best = clipped;
            }
        }
        best
    }
    /// The weight as its codes stand for it, scaled back.
    pub fn restored(&self, w: &Mat) -> Mat {
        let back: Vec<f64> = self.scales.iter().map(|t| 1.0 / t).collect();
        self.affine.rounded(&w.scale_columns(&self.scales)).scale_columns(&back)
    }
}

/// `absmean^alpha`, at least 1e-4, the geometric mean of the extremes moved to 1.
fn powers(absmean: &[f64], alpha: f64) -> Vec<f64> {
    let t: Vec<f64> = absmean.iter().map(|a| a.powf(alpha).max(1e-4)).collect();
    let (lo, hi) = t.iter().fold((f64::INFINITY, 0f64), |(lo, hi), &v| (lo.min(v), hi.max(v)));
    let middle = (lo * hi).sqrt();
    t.iter().map(|v| f64::from((v / middle) as f32)).collect()
}

/// The grid whose groups are clipped where that lowers the squared error of their share of the outputs.
pub fn clip_ranges(w: &Mat, gram: &Gram, grid: Grid) -> Affine {
    let mut best = Affine::fit(w, grid, Range::Full, None);
    let (width, groups) = (grid.width(w.cols), best.groups);
    let mut found: Vec<(f64, f64)> = best.scale.iter().copied().zip(best.zero.iter().copied()).collect();
    by_rows(&mut found, groups, |i, row| {
        for (g, p) in row.iter_mut().enumerate() {
            let columns = g * width..(g * width + width).min(w.cols);
            let part = &w.row(i)[columns.clone()];
            let (lo, hi) = part.iter().fold((0f64, 0f64), |(lo, hi), &v| (lo.min(v), hi.max(v)));
            let tried = CLIPS.map(|k| grid.over(lo * (1.0 - k as f64 / 20.0), hi * (1.0 - k as f64 / 20.0)));
            let error = |p: &(f64, f64)| {
                let d: Vec<f64> = part.iter().map(|&v| v - (grid.nearest(v, *p) - p.1) * p.0).collect();
                let energy = |(a, da): (usize, &f64)| {
                    let row = &gram.sum[(columns.start + a) * gram.dim..][columns.clone()];
                    da * row.iter().zip(&d).map(|(g, db)| g * db).sum::<f64>()
                };
                d.iter().enumerate().map(energy).sum::<f64>()
            };
            let least = tried.map(|p| (error(&p), p)).min_by(|a, b| a.0.total_cmp(&b.0));
            *p = least.map_or(*p, |l| l.1);
        }
    });
    (best.scale, best.zero) = found.into_iter().unzip();
    best
}

#[cfg(test)]
mod tests {
    use super::super::grid::ScaleType;
    use super::super::problems::{Kind, Problem, assert_near, mean};
    use super::*;

    const W3: Grid = Grid { bits: 3, group: 64, symmetric: false, scales: ScaleType::F32 };

    fn absmean(p: &Problem) -> Vec<f64> {
        let sum = |j| (0..p.x.rows).map(|i| p.x.at(i, j).abs()).sum::<f64>();
        (0..p.x.cols).map(|j| sum(j) / p.x.rows as f64).collect()
    }
    fn awq(p: &Problem, scale: bool, clip: bool) -> f64 {
        p.error(&Awq::search(&p.w, &absmean(p), &p.gram, W3, scale, clip).restored(&p.w))
    }

    #[test]
    fn layer_errors_are_the_published_ones() {
        for (kind, scaled, clipped) in [(Kind::S1, 0.0361, 0.0189), (Kind::S2, 0.0137, 0.0100)] {
            assert_near("awq", mean(kind, |p| awq(p, true, false)), scaled);
            assert_near("awq, clipped", mean(kind, |p| awq(p, true, true)), clipped);
        }
    }

    #[test]
    fn errors_never_exceed_those_of_rounding() {
        for kind in [Kind::Iso, Kind::S1, Kind::S3] {
            let p = Problem::sized(kind, 9, 24, 96, 300);
            let rounded = awq(&p, false, false);
            assert!(awq(&p, true, false) <= rounded && awq(&p, false, true) <= rounded);
        }
    }

    /// The product of two matrices whose elements are rounded, `x` to 8 bits by row or as a whole.
    fn rounded(p: &Problem, bits: u32, alpha: Option<f64>, by_token: bool) -> f64 {
        let absmax: Vec<f32> =
            (0..p.x.cols).map(|j| (0..p.x.rows).map(|i| p.x.at(i, j).abs()).fold(0.0, f64::max) as f32).collect();
        let t = alpha.map_or(vec![1.0; p.x.cols], |a| smooth(&absmax, &[&p.w], a));
        let back: Vec<f64> = t.iter().map(|t| 1.0 / t).collect();
        let (x, w) = (p.x.scale_columns(&back), p.w.scale_columns(&t));
        let grid = Grid { bits: 8, group: 0, symmetric: true, scales: ScaleType::F32 };
        let x = if by_token {
            Affine::fit(&x, grid, Range::Full, None).rounded(&x)
        } else {
            let flat = Mat { rows: 1, cols: x.data.len(), data: x.data };
            Mat {
                rows: p.x.rows,
                cols: p.x.cols,
                data: Affine::fit(&flat, grid, Range::Full, None).rounded(&flat).data,
            }
        };
        let w = Affine::fit(&w, Grid { bits, ..grid }, Range::Full, None).rounded(&w).transposed();
        let exact = p.x.times(&p.w.transposed());
        exact.minus(&x.times(&w)).squared_norm() / exact.squared_norm()
    }

    fn w8a8(p: &Problem, alpha: Option<f64>, by_token: bool) -> f64 {
        rounded(p, 8, alpha, by_token)
    }

    #[test]
    fn smoothing_is_exact_and_helps_where_channels_stand_out() {
        let p = Problem::new(Kind::S2, 1);
        let t = smooth(&vec![3.0; p.w.cols], &[&p.w], 0.5);
        let back: Vec<f64> = t.iter().map(|t| 1.0 / t).collect();
        let (plain, scaled) =
            (p.x.times(&p.w.transposed()), p.x.scale_columns(&back).times(&p.w.scale_columns(&t).transposed()));
        assert!(plain.minus(&scaled).squared_norm() <= 1e-20 * plain.squared_norm());
        assert_near("per token", mean(Kind::S2, |p| w8a8(p, None, true)), 0.00056);
        assert_near("per token, smoothed", mean(Kind::S2, |p| w8a8(p, Some(0.5), true)), 0.00009);
        assert_near("static", mean(Kind::S2, |p| w8a8(p, None, false)), 0.0031);
        assert_near("static, smoothed", mean(Kind::S2, |p| w8a8(p, Some(0.5), false)), 0.00026);
        let (before, after) = (mean(Kind::S1, |p| w8a8(p, None, true)), mean(Kind::S1, |p| w8a8(p, Some(0.5), true)));
        assert_near("S1", before, 0.00010);
        assert_near("S1, smoothed", after, 0.00008);
        assert!(after < before);
    }

    #[test]
    fn what_helps_8_bit_weights_harms_those_of_4() {
        assert_near("w4a8", mean(Kind::S2, |p| rounded(p, 4, None, true)), 0.0163);
        assert_near("w4a8, smoothed", mean(Kind::S2, |p| rounded(p, 4, Some(0.85), true)), 0.0553);
    }

    #[test]
    fn degenerate_channels_have_scale_one() {
        let w = Mat::zeros(2, 3);
        assert_eq!(smooth(&[0.0, f32::INFINITY, 1.0], &[&w], 0.5)[..2], [1.0, 1.0]);
    }
}
