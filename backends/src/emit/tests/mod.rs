//! Tests of the emitter that need no LLVM.

mod emulator;
mod functions;
mod text;
