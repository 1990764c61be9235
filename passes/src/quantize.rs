//! `quantize`: integer codes in place of float weights, and of activations.
//!
//! Where activations stay floats, weights get codes of 2 to 8 bits, rounded to nearest, with a scale for each group. Otherwise they get symmetric codes of 8 bits
//! with one scale for each output channel. Activations, where asked for, are either
//! *static*: unsigned codes over a range from calibration, with a zero point (outputs of a ReLU then use all codes), or
//! *dynamic*: symmetric codes with a scale for each row, found at run time.
//! An alternative rebuilds the op: codes of `x`, integer product, `cast`, `mul` by the scales, and with a zero point `z` an `add` of `-z * scale * Σ codes`.
//! A convolution pads with the zero point: where that is not 0, by a `pad` of the codes before it.

use crate::codes::{Codes, Rounding};
use crate::integers::{Zero, padded};
use crate::layer::{Layer, WEIGHT, candidates, inputs, tapped, too_small};
use crate::manager::PassCx;
use crate::patches::Tap;
use crate::propose::{Alternative, Editor, Propose, Site};
use crate::selector::Selector;
use crate::solve::Affine;
use crate::solve::grid::Range;
use crate::statistics::Estimator;
use crate::weights::{Several, grids};
use tersor_ir::diag::Failure;
use tersor_ir::ops::binary::{Binary, BinaryKind};
use tersor_ir::ops::{Cast, MatMul, Quant, QuantDynamic, Real};
use tersor_ir::{DType, Def, Diagnostic, Module, NodeId, Op, Result, Tensor, ValueId};

tersor_ir::attr_enum! {
    /// What becomes of activations.
    pub enum Acts {
        /// stay floats: only weights shrink
        None = "none",
        /// codes over a calibrated range
        Static = "static",
        /// codes over each row's range
        Dynamic = "dynamic",
    }
}

tersor_ir::attr_enum! {
    /// How the range of static activations is chosen.
    pub enum Method {
        /// all that was seen
        MinMax = "minmax",
        /// all but the tails
        Percentile = "percentile",
        /// least squared error
        Mse = "mse",
        /// least divergence of the distribution
        Entropy = "entropy",
    }
}

pass! {
    /// Stores the weights of products and convolutions as integer codes, and computes on codes where `acts` says so.
    ///
    /// Applies to `matmul` by a constant matrix and to `conv` with a constant kernel, of f32.
    pub struct Quantize = "quantize": Propose {
        options {
            /// What becomes of activations: none, static (needs calibration) or dynamic (products only).
            acts: Acts = Acts::Static,
            /// Bits of a weight's code: 8; where activations stay floats also 2, 3, 4, 5 or 6, and several as 4|8, an alternative each.
            bits: Several<u8> = Several(vec![8]),
            /// For acts=none: neighbours along the sum that share a scale; 0 for all.
            group: u32 = 0,
            /// For acts=none: signed codes without zero points.
            sym: bool = true,
            /// For acts=none: element type of scales, f32 or f16.
            scales: DType = DType::F32,
            /// Range of static activations: minmax, percentile, mse or entropy.
            method: Method = Method::MinMax,
            /// For method=percentile: the share kept at each end.
            percentile: Real = Real(99.99),
            /// Clip each channel's weights where that lowers their squared error.
            clip: bool = false,
            /// Keep the sum of two neighbouring codes within 128 where activations are codes: CPUs that add byte products in 16 bits (x86-64 without VNNI) then
            /// multiply bytes exactly, in half the time. Costs about a third of a bit.
            narrow: bool = true,
            /// Which sites.
            select: Selector = Selector::all(),
            /// Which sites not.
            exclude: Selector = Selector::none(),
            /// Leave ops alone where integers do not pay: short products, depthwise convolutions, kernels on up to four channels.
            skip_small: bool = true,
        }
        stats { "sites": "ops offered as integers", "declined": "ops left as they are" }
    }
}

impl Quantize {
    /// Why a site that is selected gets no alternative.
    fn decline(&self, m: &Module, site: &Site, n: NodeId) -> Option<String> {
        let f = &m.funcs[site.func];
        let node = &f.nodes[n];
        let w = &site.weight;
        if m.consts[f.def_const(node.operands[WEIGHT])?].tensor().is_none() {
            return Some("the weight's elements are not in the store".into());
        }
        if self.acts == Acts::Static && !tapped(m, site, n) {
            return Some("static activations need a tap, and there is none inside a region or function".into());
        }
        if let (Acts::Dynamic, Op::Conv(_)) = (self.acts, &node.op) {
            return Some("dynamic activations are for products".into());
        }
        if let (Acts::Dynamic, Op::MatMul(MatMul { trans_a: true, .. })) = (self.acts, &node.op) {
            return Some("the rows of a transposed operand have no scale".into());
        }
        if !self.skip_small {
            return None;
        }
        if let (Op::Conv(op), true) = (&node.op, self.acts != Acts::None) {
            if op.groups > 1 && w[1] == 1 {
                return Some("a depthwise convolution has nothing to gain".into());
            }
            if w[1] * op.groups as usize <= 4 {
                return Some(format!("{} input channels are too few", w[1] * op.groups as usize));
            }
        }
        too_small(&node.op, w)
    }
    fn rounding(&self) -> Rounding {
        Rounding { bits: 8, clip: self.clip, narrow: self.narrow }
    }
    fn estimator(&self) -> Estimator {
        match self.method {
            Method::MinMax => Estimator::MinMax,
            Method::Percentile => Estimator::Percentile(self.percentile.0),
            Method::Mse => Estimator::Mse,
            Method::Entropy => Estimator::Entropy,
        }
    }
    fn check(&self) -> Result<()> {
        let wrong = |message: String| Err(Diagnostic::error("S0110", message).failure(Failure::Usage));
        grids("quantize", &self.bits, self.group, self.sym, self.scales)?;
        let plain = self.bits.0 == [8] && self.group == 0 && self.sym && self.scales == DType::F32;
        if self.acts != Acts::None && !plain {
            return wrong(
                "quantize: other codes than symmetric ones of 8 bits with one scale for a channel are for acts=none"
                    .into(),
            );
        }
        if !(50.0..=100.0).contains(&self.percentile.0) {
            return wrong(format!("quantize: percentile={:?} is not between 50 and 100", self.percentile.0));
        }
        Ok(())
    }
}

impl Propose for Quantize {
    fn taps(&self, m: &Module) -> Vec<Tap> {
        let Ok(main) = m.main() else { return vec![] };
        if self.acts != Acts::Static {
            return vec![];
        }
        let selected = |s: &Site| s.func == main && self.select.matches(s) && !self.exclude.matches(s);
        inputs(
            candidates(m),
            |s, n| selected(s) && self.decline(m, s, n).is_none(),
            |n| Tap::of(m.funcs[main].nodes[n].operands[0]),
        )
    }

    fn sites(&self, m: &Module, cx: &mut PassCx) -> Result<Vec<Site>> {
        self.check()?;
        let sites = candidates(m).into_iter().map(|c| c.0).collect();
        let mut out = vec![];
        for site in cx.select(sites, &self.select, &self.exclude)? {
            let Def::Node(n, _) = m.funcs[site.func].values[site.value].def else { continue };
            match self.decline(m, &site, n) {
                Some(reason) => {
                    cx.count("declined", 1);
                    cx.decline(&site, reason);
                }
                None => out.push(site),
            }
        }
        Ok(out)
    }

    fn propose(&self, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        if self.acts == Acts::None {
            return self.weights(site, b, cx);
        }
        let Def::Node(n, _) = b.func.values[site.value].def else { return Ok(vec![]) };
        let (op, x, w) = (b.func.nodes[n].op.clone(), b.func.nodes[n].operands[0], b.func.nodes[n].operands[WEIGHT]);
        let Some((name, weight)) = b.tensor(w) else { return Ok(vec![]) };
        let name = name.to_string();
        let channel = if matches!(&op, Op::MatMul(m) if !m.trans_b) { 1 } else { 0 };
        let Some(codes) = Codes::of(weight, channel, self.rounding()) else {
            cx.count("declined", 1);
            cx.decline(site, "the weight has elements that are NaN or infinite");
            return Ok(vec![]);
        };
        let base = b.name.clone();
        let (alternative, value) = match self.acts {
            Acts::Dynamic => {
                let q = b.constant(&format!("{name}.q"), &codes.tensor(&site.weight));
                let s = b.constant(&format!("{name}.s"), &Tensor::from_f32([codes.scales.len()], &codes.scales));
                let x_name = b.func.values[x].name.clone();
                b.name = format!("{x_name}.q");
                let rows = b.ops(QuantDynamic { group: 0 }, &[x])?;
                b.func.rename(rows[1], &format!("{x_name}.s"));
                let y = product(b, &base, op, [rows[0], q], s)?;
                ("int8-dynamic".into(), b.op(Binary { kind: BinaryKind::Mul }, &[y, rows[1]])?)
            }
            _ => {
                let x_name = b.func.values[x].name.to_string();
                let range = cx.statistics.and_then(|s| s.get(&x_name)).and_then(|s| s.range(self.estimator()));
                let Some((lo, hi)) = range else {
                    cx.count("declined", 1);
                    cx.decline(site, "calibration saw no finite input");
                    return Ok(vec![]);
                };
                (String::from("int8"), self.fixed(b, &op, x, &x_name, &name, &codes, site, affine(lo, hi))?)
            }
        };
        cx.count("sites", 1);
        Ok(vec![Alternative { name: alternative, value }])
    }
}

impl Quantize {
    /// The op on weights rounded to nearest, for each width.
    fn weights(&self, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        let layer = match Layer::of(b, site, cx.statistics) {
            Ok(layer) => layer,
            Err(reason) => {
                cx.count("declined", 1);
                cx.decline(site, reason);
                return Ok(vec![]);
            }
        };
        let range = if self.clip { Range::Search { power: 2.0 } } else { Range::Full };
        let mut out = vec![];
        for grid in grids("quantize", &self.bits, self.group, self.sym, self.scales)? {
            let (affine, codes) = Affine::nearest(&layer.w, grid, range);
            let weight = layer.affine(b, &affine, &codes)?;
            out.push(Alternative { name: grid.to_string(), value: layer.apply(b, layer.x, weight)? });
        }
        cx.count("sites", 1);
        Ok(out)
    }
    /// The op on codes of `x` with a known scale and zero point.
    #[allow(clippy::too_many_arguments)]
    fn fixed(
        &self,
        b: &mut Editor,
        op: &Op,
        x: ValueId,
        x_name: &str,
        w_name: &str,
        codes: &Codes,
        site: &Site,
        (scale, zero): (f32, u8),
    ) -> Result<ValueId> {
        let base = std::mem::replace(&mut b.name, format!("{x_name}.q"));
        let sx = b.constant(&format!("{x_name}.s"), &Tensor::from_f32([], &[scale]));
        let mut operands = vec![x, sx];
        if zero != 0 {
            operands.push(b.constant(&format!("{x_name}.z"), &Tensor::from_i64(DType::U8, [], &[zero.into()])));
        }
        let mut q = b.op(Quant { to: DType::U8, narrow: false }, &operands)?;
        let mut op = op.clone();
        // The channel is the last axis of a product, and of a convolution the one its layout says.
        let mut per_channel = vec![codes.scales.len()];
        if let Op::Conv(c) = &mut op {
            if !c.channels_last {
                per_channel.resize(1 + c.strides.len(), 1);
            }
            q = padded(b, c, q, &Zero::Fixed(zero.into()))?;
        }
        let w = b.constant(&format!("{w_name}.q"), &codes.tensor(&site.weight));
        let scales: Vec<f32> = codes.scales.iter().map(|s| s * scale).collect();
        let s = b.constant(&format!("{w_name}.s"), &Tensor::from_f32(per_channel.clone(), &scales));
        let y = product(b, &base, op, [q, w], s)?;
        if zero == 0 {
            return Ok(y);
        }
        let shift: Vec<f32> = scales
            .iter()
            .zip(&codes.sums)
            .map(|(s, n)| (-f64::from(*s) * f64::from(zero) * *n as f64) as f32)
            .collect();
        let z = b.constant(&format!("{w_name}.z"), &Tensor::from_f32(per_channel, &shift));
        b.op(Binary { kind: BinaryKind::Add }, &[y, z])
    }
}

/// The integer product, as scaled floats.
fn product(b: &mut Editor, base: &str, op: Op, codes: [ValueId; 2], scale: ValueId) -> Result<ValueId> {
    b.name = format!("{base}.i");
    let sum = b.op(op, &codes)?;
    b.name = format!("{base}.f");
    let sum = b.op(Cast::to(DType::F32), &[sum])?;
    b.name = base.into();
    b.op(Binary { kind: BinaryKind::Mul }, &[sum, scale])
}

/// Scale and zero point of unsigned codes over a range that contains 0.
pub fn affine(lo: f64, hi: f64) -> (f32, u8) {
    let scale = ((hi - lo) / 255.0) as f32;
    if scale <= f32::MIN_POSITIVE {
        return (1.0, 0);
    }
    (scale, (-lo / f64::from(scale)).round().clamp(0.0, 255.0) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_a_scale() {
        assert_eq!(affine(0.0, 0.0), (1.0, 0));
        assert_eq!(affine(0.0, 255.0), (1.0, 0));
        assert_eq!(affine(-255.0, 0.0), (1.0, 255));
    }
}
