//! Tensors as the caller holds them: a type, a shape and row-major bytes in native order.

use std::fmt;
use std::sync::Arc;

use tersor_host::Strings;

use crate::dtype::DType;
use crate::error::{Error, Kind, Result};
use crate::memory::Aligned;

/// An owned tensor; its bytes are 64-byte aligned, so kernels use them in place.
#[derive(Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    /// The elements, and room for more where a run decides how many there are.
    data: Aligned,
    length: usize,
    /// Of strings alone; without it all are empty.
    strings: Option<Arc<Strings>>,
}

/// A borrowed tensor. Bytes that are not 64-byte aligned are copied before a run.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    pub dtype: DType,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
    /// Where the elements are strings: what the handles in `bytes` stand for. Without it all are empty.
    pub strings: Option<&'a Strings>,
}

/// Bytes of a tensor, `None` on overflow.
pub fn bytes_of(dtype: DType, shape: &[usize]) -> Option<usize> {
    let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64))?;
    usize::try_from(dtype.bytes_of(elements)?).ok().filter(|&n| n <= isize::MAX as usize)
}

impl Tensor {
    /// A tensor of zeros.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let bytes = bytes_of(dtype, shape).ok_or_else(|| {
            Error::new(Kind::Memory, format!("{}: more bytes than memory can have", kind(dtype, shape)))
        })?;
        Ok(Tensor { dtype, shape: shape.to_vec(), data: Aligned::zeroed(bytes)?, length: bytes, strings: None })
    }

    /// A tensor with a copy of these bytes.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Tensor> {
        if bytes_of(dtype, shape) != Some(bytes.len()) {
            let what = format!("{} does not have {} bytes", kind(dtype, shape), bytes.len());
            return Err(Error::new(Kind::Data, what));
        }
        Ok(Tensor { dtype, shape: shape.to_vec(), data: Aligned::copy_of(bytes)?, length: bytes.len(), strings: None })
    }

    pub fn from_f32(shape: &[usize], values: &[f32]) -> Result<Tensor> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
        Tensor::from_bytes(DType::F32, shape, &bytes)
    }

    /// A tensor of strings.
    pub fn from_strings<S: AsRef<str>>(shape: &[usize], values: &[S]) -> Result<Tensor> {
        let mut strings = Strings::new();
        let handles: Vec<u32> = values.iter().map(|s| strings.intern(s.as_ref())).collect::<Result<_, _>>()?;
        let bytes: Vec<u8> = handles.into_iter().flat_map(u32::to_ne_bytes).collect();
        let tensor = Tensor::from_bytes(DType::Str, shape, &bytes)?;
        Ok(Tensor { strings: Some(Arc::new(strings)), ..tensor })
    }

    /// Takes the elements to be handles of that table; keeps those strings that there are.
    pub(crate) fn adopt(&mut self, from: &Strings) -> Result<()> {
        let mut own = Strings::new();
        let handles = from.translate(self.bytes(), &mut own)?;
        self.bytes_mut().copy_from_slice(&handles);
        self.strings = Some(Arc::new(own));
        Ok(())
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn bytes(&self) -> &[u8] {
        &self.data[..self.length]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[..self.length]
    }

    /// Bytes that there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.data.len()
    }

    /// Takes another shape of the same rank, for which there is room.
    pub(crate) fn reshape(&mut self, shape: impl Iterator<Item = usize>) -> Result<()> {
        self.shape.iter_mut().zip(shape).for_each(|(to, d)| *to = d);
        let bytes = bytes_of(self.dtype, &self.shape).filter(|&n| n <= self.data.len());
        self.length = bytes.ok_or_else(|| {
            Error::new(Kind::Internal, format!("{} is more than was planned", kind(self.dtype, &self.shape)))
        })?;
        Ok(())
    }

    pub fn view(&self) -> TensorView<'_> {
        TensorView { dtype: self.dtype, shape: &self.shape, bytes: self.bytes(), strings: self.strings.as_deref() }
    }

    pub(crate) fn data_pointer(&mut self) -> *mut u8 {
        self.data.as_mut_pointer()
    }

    /// The elements as f64 (integers beyond 2^53 are rounded); `None` for packed and 8-bit float types.
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        self.view().to_f64()
    }

    /// Elements `range` of the first axis, as a tensor of its own.
    pub fn slice_rows(&self, from: usize, to: usize) -> Result<Tensor> {
        let rows = *self.shape.first().unwrap_or(&0);
        let inner = Some(rows).filter(|&r| r > 0 && self.dtype.size().is_some()).map(|r| self.length / r);
        let (Some(inner), true) = (inner, from <= to && to <= rows) else {
            return Err(Error::new(Kind::Usage, format!("{} has no rows {from}..{to}", self.view())));
        };
        let mut shape = self.shape.clone();
        shape[0] = to - from;
        let rows = Tensor::from_bytes(self.dtype, &shape, &self.bytes()[from * inner..to * inner])?;
        Ok(Tensor { strings: self.strings.clone(), ..rows })
    }

    /// Tensors that agree in all but the first extent, one after the other.
    pub fn concatenate(parts: &[Tensor]) -> Result<Tensor> {
        let unlike = |a: &Tensor, b: &Tensor| {
            a.dtype != b.dtype || a.shape.is_empty() || b.shape.is_empty() || a.shape[1..] != b.shape[1..]
        };
        let Some(first) = parts.first() else {
            return Err(Error::new(Kind::Internal, "nothing to concatenate"));
        };
        if let Some(other) = parts.iter().find(|p| unlike(p, first)) {
            let what = format!("outputs of two batches cannot be joined: {} and {}", first.view(), other.view());
            return Err(Error::new(Kind::Usage, what).with_help("leave --batch out"));
        }
        let mut shape = first.shape.clone();
        shape[0] = parts.iter().map(|p| p.shape[0]).sum();
        let mut out = Tensor::zeros(first.dtype, &shape)?;
        let (mut at, mut strings) = (0, Strings::new());
        for p in parts {
            let to = &mut out.data[at..at + p.length];
            match first.dtype {
                DType::Str => to.copy_from_slice(&p.view().translated(&mut strings)?),
                _ => to.copy_from_slice(p.bytes()),
            }
            at += p.length;
        }
        out.strings = (first.dtype == DType::Str).then(|| Arc::new(strings));
        Ok(out)
    }
}

impl<'a> TensorView<'a> {
    /// A view of elements that are no strings.
    pub fn new(dtype: DType, shape: &'a [usize], bytes: &'a [u8]) -> TensorView<'a> {
        TensorView { dtype, shape, bytes, strings: None }
    }

    /// The elements as handles of another table.
    pub(crate) fn translated(&self, to: &mut Strings) -> Result<Vec<u8>> {
        let none = Strings::new();
        Ok(self.strings.unwrap_or(&none).translate(self.bytes, to)?)
    }

    /// The elements that are strings; `None` for other types.
    pub fn to_strings(&self) -> Option<Result<Vec<String>>> {
        let none = Strings::new();
        let table = self.strings.unwrap_or(&none);
        let one = |c: &[u8]| Ok(table.get(u32::from_ne_bytes(c.try_into().expect("exact chunk")))?.to_string());
        (self.dtype == DType::Str).then(|| self.bytes.chunks_exact(4).map(one).collect())
    }

    /// See [`Tensor::to_f64`].
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        macro_rules! read {
            ($t:ty, $convert:expr) => {{
                let chunks = self.bytes.chunks_exact(size_of::<$t>());
                chunks.map(|c| $convert(<$t>::from_ne_bytes(c.try_into().expect("exact chunk")))).collect()
            }};
        }
        Some(match self.dtype {
            DType::F64 => read!(f64, |v| v),
            DType::F32 => read!(f32, f64::from),
            DType::F16 => read!(u16, |v| half::f16::from_bits(v).to_f64()),
            DType::Bf16 => read!(u16, |v| half::bf16::from_bits(v).to_f64()),
            DType::I64 => read!(i64, |v| v as f64),
            DType::I32 => read!(i32, f64::from),
            DType::I16 => read!(i16, f64::from),
            DType::I8 => read!(i8, f64::from),
            DType::U64 => read!(u64, |v| v as f64),
            DType::U32 => read!(u32, f64::from),
            DType::U16 => read!(u16, f64::from),
            DType::U8 | DType::Bool => read!(u8, f64::from),
            _ => return None,
        })
    }
}

/// Spells a type and shape, `f32[4,128]`.
pub fn kind(dtype: DType, shape: &[usize]) -> String {
    let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("{dtype}[{}]", dims.join(","))
}

impl fmt::Display for TensorView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&kind(self.dtype, self.shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a longer run has left behind the elements is none of them.
    #[test]
    fn strings_of_a_shorter_run() {
        let mut strings = Strings::new();
        let a = strings.intern("a").unwrap();
        let mut t = Tensor::from_strings(&[3], &["x", "y", "z"]).unwrap();
        t.reshape([1].into_iter()).unwrap();
        t.bytes_mut().copy_from_slice(&a.to_ne_bytes());
        t.adopt(&strings).unwrap();
        assert_eq!(t.view().to_strings().unwrap().unwrap(), ["a"]);
    }
}
