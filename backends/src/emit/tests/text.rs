//! What kernels look like as MLIR.

use crate::emit::{Intrinsic, KernelBuilder, Scalar, print};

#[test]
fn a_kernel_as_mlir() {
    let mut k = KernelBuilder::new("f32_f32_scale__avx2");
    let (x, y, n) = (k.arg("x"), k.arg_mut("y"), k.dim("n"));
    let (begin, end) = k.range();
    let end = k.min(end, n);
    let v = Scalar::F32.x(8);
    let zero = k.zero(v);
    let sums = {
        let step = k.i64(8);
        k.for_(begin, end, step, &[zero], |k, i, acc| {
            let (from, to) = (k.elem(x, i, Scalar::F32), k.elem(y, i, Scalar::F32));
            let a = k.load(from, v);
            let factor = k.f32(0.1);
            let a = k.mul(a, factor);
            let a = k.max(a, zero);
            k.store(a, to);
            vec![k.add(acc[0], a)]
        })
    };
    let total = k.reduce_add(sums[0]);
    let (limit, out) = (k.f32(1e30), k.scratch());
    let large = k.gt(total, limit);
    k.when(large, |k| k.store(total, out));
    insta::assert_snapshot!("scale", print::module(&[k.finish()]));
}

#[test]
fn tiles_and_tables_as_mlir() {
    let mut k = KernelBuilder::new("tile__amx");
    let (a, c) = (k.arg("a"), k.arg_mut("c"));
    k.may_alias(a, c);
    let (table, stack) = (k.table(vec![0, 1, 255], 64), k.alloca(64, 64));
    let stride = k.i64(64);
    let tile = k.tile_load(a, stride, 16, 64);
    k.tile_store(tile, c, stride, 16, 64);
    let (byte, acc) = (k.load(table, Scalar::I8.x(64)), k.load(stack, Scalar::I32.x(16)));
    let r = k.intrinsic(Intrinsic::Vpdpbusd512, &[acc, byte, byte]);
    k.store_aligned(r, stack, 64);
    let kernel = k.finish();
    assert_eq!(kernel.features.iter().copied().collect::<Vec<_>>(), ["amx-tile", "avx512f", "avx512vnni"]);
    insta::assert_snapshot!("tile", print::module(&[kernel]));
}
