//! The emitter: kernels as lists of typed instructions, built in plain Rust, printed as MLIR, run by an emulator.
//!
//! # Writing a kernel
//!
//! A kernel is built by one function that knows the shapes, types and instruction set at hand:
//!
//! ```
//! use tersor_backends::emit::{Kernel, KernelBuilder, Scalar::F32};
//!
//! /// `y = max(x, 0)` over `n` elements; the grid counts blocks of 1024 elements.
//! fn relu() -> Kernel {
//!     let mut k = KernelBuilder::new("f32_f32_relu__avx2");
//!     let (x, y, n) = (k.arg("x"), k.arg_mut("y"), k.dim("n"));
//!     let (begin, end) = k.range();
//!     let v = F32.x(8);
//!     let zero = k.zero(v);
//!     let size = k.i64(1024);
//!     let (lo, hi) = (k.mul(begin, size), k.mul(end, size));
//!     let hi = k.min(hi, n);
//!     k.loop_(lo, hi, 8, |k, i| {
//!         let left = k.sub(hi, i);
//!         let (from, to) = (k.elem(x, i, F32), k.elem(y, i, F32));
//!         let a = k.load_first(from, v, left);
//!         let a = k.max(a, zero);
//!         k.store_first(a, to, left);
//!     });
//!     k.finish()
//! }
//! assert_eq!(relu().args.len(), 2);
//! ```
//!
//! - **Values** ([`Val`]) carry their type ([`Ty`]): scalars, vectors (`F32.x(16)` is `vector<16xf32>`), byte pointers, AMX
//!   tiles. Indices, extents and byte offsets are `i64`. A vector may be wider than the machine's registers: `vector<16xf32>` is two ymm
//!   registers with AVX2. Wrong operand types panic where the call is made.
//! - **Operands** are declared in ABI order by `arg` and `arg_mut`, extents by `dim`; `range()` is the part of the grid to do,
//!   `scratch()` the thread's scratch. `may_alias` names an in-place pair. `alloca` is stack memory, `table` bytes beside the code.
//! - **Memory**: `load`/`store` are aligned like one element unless `_aligned` says more; `load_first`/`store_first` do tails and
//!   touch nothing past them; `elem(ptr, i, F32)` is `&ptr[i]`, `gep` and `offset` count bytes.
//! - **Arithmetic** is exact: nothing is contracted or reassociated. Write `fma` where you want it. `min`/`max` on floats are the
//!   one-instruction forms (second operand wins on a NaN: `max(x, zero)` drops NaN, `max(zero, x)` keeps it); `min_nan`/`max_nan` keep NaN from either side.
//!   A scalar beside a vector is broadcast. `reduce_add` and kin combine halves, in the same order everywhere.
//! - **f16 and bf16** are storage types: load, store, shuffle and convert them (`to_float_type`), compute in f32. bf16 rounds to
//!   nearest even everywhere; after `require("avx512bf16")` it takes one instruction, which treats denormals as zero.
//! - **Control flow**: `for_` carries values (accumulators), `loop_` none; `if_` yields values, `when` none. Unroll with Rust loops.
//! - **Machine instructions** are [`Intrinsic`]s with their features; plain instructions need what the variant offers. Call `require` for anything else
//!   that makes the kernel useless elsewhere (`"avx512f"` for a schedule with 32 vector registers).
//! - **Functions** such as `exp`, `erf` or `tanh` are in [`math`]: no kernel calls a library. A kernel that uses tiles calls nothing at all.
//!
//! Epilogues and prologues are closures `Fn(&mut KernelBuilder, Val) -> Val` that add instructions to what they are given.
//!
//! Invariants: a kernel is a pure function of its parameters (constants are numbered in order of use), and everything here works
//! without LLVM.

mod arith;
mod build;
pub mod emulate;
mod intrinsic;
pub mod math;
mod memory;
mod op;
pub mod print;
mod types;

pub use build::KernelBuilder;
pub use intrinsic::{Axis, Dot, Intrinsic};
pub use op::{Arg, Bin, Block, Cmp, Constant, Convert, Flavor, Inst, Kernel, Memory, MemoryKind, Op, Un};
pub use types::{Scalar, Ty, Val};

#[cfg(test)]
pub(crate) mod tests;
