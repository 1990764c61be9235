//! Extents that the run computes: where an operator takes its result's shape from integers that the data decide.

use super::node::NodeCx;
use super::ops::Selected;
use tersor_ir::diag::Result;
use tersor_ir::ops::{Iota, Op};
use tersor_ir::{DType, Dim, ValueId};

impl NodeCx<'_, '_, '_> {
    /// The elements of an integer scalar or list as extents. Each that the data decide becomes a symbol that is bound to it, from 0 to the limit `computed_extent`; `None`
    /// where that is 0.
    pub(super) fn computed(&mut self, v: ValueId) -> Result<Option<Vec<Dim>>> {
        let n = self.ty(v).static_elements().filter(|&n| n <= self.importer.options.limits.rank);
        let Some(n) = n.filter(|_| self.importer.options.limits.computed_extent > 0) else { return Ok(None) };
        let mut out = vec![];
        self.gather_extents(v, n, &mut out)?;
        Ok(Some(out))
    }

    /// Looks through what lists are put together by, so that the elements that are known stay known.
    fn gather_extents(&mut self, v: ValueId, n: usize, out: &mut Vec<Dim>) -> Result<()> {
        if let Some(t) = self.constant_of(v) {
            out.extend(t.to_i64().into_iter().map(Dim::Const));
            return Ok(());
        }
        let node = self.importer.b.func.def_node(v).map(|node| (node.op.clone(), node.operands.clone()));
        match node {
            Some((Op::Extent(e), _)) => out.push(e.of),
            Some((Op::Concat(_), parts)) if self.ty(v).rank() == 1 => {
                for part in parts {
                    let n = self.fixed(&self.ty(part).elements(), "a list of extents")?;
                    self.gather_extents(part, n, out)?;
                }
            }
            Some((Op::Reshape(_), x)) => self.gather_extents(x[0], n, out)?,
            Some((Op::Cast(_), x)) if self.ty(x[0]).dtype.is_int() => self.gather_extents(x[0], n, out)?,
            _ => {
                let list = self.reshape(v, vec![n.into()])?;
                for i in 0..n {
                    let count = self.element(list, 0, i.into())?;
                    out.push(self.count(count)?);
                }
            }
        }
        Ok(())
    }

    /// The symbol that is bound to an integer scalar.
    fn count(&mut self, count: ValueId) -> Result<Dim> {
        let cap = Dim::from(self.importer.options.limits.computed_extent);
        let known = |s: &&Selected| s.counts(&cap) && self.importer.same(s.by, count, &mut Selected::COMPARED.clone());
        if let Some(at) = self.importer.selected.iter().find(known).map(|s| s.at) {
            return self.extent_of(at, 0);
        }
        let number = self.cast(count, DType::I64)?;
        let places = self.op(Iota { len: cap.clone(), dtype: DType::I64 }, &[])?;
        let at = self.prefix(places, 0, number)?;
        self.importer.selected.push(Selected { by: count, len: 0.into(), cap, at });
        self.extent_of(at, 0)
    }
}
