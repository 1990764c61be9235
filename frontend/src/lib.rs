//! ONNX models into IR modules, and back.
//!
//! `wire` walks the file, `proto` decodes what is left of it, `tensor` finds the bytes of constants, and `import` translates operators, each by the version of its opset, into
//! the small op set of `tersor_ir`. Invariant: input from a file never panics, and nothing here recurses on its depth.

pub mod export;
pub mod import;
mod limits;
mod message;
mod nbits;
mod outline;
mod proto;
mod sparse;
mod tensor;
pub mod testing;
mod wire;

pub use export::{ExportOptions, Exported, Form as ExportForm, export};
pub use import::{
    Checked, DimBinding, Given, ImportOptions, Imported, MAP, check, import, import_bytes, operators, undecided,
};
pub use limits::Limits;
pub use outline::{Port, interface, node_operators};
pub use proto::Kind;
pub use tensor::read_tensor;
