//! Repetitions whose number the run decides.

use crate::*;
use tersor_frontend::{ImportOptions, export};
use tersor_ir::testing::rel_l2;
use tersor_ir::text::diff::diff;
use tersor_ir::{Module, Op};

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32(shape, values)
}

fn count(n: i64) -> Tensor {
    Tensor::from_i64(DType::I64, [], &[n])
}

/// A module with a loop, which comes back from an exported file as it is.
#[track_caller]
fn imported(m: Model, limit: usize) -> Module {
    let options = || {
        let mut options = ImportOptions::default();
        options.limits.computed_extent = limit;
        options
    };
    let read = |bytes| import_bytes(bytes, "m", &options()).unwrap_or_else(|e| panic!("{}", e[0])).module;
    let made = read(m.bytes());
    assert!(made.funcs.values().flat_map(|f| f.nodes.values()).any(|n| matches!(n.op, Op::Loop(_))));
    assert!(verify(&made).is_empty(), "{:?}", verify(&made));
    let again = read(export(&made, &Default::default()).unwrap_or_else(|e| panic!("{}", e[0])).model);
    let changes = diff(&made, &again);
    assert!(changes.is_empty(), "{changes}\n{}", tersor_ir::text::print(&made));
    made
}

#[track_caller]
fn gives(m: &Module, inputs: &[Tensor], want: &[Tensor]) {
    let y = interp::run(m, inputs).unwrap_or_else(|d| panic!("{d}"));
    assert_eq!(y.len(), want.len());
    for (y, want) in y.iter().zip(want) {
        assert_eq!(y.ty(), want.ty());
        assert!(rel_l2(y, want) < 1e-6, "{:?}, expected {:?}", y.to_f64(), want.to_f64());
    }
}

/// `v / 2 + x`, with its condition.
fn halving(cond: impl FnOnce(Model) -> Model) -> Model {
    let body = Model::new(17).input("i", "i64[]").input("go", "bool[]").input("v", "f32[N]");
    let body = body.node("Mul", &["v", "half"], &["h"], &[]).node("Add", &["h", "x"], &["w"], &[]);
    cond(body).untyped_output("on").untyped_output("w")
}

fn model() -> Model {
    Model::new(17).input("x", "f32[N]").constant("half", &tensor(&[], &[0.5]))
}

#[test]
fn an_input_is_the_number() {
    let body = halving(|b| b.node("Identity", &["go"], &["on"], &[]));
    let m = model().input("n", "i64[]").node("Loop", &["n", "", "x"], &["y"], &[("body", body.into())]);
    let m = imported(m.untyped_output("y"), 0);
    for (n, want) in [(0, [8.0, -4.0]), (1, [12.0, -6.0]), (3, [15.0, -7.5]), (-1, [8.0, -4.0])] {
        gives(&m, &[tensor(&[2], &[8.0, -4.0]), count(n)], &[tensor(&[2], &want)]);
    }
}

#[test]
fn data_end_a_loop() {
    let less = |b: Model| {
        b.node("ReduceMax", &["w"], &["top"], &[("keepdims", 0.into())]).node("Less", &["top", "bound"], &["on"], &[])
    };
    let loop_of = |outputs: &[&str], body: Model| {
        let m = model().constant("bound", &tensor(&[], &[15.5])).constant("yes", &Tensor::scalar(DType::Bool, 1.0));
        outputs
            .iter()
            .fold(m.node("Loop", &["", "yes", "x"], outputs, &[("body", body.into())]), |m, y| m.untyped_output(y))
    };
    let m = imported(loop_of(&["y"], halving(less)), 0);
    gives(&m, &[tensor(&[1], &[8.0])], &[tensor(&[1], &[15.5])]);
    gives(&m, &[tensor(&[1], &[20.0])], &[tensor(&[1], &[30.0])]);
    // What is collected of that needs a bound.
    let collecting = || loop_of(&["y", "all"], halving(less).untyped_output("w"));
    let e = import_bytes(collecting().bytes(), "m", &Default::default()).unwrap_err();
    assert!(e[0].to_string().contains("--limit computed_extent"), "{}", e[0]);
    let m = imported(collecting(), 9);
    let rows = [12.0, 14.0, 15.0, 15.5];
    gives(&m, &[tensor(&[1], &[8.0])], &[tensor(&[1], &[15.5]), tensor(&[4, 1], &rows)]);
    let few = interp::run(&imported(collecting(), 3), &[tensor(&[1], &[8.0])]).unwrap_err();
    assert!(few.to_string().contains("more than 3"), "{few}");
}

#[test]
fn extents_are_numbers_of_repetitions() {
    // Sums of rows so far.
    let body = Model::new(17).input("i", "i64[]").input("go", "bool[]").input("s", "f32[2]");
    let body = body.node("Gather", &["x", "i"], &["r"], &[]).node("Add", &["s", "r"], &["t"], &[]);
    let body =
        body.node("Identity", &["go"], &["on"], &[]).untyped_output("on").untyped_output("t").untyped_output("t");
    let m = Model::new(17).input("x", "f32[N,2]").constant("zero", &tensor(&[2], &[0.0; 2]));
    let m = m.constant("first", &count(0)).node("Shape", &["x"], &["shape"], &[]);
    let m = m.node("Gather", &["shape", "first"], &["n"], &[]);
    let m = m.node("Loop", &["n", "", "zero"], &["last", "all"], &[("body", body.into())]);
    let m = imported(m.untyped_output("last").untyped_output("all"), 0);
    let sums = tensor(&[3, 2], &[1.0, 2.0, 4.0, 6.0, 9.0, 12.0]);
    gives(&m, &[tensor(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])], &[tensor(&[2], &[9.0, 12.0]), sums]);
    gives(&m, &[tensor(&[0, 2], &[])], &[tensor(&[2], &[0.0; 2]), tensor(&[0, 2], &[])]);
}

/// `s + x` along an open axis, from its end, and with results side by side.
#[test]
fn scans_of_an_open_axis() {
    let body = || {
        let b = Model::new(17).input("s", "f32[2]").input("r", "f32[2]").node("Add", &["s", "r"], &["t"], &[]);
        b.node("Identity", &["t"], &["u"], &[]).untyped_output("t").untyped_output("u")
    };
    let scan = |attrs: &[(&str, Attr)]| {
        let all = [&[("num_scan_inputs", 1.into()), ("body", body().into())], attrs].concat();
        let m = Model::new(17).input("s", "f32[2]").input("x", "f32[2,L]");
        let m = m.node("Transpose", &["x"], &["rows"], &[]).node("Scan", &["s", "rows"], &["last", "all"], &all);
        m.untyped_output("last").untyped_output("all")
    };
    let inputs = [tensor(&[2], &[10.0, 20.0]), tensor(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])];
    let last = tensor(&[2], &[16.0, 35.0]);
    let m = imported(scan(&[]), 0);
    gives(&m, &inputs, &[last.clone(), tensor(&[3, 2], &[11.0, 24.0, 13.0, 29.0, 16.0, 35.0])]);
    let back = [("scan_input_directions", vec![1i64].into()), ("scan_output_axes", vec![1i64].into())];
    let read = import_bytes(scan(&back).bytes(), "m", &Default::default()).unwrap().module;
    gives(&read, &inputs, &[last, tensor(&[2, 3], &[13.0, 15.0, 16.0, 26.0, 31.0, 35.0])]);
}

#[test]
fn what_no_loop_can_do_is_said() {
    let refused = |m: Model, word: &str| {
        let e = import_bytes(m.bytes(), "m", &Default::default()).unwrap_err();
        assert!(e[0].failure == tersor_ir::Failure::Unsupported && e[0].to_string().contains(word), "{}", e[0]);
    };
    let loop_of = |body: Model| {
        let m = model().input("n", "i64[]").node("Loop", &["n", "", "x"], &["y"], &[("body", body.into())]);
        m.untyped_output("y")
    };
    let body = || Model::new(17).input("i", "i64[]").input("go", "bool[]").input("v", "f32[N]");
    let grows = body().node("Concat", &["v", "x"], &["w"], &[("axis", 0.into())]);
    refused(loop_of(grows.untyped_output("go").untyped_output("w")), "f32[N] becomes f32[2*N]");
    let draws = body().node("RandomNormalLike", &["v"], &["w"], &[]);
    refused(loop_of(draws.untyped_output("go").untyped_output("w")), "by chance");
}

fn graph(b: Model, outputs: &[&str]) -> Model {
    outputs.iter().fold(b, |b, y| b.untyped_output(y))
}

/// The branch that is taken alone is run: the other one may need what is not there.
#[test]
fn branches_that_are_much_work_are_run_alone() {
    let body = || Model::new(17);
    let first = body().node("Gather", &["x", "zero"], &["f"], &[]).node("MatMul", &["f", "w"], &["a"], &[]);
    let none = body().node("Identity", &["v"], &["b"], &[]);
    let m = Model::new(17).input("x", "f32[N,2]").constant("zero", &count(0)).constant("v", &tensor(&[2], &[7.0; 2]));
    let m = m.constant("w", &tensor(&[2, 2], &[1.0, 2.0, 3.0, 4.0])).node("Shape", &["x"], &["shape"], &[]);
    let m = m.node("Gather", &["shape", "zero"], &["n"], &[]).node("Greater", &["n", "zero"], &["some"], &[]);
    let (then, other) = (graph(first, &["a"]), graph(none, &["b"]));
    let m = m.node("If", &["some"], &["y"], &[("then_branch", then.into()), ("else_branch", other.into())]);
    let m = imported(m.untyped_output("y"), 0);
    gives(&m, &[tensor(&[1, 2], &[1.0, 1.0])], &[tensor(&[2], &[4.0, 6.0])]);
    gives(&m, &[tensor(&[0, 2], &[])], &[tensor(&[2], &[7.0; 2])]);
}

/// Extents that the data decide in each repetition anew, and a loop in a loop that runs as often as the number of the repetition says.
#[test]
fn loops_have_extents_and_loops_of_their_own() {
    let ports = || Model::new(17).input("i", "i64[]").input("go", "bool[]").input("v", "f32[N]");
    let picked = ports().node("Greater", &["v", "one"], &["k"], &[]).node("Compress", &["v", "k"], &["large"], &[]);
    let picked = picked.node("ReduceSum", &["large"], &["s"], &[("keepdims", 0.into())]);
    let picked = picked.node("Mul", &["v", "half"], &["w"], &[]);
    let m = model().input("n", "i64[]").constant("one", &tensor(&[], &[1.0]));
    let m = m.node("Loop", &["n", "", "x"], &["y", "sums"], &[("body", graph(picked, &["go", "w", "s"]).into())]);
    let m = imported(graph(m, &["y", "sums"]), 8);
    let x = tensor(&[3], &[8.0, 3.0, 1.0]);
    gives(&m, &[x.clone(), count(3)], &[tensor(&[3], &[1.0, 0.375, 0.125]), tensor(&[3], &[11.0, 5.5, 2.0])]);
    gives(&m, &[x, count(0)], &[tensor(&[3], &[8.0, 3.0, 1.0]), tensor(&[0], &[])]);

    let inner = Model::new(17).input("j", "i64[]").input("on", "bool[]").input("u", "f32[N]");
    let inner = graph(inner.node("Add", &["u", "x"], &["t"], &[]), &["on", "t"]);
    let outer = ports().node("Loop", &["i", "", "v"], &["r"], &[("body", inner.into())]);
    let m = model().input("n", "i64[]");
    let m = m.node("Loop", &["n", "", "x"], &["y"], &[("body", graph(outer, &["go", "r"]).into())]);
    let m = imported(m.untyped_output("y"), 0);
    // 0 + 1 + 2 + 3 more.
    gives(&m, &[tensor(&[1], &[2.0]), count(4)], &[tensor(&[1], &[14.0])]);
}

/// A list that each repetition appends to is a tensor with one axis more.
#[test]
fn lists_are_collected() {
    let body = || {
        let b = Model::new(17).input("i", "i64[]").input("go", "bool[]").input("v", "f32[2]").formed(
            "s",
            (false, true),
            "f32[2]",
        );
        let b = b.node("Gather", &["x", "i"], &["r"], &[]).node("Add", &["v", "r"], &["w"], &[]);
        graph(b.node("SequenceInsert", &["s", "w"], &["t"], &[]), &["go", "w", "t"])
    };
    let of = |op: &str, more: &[&str], attrs: &[(&str, Attr)]| {
        let m =
            Model::new(17).input("x", "f32[N,2]").constant("zero", &tensor(&[2], &[0.0; 2])).constant("at", &count(-1));
        let m = m.node("Shape", &["x"], &["shape"], &[("end", 1.into())]).node("SequenceEmpty", &[], &["none"], &[]);
        let m = m.node("Squeeze", &["shape"], &["n"], &[]);
        let m = m.node("Loop", &["n", "", "zero", "none"], &["last", "all"], &[("body", body().into())]);
        graph(m.node(op, &[&["all"][..], more].concat(), &["y"], attrs), &["y"])
    };
    let x = [tensor(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])];
    let stacked =
        |axis: i64| imported(of("ConcatFromSequence", &[], &[("axis", axis.into()), ("new_axis", 1.into())]), 0);
    gives(&stacked(0), &x, &[tensor(&[3, 2], &[1.0, 2.0, 4.0, 6.0, 9.0, 12.0])]);
    gives(&stacked(1), &x, &[tensor(&[2, 3], &[1.0, 4.0, 9.0, 2.0, 6.0, 12.0])]);
    let joined = imported(of("ConcatFromSequence", &[], &[("axis", 0.into())]), 0);
    gives(&joined, &x, &[tensor(&[6], &[1.0, 2.0, 4.0, 6.0, 9.0, 12.0])]);
    gives(&joined, &[tensor(&[0, 2], &[])], &[tensor(&[0], &[])]);
    gives(&imported(of("SequenceAt", &["at"], &[]), 0), &x, &[tensor(&[2], &[9.0, 12.0])]);
    let e = import_bytes(of("SequenceErase", &[], &[]).bytes(), "m", &Default::default()).unwrap_err();
    assert!(e[0].to_string().contains("length that the run decides"), "{}", e[0]);
}
