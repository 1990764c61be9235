//! `tersor-run` as a program: files in, files out, exit codes, documents.
#![cfg(target_arch = "x86_64")]

#[allow(dead_code)]
mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::{BIAS, artifact, expected, values, without_bias};
use serde_json::Value;
use tersor_runtime::data::{self, Role};
use tersor_runtime::{DType, Tensor};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("m.tsr"), artifact()).unwrap();
        let place = Place(dir);
        place.inputs("in.npz", 6, 5);
        place
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn inputs(&self, name: &str, n: usize, t: usize) {
        let (a, b) = (values(n, t, 1), values(n, t, 2));
        let (a, b) = (Tensor::from_f32(&[n, t], &a).unwrap(), Tensor::from_f32(&[n, t], &b).unwrap());
        data::write(&self.path(name), &[("a", a.view()), ("b", b.view())]).unwrap();
    }

    fn command(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tersor-run"));
        command.current_dir(self.0.path()).args(line.split_whitespace()).output().unwrap()
    }

    /// The exit status and what the program says about it on one line.
    fn fails(&self, line: &str) -> (i32, String) {
        let before = self.listing();
        let out = self.command(line);
        assert_eq!(self.listing(), before, "{line}");
        assert_eq!(out.stdout, b"", "{line}");
        let json = self.command(&format!("{line} --json"));
        let document: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!((json.stderr.as_slice(), json.status.code()), (&b""[..], out.status.code()));
        assert_eq!(document["exit"], out.status.code().unwrap());
        assert_eq!((&document["ok"], document["diagnostics"].as_array().unwrap().len()), (&Value::Bool(false), 1));
        let text = String::from_utf8(out.stderr).unwrap();
        (out.status.code().unwrap(), text.lines().next().unwrap().to_owned())
    }

    fn listing(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn outputs(path: &Path) -> Vec<(String, Tensor)> {
    data::read(path, Role::Output, &["y", "bias"]).unwrap().tensors
}

#[test]
fn run_writes_outputs_by_name() {
    let place = Place::new();
    let want: Vec<u8> = expected(&values(6, 5, 1), &values(6, 5, 2), 5).iter().flat_map(|v| v.to_ne_bytes()).collect();
    for to in ["out.npz", "folder"] {
        let out = place.command(&format!("run m.tsr --inputs in.npz --threads 1 -o {to}"));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let found = outputs(&place.path(to));
        let y = &found.iter().find(|(n, _)| n == "y").unwrap().1;
        assert_eq!((y.shape(), y.bytes()), (&[6usize, 5][..], &want[..]));
        let bias = &found.iter().find(|(n, _)| n == "bias").unwrap().1;
        assert_eq!(bias.to_f64().unwrap(), BIAS.map(f64::from));
    }
    let out = place.command("run m.tsr --inputs folder_of_inputs --json");
    assert_eq!(out.status.code(), Some(8));
}

#[test]
fn run_prints_what_is_largest() {
    let place = Place::new();
    let one = Tensor::from_f32(&[1, 3], &[1.0, 3.0, 2.0]).unwrap();
    data::write(&place.path("x.npy"), &[("x", one.view())]).unwrap();
    let out = place.command("run m.tsr --input a=@x.npy --input b=@x.npy --print top2 -j 2");
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(text, "y[0]  1 18.0000  2 12.0000\nbias[0]  0 0.5000  1 -8.0000\n");
    let out = place.command("run m.tsr --input a=random:normal:7 --input b=random:uniform --json");
    let document: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(document["data"]["outputs"][0]["shape"], serde_json::json!([4, 4]));
}

#[test]
fn bench_gives_the_document_that_scripts_read() {
    let place = Place::new();
    let out = place.command("bench m.tsr --inputs in.npz --threads 1 --seconds 0.02 --json --steps");
    let d: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&d["schema"], &d["ok"], &d["exit"]), (&"tersor.bench/1".into(), &true.into(), &0.into()));
    let data = &d["data"];
    let number = |k: &str| data[k].as_f64().unwrap_or_else(|| panic!("{k}"));
    assert!(number("median_ms") > 0.0 && number("min_ms") <= number("median_ms") && number("runs") >= 3.0);
    assert!(number("p99_ms") >= number("median_ms") && number("mean_ms") > 0.0 && number("peak_bytes") > 0.0);
    assert_eq!((&data["variant"], &data["threads"]), (&"x86-64".into(), &1.into()));
    assert_eq!(data["steps"].as_array().unwrap().len(), 4);
    let out = place.command("bench m.tsr --seconds 0.02");
    assert!(String::from_utf8(out.stderr).unwrap().contains("warning[R0313]"));
}

#[test]
fn info_reads_artifacts_for_other_machines() {
    let place = Place::new();
    let out = String::from_utf8(place.command("info m.tsr --verify").stdout).unwrap();
    assert!(out.contains("input     a f32[N,T]\n"), "{out}");
    assert!(out.contains("extent    N 1..64, typically 4\n"), "{out}");
    assert!(out.contains("needs not-yet-invented"), "{out}");
    assert!(out.contains("section   module.tir 15 B\n"), "{out}");
}

#[test]
fn batches_are_split_and_joined() {
    let place = Place::new();
    // `bias` has no batch axis, so only a whole run can give it.
    let (status, message) = place.fails("run m.tsr --inputs in.npz --batch 4 -o out.npz");
    assert_eq!(status, 2);
    assert_eq!(message, "error[R0001]: --batch cannot join bias f32[2]: it does not start with the axis split");
    let out = place.command("run m.tsr --inputs in.npz --batch 8 -o out.npz");
    assert!(out.status.success());
    assert!(String::from_utf8(out.stderr).unwrap().contains("--batch 8 had no effect"));
    fs::write(place.path("n.tsr"), without_bias()).unwrap();
    let want: Vec<u8> = expected(&values(6, 5, 1), &values(6, 5, 2), 5).iter().flat_map(|v| v.to_ne_bytes()).collect();
    for n in 1..7 {
        let out = place.command(&format!("run n.tsr --inputs in.npz --batch {n} -o {n}.npz"));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let y = &outputs(&place.path(&format!("{n}.npz")))[0].1;
        assert_eq!((y.shape(), y.bytes()), (&[6usize, 5][..], &want[..]));
    }
}

#[test]
fn every_failure_has_one_line_and_its_exit_code() {
    let place = Place::new();
    place.inputs("tall.npz", 65, 5);
    let x = Tensor::from_f32(&[2, 2], &[0.0; 4]).unwrap();
    data::write(&place.path("x.npy"), &[("x", x.view())]).unwrap();
    let wide = Tensor::zeros(DType::F64, &[2, 2]).unwrap();
    data::write(&place.path("f64.npy"), &[("x", wide.view())]).unwrap();
    place.inputs("own", 2, 2);
    fs::copy(place.path("own/a.npy"), place.path("own/y.npy")).unwrap();
    fs::write(place.path("cut.tsr"), &artifact()[..500]).unwrap();
    fs::write(place.path("text.tsr"), "hello").unwrap();
    fs::write(place.path("bad.npz"), "hello").unwrap();
    fs::write(place.path("bad.npy"), b"\x93NUMPY\x01\x00\xff").unwrap();
    for (line, status, message) in [
        ("run none.tsr", 8, "error[R0002]: none.tsr: No such file or directory (os error 2)"),
        ("run text.tsr", 3, "error[R0101]: text.tsr: not a tersor artifact"),
        ("run cut.tsr", 3, "error[R0102]: cut.tsr: the file has 500 bytes, its header says"),
        ("run m.tsr --variant future", 6, "error[R0106]: m.tsr: variant future needs not-yet-invented"),
        ("run m.tsr -o out.npz", 2, "error[R0201]: input a is missing"),
        ("run m.tsr --input a=@x.npy -o out.npz", 2, "error[R0201]: input b is missing"),
        ("run m.tsr --input c=@x.npy", 2, "error[R0202]: the model has no input c"),
        ("run m.tsr --input a=@f64.npy --input b=@x.npy -o o.npz", 2, "error[R0203]: input a has type f64"),
        ("run m.tsr --inputs tall.npz -o o.npz", 2, "error[R0205]: input a: N is 65"),
        ("run m.tsr --inputs in.npz --input a=@x.npy -o o.npz", 2, "error[R0206]: input b says N is 6, input a says 2"),
        ("run m.tsr --inputs bad.npz", 3, "error[R0301]: bad.npz: not a .npz file"),
        ("run m.tsr --input a=@bad.npy --input b=@x.npy", 3, "error[R0301]: bad.npy: the file ends within the header"),
        ("run m.tsr --inputs m.tsr", 2, "error[R0001]: m.tsr is neither a folder nor a .npz file"),
        ("run m.tsr --inputs in.npz -o out.npy", 2, "error[R0001]: out.npy can hold one tensor, there are 2"),
        ("run m.tsr --inputs in.npz -o no/such/out.npz", 8, "error[R0002]: no/such/out.npz: No such file"),
        ("run m.tsr --inputs in.npz -o -", 2, "error[R0001]: tensors are not written to standard output"),
        ("run m.tsr --inputs in.npz -o in.npz", 8, "error[R0002]: in.npz is an input and would be overwritten"),
        ("run m.tsr --input a=@x.npy --input b=@x.npy -o ./x.npy", 8, "error[R0002]: ./x.npy is an input"),
        ("run m.tsr --input a=@own/y.npy --input b=@own/b.npy -o own", 8, "error[R0002]: own/y.npy is an input"),
        ("run m.tsr --inputs in.npz --batch 0", 2, "error[R0001]: --batch 0 would run nothing"),
        ("run m.tsr --inputs in.npz --print most", 2, "error[R0001]: --print most is not understood"),
        ("bench m.tsr --inputs in.npz --seconds 0", 2, "error[R0001]: --seconds 0 is not a time to measure"),
    ] {
        let (found, text) = place.fails(line);
        assert!(text.starts_with(message), "{line}: {text}");
        assert_eq!(found, status, "{line}: {text}");
    }
    let out = place.command("run --json --no-such-flag");
    let document: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&document["exit"], out.status.code()), (&2.into(), Some(2)));
    assert_eq!(place.command("run").status.code(), Some(2));
}

#[test]
fn limits_and_signals_end_runs() {
    let place = Place::new();
    let bench = "bench m.tsr --inputs in.npz --seconds 60";
    let (exit, text) = place.fails(&format!("{bench} --timeout 200ms"));
    assert!(exit == 7 && text.contains("R0402") && text.contains("0.2 s"), "{text}");
    assert_eq!(place.fails("run m.tsr --inputs in.npz -o out --timeout 0s").0, 7);
    assert_eq!(place.fails(&format!("{bench} --max-memory 1k")).0, 7);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tersor-run"));
    let child = command.current_dir(place.0.path()).args(bench.split_whitespace()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success() && child.wait_with_output().unwrap().status.code() == Some(130));
}
