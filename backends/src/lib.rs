//! From IR to kernels to machine code.

#[cfg(feature = "mlir")]
pub mod compile;
mod complex;
pub mod cpu;
pub mod cuda;
pub mod emit;
pub mod expand;
pub mod fuse;
pub mod kernel;
pub mod layout;
pub mod lower;
#[cfg(feature = "mlir")]
pub mod mlir;
mod signature;
pub mod strings;
pub mod target;
mod windows;
