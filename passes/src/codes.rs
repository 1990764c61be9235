//! Symmetric integer codes of a weight, one scale for each output channel.

use tersor_ir::{DType, Tensor};

/// How a weight is rounded.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Rounding {
    /// Bits of a code, 2 to 8.
    pub bits: u8,
    /// Whether scales shrink where that lowers a channel's squared error.
    pub clip: bool,
    /// Whether two neighbours along the product's reduction (elements 0 and 1, 2 and 3, …) add up to at most [`PAIR`] in magnitude.
    pub narrow: bool,
}

/// With unsigned bytes `255 * 128` still is an `i16`.
pub const PAIR: i32 = 128;

/// Codes with their scales.
pub struct Codes {
    /// Codes in the weight's order.
    pub codes: Vec<i8>,
    /// Scale of each channel.
    pub scales: Vec<f32>,
    /// Sum of each channel's codes.
    pub sums: Vec<i64>,
}

impl Codes {
    /// Rounds a weight; `None` when an element is not finite.
    ///
    /// Of the scales that `how` admits, each channel takes the one with the least squared error.
    pub fn of(w: &Tensor, channel: usize, how: Rounding) -> Option<Codes> {
        let top = ((1i32 << (how.bits - 1)) - 1) as f32;
        let values = w.to_f32();
        if values.iter().any(|v| !v.is_finite()) {
            return None;
        }
        let n = w.shape()[channel];
        let (mut codes, mut scales, mut sums) = (vec![0; values.len()], vec![], vec![]);
        let order = Order::of(w.shape(), channel);
        for c in 0..n {
            let at: Vec<usize> = order.positions(c).collect();
            let row: Vec<f32> = at.iter().map(|&i| values[i]).collect();
            let most = row.iter().fold(0f32, |m, v| m.max(v.abs()));
            // A channel of zeros has scale 1.
            let full = if most / top >= f32::MIN_POSITIVE { most / top } else { 1.0 };
            let mut best: Option<(f64, f32, Vec<i8>)> = None;
            for factor in how.factors(&row, full) {
                let scale = full * factor;
                let mut q: Vec<i8> = row.iter().map(|v| (v / scale).round_ties_even().clamp(-top, top) as i8).collect();
                if how.narrow {
                    q.chunks_exact_mut(2).for_each(fit);
                }
                let error = row.iter().zip(&q).map(|(v, &q)| f64::from(v - f32::from(q) * scale).powi(2)).sum();
                if best.as_ref().is_none_or(|b| error < b.0) {
                    best = Some((error, scale, q));
                }
            }
            let (_, scale, q) = best?;
            scales.push(scale);
            sums.push(q.iter().map(|&q| i64::from(q)).sum());
            at.iter().zip(q).for_each(|(&i, q)| codes[i] = q);
        }
        Some(Codes { codes, scales, sums })
    }

    /// The codes as a tensor of the weight's shape.
    pub fn tensor(&self, shape: &[usize]) -> Tensor {
        let codes: Vec<i64> = self.codes.iter().map(|&c| c.into()).collect();
        Tensor::from_i64(DType::I8, shape, &codes)
    }
}

impl Rounding {
    /// Factors of the scale that are tried on a row, 1 first.
    fn factors(self, row: &[f32], full: f32) -> Vec<f32> {
        let mut factors = vec![1.0];
        if self.clip {
            factors.extend((1..20).map(|i| 1.0 - i as f32 / 40.0));
        }
        if self.narrow {
            let sum = |p: &[f32]| if p[0].signum() == p[1].signum() { p[0].abs() + p[1].abs() } else { 0.0 };
            let widest = row.chunks_exact(2).map(sum).fold(0f32, f32::max);
            let all_fit = widest / (full * PAIR as f32);
            factors.extend((1..=20).map(|i| 1.0 + i as f32 / 20.0).take_while(|&f| f < all_fit + 0.05));
        }
        factors
    }
}

/// Takes from both of two codes, evenly, what their sum is too large.
fn fit(pair: &mut [i8]) {
    let sum = i32::from(pair[0]) + i32::from(pair[1]);
    let over = (sum.abs() - PAIR).max(0);
    pair[0] -= ((over + 1) / 2 * sum.signum()) as i8;
    pair[1] -= (over / 2 * sum.signum()) as i8;
}

/// The elements of one channel in the order in which a product runs over them: channels fastest in a convolution's kernel (see `ARCHITECTURE.md`, packed layouts).
struct Order {
    channel: (usize, usize),
    /// Extent and stride of the other axes, slowest first.
    axes: Vec<(usize, usize)>,
}

impl Order {
    fn of(shape: &[usize], channel: usize) -> Order {
        let stride = |a: usize| shape[a + 1..].iter().product::<usize>();
        let mut rest: Vec<usize> = (0..shape.len()).filter(|&a| a != channel).collect();
        if shape.len() > 2 {
            rest.rotate_left(1);
        }
        let axes = rest.into_iter().map(|a| (shape[a], stride(a))).collect();
        Order { channel: (shape[channel], stride(channel)), axes }
    }
    fn positions(&self, c: usize) -> impl Iterator<Item = usize> {
        debug_assert!(c < self.channel.0);
        let total: usize = self.axes.iter().map(|a| a.0).product();
        (0..total).map(move |mut i| {
            let mut at = c * self.channel.1;
            for &(n, stride) in self.axes.iter().rev() {
                at += i % n * stride;
                i /= n;
            }
            at
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tersor_ir::testing::{Gen, rel_l2};
    use tersor_ir::types::Type;

    fn plain(bits: u8) -> Rounding {
        Rounding { bits, clip: false, narrow: false }
    }

    fn decoded(c: &Codes, channel: usize, shape: &[usize]) -> Vec<f32> {
        let inner: usize = shape[channel + 1..].iter().product();
        c.codes.iter().enumerate().map(|(i, &q)| f32::from(q) * c.scales[i / inner % shape[channel]]).collect()
    }

    proptest! {
        #[test]
        fn codes_are_near_and_stable(seed in any::<u64>(), rows in 1usize..9, columns in 1usize..9, channel in 0usize..2, bits in 2u8..9) {
            let shape = [rows, columns];
            let w = Gen::new(seed % (1 << 60)).tensor(&Type::new(DType::F32, shape));
            let c = Codes::of(&w, channel, plain(bits)).unwrap();
            let back = decoded(&c, channel, &shape);
            for (i, (a, b)) in w.to_f32().iter().zip(&back).enumerate() {
                let s = c.scales[if channel == 0 { i / columns } else { i % columns }];
                prop_assert!((a - b).abs() <= s * 0.5001, "{a} {b} {s}");
            }
            let again = Codes::of(&Tensor::from_f32(shape, &back), channel, plain(bits)).unwrap();
            prop_assert_eq!(&again.codes, &c.codes);
            let clipped = Codes::of(&w, channel, Rounding { clip: true, ..plain(bits) }).unwrap();
            let error = |c: &Codes| rel_l2(&Tensor::from_f32(shape, &decoded(c, channel, &shape)), &w);
            prop_assert!(error(&clipped) <= error(&c) * 1.0001);
        }
    }

    #[test]
    fn error_falls_about_fourfold_in_power_by_bit() {
        let w = Gen::new(1).tensor(&Type::new(DType::F32, [64, 64]));
        let error = |bits| {
            let c = Codes::of(&w, 0, plain(bits)).unwrap();
            rel_l2(&Tensor::from_f32([64, 64], &decoded(&c, 0, &[64, 64])), &w).powi(2)
        };
        for bits in 3..8 {
            let ratio = error(bits) / error(bits + 1);
            assert!((3.0..7.0).contains(&ratio), "{bits}: {ratio}");
        }
    }

    #[test]
    fn neighbours_fit_in_the_order_of_the_product() {
        let mut g = Gen::new(2);
        for (shape, channel) in [(vec![40, 48], 0), (vec![40, 48], 1), (vec![8, 5, 3, 3], 0), (vec![6, 16, 1], 0)] {
            let w = g.tensor(&Type::new(DType::F32, shape.iter().copied()));
            let how = Rounding { narrow: true, ..plain(8) };
            let (wide, c) = (Codes::of(&w, channel, plain(8)).unwrap(), Codes::of(&w, channel, how).unwrap());
            let order = Order::of(&shape, channel);
            for ch in 0..shape[channel] {
                let at: Vec<usize> = order.positions(ch).collect();
                let sum = |p: &[usize]| i32::from(c.codes[p[0]]) + i32::from(c.codes[p[1]]);
                assert!(at.chunks_exact(2).all(|p| sum(p).abs() <= PAIR));
            }
            let error = |c: &Codes| {
                let back = decoded(c, channel, &shape);
                rel_l2(&Tensor::from_f32(shape.clone(), &back), &w)
            };
            assert!(error(&c) < 1.5 * error(&wide), "{} {}", error(&c), error(&wide));
        }
        let order = Order::of(&[2, 3, 2], 0);
        assert_eq!(order.positions(1).collect::<Vec<_>>(), [6, 8, 10, 7, 9, 11]);
    }

    #[test]
    fn degenerate_channels_are_exact_and_non_finite_ones_refused() {
        let how = Rounding { bits: 8, clip: true, narrow: true };
        let c = Codes::of(&Tensor::from_f32([2, 2], &[0.0, 0.0, 1e-42, 0.0]), 0, how).unwrap();
        assert_eq!((c.scales[0], c.codes[0], c.sums[0]), (1.0, 0, 0));
        assert!(Codes::of(&Tensor::from_f32([1, 1], &[f32::NAN]), 0, how).is_none());
    }
}
