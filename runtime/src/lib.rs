//! Loads and runs artifacts; knows no compiler.
//!
//! `artifact` and `program` are the format, `writer` makes it and `reader` checks it. Depends on no other tersor crate but `tersor-host`, the functions of strings.

pub mod artifact;
pub mod atomic;
mod bind;
pub mod cli;
pub mod cpu;
pub mod data;
pub mod dtype;
pub mod error;
pub mod execute;
mod late;
pub mod limits;
pub mod load;
pub mod memory;
pub mod plan;
pub mod pool;
pub mod program;
pub mod range;
pub mod reader;
pub mod tensor;
mod validate;
pub mod writer;

pub use dtype::DType;
pub use error::{Error, Kind, Result};
pub use execute::Session;
pub use load::{LoadOptions, Model};
pub use reader::Artifact;
pub use tensor::{Tensor, TensorView};
pub use writer::ArtifactWriter;
