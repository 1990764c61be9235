//! Derivatives, against differences of the function's values.

use crate::*;
use tersor_frontend::testing::data_type;

const GRADIENT: &str = "ai.onnx.preview.training:Gradient";
const F64: DType = DType::F64;

fn run(m: &Model, inputs: &[Tensor]) -> Vec<Tensor> {
    let imported = import_bytes(m.bytes(), "case", &Default::default()).unwrap_or_else(|e| panic!("{}", e[0]));
    let errors = verify(&imported.module);
    assert!(errors.is_empty(), "{}", errors[0]);
    interp::run(&imported.module, inputs).unwrap_or_else(|d| panic!("{d}"))
}

/// Takes the gradient of the sum of `y`, which `nodes` make of the inputs `a`, `b` and so on.
fn agrees(shapes: &[&[usize]], nodes: impl Fn(Model) -> Model) {
    let names: Vec<String> = (0..shapes.len()).map(|i| char::from(b'a' + i as u8).to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let slopes: Vec<String> = names.iter().map(|n| format!("d{n}")).collect();
    let slopes: Vec<&str> = slopes.iter().map(String::as_str).collect();
    let mut m = Model::new(20);
    for (name, shape) in names.iter().zip(shapes) {
        m = m.input(name, &tersor_ir::Type::new(F64, shape.iter().copied()).to_string());
    }
    let xs = Attr::Texts(names.iter().map(|n| n.to_string()).collect());
    m = nodes(m).node(GRADIENT, &names, &slopes, &[("xs", xs), ("y", "y".into())]);
    m = ["y"].iter().chain(&slopes).fold(m, |m, o| m.untyped_output(o));
    // Positive, no two alike, and away from where the functions bend.
    let value = |i: usize, k: usize| 0.35 + 0.21 * ((k * 7 + i * 3) % 11) as f64 + 0.013 * k as f64;
    let ramp = |i: usize, s: &&[usize]| (0..s.iter().product()).map(|k| value(i, k)).collect::<Vec<f64>>();
    let values: Vec<Vec<f64>> = shapes.iter().enumerate().map(|(i, s)| ramp(i, s)).collect();
    let tensors = |v: &[Vec<f64>]| v.iter().zip(shapes).map(|(v, s)| Tensor::from_f64(F64, *s, v)).collect::<Vec<_>>();
    let sum = |v: &[Vec<f64>]| {
        let y = &run(&m, &tensors(v))[0];
        (0..y.len()).map(|k| y.get_f64(k)).sum::<f64>()
    };
    let got = run(&m, &tensors(&values));
    for (i, shape) in shapes.iter().enumerate() {
        assert_eq!(got[1 + i].shape(), *shape);
        for k in 0..values[i].len() {
            let moved = |by: f64| {
                let mut v = values.clone();
                v[i][k] += by;
                sum(&v)
            };
            let (slope, d) = ((moved(1e-5) - moved(-1e-5)) / 2e-5, got[1 + i].get_f64(k));
            assert!(
                (slope - d).abs() <= 1e-7 * (1.0 + slope.abs()),
                "element {k} of {i}: {d}, differences give {slope}"
            );
        }
    }
}

#[test]
fn functions_of_elements() {
    let names = ["Abs", "Neg", "Exp", "Log", "Sqrt", "Reciprocal", "Sigmoid", "Tanh", "Erf", "Softplus", "Sin", "Cos"];
    for op in names.into_iter().chain(["Relu", "Gelu", "Floor", "Elu", "HardSwish", "Mish", "LeakyRelu", "Identity"]) {
        agrees(&[&[2, 3]], |m| m.node(op, &["a"], &["f"], &[]).node("Mul", &["f", "a"], &["y"], &[]));
    }
    let tanh = [("approximate", "tanh".into())];
    agrees(&[&[5]], |m| m.node("Gelu", &["a"], &["f"], &tanh).node("Mul", &["f", "a"], &["y"], &[]));
    agrees(&[&[5]], |m| m.node("Sigmoid", &["a"], &["s"], &[]).node("Mul", &["s", "a"], &["y"], &[]));
}

#[test]
fn operands_that_are_repeated_get_the_sum() {
    for op in ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"] {
        let twice = |m: Model| m.node(op, &["a", "b"], &["f"], &[]).node("Mul", &["f", "f"], &["y"], &[]);
        agrees(&[&[2, 3], &[3]], twice);
        agrees(&[&[2, 1], &[4, 1, 3]], twice);
        agrees(&[&[], &[2]], twice);
    }
    agrees(&[&[2, 3], &[3]], |m| {
        let m = m.node("Greater", &["a", "b"], &["more"], &[]).node("Where", &["more", "a", "b"], &["f"], &[]);
        m.node("Mul", &["f", "a"], &["y"], &[])
    });
    let shape = Tensor::from_i64(DType::I64, [3], &[2, 2, 3]);
    let expand = |m: Model| m.constant("shape", &shape).node("Expand", &["b", "shape"], &["f"], &[]);
    agrees(&[&[2, 2, 3], &[2, 1]], |m| expand(m).node("Mul", &["f", "a"], &["y"], &[]));
}

#[test]
fn products_and_reductions() {
    for (a, b) in
        [(&[2usize, 3][..], &[3usize, 2][..]), (&[2, 2, 3], &[3, 2]), (&[3], &[3, 2]), (&[4, 1, 2, 3], &[2, 3, 1])]
    {
        agrees(&[a, b], |m| m.node("MatMul", &["a", "b"], &["f"], &[]).node("Mul", &["f", "f"], &["y"], &[]));
    }
    for (ta, tb) in [(0, 1), (1, 0), (1, 1), (0, 0)] {
        let (a, b) = (if ta == 1 { [3, 2] } else { [2, 3] }, if tb == 1 { [4, 3] } else { [3, 4] });
        let attrs = [("transA", Attr::Int(ta)), ("transB", Attr::Int(tb)), ("alpha", Attr::Float(0.5))];
        let gemm = |m: Model| m.node("Gemm", &["a", "b", "c"], &["f"], &attrs);
        agrees(&[&a, &b, &[4]], |m| gemm(m).node("Mul", &["f", "f"], &["y"], &[]));
    }
    let axes = Tensor::from_i64(DType::I64, [1], &[1]);
    for op in ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare"] {
        for keep in [0, 1] {
            let nodes =
                |m: Model| m.constant("axes", &axes).node(op, &["a", "axes"], &["f"], &[("keepdims", keep.into())]);
            agrees(&[&[3, 4]], |m| nodes(m).node("Mul", &["f", "f"], &["y"], &[]));
        }
    }
    for op in ["Softmax", "LogSoftmax"] {
        let nodes = |m: Model| m.node(op, &["a"], &["f"], &[("axis", Attr::Int(1))]);
        agrees(&[&[2, 3, 2]], |m| nodes(m).node("Mul", &["f", "a"], &["y"], &[]));
    }
}

#[test]
fn movement() {
    let ints = |v: &[i64]| Tensor::from_i64(DType::I64, [v.len()], v);
    let square = |m: Model| m.node("Mul", &["f", "f"], &["y"], &[]);
    agrees(&[&[2, 3, 4]], |m| square(m.node("Transpose", &["a"], &["f"], &[("perm", vec![2i64, 0, 1].into())])));
    agrees(&[&[2, 3], &[2, 2]], |m| square(m.node("Concat", &["a", "b"], &["f"], &[("axis", Attr::Int(1))])));
    for (start, end, step) in [(1, 4, 1), (3, 0, -1)] {
        let m =
            |m: Model| m.constant("s", &ints(&[start])).constant("e", &ints(&[end])).constant("step", &ints(&[step]));
        let axes = |m: Model| m.constant("axes", &ints(&[1]));
        agrees(&[&[2, 5]], |g| square(axes(m(g)).node("Slice", &["a", "s", "e", "axes", "step"], &["f"], &[])));
    }
    let pads = ints(&[0, 1, 2, 0]);
    agrees(&[&[2, 3]], |m| square(m.constant("p", &pads).node("Pad", &["a", "p"], &["f"], &[])));
    let flat = ints(&[-1, 2]);
    agrees(&[&[2, 3]], |m| square(m.constant("s", &flat).node("Reshape", &["a", "s"], &["f"], &[])));
    for axis in 0..3 {
        let at = Tensor::from_i64(DType::I64, [2, 2], &[1, 0, -1, 1]);
        let gather = |m: Model| m.constant("i", &at).node("Gather", &["a", "i"], &["f"], &[("axis", axis.into())]);
        agrees(&[&[2, 3, 4]], |m| square(gather(m)));
    }
    let to = |to: DType| [("to", Attr::Int(data_type(to) as i64))];
    agrees(&[&[3]], |m| {
        let m = m.node("Cast", &["a"], &["n"], &to(DType::I64)).node("Cast", &["n"], &["whole"], &to(F64));
        m.node("Mul", &["whole", "a"], &["y"], &[])
    });
}

#[test]
fn the_second_derivative_and_other_values() {
    let names = |n: &[&str]| Attr::Texts(n.iter().map(|n| n.to_string()).collect());
    // y = a a b, so that dy/da = 2 a b, and d(2 a b)/db = 2 a; and with 5 and 7 in their places, 70.
    let m = Model::new(20).input("a", "f64[]").input("b", "f64[]").input("c", "f64[]").input("d", "f64[]");
    let m = m.node("Mul", &["a", "a"], &["s"], &[]).node("Mul", &["s", "b"], &["y"], &[]);
    let m = m.node(GRADIENT, &["a", "b"], &["da"], &[("xs", names(&["a"])), ("zs", names(&["b"])), ("y", "y".into())]);
    let m = m.node(GRADIENT, &["a", "b"], &["", "dadb"], &[("xs", names(&["a", "b"])), ("y", "da".into())]);
    let m =
        m.node(GRADIENT, &["c", "d"], &["there"], &[("xs", names(&["a"])), ("zs", names(&["b"])), ("y", "y".into())]);
    // Behind s nothing counts: y = s b, so that dy/ds = b.
    let m = m.node(GRADIENT, &["s"], &["ds"], &[("xs", names(&["s"])), ("y", "y".into())]);
    // Nothing that d is part of makes y.
    let m = m.node(GRADIENT, &["d"], &["dd"], &[("xs", names(&["d"])), ("y", "y".into())]);
    let m = ["da", "dadb", "there", "ds", "dd"].iter().fold(m, |m, o| m.untyped_output(o));
    let inputs = [2.0, 3.0, 5.0, 7.0].map(|v| Tensor::scalar(F64, v));
    let got: Vec<f64> = run(&m, &inputs).iter().map(|t| t.get_f64(0)).collect();
    assert_eq!(got, [12.0, 4.0, 70.0, 3.0, 0.0]);
}
