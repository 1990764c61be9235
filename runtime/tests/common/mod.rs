//! A small artifact whose kernels are a few assembled bytes, so that the whole path runs without a compiler.

use tersor_runtime::artifact::{Kernel, Manifest, Symbol, Value, Variant};
use tersor_runtime::program::{Arg, Call, Extents, Place, Program, Step};
use tersor_runtime::{ArtifactWriter, DType};

/// `for i in begin..end { c[i] = a[i] + b[i] }` over f32.
#[rustfmt::skip]
const ADD: [u8; 39] = [
    0x48, 0x8b, 0x07,                         // mov   rax, [rdi]           a
    0x4c, 0x8b, 0x4f, 0x08,                   // mov   r9,  [rdi + 8]       b
    0x4c, 0x8b, 0x57, 0x10,                   // mov   r10, [rdi + 16]      c
    0x4c, 0x39, 0xc1,                         // cmp   rcx, r8              begin, end
    0x7d, 0x16,                               // jge   ret
    0xf3, 0x0f, 0x10, 0x04, 0x88,             // movss xmm0, [rax + 4*rcx]
    0xf3, 0x41, 0x0f, 0x58, 0x04, 0x89,       // addss xmm0, [r9 + 4*rcx]
    0xf3, 0x41, 0x0f, 0x11, 0x04, 0x8a,       // movss [r10 + 4*rcx], xmm0
    0x48, 0xff, 0xc1,                         // inc   rcx
    0xeb, 0xe5,                               // jmp   cmp
    0xc3,                                     // ret
];

/// `scratch[0] = dims[0]; for i in begin..end { y[i] = x[i] * scratch[0] }` over f32.
#[rustfmt::skip]
const SCALE: [u8; 45] = [
    0x48, 0x8b, 0x07,                         // mov   rax, [rdi]           x
    0x4c, 0x8b, 0x4f, 0x08,                   // mov   r9,  [rdi + 8]       y
    0x4c, 0x8b, 0x16,                         // mov   r10, [rsi]           dims[0]
    0xf3, 0x49, 0x0f, 0x2a, 0xca,             // cvtsi2ss xmm1, r10
    0xf3, 0x0f, 0x11, 0x0a,                   // movss [rdx], xmm1
    0x4c, 0x39, 0xc1,                         // cmp   rcx, r8
    0x7d, 0x14,                               // jge   ret
    0xf3, 0x0f, 0x10, 0x04, 0x88,             // movss xmm0, [rax + 4*rcx]
    0xf3, 0x0f, 0x59, 0x02,                   // mulss xmm0, [rdx]
    0xf3, 0x41, 0x0f, 0x11, 0x04, 0x89,       // movss [r9 + 4*rcx], xmm0
    0x48, 0xff, 0xc1,                         // inc   rcx
    0xeb, 0xe7,                               // jmp   cmp
    0xc3,                                     // ret
];

/// The values of the constant `bias`, `f32[2]`.
pub const BIAS: [f32; 2] = [0.5, -8.0];

/// `y = (a + b) * T` and `bias = BIAS` for `a, b: f32[N,T]`, with `1 <= N <= 64` and `T` unbounded.
pub fn artifact() -> Vec<u8> {
    build(true)
}

/// The same without the output `bias`.
pub fn without_bias() -> Vec<u8> {
    build(false)
}

fn build(with_bias: bool) -> Vec<u8> {
    let mut writer = ArtifactWriter::in_memory();
    let bias: Vec<u8> = BIAS.iter().flat_map(|v| v.to_le_bytes()).collect();
    let bias = writer.constant("bias", "", &bias).unwrap();
    let code = writer.section("code.x86-64", &code()).unwrap();
    writer.section("module.tir", b"module @test {}").unwrap();
    let mut x = Extents::new();
    let (n, t) = (x.symbol(0), x.symbol(1));
    let elements = x.product(&[n, t], 1);
    let bytes = x.product(&[n, t], 4);
    let (two, eight, grain) = (x.constant(2), x.constant(8), x.constant(16));
    let mut p = Program::default();
    let [a, b] = [0, 1].map(|i| p.buffer(Place::Input(i), bytes));
    let sum = p.buffer(Place::Arena(()), bytes);
    let scaled = p.buffer(Place::Alias(sum), bytes);
    let y = p.buffer(Place::Output(0), bytes);
    let bias = p.buffer(Place::Constant(bias), eight);
    let out = p.buffer(Place::Output(1), eight);
    let add = Call {
        kernel: 0,
        args: vec![Arg::read(a), Arg::read(b), Arg::write(sum)],
        grid: elements,
        grain,
        ..Call::default()
    };
    let scale = Call {
        kernel: 1,
        args: vec![Arg::read(sum), Arg::write(scaled)],
        dims: vec![t],
        scratch: eight,
        ..add.clone()
    };
    p.steps = vec![
        Step::call("/add", add),
        Step::call("/scale", scale),
        Step::copy("/out", scaled, y, bytes),
        Step::copy("/bias", bias, out, eight),
    ];
    let mut outputs = vec![Value::new("y", DType::F32, vec![n, t]), Value::new("bias", DType::F32, vec![two])];
    if !with_bias {
        p.steps.pop();
        p.buffers.pop();
        outputs.pop();
    }
    let kernels = kernels();
    let variant = |name: &str, features: &[&str]| Variant {
        name: name.into(),
        features: features.iter().map(|f| f.to_string()).collect(),
        code,
        kernels: kernels.clone(),
        program: p.clone(),
    };
    let symbol = |name: &str, max| Symbol { name: name.into(), min: 1, max, hint: 4, cap: None };
    let manifest = Manifest {
        tool: "test".into(),
        name: "test".into(),
        inputs: vec![Value::new("a", DType::F32, vec![n, t]), Value::new("b", DType::F32, vec![n, t])],
        outputs,
        symbols: vec![symbol("N", 64), symbol("T", Symbol::UNBOUNDED)],
        extents: x.into_entries(),
        variants: vec![variant("future", &["not-yet-invented"]), variant("x86-64", &[])],
        ..Manifest::default()
    };
    writer.into_bytes(manifest).unwrap()
}

fn code() -> Vec<u8> {
    let mut code = ADD.to_vec();
    code.resize(64, 0xcc);
    code.extend(SCALE);
    code
}

fn kernels() -> Vec<Kernel> {
    [("f32_add", 0), ("f32_scale", 64)].map(|(name, offset)| Kernel { name: name.into(), offset }).to_vec()
}

/// Sums over `a, b: f32[N]`: value 0 is `a`, value 1 is `b`, value `i + 2` is the sum of the two values that `sums[i]` names.
/// The last is the output `y`. Every third sum, of a value that is not used later, is done in its place.
pub fn sums(sums: &[(usize, usize)]) -> Vec<u8> {
    let mut writer = ArtifactWriter::in_memory();
    let code = writer.section("code", &code()).unwrap();
    let mut x = Extents::new();
    let n = x.symbol(0);
    let bytes = x.product(&[n], 4);
    let mut p = Program::default();
    let mut values: Vec<u32> = [0, 1].map(|i| p.buffer(Place::Input(i), bytes)).to_vec();
    for (i, &(a, b)) in sums.iter().enumerate() {
        let dead = |v: usize| v > 1 && sums[i + 1..].iter().all(|&(c, d)| c != v && d != v);
        let place = match i {
            _ if i + 1 == sums.len() => Place::Output(0),
            _ if i % 3 == 0 && dead(a) => Place::Alias(values[a]),
            _ => Place::Arena(()),
        };
        let sum = p.buffer(place, bytes);
        let args = vec![Arg::read(values[a]), Arg::read(values[b]), Arg::write(sum)];
        p.steps.push(Step::call(format!("/sum{i}"), Call { kernel: 0, args, grid: n, ..Call::default() }));
        values.push(sum);
    }
    let value = |name: &str| Value::new(name, DType::F32, vec![n]);
    let manifest = Manifest {
        inputs: vec![value("a"), value("b")],
        outputs: vec![value("y")],
        symbols: vec![Symbol { name: "N".into(), min: 0, max: Symbol::UNBOUNDED, hint: 8, cap: None }],
        extents: x.into_entries(),
        variants: vec![Variant { name: "x86-64".into(), code, kernels: kernels(), program: p, ..Variant::default() }],
        ..Manifest::default()
    };
    writer.into_bytes(manifest).unwrap()
}

/// The first `count` sums of `a, b: f32[N]`, where `count` is an input: `y: f32[n]`, and `twice: f32[n]`, which adds `a` to them.
pub fn counted() -> Vec<u8> {
    let mut writer = ArtifactWriter::in_memory();
    let code = writer.section("code", &code()).unwrap();
    let mut x = Extents::new();
    let n = x.symbol(0);
    let counted = x.symbol(1);
    let (all, some, eight) = (x.product(&[n], 4), x.product(&[counted], 4), x.constant(8));
    let mut p = Program::default();
    let [a, b] = [0, 1].map(|i| p.buffer(Place::Input(i), all));
    let count = p.buffer(Place::Input(2), eight);
    let sum = p.buffer(Place::Arena(()), some);
    let y = p.buffer(Place::Output(0), some);
    let twice = p.buffer(Place::Output(1), some);
    let add = |name: &str, a, b, to| {
        let args = vec![Arg::read(a), Arg::read(b), Arg::write(to)];
        Step::call(name, Call { kernel: 0, args, grid: counted, ..Call::default() })
    };
    p.steps = vec![
        Step::bind("/count", 1, count),
        add("/add", a, b, sum),
        add("/twice", sum, a, twice),
        Step::copy("/out", sum, y, some),
    ];
    let value = |name: &str, d| Value::new(name, DType::F32, vec![d]);
    let symbol = |name: &str, cap| Symbol { name: name.into(), min: 0, max: Symbol::UNBOUNDED, hint: 8, cap };
    let manifest = Manifest {
        inputs: vec![value("a", n), value("b", n), Value::new("count", DType::I64, vec![])],
        outputs: vec![value("y", counted), value("twice", counted)],
        symbols: vec![symbol("N", None), symbol("n", Some(n))],
        extents: x.into_entries(),
        variants: vec![Variant { name: "x86-64".into(), code, kernels: kernels(), program: p, ..Variant::default() }],
        ..Manifest::default()
    };
    writer.into_bytes(manifest).unwrap()
}

/// `rows x columns` values that are exact in f32.
pub fn values(rows: usize, columns: usize, seed: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| ((i * 7 + seed * 13) % 101) as f32 - 50.0).collect()
}

/// What the model computes for `y`.
pub fn expected(a: &[f32], b: &[f32], t: usize) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| (a + b) * t as f32).collect()
}
