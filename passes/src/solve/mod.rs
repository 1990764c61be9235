//! Numerical solvers behind the compressing passes: pure functions over weights ([`Mat`]: a row for each output channel, a column for each element that is
//! summed over) and [`Gram`] matrices of their inputs.
//!
//! Everything is computed in `f64`. Rows are shared among threads in blocks of fixed size, so that results do not depend on the number of threads.

pub mod eliminate;
pub mod formats;
pub mod grid;
pub mod hadamard;
pub mod hqq;
pub mod lowrank;
pub mod mask;
pub mod mat;
pub mod obs;
pub mod predict;
#[cfg(test)]
pub(crate) mod problems;
pub mod scale;

pub use grid::{Affine, Codec, Grid};
pub use mat::Mat;

use crate::gram::Gram;
use crate::parallel;

/// Rows that one thread takes at a time.
const ROWS: usize = 16;

/// `tr(D G Dᵀ) / tr(W G Wᵀ)` with `D = exact - other`: the squared error of the layer's outputs over the calibration rows, relative to the outputs. 0 when both vanish.
pub fn layer_error(exact: &Mat, other: &Mat, gram: &Gram) -> f64 {
    let energy = |m: &Mat| {
        let product = m.times(&gram.mat());
        m.data.iter().zip(&product.data).map(|(a, b)| a * b).sum::<f64>()
    };
    let (error, all) = (energy(&exact.minus(other)), energy(exact));
    if error == 0.0 { 0.0 } else { error / all }
}

/// Calls `f` for every row of `width` elements with its index, on all processors.
pub fn by_rows<T: Send>(data: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    by_blocks(data, width, |first, rows| {
        rows.chunks_mut(width.max(1)).enumerate().for_each(|(i, row)| f(first + i, row));
    });
}

/// Calls `f` for blocks of a few rows of `width` elements with the index of the first, on all processors. Blocks are the same whatever their number.
pub fn by_blocks<T: Send>(data: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let f = &f;
    let blocks = data.chunks_mut(ROWS * width.max(1)).enumerate();
    let jobs = blocks.map(|(i, block)| Box::new(move || f(i * ROWS, block)) as parallel::Job).collect();
    parallel::run(std::thread::available_parallelism().map_or(1, usize::from), jobs);
}

/// What to add to the layer's outputs so that their mean is that of the exact weight: `(exact - other) mean(x)`.
pub fn bias_correction(exact: &Mat, other: &Mat, mean: &[f64]) -> Vec<f64> {
    let d = exact.minus(other);
    (0..d.rows).map(|i| d.row(i).iter().zip(mean).map(|(d, x)| d * x).sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::problems::{Kind, Problem, assert_near, gram};
    use super::*;
    use proptest::prelude::*;
    use tersor_ir::constant::SplitMix;

    proptest! {
        #[test]
        fn every_row_is_seen_once(rows in 0usize..70, width in 1usize..5) {
            let mut data = vec![0usize; rows * width];
            by_rows(&mut data, width, |i, row| row.iter_mut().for_each(|v| *v += i + 1));
            prop_assert!(data.iter().enumerate().all(|(at, &v)| v == at / width + 1));
        }
    }

    #[test]
    fn a_mean_put_right_halves_the_error_on_inputs_that_have_one() {
        let grid = Grid { bits: 3, group: 64, symmetric: false, scales: grid::ScaleType::F32 };
        let (mut before, mut after) = (0.0, 0.0);
        for seed in 2..=5 {
            let mut p = Problem::new(Kind::S1, seed);
            let mut g = SplitMix(seed + 100);
            let offset: Vec<f64> = (0..p.x.cols).map(|_| g.normal()).collect();
            (0..p.x.rows).for_each(|i| p.x.row_mut(i).iter_mut().zip(&offset).for_each(|(x, o)| *x += o));
            let w = Affine::fit(&p.w, grid, grid::Range::Full, None).rounded(&p.w);
            let means: Vec<f64> = gram(&p.x).total.iter().map(|t| t / p.x.rows as f64).collect();
            let shift = bias_correction(&p.w, &w, &means);
            let (exact, other) = (p.x.times(&p.w.transposed()), p.x.times(&w.transposed()));
            let shifted = Mat::from_fn(other.rows, other.cols, |i, j| other.at(i, j) + shift[j]);
            before += exact.minus(&other).squared_norm() / exact.squared_norm() / 4.0;
            after += exact.minus(&shifted).squared_norm() / exact.squared_norm() / 4.0;
        }
        assert_near("rounded", before, 0.0399);
        assert_near("rounded, mean put right", after, 0.0197);
    }
}
