//! Sequences, optionals and maps, which the import takes apart.

use crate::*;
use tersor_frontend::ImportOptions;
use tersor_ir::string;

fn run(m: Model, options: &ImportOptions, inputs: &[Tensor]) -> Vec<(String, Tensor)> {
    let i = import_bytes(m.bytes(), "sequences", options).unwrap_or_else(|e| panic!("{}", e[0]));
    assert!(verify(&i.module).is_empty());
    let names = i.module.funcs[i.module.main().unwrap()].outputs.iter().map(ToString::to_string);
    names.zip(interp::run(&i.module, inputs).unwrap()).collect()
}

fn t(values: &[f32]) -> Tensor {
    Tensor::from_f32([values.len()], values)
}

fn at(value: i64) -> Tensor {
    Tensor::from_i64(DType::I64, [], &[value])
}

fn lengths(all: &[(&str, Option<usize>)]) -> ImportOptions {
    ImportOptions { lengths: all.iter().map(|(n, l)| (n.to_string(), *l)).collect(), ..Default::default() }
}

#[test]
fn places() {
    let all = |m: Model| m.input("a", "f32[1]").input("b", "f32[1]").input("c", "f32[1]");
    let x = [t(&[1.0]), t(&[2.0]), t(&[3.0])];
    // As lists of Python: before the last element, and without the first.
    let m = all(Model::new(17)).constant("last", &at(-1)).constant("first", &at(0));
    let m = m.node("SequenceConstruct", &["a", "b"], &["s"], &[]);
    let m =
        m.node("SequenceInsert", &["s", "c", "last"], &["i"], &[]).node("SequenceErase", &["i", "first"], &["e"], &[]);
    let m = m.node("SequenceLength", &["e"], &["n"], &[]).node("SequenceAt", &["e", "last"], &["y"], &[]);
    let y = run(m.untyped_output("e").untyped_output("n").untyped_output("y"), &Default::default(), &x);
    let values: Vec<(&str, f64)> = y.iter().map(|(n, t)| (n.as_str(), t.get_f64(0))).collect();
    assert_eq!(values, [("e.0", 3.0), ("e.1", 2.0), ("n", 2.0), ("y", 2.0)]);
}

#[test]
fn parts_and_wholes() {
    let m = || Model::new(17).input("x", "f32[4]");
    let x = t(&[1.0, 2.0, 3.0, 4.0]);
    let parts = |m: Model, inputs: &[&str], attrs: &[(&str, Attr)]| {
        let y = run(
            m.node("SplitToSequence", inputs, &["s"], attrs).untyped_output("s"),
            &Default::default(),
            std::slice::from_ref(&x),
        );
        y.iter().map(|(_, t)| (t.shape().to_vec(), t.to_f64())).collect::<Vec<_>>()
    };
    let threes = parts(m().constant("n", &at(3)), &["x", "n"], &[]);
    assert_eq!(threes, [(vec![3], vec![1.0, 2.0, 3.0]), (vec![1], vec![4.0])]);
    let listed = m().constant("n", &Tensor::from_i64(DType::I64, [2], &[1, 3]));
    assert_eq!(parts(listed, &["x", "n"], &[])[1], (vec![3], vec![2.0, 3.0, 4.0]));
    assert_eq!(parts(m(), &["x"], &[("keepdims", 0.into())])[3], (vec![], vec![4.0]));
    let again = m().node("SplitToSequence", &["x"], &["s"], &[]);
    let again = again.node("ConcatFromSequence", &["s"], &["y"], &[("axis", 0.into()), ("new_axis", 1.into())]);
    let y = run(again.untyped_output("y"), &Default::default(), std::slice::from_ref(&x));
    assert_eq!((y[0].1.shape(), y[0].1.to_f64()), (&[4, 1][..], x.to_f64()));
}

#[test]
fn sequences_as_inputs_are_so_many_inputs() {
    let add = Model::new(17).input("a", "f32[N]").input("b", "f32[N]").node("Add", &["a", "b"], &["c"], &[]);
    let m = Model::new(17).formed("s", (false, true), "f32[N]").input("x", "f32[N]");
    let m = m.node("SequenceMap", &["s", "x"], &["y"], &[("body", add.untyped_output("c").into())]).untyped_output("y");
    let options = ImportOptions {
        shapes: [("s.0".into(), vec![1]), ("s.1".into(), vec![2])].into(),
        ..lengths(&[("s", Some(2))])
    };
    let options = ImportOptions { dims: [("N".into(), tersor_frontend::DimBinding::Fixed(1))].into(), ..options };
    let y = run(m, &options, &[t(&[1.0]), t(&[2.0, 3.0]), t(&[10.0])]);
    let values: Vec<(&str, Vec<f64>)> = y.iter().map(|(n, t)| (n.as_str(), t.to_f64())).collect();
    assert_eq!(values, [("y.0", vec![11.0]), ("y.1", vec![12.0, 13.0])]);
}

#[test]
fn optionals_with_and_without_elements() {
    let m = || Model::new(18).formed("o", (true, false), "f32[1]").node("OptionalHasElement", &["o"], &["y"], &[]);
    let there = |length| {
        run(m().untyped_output("y"), &lengths(&[("o", length)]), &[t(&[1.0])][..length.unwrap_or(0)])[0].1.get_f64(0)
    };
    assert_eq!((there(Some(1)), there(None)), (1.0, 0.0));
    let m = Model::new(18).formed("o", (true, false), "f32[1]").node("OptionalGetElement", &["o"], &["y"], &[]);
    assert_eq!(run(m.untyped_output("y"), &lengths(&[("o", Some(1))]), &[t(&[7.0])])[0].1.get_f64(0), 7.0);
}

/// A module of the node `op` on a map `x`, and what it makes of these entries.
fn of_map(op: &str, attrs: &[(&str, Attr)], keys: &Tensor, values: &Tensor) -> Tensor {
    let m = Model::new(17).map("x", keys.dtype(), values.dtype()).node(op, &["x"], &["y"], attrs);
    let y = run(m.untyped_output("y"), &Default::default(), &[keys.clone(), values.clone()]);
    assert_eq!(y[0].0, "y");
    y[0].1.clone()
}

fn numbers(values: &[i64]) -> Tensor {
    Tensor::from_i64(DType::I64, [values.len()], values)
}

#[test]
fn maps_are_keys_beside_values() {
    let strings = |s: &[&str]| string::tensor([s.len()], s).unwrap();
    let vocabulary = || [("string_vocabulary", ["a", "c", "b", "z"].map(String::from).to_vec().into())];
    let y = of_map("ai.onnx.ml:DictVectorizer", &vocabulary(), &strings(&["c", "a"]), &t(&[8.0, 4.0]));
    assert_eq!((y.shape(), y.to_f64()), (&[1, 4][..], vec![4.0, 8.0, 0.0, 0.0]));
    // A map without an entry, and one with an entry that the vocabulary does not have.
    let y = of_map("ai.onnx.ml:DictVectorizer", &vocabulary(), &strings(&[]), &t(&[]));
    assert_eq!(y.to_f64(), [0.0; 4]);
    let y = of_map("ai.onnx.ml:DictVectorizer", &vocabulary(), &strings(&["q", "z"]), &numbers(&[3, 5]));
    assert_eq!((y.dtype(), y.to_f64()), (DType::I64, vec![0.0, 0.0, 0.0, 5.0]));
    let attrs = [("int64_vocabulary", [9, 1, 2].into())];
    let y = of_map("ai.onnx.ml:DictVectorizer", &attrs, &numbers(&[2, 9]), &strings(&["two", "nine"]));
    assert_eq!(string::strings(&y).iter().map(|s| &**s).collect::<Vec<_>>(), ["nine", "", "two"]);

    let entries = (numbers(&[5, 2]), t(&[1.5, -2.75]));
    let cast = |to: &'static str, form: &'static str| {
        let attrs = [("cast_to", to.into()), ("map_form", form.into()), ("max_map", 7.into())];
        of_map("ai.onnx.ml:CastMap", &attrs, &entries.0, &entries.1)
    };
    let y = cast("TO_FLOAT", "DENSE");
    assert_eq!((y.shape(), y.to_f64()), (&[1, 2][..], vec![-2.75, 1.5]));
    assert_eq!(cast("TO_FLOAT", "SPARSE").to_f64(), [0.0, 0.0, -2.75, 0.0, 0.0, 1.5, 0.0]);
    assert_eq!(cast("TO_INT64", "SPARSE").to_f64(), [0.0, 0.0, -2.0, 0.0, 0.0, 1.0, 0.0]);
    let texts = cast("TO_STRING", "DENSE");
    assert_eq!(string::strings(&texts).iter().map(|s| &**s).collect::<Vec<_>>(), ["-2.75", "1.5"]);
}

#[test]
fn a_map_for_each_row_has_its_keys_once() {
    let m = Model::new(17).input("x", "f32[N,2]");
    let labels = [("classlabels_strings", ["no", "yes"].map(String::from).to_vec().into())];
    let m = m.node("ai.onnx.ml:ZipMap", &["x"], &["p"], &labels).untyped_output("p");
    let x = Tensor::from_f32([2, 2], &[0.25, 0.75, 1.0, 0.0]);
    let y = run(m, &Default::default(), std::slice::from_ref(&x));
    assert_eq!((y[0].0.as_str(), y[1].0.as_str()), ("p.keys", "p.values"));
    assert_eq!(string::strings(&y[0].1).iter().map(|s| &**s).collect::<Vec<_>>(), ["no", "yes"]);
    assert_eq!((y[1].1.shape(), y[1].1.to_f64()), (&[2, 2][..], x.to_f64()));
}
