//! `TensorProto` to IR tensors: raw data stay where they are, typed fields are packed.

use crate::limits::Limits;
use crate::proto::{self, Initializer, TensorProto};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use tersor_ir::blob::Blob;
use tersor_ir::diag::Result;
use tersor_ir::{DType, Diagnostic, Failure, Tensor, string};

/// The element type of an ONNX number (`TensorProto.DataType`).
pub fn dtype(number: i32) -> Option<DType> {
    Some(match number {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        4 => DType::U16,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        8 => DType::Str,
        9 => DType::Bool,
        10 => DType::F16,
        11 => DType::F64,
        12 => DType::U32,
        13 => DType::U64,
        14 => DType::C64,
        15 => DType::C128,
        16 => DType::BF16,
        17 => DType::F8E4M3,
        18 => DType::F8E4M3FNUZ,
        19 => DType::F8E5M2,
        20 => DType::F8E5M2FNUZ,
        21 => DType::U4,
        22 => DType::I4,
        23 => DType::F4E2M1,
        24 => DType::F8E8M0,
        25 => DType::U2,
        26 => DType::I2,
        _ => return None,
    })
}

/// Where tensors find their bytes.
pub struct Sources {
    /// The model file.
    pub file: Blob,
    /// Ranges of raw data in it, by number.
    pub raw: Vec<std::ops::Range<usize>>,
    /// The folder that external data must lie in; `None` for a model that is not a file.
    pub dir: Option<PathBuf>,
    /// External files mapped so far.
    pub mapped: std::collections::HashMap<PathBuf, Blob>,
    /// Whether external files must have one name only.
    pub strict: bool,
    /// Of ranks and sparse tensors.
    pub limits: Limits,
}

impl Sources {
    /// An initializer of a graph.
    pub fn initializer(&mut self, i: Initializer) -> Result<Tensor> {
        match i {
            Initializer::Dense(t) => self.tensor(t, i.name()),
            Initializer::Sparse(t) => self.sparse(t, i.name()),
        }
    }
    /// Decodes a tensor. `name` is for messages.
    pub fn tensor(&mut self, t: &TensorProto, name: &str) -> Result<Tensor> {
        let bad = |what: String| Diagnostic::error("O0010", format!("tensor \"{}\": {what}", name.escape_debug()));
        let dtype = dtype(t.data_type).ok_or_else(|| {
            let d = bad(format!("element type {} is not supported", t.data_type));
            if (1..=26).contains(&t.data_type) { d.failure(Failure::Unsupported) } else { d }
        })?;
        if t.dims.len() > self.limits.rank {
            return Err(bad(format!("rank {} is above {}", t.dims.len(), self.limits.rank)));
        }
        let shape = t.dims.iter().map(|&d| usize::try_from(d)).collect::<std::result::Result<Vec<_>, _>>();
        let shape = shape.map_err(|_| bad(format!("negative extent in {:?}", t.dims)))?;
        let n = shape.iter().try_fold(1usize, |a, &b| a.checked_mul(b)).filter(|&n| dtype.bytes(n).is_some());
        let n = n.ok_or_else(|| bad(format!("{shape:?} has more elements than can be addressed")))?;
        let bytes = dtype.bytes(n).expect("checked");
        let fields = [
            t.float_data.is_empty(),
            t.int32_data.is_empty(),
            t.int64_data.is_empty(),
            t.double_data.is_empty(),
            t.uint64_data.is_empty(),
        ];
        if dtype == DType::Str {
            let other = !fields.iter().all(|empty| *empty) || proto::raw_index(t).is_some() || proto::is_external(t);
            return strings(t, shape, other).map_err(bad);
        }
        let typed = fields.into_iter().filter(|empty| !empty).count();
        let raw = proto::raw_index(t).and_then(|i| self.raw.get(i).cloned());
        if typed + usize::from(raw.as_ref().is_some_and(|r| !r.is_empty())) + usize::from(proto::is_external(t)) > 1 {
            return Err(bad("elements in more than one field".into()));
        }
        let blob = if proto::is_external(t) {
            self.external(t, bytes).map_err(|d| Diagnostic {
                message: format!("tensor \"{}\": {}", name.escape_debug(), d.message),
                ..d
            })?
        } else if typed > 0 {
            return typed_fields(t, dtype, shape)
                .ok_or_else(|| bad(format!("the typed data do not have {n} elements of {dtype}")));
        } else {
            match raw {
                Some(r) => self.file.slice(r).ok_or_else(|| bad("raw data outside the file".into()))?,
                None => vec![].into(),
            }
        };
        let have = blob.len();
        Tensor::from_blob(dtype, shape, blob)
            .ok_or_else(|| bad(format!("{have} bytes of data, {dtype}{:?} takes {bytes}", t.dims)))
    }

    /// The bytes of a tensor in another file: a relative path that stays inside the model's folder, of a regular file.
    fn external(&mut self, t: &TensorProto, bytes: usize) -> Result<Blob> {
        let bad = |what: String| Diagnostic::error("O0011", what);
        let field = |key: &str| t.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        if let Some(e) = t
            .external_data
            .iter()
            .find(|e| !["location", "offset", "length", "checksum", "basepath"].contains(&e.key.as_str()))
        {
            return Err(bad(format!("unknown key \"{}\" of external data", e.key.escape_debug())));
        }
        let mut keys: Vec<&str> = t.external_data.iter().map(|e| e.key.as_str()).collect();
        keys.sort_unstable();
        if let Some(twice) = keys.windows(2).find(|w| w[0] == w[1]) {
            return Err(bad(format!("external data with two values of \"{}\"", twice[0])));
        }
        let location = field("location").ok_or_else(|| bad("external data without a location".into()))?;
        let number = |key: &str| match field(key) {
            None => Ok(None),
            Some(v) => v
                .parse::<usize>()
                .map(Some)
                .map_err(|_| bad(format!("external data: {key} \"{}\" is not a size", v.escape_debug()))),
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?.unwrap_or(bytes));
        if length != bytes {
            return Err(bad(format!("external data of {length} bytes, the type takes {bytes}")));
        }
        let path = self.locate(location)?;
        let blob = match self.mapped.get(&path) {
            Some(b) => b.clone(),
            None => {
                let blob = map(&path).map_err(|e| {
                    bad(format!("external data \"{}\": {e}", location.escape_debug()))
                        .with_help("put the data file beside the model")
                })?;
                self.mapped.insert(path, blob.clone());
                blob
            }
        };
        let total = blob.len();
        let part = offset.checked_add(length).and_then(|end| blob.slice(offset..end));
        part.ok_or_else(|| {
            bad(format!(
                "external data {offset}+{length} lies outside the {total} bytes of \"{}\"",
                location.escape_debug()
            ))
        })
    }

    fn locate(&self, location: &str) -> Result<PathBuf> {
        let outside = || {
            Diagnostic::error(
                "O0012",
                format!("external data \"{}\" is not inside the model's folder", location.escape_debug()),
            )
        };
        let relative = Path::new(location);
        if location.is_empty() || !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
        {
            return Err(outside());
        }
        let dir = self.dir.as_ref().ok_or_else(outside)?;
        let path = dir.join(relative);
        let io = |e: std::io::Error| {
            Diagnostic::error("O0011", format!("external data \"{}\": {e}", location.escape_debug()))
                .with_help("put the data file beside the model")
        };
        let meta = std::fs::metadata(&path).map_err(io)?;
        if !meta.is_file() {
            return Err(Diagnostic::error(
                "O0012",
                format!("external data \"{}\" is not a regular file", location.escape_debug()),
            ));
        }
        // Links may lead around inside the folder, or into the blobs of a hub cache two levels up, and nowhere else.
        let (real, root) = (path.canonicalize().map_err(io)?, dir.canonicalize().map_err(io)?);
        let hub = root
            .parent()
            .filter(|p| p.file_name().is_some_and(|n| n == "snapshots"))
            .and_then(Path::parent)
            .map(|p| p.join("blobs"));
        let cached = hub.is_some_and(|b| real.starts_with(b));
        let plain: PathBuf = relative.components().filter(|c| matches!(c, Component::Normal(_))).collect();
        if self.strict && (meta.nlink() > 1 || cached || real != root.join(plain)) {
            let what = format!("external data \"{}\" is a link, or has further names", location.escape_debug());
            return Err(Diagnostic::error("O0012", what).with_help("copy the file, or leave --strict-files out"));
        }
        let inside = real.starts_with(&root) || cached;
        // A hard link may lead outside as well; one to a file of somebody else's is not followed.
        let stranger = meta.nlink() > 1 && std::fs::metadata(&root).is_ok_and(|r| r.uid() != meta.uid());
        if inside && !stranger { Ok(real) } else { Err(outside()) }
    }
}

/// Reads a file that holds one `TensorProto` (`input_0.pb` of a test data set), and the tensor's name.
pub fn read_tensor(path: &Path) -> Result<(String, Tensor)> {
    let name = path.display().to_string();
    let file =
        map(path).map_err(|e| Diagnostic::error("O0003", format!("cannot read {name}: {e}")).failure(Failure::File))?;
    let skeleton = crate::wire::tensor_skeleton(&file).map_err(|d| d.in_file(&*name))?;
    let proto = proto::decode_tensor(&skeleton.bytes).map_err(|d| d.in_file(&*name))?;
    let (limits, mapped) = Default::default();
    let mut sources = Sources { file, raw: skeleton.raw, dir: None, mapped, strict: false, limits };
    let t = sources.tensor(&proto, &proto.name).map_err(|d| d.in_file(&*name))?;
    Ok((proto.name, t))
}

/// Maps a whole file, read-only and private.
pub fn map(path: &Path) -> std::io::Result<Blob> {
    // Opening a pipe would wait for somebody to write to it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let file = std::fs::File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(vec![].into());
    }
    // SAFETY: the mapping is private and read-only; a file that another process truncates meanwhile is outside what a compiler can guard against.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    Ok(Blob::from_map(Arc::new(map)))
}

/// A tensor of strings; `other` says whether there are elements in another field than theirs.
fn strings(t: &TensorProto, shape: Vec<usize>, other: bool) -> std::result::Result<Tensor, String> {
    if other {
        return Err("strings cannot be raw data, external data or numbers".into());
    }
    let (want, have) = (shape.iter().product::<usize>(), t.string_data.len());
    if want != have {
        return Err(format!("{have} strings, the shape takes {want}"));
    }
    let text = |(i, s): (usize, &'_ Vec<u8>)| match std::str::from_utf8(s) {
        Ok(s) => Ok(s.to_string()),
        Err(_) => Err(format!("string {i} is not UTF-8")),
    };
    let all = t.string_data.iter().enumerate().map(text).collect::<std::result::Result<Vec<_>, _>>()?;
    string::tensor(shape, &all).map_err(|d| d.message)
}

/// Packs the typed fields of a tensor; `None` when they do not hold its elements.
fn typed_fields(t: &TensorProto, dtype: DType, shape: Vec<usize>) -> Option<Tensor> {
    let n: usize = shape.iter().product();
    let bytes: Vec<u8> = match dtype {
        DType::F32 | DType::C64 => t.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F64 | DType::C128 => t.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I64 => t.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::U64 => t.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::U32 => t.uint64_data.iter().flat_map(|v| (*v as u32).to_le_bytes()).collect(),
        DType::I32 => t.int32_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ if dtype.bits() == 16 => t.int32_data.iter().flat_map(|v| (*v as u16).to_le_bytes()).collect(),
        // Types under 8 bits are packed two or four to a byte here as well.
        _ => t.int32_data.iter().map(|v| *v as u8).collect(),
    };
    (Some(bytes.len()) == dtype.bytes(n)).then(|| Tensor::from_blob(dtype, shape, bytes.into()))?
}
