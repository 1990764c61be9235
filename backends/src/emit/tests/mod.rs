//! Tests of the emitter that need no LLVM.

mod emulator;
mod functions;
mod text;

#[cfg(feature = "mlir")]
pub(crate) use emulator::Random;
#[cfg(feature = "mlir")]
pub(crate) use functions::map_kernel;
