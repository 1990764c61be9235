//! Stages of a compilation as files, for people who want to look or link themselves.

use super::{Result, Watch, check_output, write_module};
use std::io::Write;
use std::path::{Path, PathBuf};
use tersor_backends::kernel::{Code, Isa};
use tersor_frontend::{ExportForm, ExportOptions, Exported};
use tersor_ir::{Diagnostic, Module};

/// Bytes of weights from which they go to a file of their own where nothing is said: a model file may have 2 GiB.
const INLINE: usize = 1 << 30;
/// Bytes of a tensor from which it goes to that file then.
const LARGE: usize = 1 << 10;

/// What a file holds.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Form {
    /// The module after all passes, with its weights in a second file.
    Tir,
    /// A model for other runtimes, with large weights in a second file.
    Onnx,
    /// The kernels of one instruction set.
    Kernels(Code),
}

impl Form {
    /// Extension and form.
    pub const ALL: [(&str, Form); 6] = [
        ("tir", Form::Tir),
        ("onnx", Form::Onnx),
        ("mlir", Form::Kernels(Code::Mlir)),
        ("ll", Form::Kernels(Code::Llvm)),
        ("s", Form::Kernels(Code::Assembly)),
        ("o", Form::Kernels(Code::Object)),
    ];
    /// The form of an extension.
    pub fn find(extension: &str) -> Option<Form> {
        Form::ALL.iter().find(|f| f.0 == extension).map(|f| f.1)
    }
    /// The files that hold it.
    pub fn files(self, output: &Path) -> Vec<PathBuf> {
        match self {
            Form::Tir => vec![output.into(), output.with_extension("tirw")],
            Form::Onnx | Form::Kernels(_) => vec![output.into()],
        }
    }
}

/// The ONNX model for `output`, and the file of its large tensors, where it has one: those of at least `external` bytes, where nothing is said large ones of large models.
pub(crate) fn export(
    m: &Module,
    form: ExportForm,
    output: &Path,
    external: Option<u64>,
) -> Result<(Exported, Option<PathBuf>)> {
    let mut data = output.to_path_buf().into_os_string();
    data.push(".data");
    let data = PathBuf::from(data);
    let inline = external.is_none() && m.constant_bytes() <= INLINE;
    let least = external.map_or(LARGE, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let name = data.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let written = tersor_frontend::export(m, &ExportOptions { form, external: (!inline).then_some((name, least)) })?;
    let has_data = written.has_data();
    Ok((written, has_data.then_some(data)))
}

/// Writes an exported model.
pub(crate) fn write_onnx(model: &Exported, output: &Path, data: Option<&Path>) -> Result<()> {
    if let Some(data) = data {
        super::write_file(data, |out| model.write_data(out))?;
    }
    super::write_file(output, |out| out.write_all(&model.model))
}

/// Writes a module in a form; gives what is to be said about it.
pub fn emit(m: &Module, form: Form, isa: Isa, output: &Path, watch: &Watch) -> Result<Vec<Diagnostic>> {
    let one = |d| vec![d];
    match form {
        Form::Tir => {
            watch.check().map_err(one)?;
            write_module(m, output)?;
        }
        Form::Onnx => {
            let (model, data) = export(m, ExportForm::Qdq, output, None)?;
            data.iter().try_for_each(|d| check_output(d, &[]))?;
            watch.check().map_err(one)?;
            write_onnx(&model, output, data.as_deref())?;
            return Ok(model.notes.clone());
        }
        Form::Kernels(code) => {
            let start = watch.begin("codegen").map_err(one)?;
            let bytes = kernels(m, isa, code, watch).map_err(one)?;
            watch.done("codegen", isa.name(), start);
            watch.check().map_err(one)?;
            super::write_file(output, |out| out.write_all(&bytes))?;
        }
    }
    Ok(vec![])
}

#[cfg(feature = "mlir")]
fn kernels(m: &Module, isa: Isa, code: Code, watch: &Watch) -> tersor_ir::Result<Vec<u8>> {
    tersor_backends::compile::kernels(m, isa, code, &mut || watch.check())
}

#[cfg(not(feature = "mlir"))]
fn kernels(_: &Module, _: Isa, _: Code, _: &Watch) -> tersor_ir::Result<Vec<u8>> {
    Err(super::compile::no_code_generator())
}
