//! Ranges for static codes, from what was seen.

use super::ValueStatistics;
use std::ops::Range;

/// Codes that a range is divided into.
const LEVELS: usize = 256;
/// Shares of the whole range that estimators that search try: from all of it down to a tenth.
const SHARES: Range<u32> = 8..81;

/// How a range is chosen.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Estimator {
    /// All values seen.
    MinMax,
    /// All but so many percent at each end.
    Percentile(f64),
    /// The least squared error of 256 levels.
    Mse,
    /// The least Kullback-Leibler divergence of 256 levels from what was seen (Migacz, 8-bit inference with TensorRT, 2017).
    Entropy,
}

impl ValueStatistics {
    /// The range that an estimator gives; contains 0. `None` when nothing finite was seen.
    pub fn range(&self, how: Estimator) -> Option<(f64, f64)> {
        if self.count == 0 {
            return None;
        }
        let (lo, hi) = (self.min.min(0.0), self.max.max(0.0));
        let least = |cost: &dyn Fn(f64, f64) -> f64| {
            let shares = SHARES.rev().map(|i| f64::from(i) / f64::from(SHARES.end - 1));
            let best = shares.map(|f| (cost(lo * f, hi * f), f)).min_by(|a, b| a.0.total_cmp(&b.0));
            let share = best.map_or(1.0, |b| b.1);
            (lo * share, hi * share)
        };
        Some(match how {
            Estimator::MinMax => (lo, hi),
            Estimator::Percentile(p) => {
                let tail = ((1.0 - p / 100.0) * self.count as f64).floor() as u64;
                let (mut below, mut above) = (0, 0);
                let h = &self.histogram;
                let first = h.bins().iter().position(|n| {
                    below += n;
                    below > tail
                });
                let last = h.bins().iter().rposition(|n| {
                    above += n;
                    above > tail
                });
                let from = first.map_or(lo, |b| h.edge(b));
                let to = last.map_or(hi, |b| h.edge(b + 1));
                (from.clamp(lo, 0.0), to.clamp(0.0, hi))
            }
            Estimator::Mse => least(&|lo, hi| self.squared_error(lo, hi)),
            Estimator::Entropy => least(&|lo, hi| self.divergence(lo, hi)),
        })
    }
    /// The middle of a bin, as far as values were seen there.
    fn middle(&self, bin: usize) -> f64 {
        let h = &self.histogram;
        ((h.edge(bin) + h.edge(bin + 1)) / 2.0).clamp(self.min, self.max)
    }
    /// Squared error of rounding to 256 levels over a range, values at the middle of their bins.
    pub(super) fn squared_error(&self, lo: f64, hi: f64) -> f64 {
        let top = (LEVELS - 1) as f64;
        let step = ((hi - lo) / top).max(f64::MIN_POSITIVE);
        let one = |(i, n): (usize, &u64)| {
            let v = self.middle(i);
            let r = ((v - lo) / step).round().clamp(0.0, top) * step + lo;
            *n as f64 * (v - r) * (v - r)
        };
        self.histogram.bins().iter().enumerate().filter(|(_, n)| **n > 0).map(one).sum()
    }
    /// `KL(p ‖ q)`: `p` is what was seen, clipped to the range; `q` the same in 256 levels, each spread evenly over its bins that are not empty,
    /// without the weight of what was clipped. Infinite where the range has too few bins to tell.
    pub(super) fn divergence(&self, lo: f64, hi: f64) -> f64 {
        let bins = self.histogram.bins();
        let inside: Vec<usize> = (0..bins.len()).filter(|&i| (lo..=hi).contains(&self.middle(i))).collect();
        let (Some(&first), Some(&last)) = (inside.first(), inside.last()) else { return f64::INFINITY };
        if inside.len() < LEVELS {
            return f64::INFINITY;
        }
        let mut p: Vec<f64> = bins[first..=last].iter().map(|n| *n as f64).collect();
        let mut q = vec![0.0; p.len()];
        for level in 0..LEVELS {
            let part = level * p.len() / LEVELS..(level + 1) * p.len() / LEVELS;
            let filled = p[part.clone()].iter().filter(|n| **n > 0.0).count();
            let each = p[part.clone()].iter().sum::<f64>() / filled.max(1) as f64;
            q[part.clone()].iter_mut().zip(&p[part]).filter(|(_, n)| **n > 0.0).for_each(|(q, _)| *q = each);
        }
        let sum = |n: &[u64]| n.iter().sum::<u64>() as f64;
        p[0] += sum(&bins[..first]);
        *p.last_mut().expect("not empty") += sum(&bins[last + 1..]);
        let (all_p, all_q) = (p.iter().sum::<f64>(), q.iter().sum::<f64>().max(1.0));
        /// Stands for a probability of 0 where something was clipped to.
        const LEAST: f64 = 1e-9;
        let one = |(p, q): (&f64, &f64)| p / all_p * ((p / all_p) / (q / all_q).max(LEAST)).ln();
        p.iter().zip(&q).filter(|(p, _)| **p > 0.0).map(one).sum()
    }
}
