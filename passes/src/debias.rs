//! `debias`: the mean of what a compressed weight has lost, added back, `x Wᵀ ≈ x W'ᵀ + (W - W') E[x]` (bias correction, Nagel et al., 2019).

use crate::family::weight_of;
use crate::layer::{Layer, standing};
use crate::manager::PassCx;
use crate::propose::{Alternative, Editor, Site};
use crate::selector::Selector;
use crate::solve::bias_correction;
use crate::weights::{Needs, WeightMethod};
use tersor_ir::{Def, Module, NodeId, Op, Result};

pass! {
    /// Adds to alternatives that differ from a layer in its weight what makes the mean of their outputs that of the exact layer's, over calibration data.
    ///
    /// Stands right behind the pass that it amends, as in `microscale, debias`, and is decided on together with it. The mean of a convolution's
    /// input is taken to be the same all over the image, and 0 in its padding.
    pub struct Debias = "debias": Propose {
        options {
            /// Which sites.
            select: Selector = Selector::all(),
            /// Which sites not.
            exclude: Selector = Selector::none(),
        }
        stats { "alternatives": "alternatives offered with their mean put right" }
    }
}

impl WeightMethod for Debias {
    fn selectors(&self) -> (&Selector, &Selector) {
        (&self.select, &self.exclude)
    }
    fn amends(&self) -> bool {
        true
    }
    fn candidates(&self, m: &Module) -> Vec<(Site, NodeId)> {
        standing(m)
    }
    fn needs(&self) -> Needs {
        Needs::Means
    }
    fn offer(&self, layer: &Layer, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        let (Def::Node(exact, _), Some(choice)) = (b.func.values[site.value].def, b.choice) else {
            return Ok(vec![]);
        };
        let Op::Choice(standing) = b.func.nodes[choice].op.clone() else { return Ok(vec![]) };
        let values = b.func.nodes[choice].operands.to_vec();
        let (mean, mut out, mut differ) = (layer.mean(), vec![], false);
        for (name, value) in standing.names.into_iter().zip(values).skip(1) {
            let Some(w) = weight_of(b.consts, b.func, exact, value) else {
                cx.detail(format!("{}: {name} is more than another weight", site.name));
                continue;
            };
            differ = true;
            let shift = bias_correction(&layer.w, &layer.matrix(&w), &mean);
            if shift.iter().all(|&s| s == 0.0) || !shift.iter().all(|s| s.is_finite()) {
                cx.detail(format!("{}: {name} has no mean error that could be put right", site.name));
                continue;
            }
            let value = layer.shifted(b, value, &shift)?;
            out.push(Alternative { name: format!("{name}-debias"), value });
            cx.count("alternatives", 1);
        }
        if out.is_empty() {
            let reason = match differ {
                true => "the alternatives' outputs have the exact mean",
                false => "no alternative differs in its weight alone",
            };
            cx.decline(site, reason);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use crate::filetest::{run_passes, seeded_inputs};
    use proptest::prelude::*;
    use tersor_ir::{Module, interp};

    /// The mean of each output channel over the calibration data of [`run_passes`].
    fn means(m: &Module, outer: usize) -> Vec<f64> {
        let mut sums = vec![0.0; outer];
        for seed in 100..108 {
            let y = interp::run(m, &seeded_inputs(m, seed).unwrap()).unwrap().remove(0).to_f64();
            y.iter().enumerate().for_each(|(at, v)| sums[at % outer] += v / (y.len() / outer * 8) as f64);
        }
        sums
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn outputs_have_the_exact_mean_over_calibration_data(
            seed in 1u64..1000,
            inner in 16usize..40,
            outer in 16usize..40,
            bits in 2u8..5,
        ) {
            let text = format!(
                "module @m {{ symbol N 1..64 hint 9 const @w : f32[{inner},{outer}] = rng normal(0, 1) seed {seed} const @one : f32[] = splat 1
                 func @main(%x: f32[N,{inner}]) -> (%y: f32[N,{outer}]) {{
                 %s = add %x, @one : f32[N,{inner}] %y = matmul %s, @w : f32[N,{outer}] return %y }} }}"
            );
            let lossy = format!("quantize{{acts=none, bits={bits}, skip-small=false}}");
            let exact = tersor_ir::text::parse(&text, &Default::default()).unwrap();
            let off = |pipeline: &str| {
                let mut m = exact.clone();
                let steps = run_passes(pipeline, &mut m).unwrap();
                let picked = steps.iter().flat_map(|s| &s.decisions).filter(|d| d.picked.is_some()).count();
                let all = means(&m, outer).into_iter().zip(means(&exact, outer)).map(|(a, b)| (a - b).abs());
                (picked, all.fold(0.0, f64::max))
            };
            let (plain, right) = (off(&lossy), off(&format!("{lossy}, debias")));
            prop_assert_eq!((plain.0, right.0), (1, 2));
            prop_assert!(right.1 < 1e-4, "{:?} {:?}", plain, right);
            prop_assert!(plain.1 > 10.0 * right.1, "{:?} {:?}", plain, right);
        }
    }

    #[test]
    fn the_mean_of_a_padded_convolution_counts_its_border() {
        let text = "module @m { symbol N 1..64 hint 9 const @w : f32[24,16,3,3] = rng normal(0, 1) seed 7 const @one : f32[] = splat 1
             func @main(%x: f32[N,16,8,8]) -> (%y: f32[N,24,4,4]) {
             %s = add %x, @one : f32[N,16,8,8]
             %y = conv %s, @w {strides=[2,2], pads=[1,1,1,1], dilations=[1,1]} : f32[N,24,4,4] return %y } }";
        let exact = tersor_ir::text::parse(text, &Default::default()).unwrap();
        let off = |pipeline: &str| {
            let mut m = exact.clone();
            run_passes(pipeline, &mut m).unwrap();
            let channel = |m: &Module| -> Vec<f64> {
                let all = means(m, 24 * 16);
                all.chunks(16).map(|c| c.iter().sum::<f64>() / 16.0).collect()
            };
            channel(&m).iter().zip(channel(&exact)).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
        };
        let (plain, right) = (off("quantize{acts=none, bits=3}"), off("quantize{acts=none, bits=3}, debias"));
        assert!(right < 0.1 * plain, "{plain} {right}");
    }
}
