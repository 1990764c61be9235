//! `rotate`: random Hadamard rotations of what enters products (QuaRot, Ashkboos et al., 2024).

use crate::declare::Rewrite;
use crate::inputs::{Change, change};
use crate::layer::Layer;
use crate::manager::PassCx;
use crate::propose::Editor;
use crate::selector::Selector;
use crate::solve::Mat;
use crate::solve::hadamard::Rotation;
use tersor_ir::{Module, Result, ValueId};

pass! {
    /// Rotates the channels of what enters products, and the weights back: exact, and it spreads outliers, at the price of a small product at run time.
    ///
    /// Channels are rotated in blocks, the largest power of two that divides their number, up to a limit; a value of fewer than four in a block stays as it is.
    pub struct Rotate = "rotate": Rewrite {
        options {
            /// Largest extent of a block.
            block: u32 = 128,
            /// Of the random signs.
            seed: u64 = 1,
            /// Which products.
            select: Selector = Selector::all(),
            /// Which not.
            exclude: Selector = Selector::none(),
        }
        stats { "values": "values rotated", "layers": "products that read them" }
    }
}

/// Smaller blocks spread nothing.
const LEAST: usize = 4;

impl Change for Rotation {
    fn value(&self, layer: &Layer, b: &mut Editor) -> Result<ValueId> {
        let x = layer.scaled_input(b, &self.signs)?;
        layer.rotated(b, x, &self.matrix())
    }
    fn weight(&self, w: &Mat) -> Mat {
        self.apply(w)
    }
}

impl Rewrite for Rotate {
    fn run(&self, m: &mut Module, cx: &mut PassCx) -> Result<()> {
        let found = change(m, cx, (&self.select, &self.exclude), |layers| {
            let r = Rotation::new(layers[0].w.cols, self.block as usize, self.seed);
            (r.block >= LEAST).then_some(r)
        })?;
        cx.count("values", found.0);
        cx.count("layers", found.1);
        Ok(())
    }
}
