//! `smooth`: outliers of activations move into weights (SmoothQuant, Xiao et al., 2022).

use crate::declare::Rewrite;
use crate::inputs::{Change, change, products};
use crate::layer::Layer;
use crate::manager::PassCx;
use crate::patches::Tap;
use crate::propose::Editor;
use crate::selector::Selector;
use crate::solve::{Mat, scale};
use tersor_ir::diag::Failure;
use tersor_ir::ops::Real;
use tersor_ir::{Diagnostic, Module, Result, ValueId};

pass! {
    /// Divides the channels of what enters products by scales, and multiplies the weights by them: exact, and kinder to codes of activations.
    ///
    /// A scale is `max|x|^alpha / max|w|^(1-alpha)` over all products that read the value. The division is a `mul`; `saturate` moves it into the norm or the product before
    /// where that is exact. Needs calibration data.
    pub struct Smooth = "smooth": Rewrite {
        options {
            /// How much moves: 0 nothing of the activations, 1 all.
            alpha: Real = Real(0.5),
            /// Which products.
            select: Selector = Selector::all(),
            /// Which not.
            exclude: Selector = Selector::none(),
        }
        stats { "values": "values scaled", "layers": "products that read them" }
    }
}

struct Scales(Vec<f64>);

impl Change for Scales {
    fn value(&self, layer: &Layer, b: &mut Editor) -> Result<ValueId> {
        layer.scaled_input(b, &self.0.iter().map(|t| 1.0 / t).collect::<Vec<_>>())
    }
    fn weight(&self, w: &Mat) -> Mat {
        w.scale_columns(&self.0)
    }
}

impl Rewrite for Smooth {
    fn taps(&self, m: &Module) -> Vec<Tap> {
        products(m, &self.select, &self.exclude).into_iter().map(|g| Tap::of(g.0)).collect()
    }
    fn run(&self, m: &mut Module, cx: &mut PassCx) -> Result<()> {
        if !(0.0..=1.0).contains(&self.alpha.0) {
            let message = format!("smooth: alpha={:?} is not between 0 and 1", self.alpha.0);
            return Err(Diagnostic::error("S0114", message).failure(Failure::Usage));
        }
        let found = change(m, cx, (&self.select, &self.exclude), |layers| {
            let absmax = &layers[0].inputs?.absmax;
            let weights: Vec<&Mat> = layers.iter().map(|l| &l.w).collect();
            let fits = absmax.len() == weights[0].cols;
            fits.then(|| Scales(scale::smooth(absmax, &weights, self.alpha.0)))
        })?;
        cx.count("values", found.0);
        cx.count("layers", found.1);
        Ok(())
    }
}
