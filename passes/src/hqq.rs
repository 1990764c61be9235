//! `hqq`: rounding with real zero points fitted for errors with heavy tails (Badri and Shaji, 2023). Needs no data.

use crate::layer::Layer;
use crate::manager::PassCx;
use crate::propose::{Alternative, Editor, Site};
use crate::selector::Selector;
use crate::solve::Codec;
use crate::solve::hqq::Hqq as Solver;
use crate::weights::{Several, WeightMethod, grids};
use tersor_ir::ops::Real;
use tersor_ir::{DType, Op, Result};

pass! {
    /// Rounds weights to nearest with real zero points that are fitted group by group, without data.
    ///
    /// What the zero points add is a second, small product: of the sums of the input over each group. For products whose groups divide the sum.
    pub struct Hqq = "hqq": Propose {
        options {
            /// Bits of a code: 2, 3, 4, 5, 6 or 8; several as 2|3|4, an alternative each.
            bits: Several<u8> = Several(vec![4]),
            /// Neighbours along the sum that share a scale; 0 for all.
            group: u32 = 64,
            /// Element type of scales: f32 or f16.
            scales: DType = DType::F32,
            /// Errors count as their magnitude to this power.
            norm: Real = Real(0.7),
            /// Steps at most.
            steps: u32 = 20,
            /// Which sites.
            select: Selector = Selector::all(),
            /// Which sites not.
            exclude: Selector = Selector::none(),
        }
        stats { "sites": "layers offered with rounded weights" }
    }
}

impl WeightMethod for Hqq {
    fn selectors(&self) -> (&Selector, &Selector) {
        (&self.select, &self.exclude)
    }
    fn check(&self) -> Result<()> {
        grids("hqq", &self.bits, self.group, false, self.scales).map(drop)
    }
    fn offer(&self, layer: &Layer, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        let solver = Solver { norm: self.norm.0, steps: self.steps as usize, ..Solver::default() };
        if !matches!(&layer.op, Op::MatMul(m) if !m.trans_a) {
            cx.decline(site, "real zero points are for products");
            return Ok(vec![]);
        }
        let mut out = vec![];
        for grid in grids(cx.pass(), &self.bits, self.group, false, self.scales)? {
            let width = grid.width(layer.w.cols);
            if !layer.w.cols.is_multiple_of(width) {
                cx.decline(site, format!("groups of {width} do not divide a sum of {}", layer.w.cols));
                return Ok(vec![]);
            }
            let found = solver.fit(&layer.w, grid);
            let value = layer.real_zeros(b, &found, &found.codes(&layer.w))?;
            out.push(Alternative { name: format!("{grid}-hqq"), value });
        }
        cx.count("sites", 1);
        Ok(out)
    }
}
