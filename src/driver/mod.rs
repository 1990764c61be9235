//! The steps from a model file to an artifact, for programs and for the command line.
//!
//! Everything that a person reads goes through [`Watch::done`] or comes back as data; nothing here prints. Files appear whole or not at all.

mod cache;
mod calibrate;
mod check;
mod compile;
pub mod conformance;
mod data;
mod emit;
mod evaluate;
mod explain;
mod load;
mod lock;
mod metric;
mod optimize;
mod plan;
mod plans;
mod reduce;
mod search;
mod verify;
mod watch;

pub use cache::Cache;
pub use calibrate::{Journal, Samples, batches, calibrate, calibrate_to, gather};
pub use check::{Checked, Topic, check};
pub use compile::{CompileOptions, Compiled, compile, source_hash, targets};
pub(crate) use compile::{check_output, lock_path};
pub use data::{DataSet, data_sets, from_runtime, inputs_of, outputs_of, to_runtime};
pub use emit::{Form, emit};
pub(crate) use emit::{export, write_onnx};
pub use evaluate::{Compiler, Interpreter, evaluator};
pub use explain::{Explained, KernelStep, explain, explain_artifact, reported};
pub use load::{Bindings, Loaded, Source, import, load, load_watched, load_weights, write_module};
pub(crate) use load::{read_text, write_file, write_text};
pub use lock::{Decision, Lock, decisions};
pub use metric::{METRICS, Metric, Reference, Score, labels};
pub use optimize::{Offering, OptimizeOptions, Optimized, decide, offer, optimize, pipeline};
pub use plan::PlanFile;
pub use plans::Plans;
pub use reduce::{Oracle, Reduced, failure, reduce};
pub(crate) use search::over_budget;
pub use search::{Found, Measured, SearchOptions, search};
pub use tersor_backends::lower::runtime_error;
pub use tersor_runtime::limits::peak_memory;
pub use verify::{Comparison, FIGURES, Limits, Program, compare, layers};
pub use watch::{Event, StepLine, Watch};

use tersor_ir::{Diagnostic, Failure};

/// What can fail with several findings.
pub type Result<T> = std::result::Result<T, Vec<Diagnostic>>;

/// Version of the tool, as artifacts and locks say it.
pub const TOOL: &str = env!("CARGO_PKG_VERSION");

/// A failed file operation.
pub(crate) fn file_error(path: &std::path::Path, what: &str, e: &std::io::Error) -> Diagnostic {
    Diagnostic::error("C0301", format!("cannot {what} {}: {e}", path.display())).failure(Failure::File)
}

pub(crate) fn usage(message: impl Into<String>) -> Diagnostic {
    Diagnostic::error("C0001", message).failure(Failure::Usage)
}
