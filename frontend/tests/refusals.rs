//! Files that are refused, and what is said about them.

use tersor_frontend::testing::{Attr, Model, data_type, field, number, tensor};
use tersor_frontend::{DimBinding, Given, ImportOptions, import, import_bytes};
use tersor_ir::diag::Severity;
use tersor_ir::{DType, Diagnostic, Failure, Tensor};

fn errors(m: Model) -> Vec<Diagnostic> {
    import_bytes(m.bytes(), "test", &ImportOptions::default()).expect_err("the model is refused")
}

/// One error that contains all the words, whatever warnings are beside it.
fn refused(m: Model, failure: Failure, words: &[&str]) {
    let e: Vec<_> = errors(m).into_iter().filter(|d| d.severity == Severity::Error).collect();
    let text = e.iter().map(|d| d.to_string()).collect::<Vec<_>>().join("\n");
    assert_eq!(e.len(), 1, "{text}");
    assert_eq!(e[0].failure, failure, "{text}");
    words.iter().for_each(|w| assert!(text.contains(w), "{w:?} is not in {text}"));
}

fn floats(shape: &[usize]) -> Tensor {
    Tensor::from_f32(shape, &vec![1.0; shape.iter().product()])
}

fn numbers(v: &[i64]) -> Tensor {
    Tensor::from_i64(DType::I64, [v.len()], v)
}

/// One node from `x: f32[N,8]` to `y`, with a constant as second input.
fn one(op: &str, second: Option<Tensor>, attrs: &[(&str, Attr)]) -> Model {
    on("f32[N,8]", op, second, attrs)
}

fn on(ty: &str, op: &str, second: Option<Tensor>, attrs: &[(&str, Attr)]) -> Model {
    let m = Model::new(17).input("x", ty);
    match second {
        Some(t) => m.constant("c", &t).node(op, &["x", "c"], &["y"], attrs),
        None => m.node(op, &["x"], &["y"], attrs),
    }
    .output("y", "f32[_]")
}

#[test]
fn graphs_that_make_no_sense() {
    let chain = Model::new(17).input("x", "f32[4]").output("c", "f32[4]");
    let cycle = chain.clone().node("Add", &["x", "c"], &["a"], &[]).node("Relu", &["a"], &["b"], &[]);
    refused(cycle.node("Relu", &["b"], &["c"], &[]), Failure::Model, &["cycle", "\"n_a\" -> ", "n_b", "n_c"]);
    let m = chain.clone().node("Relu", &["x"], &["c"], &[]).node("Relu", &["x"], &["c"], &[]);
    refused(m, Failure::Model, &["\"c\" is written twice"]);
    refused(chain.clone().node("Relu", &["zzz"], &["c"], &[]), Failure::Model, &["\"zzz\" is not defined", "n_c"]);
    refused(chain.clone(), Failure::Model, &["nothing makes the output \"c\""]);
    let m = chain.clone().constant("w", &floats(&[4])).constant("w", &floats(&[4]));
    refused(m.node("Relu", &["x"], &["c"], &[]), Failure::Model, &["two initializers are named \"w\""]);
    let m = chain.clone().node("Relu", &["x", "x"], &["c"], &[]);
    refused(m, Failure::Model, &["2 inputs, it takes 1"]);
    refused(chain.clone().node("Add", &["x"], &["c"], &[]), Failure::Model, &["input 1 is missing"]);
    refused(chain.node("Add", &["x", ""], &["c"], &[]), Failure::Model, &["input 1 is missing"]);
    // A branch whose result is something that was refused before has nothing more to say.
    let branch = |x: &str| Model::new(17).node("Identity", &[x], &["b"], &[]).untyped_output("b");
    let m = Model::new(17).input("x", "f32[8]").constant("c", &Tensor::scalar(DType::Bool, 1.0));
    let m = m.constant("axis", &numbers(&[0])).node("Squeeze", &["x", "axis"], &["s"], &[]);
    let branches = [("then_branch", branch("s").into()), ("else_branch", branch("x").into())];
    refused(m.node("If", &["c"], &["y"], &branches).untyped_output("y"), Failure::Model, &["axis 0 to be removed"]);
    // All findings at once: of names, tensors, both cycles, operators and outputs.
    let two = |m: Model, a: &str, b: &str| m.node("Add", &["x", a], &[b], &[]).node("Relu", &[b], &[a], &[]);
    let m = Model::new(17).input("x", "f32[4]").constant("w", &floats(&[4])).constant("w", &floats(&[4]));
    let m = two(two(m, "a", "b"), "c", "d").node("Relu", &["zzz"], &["e"], &[]).node("Foo", &["x"], &["f"], &[]);
    let m = m.node("MatMul", &["x", "e"], &["g"], &[]).node("Softmax", &["x"], &["h"], &[("axis", 3.into())]);
    let mut lie = vec![];
    number(&mut lie, 1, 4);
    number(&mut lie, 2, 1);
    field(&mut lie, 8, b"lie");
    field(&mut lie, 9, &[0; 3]);
    let m = m.raw_initializer(&lie).node("Add", &["x", "lie"], &["i"], &[]);
    let m = ["a", "e", "i", "nowhere"].iter().fold(m, |m, o| m.output(o, "f32[4]"));
    let codes: Vec<_> = errors(m).iter().map(|d| d.code).collect();
    assert_eq!(codes, ["O0020", "O0010", "O0021", "O0026", "O0026", "O0032", "O0030", "O0022"]);
    let m = Model::new(17).input("x", "f32[4]").node("Foo", &["x"], &["a"], &[]).node("Bar", &["x"], &["b"], &[]);
    let e = errors(m.node("Add", &["a", "b"], &["c"], &[]).output("c", "f32[4]"));
    assert!(e.len() >= 2 && e.iter().take(2).all(|d| d.failure == Failure::Unsupported), "{e:?}");
    let m = Model::new(17).input("x", "f32[4]").node("com.corp:Relu", &["x"], &["y"], &[]).output("y", "f32[4]");
    let e = errors(m);
    assert!(e[0].message.contains("com.corp") && e[0].failure == Failure::Unsupported);
}

#[test]
fn versions() {
    for (opset, failure) in [(0, Failure::Model), (29, Failure::Unsupported), (9999, Failure::Model)] {
        let m = Model::new(opset).input("x", "f32[4]").output("x", "f32[4]");
        refused(m, failure, &["domain ai.onnx", &opset.to_string()]);
    }
}

#[test]
fn operators_with_bad_arguments() {
    let image = |op, w: Option<Tensor>, attrs: &[(&str, Attr)]| on("f32[N,2,8,8]", op, w, attrs);
    let kernel = || Some(floats(&[2, 2, 3, 3]));
    let invalid = |m: Model, words: &[&str]| refused(m, Failure::Model, words);
    invalid(image("Conv", kernel(), &[("group", 0.into())]), &["groups"]);
    invalid(image("Conv", kernel(), &[("strides", [0, 0].into())]), &["strides"]);
    invalid(image("Conv", kernel(), &[("pads", [i64::from(i32::MAX) + 2; 4].into())]), &["pads"]);
    invalid(image("Conv", kernel(), &[("strides", 2.into())]), &["attribute strides must be of type INTS"]);
    invalid(image("Conv", kernel(), &[("kernel_shape", [5, 5].into())]), &["kernel_shape"]);
    invalid(image("DepthToSpace", None, &[("blocksize", 0.into())]), &["block 0"]);
    invalid(one("Reshape", Some(numbers(&[1 << 62, 1 << 62])), &[]), &["more elements than can be addressed"]);
    invalid(one("Reshape", Some(numbers(&[-1, -1])), &[]), &["more than one extent is -1"]);
    invalid(one("Gather", Some(numbers(&[1_000_000_000])), &[("axis", 1.into())]), &["index 1000000000"]);
    invalid(one("Gather", Some(numbers(&[0, -9])), &[("axis", 1.into())]), &["index -9"]);
    invalid(one("Softmax", None, &[("axis", 2.into())]), &["axis 2"]);
    invalid(one("Transpose", None, &[("perm", [0, 0].into())]), &["permut"]);
    invalid(one("MatMul", Some(floats(&[7, 3])), &[]), &["inner extents differ", "8 and 7", "n_y"]);
    invalid(one("Add", Some(floats(&[7])), &[]), &["8 and 7 do not broadcast"]);
    let slice = Model::new(17).input("x", "f32[N,8]").output("y", "f32[_]").constant("z", &numbers(&[0]));
    invalid(slice.node("Slice", &["x", "z", "z", "z", "z"], &["y"], &[]), &["step 0"]);
    let split = Model::new(17).input("x", "f32[N,8]").output("y", "f32[_]").constant("s", &numbers(&[-1, 9]));
    invalid(split.node("Split", &["x", "s"], &["y", "z"], &[("axis", 1.into())]), &["negative extent"]);
    for bad in [f32::NAN, 0.0, -1.0, f32::INFINITY] {
        invalid(one("QuantizeLinear", Some(Tensor::from_f32([], &[bad])), &[]), &["positive and finite"]);
    }
    let q = Model::new(21).input("q", "u8[]").constant("s", &floats(&[2])).output("y", "f32[_]");
    invalid(q.node("DequantizeLinear", &["q", "s"], &["y"], &[]), &["tensor of rank 0", "n_y"]);
    let eye = Model::new(17).input("x", "f32[8]").output("y", "f32[_]");
    refused(eye.node("EyeLike", &["x"], &["y"], &[]), Failure::Unsupported, &["two known extents"]);
    let norm = Model::new(17).input("x", "f32[8]").constant("c", &floats(&[8])).output("y", "f32[_]");
    invalid(norm.node("InstanceNormalization", &["x", "c", "c"], &["y"], &[]), &["rank 1 has no channels"]);
    let q = Model::new(17).input("q", "u8[4]").constant("s", &floats(&[])).output("y", "f32[4]");
    let q = q.constant("z", &Tensor::scalar(DType::I8, 3.0));
    invalid(q.node("DequantizeLinear", &["q", "s", "z"], &["y"], &[]), &["zero point is i8", "u8"]);
}

#[test]
fn tensors_that_lie() {
    let with = |t: Vec<u8>| Model::new(17).raw_initializer(&t).input("x", "f32[4]").output("x", "f32[4]");
    let header = |dims: &[i64], dtype: u64| {
        let mut t = vec![];
        dims.iter().for_each(|&d| number(&mut t, 1, d as u64));
        number(&mut t, 2, dtype);
        field(&mut t, 8, b"weight");
        t
    };
    let raw = |dims: &[i64], dtype: u64, bytes: usize| {
        let mut t = header(dims, dtype);
        field(&mut t, 9, &vec![0; bytes]);
        t
    };
    let f32 = data_type(DType::F32);
    for t in [raw(&[4], f32, 15), raw(&[4], f32, 17), raw(&[4], f32, 0), raw(&[3], data_type(DType::I4), 1)] {
        refused(with(t), Failure::Model, &["\"weight\"", "bytes of data"]);
    }
    refused(with(raw(&[4], 99, 16)), Failure::Model, &["\"weight\"", "99"]);
    refused(with(raw(&[-4], f32, 16)), Failure::Model, &["negative extent"]);
    refused(with(raw(&[1 << 40, 1 << 40], f32, 16)), Failure::Model, &["more elements"]);
    refused(with(raw(&[1; 20_000], f32, 4)), Failure::Model, &["rank 20000"]);
    let mut twice = raw(&[1], f32, 4);
    field(&mut twice, 4, &[0; 4]);
    refused(with(twice), Failure::Model, &["more than one field"]);
    let mut typed = header(&[1], f32);
    field(&mut typed, 4, &[0; 4]);
    field(&mut typed, 7, &[1]);
    refused(with(typed), Failure::Model, &["more than one field"]);
    assert!(import_bytes(with(raw(&[3], data_type(DType::I4), 2)).bytes(), "t", &Default::default()).is_ok());
}

#[test]
fn hidden_explosions() {
    // Extents that square themselves forty times.
    let mut m = Model::new(17).input("x", "f32[N,M]").node("Shape", &["x"], &["s0"], &[]);
    m = m.node("ReduceSum", &["s0"], &["t"], &[]);
    for i in 0..40 {
        let (a, b) = (format!("s{i}"), format!("s{}", i + 1));
        m = m.node("Mul", &[&a, &a], &[&b], &[]);
    }
    let m = m.node("ConstantOfShape", &["s40"], &["y"], &[]).output("y", "f32[_]");
    assert!(!errors(m).is_empty());
    // A tensor that doubles forty times, and one of terabytes, are values like others as long as nobody computes them.
    let mut m = Model::new(17).constant("c0", &floats(&[1 << 10]));
    for i in 0..40 {
        let (a, b) = (format!("c{i}"), format!("c{}", i + 1));
        m = m.node("Concat", &[&a, &a], &[&b], &[("axis", 0.into())]);
    }
    let m = m.constant("shape", &numbers(&[1 << 20, 1 << 20])).node("ConstantOfShape", &["shape"], &["z"], &[]);
    let i = import_bytes(m.output("c40", "f32[_]").output("z", "f32[_]").bytes(), "t", &Default::default()).unwrap();
    assert!(i.module.constant_bytes() < 1 << 20);
}

#[test]
fn every_cut_of_a_file_is_refused_without_a_panic() {
    let m = one("MatMul", Some(floats(&[8, 3])), &[]).bytes();
    for n in 0..m.len() {
        assert!(import_bytes(m[..n].to_vec(), "cut", &Default::default()).is_err(), "{n}");
    }
    // Nor does any changed byte make one.
    for i in 0..m.len() {
        for bit in 0..8 {
            let mut m = m.clone();
            m[i] ^= 1 << bit;
            let _ = import_bytes(m, "changed", &Default::default());
        }
    }
}

/// A model with one weight in another file, and that file.
fn external(dir: &std::path::Path, entries: &[(&str, &str)]) -> Result<Tensor, Vec<Diagnostic>> {
    let mut t = tensor("w", &Tensor::from_f32([0], &[]));
    t = t[2..t.len() - 2].to_vec();
    let mut head = vec![];
    number(&mut head, 1, 4);
    head.extend(t);
    for (k, v) in entries {
        let mut e = vec![];
        field(&mut e, 1, k.as_bytes());
        field(&mut e, 2, v.as_bytes());
        field(&mut head, 13, &e);
    }
    number(&mut head, 14, 1);
    let m = Model::new(17).raw_initializer(&head).output("w", "f32[4]");
    std::fs::write(dir.join("model.onnx"), m.bytes()).unwrap();
    let i = import(&dir.join("model.onnx"), &Default::default())?;
    Ok(tersor_ir::interp::run(&i.module, &[]).unwrap().remove(0))
}

#[test]
fn external_data_stay_in_the_folder() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("model");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    let bytes: Vec<u8> = (0..8).flat_map(|i| (i as f32).to_le_bytes()).collect();
    std::fs::write(dir.join("w.bin"), &bytes).unwrap();
    std::fs::write(dir.join("sub/w.bin"), &bytes).unwrap();
    std::fs::write(top.path().join("outside.bin"), &bytes).unwrap();
    std::os::unix::fs::symlink(top.path().join("outside.bin"), dir.join("link.bin")).unwrap();
    std::os::unix::fs::symlink(dir.join("w.bin"), dir.join("inner.bin")).unwrap();
    let good = |entries: &[(&str, &str)]| external(&dir, entries).unwrap().to_f32();
    assert_eq!(good(&[("location", "w.bin"), ("offset", "4"), ("length", "16")]), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(good(&[("location", "./sub/w.bin")]), [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(good(&[("location", "inner.bin")]), [0.0, 1.0, 2.0, 3.0]);
    let outside = top.path().join("outside.bin").display().to_string();
    let bad: &[&[(&str, &str)]] = &[
        &[("location", "../outside.bin")],
        &[("location", "sub/../../outside.bin")],
        &[("location", &outside)],
        &[("location", "link.bin")],
        &[("location", "")],
        &[("location", "sub")],
        &[("location", "/dev/zero")],
        &[("location", "w.bin"), ("length", "1125899906842624")],
        &[("location", "w.bin"), ("offset", "-4")],
        &[("location", "w.bin"), ("offset", "20")],
        &[("location", "w.bin"), ("offset", "18446744073709551615")],
        &[("location", "w.bin"), ("surprise", "1")],
        &[],
    ];
    for entries in bad {
        let e = external(&dir, entries).expect_err(&format!("{entries:?} is refused"));
        assert!(e.len() == 1 && e[0].message.contains("\"w\"") && e[0].failure == Failure::Model, "{entries:?} {e:?}");
    }
    let e = external(&dir, &[("location", "gone.bin")]).expect_err("missing");
    assert!(e[0].to_string().contains("gone.bin") && e[0].help.is_some(), "{e:?}");
}

#[test]
fn what_is_legal_and_worth_a_word() {
    use tersor_frontend::check;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    let checked = |m: Model| {
        std::fs::write(&path, m.bytes()).unwrap();
        check(&path, &Default::default()).unwrap()
    };
    let relu = |m: Model| m.node("Relu", &["x"], &["y"], &[]).output("y", "f32[4]");
    let clean = checked(relu(Model::new(17).input("x", "f32[4]")));
    assert!(clean.findings.is_empty() && clean.imported.is_some(), "{:?}", clean.findings);
    let m = Model::new(17).input("x", "f32[4]").input("unused", "f32[4]").input("k", "i64[4]");
    let m = m
        .constant("k", &floats(&[4]))
        .constant("idle", &floats(&[4]))
        .constant("tiny", &Tensor::from_f32([4], &[1e-40; 4]));
    let m = m
        .constant("a", &floats(&[512]))
        .constant("b", &floats(&[512]))
        .constant("nan", &Tensor::from_f32([1], &[f32::NAN]));
    let m = m.node("Exp", &["x"], &["dead"], &[]).node("Exp", &["dead"], &["../../etc/x\u{1b}[2J"], &[]);
    let m = m.node("Concat", &["k", "tiny", "a", "b", "nan"], &["z"], &[("axis", 0.into())]).output("z", "f32[9]");
    let found = checked(relu(m));
    let all: Vec<_> = found.findings.iter().map(|d| d.code).collect();
    assert_eq!(
        all,
        ["O0029", "O0027", "O0028", "O0100", "O0100", "O0104", "O0101", "O0102", "O0105", "O0106", "O0103"],
        "{:#?}",
        found.findings
    );
    assert!(found.imported.is_some() && found.findings.iter().all(|d| d.file.is_some()));
    let both = checked(
        Model::new(17).input("x", "f32[4]").input("u", "f32[4]").node("Foo", &["x"], &["y"], &[]).output("y", "f32[4]"),
    );
    let all: Vec<_> = both.findings.iter().map(|d| d.code).collect();
    assert!(all == ["O0032", "O0104"] && both.imported.is_none(), "{all:?}");
    assert!(check(&dir.path().join("gone.onnx"), &Default::default()).is_err());
    std::fs::write(&path, b"no model").unwrap();
    assert_eq!(check(&path, &Default::default()).unwrap().findings[0].code, "O0001");
}

#[test]
fn what_must_be_known_is_named() {
    let unsupported = |m: Model, words: &[&str]| refused(m, Failure::Unsupported, words);
    let x = || Model::new(17).input("x", "f32[2,3]").input("n", "i64[1]");
    let short = Tensor::from_i64(DType::I64, [1], &[9]);
    let m = x().constant("k", &short).node("TopK", &["x", "k"], &["y", ""], &[]).untyped_output("y");
    refused(m, Failure::Model, &["the 9 largest of 3"]);
    let m = Model::new(17).input("x", "f32[6]").input("m", "bool[6]").input("n", "bool[6]");
    let m = m.node("Compress", &["x", "m"], &["a"], &[]).node("Compress", &["x", "n"], &["b"], &[]);
    unsupported(
        m.node("Add", &["a", "b"], &["y"], &[]).untyped_output("y"),
        &["extents n_a.n and n_b.n must be equal", "the data decide", "n_y"],
    );
    let m = Model::new(17).input("x", "f32[6]").node("NonZero", &["x"], &["y"], &[]).untyped_output("y");
    let range = DimBinding::Fixed(3);
    let options = ImportOptions { dims: [("n_y.n".to_string(), range)].into(), ..Default::default() };
    let e = import_bytes(m.bytes(), "m", &options).unwrap_err();
    assert!(e[0].failure == Failure::Usage && e[0].message.contains("is decided by the data"), "{}", e[0]);
    let m = Model::new(17).input("x", "f32[5,5]").node("Det", &["x"], &["y"], &[]);
    unsupported(m.untyped_output("y"), &["Det", "more than four rows"]);
    let m = Model::new(17).input("x", "f32[N,1,2]").constant("w", &floats(&[1, 2, 2]));
    let m = m.node("RNN", &["x", "w", "w"], &["y"], &[("activations", vec!["Swish".to_string()].into())]);
    unsupported(m.untyped_output("y"), &["RNN", "activation Swish"]);
    let m = Model::new(17).input("x", "f32[1,1,4,4]").constant("r", &floats(&[1, 4])).constant("b", &numbers(&[0]));
    unsupported(
        m.node("RoiAlign", &["x", "r", "b"], &["y"], &[]).untyped_output("y"),
        &["RoiAlign", "sampling_ratio 0"],
    );
    let m = Model::new(17)
        .input("x", "f32[4]")
        .constant("r", &floats(&[]))
        .constant("t", &Tensor::scalar(DType::Bool, 1.0));
    let m = m.node("Dropout", &["x", "r", "t"], &["y"], &[]).untyped_output("y");
    refused(m, Failure::Model, &["Dropout", "ratio 1"]);
    let m = Model::new(17).input("x", "i64[2,3]").node("ai.onnx.ml:OneHotEncoder", &["x"], &["y"], &[]);
    refused(m.untyped_output("y"), Failure::Model, &["OneHotEncoder", "no categories"]);
    let m = Model::new(20).input("x", "str[2]").node("StringSplit", &["x"], &["y", "n"], &[]);
    unsupported(m.untyped_output("y"), &["StringSplit", "any number of parts", "declare the last extent"]);
    let m = Model::new(17).input("x", "f32[2,3]").node("ai.onnx.ml:TreeEnsembleRegressor", &["x"], &["y"], &[]);
    refused(m.untyped_output("y"), Failure::Model, &["TreeEnsembleRegressor", "no nodes_treeids"]);
    let m =
        Model::new(18).constant("x", &Tensor::from_f64(DType::C64, [2], &[1.0, 2.0])).constant("n", &numbers(&[0, 1]));
    let fill = Tensor::from_blob(DType::C64, vec![], Tensor::from_f32([2], &[0.0, 1.0]).blob().clone()).unwrap();
    let m = m.constant("v", &fill).node("Pad", &["x", "n", "v"], &["y"], &[]).untyped_output("y");
    unsupported(m, &["Pad", "input 2, a number that is not real"]);
    let vectors = |classes: i64, each: i64| {
        let n = |n: i64| vec![0.5f32; n as usize];
        let pairs = n(classes * (classes - 1) / 2);
        let attrs = [
            ("classlabels_ints", Attr::from((0..classes).collect::<Vec<_>>())),
            ("vectors_per_class", vec![each; classes as usize].into()),
            ("support_vectors", n(2 * classes * each).into()),
            ("coefficients", n((classes - 1) * classes * each).into()),
            ("rho", pairs.clone().into()),
            ("prob_a", if each == 0 { vec![] } else { pairs.clone() }.into()),
            ("prob_b", pairs.into()),
        ];
        let m = Model::new(17).input("x", "f32[3,2]").node("ai.onnx.ml:SVMClassifier", &["x"], &["y", "z"], &attrs);
        m.untyped_output("y").untyped_output("z")
    };
    unsupported(vectors(17, 1), &["SVMClassifier", "probabilities of 17 classes, more than 16"]);
    unsupported(vectors(2, 0), &["SVMClassifier", "two classes without support vectors"]);
    let m = Model::new(17).input("x", "f32[4]").node("com.microsoft:Gelu", &["x"], &["y"], &[]);
    let m = m.node("com.example:Gelu", &["y"], &["z"], &[]);
    unsupported(m.untyped_output("z"), &["Gelu of domain com.example"]);
}

#[test]
fn loops_without_end() {
    let body = Model::new(17).input("i", "i64[]").input("go", "bool[]").input("s", "f32[1]");
    let body = body.node("Neg", &["s"], &["t"], &[]).untyped_output("go").untyped_output("t");
    let loop_of = |n: i64| {
        let m = Model::new(17).input("x", "f32[1]").constant("n", &Tensor::from_i64(DType::I64, [], &[n]));
        m.node("Loop", &["n", "", "x"], &["y"], &[("body", body.clone().into())]).untyped_output("y")
    };
    let ops = |m: Model| import_bytes(m.bytes(), "test", &Default::default()).unwrap().module.funcs.len();
    assert_eq!([ops(loop_of(3)), ops(loop_of(1 << 62))], [1, 2]);
    // Repetitions of repetitions end too.
    let mut inner = body.clone();
    for _ in 0..4 {
        let outer = Model::new(17).input("i", "i64[]").input("go", "bool[]").input("s", "f32[1]");
        let outer = outer.constant("n", &Tensor::from_i64(DType::I64, [], &[1000]));
        let outer = outer.node("Loop", &["n", "", "s"], &["t"], &[("body", inner.into())]);
        inner = outer.untyped_output("go").untyped_output("t");
    }
    let m = Model::new(17).input("x", "f32[1]").constant("n", &Tensor::from_i64(DType::I64, [], &[1000]));
    let m = m.node("Loop", &["n", "", "x"], &["y"], &[("body", inner.into())]).untyped_output("y");
    let e = errors(m);
    assert!(e.iter().any(|d| d.failure == Failure::Limit && d.to_string().contains("nested graphs")), "{e:?}");
}

#[test]
fn sequences_of_unknown_length() {
    let m = || Model::new(17).formed("s", (false, true), "f32[2]").node("SequenceAt", &["s", "i"], &["y"], &[]);
    let m = || m().constant("i", &Tensor::from_i64(DType::I64, [], &[5])).untyped_output("y");
    refused(m(), Failure::Unsupported, &["\"s\"", "how many elements", "--length s=3"]);
    let with = |name: &str, length: Option<usize>| {
        let options = ImportOptions { lengths: [(name.to_string(), length)].into(), ..Default::default() };
        import_bytes(m().bytes(), "test", &options).unwrap_err()
    };
    let cases = [("s", Some(2), "position 5"), ("s", None, "length none"), ("t", Some(1), "not a sequence")];
    for (name, length, words) in cases {
        let all = with(name, length);
        assert!(all.iter().any(|d| d.to_string().contains(words)), "{all:?}");
    }
    let m = Model::new(17).input("x", "f32[2]").node("SequenceConstruct", &["x"], &["s"], &[]);
    refused(m.node("Relu", &["s"], &["y"], &[]).untyped_output("y"), Failure::Model, &["a sequence"]);
}

#[test]
fn values_for_inputs() {
    let m =
        Model::new(13).input("x", "f32[2,3]").input("axes", "i64[A]").node("ReduceSum", &["x", "axes"], &["y"], &[]);
    let m = m.untyped_output("y").bytes();
    let with = |name: &str, given: Given| {
        import_bytes(m.clone(), "test", &ImportOptions { values: [(name.into(), given)].into(), ..Default::default() })
    };
    for given in [Given::Tensor(numbers(&[1])), Given::Numbers(vec![1.0])] {
        let i = with("axes", given).unwrap_or_else(|e| panic!("{}", e[0]));
        assert_eq!(i.module.funcs[i.module.main().unwrap()].inputs.len(), 1);
    }
    let wrong = [
        ("axes", Given::Tensor(floats(&[1])), "the value given"),
        ("axes", Given::Numbers(vec![0.5]), "has the element 0.5"),
        ("x", Given::Numbers(vec![0.5]), "has 1 elements"),
        ("zzz", Given::Tensor(numbers(&[1])), "not an input"),
    ];
    for (name, given, words) in wrong {
        let e = with(name, given).unwrap_err();
        assert!(e[0].failure == Failure::Usage && e[0].to_string().contains(words), "{}", e[0]);
    }
    let e = errors(
        Model::new(13)
            .input("x", "f32[2,3]")
            .input("axes", "i64[A]")
            .node("ReduceSum", &["x", "axes"], &["y"], &[])
            .untyped_output("y"),
    );
    assert!(e[0].help.as_ref().is_some_and(|h| h.contains("--value axes=")), "{:?}", e[0]);
}

#[test]
fn caches_that_cannot_hold_the_keys() {
    let step = |values: &str, total: &[i64]| {
        let m = Model::new(17).input("qkv", "f32[1,1,32]").input("keys", "f32[1,1,3,8]").input("values", values);
        m.input("last", "i32[1]")
            .constant("total", &numbers(total))
            .node(
                "com.microsoft:GroupQueryAttention",
                &["qkv", "", "", "keys", "values", "last", "total"],
                &["y", "k", "v"],
                &[("num_heads", 2.into()), ("kv_num_heads", 1.into())],
            )
            .output("y", "f32[1,1,16]")
    };
    refused(step("f32[1,1,3,8]", &[5]), Failure::Model, &["a total length of 5", "1 tokens", "a cache of 3"]);
    refused(step("f32[1,1,3,8]", &[3, 4]), Failure::Model, &["2 total lengths"]);
    refused(step("f32[1,1,2,8]", &[4]), Failure::Model, &["a cache of values of length 2, expected 3"]);
}

#[test]
fn derivatives_that_are_not_to_be_had() {
    let gradient = |x: &str, y: &str, given: &str| {
        let attrs = [("xs", Attr::Texts(vec![x.into()])), ("y", y.into())];
        let m = Model::new(20).input("x", "f32[1,1,4]").input("n", "i64[2]").constant("w", &floats(&[1, 1, 2]));
        let m = m.node("Conv", &["x", "w"], &["c"], &[]).node("Mul", &["x", "x"], &["s"], &[]);
        m.node("ai.onnx.preview.training:Gradient", &[given], &["d"], &attrs).untyped_output("d")
    };
    refused(gradient("x", "c", "x"), Failure::Unsupported, &["no derivative of conv", "n_c", "n_d"]);
    refused(gradient("w", "c", "w"), Failure::Unsupported, &["the constant \"w\""]);
    refused(gradient("x", "zzz", "x"), Failure::Model, &["nothing before it makes \"zzz\""]);
    refused(gradient("n", "s", "n"), Failure::Model, &["\"n\" is i64[2], expected a float"]);
    refused(gradient("x", "s", "w"), Failure::Model, &["a value of f32[1,1,2] for one of f32[1,1,4]"]);
    refused(gradient("", "s", "x"), Failure::Model, &["nothing before it makes \"\""]);
}

#[test]
fn images_that_are_none() {
    let m = |ty: &str, format: &str| {
        let m = Model::new(20).input("x", ty).node("ImageDecoder", &["x"], &["y"], &[("pixel_format", format.into())]);
        m.untyped_output("y")
    };
    refused(m("u8[N,M]", "RGB"), Failure::Model, &["u8[N,M], expected u8[N]", "n_y"]);
    refused(m("f32[N]", "RGB"), Failure::Model, &["expected u8[N]"]);
    refused(m("u8[N]", "YUV"), Failure::Model, &["pixel_format YUV"]);
}
