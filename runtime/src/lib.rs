//! Loads and runs artifacts; knows no compiler.
//!
//! `artifact` and `program` are the format, `writer` makes it and `reader` checks it. Depends on no other tersor crate.

pub mod artifact;
pub mod atomic;
pub mod dtype;
pub mod error;
pub mod program;
pub mod writer;

pub use dtype::DType;
pub use error::{Error, Kind, Result};
pub use writer::ArtifactWriter;
