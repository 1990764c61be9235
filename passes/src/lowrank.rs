//! `lowrank`: two thin matrices in place of one, `x Wᵀ ≈ (x Aᵀ) Bᵀ`.
//!
//! A convolution becomes one with fewer outputs, followed by one of 1 x 1. All ranks are parts of one decomposition ([`crate::solve::lowrank`]).

use crate::layer::Layer;
use crate::manager::PassCx;
use crate::propose::{Alternative, Editor, Site};
use crate::selector::Selector;
use crate::solve::Mat;
use crate::solve::lowrank::{Factors, Truncation, break_even};
use crate::weights::{Needs, Several, WeightMethod, gram_of};
use tersor_ir::diag::Failure;
use tersor_ir::ops::{Conv, MatMul, Op, Real};
use tersor_ir::{DType, Diagnostic, Result, Tensor, ValueId};

pass! {
    /// Replaces weights by products of two thin matrices, which are smaller and faster below the rank at which they break even.
    ///
    /// Applies to `matmul` by a constant matrix and to `conv` with a constant kernel in one group, of f32.
    pub struct LowRank = "lowrank": Propose {
        options {
            /// Parts of a weight's parameters that its factors have; several as 0.8|0.6, an alternative each.
            ratio: Several<Real> = Several(vec![Real(0.75)]),
            /// Ranks in place of ratios; several as 64|32, an alternative each. 0 leaves it to `ratio`.
            rank: Several<u32> = Several(vec![0]),
            /// Keep the strongest directions of the outputs over calibration data; without it, those of the weight itself.
            whiten: bool = true,
            /// Ranks that follow from ratios are rounded down to multiples of this.
            align: u32 = 8,
            /// Which sites.
            select: Selector = Selector::all(),
            /// Which sites not.
            exclude: Selector = Selector::none(),
        }
        stats { "sites": "layers offered as factors" }
    }
}

impl LowRank {
    /// The ranks asked for, of a weight with these extents.
    fn ranks(&self, outs: usize, ins: usize) -> Vec<usize> {
        let mut out: Vec<usize> = self.rank.0.iter().filter(|&&r| r > 0).map(|&r| r as usize).collect();
        if out.is_empty() {
            let exact = |r: &Real| r.0 * (outs * ins) as f64 / (outs + ins).max(1) as f64;
            let align = self.align as usize;
            out.extend(self.ratio.0.iter().map(|r| (exact(r) as usize / align * align).max(1)));
        }
        out.sort_unstable();
        out.dedup();
        out
    }
}

impl WeightMethod for LowRank {
    fn selectors(&self) -> (&Selector, &Selector) {
        (&self.select, &self.exclude)
    }
    fn needs(&self) -> Needs {
        if self.whiten { Needs::Gram } else { Needs::Nothing }
    }
    fn check(&self) -> Result<()> {
        let wrong = |message: String| Err(Diagnostic::error("S0116", message).failure(Failure::Usage));
        if let Some(r) = self.ratio.0.iter().find(|r| !(r.0 > 0.0 && r.0 <= 1.0)) {
            return wrong(format!("lowrank: ratio={:?} is not above 0 and up to 1", r.0));
        }
        if self.align == 0 {
            return wrong("lowrank: `align` is at least 1".into());
        }
        Ok(())
    }
    fn offer(&self, layer: &Layer, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        if matches!(&layer.op, Op::Conv(c) if c.groups > 1) {
            cx.decline(site, "a convolution in groups has no thin factors");
            return Ok(vec![]);
        }
        let (outs, ins) = (layer.w.rows, layer.w.cols);
        let least = break_even(outs, ins);
        let (pays, idle): (Vec<usize>, Vec<usize>) = self.ranks(outs, ins).into_iter().partition(|&r| r < least);
        if pays.is_empty() {
            let r = idle.first().copied().unwrap_or(0);
            let (thin, whole) = (r * (outs + ins), outs * ins);
            cx.decline(site, format!("rank {r} has {thin} parameters, the weight {whole}: ranks below {least} pay"));
            return Ok(vec![]);
        }
        let gram = match self.whiten {
            false => None,
            true => match gram_of(layer, site, cx) {
                Some(g) => Some(g),
                None => return Ok(vec![]),
            },
        };
        let Some(t) = Truncation::of(&layer.w, gram) else {
            cx.decline(site, "the Gram matrix of its input has elements that are NaN or infinite");
            return Ok(vec![]);
        };
        let method = if self.whiten { "whiten" } else { "svd" };
        let curve = t.curve();
        let mut out = vec![];
        for r in pays {
            cx.detail(format!("{}: rank {r} of {}, squared error {:.3}", site.name, t.full(), curve[r]));
            let value = apply(b, layer, site, &t.factors(r), &format!("r{r}"))?;
            out.push(Alternative { name: format!("{method}-r{r}"), value });
        }
        for r in idle {
            cx.detail(format!("{}: rank {r} is not offered, ranks below {least} pay", site.name));
        }
        cx.count("sites", 1);
        Ok(out)
    }
}

/// A layer's op with factors in place of its weight.
pub fn apply(b: &mut Editor, layer: &Layer, site: &Site, factors: &Factors, suffix: &str) -> Result<ValueId> {
    let base = b.name.clone();
    let rank = factors.a.rows;
    let constant = |b: &mut Editor, which: &str, shape: Vec<usize>, m: &Mat| {
        b.constant(&format!("{}.{suffix}.{which}", layer.name), &Tensor::from_f64(DType::F32, shape, &m.data))
    };
    let (first, second, inner, outer) = match &layer.op {
        Op::Conv(c) => {
            let spatial = c.strides.len();
            let mut inner = site.weight.clone();
            inner[0] = rank;
            let mut outer = vec![1; 2 + spatial];
            (outer[0], outer[1]) = (layer.w.rows, rank);
            let (ones, none) = (vec![1; spatial], vec![0; 2 * spatial]);
            let second = Conv { strides: ones.clone(), pads: none, dilations: ones, ..c.clone() };
            (layer.op.clone(), second.into(), inner, outer)
        }
        op => {
            let trans_a = matches!(op, Op::MatMul(m) if m.trans_a);
            let product = |trans_a| Op::from(MatMul { trans_a, trans_b: true, wide: false });
            (product(trans_a), product(false), vec![rank, layer.w.cols], vec![layer.w.rows, rank])
        }
    };
    let a = constant(b, "a", inner, &factors.a);
    b.name = format!("{base}.{suffix}");
    let h = b.op(first, &[layer.x, a])?;
    b.name = base;
    let second_weight = constant(b, "b", outer, &factors.b);
    b.op(second, &[h, second_weight])
}
