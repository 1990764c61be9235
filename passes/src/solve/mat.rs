//! A dense matrix, and what of it goes through `faer`.
//!
//! All factorizations run on one thread: their results do not depend on how many there are. Work over rows is shared by [`super::by_rows`].

use faer::linalg::matmul::matmul;
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Accum, MatMut, MatRef, Par, Side};

/// A row-major matrix. A weight has a row for each output channel and a column for each element that a product sums over.
#[derive(Clone, PartialEq, Debug)]
pub struct Mat {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Elements, row after row.
    pub data: Vec<f64>,
}

impl Mat {
    /// Of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Mat {
        Mat { rows, cols, data: vec![0.0; rows * cols] }
    }
    /// From its elements by row and column.
    pub fn from_fn(rows: usize, cols: usize, mut f: impl FnMut(usize, usize) -> f64) -> Mat {
        let mut m = Mat::zeros(rows, cols);
        (0..rows).for_each(|i| (0..cols).for_each(|j| m.data[i * cols + j] = f(i, j)));
        m
    }
    /// From elements in row-major order, as many as `rows * cols`.
    pub fn from_f32(rows: usize, cols: usize, data: &[f32]) -> Mat {
        assert_eq!(rows * cols, data.len(), "element count");
        Mat { rows, cols, data: data.iter().map(|&v| v.into()).collect() }
    }
    /// With this diagonal.
    pub fn diagonal(d: &[f64]) -> Mat {
        Mat::from_fn(d.len(), d.len(), |i, j| if i == j { d[i] } else { 0.0 })
    }
    /// The elements, each rounded to `f32`.
    pub fn to_f32(&self) -> Vec<f32> {
        self.data.iter().map(|&v| v as f32).collect()
    }
    /// A row.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }
    /// A row.
    pub fn row_mut(&mut self, i: usize) -> &mut [f64] {
        &mut self.data[i * self.cols..(i + 1) * self.cols]
    }
    /// The element in a row and column.
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.data[i * self.cols + j]
    }
    /// Whether every element is finite.
    pub fn is_finite(&self) -> bool {
        self.data.iter().all(|v| v.is_finite())
    }
    /// Rows become columns.
    pub fn transposed(&self) -> Mat {
        Mat::from_fn(self.cols, self.rows, |i, j| self.at(j, i))
    }
    /// These columns, in this order.
    pub fn columns(&self, order: &[usize]) -> Mat {
        Mat::from_fn(self.rows, order.len(), |i, j| self.at(i, order[j]))
    }
    /// Each column times a number.
    pub fn scale_columns(&self, by: &[f64]) -> Mat {
        Mat::from_fn(self.rows, self.cols, |i, j| self.at(i, j) * by[j])
    }
    /// The difference, element by element.
    pub fn minus(&self, other: &Mat) -> Mat {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols), "extents");
        let data = self.data.iter().zip(&other.data).map(|(a, b)| a - b).collect();
        Mat { rows: self.rows, cols: self.cols, data }
    }
    /// The sum of squares.
    pub fn squared_norm(&self) -> f64 {
        self.data.iter().map(|v| v * v).sum()
    }
    /// As `faer` sees it.
    pub fn view(&self) -> MatRef<'_, f64> {
        MatRef::from_row_major_slice(&self.data, self.rows, self.cols)
    }
    /// As `faer` sees it.
    pub fn view_mut(&mut self) -> MatMut<'_, f64> {
        MatMut::from_row_major_slice_mut(&mut self.data, self.rows, self.cols)
    }
    /// A copy of what `faer` computed.
    pub fn from_faer(m: MatRef<'_, f64>) -> Mat {
        Mat::from_fn(m.nrows(), m.ncols(), |i, j| m[(i, j)])
    }
    /// The matrix product.
    pub fn times(&self, other: &Mat) -> Mat {
        let mut out = Mat::zeros(self.rows, other.cols);
        matmul(out.view_mut(), Accum::Replace, self.view(), other.view(), 1.0, Par::Seq);
        out
    }
    /// The lower factor `L` of `self = L Lᵀ`; `None` when this symmetric matrix is not positive definite.
    pub fn cholesky(&self) -> Option<Mat> {
        let llt = self.view().llt(Side::Lower).ok()?;
        let l = Mat::from_faer(llt.L());
        l.is_finite().then_some(l)
    }
    /// The inverse of a lower triangular matrix without zeros on its diagonal.
    pub fn lower_inverse(&self) -> Mat {
        let mut out = Mat::zeros(self.rows, self.cols);
        invert_lower_triangular(out.view_mut(), self.view(), Par::Seq);
        out
    }
}
