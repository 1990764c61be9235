//! What stands around a model and means harm, or is merely wrong: data, results, texts of options, artifacts, extents at run time; as `hostile.rs`.

mod support;

use std::time::Instant;
use support::{Dir, SOON, data_set, floats, mlp, numbers};
use tersor_frontend::testing::{Model, tensor};
use tersor_ir::{DType, Tensor};

/// Results that are files, devices or memory that is full, or what is read.
#[test]
#[cfg(target_os = "linux")]
fn results_that_have_no_place() {
    let dir = Dir::new();
    dir.write("m.onnx", mlp().bytes());
    data_set(&dir, "good", 0.0);
    let p = "normalize,quantize{skip-small=false}";
    dir.write("p.toml", "tersor = 1\n[[pass]]\nname = 'normalize'\n");
    std::fs::create_dir(dir.path("folder.tir")).unwrap();
    for (out, more) in [
        ("m.onnx", &["-p", p, "--calib", "good"][..]),
        ("./m.onnx", &[]),
        ("folder.tir", &[]),
        ("no/o.tir", &[]),
        ("good/input_0.pb", &["-p", p, "--calib", "good/input_0.pb", "--emit", "tir"]),
        ("p.toml", &["-p", "p.toml", "--emit", "tir"]),
    ] {
        let said = dir.error(8, &[&["compile", "m.onnx", "-o", out], more].concat());
        assert!(said.contains("C0305"), "{out}: {said}");
    }
    dir.error(8, &["search", "m.onnx", "-p", "p.toml", "--calib", "good", "--budget", "size=0.5x", "-o", "p.toml"]);
    for arguments in [&["cat", "m.onnx"][..], &["inspect", "m.onnx", "--json"], &["export", "m.onnx", "-o", "-"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let out = dir.command(arguments).stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(8) && said.contains("standard output"), "{arguments:?}: {said}");
    }
}

/// A disk that takes no more, and folders that nobody may write to.
#[test]
#[cfg(target_os = "linux")]
fn results_that_cannot_be_written() {
    let dir = Dir::new();
    dir.write("m.onnx", mlp().bytes());
    let mut commands =
        vec![vec!["opt", "m.onnx", "-p", "normalize", "-o", "o.tir"], vec!["export", "m.onnx", "-o", "o.onnx"]];
    if cfg!(feature = "mlir") {
        commands.push(vec!["compile", "m.onnx", "-o", "o.tsr", "--cache", "off"]);
        commands.push(vec!["compile", "m.onnx", "-o", "o.mlir"]);
    }
    for arguments in &commands {
        let full = ["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_tersor")];
        let mut command = std::process::Command::new("sh");
        command.args(full).args(arguments).current_dir(dir.path("")).env("TMPDIR", dir.path(""));
        let out = command.output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(8) && said.contains("too large"), "{arguments:?}: {:?} {said}", out.status);
        let output = arguments.iter().find(|a| a.starts_with("o.")).unwrap();
        let elsewhere = format!("/sys/{output}");
        let arguments: Vec<&str> = arguments.iter().map(|a| if a == output { &elsewhere } else { *a }).collect();
        let said = dir.error(8, &arguments);
        assert!(said.contains(&elsewhere), "{arguments:?}: {said}");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["m.onnx"]);
}

#[test]
#[cfg(unix)]
fn texts_that_have_no_end() {
    let dir = Dir::new();
    dir.write("m.onnx", mlp().bytes());
    let fifo = std::process::Command::new("mkfifo").args([dir.path("f.toml"), dir.path("f")]).status().unwrap();
    assert!(fifo.success());
    std::fs::File::create(dir.path("large.toml")).unwrap().set_len(100 << 20).unwrap();
    let start = Instant::now();
    for (option, file) in [
        ("--config", "/dev/zero"),
        ("--config", "f"),
        ("--config", "large.toml"),
        ("--pipeline", "f.toml"),
        ("--pipeline", "large.toml"),
        ("--plan", "/dev/zero"),
        ("--plan", "large.toml"),
        ("--locked", "f"),
        ("--locked", "large.toml"),
    ] {
        let said = dir.error(2, &["compile", "m.onnx", "-o", "o.tsr", option, file]);
        assert!(["more than", "not a regular file"].iter().any(|w| said.contains(w)), "{option} {file}: {said}");
    }
    let p = "normalize,quantize{skip-small=false}";
    dir.error(2, &["opt", "m.onnx", "-p", p, "--calib", "f", "-o", "o.tir"]);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn targets_that_are_not_there() {
    let dir = Dir::new();
    dir.write("m.onnx", mlp().bytes());
    let said = dir.tersor(&["compile", "m.onnx", "-o", "o.tsr", "--target", "x86-64-v3,sm_90a"]);
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.code() == Some(6) && text.contains("no runtime for GPUs"), "{text}");
}

/// Who compiles to one file at once leaves one of the results, whole.
#[test]
#[cfg(feature = "mlir")]
fn two_compile_to_one_file() {
    let dir = Dir::new();
    dir.write("m.onnx", mlp().bytes());
    data_set(&dir, "data", 0.0);
    let compile = ["compile", "m.onnx", "-o", "m.tsr", "--target", "x86-64-v3", "-q"];
    let all: Vec<_> = (0..3).map(|_| dir.command(&compile).spawn().unwrap()).collect();
    all.into_iter().for_each(|mut c| assert!(c.wait().unwrap().success()));
    dir.json(0, &["run", "m.tsr", "--inputs", "data", "--verify", "-o", "out"]);
    dir.json(0, &["compile", "m.onnx", "--locked", "m.lock.toml", "-o", "again.tsr", "--cache", "off"]);
    // What the cache holds is kept to the limits of who asks.
    let said = dir.error(7, &["compile", "m.onnx", "-o", "o.tsr", "--target", "x86-64-v3", "--max-memory", "1"]);
    assert!(said.contains("R0403") || said.contains("C0314"), "{said}");
}

/// What a killed process leaves, or what somebody wrote into the cache, is no result.
#[test]
#[cfg(all(unix, feature = "mlir"))]
fn killed_half_way() {
    let dir = Dir::new();
    dir.write("m.onnx", mlp().bytes());
    let compile = |out: &str| {
        dir.json(0, &["compile", "m.onnx", "-o", out, "--target", "x86-64-v3"]);
        std::fs::read(dir.path(out)).unwrap()
    };
    for wait in [1, 20, 50, 100, 200] {
        let arguments = ["compile", "m.onnx", "-o", "killed.tsr", "--target", "x86-64-v3", "-q"];
        let mut child = dir.command(&arguments).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        if let Ok(bytes) = std::fs::read(dir.path("killed.tsr")) {
            assert_eq!(bytes, compile("whole.tsr"));
        }
    }
    let whole = compile("whole.tsr");
    let mut stack = vec![dir.path("cache")];
    let mut entries = vec![];
    while let Some(p) = stack.pop() {
        match p.is_dir() {
            true => stack.extend(std::fs::read_dir(p).unwrap().map(|e| e.unwrap().path())),
            false => entries.push(p),
        }
    }
    assert!(!entries.is_empty());
    for spoil in [&|b: &mut Vec<u8>| b.truncate(b.len() / 2), &|b: &mut Vec<u8>| b.iter_mut().for_each(|b| *b ^= 1)]
        as [&dyn Fn(&mut Vec<u8>); 2]
    {
        for path in &entries {
            let mut bytes = std::fs::read(path).unwrap();
            spoil(&mut bytes);
            std::fs::write(path, bytes).unwrap();
        }
        assert_eq!(compile("again.tsr"), whole);
    }
}

#[test]
fn elements_that_inputs_do_not_have() {
    let dir = Dir::new();
    let rows = || Model::new(19).input("x", "f32[N,4096]");
    let padded = |mode: &'static str| {
        rows().constant("p", &numbers(&[2, 0, 2, 0])).node("Pad", &["x", "p"], &["node"], &[("mode", mode.into())])
    };
    let taken = |index: Tensor| rows().constant("i", &index).node("Gather", &["x", "i"], &["node"], &[]);
    let last = Tensor::scalar(DType::I64, -1.0);
    for m in [padded("edge"), padded("wrap"), padded("reflect"), taken(numbers(&[0, 0])), taken(last)] {
        dir.write("m.onnx", m.node("Neg", &["node"], &["y"], &[]).untyped_output("y").bytes());
        dir.write("data/input_0.pb", tensor("x", &floats(&[0, 4096])));
        dir.write("data/output_0.pb", tensor("y", &floats(&[1])));
        dir.error(3, &["verify", "m.onnx", "--inputs", "data", "--interp"]);
        if cfg!(feature = "mlir") {
            let said = dir.error(3, &["verify", "m.onnx", "--inputs", "data"]);
            assert!(said.contains("node") && said.contains("R0207"), "{said}");
        }
    }
}

#[test]
fn calibration_data_that_do_not_fit() {
    let dir = Dir::new();
    dir.write("m.onnx", mlp().bytes());
    data_set(&dir, "good", 0.0);
    let opt = |exit: i32, data: &str| {
        let p = "normalize,quantize{skip-small=false}";
        dir.json(exit, &["opt", "m.onnx", "-p", p, "--calib", data, "-o", "q.tir"])
    };
    opt(0, "good");
    dir.write("none/readme.txt", "");
    opt(2, "none");
    let mut npy = vec![];
    let six = tersor_runtime::Tensor::from_bytes(tersor_runtime::DType::F32, &[2, 3], &[0; 24]).unwrap();
    tersor_runtime::data::npy::write(six.view(), &mut npy).unwrap();
    dir.write("other/other.npy", npy);
    opt(2, "other");
    dir.write("wide/input_0.pb", tensor("x", &floats(&[2, 7])));
    // Compiled code is given what it does not take; the interpreter is what the model does not take.
    let misfit = if cfg!(feature = "mlir") { 2 } else { 3 };
    opt(misfit, "wide");
    dir.write("ints/input_0.pb", tensor("x", &Tensor::from_i64(DType::I64, [2, 3], &[1; 6])));
    opt(misfit, "ints");
    dir.write("nan/input_0.pb", tensor("x", &Tensor::from_f32([2, 3], &[f32::NAN; 6])));
    let d = opt(0, "nan");
    assert!(d["diagnostics"].to_string().contains("Q0102"), "{d}");
    dir.write("empty/input_0.pb", tensor("x", &floats(&[0, 3])));
    let d = opt(2, "empty");
    assert!(d["diagnostics"].to_string().contains("there are no calibration samples"), "{d}");
    dir.write("same/input_0.pb", tensor("x", &floats(&[32, 3])));
    let d = opt(0, "same");
    assert!(d["diagnostics"].to_string().contains("calibration samples: 32, 1 of them different"), "{d}");
}

#[test]
fn artifacts_that_were_tampered_with() {
    let dir = Dir::new();
    data_set(&dir, "data", 0.0);
    for bytes in [&b""[..], &[0; 64], &[0xff; 4096]] {
        dir.write("a.tsr", bytes);
        for command in ["inspect", "cat"] {
            dir.error(3, &[command, "a.tsr"]);
        }
        dir.error(3, &["run", "a.tsr", "--inputs", "data"]);
    }
}

#[test]
#[cfg(feature = "mlir")]
fn every_changed_byte_of_an_artifact_is_noticed_or_harmless() {
    let dir = Dir::new();
    dir.write("m.onnx", mlp().bytes());
    data_set(&dir, "data", 0.0);
    dir.json(0, &["compile", "m.onnx", "-o", "m.tsr", "--target", "x86-64-v3"]);
    let whole = std::fs::read(dir.path("m.tsr")).unwrap();
    for cut in [0, 100, whole.len() / 2, whole.len() - 1] {
        dir.write("cut.tsr", &whole[..cut]);
        dir.error(3, &["run", "cut.tsr", "--inputs", "data"]);
    }
    for at in (0..whole.len()).step_by(whole.len() / 64) {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        dir.write("changed.tsr", changed);
        let out = dir.tersor(&["run", "changed.tsr", "--inputs", "data", "-o", "out"]);
        assert!(matches!(out.status.code(), Some(0 | 3 | 6)), "byte {at}: {:?}", out.status);
    }
}
