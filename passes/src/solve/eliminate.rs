//! The order in which channels go: each time the one whose loss is least once what stays makes up for it (optimal brain surgeon, Hassibi and Stork, 1993, for blocks of columns).
//!
//! With `H` the damped Gram matrix of a reader's inputs and `W` its weight, removing the columns `S` of a channel costs `tr(W_S (H⁻¹_SS)⁻¹ W_Sᵀ)` at best, and leaves
//! `W - W_S (H⁻¹_SS)⁻¹ H⁻¹_S:`. The inverse of what stays is `H⁻¹ - H⁻¹_:S (H⁻¹_SS)⁻¹ H⁻¹_S:`: no system is solved anew.

use super::Mat;
use super::predict::Inputs;

/// What reads the channels: its weight, its inputs, and the channel of each column.
pub struct Reading<'a> {
    /// `outs x columns`.
    pub w: &'a Mat,
    /// Of the columns.
    pub inputs: Inputs<'a>,
    /// Channel by column.
    pub channel: &'a [usize],
}

/// A reader as channels go from it.
struct State {
    w: Mat,
    inverse: Mat,
    columns: Vec<Vec<usize>>,
    energy: f64,
}

impl State {
    fn new(r: &Reading, channels: usize, damping: f64) -> Option<State> {
        let cols = r.w.cols;
        let all: Vec<usize> = (0..cols).collect();
        // A constant is an input that always stays.
        let h = r.inputs.moments(&all, r.inputs.damping(&all, damping));
        let root = h.cholesky()?.lower_inverse();
        let inverse = root.transposed().times(&root);
        let w = Mat::from_fn(r.w.rows, h.cols, |i, j| if j < cols { r.w.at(i, j) } else { 0.0 });
        let mut columns = vec![vec![]; channels];
        r.channel.iter().enumerate().for_each(|(j, &c)| columns[c].push(j));
        let weighed = w.times(&h);
        let energy: f64 = weighed.data.iter().zip(&w.data).map(|(a, b)| a * b).sum();
        (inverse.is_finite() && energy > 0.0).then_some(State { w, inverse, columns, energy })
    }
    /// A root of `(H⁻¹_SS)⁻¹` for a channel's columns, and those of the weight times it.
    fn block(&self, c: usize) -> Option<(Mat, Mat)> {
        let s = &self.columns[c];
        let a = Mat::from_fn(s.len(), s.len(), |i, j| self.inverse.at(s[i], s[j]));
        let root = a.cholesky()?.lower_inverse();
        Some((self.w.columns(s).times(&root.transposed()), root))
    }
    /// What removing a channel costs, in units of all outputs.
    fn loss(&self, c: usize) -> f64 {
        self.block(c).map_or(f64::INFINITY, |(w, _)| w.squared_norm() / self.energy)
    }
    fn remove(&mut self, c: usize) {
        let Some((w, root)) = self.block(c) else { return };
        let s = &self.columns[c];
        let rows = Mat::from_fn(s.len(), self.inverse.cols, |i, j| self.inverse.at(s[i], j));
        let turned = root.times(&rows);
        self.w = self.w.minus(&w.times(&turned));
        self.inverse = self.inverse.minus(&turned.transposed().times(&turned));
        // What went stays away, whatever rounding leaves of it.
        for &j in s {
            (0..self.w.rows).for_each(|i| self.w.row_mut(i)[j] = 0.0);
            for k in 0..self.inverse.cols {
                self.inverse.row_mut(j)[k] = 0.0;
                self.inverse.row_mut(k)[j] = 0.0;
            }
        }
    }
}

/// For each channel how soon it goes, of those that may, until so many have; infinity for those that stay. `None` where a problem has no answer.
pub fn eliminate(
    readings: &[Reading],
    channels: usize,
    free: &[usize],
    count: usize,
    damping: f64,
) -> Option<Vec<f64>> {
    let mut states = readings.iter().map(|r| State::new(r, channels, damping)).collect::<Option<Vec<_>>>()?;
    let mut out = vec![f64::INFINITY; channels];
    let mut left = free.to_vec();
    for step in 0..count.min(free.len()) {
        let loss = |c: usize| states.iter().map(|s| s.loss(c)).sum::<f64>();
        let costs: Vec<f64> = left.iter().map(|&c| loss(c)).collect();
        let at = (0..left.len()).min_by(|&a, &b| costs[a].total_cmp(&costs[b]))?;
        let c = left.remove(at);
        states.iter_mut().for_each(|s| s.remove(c));
        out[c] = step as f64;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::super::predict::refit;
    use super::super::problems::normal;
    use super::*;
    use crate::gram::Gram;
    use proptest::prelude::*;
    use tersor_ir::constant::SplitMix;

    fn gram(x: &Mat) -> Gram {
        let mut g = Gram::new(x.cols);
        g.add(&x.to_f32());
        g
    }

    /// The squared error of the best weight over the columns of kept channels.
    fn error(w: &Mat, x: &Mat, g: &Gram, channel: &[usize], gone: &[usize]) -> f64 {
        let kept: Vec<usize> = (0..x.cols).filter(|&j| !gone.contains(&channel[j])).collect();
        let best = refit(w, &Inputs { gram: g, shifts: false }, &kept, 1e-9).unwrap();
        x.times(&w.transposed()).minus(&x.columns(&kept).times(&best.w.transposed())).squared_norm()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_first_to_go_is_the_one_that_least_squares_misses_least(seed in 0u64..1 << 40, taps in 1usize..4, outs in 1usize..5) {
            let mut s = SplitMix(seed);
            let n = 5 * taps;
            let x = normal(60, n, &mut s).times(&normal(n, n, &mut s));
            let w = normal(outs, n, &mut s);
            let channel: Vec<usize> = (0..n).map(|j| j / taps).collect();
            let g = gram(&x);
            let reading = Reading { w: &w, inputs: Inputs { gram: &g, shifts: false }, channel: &channel };
            let order = eliminate(&[reading], 5, &[0, 1, 2, 3, 4], 1, 1e-9).unwrap();
            let first = order.iter().position(|&o| o == 0.0).unwrap();
            let lost = |c: usize| error(&w, &x, &g, &channel, &[c]);
            let least = (0..5).map(lost).fold(f64::INFINITY, f64::min);
            prop_assert!(lost(first) <= least * (1.0 + 1e-5) + 1e-9);
        }
    }

    #[test]
    fn copies_go_first_and_it_beats_scores_of_single_channels() {
        let (mut by_order, mut by_score) = (vec![], vec![]);
        for seed in 1..6 {
            let mut s = SplitMix(seed);
            let mixed = normal(400, 6, &mut s).times(&normal(6, 24, &mut s));
            let noise = normal(400, 24, &mut s);
            let mut x = Mat::from_fn(400, 24, |i, j| mixed.at(i, j) + 0.3 * noise.at(i, j));
            for i in 0..400 {
                x.row_mut(i)[7] = x.at(i, 3);
            }
            let (w, g) = (normal(16, 24, &mut s), gram(&x));
            let channel: Vec<usize> = (0..24).collect();
            let reading = Reading { w: &w, inputs: Inputs { gram: &g, shifts: false }, channel: &channel };
            let order = eliminate(&[reading], 24, &channel, 8, 1e-6).unwrap();
            assert!(order[3] == 0.0 || order[7] == 0.0, "{order:?}");
            let gone: Vec<usize> = (0..24).filter(|&c| order[c].is_finite()).collect();
            assert_eq!(gone.len(), 8);
            let score = |c: usize| g.sum[c * 24 + c] * (0..16).map(|i| w.at(i, c).powi(2)).sum::<f64>();
            let mut ranked = channel.clone();
            ranked.sort_by(|&a, &b| score(a).total_cmp(&score(b)));
            by_order.push(error(&w, &x, &g, &channel, &gone));
            by_score.push(error(&w, &x, &g, &channel, &ranked[..8]));
        }
        let sum = |v: &[f64]| v.iter().sum::<f64>();
        assert!(sum(&by_order) < 0.9 * sum(&by_score), "{by_order:?} {by_score:?}");
    }
}
