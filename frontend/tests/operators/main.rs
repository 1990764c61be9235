//! Operators one by one: a model of a single node, imported, verified and run by the reference interpreter. Operands are small ramps; the expected numbers come from
//! ONNX Runtime.

#![expect(clippy::approx_constant, reason = "expected results happen to be close to constants")]

mod attention;
mod bits;
mod control;
mod early;
mod elementwise;
mod functions;
mod gradient;
mod image;
mod indexing;
mod inverse;
mod linear_attention;
mod loops;
mod loss;
mod microsoft;
mod microsoft_attention;
mod ml;
mod movement;
mod nn;
mod quantized;
mod recurrent;
mod reduce;
mod sampling;
mod selection;
mod sequences;
mod signal;
mod text;
mod training;
mod windows;

use tersor_frontend::import_bytes;
use tersor_frontend::testing::{Attr, Model};
pub use tersor_ir::DType::{self, F32};
use tersor_ir::{Tensor, interp, verify::verify};

/// An operand: given at run time or a constant.
pub enum Arg {
    Input(DType, Vec<usize>),
    Ramp(DType, Vec<usize>),
    Constant(Tensor),
}

pub fn x(dtype: DType, shape: &[usize]) -> Option<Arg> {
    Some(Arg::Input(dtype, shape.to_vec()))
}

pub fn c(dtype: DType, shape: &[usize]) -> Option<Arg> {
    Some(Arg::Ramp(dtype, shape.to_vec()))
}

pub fn consts(dtype: DType, shape: &[usize], values: &[f64]) -> Option<Arg> {
    Some(Arg::Constant(Tensor::from_f64(dtype, shape, values)))
}

pub fn ints(values: &[i64]) -> Option<Arg> {
    Some(Arg::Constant(Tensor::from_i64(DType::I64, [values.len()], values)))
}

/// Quarters of whole numbers, whole numbers, or truth values, that go up and down, each operand from another place.
fn ramp(dtype: DType, shape: &[usize], operand: usize) -> Tensor {
    let n = shape.iter().product();
    let value = |i: usize| ((i * 7 + operand * 3) % 11) as f64 - 5.0;
    let value = |i: usize| match dtype {
        F32 => value(i) * 0.25,
        DType::Bool => f64::from(value(i) > 0.0),
        DType::U8 => value(i) + 5.0,
        _ => value(i),
    };
    Tensor::from_f64(dtype, shape, &(0..n).map(value).collect::<Vec<_>>())
}

/// The shape and elements of one result.
pub type Want<'a> = (&'a [usize], &'a [f64]);

pub fn case(opset: i64, op: &str, args: &[Option<Arg>], attrs: &[(&str, Attr)], want: &[Want]) {
    let (mut m, mut names, mut inputs) = (Model::new(opset), vec![], vec![]);
    for (i, a) in args.iter().enumerate() {
        let name = format!("i{i}");
        match a {
            Some(Arg::Input(dtype, shape)) => {
                m = m.input(&name, &tersor_ir::Type::new(*dtype, shape.iter().copied()).to_string());
                inputs.push(ramp(*dtype, shape, i));
            }
            Some(Arg::Ramp(dtype, shape)) => m = m.constant(&name, &ramp(*dtype, shape, i)),
            Some(Arg::Constant(t)) => m = m.constant(&name, t),
            None => {}
        }
        names.push(if a.is_some() { name } else { String::new() });
    }
    let outputs: Vec<String> = (0..want.len()).map(|i| format!("o{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let outs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    m = m.node(op, &names, &outs, attrs);
    for o in &outs {
        m = m.untyped_output(o);
    }
    let what = format!("{op}-{opset} {attrs:?}");
    let imported = import_bytes(m.bytes(), "case", &Default::default());
    let imported = imported.unwrap_or_else(|e| panic!("{what}: {}", e[0]));
    let errors = verify(&imported.module);
    assert!(errors.is_empty(), "{what}: {}", errors[0]);
    let got = interp::run(&imported.module, &inputs).unwrap_or_else(|d| panic!("{what}: {d}"));
    for (i, (got, (shape, values))) in got.iter().zip(want).enumerate() {
        assert_eq!(got.shape(), *shape, "{what}, result {i}");
        let near = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-4 * (1.0 + b.abs());
        let same = got.to_f64().iter().zip(*values).all(|(&a, &b)| near(a, b));
        assert!(same, "{what}, result {i}: {:?} is not {values:?}", got.to_f64());
    }
}
