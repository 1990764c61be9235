//! Files that mean harm, and files that are merely wrong, as the command meets them: the exit status, in bounded time and memory, with nothing left behind.

mod support;

use serde_json::Value;
use std::time::Instant;
use support::{Dir, SOON, floats, mlp, numbers};
use tersor_frontend::testing::{Attr, Model, field, number, tensor};
use tersor_ir::{DType, Tensor};

/// The command that goes furthest with a model.
const COMPILE: &str = if cfg!(feature = "mlir") { "compile" } else { "opt" };

/// The model is refused with this status and these words by every command that reads it, soon, and `check` says which status that is.
#[track_caller]
fn refused(dir: &Dir, bytes: &[u8], exit: i32, words: &[&str]) {
    dir.write("bad.onnx", bytes);
    let start = Instant::now();
    let limits = ["--max-memory", "4G"];
    let found = dir.error(exit, &[&["opt", "bad.onnx", "-p", "lossless", "-o", "out.tir"], &limits[..]].concat());
    let checked = dir.json(1, &[&["check", "bad.onnx"], &limits[..]].concat());
    assert_eq!(checked["data"]["compile"], exit, "{checked}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    let all = checked["data"]["findings"].to_string();
    words
        .iter()
        .for_each(|w| assert!(found.contains(w) || all.contains(w), "{w:?} is neither in {found} nor in {all}"));
}

/// The model is accepted, soon, and its passes end.
#[track_caller]
fn accepted(dir: &Dir, m: &Model) -> Value {
    dir.write("good.onnx", m.bytes());
    let start = Instant::now();
    let out = dir.json(0, &["opt", "good.onnx", "-p", "lossless", "-o", "good.tir", "--max-memory", "4G"]);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    out
}

fn unary(op: &str, ty: &str, second: Option<Tensor>, attrs: &[(&str, Attr)]) -> Vec<u8> {
    let m = Model::new(17).input("x", ty).untyped_output("y");
    let m = match second {
        Some(t) => m.constant("c", &t).node(op, &["x", "c"], &["y"], attrs),
        None => m.node(op, &["x"], &["y"], attrs),
    };
    m.bytes()
}

/// A model that adds a weight of four elements from another file.
fn external(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut t = vec![];
    number(&mut t, 1, 4);
    number(&mut t, 2, 1);
    field(&mut t, 8, b"w");
    for (k, v) in entries {
        let mut e = vec![];
        field(&mut e, 1, k.as_bytes());
        field(&mut e, 2, v.as_bytes());
        field(&mut t, 13, &e);
    }
    number(&mut t, 14, 1);
    let m = Model::new(17).input("x", "f32[4]").raw_initializer(&t).node("Add", &["x", "w"], &["y"], &[]);
    m.output("y", "f32[4]").bytes()
}

#[test]
#[cfg(unix)]
fn external_data_lead_nowhere_else() {
    use std::os::unix::fs::symlink;
    let dir = Dir::new();
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret.bin");
    std::fs::write(&secret, [0; 64]).unwrap();
    symlink(&secret, dir.path("link.bin")).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(dir.path("pipe")).status().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path("socket")).unwrap();
    assert!(fifo.success());
    dir.write("w.bin", [0; 16]).write("sub/w.bin", [0; 16]);
    let secret = secret.display().to_string();
    for location in ["../x.bin", &secret, "sub/../../x.bin", "link.bin", "pipe", "socket", "/dev/zero", "sub", ""] {
        refused(&dir, &external(&[("location", location)]), 3, &["\\\"w\\\""]);
    }
    let at = [("location", "w.bin")];
    for more in [
        ("length", "1125899906842624"),
        ("offset", "-4"),
        ("offset", "8"),
        ("surprise", "1"),
        ("location", "sub/w.bin"),
    ] {
        refused(&dir, &external(&[at[0], more]), 3, &["\\\"w\\\""]);
    }
    // Other names of a file may lead anywhere.
    dir.write("plain.onnx", external(&at));
    dir.json(0, &["inspect", "plain.onnx", "--strict-files"]);
    std::fs::hard_link(dir.path("w.bin"), dir.path("again.bin")).unwrap();
    symlink("sub/w.bin", dir.path("inner.bin")).unwrap();
    dir.write("inner.onnx", external(&[("location", "inner.bin")]));
    for model in ["plain.onnx", "inner.onnx"] {
        dir.json(0, &["inspect", model]);
        for command in ["inspect", COMPILE] {
            let said = dir.error(3, &[command, model, "--strict-files"]);
            assert!(said.contains("O0012"), "{said}");
        }
    }
    std::fs::remove_file(dir.path("again.bin")).unwrap();
    // The layout of a hub's cache: snapshots of links into blobs.
    std::fs::create_dir_all(dir.path("hub/snapshots/main")).unwrap();
    dir.write("hub/blobs/1", external(&at)).write("hub/blobs/2", [0; 16]);
    symlink("../../blobs/1", dir.path("hub/snapshots/main/model.onnx")).unwrap();
    symlink("../../blobs/2", dir.path("hub/snapshots/main/w.bin")).unwrap();
    dir.json(0, &["inspect", "hub/snapshots/main/model.onnx"]);
    dir.json(0, &["inspect", "hub/snapshots/main"]);
}

#[test]
fn limits_are_flags() {
    let dir = Dir::new();
    dir.write("m.onnx", mlp().bytes());
    for (limit, code) in
        [("nodes=1", "O0007"), ("file_bytes=10", "O0007"), ("rank=1", "O00"), ("name_bytes=1", "O0008")]
    {
        let checked = dir.json(1, &["check", "m.onnx", "--limit", limit]);
        assert!(checked["data"]["findings"].to_string().contains(code), "{checked}");
        let (name, value) = limit.split_once('=').unwrap();
        assert_eq!(checked["data"]["limits"][name].to_string(), value);
        for command in ["inspect", "opt", COMPILE] {
            let out = dir.tersor(&[command, "m.onnx", "--limit", limit]);
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(!out.status.success() && said.contains(code), "{command} {limit}: {said}");
        }
    }
    for wrong in ["nodes", "nodes=many", "noodles=3", "rank=64"] {
        dir.error(2, &["inspect", "m.onnx", "--limit", wrong]);
    }
}

#[test]
fn damaged_files() {
    let dir = Dir::new();
    let whole = mlp().bytes();
    for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
        refused(&dir, &whole[..cut], 3, &["O000"]);
    }
    let with = |graph_number: u64, body: &[u8]| mlp().graph_field(graph_number, body).bytes();
    let beyond = [&whole[..], &[0x3a, 0xff, 0xff, 0xff, 0xff, 0x7f]].concat();
    refused(&dir, &beyond, 3, &["O0001"]);
    let group = [&whole[..], &[0x7b, 0x7c]].concat();
    refused(&dir, &group, 3, &["O0001"]);
    let padding = [&whole[..], &vec![0x80; 10 << 20]].concat();
    refused(&dir, &padding, 3, &["O0001"]);
    let horde: Vec<u8> = [0x0a, 0x00].repeat(1_000_000);
    let mut many = vec![];
    field(&mut many, 7, &horde);
    refused(&dir, &many, 3, &["O0001"]);
    let unknown = [&whole[..], &[0xc2, 0x3e, 0x02, b'h', b'i']].concat();
    dir.write("unknown.onnx", unknown);
    dir.json(0, &["inspect", "unknown.onnx"]);
    // A sequence of sequences, 20,000 deep, as the type of a value.
    let mut ty = vec![];
    for _ in 0..20_000 {
        let (mut element, mut sequence) = (vec![], vec![]);
        field(&mut element, 1, &ty);
        field(&mut sequence, 4, &element);
        ty = sequence;
    }
    let mut info = vec![];
    field(&mut info, 1, b"deep");
    field(&mut info, 2, &ty);
    refused(&dir, &with(13, &info), 3, &["O000"]);
    // Graphs in attributes of nodes of graphs, 2,000 deep.
    let mut graph = vec![];
    for _ in 0..2_000 {
        let (mut attribute, mut node, mut outer) = (vec![], vec![], vec![]);
        field(&mut attribute, 6, &graph);
        field(&mut node, 5, &attribute);
        field(&mut outer, 1, &node);
        graph = outer;
    }
    let mut deep = vec![];
    field(&mut deep, 7, &graph);
    refused(&dir, &deep, 3, &["O0001"]);
}

#[test]
fn no_changed_byte_breaks_what_comes_after_the_import() {
    let dir = Dir::new();
    let m =
        Model::new(17).input("x", "f32[1,4,6,6]").constant("w", &floats(&[4, 4, 3, 3])).constant("c", &floats(&[4]));
    let m = m.constant("s", &floats(&[])).constant("shape", &numbers(&[1, -1])).constant("m", &floats(&[64, 5]));
    let m = m.node("Conv", &["x", "w"], &["a"], &[("group", 1.into()), ("strides", [1, 1].into())]);
    let m = m.node("InstanceNormalization", &["a", "c", "c"], &["b"], &[("epsilon", 1e-3.into())]);
    let m = m.node("QuantizeLinear", &["b", "s"], &["q"], &[]).node("DequantizeLinear", &["q", "s"], &["d"], &[]);
    let m = m.node("Transpose", &["d"], &["t"], &[("perm", [0, 2, 3, 1].into())]).node(
        "Reshape",
        &["t", "shape"],
        &["r"],
        &[],
    );
    let m = m.node("MatMul", &["r", "m"], &["l"], &[]).node("Softmax", &["l"], &["y"], &[("axis", 1.into())]);
    let whole = m.output("y", "f32[1,5]").bytes();
    let targets = tersor::driver::targets(Some("x86-64-v3")).unwrap();
    let options = Default::default();
    let check = |bytes: &[u8]| {
        dir.write("m.onnx", bytes);
        tersor::driver::check(&dir.path("m.onnx"), &options, &targets, &Default::default())
    };
    assert_eq!(check(&whole).unwrap().count(), 0);
    let weights: Vec<usize> =
        whole.windows(16).enumerate().filter(|w| w.1 == [0, 0, 128, 63].repeat(4)).map(|w| w.0).collect();
    let structure = (0..whole.len()).filter(|i| weights.binary_search(i).is_err());
    for at in structure {
        let change = [0x01, 0x08, 0x80][at % 3];
        let mut bytes = whole.clone();
        bytes[at] ^= change;
        let found =
            check(&bytes).map(|c| c.findings.into_iter().map(|f| f.1).collect()).unwrap_or_else(|errors| errors);
        let broken = found.iter().find(|d| d.failure == tersor_ir::Failure::Internal);
        assert!(broken.is_none(), "byte {at} ^ {change}: {broken:?}");
    }
}

#[test]
fn headers_that_name_no_version() {
    let dir = Dir::new();
    let of = |opset| Model::new(opset).input("x", "f32[4]").output("x", "f32[4]").bytes();
    for opset in [0, 9999] {
        refused(&dir, &of(opset), 3, &["ai.onnx", &opset.to_string()]);
    }
    let import = |domain: &str, version: u64| {
        let mut o = vec![];
        field(&mut o, 1, domain.as_bytes());
        number(&mut o, 2, version);
        let mut m = vec![];
        field(&mut m, 8, &o);
        m
    };
    refused(&dir, &[of(17), import("", 13)].concat(), 3, &["two versions"]);
    let (mut node, mut body, mut graph) = (vec![], vec![], vec![]);
    field(&mut node, 4, b"Relu");
    field(&mut body, 1, &node);
    field(&mut graph, 7, &body);
    refused(&dir, &[graph, import("com.corp", 1)].concat(), 3, &["no version of domain ai.onnx"]);
}

#[test]
fn graphs_that_cannot_be() {
    let dir = Dir::new();
    let m = Model::new(17).input("x", "f32[4]").constant("w", &floats(&[4])).constant("w", &floats(&[4]));
    let m = m.node("Add", &["x", "b"], &["a"], &[]).node("Relu", &["a"], &["b"], &[]);
    let m = m.node("Relu", &["x"], &["c"], &[]).node("Relu", &["x"], &["c"], &[]).node("Relu", &["no"], &["d"], &[]);
    let m = m.output("c", "f32[4]").output("none", "f32[4]");
    let words =
        ["two initializers", "written twice", "\\\"no\\\" is not defined", "cycle: ", "nothing makes the output"];
    refused(&dir, &m.bytes(), 3, &words);
}

#[test]
fn operators_that_cannot_be() {
    let dir = Dir::new();
    let image = |op, w: Option<Tensor>, attrs: &[(&str, Attr)]| unary(op, "f32[1,2,8,8]", w, attrs);
    let kernel = || Some(floats(&[2, 2, 3, 3]));
    let line = |op, second: Option<Tensor>, attrs: &[(&str, Attr)]| unary(op, "f32[N,8]", second, attrs);
    refused(&dir, &image("Conv", kernel(), &[("group", 0.into())]), 3, &["n_y"]);
    refused(&dir, &image("Conv", kernel(), &[("strides", [0, 0].into())]), 3, &["n_y"]);
    refused(&dir, &image("Conv", kernel(), &[("pads", [i64::from(i32::MAX); 4].into())]), 3, &["n_y"]);
    refused(&dir, &image("DepthToSpace", None, &[("blocksize", 0.into())]), 3, &["n_y"]);
    refused(&dir, &line("Reshape", Some(numbers(&[1 << 62, 1 << 62])), &[]), 3, &["n_y"]);
    refused(&dir, &line("Gather", Some(numbers(&[1_000_000_000])), &[("axis", 1.into())]), 3, &["n_y"]);
    let slice = Model::new(17).input("x", "f32[N,8]").untyped_output("y").constant("z", &numbers(&[0]));
    refused(&dir, &slice.node("Slice", &["x", "z", "z", "z", "z"], &["y"], &[]).bytes(), 3, &["step 0"]);
    let slice = Model::new(17).input("x", "f32[4,8]").untyped_output("y").constant("z", &numbers(&[0, 0]));
    refused(&dir, &slice.node("Slice", &["x", "z", "z", "z"], &["y"], &[]).bytes(), 3, &["name one twice"]);
    let split = Model::new(17).input("x", "f32[N,8]").untyped_output("y").constant("s", &numbers(&[-1, 9]));
    refused(&dir, &split.node("Split", &["x", "s"], &["y", "z"], &[("axis", 1.into())]).bytes(), 3, &["n_y"]);
    for bad in [f32::NAN, 0.0, -1.0, f32::INFINITY] {
        refused(&dir, &line("QuantizeLinear", Some(Tensor::from_f32([], &[bad])), &[]), 3, &["n_y"]);
    }
    for op in ["QLinearMatMul", "com.microsoft:QLinearAdd"] {
        let m = Model::new(17).input("x", "u8[8,8]").untyped_output("y").constant("z", &Tensor::scalar(DType::U8, 3.0));
        let m = m.constant("s", &Tensor::from_f32([], &[f32::NAN]));
        let m = m.node(op, &["x", "s", "z", "x", "s", "z", "s", "z"], &["y"], &[]);
        refused(&dir, &m.bytes(), 3, &["n_y", "a scale that is not positive and finite"]);
    }
    let q = |scale: &[usize], zero: Tensor, attrs: &[(&str, Attr)]| {
        let m = Model::new(21).input("q", "u8[4,6]").constant("s", &floats(scale)).constant("z", &zero);
        m.node("DequantizeLinear", &["q", "s", "z"], &["y"], attrs).untyped_output("y").bytes()
    };
    let zeros = |n: usize| Tensor::from_i64(DType::U8, [n], &vec![0; n]);
    refused(&dir, &q(&[], Tensor::scalar(DType::I8, 3.0), &[]), 3, &["n_y"]);
    refused(&dir, &q(&[5], zeros(5), &[("axis", 1.into())]), 3, &["n_y"]);
    refused(&dir, &q(&[6], zeros(6), &[("axis", 7.into())]), 3, &["n_y"]);
    for to in [(1 << 32) + 1, -1, 99] {
        refused(&dir, &line("Cast", None, &[("to", to.into())]), 4, &["n_y", "element type"]);
    }
    let range = |limit: f32| {
        let m = Model::new(17).input("x", "f32[1]").untyped_output("y").constant("n", &Tensor::from_f32([], &[limit]));
        let m = m.constant("one", &Tensor::from_f32([], &[1.0])).node("Range", &["one", "n", "one"], &["r"], &[]);
        m.node("Add", &["x", "r"], &["y"], &[]).bytes()
    };
    [f32::NAN, f32::INFINITY].iter().for_each(|&l| refused(&dir, &range(l), 3, &["n_r"]));
}

#[test]
fn positions_that_are_none() {
    let dir = Dir::new();
    let index =
        |shape: &[usize], v: i64| Tensor::from_i64(DType::I64, shape.to_vec(), &vec![v; shape.iter().product()]);
    let m = |op: &str, at: Tensor, update: Option<&[usize]>| {
        let m = Model::new(17).input("x", "f32[2,3]").constant("i", &at).untyped_output("y");
        match update {
            Some(shape) => m.constant("u", &floats(shape)).node(op, &["x", "i", "u"], &["y"], &[]).bytes(),
            None => m.node(op, &["x", "i"], &["y"], &[]).bytes(),
        }
    };
    for at in [3, -4, 1_000_000_000, i64::MIN] {
        refused(&dir, &m("Gather", index(&[1], at), None), 3, &["n_y"]);
        refused(&dir, &m("GatherElements", index(&[1, 1], at), None), 3, &["n_y"]);
        refused(&dir, &m("GatherND", index(&[1, 2], at), None), 3, &["n_y"]);
        refused(&dir, &m("GatherND", index(&[1, 1], at), None), 3, &["n_y"]);
        refused(&dir, &m("ScatterElements", index(&[1, 1], at), Some(&[1, 1])), 3, &["n_y"]);
        refused(&dir, &m("ScatterND", index(&[1, 1], at), Some(&[1, 3])), 3, &["n_y"]);
    }
}

#[test]
fn trees_that_lead_back() {
    let dir = Dir::new();
    let tree = |yes: &[i64], no: &[i64], modes: &[&str]| {
        let n = yes.len();
        let attrs: Vec<(&str, Attr)> = vec![
            ("nodes_treeids", vec![0; n].into()),
            ("nodes_nodeids", (0..n as i64).collect::<Vec<_>>().into()),
            ("nodes_featureids", vec![0; n].into()),
            ("nodes_modes", Attr::Texts(modes.iter().map(|m| m.to_string()).collect())),
            ("nodes_values", Attr::Floats(vec![0.5; n])),
            ("nodes_truenodeids", yes.to_vec().into()),
            ("nodes_falsenodeids", no.to_vec().into()),
            ("target_treeids", [0].into()),
            ("target_nodeids", [n as i64 - 1].into()),
            ("target_ids", [0].into()),
            ("target_weights", Attr::Floats(vec![1.0])),
        ];
        let m = Model::new(17).input("x", "f32[2,4]").untyped_output("y");
        m.node("ai.onnx.ml:TreeEnsembleRegressor", &["x"], &["y"], &attrs)
    };
    const DECIDE: &str = "BRANCH_LEQ";
    accepted(&dir, &tree(&[1, 0], &[1, 0], &[DECIDE, "LEAF"]));
    // Two nodes that no root leads to, a node and itself.
    refused(&dir, &tree(&[1, 0, 0], &[1, 0, 0], &[DECIDE, DECIDE, "LEAF"]).bytes(), 3, &["n_y", "lead back"]);
    refused(&dir, &tree(&[1, 1, 0], &[2, 2, 0], &[DECIDE, DECIDE, "LEAF"]).bytes(), 3, &["n_y", "to itself"]);
}

#[test]
fn strings_that_cannot_be() {
    let dir = Dir::new();
    let proto = |fields: &[(u64, &[u8])]| {
        let mut t = vec![];
        number(&mut t, 1, 1);
        number(&mut t, 2, 8);
        field(&mut t, 8, b"s");
        fields.iter().for_each(|(n, body)| field(&mut t, *n, body));
        t
    };
    let model = |fields: &[(u64, &[u8])]| {
        let m = Model::new(20).input("x", "str[1]").raw_initializer(&proto(fields));
        m.node("StringConcat", &["x", "s"], &["y"], &[]).untyped_output("y")
    };
    accepted(&dir, &model(&[(6, b"good")]));
    refused(&dir, &model(&[(9, &[0; 4])]).bytes(), 3, &["\\\"s\\\"", "strings cannot be raw data"]);
    refused(&dir, &model(&[(6, b"a"), (6, b"b")]).bytes(), 3, &["2 strings, the shape takes 1"]);
    refused(&dir, &model(&[]).bytes(), 3, &["0 strings, the shape takes 1"]);
    refused(&dir, &model(&[(6, &[0xff])]).bytes(), 3, &["not UTF-8"]);
    let pattern = |p: &str| {
        let m = Model::new(20).input("x", "str[1]").untyped_output("y");
        m.node("RegexFullMatch", &["x"], &["y"], &[("pattern", p.into())]).bytes()
    };
    for p in ["(", "a{9999}{9999}", "x)|(y"] {
        refused(&dir, &pattern(p), 3, &["n_y", "no regular expression"]);
    }
    // Each is twice as long as what is before it.
    let mut m = Model::new(20).raw_initializer(&proto(&[(6, &[b'a'; 1 << 20])])).input("x", "str[1]");
    let mut before = "s".to_string();
    for i in 0..40 {
        let next = format!("c{i}");
        m = m.node("StringConcat", &[&before, &before], &[&next], &[]);
        before = next;
    }
    let m = m.node("StringConcat", &["x", &before], &["y"], &[]).untyped_output("y");
    refused(&dir, &m.bytes(), 3, &["a string of"]);
}

/// A constant of 4 KB, joined to itself thirty-six times over, and the sum of that.
fn doubled() -> Model {
    let mut m = Model::new(17).constant("c0", &floats(&[1 << 10])).input("x", "f32[1]");
    for i in 0..36 {
        let (a, b) = (format!("c{i}"), format!("c{}", i + 1));
        m = m.node("Concat", &[&a, &a], &[&b], &[("axis", 0.into())]);
    }
    m.node("ReduceSum", &["c36"], &["s"], &[]).node("Add", &["x", "s"], &["y"], &[]).untyped_output("y")
}

#[test]
fn terabytes_are_never_made() {
    let dir = Dir::new();
    accepted(&dir, &doubled());
    let big = |op: &str, inputs: &[&str]| {
        let m = Model::new(17).input("x", "f32[1]").constant("shape", &numbers(&[1 << 20, 1 << 20]));
        let m = m.constant("one", &floats(&[1, 1])).constant("zero", &numbers(&[0]));
        m.node(op, inputs, &["t"], &[])
            .node("ReduceMax", &["t"], &["s"], &[("keepdims", 0.into())])
            .node("Add", &["x", "s"], &["y"], &[])
            .untyped_output("y")
    };
    for m in [big("ConstantOfShape", &["shape"]), big("Expand", &["one", "shape"]), big("Tile", &["one", "shape"])] {
        accepted(&dir, &m);
    }
    let scalar = |v: i64| Tensor::from_i64(DType::I64, [], &[v]);
    let m = Model::new(17).input("x", "i64[1]").constant("a", &scalar(0)).constant("b", &scalar(1 << 40));
    let m = m.constant("c", &scalar(1)).node("Range", &["a", "b", "c"], &["t"], &[]);
    let m = m.node("ReduceMax", &["t"], &["s"], &[("keepdims", 0.into())]).node("Add", &["x", "s"], &["y"], &[]);
    accepted(&dir, &m.untyped_output("y"));
    let m = Model::new(17).input("x", "f32[1,1,2,2]").constant("sizes", &numbers(&[1, 1, 1 << 20, 1 << 20]));
    let m = m.node("Resize", &["x", "", "", "sizes"], &["y"], &[("mode", "nearest".into())]);
    accepted(&dir, &m.untyped_output("y"));
}

#[test]
fn functions_and_loops_end() {
    let dir = Dir::new();
    let body = || Model::new(17);
    let call = |m: Model| m.input("x", "f32[2]").node("mine:F0", &["x"], &["y"], &[]).untyped_output("y").bytes();
    let again = body().node("mine:F0", &["a"], &["r"], &[]);
    let ports: (&[&str], &[&str]) = (&["a"], &["r"]);
    refused(&dir, &call(Model::new(17).function("mine:F0", ports, &[], &again)), 3, &["calls itself", "n_r"]);
    let mut doubling = Model::new(17);
    for i in 0..30 {
        let next = if i == 29 { "Neg".to_string() } else { format!("mine:F{}", i + 1) };
        let both = body().node(&next, &["a"], &["m"], &[]).node(&next, &["m"], &["r"], &[]);
        doubling = doubling.function(&format!("mine:F{i}"), ports, &[], &both);
    }
    refused(&dir, &call(doubling), 7, &["nested graphs"]);
    let step = body().input("i", "i64[]").input("go", "bool[]").input("v", "f32[2]").node("Neg", &["v"], &["w"], &[]);
    let step = step.node("Identity", &["go"], &["on"], &[]).untyped_output("on").untyped_output("w");
    let trips = Tensor::from_i64(DType::I64, [], &[1 << 62]);
    let m = Model::new(17).input("x", "f32[2]").constant("n", &trips);
    let m = m.node("Loop", &["n", "", "x"], &["y"], &[("body", step.clone().into())]).untyped_output("y");
    // It is neither written out nor computed ahead, whatever it works on.
    accepted(&dir, &m);
    let m = Model::new(17).input("u", "f32[2]").constant("x", &floats(&[2])).constant("n", &trips);
    let m = m.node("Loop", &["n", "", "x"], &["v"], &[("body", step.into())]).node("Add", &["u", "v"], &["y"], &[]);
    accepted(&dir, &m.untyped_output("y"));
}

#[test]
fn sequences_end() {
    let dir = Dir::new();
    let m = Model::new(17).input("x", "f32[1099511627776]").constant("n", &Tensor::from_i64(DType::I64, [], &[1]));
    let m = m.node("SplitToSequence", &["x", "n"], &["q"], &[]).node("SequenceAt", &["q", "n"], &["y"], &[]);
    refused(&dir, &m.untyped_output("y").bytes(), 4, &["n_q", "a sequence of"]);
    // Each is one longer than what is before it, and all of them could still be asked for.
    let mut m = Model::new(17).input("x", "f32[1]").node("SequenceConstruct", &["x"], &["q0"], &[]);
    for i in 0..2100 {
        m = m.node("SequenceInsert", &[&format!("q{i}"), "x"], &[&format!("q{}", i + 1)], &[]);
    }
    let m = m.node("ConcatFromSequence", &["q2100"], &["y"], &[("axis", 0.into())]).untyped_output("y");
    refused(&dir, &m.bytes(), 7, &["sequence_elements"]);
    let m = Model::new(17).input("x", "f32[1]").node("SequenceConstruct", &["x"], &["q"], &[]);
    let m = m.node("SequenceConstruct", &["q", "q"], &["r"], &[]).node("SequenceLength", &["r"], &["y"], &[]);
    refused(&dir, &m.untyped_output("y").bytes(), 3, &["n_r"]);
}

/// Products of products: whatever is known when the model is compiled is not computed then at any price.
#[test]
fn work_ahead_has_a_limit() {
    let dir = Dir::new();
    let side = 250;
    let mut m = Model::new(17).constant("c0", &floats(&[side, side])).input("x", "f32[1]");
    for i in 0..100 {
        m = m.node("MatMul", &[&format!("c{i}"), "c0"], &[&format!("c{}", i + 1)], &[]);
    }
    let m = m.node("Add", &["x", "c100"], &["y"], &[]).untyped_output("y");
    dir.write("m.onnx", m.bytes());
    let out = dir.tersor(&["cat", "m.onnx", "--limit", "folded_work=40000000"]);
    let text = String::from_utf8_lossy(&out.stdout);
    let kept = text.lines().filter(|l| l.contains("= matmul")).count();
    assert_eq!(kept, 98, "{text}");
}

/// A chain of this many nodes, of these operators in turn. A name with `+` takes a constant, with `*` its operand twice.
fn chain(n: usize, ops: &[&str]) -> Model {
    let mut m = Model::new(17).input("v0", "f32[4,4]");
    if ops.iter().any(|o| o.ends_with('+')) {
        m = m.constant("w", &floats(&[4, 4]));
    }
    for i in 0..n {
        let (x, y, op) = (format!("v{i}"), format!("v{}", i + 1), ops[i % ops.len()]);
        m = match (op.strip_suffix('+'), op.strip_suffix('*')) {
            (Some(op), _) => m.node(op, &[&x, "w"], &[&y], &[]),
            (_, Some(op)) => m.node(op, &[&x, &x], &[&y], &[]),
            _ => m.node(op, &[&x], &[&y], &[]),
        };
    }
    m.untyped_output(&format!("v{n}"))
}

#[test]
fn long_chains_take_linear_time() {
    let dir = Dir::new();
    let chains: [&[&str]; 7] = [
        &["Exp", "Sin"],
        &["Transpose", "Sin"],
        &["Softmax", "Transpose"],
        &["MatMul+", "Relu"],
        &["Sub+", "Exp", "Transpose", "MatMul+"],
        &["Mul*", "Sub+"],
        &["MatMul*", "Sigmoid"],
    ];
    for ops in chains {
        dir.write("long.onnx", chain(10_000, ops).bytes());
        let start = Instant::now();
        dir.json(0, &["check", "long.onnx", "--target", "x86-64-v3"]);
        assert!(start.elapsed() < SOON, "{ops:?} {:?}", start.elapsed());
    }
    dir.write("long.onnx", chain(100_000, chains[0]).bytes());
    let start = Instant::now();
    dir.json(0, &["cat", "long.onnx"]);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn names_command_nobody() {
    let dir = Dir::new();
    let name = "../../etc/passwd\u{1b}[2J\"'<script>#include";
    let m = Model::new(17).input(name, "f32[N,3]").constant("w", &floats(&[3, 2]));
    let m = m.node("MatMul", &[name, "w"], &["y\u{7}"], &[]).untyped_output("y\u{7}");
    accepted(&dir, &m);
    for command in ["inspect", "cat", "check"] {
        let out = dir.tersor(&[command, "good.onnx"]);
        let text = [out.stdout, out.stderr].concat();
        assert!(!text.contains(&0x1b) && !text.contains(&7), "{command}: {}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn weights_that_are_no_numbers_are_told() {
    let dir = Dir::new();
    let weight = |v: f32| {
        let mut w = vec![0.5; 64 * 64];
        w[7] = v;
        let m = Model::new(17).input("x", "f32[N,64]").constant("w", &Tensor::from_f32([64, 64], &w));
        m.node("MatMul", &["x", "w"], &["y"], &[]).untyped_output("y")
    };
    for bad in [f32::NAN, f32::INFINITY] {
        let out = accepted(&dir, &weight(bad));
        assert!(out["diagnostics"].to_string().contains("O0029"), "{out}");
        let out = dir.json(0, &["opt", "good.tir", "-p", "quantize{acts=none, skip-small=false}", "-o", "q.tir"]);
        let all = &out["data"]["steps"][0]["decisions"];
        assert!(all.to_string().contains("kept: "), "{out}");
    }
}

#[test]
fn small_things_work() {
    let dir = Dir::new();
    let verify = |m: &Model, x: &Tensor, y: &Tensor| {
        dir.write("m.onnx", m.bytes());
        dir.write("data/input_0.pb", tensor("x", x)).write("data/output_0.pb", tensor("y", y));
        dir.json(0, &["verify", "m.onnx", "--inputs", "data", "--interp"]);
    };
    let relu = |ty: &str| Model::new(17).input("x", ty).node("Relu", &["x"], &["y"], &[]).untyped_output("y");
    verify(&relu("f32[N,3]"), &Tensor::from_f32([0, 3], &[]), &Tensor::from_f32([0, 3], &[]));
    verify(&relu("f32[]"), &Tensor::from_f32([], &[-1.0]), &Tensor::from_f32([], &[0.0]));
    verify(&relu("f32[1]"), &Tensor::from_f32([1], &[-1.0]), &Tensor::from_f32([1], &[0.0]));
    dir.write("same.onnx", Model::new(17).input("x", "f32[4]").output("x", "f32[4]").bytes());
    dir.json(0, &["opt", "same.onnx", "-p", "lossless", "-o", "same.tir"]);
    dir.write("empty.onnx", Model::new(17).bytes());
    dir.json(0, &["opt", "empty.onnx", "-p", "lossless", "-o", "empty.tir"]);
    // One extent, two sizes.
    let add = Model::new(17).input("x", "f32[N]").input("z", "f32[N]").node("Add", &["x", "z"], &["y"], &[]);
    dir.write("m.onnx", add.untyped_output("y").bytes());
    dir.write("data/input_0.pb", tensor("x", &floats(&[3]))).write("data/input_1.pb", tensor("z", &floats(&[1])));
    dir.write("data/output_0.pb", tensor("y", &floats(&[3])));
    let said = dir.error(3, &["verify", "m.onnx", "--inputs", "data", "--interp"]);
    assert!(said.contains('N'), "{said}");
}

/// Extents of 0 that the file itself states, so that kernels are made for them.
#[test]
#[cfg(feature = "mlir")]
fn nothing_compiles_to_something() {
    let dir = Dir::new();
    let m = Model::new(17).input("x", "f32[0,2,8,8]").constant("w", &floats(&[2, 2, 3, 3]));
    let conv = m.node("Conv", &["x", "w"], &["y"], &[]).output("y", "f32[0,2,6,6]");
    let m = Model::new(17).input("x", "f32[4,0]").constant("k", &numbers(&[0]));
    let top = m.node("TopK", &["x", "k"], &["y", "i"], &[]).output("y", "f32[4,0]");
    for (m, shape) in [(conv, &[0, 2, 8, 8][..]), (top, &[4, 0])] {
        dir.write("m.onnx", m.bytes()).write("data/input_0.pb", tensor("x", &floats(shape)));
        dir.json(0, &["compile", "m.onnx", "-o", "m.tsr", "--target", "x86-64-v3"]);
        dir.json(0, &["run", "m.tsr", "--inputs", "data", "-o", "out"]);
    }
}

#[test]
#[cfg(feature = "mlir")]
fn programs_of_terabytes_reach_the_limit() {
    let dir = Dir::new();
    let m = Model::new(17).input("x", "f32[1]").constant("shape", &numbers(&[1 << 20, 1 << 20]));
    let m = m.node("ConstantOfShape", &["shape"], &["t"], &[]).node("Add", &["t", "x"], &["y"], &[]);
    dir.write("m.onnx", m.untyped_output("y").bytes());
    let start = Instant::now();
    let said = dir.error(7, &["compile", "m.onnx", "-o", "m.tsr", "--target", "x86-64-v3", "--max-memory", "2G"]);
    assert!(said.contains("C0314") && said.contains("4398.05 GB"), "{said}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    // What constants come to is not made before the limit is looked at either.
    dir.write("d.onnx", doubled().bytes());
    let said = dir.error(7, &["compile", "d.onnx", "-o", "d.tsr", "--target", "x86-64-v3", "--max-memory", "1G"]);
    assert!(said.contains("C0314"), "{said}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

/// Images are files in files: their headers may promise more than there is room for, and what follows may be cut off.
#[test]
#[cfg(feature = "mlir")]
fn images_that_mean_harm() {
    let dir = Dir::new();
    let m = Model::new(20).input("x", "u8[N]").node("ImageDecoder", &["x"], &["y"], &[]).output("y", "u8[_,_,3]");
    dir.write("m.onnx", m.bytes());
    dir.json(0, &["compile", "m.onnx", "-o", "m.tsr", "--target", "x86-64-v3", "--limit", "image_extent=64"]);
    std::fs::create_dir(dir.path("data")).unwrap();
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02\0\0\0\x3a\x6f\x28\x8c";
    let jpeg2000 = b"\xff\x4f\xff\x51\0\x29\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x01";
    for image in [b"P6 65535 65535 255\nabc", &b"P6 2 2 255\nabc"[..], b"GIF89a", b"\xff\xd8\xff\xe0", png, jpeg2000] {
        let bytes = Tensor::from_f64(DType::U8, [image.len()], &image.iter().map(|&b| b.into()).collect::<Vec<f64>>());
        dir.write("data/input_0.pb", tensor("x", &bytes));
        let start = Instant::now();
        let said = dir.error(3, &["run", "m.tsr", "--inputs", "data", "--max-memory", "1G"]);
        assert!(said.contains("the image"), "{said}");
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    }
}
