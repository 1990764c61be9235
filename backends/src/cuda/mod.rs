//! Kernels for NVIDIA GPUs, through the same emitter as those for CPUs.

pub mod gemm;
