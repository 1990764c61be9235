//! What the code consists of: memory access, machine instructions, determinism, errors.

use super::agree;
use crate::emit::emulate::Call;
use crate::emit::tests::{Random, map_kernel};
use crate::emit::{Dot, Intrinsic, Kernel, KernelBuilder, Scalar, math, print};
use crate::kernel::{Code, Isa};
use crate::mlir::{Error, Image, codegen, compile, emit, lower, object, on_fatal_error};
use std::sync::atomic::AtomicBool;

static GO: AtomicBool = AtomicBool::new(false);

/// The image of one program.
fn image(kernels: &[Kernel], isa: Isa, threads: usize) -> Image {
    compile(&[(isa, kernels)], threads, &GO).unwrap().remove(0)
}

#[test]
fn memory_agrees() {
    let mut k = KernelBuilder::new("memory");
    let (x, y, n) = (k.arg("x"), k.arg_mut("y"), k.dim("n"));
    let (begin, end) = k.range();
    let table = k.table((0..64u32).flat_map(|i| (i as f32 * 0.5).to_le_bytes()).collect(), 64);
    let (stack, scratch) = (k.alloca(64, 64), k.scratch());
    k.loop_(begin, end, 1, |k, i| {
        let eight = k.i64(8);
        let at = k.mul(i, eight);
        let left = k.sub(n, at);
        let (from, to) = (k.elem(x, at, Scalar::F32), k.elem(y, at, Scalar::F32));
        let v = k.load_first(from, Scalar::F32.x(8), left);
        k.store_aligned(v, stack, 32);
        let offsets = k.vec_i32(&[28, 24, 20, 16, 12, 8, 4, 0]);
        let reversed = k.gather(stack, offsets, Scalar::F32);
        let three = k.int(offsets.ty(), 3);
        let scaled = k.shl(offsets, three);
        let looked_up = k.gather(table, scaled, Scalar::F32);
        let sum = k.add(reversed, looked_up);
        let half = k.to_float_type(sum, Scalar::F16);
        k.store(half, scratch);
        let half = k.load(scratch, Scalar::F16.x(8));
        let sum = k.to_float_type(half, Scalar::F32);
        let first = k.extract(sum, 2);
        let sum = k.insert(first, sum, 6);
        let pair = k.concat(sum, v);
        let out = k.slice(pair, 4, 8);
        k.prefetch(from, 3);
        k.store_first(out, to, left);
    });
    let kernel = k.finish();
    let mut random = Random(5);
    for n in [1usize, 7, 8, 29] {
        let mut call = Call::new(n.div_ceil(8) as i64);
        call.arg(&(0..n).map(|_| (random.next() % 1000) as f32 / 8.0).collect::<Vec<_>>());
        call.out::<f32>(n);
        call.dim(n);
        call.scratch = 64;
        agree(std::slice::from_ref(&kernel), "memory", &call);
    }
}

#[test]
fn byte_instructions_agree() {
    let mut k = KernelBuilder::new("bytes");
    let (a, b, y) = (k.arg("a"), k.arg("b"), k.arg_mut("y"));
    let bytes = Scalar::I8.x(32);
    let (p, q) = (k.load(a, bytes), k.load(b, bytes));
    let pairs = k.intrinsic(Intrinsic::Vpmaddubsw256, &[p, q]);
    let words = k.bitcast(q, Scalar::I16.x(16));
    let quads = k.intrinsic(Intrinsic::Vpmaddwd256, &[pairs, words]);
    let picked = k.intrinsic(Intrinsic::Vpshufb256, &[p, q]);
    let floats = k.bitcast(picked, Scalar::F32.x(8));
    let moved = k.intrinsic(Intrinsic::Vpermps256, &[floats, quads]);
    k.store(quads, y);
    let next = k.offset(y, 32);
    k.store(moved, next);
    let kernel = k.finish();
    let mut random = Random(9);
    for _ in 0..20 {
        let mut call = Call::new(1);
        call.arg(&random.bytes(32));
        call.arg(&random.bytes(32));
        call.out::<u8>(64);
        agree(std::slice::from_ref(&kernel), "bytes", &call);
    }
}

fn amx() -> Kernel {
    let mut k = KernelBuilder::new("amx");
    let (a, b, c, n) = (k.arg("a"), k.arg("b"), k.arg_mut("c"), k.dim("n"));
    let (zero, stride, kib) = (k.i64(0), k.i64(64), k.i64(1024));
    for (at, dot) in [(0, Dot::SS), (1024, Dot::Bf16)] {
        let init = k.tile_zero(16, 64);
        let sums = k.for_(zero, n, kib, &[init], |k, i, acc| {
            let (p, q) = (k.gep(a, i), k.gep(b, i));
            let (p, q) = (k.tile_load(p, stride, 16, 64), k.tile_load(q, stride, 16, 64));
            let op = Intrinsic::TileDot { dot, rows: 16, row_bytes: 64, depth_bytes: 64 };
            vec![k.intrinsic(op, &[acc[0], p, q])]
        });
        let to = k.offset(c, at);
        k.tile_store(sums[0], to, stride, 16, 64);
    }
    k.finish()
}

fn avx512() -> Kernel {
    let mut k = KernelBuilder::new("avx512");
    let (a, b, c) = (k.arg("a"), k.arg("b"), k.arg_mut("c"));
    let (p, q, acc) = (k.load(a, Scalar::I8.x(64)), k.load(b, Scalar::I8.x(64)), k.load(c, Scalar::I32.x(16)));
    let r = k.intrinsic(Intrinsic::Vpdpbusd512, &[acc, p, q]);
    let f = k.to_float(r, Scalar::F32);
    let f = k.intrinsic(Intrinsic::Vpermps512, &[f, r]);
    let zero = k.zero(f.ty());
    let mask = k.load(a, Scalar::I16.x(1));
    let mask = k.bitcast(mask, Scalar::I1.x(16));
    let f = k.intrinsic(Intrinsic::Vexpandps512, &[f, zero, mask]);
    let f = k.max(f, zero);
    let f = math::exp(&mut k, f);
    k.store(f, c);
    k.finish()
}

/// The mnemonics of some code, where a disassembler is installed.
fn disassemble(code: &[u8]) -> Option<String> {
    let file = tempfile::NamedTempFile::new().ok()?;
    let hex: String = code.iter().map(|b| format!("{b:#x} ")).collect();
    std::fs::write(file.path(), hex).ok()?;
    let tool = std::path::Path::new(&std::env::var_os("MLIR_SYS_220_PREFIX")?).join("bin/llvm-mc");
    let features = "-mattr=+amx-tile,+amx-int8,+amx-bf16,+avx512bf16";
    let out = std::process::Command::new(tool)
        .args(["--disassemble", "--triple=x86_64", "--mcpu=sapphirerapids", features])
        .arg(file.path())
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[test]
fn code_has_the_instructions_asked_for() {
    let cases: [(Isa, Kernel, &[&str]); 3] = [
        (Isa::Amx, amx(), &["ldtilecfg", "tdpbssd", "tdpbf16ps", "tileloadd", "tilestored", "tilerelease"]),
        (Isa::V4, avx512(), &["vpdpbusd", "vperm", "%zmm", "vmaxps", "vfmadd"]),
        (Isa::V3, map_kernel("f", 8, math::gelu), &["vfmadd", "vmaxps", "vminps", "vdivps"]),
    ];
    for (isa, kernel, expected) in cases {
        let image = image(&[kernel], isa, 1);
        let Some(text) = disassemble(&image.bytes) else { return };
        for mnemonic in expected {
            assert!(text.contains(mnemonic), "no {mnemonic} in\n{text}");
        }
    }
}

#[test]
fn images_depend_on_kernels_alone() {
    let build = || -> Vec<Kernel> { (0..9).map(|i| map_kernel(&format!("k{i}"), 8, math::tanh)).collect() };
    let one = image(&build(), Isa::V3, 1);
    assert_eq!(one, image(&build(), Isa::V3, 3));
    let names: Vec<String> = one.entries.iter().map(|e| e.name.clone()).collect();
    assert_eq!(names, (0..9).map(|i| format!("k{i}")).collect::<Vec<_>>());
    assert!(image(&[], Isa::V3, 2).bytes.is_empty());
}

#[test]
fn missing_features_are_named() {
    let error = compile(&[(Isa::V3, &[avx512()])], 1, &GO).unwrap_err();
    let message = "kernel `avx512` needs avx512f, avx512vnni, which x86-64-v3 does not have";
    assert_eq!(error.to_string(), message);
}

/// Code for AVX-512 serves machines with tiles, but for kernels that use them, and no other vectors.
#[test]
fn programs_share_code() {
    let kernels = |name: &str| ["exp", "tanh"].map(|f| map_kernel(&format!("{f}_{name}"), 16, math::exp));
    let [v3, v4, amx] = ["avx2", "avx512", "amx"].map(kernels);
    let made = compile(&[(Isa::Amx, &amx), (Isa::V4, &v4), (Isa::V3, &v3)], 1, &GO).unwrap();
    assert_eq!(made[0].bytes, made[1].bytes);
    assert_ne!(made[1].bytes, made[2].bytes);
    assert_eq!(made[0].entries[1].name, "tanh_amx");
    assert_eq!([&made[0], &made[2]], [&image(&amx, Isa::Amx, 1), &image(&v3, Isa::V3, 1)]);
    let mut tiles = amx.to_vec();
    tiles.push(self::amx());
    let made = compile(&[(Isa::Amx, &tiles), (Isa::V4, &v4)], 1, &GO).unwrap();
    assert_eq!(made[0], image(&tiles, Isa::Amx, 1));
    assert_eq!(made[1], image(&v4, Isa::V4, 1));
}

#[test]
fn every_form_has_every_kernel() {
    let kernels: Vec<Kernel> = ["first", "second"].map(|name| map_kernel(name, 8, math::exp)).into();
    let made = |code| emit(&kernels, Isa::V3, code).unwrap();
    for (code, before) in [(Code::Mlir, "func.func @"), (Code::Llvm, "define void @"), (Code::Assembly, ".globl\t")] {
        let text = String::from_utf8(made(code)).unwrap();
        kernels.iter().for_each(|k| assert!(text.contains(&format!("{before}{}", k.name)), "{text}"));
    }
    let mut layout = object::Layout::default();
    let entries: Vec<_> = kernels.iter().map(|k| (k.name.clone(), k.name.as_str())).collect();
    layout.add(&made(Code::Object), &entries).unwrap();
    assert_eq!(layout.finish(), image(&kernels, Isa::V3, 1));
    assert!(matches!(emit(&[avx512()], Isa::V3, Code::Mlir), Err(Error::Features { .. })));
}

#[test]
fn work_ends_when_told_to() {
    let kernels = [map_kernel("k", 8, math::exp)];
    assert_eq!(compile(&[(Isa::V3, &kernels)], 1, &AtomicBool::new(true)), Err(Error::Interrupted));
}

/// LLVM's message goes to the handler, which decides how the process ends. The process is a second one of this test.
#[test]
fn fatal_errors_are_handed_over() {
    let me = "mlir::tests::code::fatal_errors_are_handed_over";
    if std::env::var_os("TERSOR_TEST_FATAL").is_none() {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let out = command.args([me, "--exact", "--nocapture"]).env("TERSOR_TEST_FATAL", "1").output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(70) && text.contains("handed over: "), "{:?} {text}", out.status);
        return;
    }
    on_fatal_error(|message| {
        eprintln!("handed over: {message}");
        std::process::exit(70);
    });
    // Instructions that the machine does not have; `compile` would have refused the kernel.
    let kernels = [avx512()];
    let module = lower::to_llvm(&lower::Context::new(), &print::module(&kernels), &kernels).unwrap();
    codegen::emit(&module, &kernels, Isa::V3, Code::Object).unwrap();
}
