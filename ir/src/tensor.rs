//! Concrete tensors, as the reference evaluator and constant folding use them.

use crate::blob::Blob;
use crate::small::{Rounding, SmallFloat, Special};
use crate::types::{DType, DTypeClass, Type};
use half::{bf16, f16};
use std::borrow::Cow;

/// A dense row-major tensor. Elements under 8 bits are packed, the first in the low bits.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Blob,
}

impl Tensor {
    /// A tensor over bytes of exactly the right length; `None` when the length does not fit.
    pub fn from_blob(dtype: DType, shape: Vec<usize>, data: Blob) -> Option<Tensor> {
        let n = shape.iter().try_fold(1usize, |a, &b| a.checked_mul(b))?;
        (dtype.bytes(n)? == data.len()).then_some(Tensor { dtype, shape, data })
    }
    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Extents.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// Type with constant extents.
    pub fn ty(&self) -> Type {
        Type::new(self.dtype, self.shape.iter().copied())
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The bytes.
    pub fn blob(&self) -> &Blob {
        &self.data
    }
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }
    /// The same bytes under another shape of as many elements.
    pub fn reshaped(&self, shape: Vec<usize>) -> Option<Tensor> {
        Tensor::from_blob(self.dtype, shape, self.data.clone())
    }

    /// The elements at these positions under a new shape, bit for bit.
    pub fn gathered(&self, shape: Vec<usize>, at: &[usize]) -> Tensor {
        Tensor::collected(self.dtype, shape, at.iter().map(|&p| (self, p)))
    }
    /// Elements of several tensors of one type under a new shape, bit for bit.
    pub fn collected<'a>(
        dtype: DType,
        shape: Vec<usize>,
        from: impl ExactSizeIterator<Item = (&'a Tensor, usize)>,
    ) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), from.len(), "element count");
        let mut bytes = vec![0u8; dtype.bytes(from.len()).expect("size")];
        let size = dtype.bits() as usize / 8;
        for (i, (t, p)) in from.enumerate() {
            assert_eq!(t.dtype, dtype, "element type");
            match dtype {
                d if d.is_packed() || d == DType::Bool => write_bits(d, &mut bytes, i, read_bits(d, &t.data, p)),
                _ => bytes[size * i..size * (i + 1)].copy_from_slice(&t.data[size * p..size * (p + 1)]),
            }
        }
        Tensor { dtype, shape, data: bytes.into() }
    }
    /// The elements for each of `n` channels, of a tensor of one number or along one axis of `rank`, which it broadcasts to; `None` for others.
    pub fn channels(&self, axis: usize, rank: usize, n: usize) -> Option<Vec<f64>> {
        if self.len() == 1 {
            return Some(vec![self.get_f64(0); n]);
        }
        let at = (axis + self.shape.len()).checked_sub(rank)?;
        let only = self.shape.iter().enumerate().all(|(i, &d)| if i == at { d == n } else { d == 1 });
        only.then(|| self.to_f64())
    }
    /// Real and imaginary parts of complex numbers along a new last axis; what is not complex as it is.
    pub fn parts(&self) -> Tensor {
        let Some(dtype) = self.dtype.part() else { return self.clone() };
        Tensor { dtype, shape: [&self.shape[..], &[2]].concat(), data: self.data.clone() }
    }

    /// From f64 values, rounded once to `dtype` (to nearest even; integers truncate toward zero and saturate, as do floats of at most 8 bits; complex numbers are real).
    pub fn from_f64(dtype: DType, shape: impl Into<Vec<usize>>, values: &[f64]) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), values.len(), "element count");
        let mut bytes = vec![0u8; dtype.bytes(values.len()).expect("size")];
        for (i, &v) in values.iter().enumerate() {
            write_f64(dtype, &mut bytes, i, v);
        }
        Tensor { dtype, shape, data: bytes.into() }
    }
    /// From integers, wrapped to `dtype` (two's complement), or rounded where it is a float.
    pub fn from_i64(dtype: DType, shape: impl Into<Vec<usize>>, values: &[i64]) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), values.len(), "element count");
        let mut bytes = vec![0u8; dtype.bytes(values.len()).expect("size")];
        for (i, &v) in values.iter().enumerate() {
            if dtype.is_float() || dtype.part().is_some() {
                write_f64(dtype, &mut bytes, i, v as f64)
            } else {
                write_bits(dtype, &mut bytes, i, v as u64)
            }
        }
        Tensor { dtype, shape, data: bytes.into() }
    }
    /// From the elements' bits, of which the low ones count.
    pub fn from_bits(dtype: DType, shape: impl Into<Vec<usize>>, values: impl ExactSizeIterator<Item = u64>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), values.len(), "element count");
        let mut bytes = vec![0u8; dtype.bytes(values.len()).expect("size")];
        values.enumerate().for_each(|(i, v)| write_bits(dtype, &mut bytes, i, v));
        Tensor { dtype, shape, data: bytes.into() }
    }
    /// From f32 values.
    pub fn from_f32(shape: impl Into<Vec<usize>>, values: &[f32]) -> Tensor {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor::from_blob(DType::F32, shape.into(), bytes.into()).expect("element count")
    }
    /// A scalar.
    pub fn scalar(dtype: DType, v: f64) -> Tensor {
        Tensor::from_f64(dtype, [], &[v])
    }
    /// All elements as f64; exact but for 64-bit integers beyond 2^53.
    pub fn to_f64(&self) -> Vec<f64> {
        (0..self.len()).map(|i| self.get_f64(i)).collect()
    }
    /// All elements as i64; floats truncate toward zero.
    pub fn to_i64(&self) -> Vec<i64> {
        (0..self.len()).map(|i| self.get_i64(i)).collect()
    }
    /// All elements as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        if self.dtype == DType::F32 {
            return self.bytes().chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().expect("4 bytes"))).collect();
        }
        (0..self.len()).map(|i| self.get_f64(i) as f32).collect()
    }
    /// All elements as f32, in place where they are that already.
    pub fn f32s(&self) -> Cow<'_, [f32]> {
        match bytemuck::try_cast_slice(self.bytes()) {
            Ok(values) if self.dtype == DType::F32 && cfg!(target_endian = "little") => Cow::Borrowed(values),
            _ => Cow::Owned(self.to_f32()),
        }
    }
    /// Rows `from..to` of the first axis, without a copy where they begin at a byte.
    pub fn rows(&self, from: usize, to: usize) -> Tensor {
        assert!(from <= to && self.shape.first().is_some_and(|n| to <= *n), "rows {from}..{to} of {}", self.ty());
        let row: usize = self.shape[1..].iter().product();
        let mut shape = self.shape.clone();
        shape[0] = to - from;
        let bits = u64::from(self.dtype.bits());
        let bit = |r: usize| (r * row) as u64 * bits;
        if bit(from) % 8 == 0 && bit(to) % 8 == 0 {
            let data = self.data.slice((bit(from) / 8) as usize..(bit(to) / 8) as usize).expect("in range");
            return Tensor { dtype: self.dtype, shape, data };
        }
        self.gathered(shape, &(from * row..to * row).collect::<Vec<_>>())
    }
    /// Element `i` in row-major order; of a complex number the real part.
    pub fn get_f64(&self, i: usize) -> f64 {
        if let Some(part) = self.dtype.part() {
            return read_f64(part, &self.data, 2 * i);
        }
        if self.dtype.is_float() { read_f64(self.dtype, &self.data, i) } else { self.get_i64_wide(i) as f64 }
    }
    /// Element `i` in row-major order; floats truncate toward zero, `u64` wraps.
    pub fn get_i64(&self, i: usize) -> i64 {
        match self.dtype.class() {
            DTypeClass::Float | DTypeClass::Complex => self.get_f64(i) as i64,
            _ => self.get_i64_wide(i) as i64,
        }
    }
    /// The bits of element `i` in row-major order, at most 64.
    pub fn get_bits(&self, i: usize) -> u64 {
        read_bits(self.dtype, &self.data, i)
    }
    fn get_i64_wide(&self, i: usize) -> i128 {
        let raw = read_bits(self.dtype, &self.data, i);
        let bits = self.dtype.bits();
        match self.dtype.class() {
            DTypeClass::Int => (((raw << (64 - bits)) as i64) >> (64 - bits)).into(),
            _ => raw.into(),
        }
    }
}

impl PartialEq for Tensor {
    /// Equal bits.
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.bytes() == other.bytes()
    }
}

fn read_bits(dtype: DType, bytes: &[u8], i: usize) -> u64 {
    match dtype.bits() {
        64 => u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().expect("8")),
        32 => u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("4")).into(),
        16 => u16::from_le_bytes(bytes[2 * i..2 * i + 2].try_into().expect("2")).into(),
        8 => bytes[i].into(),
        b => {
            let (at, mask) = (i * b as usize, (1u16 << b) - 1);
            let next = bytes.get(at / 8 + 1).copied().unwrap_or(0);
            ((u16::from_le_bytes([bytes[at / 8], next]) >> (at % 8)) & mask).into()
        }
    }
}

fn write_bits(dtype: DType, bytes: &mut [u8], i: usize, v: u64) {
    match dtype.bits() {
        64 => bytes[8 * i..8 * i + 8].copy_from_slice(&v.to_le_bytes()),
        32 => bytes[4 * i..4 * i + 4].copy_from_slice(&(v as u32).to_le_bytes()),
        16 => bytes[2 * i..2 * i + 2].copy_from_slice(&(v as u16).to_le_bytes()),
        8 => bytes[i] = if dtype == DType::Bool { u8::from(v != 0) } else { v as u8 },
        b => {
            let at = i * b as usize;
            let (mask, v) = (((1u16 << b) - 1) << (at % 8), (v as u16) << (at % 8));
            for (byte, (mask, v)) in mask.to_le_bytes().into_iter().zip(v.to_le_bytes()).enumerate() {
                if mask != 0 {
                    let to = &mut bytes[at / 8 + byte];
                    *to = (*to & !mask) | (v & mask);
                }
            }
        }
    }
}

fn read_f64(dtype: DType, bytes: &[u8], i: usize) -> f64 {
    let raw = read_bits(dtype, bytes, i);
    match dtype {
        DType::F64 => f64::from_bits(raw),
        DType::F32 => f32::from_bits(raw as u32).into(),
        DType::F16 => f16::from_bits(raw as u16).into(),
        DType::BF16 => bf16::from_bits(raw as u16).into(),
        small => SmallFloat::of(small).expect("a float").decode(raw as u8),
    }
}

fn write_f64(dtype: DType, bytes: &mut [u8], i: usize, v: f64) {
    if let Some(part) = dtype.part() {
        return write_f64(part, bytes, 2 * i, v);
    }
    let bits = match dtype {
        DType::F64 => v.to_bits(),
        DType::F32 => (v as f32).to_bits().into(),
        DType::F16 => f16::from_f64(v).to_bits().into(),
        DType::BF16 => bf16::from_f64(v).to_bits().into(),
        DType::Bool => u64::from(v != 0.0),
        DType::Str => v as u64,
        other => match (SmallFloat::of(other), other.int_range()) {
            // Infinity is a number of the formats that have it.
            (Some(f), _) => f.encode(v, v.is_infinite() && f.special == Special::Ieee, Rounding::Nearest).into(),
            (None, range) => {
                let (lo, hi) = range.expect("integer");
                (v as i128).clamp(lo, hi) as u64
            }
        },
    };
    write_bits(dtype, bytes, i, bits);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_storage_code_round_trips() {
        for &d in DType::ALL.iter().filter(|d| d.bits() <= 8) {
            let n = 1usize << if d == DType::Bool { 1 } else { d.bits() };
            let mut bytes = vec![0u8; d.bytes(n).unwrap()];
            (0..n).for_each(|i| write_bits(d, &mut bytes, i, i as u64));
            let t = Tensor::from_blob(d, vec![n], bytes.into()).unwrap();
            let back = Tensor::from_f64(d, [n], &t.to_f64());
            for i in 0..n {
                let (a, b) = (t.get_f64(i), back.get_f64(i));
                assert!(a == b || (a.is_nan() && b.is_nan()), "{d} code {i}: {a} {b}");
            }
        }
    }

    #[test]
    fn rows_are_the_elements_between() {
        for d in [DType::F32, DType::I4, DType::Bool] {
            let values: Vec<f64> = (0..15).map(|i| f64::from(i % 2)).collect();
            let t = Tensor::from_f64(d, [5, 3], &values);
            for (from, to) in [(0, 5), (1, 3), (2, 2), (2, 4)] {
                let part = t.rows(from, to);
                assert_eq!((part.shape(), part.to_f64()), (&[to - from, 3][..], values[3 * from..3 * to].to_vec()));
            }
        }
    }

    #[test]
    fn integers_saturate_from_floats() {
        assert_eq!(Tensor::from_f64(DType::I8, [3], &[300.0, -300.0, -1.9]).to_i64(), [127, -128, -1]);
        assert_eq!(Tensor::from_f64(DType::U4, [3], &[300.0, -300.0, 3.9]).to_i64(), [15, 0, 3]);
    }
}
