//! `embedding`: tables that are looked up by row, as integer codes. A row is decoded when it is read, so that memory holds codes alone.

use crate::layer::{Layer, TABLE};
use crate::manager::PassCx;
use crate::propose::{Alternative, Editor, Site};
use crate::selector::Selector;
use crate::solve::Affine;
use crate::solve::grid::Range;
use crate::weights::{Several, WeightMethod, grids};
use tersor_ir::{DType, Func, FuncId, Module, NodeId, Op, Result};

pass! {
    /// Stores tables that are looked up by row, such as those of tokens and positions, as integer codes with a scale for each row or group.
    ///
    /// Applies to `gather` along the first axis of a constant matrix of f32. Codes are rounded to nearest: nothing is summed, so no input can make good for another.
    pub struct Embedding = "embedding": Propose {
        options {
            /// Bits of a code: 2, 3, 4, 5, 6 or 8; several as 4|8, an alternative each.
            bits: Several<u8> = Several(vec![8]),
            /// Neighbours in a row that share a scale; 0 for all.
            group: u32 = 0,
            /// Signed codes without zero points.
            sym: bool = true,
            /// Element type of scales: f32 or f16.
            scales: DType = DType::F32,
            /// Clip each group where that lowers its squared error.
            clip: bool = false,
            /// Which sites.
            select: Selector = Selector::all(),
            /// Which sites not.
            exclude: Selector = Selector::none(),
        }
        stats { "sites": "lookups offered with codes" }
    }
}

/// Lookups of rows in constant matrices of f32.
fn lookups(m: &Module) -> Vec<(Site, NodeId)> {
    let of = |(id, f): (FuncId, &Func)| {
        let fits = |n: &NodeId| {
            let node = &f.nodes[*n];
            let table = node.operands.first().filter(|&&t| f.def_const(t).is_some()).map(|&t| &f.values[t].ty);
            matches!(&node.op, Op::Gather(g) if g.axis == 0)
                && table.is_some_and(|t| t.rank() == 2 && t.dtype == DType::F32)
        };
        f.live_nodes().into_iter().filter(fits).map(|n| (Site::at(m, id, n, TABLE), n)).collect::<Vec<_>>()
    };
    m.funcs.iter().flat_map(of).collect()
}

impl WeightMethod for Embedding {
    fn selectors(&self) -> (&Selector, &Selector) {
        (&self.select, &self.exclude)
    }
    fn candidates(&self, m: &Module) -> Vec<(Site, NodeId)> {
        lookups(m)
    }
    fn check(&self) -> Result<()> {
        grids("embedding", &self.bits, self.group, self.sym, self.scales).map(|_| ())
    }
    fn offer(&self, layer: &Layer, _: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        let range = if self.clip { Range::Search { power: 2.0 } } else { Range::Full };
        let mut out = vec![];
        for grid in grids("embedding", &self.bits, self.group, self.sym, self.scales)? {
            let (affine, codes) = Affine::nearest(&layer.w, grid, range);
            let table = layer.affine(b, &affine, &codes)?;
            out.push(Alternative { name: grid.to_string(), value: layer.apply(b, layer.x, table)? });
        }
        cx.count("sites", 1);
        Ok(out)
    }
}
