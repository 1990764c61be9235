//! `sparsify`: weights of which only a part is stored, chosen by magnitude, by Wanda or by SparseGPT.

use crate::gram::Gram;
use crate::layer::Layer;
use crate::manager::PassCx;
use crate::propose::{Alternative, Editor, Site};
use crate::selector::Selector;
use crate::solve::grid::Range;
use crate::solve::mask::{Pattern, keep_of, magnitude, masked, refit, wanda};
use crate::solve::obs::{Factor, Order};
use crate::solve::{Affine, Codec, Mat, bias_correction};
use crate::weights::{Needs, Several, WeightMethod, gram_of, grids};
use tersor_ir::diag::Failure;
use tersor_ir::ops::{Attr, Real};
use tersor_ir::{DType, Diagnostic, Result};

tersor_ir::attr_enum! {
    /// How elements are scored.
    pub enum Method {
        /// by their magnitude, over the whole weight
        Magnitude = "magnitude",
        /// by magnitude times the norm of their input, within each row
        Wanda = "wanda",
        /// by what leaving them out costs after the rest has made up for it
        Sparsegpt = "sparsegpt",
    }
}

impl Attr for Pattern {
    fn print(&self) -> String {
        self.to_string()
    }
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

pass! {
    /// Leaves out the elements of weights that matter least, and stores the others with a mask.
    ///
    /// Patterns are a share that goes (50%), the number that stays of so many neighbours along the sum (2:4), or a share of runs of neighbours (1x4@50%).
    pub struct Sparsify = "sparsify": Propose {
        options {
            /// How elements are scored: magnitude, wanda or sparsegpt; the last two need the Gram matrix of each layer's input.
            method: Method = Method::Sparsegpt,
            /// What goes; several as 50%|2:4, an alternative each.
            pattern: Several<Pattern> = Several(vec![Pattern::Share(0.5)]),
            /// Fit what stays to the layer's outputs.
            refit: bool = false,
            /// Bits of a symmetric code for what stays: 2, 3, 4, 5, 6 or 8; 0 keeps floats.
            bits: u8 = 0,
            /// For codes: neighbours along the sum that share a scale; 0 for all.
            group: u32 = 64,
            /// Added to the Gram matrix's diagonal, times its mean.
            damp: Real = Real(0.01),
            /// Add to outputs what keeps their mean.
            bias: bool = false,
            /// Which sites.
            select: Selector = Selector::all(),
            /// Which sites not.
            exclude: Selector = Selector::none(),
        }
        stats { "sites": "layers offered with fewer weights" }
    }
}

impl Sparsify {
    /// The grid of what stays.
    fn grid(&self, w: &Mat) -> Result<Option<Affine>> {
        if self.bits == 0 {
            return Ok(None);
        }
        let grids = grids("sparsify", &Several(vec![self.bits]), self.group, true, DType::F32)?;
        Ok(grids.first().map(|g| Affine::fit(w, *g, Range::Search { power: 2.0 }, None)))
    }
    /// The new weight and what of it stays.
    fn prune(
        &self,
        w: &Mat,
        pattern: &Pattern,
        gram: Option<&Gram>,
        factor: Option<&Factor>,
        codec: Option<&dyn Codec>,
    ) -> (Mat, Vec<bool>) {
        let (new, keep) = match (self.method, factor, gram) {
            (Method::Sparsegpt, Some(f), _) => {
                let swept = f.sweep(w, codec, Some(pattern));
                (swept.w, swept.keep)
            }
            (Method::Wanda, _, Some(g)) => {
                let keep = keep_of(&wanda(w, g), pattern, true);
                (masked(w, &keep), keep)
            }
            _ => {
                let keep = keep_of(&magnitude(w), pattern, false);
                (masked(w, &keep), keep)
            }
        };
        match gram {
            Some(g) if self.refit => (refit(w, &keep, g, self.damp.0), keep),
            _ => (codec.map_or_else(|| new.clone(), |c| masked(&c.rounded(&new), &keep)), keep),
        }
    }
}

impl WeightMethod for Sparsify {
    fn selectors(&self) -> (&Selector, &Selector) {
        (&self.select, &self.exclude)
    }
    fn needs(&self) -> Needs {
        match self.method {
            Method::Magnitude if !self.refit && self.bias => Needs::Means,
            Method::Magnitude if !self.refit => Needs::Nothing,
            _ => Needs::Gram,
        }
    }
    fn check(&self) -> Result<()> {
        if self.refit && self.bits > 0 {
            let message = "sparsify: what is fitted again is not on the grid of the codes";
            return Err(Diagnostic::error("S0113", message)
                .failure(Failure::Usage)
                .with_help("give `refit` or `bits`; method=sparsegpt with `bits` makes up for both in one sweep"));
        }
        self.grid(&Mat::zeros(1, 1)).map(drop)
    }
    fn offer(&self, layer: &Layer, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        let gram = match self.needs() {
            Needs::Gram => match gram_of(layer, site, cx) {
                None => return Ok(vec![]),
                some => some,
            },
            _ => None,
        };
        let factor = gram.filter(|_| self.method == Method::Sparsegpt);
        let factor = factor.map(|g| Factor::new(g, self.damp.0, Order::Natural));
        if factor.as_ref().is_some_and(Option::is_none) {
            cx.decline(site, "the Gram matrix of the input has no factor, however damped");
            return Ok(vec![]);
        }
        let (factor, grid) = (factor.flatten(), self.grid(&layer.w)?);
        let mut out = vec![];
        for pattern in &self.pattern.0 {
            let codec = grid.as_ref().map(|g| g as &dyn Codec);
            let (w, keep) = self.prune(&layer.w, pattern, gram, factor.as_ref(), codec);
            let run = if let Pattern::Runs { width, .. } = pattern { *width } else { 1 };
            let codes = grid.as_ref().map(|g| (g, g.codes(&w)));
            let mut value = layer.sparse(b, &w, &keep, run, codes.as_ref().map(|(g, c)| (*g, &c[..])))?;
            if self.bias {
                value = layer.shifted(b, value, &bias_correction(&layer.w, &w, &layer.mean()))?;
            }
            let code = grid.as_ref().map_or(String::new(), |g| format!("-{}", g.grid));
            let refit = if self.refit { "-refit" } else { "" };
            out.push(Alternative { name: format!("{pattern}{code}-{}{refit}", self.method.name()), value });
        }
        cx.count("sites", 1);
        Ok(out)
    }
}
