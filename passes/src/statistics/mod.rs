//! What calibration knows about values: ranges, channel moments, histograms, a sample; and its file.
//!
//! Everything merges: statistics of two halves of the data are those of the whole (the sample is the first half's).

mod file;
mod histogram;
mod range;
mod value;

pub use histogram::{BINS, Histogram};
pub use range::Estimator;
pub use value::ValueStatistics;

use crate::gram::Gram;
use crate::patches::{Patches, Tap};
use std::collections::BTreeMap;
use tersor_ir::constant::ContentHash;
use tersor_ir::diag::Failure;
use tersor_ir::text::{PrintOptions, print_with};
use tersor_ir::{DType, Diagnostic, Func, Module, Result, Tensor};

/// Fewer samples than this are warned about.
const FEW_SAMPLES: u64 = 8;

/// Statistics by value name.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Samples seen: the sum of the inputs' first extents.
    pub samples: u64,
    /// Samples that are equal to one before.
    pub repeated: u64,
    /// Hash of the module's text.
    pub module: Option<ContentHash>,
    /// Hash of the calibration data, as far as they have one.
    pub data: Option<ContentHash>,
    pub(crate) values: BTreeMap<String, ValueStatistics>,
}

/// The hash that ties statistics to a module: of its text, constants by content.
pub fn module_hash(m: &Module) -> ContentHash {
    let text = print_with(m, PrintOptions { statistics: false, locations: false });
    ContentHash::of(DType::U8, &[text.len()], text.as_bytes())
}

impl Statistics {
    /// Those of a value.
    pub fn get(&self, name: &str) -> Option<&ValueStatistics> {
        self.values.get(name)
    }
    /// Those of a value that lost positions: of each axis these are left, all where it says `None`.
    pub fn narrow(&mut self, name: &str, kept: &[Option<Vec<usize>>]) {
        if let Some(v) = self.values.get_mut(name) {
            v.narrow(kept);
        }
    }
    /// Knows the statistics of one value by a second name too.
    pub fn alias(&mut self, name: &str, other: &str) {
        if let Some(s) = self.get(name).cloned().filter(|_| self.get(other).is_none()) {
            self.values.insert(other.to_string(), s);
        }
    }
    /// Names and statistics, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ValueStatistics)> {
        self.values.iter().map(|(n, v)| (n.as_str(), v))
    }
    /// Adds what another pass over other data saw.
    pub fn merge(&mut self, other: &Statistics) {
        self.samples += other.samples;
        self.repeated += other.repeated;
        self.data = self.data.filter(|d| Some(*d) == other.data);
        for (name, v) in &other.values {
            match self.values.get_mut(name) {
                Some(mine) => mine.merge(v),
                None => drop(self.values.insert(name.clone(), v.clone())),
            }
        }
    }
    /// Whether they have what these taps of a function ask for.
    pub fn cover(&self, f: &Func, taps: &[Tap]) -> bool {
        taps.iter().all(|t| {
            let found = self.get(&f.values[t.value].name);
            let fixed = |s: &Tensor| {
                let mut extents = f.values[t.value].ty.shape.iter().zip(s.shape());
                extents.all(|(d, &n)| d.as_const().is_none_or(|d| d == n as i64))
            };
            found.is_some_and(|v| {
                t.gram.as_ref().is_none_or(|g| v.grams(g).is_some())
                    && (!t.whole || v.sample.as_ref().is_some_and(fixed))
            })
        })
    }
    /// Bytes of all Gram matrices.
    pub fn gram_bytes(&self) -> usize {
        self.values.values().flat_map(ValueStatistics::all_grams).map(|g| Gram::bytes(g.dim)).sum()
    }
    /// Drops all Gram matrices, which take most of the memory.
    pub(crate) fn forget_grams(&mut self) {
        for v in self.values.values_mut() {
            (v.gram, v.windows) = (None, vec![]);
        }
    }
    /// Warnings: few samples, values that are not finite, Gram matrices of fewer rows than elements in a row.
    pub fn warnings(&self) -> Vec<Diagnostic> {
        let mut out = vec![];
        let different = self.samples.saturating_sub(self.repeated);
        if different < FEW_SAMPLES {
            let of = if self.repeated > 0 { format!(", {different} of them different") } else { String::new() };
            let message = format!("calibration samples: {}{of}; ranges need {FEW_SAMPLES} or more", self.samples);
            out.push(Diagnostic::warning("Q0101", message));
        }
        for (name, v) in self.values.iter().filter(|(_, v)| v.not_finite > 0) {
            let message = format!("calibration: %{name} has {} elements that are NaN or infinite", v.not_finite);
            out.push(Diagnostic::warning("Q0102", message));
        }
        let short = |v: &&ValueStatistics| v.all_grams().any(Gram::is_short);
        let worst = |(_, v): &(&String, &ValueStatistics)| v.all_grams().map(|g| (g.rows, g.dim)).min();
        let all: Vec<_> = self.values.iter().filter(|(_, v)| short(v)).collect();
        if let Some((name, v)) = all.first() {
            let (rows, dim) = worst(&(name, v)).unwrap_or_default();
            let message = format!("calibration: {rows} rows tell little about %{name}, which sums over {dim} elements");
            let mut d = Diagnostic::warning("Q0108", message).with_help("calibrate with more samples");
            if all.len() > 1 {
                d = d.with_note(format!("so it is with {} values", all.len()));
            }
            out.push(d);
        }
        out
    }
    /// Refuses statistics of another module.
    pub fn check(&self, m: &Module) -> Result<()> {
        let main = &m.funcs[m.main()?];
        if self.module.is_none_or(|h| h == module_hash(m)) && self.fit(main) {
            return Ok(());
        }
        Err(Diagnostic::error("Q0103", "the calibration statistics are of another model or pipeline")
            .failure(Failure::Usage)
            .with_help("run `tersor calibrate` again"))
    }
    /// Whether there is a number for each channel of each value.
    fn fit(&self, f: &Func) -> bool {
        f.values.values().all(|value| {
            let Some(v) = self.get(&value.name) else { return true };
            let extent = |axis: usize| value.ty.shape.get(axis).map_or(Some(1), |d| d.as_const());
            let is = |n: usize, axis: usize| v.count == 0 || extent(axis).is_none_or(|e| e == n as i64);
            is(v.absmax.len(), v.channel_axis)
                && v.gram.as_ref().is_none_or(|g| is(g.dim, value.ty.rank().saturating_sub(1)))
                && v.windows.iter().all(|(w, grams)| {
                    let rows = Patches::Windows(w.clone());
                    let channels = extent(rows.axis(value.ty.rank())).unwrap_or(0) as usize;
                    let (groups, dim) = rows.extent(channels);
                    grams.len() == groups && grams.iter().all(|g| g.dim == dim)
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patches::Window;
    use crate::sample;
    use proptest::prelude::*;
    use tersor_ir::Type;
    use tersor_ir::testing::Gen;

    fn of(parts: &[&[f32]]) -> ValueStatistics {
        let mut s = ValueStatistics::new(1);
        parts.iter().for_each(|p| s.add(&Tensor::from_f32([p.len() / 2, 2], p)));
        s
    }

    fn values() -> impl Strategy<Value = Vec<f32>> {
        let one = (-1f32..1.0, -8i32..8).prop_map(|(m, e)| m * 10f32.powi(e));
        prop::collection::vec(prop_oneof![9 => one, 1 => Just(0.0)], 2..60).prop_map(|mut v| {
            v.truncate(v.len() / 2 * 2);
            v
        })
    }

    proptest! {
        #[test]
        fn what_is_left_of_channels_is_what_they_alone_would_have_given(
            seed in 1u64..1 << 40,
            channels in 1usize..7,
            channels_last: bool,
            pad in 0usize..2,
        ) {
            let axis = if channels_last { 3 } else { 1 };
            let mut shape = vec![2, 4, 4];
            shape.insert(axis, channels);
            let t = Gen::new(seed).tensor(&Type::new(DType::F32, shape));
            let (kernel, pads) = (vec![2, 3], vec![pad; 4]);
            let w = Window { kernel, strides: vec![1, 2], pads, dilations: vec![1, 1], groups: 1, channels_last };
            let seen = |t: &Tensor| {
                let (mut s, mut g) = (ValueStatistics::new(axis), Gram::new(t.shape()[axis] * 6));
                s.add(t);
                w.blocks(t, 0, g.dim, 16, &mut |rows| g.add(rows));
                s.windows = vec![(w.clone(), vec![g])];
                s
            };
            let mut kept = vec![None; 4];
            kept[axis] = Some((0..channels).filter(|c| *c == 0 || (seed >> c) % 2 == 0).rev().collect());
            let mut narrowed = seen(&t);
            narrowed.narrow(&kept);
            let alone = seen(&sample::part(&t, &kept).unwrap());
            prop_assert_eq!(&narrowed.sum, &alone.sum);
            prop_assert_eq!(narrowed.count, alone.count);
            let (a, b) = (&narrowed.windows[0].1[0], &alone.windows[0].1[0]);
            prop_assert_eq!((a.rows, a.dim, &a.total), (b.rows, b.dim, &b.total));
            prop_assert!(a.sum.iter().zip(&b.sum).all(|(a, b)| (a - b).abs() < 1e-9));
        }
        #[test]
        fn merging_halves_gives_the_whole(a in values(), b in values()) {
            let whole = of(&[&a, &b]);
            let mut merged = of(&[&a]);
            merged.merge(&of(&[&b]));
            prop_assert_eq!(&merged.histogram, &whole.histogram);
            prop_assert_eq!((merged.count, merged.min, merged.max), (whole.count, whole.min, whole.max));
            prop_assert_eq!(&merged.absmax, &whole.absmax);
            prop_assert_eq!(whole.histogram.bins().iter().sum::<u64>(), (a.len() + b.len()) as u64);
        }

        #[test]
        fn ranges_nest(a in values(), p in 50f64..100.0) {
            let s = of(&[&a]);
            let (lo, hi) = s.range(Estimator::MinMax).unwrap();
            for how in [Estimator::Percentile(p), Estimator::Mse] {
                let (l, h) = s.range(how).unwrap();
                prop_assert!(lo <= l && l <= 0.0 && 0.0 <= h && h <= hi, "{how:?}: {l} {h} in {lo} {hi}");
            }
            let (l, h) = s.range(Estimator::Mse).unwrap();
            prop_assert!(s.squared_error(lo, hi) >= s.squared_error(l, h));
        }

        #[test]
        fn files_round_trip_and_cut_ones_are_refused(a in values(), cut in 0usize..20000) {
            let mut s = of(&[&a]);
            s.sample = Some(Tensor::from_f32([a.len() / 2, 2], &a));
            let all = Statistics { samples: 3, repeated: 0, module: None, data: None, values: BTreeMap::from([("x".to_string(), s)]) };
            let bytes = all.to_bytes();
            prop_assert_eq!(Statistics::from_bytes(&bytes).unwrap().to_bytes(), bytes.clone());
            let cut = cut % bytes.len();
            prop_assert!(Statistics::from_bytes(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn an_outlier_is_outside_the_percentile() {
        let mut v: Vec<f32> = (0..20_000).map(|i| i as f32 / 20_000.0).collect();
        v[7] = 1000.0;
        let s = of(&[&v]);
        assert_eq!(s.range(Estimator::MinMax).unwrap(), (0.0, 1000.0));
        assert!(s.range(Estimator::Percentile(99.9)).unwrap().1 < 2.0);
        assert!(s.range(Estimator::Mse).unwrap().1 <= 1000.0);
    }

    #[test]
    fn what_is_not_finite_is_counted_and_warned_about() {
        let s = of(&[&[1.0, f32::NAN, f32::INFINITY, 2.0]]);
        assert_eq!((s.count, s.not_finite, s.min, s.max), (2, 2, 1.0, 2.0));
        let all = Statistics {
            samples: 20,
            repeated: 19,
            module: None,
            data: None,
            values: BTreeMap::from([("x".to_string(), s)]),
        };
        assert_eq!(all.warnings().iter().map(|d| d.code).collect::<Vec<_>>(), ["Q0101", "Q0102"]);
        assert!(of(&[&[f32::NAN, f32::NAN]]).range(Estimator::MinMax).is_none());
    }
}
