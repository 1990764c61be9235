//! Numbers as text and back, as the ONNX operator `Cast` says.
//!
//! Numbers are written as NumPy writes them, which is what ONNX's reference does: the shortest digits that read back to the same number, plain where the exponent of
//! ten is in -4..16, else scientific with an exponent of at least two digits.

use crate::error::{Error, Result};
use crate::strings::{Strings, handles};
use half::{bf16, f16};
use std::fmt::Write;

/// Element types that are written and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Number {
    /// `i64`.
    I64 = 0,
    /// `u64`.
    U64 = 1,
    /// `f64`.
    F64 = 2,
    /// `f32`.
    F32 = 3,
    /// `f16`.
    F16 = 4,
    /// `bf16`.
    Bf16 = 5,
    /// `bool`.
    Bool = 6,
}

impl Number {
    /// Bytes of one.
    pub fn size(self) -> usize {
        match self {
            Number::I64 | Number::U64 | Number::F64 => 8,
            Number::F32 => 4,
            Number::F16 | Number::Bf16 => 2,
            Number::Bool => 1,
        }
    }
}

/// The digits `d.ddd` with the exponent of ten, as `{:e}` gives them, laid out as NumPy does.
fn layout(scientific: &str) -> String {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |m| ("-", m));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let mut out = String::from(sign);
    if !(-4..16).contains(&exponent) {
        let direction = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{mantissa}e{direction}{:02}", exponent.abs());
    } else if exponent < 0 {
        let _ = write!(out, "0.{}{digits}", "0".repeat((-1 - exponent) as usize));
    } else {
        let point = exponent as usize + 1;
        let padded = format!("{digits:0<point$}");
        let (whole, rest) = padded.split_at(point);
        let _ = write!(out, "{whole}.{}", if rest.is_empty() { "0" } else { rest });
    }
    out
}

fn special(v: f64) -> Option<String> {
    match v {
        v if v.is_nan() => Some("nan".into()),
        f64::INFINITY => Some("inf".into()),
        f64::NEG_INFINITY => Some("-inf".into()),
        _ => None,
    }
}

/// Digits of a float of 16 bits: the fewest from which `round` gives the same number.
fn short(v: f64, round: impl Fn(f64) -> f64) -> String {
    let digits = |n: usize| format!("{v:.n$e}");
    let found = (0..9).map(digits).find(|s| s.parse().is_ok_and(|d: f64| round(d) == v));
    let text = found.unwrap_or_else(|| format!("{v:e}"));
    // Zeros at the end are no digits that are needed.
    match text.split_once('e') {
        Some((m, e)) if m.contains('.') => format!("{}e{e}", m.trim_end_matches('0').trim_end_matches('.')),
        _ => text,
    }
}

fn text(number: Number, bytes: &[u8]) -> String {
    let word = |n: usize| u64::from_ne_bytes(std::array::from_fn(|i| if i < n { bytes[i] } else { 0 }));
    let u32_of = || u32::from_ne_bytes(std::array::from_fn(|i| bytes[i]));
    let u16_of = || u16::from_ne_bytes(std::array::from_fn(|i| bytes[i]));
    match number {
        Number::I64 => (word(8) as i64).to_string(),
        Number::U64 => word(8).to_string(),
        Number::Bool => if bytes[0] != 0 { "True" } else { "False" }.into(),
        Number::F64 => {
            let v = f64::from_bits(word(8));
            special(v).unwrap_or_else(|| layout(&format!("{v:e}")))
        }
        Number::F32 => {
            let v = f32::from_bits(u32_of());
            special(v.into()).unwrap_or_else(|| layout(&format!("{v:e}")))
        }
        Number::F16 => {
            let v = f16::from_bits(u16_of()).to_f64();
            special(v).unwrap_or_else(|| layout(&short(v, |d| f16::from_f64(d).to_f64())))
        }
        Number::Bf16 => {
            let v = bf16::from_bits(u16_of()).to_f64();
            special(v).unwrap_or_else(|| layout(&short(v, |d| bf16::from_f64(d).to_f64())))
        }
    }
}

pub(crate) fn format(number: Number, x: &[u8], strings: &mut Strings) -> Result<Vec<Vec<u8>>> {
    let one = |bytes: &[u8]| Ok(strings.intern(&text(number, bytes))?.to_ne_bytes());
    Ok(vec![x.chunks_exact(number.size()).map(one).collect::<Result<Vec<_>>>()?.concat()])
}

/// Reads one number; white space around it is none of it. Integers are also read from what is a number with a fraction, which is cut off.
fn read(number: Number, s: &str, out: &mut Vec<u8>) -> Option<()> {
    let s = s.trim();
    let whole = || s.parse::<f64>().ok().filter(|v| v.is_finite());
    match number {
        Number::I64 => out.extend(s.parse().ok().or_else(|| whole().map(|v| v as i64))?.to_ne_bytes()),
        Number::U64 => out.extend(s.parse().ok().or_else(|| whole().map(|v| v as u64))?.to_ne_bytes()),
        Number::F64 => out.extend(s.parse::<f64>().ok()?.to_ne_bytes()),
        Number::F32 => out.extend(s.parse::<f32>().ok()?.to_ne_bytes()),
        Number::F16 => out.extend(f16::from_f64(s.parse().ok()?).to_ne_bytes()),
        Number::Bf16 => out.extend(bf16::from_f64(s.parse().ok()?).to_ne_bytes()),
        Number::Bool => out.push(u8::from(match s {
            _ if s.eq_ignore_ascii_case("true") => true,
            _ if s.eq_ignore_ascii_case("false") => false,
            _ => s.parse::<f64>().ok()? != 0.0,
        })),
    }
    Some(())
}

pub(crate) fn parse(number: Number, x: &[u8], strings: &Strings) -> Result<Vec<Vec<u8>>> {
    let mut out = Vec::with_capacity(x.len() / 4 * number.size());
    for h in handles(x) {
        let s = strings.get(h)?;
        read(number, s, &mut out).ok_or_else(|| {
            let shown: String = s.escape_debug().take(40).collect();
            Error::new(format!("\"{shown}\" is no number"))
        })?;
    }
    Ok(vec![out])
}
