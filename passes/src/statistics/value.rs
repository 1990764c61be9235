//! What is gathered of one value: a single pass over its elements, in loops that compilers turn into vector code.

use super::Histogram;
use crate::gram::Gram;
use crate::patches::{Patches, Window};
use crate::sample;
use tersor_ir::Tensor;

/// Elements that are looked at in one go, in whole rows: they stay in a core's own cache.
const BLOCK: usize = 1 << 16;
/// Channels whose accumulators are kept near.
const STRIP: usize = 256;
/// Elements of one channel that are accumulated side by side.
const LANES: usize = 8;

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
    /// The axis of the channels.
    pub channel_axis: usize,
    /// Largest magnitude of each channel.
    pub absmax: Vec<f32>,
    /// Sum of each channel's elements.
    pub sum: Vec<f64>,
    /// Sum of the magnitudes of each channel's elements.
    pub abs_sum: Vec<f64>,
    /// Sum of the squares of each channel's elements.
    pub square_sum: Vec<f64>,
    /// Distribution.
    pub histogram: Histogram,
    /// A small part of the value for one input.
    pub sample: Option<Tensor>,
    /// Gram matrix of the rows along the last axis, where a tap asked for it.
    pub gram: Option<Gram>,
    /// Gram matrices of the windows of convolutions, one for each group, where a tap asked for them.
    pub windows: Vec<(Window, Vec<Gram>)>,
}

/// Accumulators of a strip of channels, or of the lanes of one.
struct Strip<const N: usize> {
    lo: [f32; N],
    hi: [f32; N],
    sum: [f64; N],
    abs: [f64; N],
    square: [f64; N],
}

impl<const N: usize> Strip<N> {
    const NONE: Strip<N> =
        Strip { lo: [f32::INFINITY; N], hi: [f32::NEG_INFINITY; N], sum: [0.0; N], abs: [0.0; N], square: [0.0; N] };

    /// Adds up to `N` elements, one to each accumulator.
    #[inline(always)]
    fn add(&mut self, x: &[f32]) {
        let n = x.len();
        let (lo, hi, sum) = (&mut self.lo[..n], &mut self.hi[..n], &mut self.sum[..n]);
        let (abs, square) = (&mut self.abs[..n], &mut self.square[..n]);
        for i in 0..n {
            let (v, wide) = (x[i], f64::from(x[i]));
            lo[i] = if v < lo[i] { v } else { lo[i] };
            hi[i] = if v > hi[i] { v } else { hi[i] };
            sum[i] += wide;
            abs[i] += wide.abs();
            square[i] += wide * wide;
        }
    }
    /// All lanes in one.
    fn fold(&self) -> Strip<1> {
        let total = |a: &[f64; N]| [a.iter().sum()];
        let lo = [self.lo.iter().fold(f32::INFINITY, |a, b| a.min(*b))];
        let hi = [self.hi.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b))];
        Strip { lo, hi, sum: total(&self.sum), abs: total(&self.abs), square: total(&self.square) }
    }
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
            abs_sum: vec![],
            square_sum: vec![],
            histogram: Histogram::default(),
            sample: None,
            gram: None,
            windows: vec![],
        }
    }
    /// The Gram matrices of these rows, one for each group.
    pub fn grams(&self, of: &Patches) -> Option<&[Gram]> {
        match of {
            Patches::Rows => self.gram.as_ref().map(std::slice::from_ref),
            Patches::Windows(w) => self.windows.iter().find(|(x, _)| x == w).map(|(_, g)| &g[..]),
        }
    }
    /// All Gram matrices.
    pub fn all_grams(&self) -> impl Iterator<Item = &Gram> {
        self.gram.iter().chain(self.windows.iter().flat_map(|(_, g)| g))
    }
    /// Elements seen of each channel, finite or not.
    fn per_channel(&self) -> f64 {
        (self.count + self.not_finite) as f64 / self.absmax.len().max(1) as f64
    }
    /// Mean of each channel; what is not finite counts as 0, here and in the other means.
    pub fn mean(&self) -> Vec<f64> {
        self.sum.iter().map(|s| s / self.per_channel().max(1.0)).collect()
    }
    /// Mean magnitude of each channel.
    pub fn absmean(&self) -> Vec<f64> {
        self.abs_sum.iter().map(|s| s / self.per_channel().max(1.0)).collect()
    }
    /// Mean square of each channel.
    pub fn second_moment(&self) -> Vec<f64> {
        self.square_sum.iter().map(|s| s / self.per_channel().max(1.0)).collect()
    }
    /// Keeps these positions of each axis, all where it says `None`. The distribution stays that of all, and so does the range.
    pub fn narrow(&mut self, kept: &[Option<Vec<usize>>]) {
        let rank = kept.len();
        let of = |axis: usize| kept.get(axis).and_then(Option::as_ref);
        if let Some(k) = of(self.channel_axis).filter(|k| k.iter().all(|&i| i < self.absmax.len())) {
            let part = |n: u64, all: usize| n / all.max(1) as u64 * k.len() as u64;
            (self.count, self.not_finite) =
                (part(self.count, self.absmax.len()), part(self.not_finite, self.absmax.len()));
            self.absmax = k.iter().map(|&i| self.absmax[i]).collect();
            for sums in [&mut self.sum, &mut self.abs_sum, &mut self.square_sum] {
                *sums = k.iter().map(|&i| sums[i]).collect();
            }
        }
        self.sample = self.sample.take().and_then(|t| sample::part(&t, kept));
        let rows = of(rank.saturating_sub(1));
        let part = |g: Gram| rows.map_or_else(|| Some(g.clone()), |k| k.iter().all(|&i| i < g.dim).then(|| g.part(k)));
        self.gram = self.gram.take().and_then(part);
        self.windows.retain_mut(|(w, grams)| {
            let rows = Patches::Windows(w.clone());
            let Some(k) = of(rows.axis(rank)) else { return true };
            let taps = rows.extent(w.groups).1;
            let columns: Vec<usize> = k.iter().flat_map(|c| c * taps..(c + 1) * taps).collect();
            let fits = w.groups == 1 && grams.iter().all(|g| columns.iter().all(|&c| c < g.dim));
            grams.iter_mut().filter(|_| fits).for_each(|g| *g = g.part(&columns));
            fits
        });
    }
    fn widen(&mut self, channels: usize) {
        let n = channels.max(self.absmax.len());
        self.absmax.resize(n, 0.0);
        for sums in [&mut self.sum, &mut self.abs_sum, &mut self.square_sum] {
            sums.resize(n, 0.0);
        }
    }
    /// Adds one tensor.
    pub fn add(&mut self, t: &Tensor) {
        let values = t.f32s();
        let channels = t.shape().get(self.channel_axis).copied().unwrap_or(1);
        let inner: usize = t.shape().iter().skip(self.channel_axis + 1).product();
        let row = channels * inner;
        if values.is_empty() {
            return;
        }
        self.widen(channels);
        for block in values.chunks((BLOCK / row).max(1) * row) {
            // The exponent of what is not finite is the largest; magnitudes compare as their bits do.
            let largest = block.iter().fold(0, |a, v| a.max((v.to_bits() & !(1 << 31)) as i32));
            let largest = f32::from_bits(largest as u32);
            if !largest.is_finite() {
                self.add_some(block, channels, inner);
                continue;
            }
            self.count += block.len() as u64;
            match inner {
                1 => self.add_rows(block, channels),
                _ => self.add_runs(block, channels, inner),
            }
            self.histogram.add(block, largest);
        }
    }
    /// Rows of one element for each channel.
    fn add_rows(&mut self, block: &[f32], channels: usize) {
        for first in (0..channels).step_by(STRIP) {
            let mut strip = Strip::<STRIP>::NONE;
            let strip_of = first..channels.min(first + STRIP);
            block.chunks_exact(channels).for_each(|row| strip.add(&row[strip_of.clone()]));
            self.take(first, strip_of.len(), &strip);
        }
    }
    /// Runs of elements of one channel after the other.
    fn add_runs(&mut self, block: &[f32], channels: usize, inner: usize) {
        for (i, run) in block.chunks_exact(inner).enumerate() {
            let mut lanes = Strip::<LANES>::NONE;
            let whole = run.chunks_exact(LANES);
            let rest = whole.remainder();
            whole.for_each(|x| lanes.add(x));
            lanes.add(rest);
            self.take(i % channels, 1, &lanes.fold());
        }
    }
    /// Elements of which not all are finite.
    fn add_some(&mut self, block: &[f32], channels: usize, inner: usize) {
        let mut finite = vec![];
        for (i, &v) in block.iter().enumerate() {
            if v.is_finite() {
                let mut one = Strip::<1>::NONE;
                one.add(&[v]);
                self.take(i / inner % channels, 1, &one);
                finite.push(v);
            }
        }
        self.count += finite.len() as u64;
        self.not_finite += (block.len() - finite.len()) as u64;
        self.histogram.add(&finite, finite.iter().fold(0f32, |a, v| a.max(v.abs())));
    }
    /// What the first `n` accumulators hold, for the channels from `first` on.
    fn take<const N: usize>(&mut self, first: usize, n: usize, strip: &Strip<N>) {
        for i in 0..n {
            let (c, lo, hi) = (first + i, strip.lo[i], strip.hi[i]);
            self.absmax[c] = self.absmax[c].max(hi.max(-lo));
            self.sum[c] += strip.sum[i];
            self.abs_sum[c] += strip.abs[i];
            self.square_sum[c] += strip.square[i];
            self.min = self.min.min(lo.into());
            self.max = self.max.max(hi.into());
        }
    }
    /// Adds what another pass over other data saw.
    pub fn merge(&mut self, other: &ValueStatistics) {
        self.count += other.count;
        self.not_finite += other.not_finite;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.widen(other.absmax.len());
        self.absmax.iter_mut().zip(&other.absmax).for_each(|(a, b)| *a = a.max(*b));
        let sums = [&mut self.sum, &mut self.abs_sum, &mut self.square_sum];
        for (mine, theirs) in sums.into_iter().zip([&other.sum, &other.abs_sum, &other.square_sum]) {
            mine.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
        }
        self.histogram.merge(&other.histogram);
        if self.sample.is_none() {
            self.sample = other.sample.clone();
        }
        // What only one side has is not of the whole.
        let fit = |a: &[Gram], b: &[Gram]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.dim == b.dim);
        let add = |a: &mut [Gram], b: &[Gram]| a.iter_mut().zip(b).for_each(|(a, b)| a.merge(b));
        self.gram = self.gram.take().zip(other.gram.as_ref()).filter(|(a, b)| a.dim == b.dim).map(|(mut a, b)| {
            a.merge(b);
            a
        });
        self.windows.retain_mut(|(window, mine)| match other.grams(&Patches::Windows(window.clone())) {
            Some(theirs) if fit(mine, theirs) => {
                add(mine, theirs);
                true
            }
            _ => false,
        });
    }
}
