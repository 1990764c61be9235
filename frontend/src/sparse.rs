//! Sparse tensors of a file, written out: the IR has encodings of its own for weights that are mostly zero, which passes find.

use crate::proto::SparseTensorProto;
use crate::tensor::Sources;
use tersor_ir::diag::Result;
use tersor_ir::{DType, Diagnostic, Tensor};

impl Sources {
    /// Decodes a sparse tensor (ONNX IR specification, `SparseTensorProto`): values with their linear indices, or with an index for each axis, in ascending order.
    /// `name` is for messages.
    pub fn sparse(&mut self, t: &SparseTensorProto, name: &str) -> Result<Tensor> {
        let bad = |what: &str| Diagnostic::error("O0010", format!("sparse tensor \"{}\": {what}", name.escape_debug()));
        let (Some(values), Some(indices)) = (t.values.as_ref(), t.indices.as_ref()) else {
            return Err(bad("values or indices are missing"));
        };
        let (values, indices) = (self.tensor(values, name)?, self.tensor(indices, name)?);
        let shape: Option<Vec<usize>> = t.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
        let shape = shape.ok_or_else(|| bad("a negative extent"))?;
        let rank = shape.len();
        if rank > self.limits.rank {
            return Err(bad(&format!("rank {rank} is above {}", self.limits.rank)));
        }
        let (size, dtype) = (values.len(), values.dtype());
        let elements =
            shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(|| bad("too many elements"))?;
        let bytes = dtype.bytes(elements).ok_or_else(|| bad("too many elements"))?;
        if bytes > self.limits.sparse_bytes {
            let what = format!("sparse tensor \"{}\" has {bytes} bytes written out", name.escape_debug());
            return Err(self.limits.exceeded("O0010", "sparse_bytes", what));
        }
        let linear = indices.shape() == [size];
        if indices.dtype() != DType::I64 || !(linear || indices.shape() == [size, rank]) || values.shape().len() != 1 {
            return Err(bad("expected a list of values, and indices i64[values] or i64[values,axes]"));
        }
        let inside = |i: i64, extent: usize| usize::try_from(i).ok().filter(|&i| i < extent);
        let width = (dtype.bits() / 8) as usize;
        if dtype.is_packed() || values.bytes().len() != size * width {
            return Err(bad("elements that share bytes"));
        }
        let (mut out, mut last) = (vec![0; bytes], None);
        for n in 0..size {
            let at = match linear {
                true => inside(indices.get_i64(n), elements),
                false => (0..rank)
                    .try_fold(0, |at, a| Some(at * shape[a] + inside(indices.get_i64(n * rank + a), shape[a])?)),
            };
            let at = at.ok_or_else(|| bad("an index lies outside the extents"))?;
            if last.is_some_and(|l| l >= at) {
                return Err(bad("indices are not in ascending order"));
            }
            last = Some(at);
            out[at * width..][..width].copy_from_slice(&values.bytes()[n * width..][..width]);
        }
        Tensor::from_blob(dtype, shape, out.into()).ok_or_else(|| bad("bytes that do not fit its type"))
    }
}
