//! Tensors of strings, whose elements are handles of one table of this process, and the functions of strings as the evaluator runs them.
//!
//! Handles differ from one process to the next: nothing that is written may depend on them. What is stored are the strings ([`stored`]), and equal strings have equal
//! handles, so that whatever moves or compares elements takes handles as it takes numbers.

use crate::blob::Blob;
use crate::diag::{Diagnostic, Failure, Result};
use crate::tensor::Tensor;
use crate::types::DType;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use tersor_host::{Function, Strings};

static TABLE: LazyLock<Mutex<Strings>> = LazyLock::new(Mutex::default);

fn table() -> MutexGuard<'static, Strings> {
    // An insertion that panicked left the table as it was, or whole.
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a function of strings cannot do.
pub fn error(e: tersor_host::Error) -> Diagnostic {
    Diagnostic::error("T0410", e.to_string()).failure(Failure::Model)
}

/// A tensor of these strings, which are as many as the shape says. An error where all strings of the process take too much memory.
pub fn tensor<S: AsRef<str>>(shape: impl Into<Vec<usize>>, strings: &[S]) -> Result<Tensor> {
    let mut table = table();
    let handles: Vec<u32> =
        strings.iter().map(|s| table.intern(s.as_ref())).collect::<Result<_, _>>().map_err(error)?;
    Ok(Tensor::from_bits(DType::Str, shape, handles.into_iter().map(u64::from)))
}

/// The strings of a tensor, in row-major order.
pub fn strings(t: &Tensor) -> Vec<Arc<str>> {
    assert_eq!(t.dtype(), DType::Str, "element type");
    let table = table();
    (0..t.len()).map(|i| table.get(t.get_bits(i) as u32).expect("handles of this process").clone()).collect()
}

/// Element `i` of a tensor of strings.
pub fn get(t: &Tensor, i: usize) -> Arc<str> {
    assert_eq!(t.dtype(), DType::Str, "element type");
    table().get(t.get_bits(i) as u32).expect("handles of this process").clone()
}

/// The bytes of a tensor as they are stored: of strings one after the other, each with its length in bytes (a little-endian u32) before it.
pub fn stored(t: &Tensor) -> Blob {
    if t.dtype() != DType::Str {
        return t.blob().clone();
    }
    let mut out = vec![];
    for s in strings(t) {
        out.extend((s.len() as u32).to_le_bytes());
        out.extend(s.as_bytes());
    }
    out.into()
}

/// The tensor of which [`stored`] gave the bytes; `None` where they are none of that type.
pub fn from_stored(dtype: DType, shape: Vec<usize>, bytes: Blob) -> Option<Tensor> {
    if dtype != DType::Str {
        return Tensor::from_blob(dtype, shape, bytes);
    }
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let (mut rest, mut found) = (&bytes[..], vec![]);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (s, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        found.push(std::str::from_utf8(s).ok()?);
        rest = after;
    }
    (rest.is_empty() && found.len() == count).then(|| tensor(shape, &found).ok())?
}

/// The results of a function of strings, as bytes.
pub fn call(f: &Function, operands: &[&Tensor]) -> Result<Vec<Vec<u8>>> {
    let prepared = f.prepare().map_err(error)?;
    let bytes: Vec<&[u8]> = operands.iter().map(|t| t.bytes()).collect();
    prepared.call(&bytes, &mut table()).map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_reads_back_and_damage_is_found() {
        let t = tensor([2, 2], &["", "aé", "a\"\n", "aé"]).unwrap();
        let bytes = stored(&t);
        assert_eq!(from_stored(DType::Str, vec![2, 2], bytes.clone()).unwrap(), t);
        assert_eq!(from_stored(DType::Str, vec![3], bytes.clone()), None);
        for cut in 0..bytes.len() {
            assert_eq!(from_stored(DType::Str, vec![2, 2], bytes.slice(0..cut).unwrap()), None, "{cut}");
        }
        assert_eq!(from_stored(DType::Str, vec![1], vec![1, 0, 0, 0, 0xff].into()), None);
    }
}
