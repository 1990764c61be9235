//! Half-quadratic quantization (Badri and Shaji, 2023): a uniform grid whose zero points are real numbers, refined for errors with heavy tails. Needs no data.

use super::grid::{Affine, Grid};
use super::{Mat, by_rows};

/// How the zero points are refined.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Hqq {
    /// Errors count as `|e|^norm`.
    pub norm: f64,
    /// Weight of the quadratic term at first.
    pub beta: f64,
    /// Factor of that weight after each step.
    pub growth: f64,
    /// Steps at most.
    pub steps: usize,
}

impl Default for Hqq {
    fn default() -> Self {
        Hqq { norm: 0.7, beta: 10.0, growth: 1.01, steps: 20 }
    }
}

/// Most steps of the grid in a unit.
const FINEST: f64 = 2e4;
/// A group of a smaller range counts as constant.
const CONSTANT: f64 = 1e-4;

impl Hqq {
    /// The grid of each group: over its own range, which need not hold 0, and with the zero point that has the least mean error of all steps.
    pub fn fit(&self, w: &Mat, grid: Grid) -> Affine {
        let grid = Grid { symmetric: false, ..grid };
        let width = grid.width(w.cols);
        let groups = w.cols.div_ceil(width);
        let mut found = vec![(1.0, 0.0); w.rows * groups];
        by_rows(&mut found, groups, |i, row| {
            row.iter_mut().zip(w.row(i).chunks(width)).for_each(|(p, part)| *p = self.group(part, &grid));
        });
        let (scale, zero) = found.into_iter().unzip();
        Affine { grid, groups, scale, zero }
    }

    fn group(&self, w: &[f64], grid: &Grid) -> (f64, f64) {
        let (lo, hi) = w.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), &v| (lo.min(v), hi.max(v)));
        let most = grid.codes().1;
        let steps = if hi - lo <= CONSTANT { 1.0 } else { (most / (hi - lo)).min(FINEST) };
        let scale = grid.scales.round(1.0 / steps);
        // The zero as it is stored.
        let stored = |z: f64| f64::from(z as f32);
        let mut zero = stored(-lo / scale);
        if grid.bits == 4 {
            zero = zero.round_ties_even();
        }
        let (mut best, mut beta) = ((f64::INFINITY, zero), self.beta);
        for _ in 0..=self.steps {
            let code = |v: f64| (v / scale + zero).round_ties_even().clamp(0.0, most);
            let error = w.iter().map(|&v| (v - (code(v) - zero) * scale).abs()).sum::<f64>();
            if error >= best.0 {
                break;
            }
            best = (error, zero);
            let one = |&v: &f64| {
                let q = code(v);
                let d = v - (q - zero) * scale;
                let shrunk = if d == 0.0 { 0.0 } else { (d.abs() - d.abs().powf(self.norm - 1.0) / beta).max(0.0) };
                q - (v - d.signum() * shrunk) / scale
            };
            zero = stored(w.iter().map(one).sum::<f64>() / w.len() as f64);
            beta *= self.growth;
        }
        (scale, best.1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::grid::{Codec, Range, ScaleType};
    use super::super::problems::{assert_near, normal};
    use super::*;
    use tersor_ir::constant::SplitMix;

    fn grid(bits: u32) -> Grid {
        Grid { bits, group: 64, symmetric: false, scales: ScaleType::F32 }
    }

    #[test]
    fn errors_are_the_published_ones_and_below_rounding() {
        let w = normal(128, 512, &mut SplitMix(3));
        let relative = |a: &Affine| w.minus(&a.rounded(&w)).squared_norm() / w.squared_norm();
        for (bits, hqq, rtn) in [(4, 0.0075, 0.0083), (3, 0.0342, 0.0382), (2, 0.187, 0.209)] {
            let found = relative(&Hqq::default().fit(&w, grid(bits)));
            let rounded = relative(&Affine::fit(&w, grid(bits), Range::Full, None));
            assert_near("hqq", found, hqq);
            assert_near("rtn", rounded, rtn);
            assert!(found < rounded);
        }
    }

    #[test]
    fn no_step_makes_the_mean_error_larger_and_the_result_is_the_same_again() {
        let w = normal(16, 200, &mut SplitMix(4));
        for bits in 1..=8 {
            let error = |steps| {
                let a = Hqq { steps, ..Hqq::default() }.fit(&w, grid(bits));
                assert_eq!(a, Hqq { steps, ..Hqq::default() }.fit(&w, grid(bits)));
                w.minus(&a.rounded(&w)).data.iter().map(|d| d.abs()).sum::<f64>()
            };
            let errors: Vec<f64> = [0, 1, 5, 20].map(error).to_vec();
            assert!(errors.is_sorted_by(|a, b| a >= b), "{errors:?}");
        }
    }

    #[test]
    fn constant_groups_are_exact() {
        let w = Mat { rows: 1, cols: 4, data: vec![0.25; 4] };
        let a = Hqq::default().fit(&w, grid(2));
        assert!(w.minus(&a.rounded(&w)).squared_norm() < 1e-12);
    }
}
