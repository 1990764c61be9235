//! From IR to kernels to machine code
