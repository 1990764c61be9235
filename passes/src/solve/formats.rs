//! Four-bit floating formats, and tables of levels in general: codes index a table, times a scale for each group of neighbours in a row.

use super::grid::{Codec, ScaleType};
use super::{Mat, by_rows};
use tersor_ir::{DType, Tensor};

/// Levels of NF4 (Dettmers et al., 2023): quantiles of the normal distribution, seven below 0 and eight above.
pub const NF4: [f64; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];
/// Magnitudes of bitsandbytes' FP4, which is not E2M1; both signs.
pub const FP4: [f64; 8] = [0.0, 0.0625 / 12.0, 1.0 / 6.0, 0.25, 1.0 / 3.0, 0.5, 2.0 / 3.0, 1.0];
/// Magnitudes of E2M1 (OCP MX specification); both signs.
pub const E2M1: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// Levels in ascending order, times a scale for each group.
#[derive(Clone, PartialEq, Debug)]
pub struct Table {
    /// The levels; a code is an index. One of them is 0.
    pub levels: Vec<f64>,
    /// Neighbours that share a scale.
    pub group: usize,
    /// Groups in a row.
    pub groups: usize,
    /// The scale of each group, row after row; positive.
    pub scale: Vec<f64>,
}

/// Magnitudes and their negatives in ascending order, 0 once.
pub fn signed(magnitudes: &[f64]) -> Vec<f64> {
    magnitudes.iter().rev().filter(|&&m| m > 0.0).map(|m| -m).chain(magnitudes.iter().copied()).collect()
}

impl Table {
    /// A table whose largest level is put on the largest magnitude of each group. `group` 0 is the whole row.
    pub fn absmax(w: &Mat, levels: Vec<f64>, group: usize, scales: ScaleType) -> Table {
        let top = levels.iter().fold(0f64, |m, l| m.max(l.abs()));
        Table::scaled(w, levels, group, |absmax, _| scales.round(absmax / top))
    }
    /// A table with the scales that `scale` gives for each group's largest magnitude and elements.
    pub fn scaled(w: &Mat, levels: Vec<f64>, group: usize, scale: impl Fn(f64, &[f64]) -> f64 + Sync) -> Table {
        let group = if group == 0 { w.cols } else { group.min(w.cols) }.max(1);
        let groups = w.cols.div_ceil(group);
        let mut out = vec![1.0; w.rows * groups];
        by_rows(&mut out, groups, |i, row| {
            for (s, part) in row.iter_mut().zip(w.row(i).chunks(group)) {
                let absmax = largest(part);
                *s = if absmax > 0.0 { scale(absmax, part) } else { 1.0 };
            }
        });
        Table { levels, group, groups, scale: out }
    }
    /// The index of the nearest level; of two as near, the one an even number of levels away from 0.
    fn nearest(&self, v: f64) -> usize {
        let above = self.levels.partition_point(|l| *l < v);
        if above == 0 {
            return 0;
        }
        if above == self.levels.len() {
            return above - 1;
        }
        let (down, up) = (v - self.levels[above - 1], self.levels[above] - v);
        let zero = self.levels.partition_point(|l| *l < 0.0);
        let even = above.abs_diff(zero) % 2 == 0;
        if up < down || (up == down && even) { above } else { above - 1 }
    }
    fn scale_at(&self, row: usize, col: usize) -> f64 {
        self.scale[row * self.groups + col / self.group]
    }
}

impl Codec for Table {
    fn encode(&self, row: usize, col: usize, w: f64) -> i16 {
        self.nearest(w / self.scale_at(row, col)) as i16
    }
    fn decode(&self, row: usize, col: usize, code: i16) -> f64 {
        self.levels[code as usize] * self.scale_at(row, col)
    }
}

fn largest(w: &[f64]) -> f64 {
    w.iter().fold(0f64, |m, v| m.max(v.abs()))
}

/// How MXFP4 chooses the exponent of a block.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum MxRule {
    /// `⌊log2 absmax⌋ - 2`: what lies above 6 is clamped.
    Floor,
    /// One more where the mantissa of the largest magnitude is at least 1.75.
    Round,
    /// The least that clamps nothing.
    Ceil,
    /// Of the first and its successor the one with the least squared error.
    Best,
}

/// Elements of an MXFP4 block.
pub const MX_BLOCK: usize = 32;
/// Elements of an NVFP4 block.
pub const NV_BLOCK: usize = 16;

/// E2M1 codes by blocks of 32 with a power of two (OCP MX specification).
pub fn mxfp4(w: &Mat, rule: MxRule) -> Table {
    let levels = signed(&E2M1);
    let power = |e: f64| e.clamp(-126.0, 125.0).exp2();
    Table::scaled(w, levels.clone(), MX_BLOCK, |absmax, part| {
        let floor = absmax.log2().floor();
        let mantissa = absmax / floor.exp2();
        match rule {
            MxRule::Floor => power(floor - 2.0),
            MxRule::Round => power(floor - 2.0 + f64::from(mantissa >= 1.75)),
            MxRule::Ceil => power((absmax / 6.0).log2().ceil()),
            MxRule::Best => {
                let error = |e: f64| {
                    let t = Table { levels: levels.clone(), group: part.len(), groups: 1, scale: vec![power(e)] };
                    part.iter().map(|&v| (v - t.round(0, 0, v)).powi(2)).sum::<f64>()
                };
                let (low, high) = (floor - 2.0, floor - 1.0);
                power(if error(high) < error(low) { high } else { low })
            }
        }
    })
}

/// E2M1 codes by blocks of 16 with an E4M3 scale, and one scale for all; gives the block scales, to be multiplied by the last.
pub fn nvfp4(w: &Mat) -> (Table, Vec<f64>, f64) {
    let absmax = largest(&w.data);
    let global = if absmax > 0.0 { ((absmax / (448.0 * 6.0)) as f32).max(f32::MIN_POSITIVE) } else { 1.0 };
    let blocks = Table::scaled(w, signed(&E2M1), NV_BLOCK, |absmax, _| absmax / 6.0 / f64::from(global));
    let stored = Tensor::from_f64(DType::F8E4M3, [blocks.scale.len()], &blocks.scale).to_f64();
    // The least positive E4M3 number stands for what vanishes beside it.
    let stored: Vec<f64> = stored.into_iter().map(|s| s.max(2f64.powi(-9))).collect();
    let scale = stored.iter().map(|&s| f64::from(s as f32 * global)).collect();
    (Table { scale, ..blocks }, stored, global.into())
}

/// Levels with the least squared distance to the values (Lloyd, 1982), each value weighed, found from `levels`; 0 stays a level. The error never grows.
pub fn fit_levels(values: &[(f64, f64)], levels: &[f64], steps: usize) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut levels = levels.to_vec();
    levels.sort_by(f64::total_cmp);
    for _ in 0..steps {
        let before = levels.clone();
        let mut from = 0;
        for i in 0..levels.len() {
            let edge = before.get(i + 1).map_or(f64::INFINITY, |next| (before[i] + next) / 2.0);
            let to = from + sorted[from..].partition_point(|v| v.0 < edge);
            let (sum, weight) = sorted[from..to].iter().fold((0.0, 0.0), |(s, w), v| (s + v.0 * v.1, w + v.1));
            if weight > 0.0 && before[i] != 0.0 {
                levels[i] = sum / weight;
            }
            from = to;
        }
        if levels == before {
            break;
        }
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::super::problems::{assert_near, heavy, normal};
    use super::*;
    use proptest::prelude::*;
    use tersor_ir::constant::SplitMix;

    fn relative(w: &Mat, codec: &dyn Codec) -> f64 {
        w.minus(&codec.rounded(w)).squared_norm() / w.squared_norm()
    }

    #[test]
    fn tables_are_monotone_and_have_zero() {
        for t in [NF4.to_vec(), signed(&FP4), signed(&E2M1)] {
            assert!(t.is_sorted() && t.contains(&0.0));
        }
        let codes: Vec<f64> = (0..8).map(f64::from).collect();
        let e2m1 = Tensor::from_f64(DType::F4E2M1, [8], &E2M1);
        let bits = e2m1.bytes().iter().flat_map(|b| [b & 15, b >> 4]).map(f64::from).collect::<Vec<_>>();
        assert_eq!(bits, codes);
    }

    proptest! {
        #[test]
        fn codes_come_back_and_errors_stay_in_half_the_gap(seed in any::<u64>(), rows in 1usize..5, cols in 1usize..70, which in 0usize..5) {
            let w = normal(rows, cols, &mut SplitMix(seed));
            let t = match which {
                0 => Table::absmax(&w, NF4.to_vec(), 64, ScaleType::F32),
                1 => Table::absmax(&w, signed(&FP4), 0, ScaleType::F16),
                2 => mxfp4(&w, MxRule::Ceil),
                3 => mxfp4(&w, MxRule::Best),
                _ => nvfp4(&w).0,
            };
            for code in 0..t.levels.len() as i16 {
                prop_assert_eq!(t.encode(0, 0, t.decode(0, 0, code)), code);
            }
            for i in 0..rows {
                for j in 0..cols {
                    let (v, s) = (w.at(i, j), t.scale_at(i, j));
                    let nearest = t.levels.iter().map(|l| (v - l * s).abs()).fold(f64::INFINITY, f64::min);
                    prop_assert!(((v - t.round(i, j, v)).abs() - nearest).abs() <= 1e-12);
                }
            }
        }
    }

    #[test]
    fn ties_go_to_the_even_code() {
        let t = Table { levels: signed(&E2M1), group: 1, groups: 1, scale: vec![1.0] };
        let expected = [(0.25, 0.0), (0.75, 1.0), (1.25, 1.0), (1.75, 2.0), (2.5, 2.0), (3.5, 4.0), (5.0, 4.0)];
        for (v, r) in expected {
            assert_eq!((t.round(0, 0, v), t.round(0, 0, -v)), (r, -r), "{v}");
        }
    }

    #[test]
    fn blocks_of_zeros_are_exact() {
        let w = Mat::zeros(2, 40);
        for t in [mxfp4(&w, MxRule::Best), nvfp4(&w).0, Table::absmax(&w, NF4.to_vec(), 16, ScaleType::F32)] {
            assert_eq!(t.rounded(&w), w);
            assert!(t.scale.iter().all(|s| *s > 0.0));
        }
    }

    #[test]
    fn errors_are_the_published_ones() {
        let table =
            |levels: &'static [f64], group| move |w: &Mat| Table::absmax(w, signed(levels), group, ScaleType::F32);
        let mx = |rule| move |w: &Mat| mxfp4(w, rule);
        type Encoder = Box<dyn Fn(&Mat) -> Table>;
        let cases: Vec<(&str, Encoder, f64, f64)> = vec![
            ("nf4", Box::new(|w: &Mat| Table::absmax(w, NF4.to_vec(), 64, ScaleType::F32)), 0.0084, 0.0125),
            ("e2m1 g64", Box::new(table(&E2M1, 64)), 0.0112, 0.0138),
            ("fp4 g64", Box::new(table(&FP4, 64)), 0.0149, 0.0287),
            ("e2m1 g16", Box::new(table(&E2M1, 16)), 0.0089, 0.0081),
            ("mx floor", Box::new(mx(MxRule::Floor)), 0.0132, 0.0174),
            ("mx round", Box::new(mx(MxRule::Round)), 0.0125, 0.0167),
            ("mx ceil", Box::new(mx(MxRule::Ceil)), 0.0134, 0.0195),
            ("mx best", Box::new(mx(MxRule::Best)), 0.0125, 0.0163),
            ("nvfp4", Box::new(|w: &Mat| nvfp4(w).0), 0.0091, 0.0085),
        ];
        let mut g = SplitMix(5);
        let (gauss, t4) = (normal(256, 512, &mut g), heavy(256, 512, &mut g));
        for (name, encode, on_gauss, on_t4) in cases {
            assert_near(name, relative(&gauss, &encode(&gauss)), on_gauss);
            assert_near(name, relative(&t4, &encode(&t4)), on_t4);
        }
    }

    #[test]
    fn fitted_levels_are_no_worse_than_where_they_started() {
        let w = heavy(64, 256, &mut SplitMix(2));
        let mut t = Table::absmax(&w, NF4.to_vec(), 64, ScaleType::F32);
        let mut last = relative(&w, &t);
        let start = last;
        let values: Vec<(f64, f64)> = (0..w.data.len())
            .map(|at| (w.data[at] / t.scale_at(at / 256, at % 256), t.scale_at(at / 256, at % 256).powi(2)))
            .collect();
        for _ in 0..8 {
            t.levels = fit_levels(&values, &t.levels, 1);
            let now = relative(&w, &t);
            assert!(now <= last * (1.0 + 1e-12), "{now} after {last}");
            last = now;
        }
        assert!(t.levels.contains(&0.0) && last < 0.97 * start, "{start} {last}");
    }
}
