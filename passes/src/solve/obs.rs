//! The sweep of the optimal brain surgeon over columns: each is rounded or pruned in turn, and what that does to the layer's outputs is made good in the columns
//! after it. GPTQ (Frantar et al., 2022) is the sweep that rounds, SparseGPT (Frantar and Alistarh, 2023) the one that prunes.
//!
//! With `H⁻¹ = Uᵀ U`, `U` upper triangular, changing column `j` by `e U_jj` moves every later column `k` by `e U_jk`, and costs `e²` in units of `D H Dᵀ`:
//! the losses of a row add up to its error exactly.

use super::mask::{Pattern, keep_of};
use super::{Codec, Mat, by_blocks};
use crate::gram::Gram;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// Columns between two updates of all that follow.
const BLOCK: usize = 128;
/// Largest damping that is tried, times the mean of the diagonal.
const MOST_DAMPING: f64 = 100.0;

/// The order of a sweep.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// As the columns lie.
    Natural,
    /// Inputs of the largest energy first.
    Activity,
}

/// The factor that a sweep needs; one serves every width and pattern.
#[derive(Clone, Debug)]
pub struct Factor {
    /// Columns in the order of the sweep.
    pub order: Vec<usize>,
    /// `U` in that order.
    pub upper: Mat,
    /// Columns, in the weight's order, whose input was always 0.
    pub dead: Vec<bool>,
    /// The damping that was needed.
    pub damping: f64,
}

/// What a sweep gives, in the weight's order.
#[derive(Clone, PartialEq, Debug)]
pub struct Swept {
    /// The new weight: values of the codec, or 0 where pruned.
    pub w: Mat,
    /// Elements that are not pruned.
    pub keep: Vec<bool>,
    /// `(w - w') H (w - w')ᵀ` of each row.
    pub loss: Vec<f64>,
}

/// `U`, upper triangular with `H⁻¹ = Uᵀ U`; `None` when `h` is not positive definite.
pub fn inverse_factor(h: &Mat) -> Option<Mat> {
    let n = h.rows;
    let back = |m: &Mat| Mat::from_fn(n, n, |i, j| m.at(n - 1 - i, n - 1 - j));
    Some(back(&back(h).cholesky()?.lower_inverse()))
}

impl Factor {
    /// Factors the Gram matrix, damped by `damping` times its mean diagonal, and by ten times as much again while that does not do. `None` when nothing does.
    pub fn new(gram: &Gram, damping: f64, order: Order) -> Option<Factor> {
        let diagonal = gram.diagonal();
        let mut columns: Vec<usize> = (0..gram.dim).collect();
        if order == Order::Activity {
            columns.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
        }
        let gram = gram.part(&columns);
        let dead = diagonal.iter().map(|d| *d == 0.0).collect();
        let mut damping = damping.max(1e-12);
        loop {
            if let Some(upper) = inverse_factor(&gram.hessian(damping)) {
                return Some(Factor { order: columns, upper, dead, damping });
            }
            damping *= 10.0;
            if damping > MOST_DAMPING {
                return None;
            }
        }
    }

    /// Sweeps a weight: prunes by `pattern`, and rounds what stays by `codec`.
    pub fn sweep(&self, w: &Mat, codec: Option<&dyn Codec>, pattern: Option<&Pattern>) -> Swept {
        let n = w.cols;
        let alive = |c: usize| if self.dead[c] { 0.0 } else { 1.0 };
        let mut work = Mat::from_fn(w.rows, n, |i, j| w.at(i, self.order[j]) * alive(self.order[j]));
        let mut keep = vec![true; w.rows * n];
        // Each row carries its loss behind its columns, so that one thread writes both.
        let mut rows: Vec<Row> = work
            .data
            .chunks_mut(n.max(1))
            .zip(keep.chunks_mut(n.max(1)))
            .map(|(w, keep)| Row { w, keep, loss: 0.0 })
            .collect();
        // A group of a pattern does not straddle blocks.
        let unit = pattern.map_or(1, Pattern::unit);
        let width = BLOCK.div_ceil(unit) * unit;
        for start in (0..n).step_by(width.max(1)) {
            let end = (start + width).min(n);
            if let Some(p) = pattern.filter(|p| !p.is_local()) {
                let scores = Mat::from_fn(rows.len(), end - start, |i, j| self.score(rows[i].w, start + j));
                let chosen = keep_of(&scores, p, false);
                rows.iter_mut()
                    .zip(chosen.chunks(end - start))
                    .for_each(|(r, k)| r.keep[start..end].copy_from_slice(k));
            }
            by_blocks(&mut rows, 1, |first, rows| self.block(first, rows, start..end, codec, pattern));
        }
        let loss = rows.iter().map(|r| r.loss).collect();
        let mut place = vec![0; n];
        self.order.iter().enumerate().for_each(|(j, &c)| place[c] = j);
        let keep = (0..w.rows * n).map(|at| keep[at / n * n + place[at % n]]).collect();
        Swept { w: work.columns(&place), keep, loss }
    }

    /// What pruning the element now would cost, in units of `D H Dᵀ`.
    fn score(&self, row: &[f64], j: usize) -> f64 {
        (row[j] / self.upper.at(j, j)).powi(2)
    }

    /// Sweeps some columns of some rows, and updates all columns after them.
    fn block(
        &self,
        first: usize,
        rows: &mut [Row],
        columns: std::ops::Range<usize>,
        codec: Option<&dyn Codec>,
        pattern: Option<&Pattern>,
    ) {
        let (start, end, n) = (columns.start, columns.end, self.order.len());
        let mut errors = vec![0.0; rows.len() * (end - start)];
        for (i, (row, errors)) in rows.iter_mut().zip(errors.chunks_mut(end - start)).enumerate() {
            for j in columns.clone() {
                if let Some(p) = pattern.filter(|p| p.is_local() && (j - start) % p.unit() == 0) {
                    let group = j..(j + p.unit()).min(end);
                    let scores = Mat::from_fn(1, group.len(), |_, k| self.score(row.w, j + k));
                    row.keep[group].copy_from_slice(&keep_of(&scores, p, false));
                }
                let column = self.order[j];
                let old = row.w[j];
                let new = match codec {
                    _ if !row.keep[j] => 0.0,
                    Some(c) => c.round(first + i, column, old),
                    None => old,
                };
                let u = self.upper.row(j);
                let e = (old - new) / u[j];
                row.w[j] = new;
                row.loss += e * e;
                errors[j - start] = e;
                row.w[j + 1..end].iter_mut().zip(&u[j + 1..end]).for_each(|(w, u)| *w -= e * u);
            }
        }
        if end == n {
            return;
        }
        let e = MatRef::from_row_major_slice(&errors, rows.len(), end - start);
        let u = self.upper.view().submatrix(start, end, end - start, n - end);
        let mut change = vec![0.0; rows.len() * (n - end)];
        let out = MatMut::from_row_major_slice_mut(&mut change, rows.len(), n - end);
        matmul(out, Accum::Replace, e, u, 1.0, Par::Seq);
        for (row, change) in rows.iter_mut().zip(change.chunks(n - end)) {
            row.w[end..].iter_mut().zip(change).for_each(|(w, c)| *w -= c);
        }
    }
}

struct Row<'a> {
    w: &'a mut [f64],
    keep: &'a mut [bool],
    loss: f64,
}

#[cfg(test)]
mod tests {
    use super::super::grid::{Affine, Grid, Range, ScaleType};
    use super::super::mask::{keep_of, masked};
    use super::super::problems::{Kind, Problem, assert_near, gram, mean, normal};
    use super::*;
    use proptest::prelude::*;
    use tersor_ir::constant::SplitMix;

    fn affine(w: &Mat, bits: u32, group: usize) -> Affine {
        Affine::fit(w, Grid { bits, group, symmetric: false, scales: ScaleType::F32 }, Range::Full, None)
    }
    fn gptq(p: &Problem, bits: u32, group: usize, order: Order) -> Mat {
        Factor::new(&p.gram, 0.01, order).unwrap().sweep(&p.w, Some(&affine(&p.w, bits, group)), None).w
    }
    fn rtn(p: &Problem, bits: u32, group: usize) -> f64 {
        p.error(&affine(&p.w, bits, group).rounded(&p.w))
    }
    fn sparsegpt(p: &Problem, pattern: Pattern) -> Swept {
        Factor::new(&p.gram, 0.01, Order::Natural).unwrap().sweep(&p.w, None, Some(&pattern))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// The identity that every sweep must keep, on odd sizes, few rows, dead columns, with and without rounding and pruning.
        #[test]
        fn losses_add_up_to_the_damped_error(
            seed in 1u64..1 << 40, inputs in 1usize..300, rows in 1usize..200, how in 0usize..5, active in any::<bool>(), dead in 0usize..3,
        ) {
            let mut p = Problem::sized(Kind::Iso, seed, 5, inputs, rows);
            let alive: Vec<f64> = (0..inputs).map(|j| if j < dead { 0.0 } else { 1.0 + j as f64 % 7.0 }).collect();
            p.x = p.x.scale_columns(&alive);
            p.gram = gram(&p.x);
            prop_assume!(p.gram.diagonal().iter().any(|d| *d > 0.0));
            let order = if active { Order::Activity } else { Order::Natural };
            let factor = Factor::new(&p.gram, 0.01, order).unwrap();
            let codec = affine(&p.w, 3, 16);
            let (codec, pattern): (Option<&dyn Codec>, _) = match how {
                0 => (Some(&codec), None),
                1 => (None, Some(Pattern::Share(0.5))),
                2 => (Some(&codec), Some(Pattern::Of { keep: 2, of: 4 })),
                3 => (Some(&codec), Some(Pattern::Runs { width: 4, share: 0.5 })),
                _ => (None, None),
            };
            let s = factor.sweep(&p.w, codec, pattern.as_ref());
            let start = Mat::from_fn(5, inputs, |i, j| if factor.dead[j] { 0.0 } else { p.w.at(i, j) });
            let d = start.minus(&s.w);
            let product = d.times(&p.gram.hessian(factor.damping));
            for i in 0..5 {
                let error: f64 = d.row(i).iter().zip(product.row(i)).map(|(a, b)| a * b).sum();
                prop_assert!((error - s.loss[i]).abs() <= 1e-9 * error.max(1e-12), "{error} {}", s.loss[i]);
            }
            if let Some(c) = codec {
                prop_assert_eq!(&masked(&c.rounded(&s.w), &s.keep), &s.w);
            }
            if how == 4 {
                prop_assert_eq!(&s.w, &start);
            }
            if let Some(Pattern::Of { .. }) = pattern && !active {
                prop_assert!(s.keep.chunks(inputs).all(|r| r.chunks(4).all(|g| g.iter().filter(|k| **k).count() == g.len().min(2))));
            }
        }
    }

    #[test]
    fn without_correlation_there_is_nothing_to_make_good() {
        let w = normal(6, 200, &mut SplitMix(3));
        let mut diagonal = gram(&Mat::diagonal(&(1..=200).map(f64::from).collect::<Vec<_>>()));
        diagonal.rows = 1;
        let factor = Factor::new(&diagonal, 0.01, Order::Activity).unwrap();
        let codec = affine(&w, 3, 32);
        assert_eq!(factor.sweep(&w, Some(&codec), None).w, codec.rounded(&w));
        let (factor, pattern) = (Factor::new(&diagonal, 0.0, Order::Natural).unwrap(), Pattern::Of { keep: 2, of: 4 });
        let keep = keep_of(&super::super::mask::wanda(&w, &diagonal), &pattern, true);
        assert_eq!(factor.sweep(&w, None, Some(&pattern)).w, masked(&w, &keep));
    }

    #[test]
    fn the_factor_inverts_and_the_sweep_is_ldlq_backwards() {
        let p = Problem::sized(Kind::S1, 5, 8, 64, 200);
        let h = p.gram.hessian(0.01);
        let u = inverse_factor(&h).unwrap();
        let one = u.transposed().times(&u).times(&h);
        assert!(one.minus(&Mat::diagonal(&[1.0; 64])).squared_norm() < 1e-16);
        // Rounds from the last column on, with plain Cholesky of the reversed matrix.
        let codec = affine(&p.w, 3, 16);
        let l = Mat::from_fn(64, 64, |i, j| h.at(63 - i, 63 - j)).cholesky().unwrap();
        let swept = Factor::new(&p.gram, 0.01, Order::Natural).unwrap().sweep(&p.w, Some(&codec), None).w;
        for row in 0..8 {
            let mut q = [0.0; 64];
            for j in 0..64 {
                let i = 63 - j;
                let back: f64 = (i + 1..64).map(|k| (p.w.at(row, 63 - k) - q[63 - k]) * l.at(k, i) / l.at(i, i)).sum();
                q[j] = codec.round(row, j, p.w.at(row, j) + back);
            }
            assert_eq!(swept.row(row), q);
        }
    }

    #[test]
    fn rounding_errors_are_the_published_ones() {
        let ratio = |kind, order| mean(kind, |p| p.error(&gptq(p, 3, 64, order)) / rtn(p, 3, 64));
        assert_near("iso", ratio(Kind::Iso, Order::Natural), 0.94);
        assert_near("s1", ratio(Kind::S1, Order::Natural), 0.13);
        assert_near("s2", ratio(Kind::S2, Order::Natural), 0.17);
        assert_near("s2, active first", ratio(Kind::S2, Order::Activity), 0.09);
        assert!(
            mean(Kind::S1, |p| p.error(&gptq(p, 3, 64, Order::Activity)))
                < mean(Kind::S1, |p| p.error(&gptq(p, 3, 64, Order::Natural)))
        );
    }

    #[test]
    fn few_rows_generalize_worse() {
        let p = Problem::new(Kind::S1, 1);
        let held_out = Problem {
            w: p.w.clone(),
            x: p.x.clone(),
            gram: gram(&Mat::from_fn(1024, 256, |i, j| p.x.at(1024 + i, j))),
        };
        let errors: Vec<f64> = [64, 128, 256, 512, 1024]
            .map(|n| {
                let part =
                    Problem { w: p.w.clone(), x: p.x.clone(), gram: gram(&Mat::from_fn(n, 256, |i, j| p.x.at(i, j))) };
                held_out.error(&gptq(&part, 3, 64, Order::Natural))
            })
            .to_vec();
        assert!(errors.is_sorted_by(|a, b| a > b), "{errors:?}");
        for (found, expected) in errors.into_iter().zip([0.0110, 0.0090, 0.0071, 0.0058]) {
            assert_near("few rows", found, expected);
        }
        assert_near("rtn", rtn(&held_out, 3, 64), 0.0377);
    }

    #[test]
    fn active_first_is_best_or_equal_in_every_cell() {
        for (kind, bits) in [Kind::Iso, Kind::S1, Kind::S2].into_iter().flat_map(|k| [2, 3, 4].map(|b| (k, b))) {
            let of = |order| mean(kind, |p| p.error(&gptq(p, bits, 64, order)));
            let (active, natural) = (of(Order::Activity), of(Order::Natural));
            assert!(
                active <= 1.02 * natural && natural < mean(kind, |p| rtn(p, bits, 64)),
                "{kind:?} {bits}: {active} {natural}"
            );
        }
    }

    #[test]
    fn a_little_damping_generalizes_best() {
        let held = |damping| {
            let one = |seed| {
                let p = Problem::sized(Kind::S2, seed, 128, 256, 2560);
                let part =
                    |from, n| gram(&Mat { rows: n, cols: 256, data: p.x.data[from * 256..(from + n) * 256].to_vec() });
                let factor = Factor::new(&part(0, 512), damping, Order::Natural).unwrap();
                let w = factor.sweep(&p.w, Some(&affine(&p.w, 3, 64)), None).w;
                crate::solve::layer_error(&p.w, &w, &part(512, 2048))
            };
            (2..=5).map(one).sum::<f64>() / 4.0
        };
        let (least, little, much) = (held(1e-6), held(0.01), held(0.1));
        assert!(little < least && little < much, "{least} {little} {much}");
    }

    /// Optimal brain quantization: each row rounds, one after another, the weight that then costs least.
    fn obq(w: &Mat, h: &Mat, codec: &dyn Codec) -> Mat {
        let l = h.cholesky().unwrap().lower_inverse();
        let inverse = l.transposed().times(&l);
        let mut out = w.clone();
        for row in 0..w.rows {
            let mut inv = inverse.clone();
            let mut left: Vec<usize> = (0..w.cols).collect();
            while !left.is_empty() {
                let v = out.row_mut(row);
                let cost = |&p: &usize| {
                    let d = v[p] - codec.round(row, p, v[p]);
                    d * d / inv.at(p, p)
                };
                let at = (0..left.len()).min_by(|&a, &b| cost(&left[a]).total_cmp(&cost(&left[b]))).unwrap();
                let p = left.remove(at);
                let q = codec.round(row, p, v[p]);
                let e = (v[p] - q) / inv.at(p, p);
                left.iter().for_each(|&k| v[k] -= e * inv.at(p, k));
                v[p] = q;
                let column: Vec<f64> = (0..w.cols).map(|k| inv.at(p, k)).collect();
                for &a in &left {
                    for &b in &left {
                        inv.data[a * w.cols + b] -= column[a] * column[b] / column[p];
                    }
                }
            }
        }
        out
    }

    #[test]
    fn active_first_is_about_as_good_as_the_exact_order() {
        let p = Problem::sized(Kind::S1, 2, 24, 96, 2048);
        let codec = affine(&p.w, 3, 0);
        let exact = p.error(&obq(&p.w, &p.gram.hessian(0.01), &codec));
        let (natural, active) = (p.error(&gptq(&p, 3, 0, Order::Natural)), p.error(&gptq(&p, 3, 0, Order::Activity)));
        assert_near("rtn", rtn(&p, 3, 0), 0.0431);
        assert_near("gptq", natural, 0.0093);
        assert_near("active first", active, 0.0076);
        assert_near("obq", exact, 0.0076);
    }

    #[test]
    fn pruning_errors_are_the_published_ones() {
        let of = |kind, pattern| mean(kind, |p| p.error(&sparsegpt(p, pattern).w));
        for (share, error) in [(0.5, 0.012), (0.6, 0.025), (0.7, 0.051)] {
            assert_near("sparsegpt", of(Kind::S1, Pattern::Share(share)), error);
        }
        let two = Pattern::Of { keep: 2, of: 4 };
        assert_near("sparsegpt 2:4", of(Kind::S1, two), 0.019);
        assert_near("sparsegpt 2:4", of(Kind::S2, two), 0.0023);
        let s = sparsegpt(&Problem::new(Kind::S1, 1), Pattern::Share(0.5));
        assert_eq!(s.keep.iter().filter(|k| !**k).count(), s.keep.len() / 2);
    }

    #[test]
    fn a_singular_matrix_is_damped_until_it_factors() {
        let p = Problem::sized(Kind::S3, 4, 4, 32, 3);
        assert!(
            Factor::new(&p.gram, 0.0, Order::Natural)
                .unwrap()
                .sweep(&p.w, None, Some(&Pattern::Share(0.5)))
                .w
                .is_finite()
        );
    }
}
