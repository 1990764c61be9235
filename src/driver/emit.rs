//! Stages of a compilation as files, for people who want to look or link themselves.

use super::{Result, Watch, write_module};
use std::io::Write;
use std::path::{Path, PathBuf};
use tersor_backends::kernel::{Code, Isa};
use tersor_ir::Module;

/// What a file holds.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Form {
    /// The module after all passes, with its weights in a second file.
    Tir,
    /// The kernels of one instruction set.
    Kernels(Code),
}

impl Form {
    /// Extension and form.
    pub const ALL: [(&str, Form); 5] = [
        ("tir", Form::Tir),
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
            Form::Kernels(_) => vec![output.into()],
        }
    }
}

/// Writes a module in a form.
pub fn emit(m: &Module, form: Form, isa: Isa, output: &Path, watch: &Watch) -> Result<()> {
    let one = |d| vec![d];
    match form {
        Form::Tir => {
            watch.check().map_err(one)?;
            write_module(m, output)
        }
        Form::Kernels(code) => {
            let start = watch.begin("codegen").map_err(one)?;
            let bytes = kernels(m, isa, code, watch).map_err(one)?;
            watch.done("codegen", isa.name(), start);
            watch.check().map_err(one)?;
            super::load::write_file(output, |out| out.write_all(&bytes))
        }
    }
}

#[cfg(feature = "mlir")]
fn kernels(m: &Module, isa: Isa, code: Code, watch: &Watch) -> tersor_ir::Result<Vec<u8>> {
    tersor_backends::compile::kernels(m, isa, code, &mut |_| watch.check())
}

#[cfg(not(feature = "mlir"))]
fn kernels(_: &Module, _: Isa, _: Code, _: &Watch) -> tersor_ir::Result<Vec<u8>> {
    Err(super::compile::no_code_generator())
}
