//! The artifact format: a header, aligned constants and sections, and a manifest that describes them.
//!
//! ```text
//! 0      magic, format, ABI, place of the manifest, file length, BLAKE3 of the manifest      (128 bytes)
//! 128    constants (at 64 bytes; at 4096 when they are a page or more) and sections, in the order written
//! ...    the manifest (prost), last, so that constants stream to disk before all is known
//! ```
//!
//! Loading checks the manifest's hash and the hash of the code it is about to map. Constants carry a content hash too,
//! but hashing 100 MB costs more than loading it, so only `Artifact::verify` (`--verify`) reads them.
//! The hashes find damage, not malice: an artifact is a program, to be trusted like one.

use crate::dtype::DType;
use crate::error::{Error, Kind, Result};
use crate::program::{Extent, ExtentId, Program};

/// First bytes of every artifact; a transfer that rewrites line ends or strips the eighth bit spoils them.
pub const MAGIC: [u8; 8] = *b"\x89tsr\r\n\x1a\n";
/// Version of the layout and of the manifest.
pub const FORMAT: u32 = 1;
/// Version of the kernel ABI (`ARCHITECTURE.md`).
pub const ABI: u32 = 1;
/// Alignment of constants below a page, and of sections.
pub const ALIGN: u64 = 64;
/// Alignment of constants of a page or more.
pub const PAGE: u64 = 4096;

/// Everything about a model but its bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Manifest {
    /// Version of the tool that wrote the artifact.
    #[prost(string, tag = "1")]
    pub tool: String,
    /// The model's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Hash of the source model, `algorithm:hex`.
    #[prost(string, tag = "3")]
    pub source: String,
    /// The pipeline that made it, as text.
    #[prost(string, tag = "4")]
    pub pipeline: String,
    /// The plan (which alternative at each site), as text.
    #[prost(string, tag = "5")]
    pub plan: String,
    #[prost(message, repeated, tag = "6")]
    pub inputs: Vec<Value>,
    #[prost(message, repeated, tag = "7")]
    pub outputs: Vec<Value>,
    #[prost(message, repeated, tag = "8")]
    pub symbols: Vec<Symbol>,
    /// See [`crate::program::Extents`].
    #[prost(message, repeated, tag = "9")]
    pub extents: Vec<Extent>,
    /// In order of preference: the first one whose features the CPU has is run.
    #[prost(message, repeated, tag = "10")]
    pub variants: Vec<Variant>,
    /// Filled by the writer.
    #[prost(message, repeated, tag = "11")]
    pub constants: Vec<Constant>,
    /// Filled by the writer.
    #[prost(message, repeated, tag = "12")]
    pub sections: Vec<Section>,
    /// Strings that constants are made of: the elements of a constant of strings are handles, 0 for the empty string and `i + 1` for entry `i`. No entry is empty, and
    /// none stands twice.
    #[prost(string, repeated, tag = "13")]
    pub strings: Vec<String>,
}

/// An input or output.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Value {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(enumeration = "DType", tag = "2")]
    pub dtype: i32,
    /// An input's extent that is a symbol, or a positive multiple of one, binds it; any other is checked.
    #[prost(uint32, repeated, tag = "3")]
    pub dims: Vec<ExtentId>,
}

impl Value {
    pub fn new(name: impl Into<String>, dtype: DType, dims: Vec<ExtentId>) -> Value {
        Value { name: name.into(), dtype: dtype as i32, dims }
    }
}

/// A named extent. Inputs bind it, as an extent of one of them, or, where it has a cap, a step of each program does.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Symbol {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub min: u64,
    /// `Symbol::UNBOUNDED` when there is no bound.
    #[prost(uint64, tag = "3")]
    pub max: u64,
    /// A typical value, for reports.
    #[prost(uint64, tag = "4")]
    pub hint: u64,
    /// The most that it can be, an entry of the extents table before those over the symbol itself: then the data decide it ([`crate::program::Bind`]).
    #[prost(uint32, optional, tag = "5")]
    pub cap: Option<ExtentId>,
}

impl Symbol {
    pub const UNBOUNDED: u64 = i64::MAX as u64;
}

/// Code for one set of CPU features, with the program that calls it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Variant {
    /// The target, as `--target` spells it.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Names as in [`crate::cpu`]; an unknown one is never held.
    #[prost(string, repeated, tag = "2")]
    pub features: Vec<String>,
    /// Index of the section with position-independent machine code and its read-only data, relocated against its own start.
    #[prost(uint32, tag = "3")]
    pub code: u32,
    #[prost(message, repeated, tag = "4")]
    pub kernels: Vec<Kernel>,
    #[prost(message, required, tag = "5")]
    pub program: Program,
}

/// A function in a variant's code.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Kernel {
    #[prost(string, tag = "1")]
    pub name: String,
    /// Bytes from the start of the code section.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
}

/// Bytes shared by all variants, found by content.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Constant {
    /// Where it comes from, for reports.
    #[prost(string, tag = "1")]
    pub name: String,
    /// How the bytes relate to the tensor, for export: empty for row major.
    #[prost(string, tag = "2")]
    pub layout: String,
    /// BLAKE3 of the bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub hash: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub offset: u64,
    #[prost(uint64, tag = "5")]
    pub length: u64,
}

/// Named bytes: code, the resolved module, reports.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Section {
    #[prost(string, tag = "1")]
    pub name: String,
    /// BLAKE3 of the bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub hash: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    #[prost(uint64, tag = "4")]
    pub length: u64,
}

/// The fixed start of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub manifest_offset: u64,
    pub manifest_length: u64,
    pub file_length: u64,
    pub manifest_hash: [u8; 32],
}

impl Header {
    pub const SIZE: usize = 128;

    pub fn to_bytes(self) -> [u8; Header::SIZE] {
        let mut out = [0; Header::SIZE];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[12..16].copy_from_slice(&ABI.to_le_bytes());
        out[16..24].copy_from_slice(&self.manifest_offset.to_le_bytes());
        out[24..32].copy_from_slice(&self.manifest_length.to_le_bytes());
        out[32..40].copy_from_slice(&self.file_length.to_le_bytes());
        out[40..72].copy_from_slice(&self.manifest_hash);
        out
    }

    /// Reads and checks the header of a file of `actual` bytes that starts with `bytes`.
    pub fn parse(bytes: &[u8], actual: u64) -> Result<Header> {
        if !bytes.starts_with(&MAGIC) {
            let short = bytes.len() < MAGIC.len() && MAGIC.starts_with(bytes) && !bytes.is_empty();
            let (kind, what) = if short {
                (Kind::Truncated, "the file ends within the header")
            } else {
                (Kind::NotAnArtifact, "not a tersor artifact")
            };
            return Err(Error::new(kind, what).with_help("make one with `tersor compile model.onnx -o model.tsr`"));
        }
        let Some(bytes) = bytes.first_chunk::<{ Header::SIZE }>() else {
            return Err(Error::new(Kind::Truncated, "the file ends within the header"));
        };
        let u32_at = |i: usize| u32::from_le_bytes(std::array::from_fn(|k| bytes[i + k]));
        let u64_at = |i: usize| u64::from_le_bytes(std::array::from_fn(|k| bytes[i + k]));
        for (what, found, known) in [("format", u32_at(8), FORMAT), ("kernel ABI", u32_at(12), ABI)] {
            if found != known {
                return Err(Error::new(Kind::Version, format!("{what} version {found}, this program knows {known}"))
                    .with_help("compile the model again, or use the tersor-run of the version that made it"));
            }
        }
        let header = Header {
            manifest_offset: u64_at(16),
            manifest_length: u64_at(24),
            file_length: u64_at(32),
            manifest_hash: std::array::from_fn(|k| bytes[40 + k]),
        };
        if header.file_length != actual {
            let what = format!("the file has {actual} bytes, its header says {}", header.file_length);
            return Err(Error::new(Kind::Truncated, what).with_help("copy or compile it again"));
        }
        let end = header.manifest_offset.checked_add(header.manifest_length);
        if header.manifest_offset < Header::SIZE as u64 || end.is_none_or(|end| end > actual) {
            return Err(Error::new(Kind::Manifest, "the manifest's place lies outside the file"));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trips_and_names_what_is_wrong() {
        let h = Header { manifest_offset: 128, manifest_length: 10, file_length: 138, manifest_hash: [7; 32] };
        let bytes = h.to_bytes();
        assert_eq!(Header::parse(&bytes, 138), Ok(h));
        let kind = |b: &[u8], n| Header::parse(b, n).unwrap_err().kind;
        assert_eq!(kind(&bytes, 137), Kind::Truncated);
        assert_eq!(kind(&bytes[..40], 40), Kind::Truncated);
        assert_eq!(kind(&bytes[..3], 3), Kind::Truncated);
        assert_eq!(kind(b"", 0), Kind::NotAnArtifact);
        let mut other = bytes;
        other[8] = 9;
        assert_eq!(kind(&other, 138), Kind::Version);
        let far = Header { manifest_offset: u64::MAX, ..h }.to_bytes();
        assert_eq!(kind(&far, 138), Kind::Manifest);
    }
}
