//! Recurrent layers in their ONNX form.

use super::{Exporter, OPSET_23};
use crate::message::Attr;
use tersor_ir::diag::Result;
use tersor_ir::ops::Recurrence;
use tersor_ir::ops::activation::{Activation, ActivationKind};
use tersor_ir::ops::recurrence::Cell;
use tersor_ir::{DType, Dim, NodeId, Type};

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

impl Exporter<'_> {
    /// The product of the inputs is a node of its own here: the layer multiplies what it gives by an identity.
    pub(super) fn recurrence(&mut self, n: NodeId, op: &Recurrence, x: &[&str], types: &[Type]) -> Result<()> {
        let dtype = types[0].dtype;
        if dtype == DType::BF16 {
            self.needs(OPSET_23);
        }
        let (steps, batch) = (&types[0].shape[0], &types[0].shape[1]);
        let (width, hidden) = (&types[1].shape[0], &types[1].shape[1]);
        let square = self.extents(&[width.clone(), width.clone()])?;
        let zeros = self.temp("ConstantOfShape", &[&square], &[]);
        let element = self.element(dtype)? as i64;
        let identity = self.temp("EyeLike", &[&zeros], &[("dtype", element.into())]);
        let axis = self.numbers(&[0])?;
        let weights = [identity.as_str(), x[1]].map(|w| self.temp("Unsqueeze", &[w, &axis], &[]));
        let mut inputs = vec![x[0].to_string()];
        inputs.extend(weights);
        inputs.extend([const { String::new() }; 2]);
        let parameters = x.get(3).filter(|_| types[3].shape[0] != Dim::Const(0)).copied();
        if let (Some(p), Cell::Gru) = (parameters, op.kind) {
            let before = self.extents(&[hidden.clone() * 5.into()])?;
            let zeros = self.temp("ConstantOfShape", &[&before], &[]);
            let zeros = self.temp("Cast", &[&zeros], &[("to", element.into())]);
            let bias = self.temp("Concat", &[&zeros, p], &[("axis", 0.into())]);
            inputs[3] = self.temp("Unsqueeze", &[&bias, &axis], &[]);
        }
        if let Some(l) = x.get(4) {
            inputs[4] = self.temp("Cast", &[l], &[("to", (self.element(DType::I32)? as i64).into())]);
        }
        if op.kind == Cell::Lstm {
            for i in 0..2 {
                let (from, to) = (self.numbers(&[i])?, self.numbers(&[i + 1])?);
                inputs.push(self.temp("Slice", &[x[2], &from, &to, &axis], &[]));
            }
            if let Some(p) = parameters {
                inputs.push(self.temp("Unsqueeze", &[p, &axis], &[]));
            }
        } else {
            inputs.push(x[2].to_string());
        }
        let f = self.f;
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
