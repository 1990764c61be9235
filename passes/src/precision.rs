//! `precision`: products and convolutions on 16-bit floats, accumulated and given in f32.

use crate::manager::PassCx;
use crate::propose::{Alternative, Editor, Propose, Site};
use crate::selector::Selector;
use tersor_ir::diag::Failure;
use tersor_ir::ops::Cast;
use tersor_ir::{DType, Def, Diagnostic, Func, Module, NodeId, Op, Result, Tensor, ValueId};

pass! {
    /// Computes products and convolutions on 16-bit floats; weights are stored so, sums and results stay f32.
    pub struct Precision = "precision": Propose {
        options {
            /// The element type: bf16 or f16.
            to: DType = DType::BF16,
            /// Attention too.
            attention: bool = false,
            /// Which sites.
            select: Selector = Selector::all(),
            /// Which sites not.
            exclude: Selector = Selector::none(),
        }
        stats { "sites": "ops offered" }
    }
}

impl Propose for Precision {
    fn sites(&self, m: &Module, cx: &mut PassCx) -> Result<Vec<Site>> {
        if !matches!(self.to, DType::BF16 | DType::F16) {
            let message = format!("precision: {} is not a type to compute in; bf16 and f16 are", self.to);
            return Err(Diagnostic::error("S0111", message).failure(Failure::Usage));
        }
        let one = |(id, f): (_, &Func)| {
            let fits = |n: &NodeId| {
                let node = &f.nodes[*n];
                let kind = match node.op {
                    Op::MatMul(_) | Op::Conv(_) => true,
                    Op::Attention(_) => self.attention,
                    _ => false,
                };
                kind && node.operands.iter().all(|&v| f.values[v].ty.dtype == DType::F32)
            };
            f.live_nodes().into_iter().filter(fits).map(|n| Site::at(m, id, n, 1)).collect::<Vec<_>>()
        };
        let sites = m.funcs.iter().flat_map(one).collect();
        cx.select(sites, &self.select, &self.exclude)
    }

    fn propose(&self, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        let Def::Node(n, _) = b.func.values[site.value].def else { return Ok(vec![]) };
        let (mut op, operands) = (b.func.nodes[n].op.clone(), b.func.nodes[n].operands.clone());
        let base = b.name.clone();
        let mut narrow = vec![];
        for v in operands {
            let v = self.narrow(b, v)?;
            narrow.push(v);
        }
        b.name = base;
        match &mut op {
            Op::MatMul(m) => m.wide = true,
            Op::Conv(c) => c.wide = true,
            _ => {}
        }
        let mut value = b.op(op, &narrow)?;
        if b.ty(value).dtype != DType::F32 {
            value = b.op(Cast::to(DType::F32), &[value])?;
        }
        cx.count("sites", 1);
        Ok(vec![Alternative { name: self.to.to_string(), value }])
    }
}

impl Precision {
    /// The value in the narrow type: constants are rounded here, others by a `cast`.
    fn narrow(&self, b: &mut Editor, v: ValueId) -> Result<ValueId> {
        let name = format!("{}.{}", b.func.values[v].name, self.to);
        if let Some((_, t)) = b.tensor(v) {
            let t = Tensor::from_f64(self.to, t.shape(), &t.to_f64());
            return Ok(b.constant(&name, &t));
        }
        b.name = name;
        b.op(Cast::to(self.to), &[v])
    }
}
