//! Kernel families for x86 CPUs.
