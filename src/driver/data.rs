//! Tensors from files, for modules and artifacts alike.

use super::{Result, runtime_error, usage};
use std::path::{Path, PathBuf};
use tersor_ir::blob::Blob;
use tersor_ir::{DType, Diagnostic, Failure, Tensor, string};
use tersor_runtime::data::{self, Role};

/// A tensor's bytes, where the runtime put them.
struct Held(tersor_runtime::Tensor);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// The tensor as the IR has it; its bytes stay where they are.
pub fn from_runtime(t: tersor_runtime::Tensor) -> tersor_ir::Result<Tensor> {
    let bad = |t: &tersor_runtime::Tensor| {
        let message = format!("element type {} is not supported", t.dtype().name());
        Diagnostic::error("C0304", message).failure(Failure::Unsupported)
    };
    let dtype = DType::from_name(t.dtype().name()).ok_or_else(|| bad(&t))?;
    let shape = t.shape().to_vec();
    if let Some(strings) = t.view().to_strings() {
        return string::tensor(shape, &strings.map_err(runtime_error)?);
    }
    let failed = bad(&t);
    Tensor::from_blob(dtype, shape, Blob::of(Held(t))).ok_or(failed)
}

/// The tensor as the runtime has it.
pub fn to_runtime(t: &Tensor) -> tersor_ir::Result<tersor_runtime::Tensor> {
    let dtype = tersor_runtime::DType::from_name(t.dtype().name()).ok_or_else(|| {
        Diagnostic::error("C0304", format!("element type {} is not supported", t.dtype())).failure(Failure::Unsupported)
    })?;
    if t.dtype() == DType::Str {
        return tersor_runtime::Tensor::from_strings(t.shape(), &string::strings(t)).map_err(runtime_error);
    }
    tersor_runtime::Tensor::from_bytes(dtype, t.shape(), t.bytes()).map_err(runtime_error)
}

/// One set of tensors: a folder of `.npy`, an `.npz`, or a `test_data_set_N` folder.
#[derive(Clone, Debug)]
pub struct DataSet(pub PathBuf);

/// The sets in a path: those of `test_data_set_*` folders, or the path itself.
pub fn data_sets(path: &Path) -> Result<Vec<DataSet>> {
    let meta = std::fs::metadata(path).map_err(|e| vec![super::file_error(path, "read", &e)])?;
    if meta.is_dir() {
        let sets = data::data_sets(path).map_err(|e| vec![runtime_error(e)])?;
        if !sets.is_empty() {
            return Ok(sets.into_iter().map(DataSet).collect());
        }
    }
    if !(meta.is_dir() || meta.is_file()) {
        return Err(vec![usage(format!("{} is neither a folder nor a regular file", path.display()))]);
    }
    Ok(vec![DataSet(path.to_path_buf())])
}

/// The inputs of these names, all of them.
pub fn inputs_of(set: &DataSet, names: &[String]) -> Result<Vec<Tensor>> {
    read(set, Role::Input, names)?
        .into_iter()
        .zip(names)
        .map(|(t, name)| {
            t.ok_or_else(|| {
                vec![
                    usage(format!("input {name} is missing in {}", set.0.display()))
                        .with_help(format!("the model takes {}", names.join(", "))),
                ]
            })
        })
        .collect()
}

/// The expected outputs of these names, as far as they are there.
pub fn outputs_of(set: &DataSet, names: &[String]) -> Result<Vec<Option<Tensor>>> {
    read(set, Role::Output, names)
}

fn read(set: &DataSet, role: Role, names: &[String]) -> Result<Vec<Option<Tensor>>> {
    let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = data::read(&set.0, role, &wanted).map_err(|e| vec![runtime_error(e)])?;
    let mut out = vec![None; names.len()];
    for (name, t) in found.tensors {
        if let Some(i) = names.iter().position(|n| *n == name) {
            out[i] = Some(from_runtime(t).map_err(|d| vec![d.in_file(set.0.display().to_string())])?);
        }
    }
    Ok(out)
}
