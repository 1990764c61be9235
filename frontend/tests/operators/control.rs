//! Control flow that is decided at import.

use crate::*;

fn body() -> Model {
    Model::new(17)
}

/// `x + 1` and `-x` of a value around the branches.
fn branches() -> (Model, Model) {
    let one = Tensor::from_f32([1], &[1.0]);
    let then = body().constant("one", &one).node("Add", &["i1", "one"], &["t"], &[]).untyped_output("t");
    (then, body().node("Neg", &["i1"], &["e"], &[]).untyped_output("e"))
}

fn choose(cond: Tensor, want: &[f64]) {
    let (then, other) = branches();
    let m = Model::new(17).input("i1", "f32[2]").constant("c", &cond);
    let m = m.node("If", &["c"], &["y"], &[("then_branch", then.into()), ("else_branch", other.into())]);
    let i =
        import_bytes(m.untyped_output("y").bytes(), "if", &Default::default()).unwrap_or_else(|e| panic!("{}", e[0]));
    let y = interp::run(&i.module, &[Tensor::from_f32([2], &[1.0, -2.0])]).unwrap();
    assert_eq!(y[0].to_f64(), want);
}

#[test]
fn known_conditions_choose_a_branch() {
    choose(Tensor::scalar(DType::Bool, 1.0), &[2.0, -1.0]);
    choose(Tensor::scalar(DType::Bool, 0.0), &[-1.0, 2.0]);
}

#[test]
fn conditions_at_run_time_select() {
    let (then, other) = branches();
    let m = Model::new(17).input("i1", "f32[2]").input("c", "bool[]");
    let m = m.node("If", &["c"], &["y"], &[("then_branch", then.into()), ("else_branch", other.into())]);
    let i =
        import_bytes(m.untyped_output("y").bytes(), "if", &Default::default()).unwrap_or_else(|e| panic!("{}", e[0]));
    for (c, want) in [(1.0, [2.0, -1.0]), (0.0, [-1.0, 2.0])] {
        let y = interp::run(&i.module, &[Tensor::from_f32([2], &[1.0, -2.0]), Tensor::scalar(DType::Bool, c)]).unwrap();
        assert_eq!(y[0].to_f64(), want);
    }
}

#[test]
fn loops_of_known_length() {
    // s = s + x[i], three times; all sums are collected.
    let step = body()
        .input("i", "i64[]")
        .input("go", "bool[]")
        .input("s", "f32[]")
        .node("Gather", &["x", "i"], &["xi"], &[])
        .node("Add", &["s", "xi"], &["sum"], &[])
        .node("Identity", &["go"], &["on"], &[])
        .untyped_output("on")
        .untyped_output("sum")
        .untyped_output("sum");
    let m = Model::new(17).input("x", "f32[4]").constant("n", &Tensor::from_i64(DType::I64, [], &[3]));
    let m = m.constant("zero", &Tensor::from_f32([], &[0.0]));
    let m = m.node("Loop", &["n", "", "zero"], &["last", "all"], &[("body", step.into())]);
    let m = m.untyped_output("last").untyped_output("all");
    let i = import_bytes(m.bytes(), "loop", &Default::default()).unwrap_or_else(|e| panic!("{}", e[0]));
    let y = interp::run(&i.module, &[Tensor::from_f32([4], &[1.0, 2.0, 4.0, 8.0])]).unwrap();
    assert_eq!((y[0].to_f64(), y[1].to_f64()), (vec![7.0], vec![1.0, 3.0, 7.0]));
}

#[test]
fn scans() {
    let step = || {
        body()
            .input("s", "f32[]")
            .input("x", "f32[]")
            .node("Add", &["s", "x"], &["sum"], &[])
            .untyped_output("sum")
            .untyped_output("sum")
    };
    let n = ("num_scan_inputs", Attr::from(1));
    let zero = || consts(F32, &[], &[0.0]);
    case(
        11,
        "Scan",
        &[zero(), x(F32, &[3])],
        &[("body", step().into()), n.clone()],
        &[(&[], &[1.0]), (&[3], &[-0.5, 0.75, 1.0])],
    );
    let back = ("scan_input_directions", [1].into());
    case(
        11,
        "Scan",
        &[zero(), x(F32, &[3])],
        &[("body", step().into()), n, back],
        &[(&[], &[1.0]), (&[3], &[0.25, 1.5, 1.0])],
    );
}
