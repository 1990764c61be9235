//! From IR to kernels to machine code.

pub mod emit;
