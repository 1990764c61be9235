//! Strings, against ONNX's reference implementation.

use tersor_frontend::testing::{Attr, Model, data_type, field, number};
use tersor_frontend::{ImportOptions, import_bytes};
use tersor_ir::{DType, Tensor, interp, string, verify::verify};

fn words(shape: &[usize], strings: &[&str]) -> Tensor {
    string::tensor(shape, strings).unwrap()
}

/// Runs one operator on inputs, with outputs of declared types.
fn run(op: &str, inputs: &[Tensor], attrs: &[(&str, Attr)], outputs: &[&str]) -> Vec<Tensor> {
    let (mut m, mut names, mut results) = (Model::new(21), vec![], vec![]);
    for (i, t) in inputs.iter().enumerate() {
        names.push(format!("i{i}"));
        m = m.input(&names[i], &t.ty().to_string());
    }
    results.extend((0..outputs.len()).map(|i| format!("o{i}")));
    let of = |v: &[String]| v.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    let (names, results) = (of(&names), of(&results));
    let ins: Vec<&str> = names.iter().map(String::as_str).collect();
    let outs: Vec<&str> = results.iter().map(String::as_str).collect();
    m = m.node(op, &ins, &outs, attrs);
    for (name, ty) in outs.iter().zip(outputs) {
        m = m.output(name, ty);
    }
    let imported = import_bytes(m.bytes(), "text", &ImportOptions::default());
    let imported = imported.unwrap_or_else(|e| panic!("{op}: {}", e[0]));
    assert!(verify(&imported.module).is_empty(), "{op}");
    interp::run(&imported.module, inputs).unwrap_or_else(|d| panic!("{op}: {d}"))
}

#[test]
fn strings_are_joined_with_broadcasting() {
    let x = [words(&[2, 1], &["a", "b"]), words(&[2], &["x", ""])];
    let y = run("StringConcat", &x, &[], &["str[2,2]"]);
    assert_eq!(y, [words(&[2, 2], &["ax", "a", "bx", "b"])]);
}

#[test]
fn strings_are_split_up_to_the_declared_extent() {
    let x = words(&[2], &["abc.com", "def.net.au"]);
    let attrs = [("delimiter", ".".into()), ("maxsplit", 1.into())];
    let y = run("StringSplit", std::slice::from_ref(&x), &attrs, &["str[2,2]", "i64[2]"]);
    assert_eq!(y, [words(&[2, 2], &["abc", "com", "def", "net.au"]), Tensor::from_i64(DType::I64, [2], &[2, 2])]);
    let y = run("StringSplit", &[x], &[], &["str[2,3]", "i64[2]"]);
    assert_eq!(y[0], words(&[2, 1], &["abc.com", "def.net.au"]));
    let x = words(&[2], &["a b", "c"]);
    let y = run("StringSplit", &[x], &[("maxsplit", 7.into())], &["str[2,_]", "i64[2]"]);
    assert_eq!(y[0], words(&[2, 2], &["a", "b", "c", ""]));
}

#[test]
fn letters_change() {
    let x = words(&[1, 2], &["Straße", "É"]);
    let y = run("StringNormalizer", &[x], &[("case_change_action", "UPPER".into())], &["str[1,2]"]);
    assert_eq!(y, [words(&[1, 2], &["STRASSE", "É"])]);
}

#[test]
fn expressions_match() {
    let x = words(&[3], &["account@gmail.com", "account@hotmail.com", "not an email"]);
    let pattern = r"(\W|^)[\w.\-]{0,25}@(yahoo|gmail)\.com(\W|$)";
    let y = run("RegexFullMatch", &[x], &[("pattern", pattern.into())], &["bool[3]"]);
    assert_eq!(y[0].to_i64(), [1, 0, 0]);
}

#[test]
fn numbers_and_strings() {
    let x = Tensor::from_f32([4], &[0.1, -2.0, 1e16, f32::NAN]);
    let y = run("Cast", &[x], &[("to", 8.into())], &["str[4]"]);
    assert_eq!(y, [words(&[4], &["0.1", "-2.0", "1e+16", "nan"])]);
    let y = run("Cast", &[Tensor::from_i64(DType::I8, [2], &[-7, 7])], &[("to", 8.into())], &["str[2]"]);
    assert_eq!(y, [words(&[2], &["-7", "7"])]);
    let y = run("Cast", &[words(&[2], &["-300", "7"])], &[("to", 5.into())], &["i16[2]"]);
    assert_eq!(y[0].to_i64(), [-300, 7]);
    let y = run("Cast", &[words(&[2], &["1e-5", "INF"])], &[("to", 10.into())], &["f16[2]"]);
    assert_eq!(y[0].to_f64(), [half(1e-5), f64::INFINITY]);
}

fn half(v: f64) -> f64 {
    Tensor::from_f64(DType::F16, [1], &[v]).get_f64(0)
}

#[test]
fn labels_are_numbers_or_strings() {
    let texts = |v: &[&str]| Attr::from(v.iter().map(|s| s.to_string()).collect::<Vec<_>>());
    let x = words(&[4], &["b", "z", "a", "b"]);
    let attrs = [("cats_strings", texts(&["a", "b"])), ("cats_int64s", [5, 6].into()), ("default_int64", 9.into())];
    let y = run("ai.onnx.ml:CategoryMapper", std::slice::from_ref(&x), &attrs, &["i64[4]"]);
    assert_eq!(y[0].to_i64(), [6, 9, 5, 6]);
    let back = run("ai.onnx.ml:CategoryMapper", &y, &attrs, &["str[4]"]);
    assert_eq!(back, [words(&[4], &["b", "_Unused", "a", "b"])]);
    let attrs = [("keys_strings", texts(&["a", "b"])), ("values_strings", texts(&["A", "B"]))];
    let y = run("ai.onnx.ml:LabelEncoder", std::slice::from_ref(&x), &attrs, &["str[4]"]);
    assert_eq!(y, [words(&[4], &["B", "_Unused", "A", "B"])]);
    let y = run("ai.onnx.ml:OneHotEncoder", &[x], &[("cats_strings", texts(&["b", "a"]))], &["f32[4,2]"]);
    assert_eq!(y[0].to_f64(), [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
    let attrs = [
        ("classlabels_strings", texts(&["no", "maybe", "yes"])),
        ("coefficients", vec![1.0f32, -1.0, 0.5].into()),
        ("intercepts", vec![0.0f32, 0.0, 0.0].into()),
    ];
    let y =
        run("ai.onnx.ml:LinearClassifier", &[Tensor::from_f32([2, 1], &[2.0, -2.0])], &attrs, &["str[2]", "f32[2,3]"]);
    assert_eq!(y[0], words(&[2], &["no", "maybe"]));
    let attrs = [
        ("classlabels_strings", texts(&["near", "far"])),
        ("kernel_type", "LINEAR".into()),
        ("kernel_params", vec![0.0f32; 3].into()),
        ("vectors_per_class", [1, 1].into()),
        ("support_vectors", vec![1.0f32, 2.0].into()),
        ("coefficients", vec![1.0f32, -1.0].into()),
        ("rho", vec![0.5f32].into()),
    ];
    let y = run("ai.onnx.ml:SVMClassifier", &[Tensor::from_f32([2, 1], &[2.0, -2.0])], &attrs, &["str[2]", "f32[2,2]"]);
    assert_eq!((&y[0], y[1].to_f64()), (&words(&[2], &["far", "near"]), vec![1.5, -1.5, -2.5, 2.5]));
}

#[test]
fn rows_of_words_are_counted() {
    let texts = |v: &[&str]| Attr::from(v.iter().map(|s| s.to_string()).collect::<Vec<_>>());
    let attrs = [
        ("pool_strings", texts(&["a", "b", "a", "b"])),
        ("ngram_counts", [0, 2].into()),
        ("ngram_indexes", [0, 1, 2].into()),
        ("min_gram_length", 1.into()),
        ("max_gram_length", 2.into()),
        ("max_skip_count", 0.into()),
        ("mode", "TF".into()),
    ];
    let y = run("TfIdfVectorizer", &[words(&[5], &["a", "b", "c", "a", "b"])], &attrs, &["f32[3]"]);
    assert_eq!(y[0].to_f64(), [2.0, 2.0, 2.0]);
}

/// What moves elements takes complex numbers as it takes numbers, and what computes says that it does not.
#[test]
fn complex_numbers_move() {
    for (dtype, part) in [(DType::C64, DType::F32), (DType::C128, DType::F64)] {
        let numbers = |shape: &[usize], parts: &[f64]| {
            let parts = Tensor::from_f64(part, [parts.len()], parts);
            Tensor::from_blob(dtype, shape.to_vec(), parts.blob().clone()).unwrap()
        };
        let typed = |shape: &str| format!("{dtype}{shape}");
        let x = numbers(&[2, 2], &[1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.1, f64::INFINITY]);
        let one = std::slice::from_ref(&x);
        let y = run("Transpose", one, &[], &[&typed("[2,2]")]);
        assert_eq!(y, [numbers(&[2, 2], &[1.0, -1.0, 3.0, -3.0, 2.0, -2.0, 0.1, f64::INFINITY])]);
        let at = |v: &[i64]| Tensor::from_i64(DType::I64, [v.len()], v);
        let y = run("Gather", &[x.clone(), at(&[1])], &[("axis", 1.into())], &[&typed("[2,1]")]);
        assert_eq!(y, [numbers(&[2, 1], &[2.0, -2.0, 0.1, f64::INFINITY])]);
        let y = run("Concat", &[x.clone(), x.clone()], &[("axis", 1.into())], &[&typed("[2,4]")]);
        assert_eq!(y[0].parts().to_f64()[..8], [1.0, -1.0, 2.0, -2.0, 1.0, -1.0, 2.0, -2.0]);
        let c = Tensor::from_i64(DType::Bool, [2], &[1, 0]);
        let y = run("Where", &[c, x.clone(), numbers(&[1], &[5.0, 6.0])], &[], &[&typed("[2,2]")]);
        assert_eq!(y, [numbers(&[2, 2], &[1.0, -1.0, 5.0, 6.0, 3.0, -3.0, 5.0, 6.0])]);
        let y = run("Identity", one, &[], &[&typed("[2,2]")]);
        assert_eq!(y, std::slice::from_ref(&x));

        // Numbers in the typed field of their parts.
        let (mut t, number_of, typed_field) = (vec![], data_type(dtype), if dtype == DType::C64 { 4 } else { 10 });
        number(&mut t, 1, 4);
        number(&mut t, 2, number_of);
        field(&mut t, 8, b"t");
        field(&mut t, typed_field, x.bytes());
        let m = Model::new(18).raw_initializer(&t).node("Identity", &["t"], &["y"], &[]).untyped_output("y");
        let m = import_bytes(m.bytes(), "m", &Default::default()).unwrap_or_else(|e| panic!("{}", e[0])).module;
        assert_eq!(interp::run(&m, &[]).unwrap(), [x.reshaped(vec![4]).unwrap()]);
        // Operators whose other operands must be known.
        let m = Model::new(18)
            .constant("x", &x)
            .constant("pads", &at(&[0, 1, 0, 0]))
            .constant("fill", &numbers(&[], &[0.0, 0.0]))
            .constant("repeats", &at(&[1, 2]))
            .node("Pad", &["x", "pads", "fill"], &["p"], &[])
            .node("Tile", &["p", "repeats"], &["t"], &[])
            .untyped_output("t");
        let m = import_bytes(m.bytes(), "m", &Default::default()).unwrap_or_else(|e| panic!("{}", e[0])).module;
        let y = interp::run(&m, &[]).unwrap();
        assert_eq!(y[0].ty().to_string(), typed("[2,6]"));
        assert_eq!(y[0].parts().to_f64()[..8], [0.0, 0.0, 1.0, -1.0, 2.0, -2.0, 0.0, 0.0]);
        let m = Model::new(18).input("x", &typed("[2]")).node("Add", &["x", "x"], &["y"], &[]).untyped_output("y");
        let e = import_bytes(m.bytes(), "m", &Default::default()).unwrap_err();
        assert!(e[0].to_string().contains(&format!("not defined for {dtype}")), "{}", e[0]);
    }
}

/// What moves elements takes strings as it takes numbers.
#[test]
fn strings_move() {
    let x = words(&[2, 2], &["a", "b", "c", "d"]);
    assert_eq!(run("Transpose", std::slice::from_ref(&x), &[], &["str[2,2]"]), [words(&[2, 2], &["a", "c", "b", "d"])]);
    let at = Tensor::from_i64(DType::I64, [1], &[1]);
    assert_eq!(run("Gather", &[x.clone(), at], &[], &["str[1,2]"]), [words(&[1, 2], &["c", "d"])]);
    let y = run("Concat", &[x.clone(), x.clone()], &[("axis", 1.into())], &["str[2,4]"]);
    assert_eq!(y, [words(&[2, 4], &["a", "b", "a", "b", "c", "d", "c", "d"])]);
    let c = Tensor::from_i64(DType::Bool, [2], &[1, 0]);
    let y = run("Where", &[c, x, words(&[1], &["-"])], &[], &["str[2,2]"]);
    assert_eq!(y, [words(&[2, 2], &["a", "-", "c", "-"])]);
}
