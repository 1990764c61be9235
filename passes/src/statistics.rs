//! What calibration knows about values: ranges, channel maxima, histograms, a sample; and its file.
//!
//! Everything merges: statistics of two halves of the data are those of the whole (the sample is the first half's).

use std::collections::BTreeMap;
use std::path::Path;
use tersor_ir::constant::ContentHash;
use tersor_ir::diag::Failure;
use tersor_ir::text::{PrintOptions, print_with};
use tersor_ir::{DType, Diagnostic, Module, Result, Tensor};

/// Bins of a histogram.
pub const BINS: usize = 2048;
const MAGIC: &[u8; 8] = b"TSRSTAT1";
/// Fewer samples than this are warned about.
const FEW_SAMPLES: u64 = 8;

/// Counts over `-2^exponent .. 2^exponent`; the range doubles when a value falls outside, so that one pass suffices and two histograms can be added.
#[derive(Clone, PartialEq, Debug)]
pub struct Histogram {
    exponent: i32,
    bins: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { exponent: -100, bins: vec![0; BINS] }
    }
}

impl Histogram {
    fn half(&self) -> f64 {
        2f64.powi(self.exponent)
    }
    fn grow(&mut self, exponent: i32) {
        while self.exponent < exponent {
            let mut wider = vec![0; BINS];
            self.bins.iter().enumerate().for_each(|(i, n)| wider[BINS / 4 + i / 2] += n);
            self.bins = wider;
            self.exponent += 1;
        }
    }
    /// Adds finite values, none larger than `largest` in magnitude.
    fn add(&mut self, values: &[f32], largest: f64) {
        if largest >= self.half() {
            self.grow((largest.log2().floor() as i32 + 1).max(self.exponent));
        }
        let scale = BINS as f64 / 2.0 / self.half();
        for &v in values.iter().filter(|v| v.is_finite()) {
            let at = (f64::from(v) * scale).floor() as i64 + BINS as i64 / 2;
            self.bins[at.clamp(0, BINS as i64 - 1) as usize] += 1;
        }
    }
    fn merge(&mut self, other: &Histogram) {
        let mut other = other.clone();
        self.grow(other.exponent);
        other.grow(self.exponent);
        self.bins.iter_mut().zip(&other.bins).for_each(|(a, b)| *a += b);
    }
    /// Lower edge of a bin.
    fn edge(&self, bin: usize) -> f64 {
        (bin as f64 * 2.0 / BINS as f64 - 1.0) * self.half()
    }
}

/// How a range is chosen.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Estimator {
    /// All values seen.
    MinMax,
    /// All but so many percent at each end.
    Percentile(f64),
    /// The least squared error of 256 levels.
    Mse,
}

/// Statistics of one value over all calibration samples.
#[derive(Clone, Debug)]
pub struct ValueStatistics {
    /// Finite elements seen.
    pub count: u64,
    /// Elements that were NaN or infinite.
    pub not_finite: u64,
    /// Least finite element.
    pub min: f64,
    /// Largest finite element.
    pub max: f64,
    /// The axis that `absmax` and `sum` are over.
    pub channel_axis: usize,
    /// Largest magnitude of each channel.
    pub absmax: Vec<f32>,
    /// Sum of each channel.
    pub sum: Vec<f64>,
    /// Distribution.
    pub histogram: Histogram,
    /// A small part of the value for one input.
    pub sample: Option<Tensor>,
}

impl ValueStatistics {
    /// Nothing seen yet.
    pub fn new(channel_axis: usize) -> ValueStatistics {
        ValueStatistics {
            count: 0,
            not_finite: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            channel_axis,
            absmax: vec![],
            sum: vec![],
            histogram: Histogram::default(),
            sample: None,
        }
    }
    /// Adds one tensor.
    pub fn add(&mut self, t: &Tensor) {
        let values = t.to_f32();
        let channels = t.shape().get(self.channel_axis).copied().unwrap_or(1);
        let inner: usize = t.shape().iter().skip(self.channel_axis + 1).product();
        self.absmax.resize(channels.max(self.absmax.len()), 0.0);
        self.sum.resize(channels.max(self.sum.len()), 0.0);
        for (i, run) in values.chunks(inner.max(1)).enumerate() {
            let (mut absmax, mut sum) = (0f32, 0f64);
            for &v in run {
                if v.is_finite() {
                    absmax = absmax.max(v.abs());
                    sum += f64::from(v);
                    self.min = self.min.min(v.into());
                    self.max = self.max.max(v.into());
                    self.count += 1;
                } else {
                    self.not_finite += 1;
                }
            }
            let c = i % channels.max(1);
            self.absmax[c] = self.absmax[c].max(absmax);
            self.sum[c] += sum;
        }
        if self.count > 0 {
            self.histogram.add(&values, self.max.abs().max(self.min.abs()));
        }
    }
    /// Adds what another pass over other data saw.
    pub fn merge(&mut self, other: &ValueStatistics) {
        self.count += other.count;
        self.not_finite += other.not_finite;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        let n = self.absmax.len().max(other.absmax.len());
        self.absmax.resize(n, 0.0);
        self.sum.resize(n, 0.0);
        self.absmax.iter_mut().zip(&other.absmax).for_each(|(a, b)| *a = a.max(*b));
        self.sum.iter_mut().zip(&other.sum).for_each(|(a, b)| *a += b);
        self.histogram.merge(&other.histogram);
        if self.sample.is_none() {
            self.sample = other.sample.clone();
        }
    }
    /// The range that an estimator gives; contains 0. `None` when nothing finite was seen.
    pub fn range(&self, how: Estimator) -> Option<(f64, f64)> {
        if self.count == 0 {
            return None;
        }
        let (lo, hi) = (self.min.min(0.0), self.max.max(0.0));
        Some(match how {
            Estimator::MinMax => (lo, hi),
            Estimator::Percentile(p) => {
                let tail = ((1.0 - p / 100.0) * self.count as f64).floor() as u64;
                let (mut below, mut above) = (0, 0);
                let h = &self.histogram;
                let first = h.bins.iter().position(|n| {
                    below += n;
                    below > tail
                });
                let last = h.bins.iter().rposition(|n| {
                    above += n;
                    above > tail
                });
                let from = first.map_or(lo, |b| h.edge(b));
                let to = last.map_or(hi, |b| h.edge(b + 1));
                (from.clamp(lo, 0.0), to.clamp(0.0, hi))
            }
            Estimator::Mse => {
                let cost = |f: f64| self.squared_error(lo * f, hi * f);
                let steps = (0..72).map(|i| 1.0 - f64::from(i) / 80.0);
                let best = steps.map(|f| (cost(f), f)).min_by(|a, b| a.0.total_cmp(&b.0)).map_or(1.0, |b| b.1);
                (lo * best, hi * best)
            }
        })
    }
    /// Squared error of rounding to 256 levels over a range, values at the middle of their bins.
    fn squared_error(&self, lo: f64, hi: f64) -> f64 {
        let step = ((hi - lo) / 255.0).max(f64::MIN_POSITIVE);
        let h = &self.histogram;
        let one = |(i, n): (usize, &u64)| {
            let v = ((h.edge(i) + h.edge(i + 1)) / 2.0).clamp(self.min, self.max);
            let r = ((v - lo) / step).round().clamp(0.0, 255.0) * step + lo;
            *n as f64 * (v - r) * (v - r)
        };
        h.bins.iter().enumerate().filter(|(_, n)| **n > 0).map(one).sum()
    }
}

/// Statistics by value name.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Samples seen: the sum of the inputs' first extents.
    pub samples: u64,
    /// Hash of the module's text.
    pub module: Option<ContentHash>,
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
        for (name, v) in &other.values {
            match self.values.get_mut(name) {
                Some(mine) => mine.merge(v),
                None => drop(self.values.insert(name.clone(), v.clone())),
            }
        }
    }
    /// Warnings: few samples, values that are not finite.
    pub fn warnings(&self) -> Vec<Diagnostic> {
        let mut out = vec![];
        if self.samples < FEW_SAMPLES {
            let message = format!("{} calibration samples; ranges need {FEW_SAMPLES} or more", self.samples);
            out.push(Diagnostic::warning("Q0101", message));
        }
        for (name, v) in self.values.iter().filter(|(_, v)| v.not_finite > 0) {
            let message = format!("calibration: %{name} has {} elements that are NaN or infinite", v.not_finite);
            out.push(Diagnostic::warning("Q0102", message));
        }
        out
    }
    /// Refuses statistics of another module.
    pub fn check(&self, m: &Module) -> Result<()> {
        if self.module.is_none_or(|h| h == module_hash(m)) {
            return Ok(());
        }
        Err(Diagnostic::error("Q0103", "the calibration statistics are of another model or pipeline")
            .failure(Failure::Usage)
            .with_help("run `tersor calibrate` again"))
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(self.module.map_or([0; 32], |h| h.0));
        let word = |out: &mut Vec<u8>, v: u64| out.extend(v.to_le_bytes());
        word(&mut out, self.samples);
        word(&mut out, self.values.len() as u64);
        for (name, v) in &self.values {
            word(&mut out, name.len() as u64);
            out.extend(name.as_bytes());
            let exponent = i64::from(v.histogram.exponent) as u64;
            for w in [v.count, v.not_finite, v.min.to_bits(), v.max.to_bits(), v.channel_axis as u64, exponent] {
                word(&mut out, w);
            }
            word(&mut out, v.absmax.len() as u64);
            v.absmax.iter().for_each(|a| out.extend(a.to_le_bytes()));
            v.sum.iter().for_each(|a| out.extend(a.to_le_bytes()));
            v.histogram.bins.iter().for_each(|b| word(&mut out, *b));
            let sample = v.sample.as_ref().filter(|t| t.dtype() == DType::F32);
            word(&mut out, sample.map_or(u64::MAX, |t| t.shape().len() as u64));
            if let Some(t) = sample {
                t.shape().iter().for_each(|&d| word(&mut out, d as u64));
                out.extend(t.bytes());
            }
        }
        out
    }
    /// Reads what [`Statistics::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Statistics> {
        let bad = || Diagnostic::error("Q0104", "not a statistics file of this version, or cut short");
        (Reader { rest: bytes }).statistics().ok_or_else(|| bad().failure(Failure::Usage))
    }
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Statistics> {
        let shown = path.display().to_string();
        let failed = |e| Diagnostic::error("Q0105", format!("cannot read statistics: {e}")).failure(Failure::File);
        let bytes = std::fs::read(path).map_err(failed);
        bytes.and_then(|b| Statistics::from_bytes(&b)).map_err(|d| d.in_file(shown))
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(head)
    }
    fn word(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
    fn size(&mut self, each: usize) -> Option<usize> {
        let n = usize::try_from(self.word()?).ok()?;
        (n.checked_mul(each)? <= self.rest.len()).then_some(n)
    }
    fn statistics(&mut self) -> Option<Statistics> {
        if self.take(8)? != MAGIC {
            return None;
        }
        let hash: [u8; 32] = self.take(32)?.try_into().ok()?;
        let samples = self.word()?;
        let mut values = BTreeMap::new();
        for _ in 0..self.size(8)? {
            let n = self.size(1)?;
            let name = String::from_utf8(self.take(n)?.to_vec()).ok()?;
            let (count, not_finite) = (self.word()?, self.word()?);
            let (min, max) = (f64::from_bits(self.word()?), f64::from_bits(self.word()?));
            let channel_axis = usize::try_from(self.word()?).ok().filter(|&a| a < 64)?;
            let exponent = i32::try_from(self.word()? as i64).ok().filter(|e| (-100..=128).contains(e))?;
            let n = self.size(12)?;
            let absmax =
                self.take(4 * n)?.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            let sum = (0..n).map(|_| self.word().map(f64::from_bits)).collect::<Option<_>>()?;
            let bins = (0..BINS).map(|_| self.word()).collect::<Option<Vec<_>>>()?;
            bins.iter().try_fold(0u64, |a, b| a.checked_add(*b))?;
            let sample = match self.word()? {
                u64::MAX => None,
                rank => {
                    let shape: Vec<usize> = (0..rank.min(64)).map(|_| self.size(0)).collect::<Option<_>>()?;
                    let n = shape.iter().try_fold(4usize, |a, &b| a.checked_mul(b))?;
                    Some(Tensor::from_blob(DType::F32, shape, self.take(n)?.to_vec().into())?)
                }
            };
            let histogram = Histogram { exponent, bins };
            let v = ValueStatistics { count, not_finite, min, max, channel_axis, absmax, sum, histogram, sample };
            values.insert(name, v);
        }
        let module = (hash != [0; 32]).then_some(ContentHash(hash));
        self.rest.is_empty().then_some(Statistics { samples, module, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        fn merging_halves_gives_the_whole(a in values(), b in values()) {
            let whole = of(&[&a, &b]);
            let mut merged = of(&[&a]);
            merged.merge(&of(&[&b]));
            prop_assert_eq!(&merged.histogram, &whole.histogram);
            prop_assert_eq!((merged.count, merged.min, merged.max), (whole.count, whole.min, whole.max));
            prop_assert_eq!(&merged.absmax, &whole.absmax);
            prop_assert_eq!(whole.histogram.bins.iter().sum::<u64>(), (a.len() + b.len()) as u64);
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
            let all = Statistics { samples: 3, module: None, values: BTreeMap::from([("x".to_string(), s)]) };
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
        let all = Statistics { samples: 1, module: None, values: BTreeMap::from([("x".to_string(), s)]) };
        assert_eq!(all.warnings().iter().map(|d| d.code).collect::<Vec<_>>(), ["Q0101", "Q0102"]);
        assert!(of(&[&[f32::NAN, f32::NAN]]).range(Estimator::MinMax).is_none());
    }
}
