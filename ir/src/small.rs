//! Floats of at most 8 bits, by the layout of their codes.
//!
//! `f8e4m3` and `f8e5m2` are OCP's 8-bit formats (OFP8 v1.0), the `fnuz` forms those of arXiv:2206.02915, `f4e2m1` and `f8e8m0` are from OCP's Microscaling
//! Formats v1.0. What conversions do is what the ONNX operator `Cast` says.

use crate::types::DType;

crate::attr_enum! {
    /// How `f8e8m0` is rounded.
    pub enum Rounding {
        /// to the nearest power of two, a tie to the larger
        Nearest = "nearest",
        /// to the next larger power of two
        Up = "up",
        /// to the next smaller power of two
        Down = "down",
    }
}

/// Which codes are no finite numbers.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Special {
    /// None.
    Nothing,
    /// The largest magnitude is NaN.
    Largest,
    /// The largest exponent holds infinity, then NaNs.
    Ieee,
    /// The code of negative zero is NaN.
    NegativeZero,
}

/// A format: sign (where there is one), exponent and mantissa, from the high bits to the low ones.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct SmallFloat {
    /// Bits of the exponent.
    pub exponent: u32,
    /// Bits of the mantissa.
    pub mantissa: u32,
    /// What the exponent's code is above the exponent.
    pub bias: i32,
    /// Codes that are not finite.
    pub special: Special,
    /// Whether there is a sign, and with it a zero and numbers below the least normal one.
    pub signed: bool,
}

impl SmallFloat {
    /// The format of a float of at most 8 bits; `None` for other types.
    pub const fn of(dtype: DType) -> Option<SmallFloat> {
        let (exponent, mantissa, bias, special) = match dtype {
            DType::F8E4M3 => (4, 3, 7, Special::Largest),
            DType::F8E4M3FNUZ => (4, 3, 8, Special::NegativeZero),
            DType::F8E5M2 => (5, 2, 15, Special::Ieee),
            DType::F8E5M2FNUZ => (5, 2, 16, Special::NegativeZero),
            DType::F4E2M1 => (2, 1, 1, Special::Nothing),
            DType::F8E8M0 => (8, 0, 127, Special::Largest),
            _ => return None,
        };
        Some(SmallFloat { exponent, mantissa, bias, special, signed: !matches!(dtype, DType::F8E8M0) })
    }

    /// The code of negative zero, which is the sign's bit; 0 where there is no sign.
    pub const fn sign_bit(&self) -> u8 {
        if self.signed { 1 << (self.exponent + self.mantissa) } else { 0 }
    }

    /// The largest code of a finite number.
    pub const fn max_code(&self) -> u8 {
        let all = ((1u16 << (self.exponent + self.mantissa)) - 1) as u8;
        match self.special {
            Special::Nothing | Special::NegativeZero => all,
            Special::Largest => all - 1,
            Special::Ieee => all - (1 << self.mantissa),
        }
    }

    /// The code of NaN with the sign of `negative`; negative zero where nothing is NaN.
    pub const fn nan_code(&self, negative: bool) -> u8 {
        let all = ((1u16 << (self.exponent + self.mantissa)) - 1) as u8;
        match self.special {
            Special::Nothing | Special::NegativeZero => self.sign_bit(),
            _ if negative => self.sign_bit() | all,
            _ => all,
        }
    }

    /// The code of what is too large for a finite code: infinity, or NaN where there is none; the largest number where there is neither.
    pub const fn overflow_code(&self, negative: bool) -> u8 {
        let sign = if negative { self.sign_bit() } else { 0 };
        match self.special {
            Special::Nothing => sign | self.max_code(),
            Special::Ieee => sign | (self.max_code() + 1),
            _ => self.nan_code(negative),
        }
    }

    /// The least magnitude that rounds to no finite code, and whether that one itself still does (ties go to even codes).
    pub fn limit(&self) -> (f64, bool) {
        let max = self.max_code();
        let (top, below) = (self.decode(max), self.decode(max - 1));
        (top + (top - below) / 2.0, max.is_multiple_of(2))
    }

    /// The number of a code.
    pub fn decode(&self, code: u8) -> f64 {
        let sign_bit = self.sign_bit();
        if self.special == Special::NegativeZero && code == sign_bit {
            return f64::NAN;
        }
        let (magnitude, sign) = (code & !sign_bit, if code & sign_bit != 0 { -1.0 } else { 1.0 });
        if magnitude > self.max_code() {
            let infinite = self.special == Special::Ieee && magnitude == self.max_code() + 1;
            return if infinite { sign * f64::INFINITY } else { f64::NAN };
        }
        let e = i32::from(magnitude >> self.mantissa);
        let m = f64::from(magnitude & ((1u8 << self.mantissa) - 1)) / f64::from(1u32 << self.mantissa);
        let below = e == 0 && self.signed;
        sign * if below { m * 2f64.powi(1 - self.bias) } else { (1.0 + m) * 2f64.powi(e - self.bias) }
    }

    /// The nearest code, ties to even. What is beyond the range becomes the largest number, or with `overflow` what [`SmallFloat::overflow_code`] says.
    /// A format without a sign takes magnitudes, rounds as `rounding` says, and has its least number, or with `overflow` NaN, for what is below that.
    pub fn encode(&self, v: f64, overflow: bool, rounding: Rounding) -> u8 {
        let (negative, a) = (v.is_sign_negative(), v.abs());
        if v.is_nan() {
            return self.nan_code(negative);
        }
        if !self.signed {
            return self.power(a, overflow, rounding);
        }
        let (limit, within) = self.limit();
        let sign = if negative { self.sign_bit() } else { 0 };
        if a > limit || (a == limit && !within) {
            return if overflow { self.overflow_code(negative) } else { sign | self.max_code() };
        }
        let (mut best, mut error) = (0u8, f64::INFINITY);
        for code in 0..=self.max_code() {
            let e = (self.decode(code) - a).abs();
            if e < error || (e == error && code.is_multiple_of(2)) {
                (best, error) = (code, e);
            }
        }
        if best == 0 && self.special == Special::NegativeZero { 0 } else { sign | best }
    }

    fn power(&self, a: f64, overflow: bool, rounding: Rounding) -> u8 {
        if a < self.decode(0) {
            return if overflow { self.nan_code(false) } else { 0 };
        }
        let bits = a.to_bits();
        let fraction = bits & ((1 << 52) - 1);
        let up = match rounding {
            Rounding::Nearest => fraction >= 1 << 51,
            Rounding::Up => fraction > 0,
            Rounding::Down => false,
        };
        let code = (bits >> 52) as i32 - 1023 + self.bias + i32::from(up);
        match u8::try_from(code) {
            Ok(code) if code <= self.max_code() => code,
            _ if overflow => self.nan_code(false),
            _ => self.max_code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [DType; 6] =
        [DType::F8E4M3, DType::F8E4M3FNUZ, DType::F8E5M2, DType::F8E5M2FNUZ, DType::F4E2M1, DType::F8E8M0];

    /// What the formats' papers and the tables of ONNX's `Cast` say: the largest number, the least positive one, and the codes of NaN.
    #[test]
    fn formats_are_the_published_ones() {
        let facts: [(f64, f64, &[u8]); 6] = [
            (448.0, 2f64.powi(-9), &[0x7f, 0xff]),
            (240.0, 2f64.powi(-10), &[0x80]),
            (57344.0, 2f64.powi(-16), &[0x7d, 0x7e, 0x7f, 0xfd, 0xfe, 0xff]),
            (57344.0, 2f64.powi(-17), &[0x80]),
            (6.0, 0.5, &[]),
            (2f64.powi(127), 2f64.powi(-127), &[0xff]),
        ];
        for (d, (max, least, nans)) in ALL.into_iter().zip(facts) {
            let f = SmallFloat::of(d).unwrap();
            let codes: Vec<u8> = (0..=u8::MAX).take(1 << d.bits()).collect();
            let finite = || codes.iter().map(|&c| f.decode(c)).filter(|v| v.is_finite());
            assert_eq!(finite().fold(0.0, f64::max), max, "{d}");
            assert_eq!(finite().filter(|&v| v > 0.0).fold(f64::INFINITY, f64::min), least, "{d}");
            let found: Vec<u8> = codes.iter().copied().filter(|&c| f.decode(c).is_nan()).collect();
            assert_eq!(found, nans, "{d}");
        }
    }

    #[test]
    fn numbers_of_codes_have_that_code() {
        for d in ALL {
            let f = SmallFloat::of(d).unwrap();
            for code in (0..=u8::MAX).take(1 << d.bits()).filter(|&c| f.decode(c).is_finite()) {
                for overflow in [false, true] {
                    assert_eq!(f.encode(f.decode(code), overflow, Rounding::Up), code, "{d}");
                }
            }
        }
    }

    /// The two tables of the operator.
    #[test]
    fn what_is_out_of_range_saturates_or_overflows() {
        let codes = |d: DType, overflow: bool| {
            let f = SmallFloat::of(d).unwrap();
            [f64::INFINITY, f64::NEG_INFINITY, 1e6, -1e6, f64::NAN, -1e-9].map(|v| f.encode(v, overflow, Rounding::Up))
        };
        assert_eq!(codes(DType::F8E4M3, false), [0x7e, 0xfe, 0x7e, 0xfe, 0x7f, 0x80]);
        assert_eq!(codes(DType::F8E4M3, true), [0x7f, 0xff, 0x7f, 0xff, 0x7f, 0x80]);
        assert_eq!(codes(DType::F8E4M3FNUZ, false), [0x7f, 0xff, 0x7f, 0xff, 0x80, 0x00]);
        assert_eq!(codes(DType::F8E4M3FNUZ, true), [0x80, 0x80, 0x80, 0x80, 0x80, 0x00]);
        assert_eq!(codes(DType::F8E5M2, false), [0x7b, 0xfb, 0x7b, 0xfb, 0x7f, 0x80]);
        assert_eq!(codes(DType::F8E5M2, true), [0x7c, 0xfc, 0x7c, 0xfc, 0x7f, 0x80]);
        assert_eq!(codes(DType::F8E5M2FNUZ, true), [0x80, 0x80, 0x80, 0x80, 0x80, 0x00]);
        assert_eq!(codes(DType::F4E2M1, true), [0x7, 0xf, 0x7, 0xf, 0x8, 0x8]);
    }

    #[test]
    fn halves_past_the_largest_number_go_to_even() {
        for (d, tie, code) in [(DType::F8E4M3, 464.0, 0x7e), (DType::F8E5M2, 61440.0, 0x7c)] {
            assert_eq!(SmallFloat::of(d).unwrap().encode(tie, true, Rounding::Nearest), code, "{d}");
        }
    }

    #[test]
    fn powers_round_as_asked() {
        let f = SmallFloat::of(DType::F8E8M0).unwrap();
        let code = |v: f64, r| f.encode(v, false, r);
        assert_eq!([Rounding::Nearest, Rounding::Up, Rounding::Down].map(|r| code(1.4, r)), [127, 128, 127]);
        assert_eq!([Rounding::Nearest, Rounding::Up, Rounding::Down].map(|r| code(1.5, r)), [128, 128, 127]);
        assert_eq!([0.0, 1e-60, 1e60, f64::INFINITY].map(|v| code(v, Rounding::Up)), [0, 0, 254, 254]);
        assert_eq!([0.0, 1e60, f64::NAN].map(|v| f.encode(v, true, Rounding::Nearest)), [255; 3]);
    }
}
