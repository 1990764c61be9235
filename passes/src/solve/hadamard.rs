//! Random Hadamard rotations: exact identities `x W = (x R) (Rᵀ W)` that spread outliers over all channels (QuaRot, Ashkboos et al., 2024).
//!
//! `R = diag(signs) · diag(H, …, H) / √b` with Hadamard blocks `H` of `b` rows, the largest power of two that divides the number of channels, up to a limit.

use super::Mat;
use crate::gram::Gram;
use tersor_ir::constant::SplitMix;

/// A rotation of rows; orthogonal.
#[derive(Clone, PartialEq, Debug)]
pub struct Rotation {
    /// 1 or -1 for each channel, applied first.
    pub signs: Vec<f64>,
    /// Extent of a block, a power of two.
    pub block: usize,
}

impl Rotation {
    /// A rotation of `n` channels in blocks of at most `limit`. The same seed gives the same signs.
    pub fn new(n: usize, limit: usize, seed: u64) -> Rotation {
        let mut g = SplitMix(seed);
        let signs = (0..n).map(|_| if g.bits() & 1 == 1 { 1.0 } else { -1.0 }).collect();
        let mut block = 1;
        while n > 0 && n.is_multiple_of(2 * block) && 2 * block <= limit {
            block *= 2;
        }
        Rotation { signs, block }
    }
    /// The block, `H / √b`; symmetric.
    pub fn matrix(&self) -> Mat {
        let scale = 1.0 / (self.block as f64).sqrt();
        Mat::from_fn(self.block, self.block, |i, j| if (i & j).count_ones() % 2 == 0 { scale } else { -scale })
    }
    /// Each row times `R`.
    pub fn apply(&self, m: &Mat) -> Mat {
        let mut out = m.scale_columns(&self.signs);
        let scale = 1.0 / (self.block as f64).sqrt();
        for part in out.data.chunks_mut(self.block) {
            let mut half = 1;
            while half < part.len() {
                for start in (0..part.len()).step_by(2 * half) {
                    for i in start..start + half {
                        (part[i], part[i + half]) = (part[i] + part[i + half], part[i] - part[i + half]);
                    }
                }
                half *= 2;
            }
            part.iter_mut().for_each(|v| *v *= scale);
        }
        out
    }
    /// The Gram matrix of rotated rows: `Rᵀ G R`.
    pub fn of_gram(&self, gram: &Gram) -> Gram {
        let once = self.apply(&gram.mat());
        let twice = self.apply(&once.transposed());
        let total = self.apply(&Mat { rows: 1, cols: gram.dim, data: gram.total.clone() });
        Gram { rows: gram.rows, dim: gram.dim, sum: twice.data, total: total.data }
    }
}

#[cfg(test)]
mod tests {
    use super::super::formats::{MxRule, mxfp4, nvfp4};
    use super::super::grid::{Affine, Codec, Grid, Range, ScaleType};
    use super::super::obs::{Factor, Order};
    use super::super::problems::{Kind, Problem, assert_near, gram, heavy, mean, normal};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn rotations_are_orthogonal_and_products_stay(seed in any::<u64>(), n in 1usize..100, rows in 1usize..6, limit in 1usize..200) {
            let mut g = SplitMix(seed);
            let (x, w) = (normal(rows, n, &mut g), normal(3, n, &mut g));
            let r = Rotation::new(n, limit, seed);
            prop_assert!(n % r.block == 0 && r.block <= limit && r.block.is_power_of_two());
            let full = r.apply(&Mat::diagonal(&vec![1.0; n]));
            let one = full.transposed().times(&full);
            prop_assert!(one.minus(&Mat::diagonal(&vec![1.0; n])).squared_norm() < 1e-20);
            let (before, after) = (x.times(&w.transposed()), r.apply(&x).times(&r.apply(&w).transposed()));
            prop_assert!(before.minus(&after).squared_norm() <= 1e-20 * before.squared_norm().max(1e-6));
            let by_blocks = x.scale_columns(&r.signs);
            let blocks = by_blocks.data.chunks(r.block).flat_map(|b| Mat { rows: 1, cols: r.block, data: b.to_vec() }.times(&r.matrix()).data);
            prop_assert!(blocks.zip(&r.apply(&x).data).all(|(a, b)| (a - b).abs() < 1e-10));
            let (a, b) = (r.of_gram(&gram(&x)), gram(&r.apply(&x)));
            prop_assert!(a.sum.iter().zip(&b.sum).all(|(a, b)| (a - b).abs() < 1e-9));
        }
    }

    #[test]
    fn rotation_helps_powers_of_two_and_hurts_nvfp4() {
        let w = heavy(128, 512, &mut SplitMix(7));
        let rotated = Rotation::new(512, 128, 1).apply(&w);
        let relative = |w: &Mat, back: Mat| w.minus(&back).squared_norm() / w.squared_norm();
        let mx = |w: &Mat| relative(w, mxfp4(w, MxRule::Floor).rounded(w));
        let nv = |w: &Mat| relative(w, nvfp4(w).0.rounded(w));
        let int4 = |w: &Mat| relative(w, round(w, 4, 64));
        assert_near("mxfp4, rotated", mx(&rotated), 0.0133);
        assert_near("4 bits, rotated", int4(&rotated), 0.0111);
        assert_near("nvfp4, rotated", nv(&rotated), 0.0091);
        assert!(mx(&rotated) < mx(&w) && int4(&rotated) < int4(&w) && nv(&rotated) > nv(&w));
    }

    fn round(m: &Mat, bits: u32, group: usize) -> Mat {
        let grid = Grid { bits, group, symmetric: true, scales: ScaleType::F32 };
        Affine::fit(m, grid, Range::Full, None).rounded(m)
    }

    /// The error of a layer whose weight and inputs are rounded to 4 bits, by output and by row; the weight by a sweep where that is asked for.
    fn w4a4(p: &Problem, rotate: bool, sweep: bool) -> f64 {
        let r = Rotation::new(p.w.cols, if rotate { p.w.cols } else { 1 }, 1);
        let (x, w, g) = (r.apply(&p.x), r.apply(&p.w), r.of_gram(&p.gram));
        let grid = Grid { bits: 4, group: 0, symmetric: true, scales: ScaleType::F32 };
        let codec = Affine::fit(&w, grid, Range::Full, None);
        let w = match sweep {
            true => Factor::new(&g, 0.01, Order::Activity).unwrap().sweep(&w, Some(&codec), None).w,
            false => codec.rounded(&w),
        };
        let exact = p.x.times(&p.w.transposed());
        exact.minus(&round(&x, 4, 0).times(&w.transposed())).squared_norm() / exact.squared_norm()
    }

    #[test]
    fn rotation_spreads_what_stands_out_and_helps_only_where_something_does() {
        let peak =
            |x: &Mat| x.data.iter().fold(0f64, |m, v| m.max(v.abs())) / (x.squared_norm() / x.data.len() as f64).sqrt();
        let by_row = |x: &Mat| {
            (0..x.rows).map(|i| peak(&Mat { rows: 1, cols: x.cols, data: x.row(i).to_vec() })).sum::<f64>()
                / x.rows as f64
        };
        let r = Rotation::new(256, 256, 1);
        assert_near("peak", mean(Kind::S2, |p| by_row(&p.x)), 9.75);
        assert_near("peak, rotated", mean(Kind::S2, |p| by_row(&r.apply(&p.x))), 2.57);
        assert_near("w4a4", mean(Kind::S2, |p| w4a4(p, false, false)), 0.102);
        assert_near("w4a4, rotated", mean(Kind::S2, |p| w4a4(p, true, false)), 0.029);
        assert_near("w4a4, rotated, swept", mean(Kind::S2, |p| w4a4(p, true, true)), 0.010);
        assert_near("w4a4 on S1", mean(Kind::S1, |p| w4a4(p, false, false)), 0.0314);
        assert_near("w4a4 on S1, rotated", mean(Kind::S1, |p| w4a4(p, true, false)), 0.0328);
    }
}
