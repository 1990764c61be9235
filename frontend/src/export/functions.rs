//! Ops that ONNX has no operator for: functions of the domain [`DOMAIN`], whose bodies are operators of `ai.onnx`. Other runtimes run the body, and import reads the call as the op
//! that it comes from.

use crate::message::{Attr, field, node, opset as opset_of};
use tersor_ir::DType;

/// The domain of functions that import knows by name.
pub(crate) const DOMAIN: &str = "tersor";

/// The `FunctionProto` of an operator `tersor:NAME` with bodies of `opset`.
pub(super) fn function(name: &str, opset: i64) -> Vec<u8> {
    match name {
        "Nms" => nms(opset),
        other => unreachable!("{other} is no function"),
    }
}

/// What functions are made of.
struct Body {
    nodes: Vec<Vec<u8>>,
}

impl Body {
    fn emit(&mut self, y: &str, op: &str, x: &[&str], attrs: &[(&str, Attr)]) {
        self.nodes.push(node(y, op, x, &[y], attrs));
    }

    fn function(self, name: &str, inputs: &[&str], output: &str, opset: i64) -> Vec<u8> {
        let mut out = vec![];
        field(&mut out, 1, name.as_bytes());
        inputs.iter().for_each(|i| field(&mut out, 4, i.as_bytes()));
        field(&mut out, 5, output.as_bytes());
        self.nodes.iter().for_each(|n| field(&mut out, 7, n));
        field(&mut out, 9, &opset_of("", opset));
        field(&mut out, 10, DOMAIN.as_bytes());
        out
    }
}

/// NonMaxSuppression over scores that say where in the order a box is: N for the first of N, 1 for the last, and no more than its threshold of 0 for those that do
/// not take part. What it selects are numbers of boxes; `kept` is over places.
fn nms(opset: i64) -> Vec<u8> {
    let to = |dtype| [("to", Attr::Int(crate::message::data_type(dtype) as i64))];
    let axis = [("axis", Attr::Int(2))];
    let mut b = Body { nodes: vec![] };
    b.emit("zero", "Constant", &[], &[("value_float", Attr::Float(0.0))]);
    b.emit("one", "Constant", &[], &[("value_float", Attr::Float(1.0))]);
    b.emit("first", "Constant", &[], &[("value_int", Attr::Int(0))]);
    b.emit("step", "Constant", &[], &[("value_int", Attr::Int(1))]);
    b.emit("all", "Shape", &["order"], &[]);
    b.emit("list", "Shape", &["order"], &[("start", Attr::Int(2))]);
    b.emit("count", "Squeeze", &["list"], &[]);
    b.emit("places", "Range", &["first", "count", "step"], &[]);
    b.emit("rank", "Sub", &["count", "places"], &[]);
    b.emit("score", "Cast", &["rank"], &to(DType::F32));
    b.emit("counted", "Where", &["candidate", "score", "zero"], &[]);
    b.emit("none", "Expand", &["zero", "all"], &[]);
    b.emit("scores", "ScatterElements", &["none", "order", "counted"], &axis);
    b.emit("selected", "NonMaxSuppression", &["boxes", "scores", "limit", "threshold", "zero"], &[]);
    b.emit("length", "Shape", &["selected"], &[("end", Attr::Int(1))]);
    b.emit("ones", "Expand", &["one", "length"], &[]);
    b.emit("by_box", "ScatterND", &["none", "selected", "ones"], &[]);
    b.emit("by_place", "GatherElements", &["by_box", "order"], &axis);
    b.emit("kept", "Cast", &["by_place"], &to(DType::Bool));
    b.function("Nms", &["boxes", "order", "candidate", "limit", "threshold"], "kept", opset)
}
