//! Runs the `tersor` binary in a folder of its own and checks the document that it prints against its schema.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tersor_frontend::testing::Model;
use tersor_ir::{DType, Tensor};

pub struct Dir(tempfile::TempDir);

impl Dir {
    pub fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Dir {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        self
    }
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_tersor"));
        c.args(arguments).current_dir(self.0.path());
        c.env("XDG_CACHE_HOME", self.path("cache")).env("TMPDIR", self.0.path());
        c
    }
    pub fn tersor(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
    /// The document of a command, which has this exit status and follows its schema.
    pub fn json(&self, exit: i32, arguments: &[&str]) -> Value {
        let out = self.tersor(&[arguments, &["--json"]].concat());
        let (text, err) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
        assert_eq!(out.status.code(), Some(exit), "{arguments:?}\n{text}\n{err}");
        assert_eq!(text.lines().count(), 1, "one document: {text}");
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["exit"], exit, "{text}");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemas/{}.json", arguments[0]));
        let schema: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        fits(&schema, &document, "document");
        document
    }
    /// The text of the first error of a command that fails with this status and leaves no file behind.
    pub fn error(&self, exit: i32, arguments: &[&str]) -> String {
        let before = self.files();
        let document = self.json(exit, arguments);
        assert_eq!(self.files(), before, "{arguments:?} left files behind");
        let d = document["diagnostics"].as_array().unwrap().iter().find(|d| d["level"] == "error").expect("an error");
        let text = |key: &str| d[key].as_str().unwrap_or_default().to_string();
        format!("{}: {} ({}) {}", text("code"), text("message"), text("location"), text("help"))
    }
    fn files(&self) -> Vec<PathBuf> {
        let mut out: Vec<PathBuf> = std::fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().path()).collect();
        out.sort();
        out
    }
}

/// The part of JSON Schema that the schemas use.
fn fits(schema: &Value, v: &Value, at: &str) {
    if let Some(c) = schema.get("const") {
        assert_eq!(c, v, "{at}");
    }
    if let Some(Value::Array(any)) = schema.get("enum") {
        assert!(any.contains(v), "{at}: {v}");
    }
    let is = |name: &str| match name {
        "object" => v.is_object(),
        "array" => v.is_array(),
        "string" => v.is_string(),
        "boolean" => v.is_boolean(),
        "integer" => v.is_i64() || v.is_u64(),
        "number" => v.is_number(),
        "null" => v.is_null(),
        other => panic!("{at}: the schema names the type {other}"),
    };
    match schema.get("type") {
        Some(Value::String(one)) => assert!(is(one), "{at} is no {one}: {v}"),
        Some(Value::Array(any)) => assert!(any.iter().any(|t| is(t.as_str().unwrap())), "{at} is none of {any:?}: {v}"),
        _ => {}
    }
    let Some(fields) = v.as_object() else {
        if let (Some(items), Some(all)) = (schema.get("items"), v.as_array()) {
            all.iter().enumerate().for_each(|(i, x)| fits(items, x, &format!("{at}[{i}]")));
        }
        return;
    };
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(fields.contains_key(name.as_str().unwrap()), "{at} lacks {name}: {v}");
    }
    for (name, x) in fields {
        match schema["properties"].get(name) {
            Some(s) => fits(s, x, &format!("{at}.{name}")),
            None => assert_ne!(schema["additionalProperties"], false, "{at}.{name} is not in the schema"),
        }
    }
}

/// `y = relu(x w + b)` with `x f32[N,3]`, `y f32[N,2]`.
pub fn mlp() -> Model {
    Model::new(17)
        .input("x", "f32[N,3]")
        .output("y", "f32[N,2]")
        .constant("w", &Tensor::from_f32([3, 2], &[1.0, -2.0, 0.5, 4.0, -1.0, 0.25]))
        .constant("b", &Tensor::from_f32([2], &[0.5, -0.5]))
        .node("MatMul", &["x", "w"], &["m"], &[])
        .node("Add", &["m", "b"], &["a"], &[])
        .node("Relu", &["a"], &["y"], &[])
}

/// A folder `name` with `input_0.pb` and `output_0.pb`, the latter off by `off` in one element.
#[allow(dead_code)]
pub fn data_set(dir: &Dir, name: &str, off: f32) {
    let x = Tensor::from_f32([2, 3], &[1.0, 2.0, 3.0, -1.0, 0.5, 0.0]);
    let y = Tensor::from_f32([2, 2], &[0.0, 6.25 + off, 0.0, 3.5]);
    dir.write(&format!("{name}/input_0.pb"), tersor_frontend::testing::tensor("x", &x));
    dir.write(&format!("{name}/output_0.pb"), tersor_frontend::testing::tensor("y", &y));
}

/// `y = relu(x w) v` with `x f32[N,64]`, `y f32[N,64]`, and 16 rows of `x` in the folder `calib`.
#[allow(dead_code)]
pub fn wide(dir: &Dir) -> Model {
    let wave = |rows: usize, step: f32| {
        let value = |i: usize| (i as f32 * step).sin() * (0.2 + (i % 7) as f32 * 0.1);
        Tensor::from_f32([rows, 64], &(0..rows * 64).map(value).collect::<Vec<_>>())
    };
    dir.write("calib/input_0.pb", tersor_frontend::testing::tensor("x", &wave(16, 0.37)));
    Model::new(17)
        .input("x", "f32[N,64]")
        .output("y", "f32[N,64]")
        .constant("w", &wave(64, 1.7))
        .constant("v", &wave(64, 2.9))
        .node("MatMul", &["x", "w"], &["m"], &[])
        .node("Relu", &["m"], &["r"], &[])
        .node("MatMul", &["r", "v"], &["y"], &[])
}

/// What any of this may take, far from what it should: a debug program on a busy machine is slow.
#[allow(dead_code)]
pub const SOON: Duration = Duration::from_secs(120);

/// Ones.
#[allow(dead_code)]
pub fn floats(shape: &[usize]) -> Tensor {
    Tensor::from_f32(shape, &vec![1.0; shape.iter().product()])
}

/// A list of integers.
#[allow(dead_code)]
pub fn numbers(v: &[i64]) -> Tensor {
    Tensor::from_i64(DType::I64, [v.len()], v)
}
