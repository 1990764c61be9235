//! `microscale`: weights as four-bit floats in small blocks with a scale of eight bits each, MXFP4 and NVFP4.

use crate::layer::Layer;
use crate::manager::PassCx;
use crate::propose::{Alternative, Editor, Site};
use crate::selector::Selector;
use crate::solve::Codec;
use crate::solve::formats::{MxRule, Table, mxfp4, nvfp4};
use crate::solve::obs::{Factor, Order};
use crate::weights::{Needs, WeightMethod, gram_of};
use tersor_ir::ops::Real;
use tersor_ir::{DType, Result};

tersor_ir::attr_enum! {
    /// A format of blocks of E2M1 numbers.
    pub enum Format {
        /// blocks of 32 with a power of two
        Mxfp4 = "mxfp4",
        /// blocks of 16 with an E4M3 scale, and one scale for the weight
        Nvfp4 = "nvfp4",
    }
}

pass! {
    /// Stores weights as E2M1 numbers in blocks along the sum: 4.25 bits a weight as MXFP4, 4.5 as NVFP4.
    ///
    /// The exponent of an MXFP4 block is the one of two with the least squared error.
    pub struct Microscale = "microscale": Propose {
        options {
            /// The format: mxfp4 or nvfp4.
            format: Format = Format::Nvfp4,
            /// Round column by column as gptq does; needs the Gram matrix of each layer's input.
            sweep: bool = false,
            /// For sweep: added to the Gram matrix's diagonal, times its mean.
            damp: Real = Real(0.01),
            /// Which sites.
            select: Selector = Selector::all(),
            /// Which sites not.
            exclude: Selector = Selector::none(),
        }
        stats { "sites": "layers offered with four-bit floats" }
    }
}

/// Exponents of powers of two that E5M2 numbers have.
const E5M2: (f64, f64) = (-16.0, 15.0);

/// The scales of MXFP4 blocks as E5M2 numbers times one power of two; those far below the largest grow to the least there is.
fn powers(t: &mut Table) -> (Vec<f64>, f64) {
    let most = t.scale.iter().fold(f64::MIN_POSITIVE, |m, s| m.max(*s));
    let all = most / E5M2.1.exp2();
    let stored: Vec<f64> = t.scale.iter().map(|s| (s / all).max(E5M2.0.exp2())).collect();
    t.scale = stored.iter().map(|s| s * all).collect();
    (stored, all)
}

impl WeightMethod for Microscale {
    fn selectors(&self) -> (&Selector, &Selector) {
        (&self.select, &self.exclude)
    }
    fn needs(&self) -> Needs {
        if self.sweep { Needs::Gram } else { Needs::Nothing }
    }
    fn offer(&self, layer: &Layer, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        let (table, dtype, stored, all) = match self.format {
            Format::Mxfp4 => {
                let mut t = mxfp4(&layer.w, MxRule::Best);
                let (stored, all) = powers(&mut t);
                (t, DType::F8E5M2, stored, all)
            }
            Format::Nvfp4 => {
                let (t, stored, all) = nvfp4(&layer.w);
                (t, DType::F8E4M3, stored, all)
            }
        };
        let mut name = self.format.name().to_string();
        let rounded = if self.sweep {
            let Some(gram) = gram_of(layer, site, cx) else { return Ok(vec![]) };
            let Some(factor) = Factor::new(gram, self.damp.0, Order::Activity) else {
                cx.decline(site, "the Gram matrix of the input has no factor, however damped");
                return Ok(vec![]);
            };
            name += "-gptq";
            factor.sweep(&layer.w, Some(&table), None).w
        } else {
            table.rounded(&layer.w)
        };
        let weight = layer.blocks(b, &table, &rounded, (dtype, &stored), all)?;
        cx.count("sites", 1);
        Ok(vec![Alternative { name, value: layer.apply(b, layer.x, weight)? }])
    }
}
