//! Modules compiled, loaded and run on this machine, against the reference interpreter.

use super::*;
use tersor_ir::testing::{Gen, max_abs, rel_l2};
use tersor_ir::{Bindings, DType, Tensor, interp, text};
use tersor_runtime::{LoadOptions, Model, TensorView};

/// Compiles a module for this CPU and runs it on inputs.
fn run(m: &Module, inputs: &[Tensor], threads: usize) -> Vec<Tensor> {
    let mut writer = ArtifactWriter::in_memory();
    let options = Options {
        isas: vec![Isa::V3],
        threads: 1,
        tool: "test".into(),
        source: String::new(),
        plan: String::new(),
        stop: Default::default(),
    };
    let (manifest, _) =
        compile(m.clone(), &options, &mut writer, &mut || Ok(())).unwrap_or_else(|d| panic!("{d}\n{}", text::print(m)));
    let model = Model::from_bytes(&writer.into_bytes(manifest).unwrap(), &LoadOptions::default()).unwrap();
    let views: Vec<(String, tersor_runtime::Tensor)> =
        model.inputs().iter().zip(inputs).map(|(v, t)| (v.name.clone(), runtime_tensor(t))).collect();
    let views: Vec<(&str, TensorView)> = views.iter().map(|(n, t)| (n.as_str(), t.view())).collect();
    let out = model.session(threads).run(&views).unwrap_or_else(|e| panic!("{e}\n{}", text::print(m)));
    let back = |t: &tersor_runtime::Tensor| {
        let dtype = DType::from_name(t.dtype().name()).unwrap();
        Tensor::from_blob(dtype, t.shape().to_vec(), t.bytes().to_vec().into()).unwrap()
    };
    out.iter().map(back).collect()
}

fn runtime_tensor(t: &Tensor) -> tersor_runtime::Tensor {
    tersor_runtime::Tensor::from_bytes(crate::lower::runtime_dtype(t.dtype()).unwrap(), t.shape(), t.bytes()).unwrap()
}

fn check(text: &str, bindings: &[(&str, i64)]) {
    let m = text::parse(text, &Default::default()).unwrap_or_else(|e| panic!("{}", e[0]));
    let f = &m.funcs[m.main().unwrap()];
    let env: Bindings = bindings.iter().map(|(n, v)| ((*n).into(), *v)).collect();
    let mut g = Gen::new(7);
    let mut input = |v: &tersor_ir::ValueId| {
        let mut ty = f.values[*v].ty.clone();
        ty.shape.iter_mut().for_each(|d| *d = d.substitute(&env));
        g.tensor(&ty)
    };
    let inputs: Vec<Tensor> = f.body().params.iter().map(&mut input).collect();
    let want = interp::run(&m, &inputs).unwrap();
    for threads in [1, 2] {
        for (a, b) in run(&m, &inputs, threads).iter().zip(&want) {
            assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()));
            assert!(rel_l2(a, b) < 1e-5, "{} {}\n{text}", rel_l2(a, b), max_abs(a, b));
        }
    }
}

#[test]
fn fused_loops_and_rows_with_open_extents() {
    check(
        "module @m {
  const @s : f32[8] = rng normal(0, 1) seed 1
  func @main(%x: f32[B,T,8], %ids: i64[B,T]) -> (%y: f32[B,T,8], %n: f32[B,T,8], %again: f32[B,T,8], %turned: f32[T,B,8]) {
    %e = exp %x : f32[B,T,8]
    %a = add %e, %x : f32[B,T,8]
    %n = layer_norm %a, @s, @s {axis=2} : f32[B,T,8]
    %i = cast %ids {to=f32} : f32[B,T]
    %u = reshape %i {shape=[B,T,1]} : f32[B,T,1]
    %y = mul %n, %u : f32[B,T,8]
    %turned = transpose %y {perm=[1,0,2]} : f32[T,B,8]
    return %y, %n, %n, %turned
  }
}",
        &[("B", 3), ("T", 5)],
    );
}

#[test]
fn a_small_convolutional_network() {
    check(
        "module @m {
  const @w1 : f32[20,3,3,3] = rng normal(0, 0.3) seed 1
  const @w2 : f32[24,20,1,1] = rng normal(0, 0.3) seed 2
  const @w3 : f32[24,1,3,3] = rng normal(0, 0.3) seed 5
  const @b : f32[20,1,1] = rng normal(0, 1) seed 3
  const @fc : f32[24,10] = rng normal(0, 1) seed 4
  func @main(%x: f32[N,3,13,13]) -> (%y: f32[N,10]) {
    %c1 = conv %x, @w1 {strides=[1,1], pads=[1,1,1,1], dilations=[1,1]} : f32[N,20,13,13]
    %a1 = add %c1, @b : f32[N,20,13,13]
    %r1 = relu %a1 : f32[N,20,13,13]
    %p = pool.max %r1 {kernel=[2,2], strides=[2,2], pads=[0,0,0,0], dilations=[1,1]} : f32[N,20,6,6]
    %c2 = conv %p, @w2 {strides=[2,2], pads=[0,0,0,0], dilations=[1,1]} : f32[N,24,3,3]
    %c3 = conv %c2, @w3 {strides=[1,1], pads=[1,1,1,1], dilations=[1,1], groups=24} : f32[N,24,3,3]
    %s = add %c2, %c3 : f32[N,24,3,3]
    %g = reduce.mean %s {axes=[2,3], keep} : f32[N,24,1,1]
    %flat = reshape %g {shape=[N,24]} : f32[N,24]
    %y = matmul %flat, @fc : f32[N,10]
    return %y
  }
}",
        &[("N", 2)],
    );
}

#[test]
fn an_attention_block() {
    check(
        "module @m {
  const @w : f32[16,48] = rng normal(0, 0.3) seed 1
  const @b : f32[48] = rng normal(0, 0.3) seed 2
  const @o : f32[16,16] = rng normal(0, 0.3) seed 3
  const @u : f32[16] = rng normal(0, 0.3) seed 3
  func @main(%x: f32[B,T,16]) -> (%y: f32[B,T,16]) {
    %n = layer_norm %x, @u, @u {axis=2} : f32[B,T,16]
    %qkv0 = matmul %n, @w : f32[B,T,48]
    %qkv = add %qkv0, @b : f32[B,T,48]
    %q0 = slice %qkv {axis=2, len=16} : f32[B,T,16]
    %k0 = slice %qkv {axis=2, start=16, len=16} : f32[B,T,16]
    %v0 = slice %qkv {axis=2, start=32, len=16} : f32[B,T,16]
    %q1 = reshape %q0 {shape=[B,T,4,4]} : f32[B,T,4,4]
    %k1 = reshape %k0 {shape=[B,T,4,4]} : f32[B,T,4,4]
    %v1 = reshape %v0 {shape=[B,T,4,4]} : f32[B,T,4,4]
    %q = transpose %q1 {perm=[0,2,1,3]} : f32[B,4,T,4]
    %k = transpose %k1 {perm=[0,2,1,3]} : f32[B,4,T,4]
    %v = transpose %v1 {perm=[0,2,1,3]} : f32[B,4,T,4]
    %a = attention %q, %k, %v {scale=0.5, causal} : f32[B,4,T,4]
    %at = transpose %a {perm=[0,2,1,3]} : f32[B,T,4,4]
    %ar = reshape %at {shape=[B,T,16]} : f32[B,T,16]
    %p = matmul %ar, @o : f32[B,T,16]
    %y = add %p, %x : f32[B,T,16]
    return %y
  }
}",
        &[("B", 2), ("T", 7)],
    );
}

/// Groups that are alike share a kernel and what it was built from, with buffers and constants of their own.
#[test]
fn groups_of_one_signature() {
    let scalars: String = (0..4).map(|i| format!("  const @c{i} : f32[5] = rng normal(0, 1) seed {i}\n")).collect();
    let rows = |i: usize| format!("    %s{i} = softmax %m{i} {{axis=1}} : f32[N,5]\n");
    let step = |i: usize, x: &str| format!("    %m{i} = mul {x}, @c{} : f32[N,5]\n{}", i % 3, rows(i));
    let body: String =
        (0..6).map(|i| step(i, &if i == 0 { "%x".to_string() } else { format!("%s{}", i - 1) })).collect();
    check(
        &format!(
            "module @m {{\n{scalars}  func @main(%x: f32[N,5]) -> (%y: f32[N,5], %z: f32[N,5]) {{\n{body}    %y = sub %s5, %s4 : f32[N,5]
    %z = sub %s3, %s5 : f32[N,5]\n    return %y, %z\n  }}\n}}"
        ),
        &[("N", 3)],
    );
}

/// Groups that read views are alike where strides and first elements are; a view of a constant stands for itself.
#[test]
fn views_of_one_signature() {
    check(
        "module @m {
  const @a : f32[2,9] = rng normal(0, 1) seed 1
  const @b : f32[2,9] = rng normal(0, 1) seed 2
  func @main(%x: f32[4,4], %z: f32[4,4], %w: f32[N,4]) -> (%y0: f32[4,4], %y1: f32[4,4], %y2: f32[4,4], %y3: f32[2,N], %y4: f32[2,N], %y5: f32[2,N], %y6: f32[3,2], %y7: f32[3,2]) {
    %t0 = transpose %x {perm=[1,0]} : f32[4,4]
    %t1 = transpose %z {perm=[1,0]} : f32[4,4]
    %y0 = softmax %t0 {axis=1} : f32[4,4]
    %y1 = softmax %t1 {axis=1} : f32[4,4]
    %y2 = softmax %z {axis=1} : f32[4,4]
    %s0 = slice %w {axis=1, len=2} : f32[N,2]
    %s1 = slice %w {axis=1, start=1, len=2} : f32[N,2]
    %u0 = transpose %s0 {perm=[1,0]} : f32[2,N]
    %u1 = transpose %s1 {perm=[1,0]} : f32[2,N]
    %y3 = softmax %u0 {axis=1} : f32[2,N]
    %y4 = softmax %u1 {axis=1} : f32[2,N]
    %y5 = exp %u1 : f32[2,N]
    %c0 = slice @a {axis=1, start=3, len=3} : f32[2,3]
    %c1 = slice @b {axis=1, start=3, len=3} : f32[2,3]
    %d0 = transpose %c0 {perm=[1,0]} : f32[3,2]
    %d1 = transpose %c1 {perm=[1,0]} : f32[3,2]
    %e = slice %x {axis=0, len=3} : f32[3,4]
    %f = slice %e {axis=1, len=2} : f32[3,2]
    %y6 = mul %f, %d0 : f32[3,2]
    %y7 = mul %f, %d1 : f32[3,2]
    return %y0, %y1, %y2, %y3, %y4, %y5, %y6, %y7
  }
}",
        &[("N", 5)],
    );
}

/// What is carried changes places, what is collected is cut to the calls that there were; views and extents over the number of the call; a loop in a loop.
#[test]
fn functions_called_again_and_again() {
    let text = |trip: i64, limit: f64| {
        format!(
            "module @m {{
  symbol i 0..1000000 hint 1
  symbol j 0..1000000 hint 1
  const @yes : bool[] = [1]
  const @trip : i64[] = [{trip}]
  const @limit : f32[] = [{limit:?}]
  const @half : f32[] = [0.5]
  const @w : f32[4,4] = rng normal(0, 0.4) seed 1
  func @main(%x: f32[N,4], %s: f32[9,4]) -> (%y: f32[N,4], %last: f32[N,4], %all: f32[n,N,4], %count: i64[]) {{
    %e = exp %x : f32[N,4]
    %u = tanh %x : f32[N,4]
    %count, %y, %last, %rows = loop @trip, @yes, %e, %u, %s {{body=@body, over=i, most=9, carried=2, results=[f32[N,4],f32[N,4],f32[9,N,4]]}} : i64[], f32[N,4], f32[N,4], f32[9,N,4]
    %all = prefix %rows, %count {{extent=n}} : f32[n,N,4]
    return %y, %last, %all, %count
  }}
  func @body(%a: f32[N,4], %b: f32[N,4], %s: f32[9,4]) -> (%go: bool[], %next: f32[N,4], %was: f32[N,4], %row: f32[N,4]) {{
    %r = slice %s {{axis=0, start=i, len=1}} : f32[1,4]
    %p = matmul %b, @w : f32[N,4]
    %q = add %p, %r : f32[N,4]
    %few = extent {{of=i}} : i64[]
    %c2, %z = loop %few, @yes, %q {{body=@inner, over=j, most=9, carried=1, results=[f32[N,4]]}} : i64[], f32[N,4]
    %next = tanh %z : f32[N,4]
    %sum = reduce.sum %next {{axes=[0,1]}} : f32[]
    %go = lt %sum, @limit : bool[]
    return %go, %next, %a, %b
  }}
  func @inner(%v: f32[N,4]) -> (%c: bool[], %o: f32[N,4]) {{
    %n = extent {{of=j}} : i64[]
    %k = cast %n {{to=f32}} : f32[]
    %m = mul %k, @half : f32[]
    %o = add %v, %m : f32[N,4]
    return @yes, %o
  }}
}}"
        )
    };
    for (trip, limit) in [(0, 1e9), (1, 1e9), (7, 1e9), (9, 1e9), (9, 2.0), (-3, 1e9)] {
        for n in [1, 3] {
            check(&text(trip, limit), &[("N", n)]);
        }
    }
}

/// A loop that does not run needs nothing of its operands.
#[test]
fn functions_that_are_not_called() {
    let text = "module @m {
  symbol i 0..1000000 hint 1
  const @yes : bool[] = [1]
  const @one : i64[] = [0]
  func @main(%x: f32[N,4], %v: f32[4]) -> (%y: f32[4], %c: i64[]) {
    %trip = extent {of=N} : i64[]
    %c, %y = loop %trip, @yes, %v, %x {body=@body, over=i, most=N, carried=1, results=[f32[4]]} : i64[], f32[4]
    return %y, %c
  }
  func @body(%a: f32[4], %x: f32[N,4]) -> (%go: bool[], %next: f32[4]) {
    %first = gather %x, @one : f32[4]
    %row = slice %x {axis=0, start=i, len=1} : f32[1,4]
    %flat = reshape %row {shape=[4]} : f32[4]
    %sum = add %first, %flat : f32[4]
    %next = add %a, %sum : f32[4]
    return @yes, %next
  }
}";
    for n in [0, 1, 5] {
        check(text, &[("N", n)]);
    }
}

#[test]
fn extents_that_data_decide() {
    let text = "module @m {
  const @zero : f32[] = [0.0]
  const @half : f32[] = [0.5]
  const @w : f32[8,20] = rng normal(0, 0.3) seed 1
  func @main(%x: f32[B,8]) -> (%y: f32[n,20], %s: f32[n,8], %at: i64[n], %far: f32[8,B-n], %few: f32[8,m], %count: i64[]) {
    %first = slice %x {axis=1, len=1} : f32[B,1]
    %row = reshape %first {shape=[B]} : f32[B]
    %mask = gt %row, @zero : bool[B]
    %one = cast %mask {to=i64} : i64[B]
    %count = reduce.sum %one {axes=[0]} : i64[]
    %rank = cumsum %one {axis=0, exclusive} : i64[B]
    %last = extent {of=B} : i64[]
    %to = select %mask, %rank, %last : i64[B]
    %i = iota {len=B} : i64[B]
    %none = iota {len=B+1} : i64[B+1]
    %all = scatter %none, %to, %i : i64[B+1]
    %packed = slice %all {axis=0, len=B} : i64[B]
    %at = prefix %packed, %count {extent=n} : i64[n]
    %rows = gather %x, %at : f32[n,8]
    %y = matmul %rows, @w : f32[n,20]
    %s = softmax %rows {axis=1} : f32[n,8]
    %t = transpose %x {perm=[1,0]} : f32[8,B]
    %far = slice %t {axis=1, start=n, len=B-n} : f32[8,B-n]
    %big = gt %row, @half : bool[B]
    %bigs = cast %big {to=i64} : i64[B]
    %few.n = reduce.sum %bigs {axes=[0]} : i64[]
    %turned = transpose %s {perm=[1,0]} : f32[8,n]
    %few = prefix %turned, %few.n {axis=1, extent=m} : f32[8,m]
    return %y, %s, %at, %far, %few, %count
  }
}";
    for b in [1, 2, 7, 100] {
        check(text, &[("B", b)]);
    }
}

/// A caller sees complex numbers, kernels their parts.
#[test]
fn complex_numbers_cross_the_interface() {
    for dtype in ["c64", "c128"] {
        let text = "module @m {
  symbol N 1..64 hint 8
  const @z : c64[2] = [(1.5, -2.5), (0.0, -1.0)]
  func @main(%x: c64[N,3], %m: bool[N,1]) -> (%y: c64[3,N], %x2: c64[N,3], %w: c64[N,2]) {
    %y = transpose %x {perm=[1,0]} : c64[3,N]
    %x2 = reshape %x {shape=[N,3]} : c64[N,3]
    %s = slice %x {axis=1, start=1, len=2} : c64[N,2]
    %w = select %m, %s, @z : c64[N,2]
    return %y, %x2, %w
  }
}";
        check(&text.replace("c64", dtype), &[("N", 5)]);
    }
}

/// Which part of a constant it is depends on an extent, as rows of position tables do.
#[test]
fn parts_of_constants_at_the_place_of_an_extent() {
    let text = "module @m {
  const @c : f32[8,3] = rng normal(0, 1) seed 4
  func @main(%x: f32[N,3]) -> (%y: f32[N,3]) {
    %row = slice @c {axis=0, start=N, len=1} : f32[1,3]
    %twice = add %row, %row : f32[1,3]
    %y = mul %x, %twice : f32[N,3]
    return %y
  }
}";
    for n in [1, 7] {
        check(text, &[("N", n)]);
    }
}
