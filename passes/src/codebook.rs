//! `codebook`: weights as indices of a table of levels, NF4, FP4 or fitted to the weight.

use crate::layer::Layer;
use crate::manager::PassCx;
use crate::propose::{Alternative, Editor, Site};
use crate::selector::Selector;
use crate::solve::formats::{FP4, NF4, Table, fit_levels, signed};
use crate::solve::obs::{Factor, Order};
use crate::solve::{Codec, Mat};
use crate::weights::{Needs, Several, WeightMethod, gram_of, grids};
use tersor_ir::diag::Failure;
use tersor_ir::ops::Real;
use tersor_ir::{DType, Diagnostic, Result};

tersor_ir::attr_enum! {
    /// Where the levels come from.
    pub enum Levels {
        /// quantiles of the normal distribution, 4 bits
        Nf4 = "nf4",
        /// the four-bit floats of bitsandbytes
        Fp4 = "fp4",
        /// means of the weight's own elements
        Fit = "fit",
    }
}

pass! {
    /// Stores weights as indices of a table of levels, times a scale for each group: its largest magnitude.
    pub struct Codebook = "codebook": Propose {
        options {
            /// The levels: nf4, fp4 or fit.
            levels: Levels = Levels::Nf4,
            /// For levels=fit: bits of an index, 2, 3, 4, 5, 6 or 8; several as 2|3, an alternative each.
            bits: Several<u8> = Several(vec![4]),
            /// Neighbours along the sum that share a scale; 0 for all.
            group: u32 = 64,
            /// Element type of scales: f32 or f16.
            scales: DType = DType::F32,
            /// Round column by column as gptq does; needs the Gram matrix of each layer's input.
            sweep: bool = false,
            /// For sweep: added to the Gram matrix's diagonal, times its mean.
            damp: Real = Real(0.01),
            /// Which sites.
            select: Selector = Selector::all(),
            /// Which sites not.
            exclude: Selector = Selector::none(),
        }
        stats { "sites": "layers offered with indices" }
    }
}

/// Steps of the fit.
const STEPS: usize = 30;

/// The table of `2^bits` levels with the least squared error on a weight, found from evenly spaced ones.
fn fitted(w: &Mat, start: Table) -> Table {
    let value = |at: usize| {
        let s = start.scale[at / w.cols * start.groups + at % w.cols / start.group];
        (w.data[at] / s, s * s)
    };
    let values: Vec<(f64, f64)> = (0..w.data.len()).map(value).collect();
    Table { levels: fit_levels(&values, &start.levels, STEPS), ..start }
}

impl WeightMethod for Codebook {
    fn selectors(&self) -> (&Selector, &Selector) {
        (&self.select, &self.exclude)
    }
    fn needs(&self) -> Needs {
        if self.sweep { Needs::Gram } else { Needs::Nothing }
    }
    fn check(&self) -> Result<()> {
        if self.levels != Levels::Fit && self.bits.0 != [4] {
            let message = format!("codebook: {} has 16 levels; other widths are for levels=fit", self.levels.name());
            return Err(Diagnostic::error("S0118", message).failure(Failure::Usage));
        }
        grids("codebook", &self.bits, self.group, false, self.scales).map(drop)
    }
    fn offer(&self, layer: &Layer, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        let mut factor = None;
        if self.sweep {
            let Some(gram) = gram_of(layer, site, cx) else { return Ok(vec![]) };
            factor = Factor::new(gram, self.damp.0, Order::Activity);
            if factor.is_none() {
                cx.decline(site, "the Gram matrix of the input has no factor, however damped");
                return Ok(vec![]);
            }
        }
        let mut out = vec![];
        for grid in grids(cx.pass(), &self.bits, self.group, false, self.scales)? {
            let absmax = |levels| Table::absmax(&layer.w, levels, grid.group, grid.scales);
            let half = f64::from(1u32 << (grid.bits - 1));
            let (name, table) = match self.levels {
                Levels::Nf4 => ("nf4".to_string(), absmax(NF4.to_vec())),
                Levels::Fp4 => ("fp4".to_string(), absmax(signed(&FP4))),
                Levels::Fit => {
                    let even = (0..2 * half as u32).map(|i| f64::from(i) / half - 1.0).collect();
                    (format!("fit{}", grid.bits), fitted(&layer.w, absmax(even)))
                }
            };
            let w = factor.as_ref().map_or_else(|| layer.w.clone(), |f| f.sweep(&layer.w, Some(&table), None).w);
            let weight = layer.table(b, &table, &table.codes(&w), grid.bits, grid.scales)?;
            let group = if grid.group > 0 { format!("g{}", grid.group) } else { String::new() };
            let sweep = if self.sweep { "-gptq" } else { "" };
            out.push(Alternative { name: format!("{name}{group}{sweep}"), value: layer.apply(b, layer.x, weight)? });
        }
        cx.count("sites", 1);
        Ok(out)
    }
}
