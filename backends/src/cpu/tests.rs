//! Random ops and fused groups against the reference evaluation, in the emulator.

use super::build;
#[cfg(feature = "mlir")]
use super::testing::{Engine, check_on};
use super::testing::{check, one_op, parse, random_inputs, whole};
use crate::fuse::fuse;
use crate::kernel::Isa;
use tersor_ir::ops::Cast;
use tersor_ir::small::{Rounding, SmallFloat};
use tersor_ir::testing::Gen;
use tersor_ir::{Bindings, DType, OpKind, Tensor};

/// Samples of an op, on all instruction sets.
fn samples(kind: OpKind, count: u64) {
    for seed in 0..count {
        let mut g = Gen::new(seed);
        let (op, types) = kind.sample(&mut g);
        if is_complex(&types) {
            continue;
        }
        let m = one_op(op, &types);
        let inputs = random_inputs(&m, &Bindings::new(), seed + 1000);
        let isa = if seed % 3 == 0 { Isa::V4 } else { Isa::V3 };
        check(&m, &whole(&m), isa, build, &inputs, 2e-6);
    }
}

/// Complex numbers are their parts before kernels see them (`crate::complex`).
fn is_complex(types: &[tersor_ir::Type]) -> bool {
    types.iter().any(|t| matches!(t.dtype, DType::C64 | DType::C128))
}

#[test]
fn elementwise() {
    use OpKind::*;
    for kind in [Unary, Binary, Compare, Select, Quant, DecodeAffine] {
        samples(kind, 120);
    }
    for kind in [Cast, BitCast] {
        samples(kind, 600);
    }
}

#[test]
fn movement() {
    use OpKind::*;
    for kind in [Reshape, Broadcast, Transpose, Slice, Concat, Pad, Gather, Iota, Extent, Random, Rope] {
        samples(kind, 60);
    }
}

#[test]
fn reductions() {
    use OpKind::*;
    for kind in [Reduce, ArgReduce, CumSum, Scatter, ArgSort] {
        samples(kind, 200);
    }
}

#[test]
fn rows() {
    use OpKind::*;
    for kind in [Softmax, LayerNorm, RmsNorm, QuantDynamic] {
        samples(kind, 100);
    }
}

#[test]
fn suppression() {
    let text = "module @m {
  const @size : f32[2] = [0.7, 1.3]
  const @threshold : f32[] = [0.3]
  const @least : f32[] = [-0.5]
  func @main(%c: f32[B,N,2], %s: f32[B,C,N], %limit: i64[]) -> (%y: bool[B,C,N]) {
    %end = add %c, @size : f32[B,N,2]
    %boxes = concat %c, %end {axis=2} : f32[B,N,4]
    %order = argsort %s {axis=2, descending} : i64[B,C,N]
    %candidate = gt %s, @least : bool[B,C,N]
    %most = abs %limit : i64[]
    %y = nms %boxes, %order, %candidate, %most, @threshold : bool[B,C,N]
    return %y
  }
}";
    for n in [0, 1, 7, 40] {
        module(text, &[("B", 2), ("C", 3), ("N", n)], 0.0);
    }
    samples(OpKind::Nms, 60);
}

#[test]
fn windows() {
    samples(OpKind::Pool, 60);
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
        #[cfg(feature = "mlir")]
        if seed == 0 {
            check_on(Engine::Native, &m, &fuse(&m.funcs[m.main().unwrap()]), Isa::V3, build, &inputs, tolerance);
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

#[test]
fn rows_with_prologue_and_epilogue() {
    for t in [1, 7, 16, 45, 100] {
        module(
            "module @m {
  const @g : f32[C] = rng normal(1, 0.2) seed 2
  const @s : f32[] = splat 0.05
  func @main(%x: f32[B,C], %r: f32[B,C]) -> (%a: f32[B,C], %n: f32[B,C], %q: i8[B,C], %s: f32[B,C], %l: f32[B,C], %m: f32[B,C]) {
    %a = add %x, %r : f32[B,C]
    %n = layer_norm %a, @g {axis=1} : f32[B,C]
    %q = quant %n, @s : i8[B,C]
    %b = mul %x, %r : f32[B,C]
    %s0 = softmax %b {axis=1} : f32[B,C]
    %s = mul %s0, %r : f32[B,C]
    %c = exp %x : f32[B,C]
    %l = softmax %c {axis=1, log} : f32[B,C]
    %d = sub %x, %r : f32[B,C]
    %m0 = rms_norm %d, @g {axis=1} : f32[B,C]
    %m = add %m0, %x : f32[B,C]
    return %a, %n, %q, %s, %l, %m
  }
}"
            .replace('C', &t.to_string())
            .as_str(),
            &[("B", 3)],
            1e-5,
        );
    }
}

#[test]
fn long_rows() {
    for (t, c) in [(1, 1), (5, 33), (64, 70), (131, 16)] {
        module(
            "module @m {
  func @main(%x: f32[T,C], %i: i8[T,C], %h: f16[T,C]) -> (%sum: f32[T], %mean: f32[C], %all: f32[], %arg: i64[T], %argc: i64[C], %low: i64[T], %is: i8[T], %im: i8[C], %cum: f32[T,C], %cumr: f32[T,C], %sm: f32[T,C], %q: i8[T,C], %s: f32[T,1], %hs: f16[T,C], %p: f32[T]) {
    %sq = mul %x, %x : f32[T,C]
    %sum0 = reduce.sum %sq {axes=[1]} : f32[T]
    %sum = sqrt %sum0 : f32[T]
    %mean = reduce.mean %x {axes=[0]} : f32[C]
    %all = reduce.max %x {axes=[0,1]} : f32[]
    %arg = argmax %x {axis=1} : i64[T]
    %argc = argmin %x {axis=0} : i64[C]
    %low = argmin %i {axis=1, last} : i64[T]
    %is = reduce.sum %i {axes=[1]} : i8[T]
    %im = reduce.mean %i {axes=[0]} : i8[C]
    %cum = cumsum %x {axis=1, exclusive} : f32[T,C]
    %cumr = cumsum %x {axis=0, reverse} : f32[T,C]
    %sm = softmax %x {axis=0} : f32[T,C]
    %q, %s = quant.dynamic %x : i8[T,C], f32[T,1]
    %hs = softmax %h {axis=1} : f16[T,C]
    %p = reduce.min %x {axes=[1]} : f32[T]
    return %sum, %mean, %all, %arg, %argc, %low, %is, %im, %cum, %cumr, %sm, %q, %s, %hs, %p
  }
}",
            &[("T", t), ("C", c)],
            2e-5,
        );
    }
}

/// One instance of every kind of kernel, compiled.
#[cfg(feature = "mlir")]
#[test]
fn compiled_samples() {
    use OpKind::*;
    let kinds =
        [Unary, Binary, Compare, Select, Cast, BitCast, Quant, Transpose, Slice, Concat, Pad, Gather, Rope, Reduce];
    for (i, kind) in
        kinds.into_iter().chain([ArgReduce, CumSum, Scatter, Softmax, LayerNorm, QuantDynamic, Pool]).enumerate()
    {
        for seed in 0..2 {
            let (op, types) = kind.sample(&mut Gen::new(seed * 31 + i as u64));
            if is_complex(&types) {
                continue;
            }
            let m = one_op(op, &types);
            let inputs = random_inputs(&m, &Bindings::new(), seed);
            check_on(Engine::Native, &m, &whole(&m), Isa::V3, build, &inputs, 2e-6);
        }
    }
}

/// Every conversion to and from a float of 8 bits, of numbers in and beyond its range.
#[test]
fn small_floats_round_and_saturate() {
    for to in DType::ALL.iter().filter(|&&d| SmallFloat::of(d).is_some()) {
        for from in [DType::F64, DType::F32, DType::F16, DType::BF16, DType::I64, DType::I8] {
            for (overflow, round) in [(false, Rounding::Nearest), (true, Rounding::Up), (true, Rounding::Down)] {
                let f = SmallFloat::of(*to).unwrap();
                let mut values: Vec<f64> = (0..=f.max_code()).map(|c| f.decode(c)).collect();
                // Halfway between neighbours, and just beside.
                let ties: Vec<f64> = values.windows(2).map(|w| w[0] / 2.0 + w[1] / 2.0).collect();
                values.extend(ties.iter().flat_map(|t| [*t, t * (1.0 + 1e-6), t * (1.0 - 1e-6)]));
                values.extend([f64::INFINITY, f64::NAN, 1e6, 464.0, 248.0, 61440.0, 0.0, 1e-30]);
                values.extend((0..40).map(|i| f64::from(i * i).sin() * 100.0));
                if f.signed {
                    values.extend(values.clone().iter().map(|v| -v));
                }
                let x = Tensor::from_f64(from, [values.len()], &values);
                let m = one_op(Cast { to: *to, overflow, round }, &[x.ty()]);
                let inputs = [x];
                for isa in [Isa::V3, Isa::V4] {
                    check(&m, &whole(&m), isa, build, &inputs, 0.0);
                }
                #[cfg(feature = "mlir")]
                check_on(Engine::Native, &m, &whole(&m), Isa::V3, build, &inputs, 0.0);
            }
        }
    }
}

/// Elements that share bytes: rows that do not begin at one, several widths in one loop, views, moves, and results of other kernels.
#[test]
fn elements_that_share_bytes() {
    for (t, c) in [(1, 1), (3, 5), (8, 16), (5, 33)] {
        module(
            "module @m {
  const @s : f32[] = splat 0.4
  func @main(%x: f32[T,C], %i: i4[T,C], %u: u2[T,C], %f: f4e2m1[T,C], %n: i64[3], %w: f32[C,C], %h: f8e4m3[T,C], %z: i3[T,C]) -> (%q: i4[T,C], %q2: u2[T,C], %r: f32[T,C], %b: f4e2m1[C,T], %cc: i4[T,C+C], %g: u2[T,3], %p: i4[T+2,C+1], %l: f4e2m1[T,C-1], %m: i4[T,C], %sm: f32[T,C], %d: u4[T,C], %v: f8e4m3[C,T], %e: f32[T,C-1], %k: i5[T,C], %o: i8[T,C]) {
    %q = quant %x, @s {to=i4} : i4[T,C]
    %r = decode.affine %q, @s : f32[T,C]
    %a = abs %r : f32[T,C]
    %q2 = quant %a, @s {to=u2} : u2[T,C]
    %b = transpose %f {perm=[1,0]} : f4e2m1[C,T]
    %cc = concat %i, %q {axis=1} : i4[T,C+C]
    %g = gather %u, %n {axis=1} : u2[T,3]
    %p = pad %i {lo=[1,0], hi=[1,1], value=3.0} : i4[T+2,C+1]
    %l = slice %f {axis=1, start=1, len=C-1} : f4e2m1[T,C-1]
    %mm = matmul %x, %w : f32[T,C]
    %m = quant %mm, @s {to=i4} : i4[T,C]
    %sd = decode.affine %m, @s : f32[T,C]
    %sm = softmax %sd {axis=1} : f32[T,C]
    %d = bitcast %i {to=u4} : u4[T,C]
    %v = transpose %h {perm=[1,0]} : f8e4m3[C,T]
    %e = cast %l {to=f32} : f32[T,C-1]
    %k = cast %z {to=i5} : i5[T,C]
    %o = cast %z {to=i8} : i8[T,C]
    return %q, %q2, %r, %b, %cc, %g, %p, %l, %m, %sm, %d, %v, %e, %k, %o
  }
}",
            &[("T", t), ("C", c)],
            1e-5,
        );
    }
}

#[test]
fn moves_of_many_elements() {
    for (t, c) in [(8, 16), (21, 40), (5, 7)] {
        module(
            "module @m {
  func @main(%x: f32[2,T,C], %h: f16[T,C], %d: f64[T,C], %k: f32[2,T,3], %i: i64[5]) -> (%a: f32[2,C,T], %b: f32[C,2,T], %f: f16[C,T], %e: f64[C,T], %cc: f32[2,T,C+3], %ct: f32[2,2*T,C], %g: f32[2,5,C], %p: f32[2,T+2,C+3], %r: f32[2*T,C]) {
    %a = transpose %x {perm=[0,2,1]} : f32[2,C,T]
    %b = transpose %x {perm=[2,0,1]} : f32[C,2,T]
    %f = transpose %h {perm=[1,0]} : f16[C,T]
    %e = transpose %d {perm=[1,0]} : f64[C,T]
    %c0 = concat %x, %k {axis=2} : f32[2,T,C+3]
    %cc = relu %c0 : f32[2,T,C+3]
    %ct = concat %x, %x {axis=1} : f32[2,2*T,C]
    %g = gather %x, %i {axis=1} : f32[2,5,C]
    %p = pad %x {lo=[0,1,2], hi=[0,1,1], value=7.0} : f32[2,T+2,C+3]
    %r0 = mul %x, %x : f32[2,T,C]
    %r = reshape %r0 {shape=[2*T,C]} : f32[2*T,C]
    return %a, %b, %f, %e, %cc, %ct, %g, %p, %r
  }
}",
            &[("T", t), ("C", c)],
            1e-6,
        );
    }
}

/// Random expressions over operands that broadcast in every way, with several outputs.
#[test]
fn random_expressions() {
    for seed in 0..60 {
        let mut g = Gen::new(seed);
        let shapes = ["B,T,C", "T,C", "C", "B,1,C", "1,T,1", "1", "B,T,1"];
        let shape = |g: &mut Gen| g.one_of(&shapes);
        let params: Vec<String> = (0..4).map(|i| format!("%p{i}: f32[{}]", shape(&mut g))).collect();
        let mut body = String::from("    %v0 = add %x, %p0 : f32[B,T,C]\n");
        let n = g.int(2, 6);
        for i in 1..=n {
            let (a, p) = (g.int(0, i - 1), g.int(0, 3));
            let line = match g.int(0, 4) {
                0 => format!("{} %v{a}", g.one_of(&["tanh", "sigmoid", "abs", "relu", "silu"])),
                1 => format!("{} %v{a}, %v{}", g.one_of(&["add", "mul", "max"]), g.int(0, i - 1)),
                _ => format!("{} %v{a}, %p{p}", g.one_of(&["add", "sub", "mul", "min"])),
            };
            body += &format!("    %v{i} = {line} : f32[B,T,C]\n");
        }
        let text = format!(
            "module @m {{\n  func @main(%x: f32[B,T,C], {}) -> (%v{n}: f32[B,T,C], %v1: f32[B,T,C]) {{\n{body}    return %v{n}, %v1\n  }}\n}}",
            params.join(", ")
        );
        let m = parse(&text);
        let env: Bindings = [("B", g.int(1, 3)), ("T", g.int(1, 5)), ("C", g.one_of(&[1, 3, 16, 37]))]
            .into_iter()
            .map(|(n, v)| (n.into(), v))
            .collect();
        let inputs = random_inputs(&m, &env, seed);
        check(&m, &fuse(&m.funcs[m.main().unwrap()]), Isa::V3, build, &inputs, 1e-5);
    }
}
