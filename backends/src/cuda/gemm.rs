//! Products of bf16 with f32 sums: `c[M,N] = f(a[M,K] * b[N,K]^T)`, by `mma.sync` (sm_80 and up).
//!
//! A block of 128 threads makes a 64x64 tile of `c`, each warp a quarter of it. Slices of 32 along K are copied to shared memory
//! asynchronously, one ahead of the one in use. Rows there are 80 bytes apart, which keeps `ldmatrix` free of bank conflicts.

use crate::emit::{Axis, Intrinsic, Kernel, KernelBuilder, Scalar, Ty, Val};

/// Rows and columns of a block's tile; the grid is `(ceil(N/64), ceil(M/64))` blocks of [`THREADS`] threads.
pub const TILE: u64 = 64;
pub const THREADS: u32 = 128;
const SLICE: i64 = 32;
const ROW: i64 = 80;
const OPERAND: i64 = TILE as i64 * ROW;

/// What becomes of a sum before it is rounded and stored: the sum and its column, whose bias it may load.
pub type Epilogue<'a> = dyn Fn(&mut KernelBuilder, Val, Val) -> Val + 'a;

/// Extents that the kernel is made for; M is given at launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Even.
    pub n: u64,
    /// A multiple of 32.
    pub k: u64,
}

/// `c = activation(a b^T + bias)`: operands `a`, `b`, `bias` (f32), `c`; extent `m`.
pub fn bf16_gemm(name: &str, shape: Shape, activation: impl Fn(&mut KernelBuilder, Val) -> Val) -> Kernel {
    let mut k = KernelBuilder::gpu(name);
    let (a, b, bias, c, m) = (k.arg("a"), k.arg("b"), k.arg("bias"), k.arg_mut("c"), k.dim("m"));
    gemm(&mut k, shape, [a, b, c], m, &|k, sum, column| {
        let at = k.elem(bias, column, Scalar::F32);
        let bias = k.load(at, Ty::F32);
        let sum = k.add(sum, bias);
        activation(k, sum)
    });
    k.finish()
}

/// Coordinates of a thread as i64.
struct Place {
    thread: Val,
    lane: Val,
    /// First row and column of the warp's quarter within the tile.
    warp: (Val, Val),
    /// First row and column of the tile.
    tile: (Val, Val),
}

fn place(k: &mut KernelBuilder) -> Place {
    let [thread, x, y] =
        [Intrinsic::ThreadId(Axis::X), Intrinsic::BlockId(Axis::X), Intrinsic::BlockId(Axis::Y)].map(|i| {
            let v = k.intrinsic(i, &[]);
            k.zext(v, Scalar::I64)
        });
    let (lane, warp) = split(k, thread, 32);
    let (column, row) = split(k, warp, 2);
    let [row, column] = [row, column].map(|v| scale(k, v, 32));
    let [top, left] = [y, x].map(|v| scale(k, v, TILE as i64));
    Place { thread, lane, warp: (row, column), tile: (top, left) }
}

/// Remainder and quotient by a power of two.
fn split(k: &mut KernelBuilder, v: Val, by: i64) -> (Val, Val) {
    let (mask, places) = (k.i64(by - 1), k.i64(by.trailing_zeros().into()));
    (k.and(v, mask), k.shr(v, places))
}

fn scale(k: &mut KernelBuilder, v: Val, by: i64) -> Val {
    let by = k.i64(by);
    k.mul(v, by)
}

fn gemm(k: &mut KernelBuilder, shape: Shape, [a, b, c]: [Val; 3], m: Val, epilogue: &Epilogue<'_>) {
    assert!(shape.n.is_multiple_of(2) && shape.k.is_multiple_of(SLICE as u64), "{shape:?}");
    let stages = k.shared(4 * OPERAND as u32, 128);
    let place = place(k);
    let n = k.i64(shape.n as i64);
    let slices = k.i64(shape.k as i64 / SLICE);
    let (zero, one) = (k.i64(0), k.i64(1));
    let copy = |k: &mut KernelBuilder, slice: Val| {
        let (parity, _) = split(k, slice, 2);
        let stage = scale(k, parity, 2 * OPERAND);
        let to = k.gep(stages, stage);
        copy_rows(k, &place, (a, place.tile.0, m), shape.k, slice, to);
        let to = k.offset(to, OPERAND);
        copy_rows(k, &place, (b, place.tile.1, n), shape.k, slice, to);
    };
    copy(k, zero);
    k.intrinsics(Intrinsic::CpAsyncCommit, &[]);
    let none = k.f32(0.0);
    let sums = k.for_(zero, slices, one, &[none; 32], |k, slice, sums| {
        let next = k.add(slice, one);
        let more = k.lt(next, slices);
        k.when(more, |k| copy(k, next));
        k.intrinsics(Intrinsic::CpAsyncCommit, &[]);
        k.intrinsics(Intrinsic::CpAsyncWait(1), &[]);
        k.intrinsics(Intrinsic::Barrier, &[]);
        let (parity, _) = split(k, slice, 2);
        let stage = scale(k, parity, 2 * OPERAND);
        let from = k.gep(stages, stage);
        let sums = multiply(k, &place, from, sums);
        k.intrinsics(Intrinsic::Barrier, &[]);
        sums
    });
    store(k, &place, c, (m, n), &sums, epilogue);
}

/// Starts copying 64 rows of one slice; those past the end become zeros.
fn copy_rows(k: &mut KernelBuilder, place: &Place, from: (Val, Val, Val), depth: u64, slice: Val, to: Val) {
    let (source, first, rows) = from;
    let at = scale(k, slice, SLICE * 2);
    let source = k.gep(source, at);
    for half in 0..2 {
        let (chunk, row) = split(k, place.thread, 4);
        let skip = k.i64(half * 32);
        let row = k.add(row, skip);
        let chunk = scale(k, chunk, 16);
        let there = scale(k, row, ROW);
        let there = k.add(there, chunk);
        let there = k.gep(to, there);
        let row = k.add(row, first);
        let inside = k.lt(row, rows);
        let zero = k.i64(0);
        let row = k.select(inside, row, zero);
        let here = scale(k, row, depth as i64 * 2);
        let here = k.add(here, chunk);
        let here = k.gep(source, here);
        let (all, nothing) = (k.i32(16), k.i32(0));
        let bytes = k.select(inside, all, nothing);
        k.intrinsics(Intrinsic::CpAsync, &[there, here, bytes]);
    }
}

/// Adds the products of a slice: two fragments of 16 rows times four of 8 columns, two steps of 16 along K.
fn multiply(k: &mut KernelBuilder, place: &Place, stage: Val, sums: &[Val]) -> Vec<Val> {
    let mut sums = sums.to_vec();
    let (row, matrix) = split(k, place.lane, 8);
    let (low, high) = split(k, matrix, 2);
    // Of the four matrices of a load, A's follow each other along rows first, B's along K first.
    let [a_row, b_row] = [low, high].map(|v| {
        let v = scale(k, v, 8);
        k.add(row, v)
    });
    let [a_depth, b_depth] = [high, low].map(|v| scale(k, v, 16));
    let (a_row, b_row) = (k.add(a_row, place.warp.0), k.add(b_row, place.warp.1));
    let [a_at, b_at] = [(a_row, a_depth), (b_row, b_depth)].map(|(row, depth)| {
        let row = scale(k, row, ROW);
        k.add(row, depth)
    });
    let (a, b) = (k.gep(stage, a_at), k.gep(stage, b_at));
    let b = k.offset(b, OPERAND);
    let load = |k: &mut KernelBuilder, from: Val, rows: i64, step: i64| {
        let from = k.offset(from, rows * ROW + step * 32);
        k.intrinsics(Intrinsic::LdMatrix { transpose: false }, &[from])
    };
    for step in 0..2 {
        let b = [0, 16].map(|columns| load(k, b, columns, step)).concat();
        for i in 0..2 {
            let a = load(k, a, i as i64 * 16, step);
            for j in 0..4 {
                let at = (i * 4 + j) * 4;
                let mut operands = a.clone();
                operands.extend(&b[2 * j..2 * j + 2]);
                operands.extend(&sums[at..at + 4]);
                let results = k.intrinsics(Intrinsic::MmaBf16, &operands);
                sums.splice(at..at + 4, results);
            }
        }
    }
    sums
}

/// Finishes the sums and stores those that lie within `c`, two neighbours at once.
fn store(k: &mut KernelBuilder, place: &Place, c: Val, (m, n): (Val, Val), sums: &[Val], epilogue: &Epilogue<'_>) {
    let (pair, row) = split(k, place.lane, 4);
    let row = k.add(row, place.warp.0);
    let row = k.add(row, place.tile.0);
    let column = scale(k, pair, 2);
    let column = k.add(column, place.warp.1);
    let column = k.add(column, place.tile.1);
    for (at, pair) in sums.chunks_exact(2).enumerate() {
        let (fragment, half) = (at / 2, at % 2);
        let (down, right) = (k.i64((fragment / 4 * 16 + half * 8) as i64), k.i64((fragment % 4 * 8) as i64));
        let (row, column) = (k.add(row, down), k.add(column, right));
        let (inside, within) = (k.lt(row, m), k.lt(column, n));
        let inside = k.and(inside, within);
        k.when(inside, |k| {
            let one = k.i64(1);
            let next = k.add(column, one);
            let (first, second) = (epilogue(k, pair[0], column), epilogue(k, pair[1], next));
            let start = k.mul(row, n);
            let start = k.add(start, column);
            let to = k.elem(c, start, Scalar::BF16);
            let both = k.splat(first, 2);
            let both = k.insert(second, both, 1);
            let both = k.to_float_type(both, Scalar::BF16);
            k.store_aligned(both, to, 4);
        });
    }
}
