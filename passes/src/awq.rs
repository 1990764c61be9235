//! `awq`: rounding after an exact change of scales that makes the weights of active channels large (Lin et al., 2023).

use crate::layer::Layer;
use crate::manager::PassCx;
use crate::propose::{Alternative, Editor, Site};
use crate::selector::Selector;
use crate::solve::Codec;
use crate::solve::scale::Awq as Search;
use crate::weights::{Needs, Several, WeightMethod, gram_of, grids};
use tersor_ir::{DType, Op, Result};

pass! {
    /// Rounds weights to nearest after scaling their columns, and clips groups, so that the layer's outputs on calibration data change least.
    ///
    /// Inputs are divided by the scales in a `mul` before the product. Never worse on that data than rounding. Needs the Gram matrix of each layer's input.
    pub struct Awq = "awq": Propose {
        options {
            /// Bits of a code: 2, 3, 4, 5, 6 or 8; several as 2|3|4, an alternative each.
            bits: Several<u8> = Several(vec![4]),
            /// Neighbours along the sum that share a scale; 0 for all.
            group: u32 = 64,
            /// Signed codes without zero points.
            sym: bool = false,
            /// Element type of scales: f32 or f16.
            scales: DType = DType::F32,
            /// Search scales of channels.
            scale: bool = true,
            /// Search the range of each group.
            clip: bool = true,
            /// Which sites.
            select: Selector = Selector::all(),
            /// Which sites not.
            exclude: Selector = Selector::none(),
        }
        stats { "sites": "layers offered with rounded weights", "scaled": "of them with scales other than 1" }
    }
}

impl WeightMethod for Awq {
    fn selectors(&self) -> (&Selector, &Selector) {
        (&self.select, &self.exclude)
    }
    fn needs(&self) -> Needs {
        Needs::Gram
    }
    fn check(&self) -> Result<()> {
        grids("awq", &self.bits, self.group, self.sym, self.scales).map(drop)
    }
    fn offer(&self, layer: &Layer, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        if !matches!(layer.op, Op::MatMul(_)) {
            cx.decline(site, "scales of channels are for products");
            return Ok(vec![]);
        }
        let (Some(gram), Some(inputs)) = (gram_of(layer, site, cx), layer.inputs) else { return Ok(vec![]) };
        let mut out = vec![];
        for grid in grids(cx.pass(), &self.bits, self.group, self.sym, self.scales)? {
            let found = Search::search(&layer.w, &inputs.absmean(), gram, grid, self.scale, self.clip);
            let codes = found.affine.codes(&layer.w.scale_columns(&found.scales));
            let weight = layer.affine(b, &found.affine, &codes)?;
            let x = if found.alpha == 0.0 {
                layer.x
            } else {
                cx.count("scaled", 1);
                layer.scaled_input(b, &found.scales.iter().map(|t| 1.0 / t).collect::<Vec<_>>())?
            };
            out.push(Alternative { name: format!("{grid}-awq"), value: layer.apply(b, x, weight)? });
        }
        cx.count("sites", 1);
        Ok(out)
    }
}
