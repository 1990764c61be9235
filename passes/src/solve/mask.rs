//! Masks: which elements of a weight stay, by scores and a pattern; and the best weights on a mask.

use super::{Mat, by_rows};
use crate::gram::Gram;
use std::fmt;

/// Which elements may go together.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Pattern {
    /// A share of all elements goes.
    Share(f64),
    /// Of every `of` neighbours in a row `keep` stay; of fewer at the end of a row as many.
    Of {
        /// Those that stay.
        keep: usize,
        /// Neighbours.
        of: usize,
    },
    /// A share of all runs of `width` neighbours in a row goes, each whole.
    Runs {
        /// Neighbours.
        width: usize,
        /// The share that goes.
        share: f64,
    },
}

impl Pattern {
    /// Neighbours that are decided together.
    pub fn unit(&self) -> usize {
        match self {
            Pattern::Share(_) => 1,
            Pattern::Of { of, .. } => *of,
            Pattern::Runs { width, .. } => *width,
        }
    }
    /// Whether each group is decided for itself.
    pub fn is_local(&self) -> bool {
        matches!(self, Pattern::Of { .. })
    }
    /// The share of elements that goes, but for ragged ends.
    pub fn sparsity(&self) -> f64 {
        match self {
            Pattern::Share(s) | Pattern::Runs { share: s, .. } => *s,
            Pattern::Of { keep, of } => 1.0 - *keep as f64 / *of as f64,
        }
    }
}

impl fmt::Display for Pattern {
    /// `50%`, `2:4`, `1x4@50%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |s: f64| (s * 1e9).round() / 1e7;
        match self {
            Pattern::Share(s) => write!(f, "{}%", percent(*s)),
            Pattern::Of { keep, of } => write!(f, "{keep}:{of}"),
            Pattern::Runs { width, share } => write!(f, "1x{width}@{}%", percent(*share)),
        }
    }
}

impl std::str::FromStr for Pattern {
    type Err = String;
    fn from_str(text: &str) -> Result<Pattern, String> {
        let wrong = || format!("a pattern such as 50%, 2:4 or 1x4@50%, not `{text}`");
        let share = |t: &str| {
            let percent = t.strip_suffix('%').and_then(|p| p.parse::<f64>().ok());
            let s = percent.map(|p| (p * 1e7).round() / 1e9);
            s.filter(|s| (0.0..1.0).contains(s)).ok_or_else(wrong)
        };
        let count = |t: &str| t.parse::<usize>().ok().filter(|n| (1..=64).contains(n)).ok_or_else(wrong);
        if let Some((keep, of)) = text.split_once(':') {
            let (keep, of) = (count(keep)?, count(of)?);
            return if keep <= of { Ok(Pattern::Of { keep, of }) } else { Err(wrong()) };
        }
        match text.strip_prefix("1x").and_then(|t| t.split_once('@')) {
            Some((width, s)) => Ok(Pattern::Runs { width: count(width)?, share: share(s)? }),
            None => Ok(Pattern::Share(share(text)?)),
        }
    }
}

/// Marks what stays: what has the largest scores, of equals the earlier. Exactly the share that is asked for goes, rounded to whole elements or runs: of each row
/// with `by_row`, else of the matrix.
pub fn keep_of(scores: &Mat, pattern: &Pattern, by_row: bool) -> Vec<bool> {
    let mut keep = vec![true; scores.data.len()];
    // The elements whose scores are added up and that go together, for each unit.
    let (share, unit, span) = match pattern {
        Pattern::Of { keep: n, of } => {
            by_rows(&mut keep, scores.cols, |i, row| {
                for (s, k) in scores.row(i).chunks(*of).zip(row.chunks_mut(*of)) {
                    drop_least(s, s.len().saturating_sub(*n), |at| k[at] = false);
                }
            });
            return keep;
        }
        Pattern::Share(share) => (*share, 1, scores.cols),
        Pattern::Runs { width, share } => (*share, *width, scores.cols.div_ceil(*width)),
    };
    let (rows, cols) = (scores.rows, scores.cols);
    let total: Vec<f64> = (0..rows).flat_map(|i| scores.row(i).chunks(unit).map(|c| c.iter().sum())).collect();
    let mut gone = |first: usize, s: &[f64]| {
        drop_least(s, (share * s.len() as f64).round() as usize, |at| {
            let (row, run) = ((first + at) / span, (first + at) % span);
            keep[row * cols..][run * unit..((run + 1) * unit).min(cols)].fill(false);
        });
    };
    if by_row {
        total.chunks(span.max(1)).enumerate().for_each(|(i, s)| gone(i * span, s));
    } else {
        gone(0, &total);
    }
    keep
}

/// Calls `gone` for the `n` least scores, of equals the later.
fn drop_least(scores: &[f64], n: usize, mut gone: impl FnMut(usize)) {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let before = |&a: &usize, &b: &usize| scores[a].total_cmp(&scores[b]).then(b.cmp(&a));
    if n > 0 && n < order.len() {
        order.select_nth_unstable_by(n - 1, before);
    }
    order.into_iter().take(n).for_each(&mut gone);
}

/// `|w|`: the magnitude score.
pub fn magnitude(w: &Mat) -> Mat {
    Mat { rows: w.rows, cols: w.cols, data: w.data.iter().map(|v| v.abs()).collect() }
}

/// `|w| ‖x‖`: the score of Wanda (Sun et al., 2023), to be compared within rows.
pub fn wanda(w: &Mat, gram: &Gram) -> Mat {
    let norms: Vec<f64> = gram.diagonal().iter().map(|d| d.max(0.0).sqrt()).collect();
    magnitude(w).scale_columns(&norms)
}

/// The weight with 0 where it does not stay.
pub fn masked(w: &Mat, keep: &[bool]) -> Mat {
    let data = w.data.iter().zip(keep).map(|(&v, &k)| if k { v } else { 0.0 }).collect();
    Mat { rows: w.rows, cols: w.cols, data }
}

/// The weight on a mask whose outputs are nearest to those of `w`: `v_K = H_KK⁻¹ (H w)_K` row by row. A row without a solution keeps its elements.
pub fn refit(w: &Mat, keep: &[bool], gram: &Gram, damping: f64) -> Mat {
    let h = gram.hessian(damping);
    let target = w.times(&h);
    let mut out = masked(w, keep);
    by_rows(&mut out.data, w.cols, |i, row| {
        let kept: Vec<usize> = (0..w.cols).filter(|&j| keep[i * w.cols + j]).collect();
        let part = Mat::from_fn(kept.len(), kept.len(), |a, b| h.at(kept[a], kept[b]));
        let Some(l) = part.cholesky() else { return };
        let mut v: Vec<f64> = kept.iter().map(|&j| target.at(i, j)).collect();
        substitute(&l, &mut v);
        if v.iter().all(|v| v.is_finite()) {
            kept.iter().zip(v).for_each(|(&j, v)| row[j] = v);
        }
    });
    out
}

/// Solves `L Lᵀ v = v`.
fn substitute(l: &Mat, v: &mut [f64]) {
    for i in 0..v.len() {
        let dot: f64 = l.row(i)[..i].iter().zip(&v[..i]).map(|(a, b)| a * b).sum();
        v[i] = (v[i] - dot) / l.at(i, i);
    }
    for i in (0..v.len()).rev() {
        v[i] /= l.at(i, i);
        let (before, at) = v.split_at_mut(i);
        before.iter_mut().zip(l.row(i)).for_each(|(x, a)| *x -= a * at[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::obs::{Factor, Order};
    use super::super::problems::{Kind, Problem, assert_near, gram, mean, normal};
    use super::*;
    use proptest::prelude::*;
    use tersor_ir::constant::SplitMix;

    fn magnitude_error(p: &Problem, pattern: Pattern) -> f64 {
        p.error(&masked(&p.w, &keep_of(&magnitude(&p.w), &pattern, false)))
    }
    fn wanda_error(p: &Problem, pattern: Pattern) -> f64 {
        p.error(&masked(&p.w, &keep_of(&wanda(&p.w, &p.gram), &pattern, true)))
    }

    proptest! {
        #[test]
        fn exactly_the_share_goes_and_the_least_scores_go(
            seed in any::<u64>(), rows in 1usize..6, cols in 1usize..40, percent in 0u32..100, by_row in any::<bool>(), ties in any::<bool>(),
        ) {
            let mut scores = magnitude(&normal(rows, cols, &mut SplitMix(seed)));
            if ties {
                scores.data.iter_mut().for_each(|v| *v = v.round());
            }
            let share = f64::from(percent) / 100.0;
            let keep = keep_of(&scores, &Pattern::Share(share), by_row);
            let n = if by_row { cols } else { rows * cols };
            for (k, s) in keep.chunks(n).zip(scores.data.chunks(n)) {
                prop_assert_eq!(k.iter().filter(|k| !**k).count(), (share * n as f64).round() as usize);
                let gone = k.iter().zip(s).filter(|(k, _)| !**k).map(|(_, s)| *s).fold(0.0, f64::max);
                prop_assert!(k.iter().zip(s).all(|(k, s)| !*k || *s >= gone));
            }
            let less = keep_of(&scores, &Pattern::Share(share / 2.0), by_row);
            prop_assert!(keep.iter().zip(&less).all(|(a, b)| !*a || *b), "masks nest");
        }

        #[test]
        fn groups_and_runs_keep_their_shape(seed in any::<u64>(), rows in 1usize..6, cols in 1usize..40, of in 1usize..9, part in 0usize..9) {
            let scores = magnitude(&normal(rows, cols, &mut SplitMix(seed)));
            let n = part.min(of);
            let keep = keep_of(&scores, &Pattern::Of { keep: n.max(1), of }, false);
            for g in keep.chunks(cols).flat_map(|r| r.chunks(of)) {
                prop_assert_eq!(g.iter().filter(|k| **k).count(), g.len().min(n.max(1)));
            }
            let keep = keep_of(&scores, &Pattern::Runs { width: of, share: 0.5 }, false);
            prop_assert!(keep.chunks(cols).flat_map(|r| r.chunks(of)).all(|g| g.iter().all(|k| *k == g[0])));
        }

        #[test]
        fn patterns_print_and_parse(which in 0usize..3, a in 1usize..17, b in 0usize..16, tenths in 0u32..1000) {
            let share = f64::from(tenths) / 1000.0;
            let p = match which {
                0 => Pattern::Share(share),
                1 => Pattern::Of { keep: a, of: a + b },
                _ => Pattern::Runs { width: a, share },
            };
            prop_assert_eq!(p.to_string().parse::<Pattern>(), Ok(p));
        }

        #[test]
        fn wanda_is_magnitude_on_equal_norms_and_knows_scale(seed in any::<u64>(), cols in 4usize..40) {
            let mut g = SplitMix(seed);
            let (w, x) = (normal(4, cols, &mut g), normal(50, cols, &mut g));
            let half = Pattern::Share(0.5);
            let even = gram(&Mat::diagonal(&vec![2.0; cols]));
            prop_assert_eq!(keep_of(&wanda(&w, &even), &half, true), keep_of(&magnitude(&w), &half, true));
            // A diagonal that moves between inputs and weight, and the scale of a row, change nothing. Powers of two keep ties as they are.
            let t: Vec<f64> = (0..cols).map(|j| (j as f64 % 5.0 - 2.0).exp2()).collect();
            let mut moved = w.scale_columns(&t);
            moved.row_mut(1).iter_mut().for_each(|v| *v *= 8.0);
            let back: Vec<f64> = t.iter().map(|t| 1.0 / t).collect();
            let other = wanda(&moved, &gram(&x.scale_columns(&back)));
            prop_assert_eq!(keep_of(&wanda(&w, &gram(&x)), &half, true), keep_of(&other, &half, true));
        }
    }

    #[test]
    fn nonsense_is_no_pattern() {
        for bad in ["", "50", "100%", "-1%", "4:2", "0:4", "2:", "1x4", "1x0@50%", "1x4@x", "NaN%", "2:100"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn layer_errors_are_the_published_ones() {
        let m = |kind, p| mean(kind, |l| magnitude_error(l, p));
        let w = |kind, p| mean(kind, |l| wanda_error(l, p));
        for (share, by_size, by_input) in [(0.5, 0.074, 0.061), (0.6, 0.127, 0.110), (0.7, 0.210, 0.181)] {
            assert_near("magnitude", m(Kind::S1, Pattern::Share(share)), by_size);
            assert_near("wanda", w(Kind::S1, Pattern::Share(share)), by_input);
        }
        let (two, four) = (Pattern::Of { keep: 2, of: 4 }, Pattern::Of { keep: 4, of: 8 });
        assert_near("magnitude 2:4", m(Kind::S1, two), 0.128);
        assert_near("magnitude 4:8", m(Kind::S1, four), 0.104);
        assert_near("wanda 2:4", w(Kind::S1, two), 0.114);
        assert_near("wanda on S2", w(Kind::S2, Pattern::Share(0.5)), 0.0067);
        assert_near("wanda 2:4 on S2", w(Kind::S2, two), 0.0127);
        assert_near("magnitude on S2", m(Kind::S2, Pattern::Share(0.5)), 0.0718);
        let refitted = mean(Kind::S1, |l| {
            let keep = keep_of(&wanda(&l.w, &l.gram), &Pattern::Share(0.5), true);
            l.error(&refit(&l.w, &keep, &l.gram, 0.01))
        });
        assert_near("wanda, refit", refitted, 0.0072);
    }

    #[test]
    fn a_refit_is_the_optimum_on_its_mask() {
        let p = Problem::new(Kind::S1, 3);
        let swept = Factor::new(&p.gram, 0.01, Order::Natural).unwrap().sweep(&p.w, None, Some(&Pattern::Share(0.5)));
        let fitted = refit(&p.w, &swept.keep, &p.gram, 0.01);
        assert_eq!(masked(&fitted, &swept.keep), fitted);
        let slope = fitted.minus(&p.w).times(&p.gram.hessian(0.01));
        let steepest = masked(&slope, &swept.keep).data.iter().fold(0f64, |m, v| m.max(v.abs()));
        assert!(steepest < 1e-9, "{steepest}");
        let (before, after) = (p.error(&swept.w), p.error(&fitted));
        assert!(after < 0.9 * before, "{before} {after}");
        let all = refit(&p.w, &vec![true; p.w.data.len()], &p.gram, 0.01);
        assert!(p.error(&all) < 1e-20);
        assert_eq!(refit(&p.w, &vec![false; p.w.data.len()], &p.gram, 0.01), Mat::zeros(p.w.rows, p.w.cols));
    }
}
