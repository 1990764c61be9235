//! Small integer tensors that are known at import, up to symbols: what shape arithmetic is about.

use tersor_ir::{DType, Dim, Tensor};

/// An integer tensor of rank 0 or 1 whose elements are extents.
#[derive(Clone, PartialEq, Debug)]
pub struct Known {
    /// Element type.
    pub dtype: DType,
    /// Extents: none, or one.
    pub shape: Vec<usize>,
    /// Elements.
    pub items: Vec<Dim>,
}

impl Known {
    /// A list of `i64`.
    pub fn list(items: Vec<Dim>) -> Known {
        Known { dtype: DType::I64, shape: vec![items.len()], items }
    }
    /// One `i64`.
    pub fn scalar(d: Dim) -> Known {
        Known { dtype: DType::I64, shape: vec![], items: vec![d] }
    }
    /// The elements of a tensor.
    pub fn of(t: &Tensor) -> Known {
        Known { dtype: t.dtype(), shape: t.shape().to_vec(), items: t.to_i64().into_iter().map(Dim::Const).collect() }
    }
    /// The elements, when all are numbers.
    pub fn numbers(&self) -> Option<Vec<i64>> {
        self.items.iter().map(Dim::as_const).collect()
    }
    /// The tensor, when all elements are numbers.
    pub fn tensor(&self) -> Option<Tensor> {
        Some(Tensor::from_i64(self.dtype, self.shape.clone(), &self.numbers()?))
    }
}
