//! NumPy's `.npy`: read in any byte order and element order, written little-endian and row major.
//!
//! bf16 has no NumPy type of its own; it is the two-byte void `|V2`, which is what `ml_dtypes` arrays are saved as. Strings are NumPy's `U`: UTF-32 of one
//! length, filled up with zeros, so that zeros at the end of a string do not survive.

use std::borrow::Cow;
use std::io::Write;

use crate::dtype::DType;
use crate::error::{Error, Kind, Result};
use crate::tensor::{Tensor, TensorView, bytes_of};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Most bytes of an array of strings.
const MAX_STRINGS: usize = 1 << 32;

/// What the header of an array says.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    dtype: DType,
    /// Characters of a string.
    width: usize,
    big_endian: bool,
    fortran: bool,
    shape: Vec<usize>,
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Kind::Data, what)
}

/// Reads an array from the bytes of a file; there may be none left over.
pub fn read(bytes: &[u8]) -> Result<Tensor> {
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| bad("not a .npy file"))?;
    let short = || bad("the file ends within the header");
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
    let (length, rest) = match version[0] {
        1 => rest.split_first_chunk::<2>().map(|(n, r)| (u16::from_le_bytes(*n) as usize, r)),
        2 | 3 => rest.split_first_chunk::<4>().map(|(n, r)| (u32::from_le_bytes(*n) as usize, r)),
        v => return Err(Error::new(Kind::DataUnsupported, format!(".npy version {v} is unknown"))),
    }
    .ok_or_else(short)?;
    let (text, data) = rest.split_at_checked(length).ok_or_else(short)?;
    let header = parse(std::str::from_utf8(text).map_err(|_| bad("the header is not text"))?)?;
    let want = bytes_of(header.dtype, &header.shape);
    let want = if header.dtype == DType::Str { want.and_then(|n| n.checked_mul(header.width)) } else { want };
    let want = want.ok_or_else(|| bad("the shape is too large"))?;
    if data.len() != want {
        let what = format!(
            "{} needs {want} bytes, the file has {}",
            crate::tensor::kind(header.dtype, &header.shape),
            data.len()
        );
        return Err(bad(what));
    }
    let mut tensor = match header.dtype {
        DType::Str => return strings(&header, data),
        dtype => Tensor::from_bytes(dtype, &header.shape, data)?,
    };
    let (size, word) = (header.dtype.size().unwrap_or(1), header.dtype.word().unwrap_or(1));
    if header.big_endian != cfg!(target_endian = "big") && word > 1 {
        tensor.bytes_mut().chunks_exact_mut(word).for_each(<[u8]>::reverse);
    }
    if header.fortran && header.shape.len() > 1 {
        tensor = row_major(&tensor, size)?;
    }
    Ok(tensor)
}

/// Strings of UTF-32, without the zeros at their ends.
fn strings(header: &Header, data: &[u8]) -> Result<Tensor> {
    if header.fortran && header.shape.len() > 1 {
        return Err(Error::new(Kind::DataUnsupported, "strings in column-major order are not supported"));
    }
    let character = |c: &[u8]| {
        let bytes = [c[0], c[1], c[2], c[3]];
        let code = if header.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        char::from_u32(code).ok_or_else(|| bad(format!("{code:#x} is no character")))
    };
    let elements = header.shape.iter().product::<usize>();
    let one = |i: usize| {
        let s: String =
            data[i * header.width * 4..][..header.width * 4].chunks_exact(4).map(character).collect::<Result<_>>()?;
        Ok(s.trim_end_matches('\0').to_owned())
    };
    Tensor::from_strings(&header.shape, &(0..elements).map(one).collect::<Result<Vec<_>>>()?)
}

/// The description and the bytes of strings of UTF-32.
fn utf32(strings: &[String]) -> Result<(String, Vec<u8>)> {
    let width = strings.iter().map(|s| s.chars().count()).max().unwrap_or(0).max(1);
    let bytes = width.checked_mul(4).and_then(|w| w.checked_mul(strings.len())).filter(|&n| n <= MAX_STRINGS);
    let bytes = bytes.ok_or_else(|| {
        Error::new(Kind::Memory, "strings are too long for .npy, which gives each the length of the longest")
    })?;
    let mut out = Vec::with_capacity(bytes);
    for s in strings {
        let end = out.len() + width * 4;
        out.extend(s.chars().flat_map(|c| u32::from(c).to_le_bytes()));
        out.resize(end, 0);
    }
    Ok((format!("<U{width}"), out))
}

/// Turns column-major bytes into row-major ones.
fn row_major(from: &Tensor, size: usize) -> Result<Tensor> {
    let shape = from.shape();
    let mut out = Tensor::zeros(from.dtype(), shape)?;
    let mut strides = vec![1usize; shape.len()];
    for i in 1..shape.len() {
        strides[i] = strides[i - 1] * shape[i - 1];
    }
    let mut index = vec![0usize; shape.len()];
    for element in out.bytes_mut().chunks_exact_mut(size) {
        let at: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum();
        element.copy_from_slice(&from.bytes()[at * size..(at + 1) * size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Ok(out)
}

/// Reads the header's dictionary, `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse(text: &str) -> Result<Header> {
    let body =
        text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(|| bad("malformed header"))?;
    let after = |key: &str| {
        let quoted = [format!("'{key}'"), format!("\"{key}\"")];
        let rest = quoted.iter().find_map(|q| body.split_once(q.as_str())).map(|(_, r)| r.trim_start());
        rest.and_then(|r| r.strip_prefix(':'))
            .map(str::trim_start)
            .ok_or_else(|| bad(format!("the header lacks {key}")))
    };
    let descr = after("descr")?;
    let quote = descr.chars().next().filter(|c| matches!(c, '\'' | '"'));
    let descr = quote.and_then(|q| descr[1..].split_once(q)).map(|(d, _)| d);
    let descr = descr.ok_or_else(|| Error::new(Kind::DataUnsupported, "structured arrays are not supported"))?;
    let fortran = match after("fortran_order")? {
        t if t.starts_with("True") => true,
        t if t.starts_with("False") => false,
        _ => return Err(bad("fortran_order is neither True nor False")),
    };
    let shape = after("shape")?.strip_prefix('(').and_then(|t| t.split_once(')')).map(|(s, _)| s);
    let shape = shape.ok_or_else(|| bad("the shape is not a tuple"))?.split(',').map(str::trim);
    let shape =
        shape.filter(|d| !d.is_empty()).map(|d| d.parse().map_err(|_| bad(format!("extent {d} is not a number"))));
    let (dtype, width, big_endian) = element(descr)?;
    Ok(Header { dtype, width, big_endian, fortran, shape: shape.collect::<Result<_>>()? })
}

fn element(descr: &str) -> Result<(DType, usize, bool)> {
    let name = descr.trim_start_matches(['<', '>', '|', '=']);
    let width = name.strip_prefix('U').and_then(|n| n.parse().ok());
    let dtype = match name {
        _ if width.is_some() => DType::Str,
        "f8" => DType::F64,
        "f4" => DType::F32,
        "f2" => DType::F16,
        "V2" => DType::Bf16,
        "i8" => DType::I64,
        "i4" => DType::I32,
        "i2" => DType::I16,
        "i1" => DType::I8,
        "u8" => DType::U64,
        "u4" => DType::U32,
        "u2" => DType::U16,
        "u1" => DType::U8,
        "b1" | "?" => DType::Bool,
        "c8" => DType::C64,
        "c16" => DType::C128,
        _ => return Err(Error::new(Kind::DataUnsupported, format!("NumPy type {descr} is not supported"))),
    };
    let big = descr.starts_with('>') || (cfg!(target_endian = "big") && !descr.starts_with('<'));
    Ok((dtype, width.unwrap_or(1), big))
}

fn descr(dtype: DType) -> Result<&'static str> {
    Ok(match dtype {
        DType::F64 => "<f8",
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::Bf16 => "|V2",
        DType::I64 => "<i8",
        DType::I32 => "<i4",
        DType::I16 => "<i2",
        DType::I8 => "|i1",
        DType::U64 => "<u8",
        DType::U32 => "<u4",
        DType::U16 => "<u2",
        DType::U8 => "|u1",
        DType::Bool => "|b1",
        DType::C64 => "<c8",
        DType::C128 => "<c16",
        other => return Err(Error::new(Kind::DataUnsupported, format!("NumPy has no type for {other}"))),
    })
}

/// Writes an array.
pub fn write(tensor: TensorView, out: &mut dyn Write) -> Result<()> {
    let (descr, bytes) = match tensor.to_strings() {
        Some(strings) => utf32(&strings?).map(|(d, b)| (d, Cow::Owned(b)))?,
        None => (descr(tensor.dtype)?.to_string(), Cow::Borrowed(tensor.bytes)),
    };
    let dims: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
    let comma = if dims.len() == 1 { "," } else { "" };
    let mut text = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{comma}), }}", descr, dims.join(", "));
    // The data begin at a multiple of 64 bytes; the text ends with a newline.
    let padded = (10 + text.len() + 1).next_multiple_of(64) - 10;
    text.extend(std::iter::repeat_n(' ', padded - text.len() - 1));
    text.push('\n');
    let length = u16::try_from(padded).map_err(|_| bad("too many axes for .npy"))?;
    let write = |out: &mut dyn Write| -> std::io::Result<()> {
        out.write_all(MAGIC)?;
        out.write_all(&[1, 0])?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(text.as_bytes())?;
        if cfg!(target_endian = "little") || tensor.dtype == DType::Str {
            return out.write_all(&bytes);
        }
        let size = tensor.dtype.word().unwrap_or(1);
        tensor.bytes.chunks_exact(size).try_for_each(|c| out.write_all(&c.iter().rev().copied().collect::<Vec<u8>>()))
    };
    write(out).map_err(|e| Error::new(Kind::Io, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TYPES: [DType; 15] = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U64,
        DType::U32,
        DType::U16,
        DType::U8,
        DType::Bool,
        DType::C64,
        DType::C128,
    ];

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend((header.len() as u16).to_le_bytes());
        out.extend(header.as_bytes());
        out.extend(data);
        out
    }

    proptest! {
        #[test]
        fn arrays_round_trip(which in 0..TYPES.len(), shape in prop::collection::vec(0usize..5, 0..4), seed: u8) {
            let n = bytes_of(TYPES[which], &shape).unwrap();
            let bytes: Vec<u8> = (0..n).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
            let t = Tensor::from_bytes(TYPES[which], &shape, &bytes).unwrap();
            let mut out = Vec::new();
            write(t.view(), &mut out).unwrap();
            prop_assert!((out.len() - n).is_multiple_of(64));
            let back = read(&out).unwrap();
            prop_assert_eq!((back.dtype(), back.shape(), back.bytes()), (t.dtype(), t.shape(), t.bytes()));
        }

        #[test]
        fn damaged_files_never_panic(at in 0usize..200, byte: u8, cut in 0usize..200) {
            let mut out = Vec::new();
            write(Tensor::from_f32(&[2, 3], &[1.0; 6]).unwrap().view(), &mut out).unwrap();
            if let Some(b) = out.get_mut(at) {
                *b = byte;
            }
            out.truncate(out.len().saturating_sub(cut));
            let _ = read(&out);
        }
    }

    #[test]
    fn strings_round_trip() {
        let words = ["", "é日", "bc"];
        let t = Tensor::from_strings(&[3], &words).unwrap();
        let mut out = Vec::new();
        write(t.view(), &mut out).unwrap();
        assert!(String::from_utf8_lossy(&out).contains("'<U2'"));
        assert_eq!(read(&out).unwrap().view().to_strings().unwrap().unwrap(), words);
        let header = "{'descr': '>U1', 'fortran_order': False, 'shape': (1,)}";
        assert_eq!(read(&file(header, &[0, 0, 0, b'x'])).unwrap().view().to_strings().unwrap().unwrap(), ["x"]);
        assert!(read(&file(header, &[0xff; 4])).is_err());
    }

    #[test]
    fn column_major_and_big_endian_arrays_are_converted() {
        let data: Vec<u8> = [1u16, 2, 3, 4, 5, 6].iter().flat_map(|v| v.to_be_bytes()).collect();
        let t = read(&file("{'descr': '>u2', 'fortran_order': True, 'shape': (2, 3), }", &data)).unwrap();
        assert_eq!(t.to_f64().unwrap(), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
        let data: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_be_bytes()).collect();
        let t = read(&file("{'descr': '>c8', 'fortran_order': False, 'shape': (2,), }", &data)).unwrap();
        assert_eq!(t.bytes(), [1f32, 2.0, 3.0, 4.0].map(f32::to_ne_bytes).concat());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let fails = |h: &str, n| read(&file(h, &vec![0; n])).unwrap_err();
        assert_eq!(fails("{'descr': '<c32', 'fortran_order': False, 'shape': (1,)}", 32).kind, Kind::DataUnsupported);
        assert_eq!(
            fails("{'descr': [('a','<f4')], 'fortran_order': False, 'shape': (1,)}", 4).kind,
            Kind::DataUnsupported
        );
        let e = fails("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", 8);
        assert_eq!(e.message, "f32[3] needs 12 bytes, the file has 8");
        let huge = "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999)}";
        assert_eq!(fails(huge, 8).kind, Kind::Data);
        assert_eq!(read(b"PK").unwrap_err().kind, Kind::Data);
    }
}
