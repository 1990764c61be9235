//! Inputs of a layer that go for good: which ones, and what the others then take over.
//!
//! Columns of a weight come in *units* that go together: the taps of an input channel, the elements of a head.

use super::Mat;
use super::obs::inverse_factor;
use crate::gram::Gram;

/// The weight over the inputs that stay, `W[:,K] + W[:,R] G[R,K] (G[K,K] + λI)⁻¹` with `λ = damping * mean(diag(G[K,K]))`: without damping the least squared error of the
/// outputs over the rows seen. With damping it leans to leaving the columns as they are. An input that was always 0 takes over nothing.
pub fn recover(w: &Mat, keep: &[usize], gram: &Gram, damping: f64) -> Mat {
    let plain = w.columns(keep);
    let stays: std::collections::BTreeSet<usize> = keep.iter().copied().collect();
    let gone: Vec<usize> = (0..w.cols).filter(|j| !stays.contains(j)).collect();
    if gone.is_empty() || keep.is_empty() {
        return plain;
    }
    let scale = (gram.rows as f64).max(1.0).recip();
    let cross = Mat::from_fn(gone.len(), keep.len(), |i, j| gram.sum[gone[i] * gram.dim + keep[j]] * scale);
    // Damping grows until the matrix can be inverted.
    let mut damping = damping;
    let inverse = loop {
        match inverse_factor(&gram.part(keep).hessian(damping)) {
            Some(u) => break u.transposed().times(&u),
            None if damping > 1.0 => return plain,
            None => damping = (10.0 * damping).max(1e-8),
        }
    };
    let taken = w.columns(&gone).times(&cross).times(&inverse);
    Mat { data: plain.data.iter().zip(&taken.data).map(|(a, b)| a + b).collect(), ..plain }
}

/// A layer that reads units: the unit of each column, and what its inputs were.
pub struct Reader<'a> {
    /// The weight.
    pub w: &'a Mat,
    /// The unit of each column.
    pub units: &'a [usize],
    /// Gram matrix of its inputs.
    pub gram: &'a Gram,
}

impl Reader<'_> {
    fn columns(&self, units: usize) -> Vec<Vec<usize>> {
        let mut out = vec![vec![]; units];
        self.units.iter().enumerate().for_each(|(j, &u)| out[u].push(j));
        out
    }
    /// What each unit alone puts into the outputs, `Σ G_jj ‖W_:j‖²`, relative to the outputs of all.
    pub fn energies(&self, units: usize) -> Vec<f64> {
        let diagonal = self.gram.diagonal();
        let column = |j: usize| diagonal[j] * (0..self.w.rows).map(|i| self.w.at(i, j).powi(2)).sum::<f64>();
        let total = self.total();
        self.columns(units).iter().map(|c| c.iter().map(|&j| column(j)).sum::<f64>() / total).collect()
    }
    fn total(&self) -> f64 {
        let y = self.w.times(&self.gram.mat());
        let total: f64 = y.data.iter().zip(&self.w.data).map(|(a, b)| a * b).sum();
        if total > 0.0 { total } else { 1.0 }
    }
}

/// What going costs each unit, and when: units go one by one, each time the one without which the others, after taking over as well as they can, lose least (optimal brain
/// surgeon; Hassibi and Stork, 1993), summed over the readers relative to the outputs of each. The score of a unit is the loss after it went; of units that stay, infinity.
///
/// `may` says which units can go, `most` how many do.
pub fn elimination(readers: &[Reader], may: &[bool], most: usize, damping: f64) -> Option<Vec<f64>> {
    struct State {
        w: Mat,
        inverse: Mat,
        columns: Vec<Vec<usize>>,
        total: f64,
    }
    let mut states = vec![];
    for r in readers {
        let u = inverse_factor(&r.gram.hessian(damping))?;
        let total = r.total() / (r.gram.rows as f64).max(1.0);
        states.push(State { w: r.w.clone(), inverse: u.transposed().times(&u), columns: r.columns(may.len()), total });
    }
    let mut scores = vec![f64::INFINITY; may.len()];
    let mut lost = 0.0;
    let mut left: Vec<usize> = (0..may.len()).filter(|&u| may[u]).collect();
    for _ in 0..most {
        let cost = |u: usize| -> Option<f64> {
            let one = |s: &State| {
                let c = &s.columns[u];
                let w = s.w.columns(c);
                let taken = w.times(&block_inverse(&s.inverse, c)?);
                Some(taken.data.iter().zip(&w.data).map(|(a, b)| a * b).sum::<f64>() / s.total)
            };
            states.iter().map(one).sum()
        };
        let costs = left.iter().map(|&u| cost(u)).collect::<Option<Vec<f64>>>()?;
        let Some(best) = (0..left.len()).min_by(|&a, &b| costs[a].total_cmp(&costs[b])) else { break };
        let u = left.remove(best);
        lost += costs[best].max(0.0);
        scores[u] = lost;
        for s in &mut states {
            let c = s.columns[u].clone();
            let part = block_inverse(&s.inverse, &c)?;
            let rows = Mat::from_fn(c.len(), s.inverse.cols, |i, j| s.inverse.at(c[i], j));
            let back = part.times(&rows);
            let change = s.w.columns(&c).times(&back);
            s.w = s.w.minus(&change);
            s.inverse = s.inverse.minus(&rows.transposed().times(&back));
            for &j in &c {
                (0..s.w.rows).for_each(|i| s.w.row_mut(i)[j] = 0.0);
                (0..s.inverse.rows).for_each(|i| {
                    let on = f64::from(u8::from(i == j));
                    s.inverse.row_mut(i)[j] = on;
                    s.inverse.row_mut(j)[i] = on;
                });
            }
        }
    }
    Some(scores)
}

/// The inverse of the part of a positive definite matrix over these rows and columns.
fn block_inverse(m: &Mat, at: &[usize]) -> Option<Mat> {
    let part = Mat::from_fn(at.len(), at.len(), |i, j| m.at(at[i], at[j]));
    let l = part.cholesky()?.lower_inverse();
    Some(l.transposed().times(&l))
}

#[cfg(test)]
mod tests {
    use super::super::problems::{Kind, Problem, assert_near, mean};
    use super::*;
    use proptest::prelude::*;

    /// The weight with zeros where inputs went.
    fn spread(w: &Mat, part: &Mat, keep: &[usize]) -> Mat {
        let mut out = Mat::zeros(w.rows, w.cols);
        for (k, &j) in keep.iter().enumerate() {
            (0..w.rows).for_each(|i| out.row_mut(i)[j] = part.at(i, k));
        }
        out
    }

    fn strongest(p: &Problem, keep: usize) -> Vec<usize> {
        let units: Vec<usize> = (0..p.w.cols).collect();
        let e = Reader { w: &p.w, units: &units, gram: &p.gram }.energies(p.w.cols);
        let mut order = units.clone();
        order.sort_by(|&a, &b| e[b].total_cmp(&e[a]));
        order.truncate(keep);
        order.sort_unstable();
        order
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn recovery_is_the_optimum_and_never_worse_than_removal(
            seed in 0u64..1 << 40, outs in 1usize..8, ins in 2usize..14, rows in 1usize..60, cut in 1usize..13,
        ) {
            let p = Problem::sized(Kind::S1, seed, outs, ins, rows);
            let keep = strongest(&p, ins - cut.min(ins - 1));
            let plain = p.error(&spread(&p.w, &p.w.columns(&keep), &keep));
            let best = recover(&p.w, &keep, &p.gram, 1e-9);
            let found = p.error(&spread(&p.w, &best, &keep));
            prop_assert!(found <= plain + 1e-9, "{found} after, {plain} before");
            // Steps in any direction make the optimum worse.
            if rows > ins {
                for i in 0..best.data.len() {
                    for step in [1e-2, -1e-2] {
                        let mut other = best.clone();
                        other.data[i] += step;
                        prop_assert!(p.error(&spread(&p.w, &other, &keep)) >= found - 1e-9);
                    }
                }
            }
            prop_assert_eq!(recover(&p.w, &(0..ins).collect::<Vec<_>>(), &p.gram, 0.0), p.w);
        }
        #[test]
        fn elimination_counts_what_recovery_leaves(seed in 0u64..1 << 40, units in 2usize..6, most in 1usize..5) {
            let p = Problem::sized(Kind::S1, seed, 5, 3 * units, 80);
            let of: Vec<usize> = (0..3 * units).map(|j| j % units).collect();
            let reader = Reader { w: &p.w, units: &of, gram: &p.gram };
            let most = most.min(units - 1);
            let scores = elimination(&[reader], &vec![true; units], most, 1e-9).unwrap();
            let keep: Vec<usize> = (0..of.len()).filter(|&j| scores[of[j]].is_infinite()).collect();
            prop_assert_eq!(keep.len(), 3 * (units - most));
            let lost = scores.iter().copied().filter(|s| s.is_finite()).fold(0.0, f64::max);
            let found = p.error(&spread(&p.w, &recover(&p.w, &keep, &p.gram, 1e-9), &keep));
            prop_assert!((found - lost).abs() < 1e-5 * (1.0 + lost), "{found} measured, {lost} counted");
        }
    }

    #[test]
    fn the_synthetic_layer_loses_what_it_should() {
        for (share, plain, recovered) in [(4, 0.119, 0.015), (2, 0.298, 0.041)] {
            let found = |recovery: bool| {
                mean(Kind::S1, |p| {
                    let keep = strongest(p, p.w.cols - p.w.cols / share);
                    let part = if recovery { recover(&p.w, &keep, &p.gram, 1e-9) } else { p.w.columns(&keep) };
                    p.error(&spread(&p.w, &part, &keep))
                })
            };
            assert_near(&format!("1/{share} plain"), found(false), plain);
            assert_near(&format!("1/{share} recovered"), found(true), recovered);
        }
    }

    #[test]
    fn what_cannot_go_stays_and_silent_inputs_take_over_nothing() {
        let p = Problem::sized(Kind::Iso, 3, 2, 3, 20);
        let reader = || Reader { w: &p.w, units: &[0, 1, 2], gram: &p.gram };
        let scores = elimination(&[reader()], &[false, true, false], 3, 1e-4).unwrap();
        assert_eq!(scores.iter().filter(|s| s.is_finite()).count(), 1);
        assert_eq!(recover(&p.w, &[0, 2], &Gram::new(3), 1e-4), p.w.columns(&[0, 2]));
    }
}
