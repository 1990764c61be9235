//! Types, ops, text form, verifier and reference evaluator of tersor's one IR.
//!
//! Invariants: no file or device access but the constant store's; nothing here knows ONNX, e-graphs or LLVM.

pub mod blob;
pub mod constant;
pub mod diag;
pub mod dim;
pub mod entity;
pub mod interp;
pub mod loc;
pub mod module;
pub mod ops;
pub mod plan;
pub mod simplify;
pub mod small;
pub mod store;
pub mod string;
pub mod target;
pub mod tensor;
pub mod testing;
pub mod text;
pub mod types;
pub mod verify;

pub use constant::{ConstId, Constant};
pub use diag::{Diagnostic, Failure, Result};
pub use dim::{Bindings, Dim};
pub use entity::EntityId;
pub use loc::Loc;
pub use module::{Builder, Consts, Def, Func, FuncId, Module, Node, NodeId, RegionId, ValueId};
pub use ops::{Op, OpKind};
pub use small::SmallFloat;
pub use tensor::Tensor;
pub use types::{DType, Type};
