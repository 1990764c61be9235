//! `power`: weights on a grid that a power bends, found by a search without data (Yvinec et al., PowerQuant, ICLR 2023).

use crate::layer::Layer;
use crate::manager::PassCx;
use crate::propose::{Alternative, Editor, Site};
use crate::selector::Selector;
use crate::solve::formats::Table;
use crate::solve::{Codec, Mat};
use crate::weights::{Several, WeightMethod, grids};
use tersor_ir::{DType, Result};

pass! {
    /// Stores weights as symmetric codes `q` that stand for `sign(q) |q / most|^(1/a)` times the largest magnitude of their group.
    ///
    /// The exponent `a`, in (0, 1], is the one of least squared error on each weight: 1 is a uniform grid, less has finer steps around 0.
    pub struct Power = "power": Propose {
        options {
            /// Bits of a code: 3, 4, 5, 6 or 8; several as 3|4, an alternative each.
            bits: Several<u8> = Several(vec![4]),
            /// Neighbours along the sum that share a scale; 0 for all.
            group: u32 = 64,
            /// Element type of scales: f32 or f16.
            scales: DType = DType::F32,
            /// Which sites.
            select: Selector = Selector::all(),
            /// Which sites not.
            exclude: Selector = Selector::none(),
        }
        stats { "sites": "layers offered with codes" }
    }
}

/// Steps of the search for the exponent: its interval shrinks to 1/500.
const STEPS: usize = 13;

/// The levels of codes of so many bits, in ascending order, for an exponent.
fn levels(bits: u32, a: f64) -> Vec<f64> {
    let most = (1i32 << (bits - 1)) - 1;
    let level = |q: i32| f64::from(q.signum()) * (f64::from(q.abs()) / f64::from(most)).powf(1.0 / a);
    (-most..=most).map(level).collect()
}

/// The exponent with the least `error` in [0.2, 1], where that has one minimum: golden section (Kiefer, 1953).
fn exponent(error: impl Fn(f64) -> f64) -> f64 {
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    let (mut lo, mut hi) = (0.2, 1.0);
    let (mut left, mut right) = (hi - golden * (hi - lo), lo + golden * (hi - lo));
    let (mut at_left, mut at_right) = (error(left), error(right));
    for _ in 0..STEPS {
        if at_left <= at_right {
            (hi, right, at_right) = (right, left, at_left);
            left = hi - golden * (hi - lo);
            at_left = error(left);
        } else {
            (lo, left, at_left) = (left, right, at_right);
            right = lo + golden * (hi - lo);
            at_right = error(right);
        }
    }
    let found = (lo + hi) / 2.0;
    if error(1.0) <= error(found) { 1.0 } else { found }
}

/// The best table for a weight.
fn fit(w: &Mat, bits: u32, table: impl Fn(Vec<f64>) -> Table) -> (f64, Table) {
    let error = |a: f64| {
        let rounded = table(levels(bits, a)).rounded(w);
        w.data.iter().zip(&rounded.data).map(|(x, y)| (x - y) * (x - y)).sum()
    };
    let a = exponent(error);
    (a, table(levels(bits, a)))
}

impl WeightMethod for Power {
    fn selectors(&self) -> (&Selector, &Selector) {
        (&self.select, &self.exclude)
    }
    fn check(&self) -> Result<()> {
        grids("power", &self.bits, self.group, false, self.scales).map(drop)
    }
    fn offer(&self, layer: &Layer, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        let mut out = vec![];
        for grid in grids(cx.pass(), &self.bits, self.group, false, self.scales)? {
            if grid.bits == 2 {
                cx.decline(site, "codes of 2 bits are -1, 0 and 1, which no power bends");
                return Ok(vec![]);
            }
            let table = |levels| Table::absmax(&layer.w, levels, grid.group, grid.scales);
            let (a, table) = fit(&layer.w, grid.bits, table);
            cx.detail(format!("%{}: exponent {a:.3}", site.name));
            let weight = layer.table(b, &table, &table.codes(&layer.w), grid.bits, grid.scales)?;
            let group = if grid.group > 0 { format!("g{}", grid.group) } else { String::new() };
            out.push(Alternative {
                name: format!("power{}{group}", grid.bits),
                value: layer.apply(b, layer.x, weight)?,
            });
        }
        cx.count("sites", 1);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solve::problems::normal;
    use tersor_ir::constant::SplitMix;

    /// A table whose scale is the largest magnitude of the whole weight.
    fn whole(w: &Mat, levels: Vec<f64>) -> Table {
        let most = w.data.iter().fold(0f64, |m, x| m.max(x.abs()));
        Table::scaled(w, levels, 0, |_, _| most)
    }

    /// The exponent, and the squared error over that of a uniform grid.
    fn found(w: &Mat, bits: u32) -> (f64, f64) {
        let error = |t: &Table| w.data.iter().zip(&t.rounded(w).data).map(|(x, y)| (x - y) * (x - y)).sum::<f64>();
        let (a, best) = fit(w, bits, |l| whole(w, l));
        (a, error(&best) / error(&whole(w, levels(bits, 1.0))))
    }

    #[test]
    fn an_exponent_of_one_is_a_uniform_grid_and_levels_rise() {
        for bits in [3, 4, 8] {
            let uniform = levels(bits, 1.0);
            let step = uniform[1] - uniform[0];
            assert!(uniform.windows(2).all(|w| (w[1] - w[0] - step).abs() < 1e-12));
            assert!(levels(bits, 0.4).windows(2).all(|w| w[0] < w[1]));
        }
    }

    #[test]
    fn bell_shapes_bend_the_grid_and_flat_ones_do_not() {
        let mut g = SplitMix(7);
        let gauss = normal(128, 512, &mut g);
        let (a, gain) = found(&gauss, 4);
        assert!((0.52..0.73).contains(&a) && (0.55..0.73).contains(&gain), "{a} {gain}");
        let (a, gain) = found(&gauss, 3);
        assert!((0.55..0.75).contains(&a) && (0.53..0.73).contains(&gain), "{a} {gain}");
        let laplace = Mat::from_fn(128, 512, |i, j| gauss.data[i * 512 + j].powi(2) * gauss.data[i * 512 + j].signum());
        let (a, gain) = found(&laplace, 4);
        assert!(a < 0.5 && gain < 0.4, "{a} {gain}");
        let flat = Mat::from_fn(64, 256, |_, _| 2.0 * g.unit() - 1.0);
        let (a, gain) = found(&flat, 4);
        assert!(a > 0.93 && gain <= 1.0, "{a} {gain}");
    }
}
