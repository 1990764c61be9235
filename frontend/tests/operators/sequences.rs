//! Sequences and optionals, which the import takes apart.

use crate::*;
use tersor_frontend::ImportOptions;

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
