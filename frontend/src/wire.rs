//! The protobuf wire format, walked before anything is decoded.
//!
//! The walk checks nesting, counts and lengths against the bytes that are there, in linear time, and writes a *skeleton* of the model: the same message with every
//! tensor's `raw_data` replaced by its number in [`Skeleton::raw`]. Tensor bytes thus stay in the mapped file.

use std::ops::Range;
use tersor_ir::{Diagnostic, Failure};

/// A model without the bytes of its tensors.
pub struct Skeleton {
    /// A `ModelProto`.
    pub bytes: Vec<u8>,
    /// Where each tensor's raw data stand in the file.
    pub raw: Vec<Range<usize>>,
}

/// The message types on the way from a model to its tensors.
#[derive(Copy, Clone, PartialEq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    Function,
    /// Decoded, with nothing of interest below.
    Leaf,
}

/// The type of a length-delimited field, if it is a message.
fn child(parent: Kind, field: u64) -> Option<Kind> {
    use Kind::*;
    Some(match (parent, field) {
        (Model, 7) => Graph,
        (Model, 25) => Function,
        (Model, 8 | 14 | 20) => Leaf,
        (Graph | Function, 1) if parent == Graph => Node,
        (Function, 7) => Node,
        (Function, 11) => Attribute,
        (Graph, 5) => Tensor,
        (Graph, 15) => Sparse,
        (Graph, 11..=14 | 16) => Leaf,
        (Node, 5) => Attribute,
        (Node, 9) => Leaf,
        (Attribute, 5 | 10) => Tensor,
        (Attribute, 6 | 11) => Graph,
        (Attribute, 22 | 23) => Sparse,
        (Sparse, 1 | 2) => Tensor,
        (Tensor, 13) => Leaf,
        _ => return None,
    })
}

/// Number of `TensorProto.raw_data`.
const RAW_DATA: u64 = 9;

struct Walk<'a> {
    file: &'a [u8],
    nesting: usize,
    raw: Vec<Range<usize>>,
    messages: usize,
}

fn refuse(at: usize, what: &str) -> Diagnostic {
    Diagnostic::error("O0001", format!("not a readable ONNX file: {what} at byte {at}"))
        .with_help("the file is damaged or cut short; export or copy it again")
}

/// Walks a model file; messages deeper than `nesting` are refused.
pub fn skeleton(file: &[u8], nesting: usize) -> Result<Skeleton, Diagnostic> {
    walk(file, Kind::Model, nesting)
}

/// Walks a file that holds one tensor.
pub fn tensor_skeleton(file: &[u8]) -> Result<Skeleton, Diagnostic> {
    walk(file, Kind::Tensor, 4)
}

fn walk(file: &[u8], kind: Kind, nesting: usize) -> Result<Skeleton, Diagnostic> {
    let mut walk = Walk { file, nesting, raw: vec![], messages: 0 };
    let bytes = walk.message(kind, 0..file.len(), 0)?;
    Ok(Skeleton { bytes, raw: walk.raw })
}

impl Walk<'_> {
    fn varint(&self, at: &mut usize, end: usize) -> Result<u64, Diagnostic> {
        let (start, mut value) = (*at, 0u64);
        for shift in (0..70).step_by(7) {
            if *at >= end {
                return Err(refuse(start, "a number that ends early"));
            }
            let byte = self.file[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(refuse(start, "a number of more than ten bytes"))
    }

    fn message(&mut self, kind: Kind, range: Range<usize>, depth: usize) -> Result<Vec<u8>, Diagnostic> {
        if depth > self.nesting {
            return Err(refuse(range.start, "messages nested too deeply"));
        }
        let (mut out, mut at, end) = (vec![], range.start, range.end);
        while at < end {
            let start = at;
            let tag = self.varint(&mut at, end)?;
            let length = match tag & 7 {
                0 => {
                    self.varint(&mut at, end)?;
                    0
                }
                1 => 8,
                2 => usize::try_from(self.varint(&mut at, end)?).unwrap_or(usize::MAX),
                5 => 4,
                _ => return Err(refuse(start, "a field of a kind that ONNX does not use")),
            };
            if length > end - at {
                return Err(refuse(start, "a field that is longer than what contains it"));
            }
            let payload = at..at + length;
            at = payload.end;
            if tag & 7 != 2 {
                out.extend_from_slice(&self.file[start..at]);
                continue;
            }
            match child(kind, tag >> 3) {
                Some(inner) => {
                    self.messages += 1;
                    // Real messages take more than six bytes each; hordes of empty ones would take a hundred times their size in memory.
                    if self.messages > 100_000 + self.file.len() / 6 {
                        return Err(refuse(start, "too many empty messages").failure(Failure::Model));
                    }
                    let body = if inner == Kind::Leaf {
                        self.file[payload].to_vec()
                    } else {
                        self.message(inner, payload, depth + 1)?
                    };
                    put(&mut out, tag, &body);
                }
                None if kind == Kind::Tensor && tag >> 3 == RAW_DATA => {
                    put(&mut out, tag, &(self.raw.len() as u64).to_le_bytes());
                    self.raw.push(payload);
                }
                None => out.extend_from_slice(&self.file[start..at]),
            }
        }
        Ok(out)
    }
}

fn put(out: &mut Vec<u8>, tag: u64, body: &[u8]) {
    for mut v in [tag, body.len() as u64] {
        while v >= 0x80 {
            out.push(v as u8 | 0x80);
            v >>= 7;
        }
        out.push(v as u8);
    }
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_data_become_numbers_and_bad_lengths_are_refused() {
        // graph { initializer { name: "w", raw_data: 16 bytes } }
        let mut tensor = vec![];
        put(&mut tensor, 8 << 3 | 2, b"w");
        put(&mut tensor, 9 << 3 | 2, &[7; 16]);
        let (mut graph, mut model) = (vec![], vec![]);
        put(&mut graph, 5 << 3 | 2, &tensor);
        put(&mut model, 7 << 3 | 2, &graph);
        let s = skeleton(&model, 200).unwrap();
        assert_eq!(model[s.raw[0].clone()], [7; 16]);
        assert_eq!(s.bytes.len(), model.len() - 8);
        for cut in 1..model.len() {
            assert!(skeleton(&model[..cut], 200).is_err(), "{cut}");
        }
        assert!(skeleton(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], 200).is_err());
    }

    #[test]
    fn hordes_and_depths_are_refused() {
        let graph = [0x0a, 0x00].repeat(4_000_000);
        let mut model = vec![];
        put(&mut model, 7 << 3 | 2, &graph);
        assert!(skeleton(&model, 200).is_err());
        let mut inner = vec![];
        for _ in 0..100 {
            for tag in [6u64, 5, 1] {
                let mut outer = vec![];
                put(&mut outer, tag << 3 | 2, &inner);
                inner = outer;
            }
        }
        let mut model = vec![];
        put(&mut model, 7 << 3 | 2, &inner);
        assert!(skeleton(&model, 200).is_err());
    }
}
