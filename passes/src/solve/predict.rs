//! Columns of a weight that go, made good in those that stay: each input that goes is predicted from those that stay, and its weights with it.
//!
//! For rows with Gram matrix `G`, kept columns `K` and others `R`, `W_R x_R` is best approximated by `Δ x_K` with `Δ = W_R G_RK (G_KK + λI)⁻¹`; at `λ = 0`, `W_K + Δ` is
//! `W G_:K G_KK⁻¹`, the least-squares weight. A constant may take part as one more kept input, and gives a shift of the outputs.

use super::Mat;
use crate::gram::Gram;

/// Damping is raised tenfold so often until the problem has an answer.
const RAISES: i32 = 8;

/// Inputs as calibration saw them.
pub struct Inputs<'a> {
    /// Their Gram matrix.
    pub gram: &'a Gram,
    /// A constant is one more of them: outputs may be shifted.
    pub shifts: bool,
}

impl Inputs<'_> {
    /// Mean squares of these columns, damped by `lambda`; with a last row and column of their means, for a constant input of 1, where there is one.
    pub fn moments(&self, columns: &[usize], lambda: f64) -> Mat {
        let (k, n) = (columns.len(), self.gram.rows.max(1) as f64);
        let g = |i: usize, j: usize| self.gram.sum[i * self.gram.dim + j] / n;
        let mean = |c: usize| self.gram.total[c] / n;
        let size = k + usize::from(self.shifts);
        Mat::from_fn(size, size, |i, j| match (i < k, j < k) {
            (true, true) => g(columns[i], columns[j]) + if i == j { lambda } else { 0.0 },
            (true, false) => mean(columns[i]),
            (false, true) => mean(columns[j]),
            (false, false) => 1.0,
        })
    }
    /// Damping by a part of the mean square of these columns.
    pub fn damping(&self, columns: &[usize], part: f64) -> f64 {
        let n = self.gram.rows.max(1) as f64;
        let square = |&c: &usize| self.gram.sum[c * self.gram.dim + c] / n;
        let mean = columns.iter().map(square).sum::<f64>() / columns.len().max(1) as f64;
        (part * mean).max(f64::MIN_POSITIVE)
    }
}

/// What stands for a weight of which only some columns are left.
#[derive(Clone, PartialEq, Debug)]
pub struct Refit {
    /// The kept columns, in the order asked for.
    pub w: Mat,
    /// What to add to each output.
    pub shift: Vec<f64>,
}

/// Every column but the kept ones, in order.
pub fn others(columns: usize, kept: &[usize]) -> Vec<usize> {
    let mut stays = vec![false; columns];
    kept.iter().for_each(|&k| stays[k] = true);
    (0..columns).filter(|&c| !stays[c]).collect()
}

/// The kept columns as they are; with means, the mean of what goes is added to the outputs.
pub fn plain(w: &Mat, mean: Option<&[f64]>, kept: &[usize]) -> Refit {
    let gone = others(w.cols, kept);
    let lost = |i: usize| mean.map_or(0.0, |m| gone.iter().map(|&r| w.at(i, r) * m[r]).sum());
    Refit { w: w.columns(kept), shift: (0..w.rows).map(lost).collect() }
}

/// The kept columns and a shift that come nearest to the outputs of all columns, damped by `damping` times the mean square of a kept input; never further from them than
/// the kept columns as they are. `None` when numbers are not finite or no damping helps.
pub fn refit(w: &Mat, inputs: &Inputs, kept: &[usize], damping: f64) -> Option<Refit> {
    let (gone, k) = (others(w.cols, kept), kept.len());
    let n = inputs.gram.rows.max(1) as f64;
    let g = |i: usize, j: usize| inputs.gram.sum[i * inputs.gram.dim + j] / n;
    let size = k + usize::from(inputs.shifts);
    let mean = |c: usize| inputs.gram.total[c] / n;
    let weights = w.columns(&gone);
    let moments = Mat::from_fn(gone.len(), size, |r, j| if j < k { g(gone[r], kept[j]) } else { mean(gone[r]) });
    let lost = weights.times(&moments);
    let lambda = inputs.damping(kept, damping);
    let solved = |raise: i32| {
        let inverse = inputs.moments(kept, lambda * 10f64.powi(raise)).cholesky()?.lower_inverse();
        let change = lost.times(&inverse.transposed()).times(&inverse);
        change.is_finite().then_some(change)
    };
    let change = (0..RAISES).find_map(solved)?;
    let w = Mat::from_fn(w.rows, k, |i, j| w.at(i, kept[j]) + change.at(i, j));
    let shift = (0..w.rows).map(|i| if size > k { change.at(i, k) } else { 0.0 }).collect();
    Some(Refit { w, shift })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solve::problems::{Kind, Problem, assert_near, normal};
    use proptest::prelude::*;
    use tersor_ir::constant::SplitMix;

    /// The squared error of the outputs over rows, relative to the outputs.
    fn error(w: &Mat, x: &Mat, kept: &[usize], refit: &Refit) -> f64 {
        let exact = x.times(&w.transposed());
        let mut other = x.columns(kept).times(&refit.w.transposed());
        for i in 0..other.rows {
            other.row_mut(i).iter_mut().zip(&refit.shift).for_each(|(y, s)| *y += s);
        }
        exact.minus(&other).squared_norm() / exact.squared_norm()
    }

    fn gram(x: &Mat) -> Gram {
        let mut g = Gram::new(x.cols);
        g.add(&x.to_f32());
        g
    }

    fn means(x: &Mat) -> Vec<f64> {
        (0..x.cols).map(|j| (0..x.rows).map(|i| x.at(i, j)).sum::<f64>() / x.rows as f64).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn it_is_never_worse_than_plain_removal_and_nothing_beats_it(
            seed in 0u64..1 << 40,
            (outs, ins, rows) in (1usize..6, 2usize..12, 1usize..40),
            offset in 0f64..3.0,
            affine: bool,
        ) {
            let mut s = SplitMix(seed);
            let mut x = normal(rows, ins, &mut s).times(&normal(ins, ins, &mut s));
            x.data.iter_mut().for_each(|v| *v = f64::from((*v + offset) as f32));
            let w = normal(outs, ins, &mut s);
            let kept: Vec<usize> = (0..ins).filter(|&c| c == 0 || s.below(2) == 0).collect();
            let (g, m) = (gram(&x), means(&x));
            let mean = affine.then_some(&m[..]);
            let best = refit(&w, &Inputs { gram: &g, shifts: affine }, &kept, 1e-9).unwrap();
            let found = error(&w, &x, &kept, &best);
            let as_is = plain(&w, mean, &kept);
            prop_assert!(found <= error(&w, &x, &kept, &as_is) + 1e-9);
            // A step in any direction does not lead nearer.
            let mut other = best.clone();
            let step = normal(outs, kept.len(), &mut s);
            other.w.data.iter_mut().zip(&step.data).for_each(|(w, d)| *w += 1e-3 * d);
            prop_assert!(found <= error(&w, &x, &kept, &other) + 1e-7);
        }

        #[test]
        fn columns_that_say_nothing_go_without_a_trace(seed in 0u64..1 << 40, weight: bool, affine: bool) {
            let mut s = SplitMix(seed);
            let (mut x, mut w) = (normal(20, 6, &mut s), normal(3, 6, &mut s));
            let dead = if weight { &mut w } else { &mut x };
            (0..dead.rows).for_each(|i| [1, 4].iter().for_each(|&c| dead.row_mut(i)[c] = 0.0));
            let (g, m, kept) = (gram(&x), means(&x), [0, 2, 3, 5]);
            let mean = affine.then_some(&m[..]);
            let none = plain(&w, None, &kept);
            prop_assert_eq!(&none, &refit(&w, &Inputs { gram: &g, shifts: affine }, &kept, 0.01).unwrap());
            prop_assert_eq!(&none, &plain(&w, mean, &kept));
        }
    }

    #[test]
    fn least_squares_recovers_what_correlated_inputs_know_of_each_other() {
        for (part, expected_plain, expected_refit) in [(4, 0.119, 0.015), (2, 0.298, 0.041)] {
            let (mut as_is, mut best) = (0.0, 0.0);
            for seed in 2..=5 {
                let p = Problem::new(Kind::S1, seed);
                // The inputs that carry least go: `G_jj |w_j|²`.
                let score = |j: usize| {
                    p.gram.sum[j * p.gram.dim + j] * (0..p.w.rows).map(|i| p.w.at(i, j).powi(2)).sum::<f64>()
                };
                let mut order: Vec<usize> = (0..p.w.cols).collect();
                order.sort_by(|&a, &b| score(a).total_cmp(&score(b)));
                let mut kept = order.split_off(p.w.cols / part);
                kept.sort_unstable();
                as_is += error(&p.w, &p.x, &kept, &plain(&p.w, None, &kept)) / 4.0;
                let fitted = refit(&p.w, &Inputs { gram: &p.gram, shifts: false }, &kept, 1e-6).unwrap();
                best += error(&p.w, &p.x, &kept, &fitted) / 4.0;
            }
            assert_near(&format!("1 of {part} removed"), as_is, expected_plain);
            assert_near(&format!("1 of {part} removed, least squares"), best, expected_refit);
        }
    }
}
