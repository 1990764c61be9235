//! From a model file to numbers by way of machine code: compile, run, verify, time, compare, cache, lock.

mod support;

use support::{Dir, data_set, mlp, wide};
use tersor_frontend::testing::Model;
use tersor_ir::{DType, Tensor};

const NATIVE: &[&str] = &["compile", "m.onnx", "--target", "x86-64-v3"];

fn compile(dir: &Dir, more: &[&str]) -> serde_json::Value {
    dir.json(0, &[NATIVE, more].concat())
}

fn read(dir: &Dir, name: &str) -> Vec<u8> {
    std::fs::read(dir.path(name)).unwrap()
}

fn with_model() -> Dir {
    let dir = Dir::new();
    dir.write("m.onnx", mlp().bytes());
    data_set(&dir, "test_data_set_0", 0.0);
    dir
}

#[test]
fn artifacts_are_the_same_however_they_are_made() {
    let dir = with_model();
    let first = compile(&dir, &["-o", "a.tsr", "-j", "1"]);
    assert_eq!((&first["data"]["cached"], &first["data"]["targets"][0]), (&false.into(), &"x86-64-v3".into()));
    assert_eq!(compile(&dir, &["-o", "b.tsr"])["data"]["cached"], true);
    assert_eq!(compile(&dir, &["-o", "c.tsr", "-j", "2", "--cache", "off"])["data"]["cached"], false);
    let other = Dir::new();
    other.write("m.onnx", mlp().bytes());
    compile(&other, &["-o", "d.tsr"]);
    for (d, name) in [(&dir, "b"), (&dir, "c"), (&other, "d")] {
        assert_eq!(read(&dir, "a.tsr"), read(d, &format!("{name}.tsr")), "{name}");
        assert_eq!(read(&dir, "a.lock.toml"), read(d, &format!("{name}.lock.toml")), "{name}");
    }
    dir.json(0, &["compile", "m.onnx", "--locked", "a.lock.toml", "-o", "e.tsr"]);
    assert_eq!(read(&dir, "a.tsr"), read(&dir, "e.tsr"));
    dir.write("other.onnx", mlp().node("Relu", &["y"], &["z"], &[]).bytes());
    assert!(
        dir.error(2, &["compile", "other.onnx", "--locked", "a.lock.toml", "-o", "f.tsr"]).contains("another model")
    );
    for entry in std::fs::read_dir(dir.path("cache/tersor")).unwrap() {
        std::fs::write(entry.unwrap().path(), "damaged").unwrap();
    }
    assert_eq!(compile(&dir, &["-o", "g.tsr"])["data"]["cached"], false);
    assert_eq!(read(&dir, "a.tsr"), read(&dir, "g.tsr"));
}

#[test]
fn plans_are_built_again_to_the_same_bytes() {
    let dir = Dir::new();
    dir.write("m.onnx", wide(&dir).bytes());
    let offers = "normalize,quantize{acts=none, bits=4},quantize{acts=none},normalize";
    let search = ["search", "m.onnx", "-p", offers, "--calib", "calib", "--budget", "size=0.4x"];
    let d = dir.json(0, &[&search[..], &["--target", "x86-64-v3", "-o", "p.toml"]].concat());
    assert!(d["data"]["compiled"].as_u64().unwrap() <= 2, "alternatives of weights alone share a program");
    let calib = ["--calib", "calib"];
    let build = |name: &str, how: &[&str]| {
        dir.json(0, &[&["compile", "m.onnx", "-o", name][..], &calib, how].concat());
        read(&dir, name)
    };
    let a = build("a.tsr", &["--plan", "p.toml"]);
    assert_eq!(a, build("b.tsr", &["--plan", "p.toml", "--cache", "off"]));
    assert_eq!(a, build("c.tsr", &["--locked", "p.toml"]));
    assert_eq!(a, build("d.tsr", &["--locked", "a.lock.toml"]));
    let once = ["-p", offers, "--budget", "size=0.4x", "--target", "x86-64-v3", "--report", "r.html"];
    assert_eq!(a, build("e.tsr", &[&once[..], &["--cache", "off"]].concat()));
    assert_eq!(read(&dir, "a.lock.toml"), read(&dir, "e.lock.toml"), "one run of the passes tells the same");
    dir.write("other.onnx", wide(&dir).node("Relu", &["y"], &["z"], &[]).bytes());
    let locked = ["compile", "other.onnx", "--locked", "p.toml", "-o", "f.tsr"];
    assert!(dir.error(2, &[&locked[..], &calib].concat()).contains("another model"));
    assert_eq!(
        dir.json(5, &[&["compile", "m.onnx", "-p", offers, "--budget", "size=0.001x"][..], &calib].concat())["ok"],
        false
    );
}

#[test]
fn lookups_are_weights_of_a_search_too() {
    let dir = Dir::new();
    let ids = Tensor::from_i64(DType::I64, [8], &[0, 63, 5, 1, 2, 40, 41, 7]);
    dir.write("calib/input_0.pb", tersor_frontend::testing::tensor("ids", &ids));
    let wave = Tensor::from_f32([64, 64], &(0..64 * 64).map(|i| (i as f32 * 1.7).sin()).collect::<Vec<_>>());
    let model =
        Model::new(17).input("ids", "i64[N]").output("y", "f32[N,64]").constant("t", &wave).constant("w", &wave);
    let model = model.node("Gather", &["t", "ids"], &["rows"], &[]).node("Relu", &["rows"], &["r"], &[]);
    dir.write("m.onnx", model.node("MatMul", &["r", "w"], &["y"], &[]).bytes());
    let offers = "normalize,quantize{acts=none, bits=4|8},embedding{bits=4|8},normalize";
    let search = ["search", "m.onnx", "-p", offers, "--calib", "calib", "--budget", "size=0.3x", "-o", "p.toml"];
    let d = dir.json(0, &search);
    assert!(d["data"]["compiled"].as_u64().unwrap() <= 2, "lookups with another table share a program");
    let text = std::fs::read_to_string(dir.path("p.toml")).unwrap();
    assert!(text.contains("rows = \"w") && text.contains("y = \"w"), "{text}");
}

#[test]
fn encodings_without_a_kernel_are_told_with_what_they_cost() {
    let dir = Dir::new();
    let w: Vec<f32> = (0..32 * 32 * 9).map(|i| (i as f32 * 0.7).sin()).collect();
    let model = Model::new(17).input("x", "f32[1,32,8,8]").output("y", "f32[1,32,6,6]");
    let model = model.constant("w", &Tensor::from_f32([32, 32, 3, 3], &w));
    dir.write("m.onnx", model.node("Conv", &["x", "w"], &["y"], &[]).bytes());
    let build = |group: u32| compile(&dir, &["-p", &format!("quantize{{acts=none, bits=4, group={group}}}")]);
    let d = build(32);
    let decoded = &d["data"]["decoded"][0];
    // A code of 4 bits for each of 9216 elements, and a scale for each 32 of them; each is stored as a float.
    assert_eq!((&decoded["encoded"], &decoded["stored"]), (&(4608 + 288 * 4).into(), &(9216 * 4).into()));
    assert_eq!(d["data"]["decisions"][0]["bytes_after"], decoded["stored"]);
    assert!(d["diagnostics"].to_string().contains("C0312"));
    let d = build(0);
    assert_eq!(d["data"]["decoded"], serde_json::json!([]));
    assert!(!d["diagnostics"].to_string().contains("C0312"));
}

#[test]
fn artifacts_run_and_agree() {
    if !tersor_runtime::cpu::Features::detect().has("avx2") {
        println!("skipped: no AVX2");
        return;
    }
    let dir = with_model();
    compile(&dir, &["-o", "a.tsr"]);
    let d = dir.json(0, &["run", "a.tsr", "--inputs", "test_data_set_0", "-o", "out"]);
    assert_eq!(d["data"]["outputs"][0]["shape"], serde_json::json!([2, 2]));
    assert!(dir.path("out/y.npy").exists());
    dir.json(0, &["verify", "a.tsr"]);
    dir.json(0, &["verify", "m.onnx", "--layers", "--against", "m.onnx"]);
    dir.json(0, &["verify", "a.tsr", "--against", "m.onnx", "--interp"]);
    dir.json(2, &["verify", "a.tsr", "--against", "m.onnx", "--layers"]);
    data_set(&dir, "off", 0.5);
    assert!(dir.error(1, &["verify", "a.tsr", "--inputs", "off"]).contains("element [0, 1]"));
    let d = dir.json(0, &["bench", "a.tsr", "--seconds", "0.1", "--inputs", "test_data_set_0"]);
    assert!(d["data"]["median_ms"].as_f64().unwrap() > 0.0);
    let d = dir.json(0, &["bench", "a.tsr", "--against", "a.tsr", "--seconds", "0.1"]);
    assert!(d["data"]["speedup"]["median"].as_f64().unwrap() > 0.0);
    dir.error(1, &["bench", "a.tsr", "--against", "a.tsr", "--seconds", "0.1", "--gate", "1e9"]);
    assert_eq!(dir.json(0, &["diff", "a.tsr", "a.tsr"])["data"]["equal"], true);
}

#[test]
fn every_stage_is_a_file() {
    let dir = with_model();
    for (form, start, holds) in [
        ("tir", "// pipeline", "matmul"),
        ("mlir", "", "func.func @f32_"),
        ("ll", "", "define void @f32_"),
        ("s", "", ".globl\tf32_"),
    ] {
        let d = compile(&dir, &["-o", &format!("a.{form}")]);
        assert_eq!(d["data"]["output"], format!("a.{form}"));
        let text = String::from_utf8(read(&dir, &format!("a.{form}"))).unwrap();
        assert!(text.starts_with(start) && text.contains(holds), "{form}: {text}");
        compile(&dir, &["-o", "b", "--emit", form, "-j", "2"]);
        assert_eq!(read(&dir, "b"), text.into_bytes());
    }
    compile(&dir, &["-o", "a.o"]);
    assert!(read(&dir, "a.o").starts_with(b"\x7fELF"));
    let e = dir.error(2, &["compile", "m.onnx", "-o", "c.s", "--target", "x86-64-v3,x86-64+amx"]);
    assert!(e.contains("one target") && e.contains("--target"), "{e}");
    let d = compile(&dir, &["-o", "c.s", "--cache", "off"]);
    assert!(d["diagnostics"].to_string().contains("--cache had no effect"));
}

#[test]
fn artifacts_explain_themselves_and_runs_end_in_time() {
    let dir = with_model();
    compile(&dir, &["-p", "normalize,quantize{acts=none, skip-small=false}", "-o", "a.tsr"]);
    let d = dir.json(0, &["explain", "n_m", "a.tsr"]);
    assert_eq!((&d["data"]["site"], &d["data"]["steps"][0]["variant"]), (&"n_m".into(), &"x86-64-v3".into()));
    assert!(d["data"]["decisions"][0]["rel_l2"].is_number(), "{d}");
    if tersor_runtime::cpu::Features::detect().has("avx2") {
        let bench = ["bench", "a.tsr", "--seconds", "60", "--timeout", "20ms"];
        assert!(dir.error(7, &bench).contains("R0402"));
        assert!(dir.error(7, &[&bench[..], &["--against", "a.tsr"]].concat()).contains("R0402"));
        dir.error(7, &["run", "a.tsr", "--inputs", "test_data_set_0", "-o", "out", "--timeout", "0s"]);
        let d = dir.json(0, &["run", "a.tsr", "--inputs", "test_data_set_0", "-o", "out", "--dry-run"]);
        assert!(d["data"]["dry_run"] == true && !dir.path("out").exists());
    }
    dir.error(7, &["compile", "m.onnx", "-o", "b.tsr", "--timeout", "0s"]);
}

#[test]
fn integers_come_from_calibration_data_or_statistics() {
    let dir = with_model();
    let passes = "normalize,quantize{skip-small=false},normalize";
    let data = ["-p", passes, "--calib", "test_data_set_0"];
    let d = compile(&dir, &[&data[..], &["-o", "a.tsr"]].concat());
    assert_eq!(d["data"]["decisions"][0]["op"], "matmul");
    dir.json(0, &[&["calibrate", "m.onnx", "--target", "x86-64-v3"][..], &data[..], &["-o", "m.stats"]].concat());
    compile(&dir, &["-p", passes, "--calib", "m.stats", "-o", "b.tsr"]);
    assert_eq!(read(&dir, "a.tsr"), read(&dir, "b.tsr"));
}

#[test]
fn the_readme_says_what_works() {
    let (dir, root) = (Dir::new(), env!("CARGO_MANIFEST_DIR"));
    for folder in ["examples", "tests"] {
        std::os::unix::fs::symlink(format!("{root}/{folder}"), dir.path(folder)).unwrap();
    }
    let readme = std::fs::read_to_string(format!("{root}/README.md")).unwrap();
    let commands: Vec<&str> = readme.lines().filter_map(|l| l.strip_prefix("    tersor ")).collect();
    assert!(commands.len() > 10, "the tour has commands");
    for line in commands {
        // Quoted words keep their blanks.
        let words = line
            .split('\'')
            .enumerate()
            .flat_map(|(i, part)| if i % 2 == 1 { vec![part] } else { part.split_whitespace().collect() });
        let words: Vec<&str> = words.collect();
        let out = dir.tersor(&words);
        let differs = words[0] == "diff";
        assert_eq!(out.status.code(), Some(i32::from(differs)), "{line}\n{}", String::from_utf8_lossy(&out.stderr));
    }
}
