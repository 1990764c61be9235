//! Random layers against the reference evaluation.

use super::super::build;
#[cfg(feature = "mlir")]
use super::super::testing::{Engine, check_on};
use super::super::testing::{check, one_op, parse, random_inputs, whole};
use crate::fuse::fuse;
use crate::kernel::Isa;
use tersor_ir::testing::Gen;
use tersor_ir::{Bindings, OpKind};

/// States go from step to step, and errors with them.
const TOLERANCE: f64 = 2e-5;

#[test]
fn samples() {
    for seed in 0..240 {
        let (op, types) = OpKind::Recurrence.sample(&mut Gen::new(seed));
        let m = one_op(op, &types);
        let inputs = random_inputs(&m, &Bindings::new(), seed + 1000);
        let isa = if seed % 3 == 0 { Isa::V4 } else { Isa::V3 };
        check(&m, &whole(&m), isa, build, &inputs, TOLERANCE);
    }
}

#[cfg(feature = "mlir")]
#[test]
fn compiled_samples() {
    for seed in 0..16 {
        let (op, types) = OpKind::Recurrence.sample(&mut Gen::new(seed));
        let m = one_op(op, &types);
        let inputs = random_inputs(&m, &Bindings::new(), seed);
        let isa = if seed % 2 == 0 { Isa::V4 } else { Isa::V3 };
        check_on(Engine::Native, &m, &whole(&m), isa, build, &inputs, TOLERANCE);
    }
}

/// Both directions of a layer, with constant weights, batch and sequence of any extent; one result of each is not read.
fn layers(gates: usize, op: &str, states: usize, extents: [i64; 2], hidden: usize) {
    let text = "module @m {
  const @w : f32[W,24] = rng normal(0, 0.3) seed 1
  const @r : f32[W,H] = rng normal(0, 0.3) seed 2
  func @main(%x: f32[T,B,24], %s: f32[S,B,H]) -> (%z: f32[T,B,D], %l: f32[S,B,H]) {
    %g = matmul %x, @w {trans_b} : f32[T,B,W]
    %a, %l = OP %g, @r, %s : f32[T,B,H], f32[S,B,H]
    %b, %m = OP %g, @r, %s {reverse} : f32[T,B,H], f32[S,B,H]
    %c = concat %a, %b {axis=2} : f32[T,B,D]
    %z = relu %c : f32[T,B,D]
    return %z, %l
  }
}";
    let number = |n: usize| n.to_string();
    let text = text
        .replace('W', &number(gates * hidden))
        .replace('H', &number(hidden))
        .replace('D', &number(2 * hidden))
        .replace('S', &number(states))
        .replace("OP", op);
    let m = parse(&text);
    let env: Bindings = [("T", extents[0]), ("B", extents[1])].into_iter().map(|(n, v)| (n.into(), v)).collect();
    let inputs = random_inputs(&m, &env, 5);
    let fusion = fuse(&m.funcs[m.main().unwrap()]);
    for isa in [Isa::V3, Isa::V4] {
        check(&m, &fusion, isa, build, &inputs, TOLERANCE);
        #[cfg(feature = "mlir")]
        check_on(Engine::Native, &m, &fusion, isa, build, &inputs, TOLERANCE);
    }
}

#[test]
fn any_batch_and_sequence() {
    for (extents, hidden) in [([1, 1], 32), ([7, 9], 20), ([0, 2], 16), ([3, 0], 16)] {
        layers(1, "rnn", 1, extents, hidden);
        layers(3, "gru", 1, extents, hidden);
        layers(4, "lstm", 2, extents, hidden);
    }
}
