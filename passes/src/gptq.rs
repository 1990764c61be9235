//! `gptq`: second-order rounding of weights (Frantar et al., 2022).

use crate::layer::Layer;
use crate::manager::PassCx;
use crate::propose::{Alternative, Editor, Site};
use crate::selector::Selector;
use crate::solve::grid::Range;
use crate::solve::obs::{Factor, Order};
use crate::solve::{Affine, Codec, bias_correction};
use crate::weights::{Needs, Several, WeightMethod, gram_of, grids};
use tersor_ir::ops::Real;
use tersor_ir::{DType, Result};

pass! {
    /// Rounds weights column by column, and makes good in the columns after each what it does to the layer's outputs on calibration data.
    ///
    /// Scales are fixed before the first column, so groups stay together in any order. Needs the Gram matrix of each layer's input.
    pub struct Gptq = "gptq": Propose {
        options {
            /// Bits of a code: 2, 3, 4, 5, 6 or 8; several as 2|3|4, an alternative each.
            bits: Several<u8> = Several(vec![4]),
            /// Neighbours along the sum that share a scale; 0 for all.
            group: u32 = 64,
            /// Signed codes without zero points.
            sym: bool = false,
            /// Element type of scales: f32 or f16.
            scales: DType = DType::F32,
            /// Clip each group's weights where that lowers their squared error.
            clip: bool = false,
            /// Channels of the largest energy first.
            act_order: bool = true,
            /// Added to the Gram matrix's diagonal, times its mean.
            damp: Real = Real(0.01),
            /// Add to outputs what keeps their mean.
            bias: bool = false,
            /// Which sites.
            select: Selector = Selector::all(),
            /// Which sites not.
            exclude: Selector = Selector::none(),
        }
        stats { "sites": "layers offered with rounded weights" }
    }
}

impl WeightMethod for Gptq {
    fn selectors(&self) -> (&Selector, &Selector) {
        (&self.select, &self.exclude)
    }
    fn needs(&self) -> Needs {
        Needs::Gram
    }
    fn check(&self) -> Result<()> {
        grids("gptq", &self.bits, self.group, self.sym, self.scales).map(drop)
    }
    fn offer(&self, layer: &Layer, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        let Some(gram) = gram_of(layer, site, cx) else { return Ok(vec![]) };
        let order = if self.act_order { Order::Activity } else { Order::Natural };
        let Some(factor) = Factor::new(gram, self.damp.0, order) else {
            cx.decline(site, "the Gram matrix of the input has no factor, however damped");
            return Ok(vec![]);
        };
        let range = if self.clip { Range::Search { power: 2.0 } } else { Range::Full };
        let mut out = vec![];
        for grid in grids(cx.pass(), &self.bits, self.group, self.sym, self.scales)? {
            let codec = Affine::fit(&layer.w, grid, range, None);
            let w = factor.sweep(&layer.w, Some(&codec), None).w;
            let weight = layer.affine(b, &codec, &codec.codes(&w))?;
            let mut value = layer.apply(b, layer.x, weight)?;
            if self.bias {
                value = layer.shifted(b, value, &bias_correction(&layer.w, &w, &layer.mean()))?;
            }
            out.push(Alternative { name: format!("{grid}-gptq"), value });
        }
        cx.count("sites", 1);
        Ok(out)
    }
}
