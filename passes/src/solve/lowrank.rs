//! Products of two thin matrices in place of one: truncation that is optimal for the rows seen in calibration.
//!
//! For a weight `W` of `o x i` and rows with Gram matrix `G`, the best matrix of rank `r` keeps the `r` leading directions of the outputs `Y = X Wᵀ`, that is of `W G Wᵀ`
//! (SVD-LLM, Wang et al., 2024, in the form of PCA). Its squared error is exactly what the other directions hold, so that one decomposition gives the whole curve of error by
//! rank. Applied to `W - W'` it is the compensation of an approximation `W'` (EoRA, Liu et al., 2024).

use super::Mat;
use crate::gram::Gram;
use faer::Side;

/// Directions that hold less than this part of the largest are raised to it where a root of `G` is inverted.
const FLOOR: f64 = 1e-10;

/// `B A`, applied as `B (A x)`.
#[derive(Clone, PartialEq, Debug)]
pub struct Factors {
    /// `r x i`, applied first.
    pub a: Mat,
    /// `o x r`, applied second.
    pub b: Mat,
}

impl Factors {
    /// The product.
    pub fn product(&self) -> Mat {
        self.b.times(&self.a)
    }
}

/// A weight by directions of its outputs, the strongest first. Factors of every rank are parts of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Truncation {
    /// What each direction holds of the squared outputs.
    energy: Vec<f64>,
    all: Factors,
}

/// The least rank at which two factors are no smaller than the matrix.
pub fn break_even(outs: usize, ins: usize) -> usize {
    (outs * ins).div_ceil((outs + ins).max(1))
}

impl Truncation {
    /// Of a weight for these inputs; without a Gram matrix every input counts the same, which is plain singular value decomposition. `None` when an element is not
    /// finite.
    pub fn of(w: &Mat, gram: Option<&Gram>) -> Option<Truncation> {
        if !w.is_finite() || gram.is_some_and(|g| g.sum.iter().any(|v| !v.is_finite())) {
            return None;
        }
        let (energy, all) = if w.rows <= w.cols { by_outputs(w, gram)? } else { by_inputs(w, gram)? };
        Some(Truncation { energy, all })
    }
    /// The rank at which the factors give the weight itself.
    pub fn full(&self) -> usize {
        self.energy.len()
    }
    /// The squared error of the outputs relative to the outputs, `‖X (W - W')ᵀ‖² / ‖X Wᵀ‖²`, at rank 0, 1, … up to the full rank.
    pub fn curve(&self) -> Vec<f64> {
        let total: f64 = self.energy.iter().sum();
        let mut left = vec![0.0; self.full() + 1];
        for r in (0..self.full()).rev() {
            left[r] = left[r + 1] + self.energy[r];
        }
        left.iter().map(|v| if total > 0.0 { v / total } else { 0.0 }).collect()
    }
    /// The factors of a rank, no more than the full one. What passes between them is scaled so that both have equal norms, direction by direction.
    pub fn factors(&self, rank: usize) -> Factors {
        let (a, b) = (&self.all.a, &self.all.b);
        let rank = rank.min(self.full());
        let norm = |v: f64| if v > 0.0 { v.sqrt() } else { 1.0 };
        let t: Vec<f64> = (0..rank)
            .map(|k| {
                let row = norm(a.row(k).iter().map(|v| v * v).sum());
                let col = norm((0..b.rows).map(|i| b.at(i, k).powi(2)).sum());
                (col / row).sqrt()
            })
            .collect();
        Factors {
            a: Mat::from_fn(rank, a.cols, |k, j| a.at(k, j) * t[k]),
            b: Mat::from_fn(b.rows, rank, |i, k| b.at(i, k) / t[k]),
        }
    }
}

type Directions = (Vec<f64>, Factors);

/// `W G Wᵀ = U E Uᵀ`, `B = U`, `A = Uᵀ W`.
fn by_outputs(w: &Mat, gram: Option<&Gram>) -> Option<Directions> {
    let weighed = gram.map_or_else(|| w.clone(), |g| w.times(&g.mat()));
    let (energy, u) = eigen(&weighed.times(&w.transposed()))?;
    let a = u.transposed().times(w);
    Some((energy, Factors { a, b: u }))
}

/// `G = R Rᵀ`, `Rᵀ Wᵀ W R = V E Vᵀ`, `B = W R V`, `A = Vᵀ R⁻¹`: the same directions where there are fewer inputs than outputs.
fn by_inputs(w: &Mat, gram: Option<&Gram>) -> Option<Directions> {
    let Some(gram) = gram else {
        let (energy, v) = eigen(&w.transposed().times(w))?;
        return Some((energy, Factors { b: w.times(&v), a: v.transposed() }));
    };
    let (values, q) = eigen(&gram.mat())?;
    let most = values.first().copied().unwrap_or(0.0);
    if most <= 0.0 {
        // Inputs that were always 0 tell directions no better than none.
        return by_inputs(w, None).map(|(energy, all)| (vec![0.0; energy.len()], all));
    }
    let root: Vec<f64> = values.iter().map(|v| v.max(FLOOR * most).sqrt()).collect();
    let weighed = w.times(&q).scale_columns(&root);
    let (energy, v) = eigen(&weighed.transposed().times(&weighed))?;
    let inverse: Vec<f64> = root.iter().map(|r| r.recip()).collect();
    let a = v.transposed().scale_columns(&inverse).times(&q.transposed());
    Some((energy, Factors { b: weighed.times(&v), a }))
}

/// Eigenvalues of a symmetric matrix that has no negative ones but by rounding, largest first, and its eigenvectors as columns.
fn eigen(m: &Mat) -> Option<(Vec<f64>, Mat)> {
    let e = m.view().self_adjoint_eigen(Side::Lower).ok()?;
    let n = m.rows;
    let values: Vec<f64> = (0..n).map(|k| e.S()[n - 1 - k].max(0.0)).collect();
    let vectors = Mat::from_fn(n, n, |i, k| e.U()[(i, n - 1 - k)]);
    vectors.is_finite().then_some((values, vectors))
}

#[cfg(test)]
mod tests {
    use super::super::layer_error;
    use super::super::problems::{Kind, Problem, assert_near, gram, mean, normal};
    use super::*;
    use crate::solve::grid::{Affine, Codec, Grid, Range, ScaleType};
    use crate::solve::mask::{Pattern, keep_of, masked, wanda};
    use proptest::prelude::*;
    use tersor_ir::constant::SplitMix;

    /// Activation-aware singular values (ASVD, Yuan et al., 2023): a diagonal in place of the Gram matrix.
    fn asvd(p: &Problem) -> Gram {
        let n = p.x.rows as f64;
        let t = (0..p.x.cols).map(|j| (0..p.x.rows).map(|i| p.x.at(i, j).abs()).sum::<f64>() / n);
        let scales: Vec<f64> = t.map(|t| t + 2e-6 * t.sqrt()).collect();
        Gram { rows: 1, sum: Mat::diagonal(&scales).data, ..Gram::new(p.x.cols) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_curve_is_what_is_measured_and_nothing_of_a_rank_is_better(
            seed in 0u64..1 << 40, outs in 1usize..24, ins in 1usize..24, rows in 1usize..80,
        ) {
            let p = Problem::sized(Kind::S1, seed, outs, ins, rows);
            let t = Truncation::of(&p.w, Some(&p.gram)).unwrap();
            let (plain, other) = (Truncation::of(&p.w, None).unwrap(), Truncation::of(&p.w, Some(&asvd(&p))).unwrap());
            let curve = t.curve();
            prop_assert_eq!(curve.len(), outs.min(ins) + 1);
            prop_assert!(curve.windows(2).all(|c| c[1] <= c[0]));
            for (r, expected) in curve.iter().enumerate() {
                let found = p.error(&t.factors(r).product());
                prop_assert!((found - expected).abs() < 1e-7, "rank {r}: {found:e}, predicted {expected:e}");
                prop_assert!(found <= p.error(&plain.factors(r).product()) + 1e-7);
                prop_assert!(found <= p.error(&other.factors(r).product()) + 1e-7);
            }
            for t in [&t, &plain] {
                let whole = t.factors(t.full()).product();
                let scale = p.w.squared_norm().sqrt();
                prop_assert!(whole.minus(&p.w).squared_norm().sqrt() <= 1e-6 * scale);
            }
        }
        #[test]
        fn only_the_direction_of_a_gram_matrix_matters(seed in 0u64..1 << 40, outs in 1usize..12, ins in 1usize..12) {
            let p = Problem::sized(Kind::S1, seed, outs, ins, 3 * ins);
            let mut twice = p.gram.clone();
            twice.merge(&p.gram);
            let (a, b) = (Truncation::of(&p.w, Some(&p.gram)).unwrap(), Truncation::of(&p.w, Some(&twice)).unwrap());
            prop_assert!(a.curve().iter().zip(b.curve()).all(|(x, y)| (x - y).abs() < 1e-9));
        }
    }

    #[test]
    fn truncation_of_the_synthetic_layers_loses_what_it_should() {
        // Errors on rows that calibration did not see: of svd, of asvd, whitened; at the ranks at which two factors have these parts of the weight's parameters.
        let ratios = [0.8, 0.6, 0.4];
        let errors = |kind, seed| {
            let mut p = Problem::sized(kind, seed, 128, 256, 4096);
            let held = gram(&Mat { rows: 2048, cols: 256, data: p.x.data.split_off(2048 * 256) });
            p.x.rows = 2048;
            [None, Some(asvd(&p)), Some(gram(&p.x))].map(|inputs| {
                let t = Truncation::of(&p.w, inputs.as_ref()).unwrap();
                let rank = |ratio| (ratio * break_even(128, 256) as f64) as usize;
                ratios.map(|ratio| layer_error(&p.w, &t.factors(rank(ratio)).product(), &held))
            })
        };
        let found = [2, 3, 4].map(|seed| errors(Kind::S1, seed));
        let expected = [[0.171, 0.286, 0.446], [0.160, 0.260, 0.414], [0.019, 0.034, 0.060]];
        for (method, expected) in expected.iter().enumerate() {
            for (at, ratio) in ratios.iter().enumerate() {
                let mean = found.iter().map(|e| e[method][at]).sum::<f64>() / 3.0;
                assert_near(&format!("method {method} at {ratio}"), mean, expected[at]);
            }
        }
        let found = [2, 3, 4, 5].map(|seed| errors(Kind::S2, seed));
        for (method, expected) in [(1, [0.020, 0.033, 0.051]), (2, [0.0020, 0.0037, 0.0069])] {
            for (at, ratio) in ratios.iter().enumerate() {
                let mean = found.iter().map(|e| e[method][at]).sum::<f64>() / 4.0;
                assert_near(&format!("method {method} at {ratio} on S2"), mean, expected[at]);
            }
        }
    }

    #[test]
    fn compensation_repairs_rounding_as_far_as_its_rank_goes() {
        let grid = Grid { bits: 3, group: 64, symmetric: false, scales: ScaleType::F32 };
        let rounded = |p: &Problem| Affine::fit(&p.w, grid, Range::Full, None).rounded(&p.w);
        let repaired = |p: &Problem, other: Mat, rank: usize, plain: bool| {
            let d = p.w.minus(&other);
            let f = Truncation::of(&d, (!plain).then_some(&p.gram)).unwrap().factors(rank);
            p.error(&p.w.minus(&d.minus(&f.product())))
        };
        let left = |p: &Problem, rank: usize, plain: bool| repaired(p, rounded(p), rank, plain);
        assert_near("rounded", mean(Kind::S1, |p| p.error(&rounded(p))), 0.038);
        for (rank, svd, eora) in [(4, 0.0353, 0.0120), (16, 0.0282, 0.0046), (32, 0.0190, 0.0023)] {
            assert_near(&format!("residual by svd, rank {rank}"), mean(Kind::S1, |p| left(p, rank, true)), svd);
            assert_near(&format!("residual whitened, rank {rank}"), mean(Kind::S1, |p| left(p, rank, false)), eora);
        }
        let pruned = |p: &Problem| masked(&p.w, &keep_of(&wanda(&p.w, &p.gram), &Pattern::Of { keep: 2, of: 4 }, true));
        for (rank, expected) in [(4, 0.046), (16, 0.018), (32, 0.0086)] {
            let found = mean(Kind::S1, |p| repaired(p, pruned(p), rank, false));
            assert_near(&format!("2:4, rank {rank}"), found, expected);
        }
        assert_near("rounded, S2", mean(Kind::S2, |p| p.error(&rounded(p))), 0.040);
        assert_near("whitened, S2, rank 16", mean(Kind::S2, |p| left(p, 16, false)), 0.0006);
        let p = Problem::new(Kind::S1, 11);
        let errors: Vec<f64> = [0, 1, 2, 8, 64, 127].iter().map(|&r| left(&p, r, false)).collect();
        assert!(errors.windows(2).all(|e| e[1] < e[0]), "{errors:?}");
        assert!(left(&p, 128, false) < 1e-20);
    }

    #[test]
    fn degenerate_layers_truncate_too() {
        let mut g = SplitMix(3);
        let (w, x) = (normal(5, 9, &mut g), normal(2, 9, &mut g));
        let t = Truncation::of(&w, Some(&gram(&x))).unwrap();
        assert!(t.curve()[2] < 1e-12, "two rows span two directions");
        let zero = Truncation::of(&Mat::zeros(4, 3), Some(&gram(&normal(6, 3, &mut g)))).unwrap();
        assert_eq!(zero.factors(2).product(), Mat::zeros(4, 3));
        assert_eq!(zero.curve(), [0.0; 4]);
        assert!(Truncation::of(&Mat::from_fn(2, 2, |_, _| f64::NAN), None).is_none());
        let silent = Truncation::of(&normal(6, 3, &mut g), Some(&Gram::new(3))).unwrap();
        assert_eq!(silent.curve(), [0.0; 4]);
        assert_eq!((break_even(128, 256), break_even(4, 4), break_even(0, 0)), (86, 2, 0));
    }
}
