//! PTX: that LLVM makes it, and that `ptxas` takes it where one is installed.

use crate::cuda::gemm::{Shape, bf16_gemm};
use crate::emit::{KernelBuilder, Scalar, Val, math};
use crate::mlir::ptx;
use std::path::PathBuf;
use std::process::Command;

/// `ptxas` on the path, or where the Python packages that bring one put it.
fn ptxas() -> Option<PathBuf> {
    let runs = |path: &PathBuf| Command::new(path).arg("--version").output().is_ok_and(|o| o.status.success());
    let python = "import sysconfig; print(sysconfig.get_paths()['purelib'])";
    let packages = Command::new("python3").args(["-c", python]).output().ok();
    let packages = packages.map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim()));
    let within = ["nvidia/cuda_nvcc/bin/ptxas", "triton/backends/nvidia/bin/ptxas"];
    let candidates = packages.iter().flat_map(|p| within.map(|w| p.join(w)));
    std::iter::once(PathBuf::from("ptxas")).chain(candidates).find(runs)
}

#[test]
fn gemm_becomes_ptx() {
    type Activation = fn(&mut KernelBuilder, Val) -> Val;
    let activations: [(&str, Activation); 3] = [("none", |_, x| x), ("gelu", math::gelu), ("silu", math::silu)];
    let kernels =
        activations.map(|(name, f)| bf16_gemm(&format!("bf16_bf16_gemm_{name}__sm80"), Shape { n: 384, k: 1536 }, f));
    let text = ptx(&kernels, 80).unwrap();
    for part in [
        ".visible .entry bf16_bf16_gemm_gelu__sm80(",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
        "cp.async.cg.shared.global",
        "cvt.rn.bf16x2.f32",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    assert!(!text.contains("call"), "a call in\n{text}");
    let Some(ptxas) = ptxas() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (source, binary) = (folder.path().join("k.ptx"), folder.path().join("k.cubin"));
    std::fs::write(&source, text).unwrap();
    for arch in ["sm_80", "sm_90"] {
        let out = Command::new(&ptxas).args(["-v", "-arch", arch, "-o"]).arg(&binary).arg(&source).output().unwrap();
        let report = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{report}");
        let spills = |line: &&str| line.contains("spill stores") && !line.contains(", 0 bytes spill stores");
        assert_eq!(report.lines().find(spills), None);
    }
}

#[test]
fn threads_map_elements() {
    let mut k = KernelBuilder::gpu("exp");
    let (x, y) = (k.arg("x"), k.arg_mut("y"));
    let thread = k.intrinsic(crate::emit::Intrinsic::ThreadId(crate::emit::Axis::X), &[]);
    let i = k.zext(thread, Scalar::I64);
    let (from, to) = (k.elem(x, i, Scalar::F32), k.elem(y, i, Scalar::F32));
    let v = k.load(from, Scalar::F32.x(1));
    let v = math::exp(&mut k, v);
    k.store(v, to);
    let text = ptx(&[k.finish()], 80).unwrap();
    assert!(text.contains("fma.rn.f32") && text.contains("%tid.x"), "{text}");
}
