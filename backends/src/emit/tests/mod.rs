//! Tests of the emitter that need no LLVM.

mod emulator;
mod functions;
mod text;

pub(crate) use emulator::Random;
pub(crate) use functions::map_kernel;
