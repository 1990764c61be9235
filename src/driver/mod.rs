//! The steps from a model file to an artifact, for programs and for the command line.
//!
//! Everything that a person reads goes through [`Watch::done`] or comes back as data; nothing here prints. Files appear whole or not at all.

mod cache;
mod calibrate;
mod compile;
mod data;
mod evaluate;
mod load;
mod lock;
mod optimize;
mod verify;
mod watch;

pub use cache::Cache;
pub use calibrate::{Samples, batches, calibrate, calibrate_to};
pub(crate) use compile::check_output;
pub use compile::{CompileOptions, Compiled, compile, source_hash, targets};
pub use data::{DataSet, data_sets, from_runtime, inputs_of, outputs_of, to_runtime};
pub use evaluate::{Compiler, Interpreter, evaluator};
pub use load::{Loaded, Source, import, load, load_weights, write_module};
pub use lock::Lock;
pub use optimize::{OptimizeOptions, Optimized, optimize, pipeline};
pub use verify::{Comparison, FIGURES, Limits, Program, compare, layers};
pub use watch::{StepLine, Watch, peak_memory};

use tersor_ir::{Diagnostic, Failure};

/// What can fail with several findings.
pub type Result<T> = std::result::Result<T, Vec<Diagnostic>>;

/// Version of the tool, as artifacts and locks say it.
pub const TOOL: &str = env!("CARGO_PKG_VERSION");

/// The runtime's error as a diagnostic.
pub fn runtime_error(e: tersor_runtime::Error) -> Diagnostic {
    let failure = match e.exit() {
        2 => Failure::Usage,
        3 => Failure::Model,
        4 => Failure::Unsupported,
        6 => Failure::Target,
        7 => Failure::Limit,
        8 => Failure::File,
        _ => Failure::Internal,
    };
    let d = Diagnostic::error(e.code(), e.message.clone()).failure(failure);
    match e.help {
        Some(help) => d.with_help(help),
        None => d,
    }
}

/// A failed file operation.
pub(crate) fn file_error(path: &std::path::Path, what: &str, e: &std::io::Error) -> Diagnostic {
    Diagnostic::error("C0301", format!("cannot {what} {}: {e}", path.display())).failure(Failure::File)
}

pub(crate) fn usage(message: impl Into<String>) -> Diagnostic {
    Diagnostic::error("C0001", message).failure(Failure::Usage)
}
