//! What importers that put an operator together from many ops have in common.

use super::Meaning;
use super::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::{Compare, Concat, Gather, Iota, MatMul, Prefix, Reduce, Select, Slice};
use tersor_ir::{DType, Dim, Tensor, ValueId};

/// One result.
pub(super) fn done(v: ValueId) -> Result<Vec<Meaning>> {
    Ok(vec![value(v)])
}

/// A product of extents.
pub(super) fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::from(1), |a, d| a * d.clone())
}

impl NodeCx<'_, '_, '_> {
    /// A comparison of broadcast operands.
    pub fn compare(&mut self, kind: CompareKind, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.op(Compare { kind }, &[a, b])
    }
    /// A comparison with a number.
    pub fn compare_scalar(&mut self, kind: CompareKind, a: ValueId, b: f64) -> Result<ValueId> {
        let b = self.scalar_like(a, b);
        self.compare(kind, a, b)
    }
    /// `a` where the condition holds, else `b`.
    pub fn select(&mut self, cond: ValueId, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.op(Select {}, &[cond, a, b])
    }
    /// A reduction over some axes.
    pub fn reduce(&mut self, kind: ReduceKind, x: ValueId, axes: &[usize], keep: bool) -> Result<ValueId> {
        let mut axes: Vec<u8> = axes.iter().map(|&a| a as u8).collect();
        axes.sort_unstable();
        if axes.is_empty() { Ok(x) } else { self.op(Reduce { kind, axes, keep }, &[x]) }
    }
    /// The extent of an axis, which a file may have left out.
    pub fn extent_of(&self, x: ValueId, axis: usize) -> Result<Dim> {
        let ty = self.ty(x);
        let missing = || self.invalid(format!("an operand of {ty}, expected more than {axis} axes"));
        ty.shape.get(axis).cloned().ok_or_else(missing)
    }
    /// Some elements of an axis, in order.
    pub fn part(&mut self, x: ValueId, axis: usize, start: Dim, len: Dim) -> Result<ValueId> {
        if len == self.extent_of(x, axis)? && start == Dim::Const(0) {
            return Ok(x);
        }
        self.op(Slice { axis: axis as u8, start, len, step: 1 }, &[x])
    }
    /// The first `count` elements of an axis: that scalar becomes an extent of its own, unless it is known.
    pub fn prefix(&mut self, x: ValueId, axis: usize, count: ValueId) -> Result<ValueId> {
        let cap = self.extent_of(x, axis)?;
        if let Some(n) = self.constant_of(count).map(|t| t.get_i64(0)) {
            if n < 0 || cap.as_const().is_some_and(|cap| n > cap) {
                return Err(self.invalid(format!("the first {n} elements of {cap}")));
            }
            return self.part(x, axis, 0.into(), n.into());
        }
        let extent = self.importer.bound_symbol(&cap)?;
        self.op(Prefix { axis: axis as u8, extent }, &[x, count])
    }
    /// Element `i` of an axis, which goes.
    pub fn element(&mut self, x: ValueId, axis: usize, i: Dim) -> Result<ValueId> {
        let y = self.part(x, axis, i, 1.into())?;
        let mut shape = self.ty(y).shape.to_vec();
        shape.remove(axis);
        self.reshape(y, shape)
    }
    /// An axis from its end to its beginning.
    pub fn flip(&mut self, x: ValueId, axis: usize) -> Result<ValueId> {
        let len = self.extent_of(x, axis)?;
        self.op(Slice { axis: axis as u8, start: len.clone() - 1.into(), len, step: -1 }, &[x])
    }
    /// Operands one after another.
    pub fn concat(&mut self, parts: &[ValueId], axis: usize) -> Result<ValueId> {
        if let [one] = parts { Ok(*one) } else { self.op(Concat { axis: axis as u8 }, parts) }
    }
    /// Operands along a new axis.
    pub fn stack(&mut self, parts: &[ValueId], axis: usize) -> Result<ValueId> {
        let mut wide = vec![];
        for &p in parts {
            wide.push(self.insert_axis(p, axis)?);
        }
        self.concat(&wide, axis)
    }
    /// A new axis of extent 1.
    pub fn insert_axis(&mut self, x: ValueId, axis: usize) -> Result<ValueId> {
        let mut shape = self.ty(x).shape.to_vec();
        if axis > shape.len() {
            return Err(self.invalid(format!("an operand of {}, expected {axis} axes or more", self.ty(x))));
        }
        shape.insert(axis, 1.into());
        self.reshape(x, shape)
    }
    /// The numbers from 0 along one of `rank` axes, the others of extent 1.
    pub fn positions(&mut self, len: &Dim, axis: usize, rank: usize, dtype: DType) -> Result<ValueId> {
        let v = self.op(Iota { len: len.clone(), dtype }, &[])?;
        self.along(v, axis, rank)
    }
    /// A list along one of `rank` axes, the others of extent 1.
    pub fn along(&mut self, list: ValueId, axis: usize, rank: usize) -> Result<ValueId> {
        let mut shape = vec![Dim::from(1); rank];
        shape[axis] = self.ty(list).elements();
        self.reshape(list, shape)
    }
    /// A constant of one element type, of floats.
    pub fn table(&mut self, dtype: DType, shape: &[usize], values: &[f64]) -> ValueId {
        self.emit_constant(&Tensor::from_f64(dtype, shape, values))
    }
    /// Elements of `x`, flattened, by their number.
    pub fn take(&mut self, x: ValueId, index: ValueId) -> Result<ValueId> {
        let n = self.ty(x).elements();
        let flat = self.reshape(x, vec![n])?;
        self.op(Gather { axis: 0 }, &[flat, index])
    }
    /// A product of matrices.
    pub fn matmul(&mut self, a: ValueId, b: ValueId, trans_b: bool) -> Result<ValueId> {
        self.op(MatMul { trans_a: false, trans_b, wide: false }, &[a, b])
    }
    /// An extent that must be a number, for what it is needed.
    pub fn fixed(&self, d: &Dim, what: &str) -> Result<usize> {
        let n = d.as_const().and_then(|n| usize::try_from(n).ok());
        n.ok_or_else(|| self.unsupported(format!("{what} of an extent that is not known ({d})")))
    }
    /// Whether result `i` is asked for.
    pub fn wants(&self, i: usize) -> bool {
        self.node.output.get(i).is_some_and(|o| !o.is_empty())
    }
    /// An element type that an attribute names; `default` where it is absent or 0.
    pub fn dtype_attr(&self, name: &str, default: DType) -> Result<DType> {
        match self.int(name, 0) {
            0 => Ok(default),
            n => crate::tensor::dtype(n as i32).ok_or_else(|| self.unsupported(format!("element type {n}"))),
        }
    }
}
