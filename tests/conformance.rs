//! `tersor conformance`: cases in folders, their verdicts, lists of what is expected, and limits.

mod support;

use support::{Dir, data_set, mlp};
use tersor_frontend::testing::{Model, tensor};
use tersor_ir::Tensor;

/// Arguments for what this build can do here.
fn arguments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let compiles = cfg!(feature = "mlir") && tersor_runtime::cpu::Features::detect().has("avx2");
    let how: &[&str] = if compiles { &[] } else { &["--interp"] };
    [&["conformance", "cases"], how, more].concat()
}

fn with_cases() -> Dir {
    let dir = Dir::new();
    dir.write("cases/net/test_mlp_plain/model.onnx", mlp().bytes());
    data_set(&dir, "cases/net/test_mlp_plain/test_data_set_0", 0.0);
    dir.write("cases/net/test_mlp_off/model.onnx", mlp().bytes());
    data_set(&dir, "cases/net/test_mlp_off/test_data_set_0", 0.0);
    data_set(&dir, "cases/net/test_mlp_off/test_data_set_1", 0.5);
    // An odd constant is no failure beside the operator that is not there.
    let frob = Model::new(17).input("x", "f32[2,3]").output("y", "f32[2,2]");
    let frob = frob.constant("odd", &Tensor::from_f32([1], &[f32::NAN])).node("Frobnicate", &["x", "odd"], &["y"], &[]);
    dir.write("cases/node/test_frob/model.onnx", frob.bytes());
    data_set(&dir, "cases/node/test_frob/test_data_set_0", 0.0);
    dir
}

#[test]
fn cases_have_verdicts() {
    let dir = with_cases();
    let d = dir.json(1, &arguments(&[]));
    let counts =
        ["total", "passed", "drawn", "unsupported", "wrong", "crashed"].map(|k| d["data"][k].as_u64().unwrap());
    assert_eq!(counts, [3, 1, 0, 1, 1, 0], "{d}");
    let cases = d["data"]["cases"].as_array().unwrap();
    let shown: Vec<String> = cases.iter().map(|c| format!("{} {} {}", c["name"], c["operator"], c["status"])).collect();
    assert_eq!(
        shown,
        [
            r#""net/test_mlp_off" "mlp" "wrong""#,
            r#""net/test_mlp_plain" "mlp" "passed""#,
            r#""node/test_frob" "Frobnicate" "unsupported""#,
        ]
    );
    let reason = cases[0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("evaluator: B0201: output y: element [0, 1] is 6.25"), "{reason}");
    assert_eq!((&cases[0]["max_abs"], &cases[1]["max_abs"]), (&0.5.into(), &0.0.into()));
    assert_eq!(d["diagnostics"][0]["code"], "C0701");
    let d = dir.json(0, &arguments(&["--atol", "0.6", "-j", "2"]));
    assert_eq!(d["data"]["passed"], 2);
    dir.write("cases/net/test_mlp_off/data.json", r#"{"atol": 0.6, "rtol": 0}"#);
    assert_eq!(dir.json(0, &arguments(&[]))["data"]["passed"], 2);
    let table = String::from_utf8(dir.tersor(&arguments(&[])).stdout).unwrap();
    assert!(table.lines().any(|l| l.split_whitespace().eq(["mlp", "2", "2", "0", "0", "0", "0"])), "{table}");
}

#[test]
fn lists_say_what_is_expected() {
    let dir = with_cases();
    dir.json(1, &arguments(&["--write", "list.txt"]));
    let list = std::fs::read_to_string(dir.path("list.txt")).unwrap();
    assert_eq!(list, "net/test_mlp_off wrong\nnet/test_mlp_plain passed\nnode/test_frob unsupported\n");
    let d = dir.json(0, &arguments(&["--expect", "list.txt"]));
    assert!(d["diagnostics"].as_array().unwrap().is_empty());
    dir.write("other.txt", "net/test_mlp_off crashed\nnode/test_frob passed\nnode/test_gone passed\n");
    let d = dir.json(1, &arguments(&["--expect", "other.txt"]));
    let said: Vec<String> =
        d["diagnostics"].as_array().unwrap().iter().map(|d| format!("{} {}", d["level"], d["message"])).collect();
    assert_eq!(
        said,
        [
            r#""note" "net/test_mlp_off is wrong, expected crashed""#,
            r#""note" "net/test_mlp_plain is passed, not in the list""#,
            r#""error" "node/test_frob is unsupported, expected passed""#,
            r#""error" "node/test_gone is not there, expected passed""#,
        ]
    );
    dir.json(1, &arguments(&["--write", "dry.txt", "--dry-run"]));
    assert!(!dir.path("dry.txt").exists());
    dir.write("bad.txt", "net/test_mlp_off fine\n");
    assert!(dir.error(2, &arguments(&["--expect", "bad.txt"])).contains("bad.txt, line 1"));
    dir.write("none/note.txt", "");
    assert!(dir.error(2, &["conformance", "none", "--interp"]).contains("none holds no cases"));
    dir.error(8, &["conformance", "missing", "--interp"]);
    dir.error(2, &["conformance", "cases", "--interp", "-p", "no-such"]);
    if cfg!(not(feature = "mlir")) {
        assert!(dir.error(6, &["conformance", "cases"]).contains("--interp"));
    }
}

#[test]
fn limits_are_for_one_case() {
    let dir = with_cases();
    let model = Model::new(17).input("x", "f32[1500,1500]").output("y", "f32[1500,1500]");
    dir.write("cases/test_large/model.onnx", model.node("MatMul", &["x", "x"], &["y"], &[]).bytes());
    let x = Tensor::from_f32([1500, 1500], &vec![0.5; 1500 * 1500]);
    dir.write("cases/test_large/test_data_set_0/input_0.pb", tensor("x", &x));
    dir.write("cases/test_large/test_data_set_0/output_0.pb", tensor("y", &x));
    let d = dir.json(1, &["conformance", "cases", "--interp", "--case-timeout", "700ms", "-j", "1"]);
    let last = &d["data"]["cases"][3];
    assert_eq!((&last["name"], &last["status"]), (&"test_large".into(), &"crashed".into()));
    assert_eq!((&last["reason"], &d["data"]["passed"]), (&"no answer within 0.7 s".into(), &1.into()));
    let d = dir.json(1, &["conformance", "cases", "--interp", "--case-memory", "1k"]);
    assert!(d["data"]["crashed"].as_u64().unwrap() > 0 && d["data"].to_string().contains("R0403"), "{d}");
}
