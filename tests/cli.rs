//! The `tersor` command as scripts see it: exit statuses, documents, messages. Needs no code generator.

mod support;

use support::{Dir, data_set, mlp, wide};

fn with_model() -> Dir {
    let dir = Dir::new();
    dir.write("m.onnx", mlp().bytes());
    data_set(&dir, "test_data_set_0", 0.0);
    dir
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    parts.iter().for_each(|p| assert!(text.contains(p), "`{p}` is not in: {text}"));
}

#[test]
fn looks_at_models() {
    let dir = with_model();
    let d = dir.json(0, &["inspect", "m.onnx"]);
    assert_eq!(d["data"]["inputs"][0]["type"], "f32[N,3]");
    assert_eq!((d["data"]["parameters"].as_u64(), d["data"]["nodes_before"].as_u64()), (Some(8), Some(3)));
    let d = dir.json(0, &["inspect", ".", "--dim", "N=1..8@4"]);
    assert_eq!((d["data"]["symbols"][0]["max"].as_u64(), d["data"]["symbols"][0]["hint"].as_u64()), (Some(8), Some(4)));
    let d = dir.json(0, &["inspect", "m.onnx", "--dim", "N=4"]);
    assert_eq!(d["data"]["inputs"][0]["type"], "f32[4,3]");
    says(dir.json(0, &["cat", "m.onnx"])["data"]["tir"].as_str().unwrap(), &["func @main", "matmul %x, @w"]);
    says(dir.json(0, &["passes", "quantize"])["data"]["passes"][0]["doc"].as_str().unwrap(), &["integer codes"]);
    says(dir.json(0, &["passes", "--preset", "int8"])["data"]["toml"].as_str().unwrap(), &["quantize"]);
    assert!(dir.json(0, &["passes"])["data"]["presets"].as_array().unwrap().len() > 3);
    assert_eq!(dir.json(0, &["targets", "--detect"])["data"]["targets"].as_array().unwrap().len(), 3);
    dir.json(0, &["completions", "bash"]);
    let manual = dir.json(0, &["completions", "man"])["data"]["script"].to_string();
    says(&manual, &[".TH tersor 1", ".TH tersor-compile 1", "calib"]);
}

#[test]
fn checks_say_everything_at_once() {
    let dir = with_model();
    let check = |exit: i32, more: &[&str]| dir.json(exit, &[&["check"], more].concat());
    let topics = |d: &serde_json::Value| {
        let all = d["data"]["findings"].as_array().unwrap().clone();
        let text = |f: &serde_json::Value, key: &str| f[key].as_str().unwrap().to_owned();
        all.iter().map(|f| format!("{} {}", text(f, "topic"), text(f, "code"))).collect::<Vec<_>>()
    };
    // A remark is no finding.
    let d = check(0, &["m.onnx"]);
    assert_eq!((topics(&d), &d["data"]["compile"]), (vec!["shape C0602".into()], &0.into()));
    assert_eq!(topics(&check(0, &["m.onnx", "--dim", "N=1..8"])), [""; 0]);
    assert!(d["data"]["limits"]["nodes"].as_u64() > Some(1000));
    let odd = mlp().input("u", "f32[2]").node("Exp", &["y"], &["z"], &[]);
    dir.write("odd.onnx", odd.bytes());
    let d = check(1, &["odd.onnx"]);
    assert_eq!(topics(&d), ["lint O0104", "lint O0102", "shape C0602"]);
    assert_eq!((&d["data"]["compile"], &d["data"]["topics"]["lint"]["warnings"]), (&0.into(), &2.into()));
    let wrong = odd.node("Foo", &["y"], &["f"], &[]).node("Relu", &["gone"], &["g"], &[]).output("g", "f32[2]");
    let wrong = wrong.constant("e", &tersor_ir::Tensor::from_f32([3], &[0.0; 3])).node("Add", &["y", "e"], &["h"], &[]);
    dir.write("wrong.onnx", wrong.bytes());
    let d = check(1, &["wrong.onnx"]);
    let all = topics(&d);
    for t in ["graph O0021", "support O0032", "shape T0201", "lint O0104"] {
        assert!(all.iter().any(|a| a == t), "{t} is not in {all:?}");
    }
    assert_eq!(d["data"]["compile"], 3);
    // What no target has code for is said with all the rest.
    let case = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ops/if/condition.tir");
    dir.write("if.tir", std::fs::read(case).unwrap());
    assert_eq!(topics(&check(1, &["if.tir"])), ["support B0102"]);
    dir.write("cut.onnx", &mlp().bytes()[..90]);
    assert_eq!(topics(&check(1, &["cut.onnx"])), ["security O0001"]);
    dir.write("no.tsr", [0; 256]);
    assert!(topics(&check(1, &["no.tsr"]))[0].starts_with("security R"));
    says(&dir.error(8, &["check", "gone.onnx"]), &["gone.onnx"]);
    says(&dir.error(2, &["check", "m.onnx", "--dim", "M=1"]), &["M"]);
    says(&dir.error(6, &["check", "m.onnx", "--target", "z80"]), &["z80"]);
    let text = String::from_utf8(dir.tersor(&["check", "wrong.onnx"]).stdout).unwrap();
    says(&text, &["security  none", "support   1 errors", "ends with exit status 3", "limits    file_bytes="]);
}

#[test]
fn every_command_has_a_schema() {
    let dir = Dir::new();
    let help = String::from_utf8(dir.tersor(&["--help"]).stdout).unwrap();
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|l| *l != "Commands:")
        .skip(1)
        .take_while(|l| !l.is_empty())
        // What a line has no room for goes on in the next, further in.
        .filter(|l| !l[2..].starts_with(' '))
        .map(|l| l.split_whitespace().next().unwrap())
        .collect();
    let listed = dir.json(0, &["schema"]);
    let listed: Vec<&str> = listed["data"]["schemas"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    let mut sorted = commands.clone();
    sorted.sort();
    assert_eq!(sorted, listed);
    for c in commands {
        assert_eq!(dir.json(0, &["schema", c])["data"]["schema"]["$id"], format!("tersor.{c}/1"));
        let help = |flag: &str| String::from_utf8(dir.tersor(&[c, flag]).stdout).unwrap();
        let (short, long) = (help("-h"), help("--help"));
        assert!(short.lines().count() <= 50 && short.lines().all(|l| l.chars().count() <= 100), "{c}: {short}");
        says(&long, &["--config", "--progress", "--dry-run"]);
    }
}

#[test]
fn optimizes_writes_and_compares() {
    let dir = with_model();
    dir.json(0, &["opt", "m.onnx", "-p", "normalize", "-o", "a.tir"]);
    dir.json(0, &["opt", "a.tir", "-p", "quantize{acts=none, skip-small=false}", "-o", "b.tir"]);
    assert!(dir.path("b.tirw").exists());
    assert_eq!(dir.json(0, &["diff", "a.tir", "a.tir"])["data"]["equal"], true);
    let d = dir.json(1, &["diff", "a.tir", "b.tir"]);
    assert_eq!((&d["ok"], &d["data"]["equal"]), (&false.into(), &false.into()));
    assert!(d["diagnostics"].as_array().unwrap().is_empty());
    let text =
        String::from_utf8(dir.tersor(&["opt", "m.onnx", "-p", "normalize", "--print-after", "normalize"]).stdout);
    says(&text.unwrap(), &["// after normalize", "module @m"]);
}

/// A command's output, given this on standard input.
fn piped(dir: &Dir, arguments: &[&str], input: &[u8]) -> std::process::Output {
    use std::process::Stdio;
    let mut c = dir.command(arguments);
    let mut c = c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut c.stdin.take().unwrap(), input).unwrap();
    c.wait_with_output().unwrap()
}

#[test]
fn a_dash_is_standard_input_and_output() {
    let dir = with_model();
    let before = std::fs::read_dir(dir.path("")).unwrap().count();
    let text = |o: std::process::Output| String::from_utf8(o.stdout).unwrap();
    let tir = text(piped(&dir, &["opt", "-", "-p", "normalize", "-o", "-"], &mlp().bytes()));
    says(&tir, &["module @", "matmul %x, @w"]);
    let simple = "module @m { func @main(%x: f32[2]) -> (%y: f32[2]) { %y = relu %x : f32[2] return %y } }";
    says(&text(piped(&dir, &["cat", "-"], simple.as_bytes())), &["%y = relu %x"]);
    let out = piped(&dir, &["export", "-", "-o", "-"], simple.as_bytes());
    assert!(out.status.success() && String::from_utf8(out.stderr).unwrap().is_empty());
    says(&text(piped(&dir, &["cat", "-"], &out.stdout)), &["relu %x"]);
    assert_eq!(piped(&dir, &["inspect", "-"], b"").status.code(), Some(3));
    assert_eq!(std::fs::read_dir(dir.path("")).unwrap().count(), before, "nothing is left behind");
    says(&dir.error(2, &["export", "m.onnx", "-o", "-"]), &["-o - and --json"]);
    says(&dir.error(2, &["compile", "m.onnx", "-o", "-"]), &["-o - and --json"]);
    let search = ["search", "m.onnx", "-p", OFFERS, "--budget", "size=0.5x", "--calib", "test_data_set_0", "-o", "-"];
    says(&dir.error(2, &search), &["does not write to standard output"]);
}

#[test]
fn verifies_with_the_interpreter() {
    let dir = with_model();
    let d = dir.json(0, &["verify", "m.onnx", "--interp"]);
    assert_eq!((&d["data"]["pass"], &d["data"]["sets"]), (&true.into(), &1.into()));
    dir.json(0, &["opt", "m.onnx", "-p", "normalize", "-o", "a.tir"]);
    dir.json(0, &["verify", "a.tir", "--against", "m.onnx", "--inputs", "test_data_set_0", "--interp"]);
    data_set(&dir, "off/test_data_set_0", 0.5);
    let e = dir.error(1, &["verify", "m.onnx", "--inputs", "off", "--interp"]);
    says(&e, &["B0201", "output y", "element [0, 1] is 6.25", "expected 6.75", "1 of 4"]);
    dir.json(0, &["verify", "m.onnx", "--inputs", "off", "--interp", "--max", "rel-l2=10%,top1=0"]);
    dir.error(1, &["verify", "m.onnx", "--inputs", "off", "--interp", "--max", "rel-l2=0.01"]);
    says(&dir.error(2, &["verify", "m.onnx", "--interp", "--max", "speed=1"]), &["rel-l2, max-abs, top1"]);
    dir.write("none/test_data_set_0/input_0.pb", std::fs::read(dir.path("test_data_set_0/input_0.pb")).unwrap());
    says(&dir.error(2, &["verify", "m.onnx", "--inputs", "none", "--interp"]), &[]);
    let wide = tersor_ir::Tensor::from_f32([2, 4], &[0.0; 8]);
    dir.write("wide/input_0.pb", tersor_frontend::testing::tensor("x", &wide));
    says(&dir.error(3, &["verify", "m.onnx", "--inputs", "wide", "--interp"]), &["input x is f32[2,4]"]);
    let ints = tersor_ir::Tensor::from_i64(tersor_ir::DType::I64, [2, 3], &[0; 6]);
    dir.write("ints/input_0.pb", tersor_frontend::testing::tensor("x", &ints));
    says(&dir.error(3, &["verify", "m.onnx", "--inputs", "ints", "--interp"]), &["input x is i64[2,3]"]);
    dir.write("empty/note.txt", "");
    dir.error(2, &["verify", "m.onnx", "--inputs", "empty", "--interp"]);
}

#[test]
fn exports_to_onnx() {
    let dir = with_model();
    dir.json(0, &["opt", "m.onnx", "-p", "normalize,quantize{acts=none, skip-small=false}", "-o", "a.tir"]);
    let d = dir.json(0, &["export", "a.tir", "-o", "b.onnx"]);
    assert_eq!(d["data"]["files"], serde_json::json!(["b.onnx"]));
    dir.json(0, &["verify", "b.onnx", "--against", "a.tir", "--inputs", "test_data_set_0", "--interp"]);
    says(dir.json(0, &["cat", "b.onnx"])["data"]["tir"].as_str().unwrap(), &["decode.affine"]);
    dir.json(0, &["export", "a.tir", "-o", "c.onnx", "--form", "plain", "--external-data", "1"]);
    assert!(dir.path("c.onnx.data").exists());
    dir.json(0, &["verify", "c.onnx", "--against", "b.onnx", "--inputs", "test_data_set_0", "--interp"]);
    dir.json(0, &["export", "a.tir", "-o", "d.onnx", "--dry-run"]);
    assert!(!dir.path("d.onnx").exists());
    says(&dir.error(2, &["export", "a.tir", "-o", "m.tsr"]), &[".onnx"]);
    let passes = "normalize,quantize{acts=none, skip-small=false}";
    let d = dir.json(0, &["opt", "m.onnx", "-p", passes, "-o", "e.onnx"]);
    assert_eq!(d["data"]["output"], "e.onnx");
    dir.json(0, &["verify", "e.onnx", "--against", "a.tir", "--inputs", "test_data_set_0", "--interp"]);
    dir.json(0, &["compile", "m.onnx", "-p", passes, "-o", "f.onnx"]);
    assert_eq!(std::fs::read(dir.path("e.onnx")).unwrap(), std::fs::read(dir.path("f.onnx")).unwrap());
    says(&dir.error(8, &["export", "m.onnx", "-o", "m.onnx"]), &["would be overwritten"]);
}

#[cfg(feature = "mlir")]
#[test]
fn exports_artifacts() {
    let dir = with_model();
    dir.write("m.onnx", wide(&dir).bytes());
    let passes = "normalize,quantize{acts=none, skip-small=false}";
    dir.json(0, &["compile", "m.onnx", "-p", passes, "--target", "native", "-o", "a.tsr"]);
    dir.json(0, &["opt", "m.onnx", "-p", passes, "-o", "a.tir"]);
    dir.json(0, &["diff", "a.tsr", "a.tir"]);
    says(&dir.error(2, &["export", "a.tsr", "-o", "a.onnx"]), &["--from"]);
    dir.json(0, &["export", "a.tsr", "--from", "m.onnx", "-o", "a.onnx"]);
    dir.json(0, &["opt", "m.onnx", "-p", passes, "-o", "b.onnx"]);
    assert_eq!(std::fs::read(dir.path("a.onnx")).unwrap(), std::fs::read(dir.path("b.onnx")).unwrap());
    says(&dir.error(2, &["export", "a.tsr", "--from", "b.onnx", "-o", "c.onnx"]), &["another model"]);
    says(&dir.error(8, &["export", "a.tsr", "--from", "m.onnx", "-o", "m.onnx"]), &["would be overwritten"]);
    let d = dir.json(0, &["export", "a.tir", "--from", "m.onnx", "-o", "c.onnx"]);
    says(&d["diagnostics"].to_string(), &["--from had no effect"]);
}

#[test]
fn inputs_that_decide_shapes_are_given() {
    use tersor_frontend::testing::Model;
    let dir = with_model();
    let sum = Model::new(13).input("x", "f32[2,3]").input("axes", "i64[A]");
    let sum = sum.node("ReduceSum", &["x", "axes"], &["y"], &[]).untyped_output("y");
    dir.write("sum.onnx", sum.bytes());
    says(&dir.error(4, &["inspect", "sum.onnx"]), &["input 1 must be constant"]);
    let tir = dir.json(0, &["cat", "sum.onnx", "--value", "axes=0,1"])["data"]["tir"].to_string();
    says(&tir, &["@main(%x: f32[2,3])", "f32[1,1]"]);
    says(&dir.error(2, &["cat", "sum.onnx", "--value", "axes=one"]), &["--value axes=one", "write --value axes=0,1"]);
    let list = Model::new(17).formed("s", (false, true), "f32[2]");
    let list = list.node("ConcatFromSequence", &["s"], &["y"], &[("axis", 0.into())]).untyped_output("y");
    dir.write("list.onnx", list.bytes());
    says(&dir.error(4, &["inspect", "list.onnx"]), &["how many elements"]);
    let tir = dir.json(0, &["cat", "list.onnx", "--length", "s=3"])["data"]["tir"].to_string();
    says(&tir, &["%s.2: f32[2]", "f32[6]"]);
    says(&dir.error(2, &["cat", "list.onnx", "--length", "s=few"]), &["--length s=few"]);
    dir.json(0, &["opt", "m.onnx", "-p", "normalize", "-o", "a.tir"]);
    says(&dir.error(2, &["cat", "a.tir", "--value", "x=1"]), &["ONNX models only"]);
}

#[test]
fn bad_models_end_with_one_clear_error() {
    let dir = with_model();
    let bytes = mlp().bytes();
    for (name, cut) in [("third", bytes.len() / 3), ("most", bytes.len() - 3), ("none", 0)] {
        dir.write(&format!("{name}.onnx"), &bytes[..cut]);
        dir.error(3, &["inspect", &format!("{name}.onnx")]);
        dir.error(if cfg!(feature = "mlir") { 3 } else { 6 }, &["compile", &format!("{name}.onnx"), "-o", "m.tsr"]);
    }
    dir.write("unknown.onnx", mlp().node("Frobnicate", &["y"], &["z"], &[]).node("Twist", &["z"], &["q"], &[]).bytes());
    let d = dir.json(4, &["inspect", "unknown.onnx"]);
    let all = d["diagnostics"].as_array().unwrap().iter().map(|d| d.to_string()).collect::<String>();
    says(&all, &["Frobnicate", "Twist", "n_z"]);
    let bad = mlp().node("MatMul", &["y", "w"], &["z"], &[]);
    dir.write("shapes.onnx", bad.bytes());
    says(&dir.error(3, &["inspect", "shapes.onnx"]), &["n_z", "MatMul"]);
    let external = {
        use tersor_frontend::testing::{field, number};
        let (mut t, mut entry) = (vec![], vec![]);
        number(&mut t, 1, 2);
        number(&mut t, 2, 1);
        field(&mut t, 8, b"far");
        field(&mut entry, 1, b"location");
        field(&mut entry, 2, b"weights.bin");
        field(&mut t, 13, &entry);
        number(&mut t, 14, 1);
        mlp().raw_initializer(&t).node("Add", &["y", "far"], &["z"], &[])
    };
    dir.write("external.onnx", external.bytes());
    let out = dir.json(3, &["inspect", "external.onnx"]);
    says(&out["diagnostics"].to_string(), &["weights.bin"]);
}

#[test]
fn bad_requests_are_refused_with_help() {
    let dir = with_model();
    says(&dir.error(8, &["inspect", "missing.onnx"]), &["missing.onnx"]);
    says(&dir.error(2, &["opt", "m.onnx", "-p", "normalise"]), &["S0001", "did you mean `normalize`?"]);
    says(&dir.error(2, &["opt", "m.onnx", "-p", "quantize{bit=4}"]), &["did you mean `bits`?"]);
    says(&dir.error(2, &["opt", "m.onnx", "-p", "quantize{select=name:nothing}"]), &["S0101", "matches none"]);
    says(&dir.error(2, &["opt", "m.onnx", "-p", "quantize{skip-small=false}"]), &["S0104", "--calib"]);
    says(&dir.error(2, &["inspect", "m.onnx", "--dim", "M=1..3"]), &["M"]);
    says(&dir.error(2, &["inspect", "m.onnx", "--dim", "N=3..1"]), &["C0002", "N=3..1"]);
    says(&dir.error(2, &["inspect", "m.onnx", "--dim", "N"]), &["NAME=VALUE"]);
    says(&dir.error(2, &["inspect", "m.onnx", "--shape", "x=2xq"]), &["1x3x224x224"]);
    says(&dir.error(2, &["inspect", "m.onnx", "--frob"]), &["--frob"]);
    says(&dir.error(2, &["passes", "quantise"]), &["did you mean `quantize`?"]);
    says(&dir.error(2, &["opt", "m.onnx", "-o", "m.txt"]), &[".tir"]);
    says(&dir.error(6, &["opt", "m.onnx", "--target", "z80"]), &["z80", "x86-64-v3"]);
    dir.write("folder.tir/x", "");
    says(&dir.error(8, &["opt", "m.onnx", "-o", "folder.tir"]), &["folder"]);
    says(&dir.error(8, &["opt", "m.onnx", "-o", "no/where.tir"]), &["no"]);
    dir.json(0, &["opt", "m.onnx", "-p", "normalize", "-o", "a.tir"]);
    says(&dir.error(8, &["opt", "a.tir", "-o", "a.tir"]), &["would be overwritten"]);
    says(&dir.error(8, &["compile", "m.onnx", "-o", "folder.tir", "--emit", "tsr"]), &["folder"]);
    says(&dir.error(2, &["compile", "m.onnx", "-o", "m.exe"]), &["`exe`", "tsr, tir, onnx, mlir"]);
    says(&dir.error(7, &["opt", "m.onnx", "-p", "normalize", "--timeout", "0s"]), &["R0402", "--timeout"]);
    says(&dir.error(7, &["opt", "m.onnx", "-p", "normalize", "--max-memory", "1k"]), &["R0403", "--max-memory"]);
    dir.write("m.bin", [7; 64]);
    says(&dir.error(3, &["run", "m.bin", "--inputs", "test_data_set_0"]), &["R0101", "tersor compile"]);
    says(&dir.error(2, &["inspect"]), &["C0001", "<MODEL>"]);
    says(&dir.error(2, &["inspect", "m.onnx", "--tmeout=3s"]), &["C0001", "--tmeout", "'--timeout'"]);
    dir.write("p.toml", "tersor = 1\n[budget]\nlatency = '0.5x'\n[[pass]]\nname = 'normalize'\n");
    says(&dir.error(2, &["opt", "m.onnx", "-p", "p.toml"]), &["latency", "0.5x"]);
    if cfg!(not(feature = "mlir")) {
        says(&dir.error(6, &["compile", "m.onnx", "-o", "m.tsr"]), &["C0501", "mlir"]);
    }
}

#[test]
fn sites_are_explained() {
    let dir = with_model();
    let on = ["m.onnx", "-p", "normalize,quantize{acts=none, skip-small=false}"];
    let d = dir.json(0, &[&["explain", "n_m"], &on[..]].concat());
    assert_eq!((&d["data"]["site"], &d["data"]["node"]), (&"n_m".into(), &"n_m".into()));
    assert!(d["data"]["decisions"][0]["rel_l2"].is_number() && !d["data"]["ops"].as_array().unwrap().is_empty());
    let all = "normalize,quantize{acts=none, bits=4|8, skip-small=false}";
    let d = dir.json(0, &["explain", "n_m", "m.onnx", "-p", all]);
    let names = |d: &serde_json::Value| {
        let all = d["data"]["decisions"][0]["considered"].as_array().unwrap().clone();
        all.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&d), ["exact", "w4", "w8"]);
    let errors = (1..3).map(|i| d["data"]["decisions"][0]["considered"][i]["rel_l2"].as_f64().unwrap());
    assert!(errors.collect::<Vec<_>>().is_sorted_by(|a, b| a > b), "{d}");
    let text =
        String::from_utf8(dir.tersor(&["explain", "n_m", "m.onnx", "-p", "normalize,quantize{acts=none}"]).stdout);
    says(&text.unwrap(), &["site     %n_m", "from     n_m", "kept   the exact matmul", "matmul %x, @w"]);
    says(&dir.error(2, &[&["explain", "n_n"], &on[..]].concat()), &["no site `n_n`", "did you mean `n_m`?"]);
    says(&dir.json(0, &["explain", "quantize"])["data"].to_string(), &["integer codes"]);
    says(&dir.json(0, &["explain", "matmul"])["data"].to_string(), &["trans_b"]);
    says(&dir.error(2, &["explain", "nothing"]), &["no pass, no op and no diagnostic code", "model.tsr"]);
    says(&dir.error(2, &["explain", "quantise"]), &["did you mean `quantize`?"]);
    says(&dir.json(0, &["explain", "s0104"])["data"]["doc"].to_string(), &["S0104", "calibration data", "--calib"]);
}

#[test]
fn options_come_from_a_file_too() {
    let dir = with_model();
    dir.write(
        "tersor.toml",
        "verbose = 1\ncalib = 'test_data_set_0'\npipeline = 'no-such'\n\
         [opt]\npipeline = 'normalize'\noutput = 'a.tir'\n[compile]\ndim = ['N=1..8@4']\n",
    );
    let d = dir.json(0, &["opt", "m.onnx", "--config", "tersor.toml"]);
    assert_eq!((&d["data"]["output"], &d["data"]["steps"][0]["pass"]), (&"a.tir".into(), &"normalize".into()));
    let d = dir.json(0, &["opt", "m.onnx", "--config=tersor.toml", "-p", "normalize,saturate", "-o", "b.tir"]);
    assert_eq!((&d["data"]["output"], d["data"]["steps"].as_array().unwrap().len()), (&"b.tir".into(), 2));
    let d = dir.json(0, &["inspect", "m.onnx", "--config", "tersor.toml"]);
    says(&d["diagnostics"].to_string(), &["C0004", "pipeline has no effect on `inspect`", "calib has no effect"]);
    for (text, parts) in [
        ("timout = '1s'", &["--timout", "line 1:1", "did you mean `timeout`?"][..]),
        ("[opt]\nshape = 3\nrounds = 2", &["--rounds", "line 3:1"]),
        ("[opt]\nquiet = 'yes'", &["quiet is 'yes'", "line 2:9", "not true or false"]),
        ("config = 'bad.toml'", &["includes no other"]),
        ("timeout = 'soon'", &["soon", "--timeout"]),
        ("x = [", &["line 1"]),
    ] {
        dir.write("bad.toml", text);
        says(&dir.error(2, &["opt", "m.onnx", "--config", "bad.toml"]), parts);
    }
    dir.error(8, &["opt", "m.onnx", "--config", "missing.toml"]);
}

#[test]
fn dry_runs_write_nothing() {
    let dir = with_model();
    let quantize = ["-p", "normalize,quantize{skip-small=false}", "--calib", "test_data_set_0", "--dry-run"];
    for (command, output) in [("opt", "a.tir"), ("compile", "a.tsr"), ("calibrate", "a.stats")] {
        let d = dir.json(0, &[&[command, "m.onnx", "-o", output][..], &quantize].concat());
        assert_eq!((&d["data"]["output"], &d["data"]["samples"]), (&output.into(), &2.into()));
        assert!(!dir.path(output).exists());
        dir.error(8, &[&[command, "m.onnx", "-o", &format!("no/{output}")][..], &quantize].concat());
        dir.error(2, &[&[command, "m.onnx", "-o", output, "--dim", "M=2"][..], &quantize].concat());
    }
    says(&dir.json(0, &["cat", "m.onnx", "--dry-run"])["diagnostics"].to_string(), &["C0003", "writes nothing"]);
}

#[test]
fn failing_models_are_reduced() {
    let dir = with_model();
    let lossy = "normalize,saturate,quantize{acts=none, bits=2, skip-small=false},normalize";
    let small = dir.json(0, &["reduce", "m.onnx", "-p", lossy, "-o", "small.tir"]);
    let data = &small["data"];
    assert_eq!(data["failure"], "passes change the results");
    assert_eq!(data["pass"], "quantize{acts=none, bits=2, skip-small=false}");
    assert_eq!((&data["passes"].as_array().unwrap().len(), &data["nodes"]["after"]), (&1, &1.into()));
    let again = dir.json(0, &["reduce", "small.tir", "--once", "-p", lossy]);
    assert_eq!(again["data"]["failure"], data["failure"]);
    assert_eq!(dir.json(0, &["reduce", "m.onnx", "--once"])["data"]["failure"], serde_json::Value::Null);
    says(&dir.error(2, &["reduce", "m.onnx"]), &["C0706", "does not fail"]);
    // Whatever else failing is, a command can say.
    let relu = dir.json(0, &["reduce", "m.onnx", "--check", "grep -q relu", "-o", "relu.tir"]);
    assert_eq!(relu["data"]["nodes"]["after"], 1);
    assert!(std::fs::read_to_string(dir.path("relu.tir")).unwrap().contains("= relu"));
}

#[test]
fn more_is_said_when_asked() {
    let dir = with_model();
    let said = |flag: &[&str]| {
        let words = ["opt", "m.onnx", "-p", "normalize,saturate,precision", "-o", "a.tir"];
        String::from_utf8(dir.tersor(&[&words[..], flag].concat()).stderr).unwrap()
    };
    let lines = |t: &str| t.lines().count();
    let (plain, more, most) = (said(&[]), said(&["-v"]), said(&["-vv"]));
    assert!(said(&["-q"]).is_empty() && lines(&plain) < lines(&more) && lines(&more) < lines(&most), "{most}");
    says(&more, &["%n_m matmul bf16"]);
    says(&most, &["e-graph of", "cost"]);
}

/// A product that the interpreter takes long for.
fn with_large_model() -> Dir {
    let dir = Dir::new();
    let model = tersor_frontend::testing::Model::new(17).input("x", "f32[2000,2000]").output("y", "f32[2000,2000]");
    dir.write("large.onnx", model.node("MatMul", &["x", "x"], &["y"], &[]).bytes());
    let x = tersor_ir::Tensor::from_f32([2000, 2000], &vec![0.5; 4_000_000]);
    dir.write("data/input_0.pb", tersor_frontend::testing::tensor("x", &x));
    dir.write("data/output_0.pb", tersor_frontend::testing::tensor("y", &x));
    dir
}

#[test]
fn limits_hold_inside_long_steps() {
    let dir = with_large_model();
    let verify = ["verify", "large.onnx", "--inputs", "data", "--interp"];
    let started = std::time::Instant::now();
    says(&dir.error(7, &[&verify[..], &["--timeout", "300ms"]].concat()), &["R0402", "0.3 s"]);
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    for read in
        [&["cat", "large.onnx"][..], &["diff", "large.onnx", "large.onnx"], &["export", "large.onnx", "-o", "o.onnx"]]
    {
        says(&dir.error(7, &[read, &["--timeout", "0ms"]].concat()), &["R0402"]);
    }
}

#[test]
#[cfg(unix)]
fn signals_end_commands() {
    let dir = with_large_model();
    let mut child = dir.command(&["verify", "large.onnx", "--inputs", "data", "--interp", "--json"]);
    let child = child.stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(sent.success() && out.status.code() == Some(130), "{:?}", out.status);
    let document: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&document["exit"], &document["diagnostics"][0]["code"]), (&130.into(), &"R0401".into()));
}

#[test]
fn people_get_text_and_names_cannot_command_terminals() {
    let dir = with_model();
    let out = dir.tersor(&["inspect", "missing\x1b[31m.onnx"]);
    assert!(out.stdout.is_empty());
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(err.starts_with("error[C0301]") && !err.contains('\x1b'), "{err}");
    let out = dir.tersor(&["inspect", "m.onnx", "-q", "-D", "warnings"]);
    assert!(out.status.success() && out.stderr.is_empty());
    says(&String::from_utf8(out.stdout).unwrap(), &["inputs   x  f32[N,3]", "opset 17", "--dim N="]);
}

#[test]
fn lines_end_with_the_document() {
    let dir = with_model();
    let out = dir.tersor(&["opt", "m.onnx", "-p", "normalize", "-o", "a.tir", "--json=lines"]);
    let text = String::from_utf8(out.stdout).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines.len() > 1 && lines[0]["event"] == "step");
    assert_eq!(lines.last().unwrap()["schema"], "tersor.opt/1");
}

#[test]
fn cases_are_run_against_their_snapshots() {
    let dir = Dir::new();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/passes/normalize");
    let d = dir.json(0, &["test", root.to_str().unwrap()]);
    assert!(d["data"]["passed"].as_u64().unwrap() > 3);
    let name = root.join("constants_fold");
    let read = |e: &str| std::fs::read_to_string(name.with_extension(e)).unwrap();
    dir.write("case.tir", read("tir")).write("case.snap", read("snap").replace("folded 2", "folded 3"));
    says(&dir.error(1, &["test", "case.tir"]), &["folded 2", "folded 3"]);
}

const OFFERS: &str = "normalize,quantize{acts=none, bits=4},quantize{acts=none}";

fn with_wide_model() -> Dir {
    let dir = Dir::new();
    dir.write("m.onnx", wide(&dir).bytes());
    dir
}

#[test]
fn searches_under_a_budget() {
    let dir = with_wide_model();
    let search = |exit: i32, more: &[&str]| {
        dir.json(exit, &[&["search", "m.onnx", "-p", OFFERS, "--calib", "calib"], more].concat())
    };
    let evo = "evo{generations=3, offspring=2, survivors=[1], samples=[4]}";
    for strategy in ["uniform", "greedy", "dp", "ilp", evo] {
        let more = ["--budget", "size=0.5x", "--strategy", strategy, "-o", "p.toml", "--report", "r.html"];
        let d = search(0, &more);
        let (exact, plan) = (&d["data"]["exact"], &d["data"]["measured"]);
        assert!(plan["size"].as_f64().unwrap() <= 0.5 * exact["size"].as_f64().unwrap(), "{strategy}");
        assert!(plan["error"].as_f64().unwrap() > 0.0 && d["data"]["fits"] == true);
        let (text, page) = (dir.path("p.toml"), std::fs::read_to_string(dir.path("r.html")).unwrap());
        let text = std::fs::read_to_string(text).unwrap();
        says(&text, &["[sites]", "[model]", "size=0.5x"]);
        says(&page, &["Before and after", "Sensitivity", "</html>"]);
        search(0, &more);
        assert_eq!(std::fs::read_to_string(dir.path("p.toml")).unwrap(), text, "{strategy} is a function of its seed");
    }
    let d = search(5, &["--budget", "size=0.001x", "-o", "q.toml"]);
    says(d["diagnostics"].to_string().as_str(), &["S0421", "the least", "nearest.toml"]);
    assert!(!dir.path("q.toml").exists() && dir.path("q.nearest.toml").exists());
    let d = search(0, &["--budget", "rel-l2<=0.05", "-o", "e.toml", "--pareto", "front.json"]);
    let plan = &d["data"]["measured"];
    assert!(plan["error"].as_f64().unwrap() <= 0.05 && plan["size"].as_f64() < d["data"]["exact"]["size"].as_f64());
    assert!(dir.path("front.json").exists());
    says(&dir.error(2, &["search", "m.onnx", "-p", OFFERS, "--calib", "calib"]), &["budget"]);
    says(&dir.error(2, &["search", "m.onnx", "--calib", "calib", "--budget", "size=0.5x"]), &["no alternatives"]);
    says(&dir.error(2, &["search", "m.onnx", "-p", OFFERS, "--budget", "size=0.5x"]), &["--calib"]);
}

#[test]
fn what_runs_through_several_layers_is_weighed_whole() {
    let dir = with_wide_model();
    let prune = "normalize,prune{remove=0.5, score=magnitude, recover=none}";
    let first = ["search", "m.onnx", "-p", prune, "--calib", "calib", "--budget", "size=0.6x", "-o", "p.toml"];
    let d = dir.json(0, &first);
    let (exact, plan) = (&d["data"]["exact"], &d["data"]["measured"]);
    for quantity in ["size", "encoded", "work"] {
        assert_eq!(plan[quantity].as_f64(), exact[quantity].as_f64().map(|v| 0.5 * v), "{quantity}");
    }
}

#[test]
fn an_interrupted_search_goes_on() {
    let dir = with_wide_model();
    let run = |generations: usize, name: &str, more: &[&str]| {
        let strategy = format!("evo{{generations={generations}, offspring=2, survivors=[1], samples=[4]}}");
        let first = ["search", "m.onnx", "-p", OFFERS, "--calib", "calib", "--budget", "size=0.4x"];
        let d = dir.json(0, &[&first, &["--strategy", &strategy, "-o", name][..], more].concat());
        d["data"]["history"].clone()
    };
    let whole = run(4, "a.toml", &[]);
    run(2, "b.toml", &["--resume", "s.json"]);
    assert_eq!(run(4, "b.toml", &["--resume", "s.json"]), whole);
    // The table serves other limits and strategies; for other passes it is another search.
    let first = ["search", "m.onnx", "--calib", "calib", "--resume", "s.json", "-o", "c.toml"];
    let d = dir.json(0, &[&first[..], &["-p", OFFERS, "--budget", "encoded=@w4"]].concat());
    assert_eq!(d["data"]["measured"]["encoded"], d["data"]["limits"]["encoded"]);
    let other = ["-p", "normalize,quantize{acts=none}", "--budget", "size=0.3x"];
    says(&dir.error(2, &[&first[..], &other].concat()), &["another model"]);
}

#[test]
fn a_search_measures_what_it_is_told() {
    let dir = with_wide_model();
    let search = |exit: i32, more: &[&str]| {
        let first = ["search", "m.onnx", "--calib", "calib", "-o", "p.toml", "--budget", "encoded=0.3x"];
        dir.json(exit, &[&first[..], more].concat())
    };
    let d = search(0, &["-p", OFFERS, "--metric", "cmd:echo 0.125 #", "--probe", "4"]);
    assert_eq!(d["data"]["measured"]["error"], 0.125);
    let gptq = "normalize,gptq{bits=2|4, group=16}";
    let d = search(0, &["-p", gptq, "--sensitivity", "layers", "--metric", "cosine"]);
    let errors: Vec<f64> =
        (0..3).map(|i| d["data"]["table"][0]["alternatives"][i]["error"].as_f64().unwrap()).collect();
    assert!(errors[0] == 0.0 && errors[2] < 0.1 * errors[1] && errors[1] < 1.0, "{errors:?}");
    says(&dir.error(2, &["search", "m.onnx", "-p", OFFERS, "--calib", "calib", "--budget", "size=@w5"]), &["w4"]);
    let d = dir.json(0, &["search", "m.onnx", "-p", OFFERS, "--calib", "calib", "--budget", "size=0.5x", "--dry-run"]);
    assert_eq!(d["data"]["dry_run"], true);
}

#[test]
fn a_budget_in_a_file_is_read_as_one_on_the_command_line() {
    let dir = with_wide_model();
    let file = |budget: &str| {
        let passes = "[[pass]]\nname = 'normalize'\n[[pass]]\nname = 'quantize'\nacts = 'none'\nbits = '4|8'\n";
        dir.write("b.toml", format!("tersor = 1\n[budget]\n{budget}\n{passes}"));
    };
    let search = ["search", "m.onnx", "-p", "b.toml", "--calib", "calib", "-o", "p.toml"];
    file("encoded = '@w4'\nwork = '1x'\ncosine = 0.5");
    let d = dir.json(0, &search);
    let (measured, limits) = (&d["data"]["measured"], &d["data"]["limits"]);
    assert_eq!((&measured["encoded"], &d["data"]["metric"]), (&limits["encoded"], &"cosine".into()));
    assert_eq!((&measured["work"], &limits["error"]), (&limits["work"], &0.5.into()));
    file("weight = '1x'");
    says(&dir.error(2, &search), &["`weight` is nothing that a budget can limit", "encoded"]);
}

#[test]
fn requests_that_cannot_help_say_so_with_numbers() {
    let dir = with_wide_model();
    let said = |pass: &str, more: &[&str]| {
        let d = dir.json(0, &[&["opt", "m.onnx", "-o", "o.tir", "-p", pass], more].concat());
        d["diagnostics"].to_string()
    };
    let thin = said("lowrank{rank=48, whiten=false}", &[]);
    says(&thin, &["S0105", "rank 48 has 6144 parameters, the weight 4096: ranks below 32 pay"]);
    let half = "sparsify{method=magnitude, pattern=50%}";
    says(
        &said(half, &["--dim", "N=512"]),
        &["S0135", "2 of 2 sites are smaller and slower on x86-64", " us instead of "],
    );
    assert_eq!(said(half, &["--dim", "N=1"]), "[]", "what is bound by memory gains");
}
