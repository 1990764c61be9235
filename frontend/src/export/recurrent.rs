//! Recurrent layers in their ONNX form.

use super::{Exporter, OPSET_23};
use crate::message::Attr;
use std::collections::HashSet;
use tersor_ir::diag::Result;
use tersor_ir::entity::EntityId;
use tersor_ir::module::Def;
use tersor_ir::ops::Recurrence;
use tersor_ir::ops::activation::{Activation, ActivationKind};
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::recurrence::Cell;
use tersor_ir::{DType, Diagnostic, Dim, Func, NodeId, Op, Type, ValueId};

/// ONNX's name of an activation.
fn name(kind: ActivationKind) -> &'static str {
    match kind {
        ActivationKind::Tanh => "Tanh",
        ActivationKind::Sigmoid => "Sigmoid",
        ActivationKind::Relu => "Relu",
        ActivationKind::Softplus => "Softplus",
        ActivationKind::Softsign => "Softsign",
        ActivationKind::Affine => "Affine",
        ActivationKind::ScaledTanh => "ScaledTanh",
        ActivationKind::HardSigmoid => "HardSigmoid",
        ActivationKind::LeakyRelu => "LeakyRelu",
        ActivationKind::ThresholdedRelu => "ThresholdedRelu",
        ActivationKind::Elu => "Elu",
    }
}

fn attributes(op: &Recurrence, hidden: Option<i64>) -> Vec<(&'static str, Attr)> {
    let mut attrs = vec![("direction", Attr::from(if op.reverse { "reverse" } else { "forward" }))];
    attrs.extend(hidden.map(|n| ("hidden_size", n.into())));
    if !op.activations.is_empty() {
        let parameter = |i: usize| {
            let own = |a: &Activation| a.parameters().get(i).map(|&v| v as f32);
            Attr::Floats(op.activations.iter().filter_map(own).collect())
        };
        let names: Vec<String> = op.activations.iter().map(|a| name(a.kind).into()).collect();
        attrs.push(("activations", names.into()));
        attrs.extend([("activation_alpha", parameter(0)), ("activation_beta", parameter(1))]);
    }
    if op.clip.0 < f64::INFINITY {
        attrs.push(("clip", (op.clip.0 as f32).into()));
    }
    for (name, on) in [("linear_before_reset", op.reset_after), ("input_forget", op.input_forget)] {
        attrs.extend(on.then(|| (name, 1.into())));
    }
    attrs
}

/// The product that the inputs of a layer went through, which ONNX's operators have inside.
struct Projection {
    input: ValueId,
    weights: ValueId,
    trans_b: bool,
    bias: Option<ValueId>,
    /// Its ops, which nothing else reads.
    nodes: Vec<NodeId>,
}

/// The projection whose result is `given`, where it has this form.
fn projection(f: &Func, uses: &[u32], given: ValueId) -> Option<Projection> {
    let only_reader = |v: ValueId| match f.values[v].def {
        Def::Node(n, _) if uses[v.index()] == 1 => Some(n),
        _ => None,
    };
    let (mut product, mut bias, mut nodes) = (given, None, vec![]);
    if let Op::Binary(op) = &f.nodes[only_reader(given)?].op {
        let [a, b] = f.nodes[only_reader(given)?].operands[..] else { return None };
        let (of, other) = if f.def_const(a).is_some() { (b, a) } else { (a, b) };
        let ty = |v: ValueId| &f.values[v].ty;
        if op.kind != BinaryKind::Add || ty(other).rank() != 1 || ty(other).shape.last() != ty(of).shape.last() {
            return None;
        }
        nodes.push(only_reader(given)?);
        (product, bias) = (of, Some(other));
    }
    let n = only_reader(product)?;
    nodes.push(n);
    let (Op::MatMul(op), &[input, weights]) = (&f.nodes[n].op, &f.nodes[n].operands[..]) else { return None };
    let fits = !op.trans_a && !op.wide && f.values[input].ty.rank() == 3 && f.values[weights].ty.rank() == 2;
    fits.then_some(Projection { input, weights, trans_b: op.trans_b, bias, nodes })
}

/// Ops that layers have inside.
pub(super) fn inside(f: &Func) -> HashSet<NodeId> {
    let uses = f.use_counts();
    let layers = f.nodes.values().filter(|n| matches!(n.op, Op::Recurrence(_)));
    layers.filter_map(|n| projection(f, &uses, n.operands[0])).flat_map(|p| p.nodes).collect()
}

impl Exporter<'_> {
    /// A product of the inputs that only the layer reads goes inside; another is multiplied by an identity there.
    pub(super) fn recurrence(&mut self, n: NodeId, op: &Recurrence) -> Result<()> {
        let f = self.f;
        let operands = &f.nodes[n].operands;
        let types: Vec<&Type> = operands.iter().map(|&v| &f.values[v].ty).collect();
        let own = projection(f, &f.use_counts(), operands[0]);
        let names: Vec<String> = operands[1..].iter().map(|&v| self.name(v)).collect::<Result<_>>()?;
        let x = |i: usize| names.get(i - 1).map(String::as_str);
        let (r, state) = (x(1).expect("weights"), x(2).expect("a state"));
        let dtype = types[0].dtype;
        if dtype == DType::BF16 {
            self.needs(OPSET_23);
        }
        let (steps, batch) = (&types[0].shape[0], &types[0].shape[1]);
        let (width, hidden) = (&types[1].shape[0], &types[1].shape[1]);
        let element = self.element(dtype)? as i64;
        let (given, weights) = match &own {
            Some(p) => {
                let (input, w) = (self.name(p.input)?, self.name(p.weights)?);
                (input, if p.trans_b { w } else { self.temp("Transpose", &[&w], &[("perm", vec![1, 0].into())]) })
            }
            None => {
                let square = self.extents(&[width.clone(), width.clone()])?;
                let zeros = self.temp("ConstantOfShape", &[&square], &[]);
                (self.name(operands[0])?, self.temp("EyeLike", &[&zeros], &[("dtype", element.into())]))
            }
        };
        let axis = self.numbers(&[0])?;
        let mut inputs = vec![given];
        inputs.extend([weights.as_str(), r].map(|w| self.temp("Unsqueeze", &[w, &axis], &[])));
        inputs.extend([const { String::new() }; 2]);
        let parameters = x(3).filter(|_| types[3].shape[0] != Dim::Const(0));
        let outside = own.and_then(|p| p.bias).map(|b| self.name(b)).transpose()?;
        let within = parameters.filter(|_| op.kind == Cell::Gru);
        if outside.is_some() || within.is_some() {
            let unit = |e: &mut Self, times: usize| {
                let length = e.extents(&[hidden.clone() * (times as i64).into()])?;
                // The sum of anything and a negative zero is that, to the bit.
                let zero = e.scalar(dtype, -0.0)?;
                Ok::<_, Diagnostic>(e.temp("Expand", &[&zero, &length], &[]))
            };
            let gates = op.kind.gates();
            let outside = outside.map_or_else(|| unit(self, gates), Ok)?;
            let rest = unit(self, if within.is_some() { gates - 1 } else { gates })?;
            let parts: Vec<&str> = [outside.as_str(), &rest].into_iter().chain(within).collect();
            let bias = self.temp("Concat", &parts, &[("axis", 0.into())]);
            inputs[3] = self.temp("Unsqueeze", &[&bias, &axis], &[]);
        }
        if let Some(l) = x(4) {
            inputs[4] = self.temp("Cast", &[l], &[("to", (self.element(DType::I32)? as i64).into())]);
        }
        if op.kind == Cell::Lstm {
            for i in 0..2 {
                let (from, to) = (self.numbers(&[i])?, self.numbers(&[i + 1])?);
                inputs.push(self.temp("Slice", &[state, &from, &to, &axis], &[]));
            }
            if let Some(p) = parameters {
                inputs.push(self.temp("Unsqueeze", &[p, &axis], &[]));
            }
        } else {
            inputs.push(state.to_string());
        }
        let results: Vec<String> = f.nodes[n].results.iter().map(|&v| self.name_result(v)).collect();
        let (kind, states) = match op.kind {
            Cell::Rnn => ("RNN", vec![results[1].clone()]),
            Cell::Gru => ("GRU", vec![results[1].clone()]),
            Cell::Lstm => ("LSTM", vec![self.fresh("h"), self.fresh("c")]),
        };
        let mut outputs = vec![self.fresh("y")];
        outputs.extend(states.iter().cloned());
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.emit(kind, &inputs, &outputs, &attributes(op, hidden.as_const()));
        let shape = self.extents(&[steps.clone(), batch.clone(), hidden.clone()])?;
        self.emit("Reshape", &[&outputs[0], &shape], &results[..1], &[("allowzero", 1.into())]);
        if let [h, c] = &states[..] {
            self.emit("Concat", &[h, c], &results[1..], &[("axis", 0.into())]);
        }
        Ok(())
    }
}
