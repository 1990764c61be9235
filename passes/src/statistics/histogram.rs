//! Counts over a range that doubles as values ask for it, so that one pass suffices and two histograms can be added.

/// Bins of a histogram.
pub const BINS: usize = 4096;
/// Half of them are for negative values.
const HALF: u32 = BINS as u32 / 2;
/// Values that are binned at a time.
const LANES: usize = 32;
/// The exponents that a histogram may have: below the first, values are 0; the last is that of the largest f32.
pub(super) const EXPONENTS: std::ops::RangeInclusive<i32> = -100..=128;

/// Counts over `-2^exponent .. 2^exponent`, in bins of equal width. A bin holds its edge nearer to 0, not the other.
#[derive(Clone, PartialEq, Debug)]
pub struct Histogram {
    exponent: i32,
    bins: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { exponent: *EXPONENTS.start(), bins: vec![0; BINS] }
    }
}

impl Histogram {
    /// From its parts; `None` when they are not those of a histogram.
    pub(super) fn from_parts(exponent: i32, bins: Vec<u64>) -> Option<Histogram> {
        let total = bins.iter().try_fold(0u64, |a, b| a.checked_add(*b));
        (EXPONENTS.contains(&exponent) && bins.len() == BINS && total.is_some()).then_some(Histogram { exponent, bins })
    }
    /// The range is `-2^exponent .. 2^exponent`.
    pub fn exponent(&self) -> i32 {
        self.exponent
    }
    /// The counts, from the lowest values to the highest.
    pub fn bins(&self) -> &[u64] {
        &self.bins
    }
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
    pub fn add(&mut self, values: &[f32], largest: f32) {
        if f64::from(largest) >= self.half() {
            self.grow((f64::from(largest).log2().floor() as i32 + 1).max(self.exponent));
        }
        // A power of two: products with it are exact, or so small that they are 0 in the right bin.
        let scale = (f64::from(HALF) / self.half()) as f32;
        // Two tables, so that runs of equal values do not wait for each other.
        let mut tables = [[0u32; BINS]; 2];
        for many in values.chunks(LANES * (1 << 20)) {
            let mut at = [0u32; LANES];
            let chunks = many.chunks_exact(LANES);
            let rest = chunks.remainder();
            for chunk in chunks {
                at.iter_mut().zip(chunk).for_each(|(i, v)| *i = bin(*v, scale));
                for pair in at.chunks_exact(2) {
                    tables[0][pair[0] as usize % BINS] += 1;
                    tables[1][pair[1] as usize % BINS] += 1;
                }
            }
            rest.iter().for_each(|v| tables[0][bin(*v, scale) as usize % BINS] += 1);
            for (i, n) in self.bins.iter_mut().enumerate() {
                *n += u64::from(std::mem::take(&mut tables[0][i])) + u64::from(std::mem::take(&mut tables[1][i]));
            }
        }
    }
    /// Adds the counts of another.
    pub fn merge(&mut self, other: &Histogram) {
        let mut other = other.clone();
        self.grow(other.exponent);
        other.grow(self.exponent);
        self.bins.iter_mut().zip(&other.bins).for_each(|(a, b)| *a += b);
    }
    /// Lower edge of a bin.
    pub fn edge(&self, bin: usize) -> f64 {
        (bin as f64 * 2.0 / BINS as f64 - 1.0) * self.half()
    }
}

/// The bin of a value whose magnitude times `scale` is below `HALF`, without a branch or a conversion that saturates.
#[inline(always)]
fn bin(v: f32, scale: f32) -> u32 {
    /// 2^23: adding it leaves an integer in the low bits, rounded.
    const SHIFT: f32 = 8_388_608.0;
    let y = v.abs() * scale;
    let shifted = y + SHIFT;
    let below = u32::from(shifted - SHIFT > y);
    let magnitude = shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_sub(below);
    let negative = u32::from(v < 0.0).wrapping_neg();
    HALF.wrapping_add(magnitude ^ negative)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bin_holds_what_lies_in_it(m in -1f32..1.0, e in -60i32..60, at in 1usize..BINS) {
            let mut h = Histogram::default();
            let v = m * 2f32.powi(e);
            h.add(&[v], v.abs());
            let i = h.bins().iter().position(|n| *n > 0).unwrap();
            let (lo, hi, x) = (h.edge(i), h.edge(i + 1), f64::from(v));
            prop_assert!(if x < 0.0 { lo < x && x <= hi } else { lo <= x && x < hi }, "{lo} {v} {hi}");
            // An edge goes to the bin on its far side.
            let edge = h.edge(at) as f32;
            let i = bin(edge, 2048.0 / 2f32.powi(h.exponent())) as usize;
            prop_assert_eq!(i, if edge < 0.0 { at - 1 } else { at });
        }
    }
}
