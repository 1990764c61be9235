//! Gram matrices: `Σ x xᵀ` over the rows that enter a product, and `Σ x`: all that second-order methods need to know of its inputs.
//!
//! Sums are kept in `f64`. Gram matrices of parts of the data add up to that of the whole.

use crate::solve::Mat;
use faer::linalg::matmul::triangular::{BlockStructure, matmul};
use faer::{Accum, MatMut, MatRef, Par};

/// `Σ x xᵀ` over rows `x`.
#[derive(Clone, PartialEq, Debug)]
pub struct Gram {
    /// Rows seen.
    pub rows: u64,
    /// Elements of a row.
    pub dim: usize,
    /// The sum, `dim x dim`; symmetric.
    pub sum: Vec<f64>,
    /// The sum of the rows themselves.
    pub total: Vec<f64>,
}

/// Rows added at a time.
const BLOCK: usize = 256;
/// Rows of the sum that one thread adds to.
const BAND: usize = 192;

/// Some rows of a sum, up to the diagonal. Products are summed in `f32` over [`BLOCK`] rows, and in `f64` from there.
pub struct Band<'a> {
    first: usize,
    dim: usize,
    sum: &'a mut [f64],
    total: &'a mut [f64],
    part: Vec<f32>,
}

impl Band<'_> {
    /// The elements of a row that it needs: the first so many.
    pub fn columns(&self) -> usize {
        (self.first + BAND).min(self.dim)
    }
    /// Adds finite rows, `stride` elements apart, of which it needs [`Band::columns`].
    pub fn add(&mut self, x: &[f32], stride: usize) {
        let columns = self.columns();
        let height = columns - self.first;
        for block in x.chunks(BLOCK * stride) {
            let rows = block.len() / stride;
            let x = MatRef::from_row_major_slice_with_stride(block, rows, columns, stride);
            self.part.resize(height * columns, 0.0);
            let part = MatMut::from_row_major_slice_mut(&mut self.part, height, columns);
            let own = x.subcols(self.first, height);
            faer::linalg::matmul::matmul(part, Accum::Replace, own.transpose(), x, 1.0, Par::Seq);
            for (sum, part) in self.sum.chunks_exact_mut(self.dim).zip(self.part.chunks_exact(columns)) {
                sum.iter_mut().zip(part).for_each(|(s, p)| *s += f64::from(*p));
            }
            for row in block.chunks_exact(stride) {
                add(self.total, &row[self.first..columns]);
            }
        }
    }
}

/// Adds a row.
fn add(total: &mut [f64], row: &[f32]) {
    total.iter_mut().zip(row).for_each(|(t, x)| *t += f64::from(*x));
}

impl Gram {
    /// Of no rows.
    pub fn new(dim: usize) -> Gram {
        Gram { rows: 0, dim, sum: vec![0.0; dim * dim], total: vec![0.0; dim] }
    }
    /// Adds rows, one after another in `x`. A row with an element that is NaN or infinite is left out.
    pub fn add(&mut self, x: &[f32]) {
        let rows: Vec<&[f32]> =
            x.chunks_exact(self.dim.max(1)).filter(|row| row.iter().all(|v| v.is_finite())).collect();
        rows.iter().for_each(|row| add(&mut self.total, row));
        for block in rows.chunks(BLOCK) {
            let wide: Vec<f64> = block.iter().flat_map(|row| row.iter().map(|&v| f64::from(v))).collect();
            let x = MatRef::from_row_major_slice(&wide, block.len(), self.dim);
            let sum = MatMut::from_row_major_slice_mut(&mut self.sum, self.dim, self.dim);
            let (lower, full) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
            matmul(sum, lower, Accum::Add, x.transpose(), full, x, full, 1.0, Par::Seq);
            self.rows += block.len() as u64;
        }
        self.mirror(0);
    }
    /// Parts that can be added to side by side, the largest first; all must see the same rows, in the same order. Only they know the sum until
    /// [`Gram::mirror`] completes it.
    pub fn bands(&mut self) -> Vec<Band<'_>> {
        let dim = self.dim;
        let bands = self.sum.chunks_mut((BAND * dim).max(1)).zip(self.total.chunks_mut(BAND)).enumerate();
        let band = |(i, (sum, total))| Band { first: i * BAND, dim, sum, total, part: vec![] };
        let mut bands: Vec<_> = bands.map(band).collect();
        bands.reverse();
        bands
    }
    /// Completes the sum from its lower triangle, and counts the rows that its bands saw.
    pub fn mirror(&mut self, rows: u64) {
        self.rows += rows;
        for i in 0..self.dim {
            for j in 0..i {
                self.sum[j * self.dim + i] = self.sum[i * self.dim + j];
            }
        }
    }
    /// Adds the rows of another, of as many elements.
    pub fn merge(&mut self, other: &Gram) {
        assert_eq!(self.dim, other.dim, "elements of a row");
        self.rows += other.rows;
        self.sum.iter_mut().zip(&other.sum).for_each(|(a, b)| *a += b);
        self.total.iter_mut().zip(&other.total).for_each(|(a, b)| *a += b);
    }
    /// Bytes of a Gram matrix of rows of `dim` elements.
    pub fn bytes(dim: usize) -> usize {
        dim.saturating_mul(dim).saturating_mul(size_of::<f64>())
    }
    /// Whether there are too few rows to tell all directions apart: fewer than elements of a row.
    pub fn is_short(&self) -> bool {
        self.rows < self.dim as u64
    }
    /// The sum as a matrix.
    pub fn mat(&self) -> Mat {
        Mat { rows: self.dim, cols: self.dim, data: self.sum.clone() }
    }
    /// The mean of each element.
    pub fn mean(&self) -> Vec<f64> {
        self.total.iter().map(|t| t / self.rows.max(1) as f64).collect()
    }
    /// The sum of squares of each element.
    pub fn diagonal(&self) -> Vec<f64> {
        (0..self.dim).map(|i| self.sum[i * self.dim + i]).collect()
    }
    /// The Gram matrix of rows whose elements are divided by `t`: `T⁻¹ G T⁻¹`.
    pub fn divided(&self, t: &[f64]) -> Gram {
        let mut out = self.clone();
        out.sum.iter_mut().enumerate().for_each(|(at, v)| *v /= t[at / self.dim] * t[at % self.dim]);
        out.total.iter_mut().zip(t).for_each(|(v, t)| *v /= t);
        out
    }
    /// The part over these elements, in this order.
    pub fn part(&self, order: &[usize]) -> Gram {
        let sum = order.iter().flat_map(|&i| order.iter().map(move |&j| self.sum[i * self.dim + j])).collect();
        let total = order.iter().map(|&i| self.total[i]).collect();
        Gram { rows: self.rows, dim: order.len(), sum, total }
    }
    /// `H = G / rows + λ I` with `λ = damping * mean(diag(G / rows))`. The row and column of an element that was always 0 are those of the identity.
    pub fn hessian(&self, damping: f64) -> Mat {
        let n = (self.rows as f64).max(1.0);
        let mut h = self.mat();
        h.data.iter_mut().for_each(|v| *v /= n);
        let diagonal: Vec<f64> = (0..self.dim).map(|i| h.at(i, i)).collect();
        let extra = damping * diagonal.iter().sum::<f64>() / self.dim.max(1) as f64;
        for (i, d) in diagonal.iter().enumerate() {
            h.data[i * self.dim + i] = if *d == 0.0 { 1.0 } else { d + extra };
        }
        h
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tersor_ir::DType;
    use tersor_ir::testing::Gen;
    use tersor_ir::types::Type;

    fn rows(seed: u64, n: usize, dim: usize) -> Vec<f32> {
        Gen::new(seed).tensor(&Type::new(DType::F32, [n, dim])).to_f32()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn sums_are_those_of_plain_loops_and_parts_add_up(seed in 1u64..1 << 40, n in 0usize..600, dim in 1usize..20, cut in 0usize..600) {
            let x = rows(seed, n, dim);
            let mut whole = Gram::new(dim);
            whole.add(&x);
            for i in 0..dim {
                for j in 0..dim {
                    let plain: f64 = (0..n).map(|r| f64::from(x[r * dim + i]) * f64::from(x[r * dim + j])).sum();
                    prop_assert!((plain - whole.sum[i * dim + j]).abs() <= 1e-12 * n as f64);
                    prop_assert_eq!(whole.sum[i * dim + j], whole.sum[j * dim + i]);
                }
                let mean = (0..n).map(|r| f64::from(x[r * dim + i])).sum::<f64>() / n.max(1) as f64;
                prop_assert_eq!(whole.mean()[i], mean);
            }
            let mut banded = Gram::new(dim);
            banded.bands().iter_mut().for_each(|b| b.add(&x, dim));
            banded.mirror(n as u64);
            prop_assert_eq!(&banded.total, &whole.total);
            prop_assert!(banded.sum.iter().zip(&whole.sum).all(|(a, b)| (a - b).abs() <= 1e-4 * n as f64));
            let (a, b) = x.split_at(cut.min(n) * dim);
            let (mut first, mut second) = (Gram::new(dim), Gram::new(dim));
            first.add(a);
            second.add(b);
            first.merge(&second);
            prop_assert_eq!(first.rows, n as u64);
            prop_assert!(first.total.iter().zip(&whole.total).all(|(a, b)| (a - b).abs() <= 1e-12 * n as f64));
            prop_assert!(first.sum.iter().zip(&whole.sum).all(|(a, b)| (a - b).abs() <= 1e-12 * n as f64));
        }
    }

    #[test]
    fn rows_that_are_not_finite_are_left_out_and_dead_elements_stand_apart() {
        let mut g = Gram::new(2);
        g.add(&[1.0, 0.0, f32::NAN, 1.0, 2.0, 0.0, 1.0, f32::INFINITY]);
        assert_eq!((g.rows, &g.sum[..], &g.total[..]), (2, &[5.0, 0.0, 0.0, 0.0][..], &[3.0, 0.0][..]));
        assert_eq!(g.hessian(0.0).data, [2.5, 0.0, 0.0, 1.0]);
        assert!(!g.is_short());
        let half = g.divided(&[2.0, 1.0]);
        assert_eq!((half.sum[0], half.mean()[0]), (1.25, 0.75));
        assert_eq!((g.part(&[1]).sum, g.part(&[1, 0]).total), (vec![0.0], vec![0.0, 3.0]));
        assert_eq!(Gram::bytes(3), 72);
    }
}
