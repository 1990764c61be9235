//! Functions that models define.

use crate::*;
use tersor_ir::Failure;

fn body(opset: i64) -> Model {
    Model::new(opset)
}

fn call(m: Model, inputs: &[&str], attrs: &[(&str, Attr)]) -> Result<Vec<f64>, tersor_ir::Diagnostic> {
    let m = m.input("x", "f32[2]").node("mine:F", inputs, &["y"], attrs).untyped_output("y");
    let i = import_bytes(m.bytes(), "functions", &Default::default()).map_err(|mut e| e.remove(0))?;
    Ok(interp::run(&i.module, &[Tensor::from_f32([2], &[1.0, -2.0])]).unwrap()[0].to_f64())
}

/// `leaky(a) + b`, without `b` where that is not given; a name of the caller's is not seen.
fn leaky(m: Model) -> Model {
    let alpha = [("alpha", Attr::Of("slope".into()))];
    let f = body(16).node("LeakyRelu", &["a"], &["x"], &alpha).node("Clip", &["x", "b"], &["r"], &[]);
    m.function("mine:F", (&["a", "b"], &["r"]), &[("slope", Some(Attr::Float(0.5)))], &f)
}

#[test]
fn attributes_have_defaults_and_inputs_may_be_absent() {
    let m = || leaky(Model::new(17));
    assert_eq!(call(m(), &["x"], &[]).unwrap(), [1.0, -1.0]);
    assert_eq!(call(m(), &["x"], &[("slope", Attr::Float(0.25))]).unwrap(), [1.0, -0.5]);
    let low = m().constant("low", &Tensor::scalar(F32, -0.75));
    assert_eq!(call(low, &["x", "low"], &[]).unwrap(), [1.0, -0.75]);
}

#[test]
fn functions_call_functions_of_their_own_version() {
    // Axes are an attribute up to version 12.
    let sum =
        body(11).node("ReduceSum", &["a"], &["s"], &[("axes", [0].into()), ("keepdims", Attr::Of("keep".into()))]);
    let m = Model::new(17).function("mine:Sum", (&["a"], &["s"]), &[("keep", None)], &sum);
    let twice = body(17).node("mine:Sum", &["a"], &["s"], &[("keep", 1.into())]).node("Add", &["s", "s"], &["r"], &[]);
    assert_eq!(call(m.function("mine:F", (&["a"], &["r"]), &[], &twice), &["x"], &[]).unwrap(), [-2.0]);
}

#[test]
fn calls_without_end() {
    let again = body(17).node("mine:F", &["a"], &["r"], &[]);
    let e = call(Model::new(17).function("mine:F", (&["a"], &["r"]), &[], &again), &["x"], &[]).unwrap_err();
    assert!(e.failure == Failure::Model && e.to_string().contains("calls itself"), "{e}");
    // Each calls the next twice: 2^30 nodes.
    let mut m = Model::new(17);
    for i in 0..30 {
        let name = if i == 0 { "mine:F".to_string() } else { format!("mine:F{i}") };
        let next = if i == 29 { "Neg".to_string() } else { format!("mine:F{}", i + 1) };
        let both = body(17).node(&next, &["a"], &["m"], &[]).node(&next, &["m"], &["r"], &[]);
        m = m.function(&name, (&["a"], &["r"]), &[], &both);
    }
    let e = call(m, &["x"], &[]).unwrap_err();
    assert!(e.failure == Failure::Limit && e.to_string().contains("nested graphs"), "{e}");
    let two = leaky(leaky(Model::new(17)));
    assert!(call(two, &["x"], &[]).unwrap_err().to_string().contains("twice"));
    assert!(call(leaky(Model::new(17)), &["x", "x", "x"], &[]).unwrap_err().to_string().contains("it takes 2"));
}
