//! Random ops and fused groups against the reference evaluation, in the emulator.

use super::build;
use super::testing::{check, one_op, parse, random_inputs, whole};
use crate::fuse::fuse;
use crate::kernel::Isa;
use tersor_ir::testing::Gen;
use tersor_ir::{Bindings, DType, OpKind};

/// Samples of an op, on all instruction sets.
fn samples(kind: OpKind, count: u64) {
    for seed in 0..count {
        let mut g = Gen::new(seed);
        let (op, types) = kind.sample(&mut g);
        let packed = |d: DType| d.bits() < 8 || matches!(d, DType::F8E4M3 | DType::F8E5M2);
        let m = one_op(op, &types);
        let f = &m.funcs[m.main().unwrap()];
        if f.values.values().any(|v| packed(v.ty.dtype)) {
            continue;
        }
        let inputs = random_inputs(&m, &Bindings::new(), seed + 1000);
        let isa = if seed % 3 == 0 { Isa::V4 } else { Isa::V3 };
        check(&m, &whole(&m), isa, build, &inputs, 2e-6);
    }
}

#[test]
fn elementwise() {
    use OpKind::*;
    for kind in [Unary, Binary, Compare, Select, Cast, Quant, DecodeAffine] {
        samples(kind, 120);
    }
}

#[test]
fn movement() {
    use OpKind::*;
    for kind in [Reshape, Broadcast, Transpose, Slice, Concat, Pad, Gather, Iota, Extent, Rope] {
        samples(kind, 60);
    }
}

/// A module at given extents, fused as in a compilation and as one group.
fn module(text: &str, extents: &[(&str, i64)], tolerance: f64) {
    let m = parse(text);
    let env: Bindings = extents.iter().map(|&(n, v)| (n.into(), v)).collect();
    for seed in 0..3 {
        let inputs = random_inputs(&m, &env, seed);
        for isa in [Isa::V3, Isa::V4] {
            check(&m, &fuse(&m.funcs[m.main().unwrap()]), isa, build, &inputs, tolerance);
        }
    }
}

#[test]
fn symbolic_extents_broadcasts_and_views() {
    module(
        "module @m {
  const @b : f32[40] = rng normal(0, 1) seed 2
  const @half : f32[] = splat 0.5
  func @main(%x: f32[B,T,40], %m: f32[B,1,1]) -> (%y: f32[B,T,40], %z: bool[B,T,40], %s: f32[B,T,20]) {
    %a = add %x, @b : f32[B,T,40]
    %g = gelu %a : f32[B,T,40]
    %y = mul %g, %m : f32[B,T,40]
    %h = mul %g, @half : f32[B,T,40]
    %z = lt %h, %x : bool[B,T,40]
    %l = slice %y {axis=2, len=20} : f32[B,T,20]
    %r = slice %y {axis=2, start=20, len=20} : f32[B,T,20]
    %s = mul %l, %r : f32[B,T,20]
    return %y, %z, %s
  }
}",
        &[("B", 2), ("T", 3)],
        2e-6,
    );
}
