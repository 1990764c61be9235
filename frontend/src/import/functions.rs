//! Functions that a model defines, imported where they are called (ONNX IR specification, "Functions").

use super::node::UNDEFINED_OPERAND;
use super::{Importer, Meaning, OPSETS};
use crate::export::functions::DOMAIN;
use crate::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use std::collections::{HashMap, HashSet};
use tersor_ir::diag::Result;
use tersor_ir::{Diagnostic, Failure};

/// Functions by domain, name and overload.
pub(super) type Functions<'a> = HashMap<[&'a str; 3], &'a FunctionProto>;

fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// The functions of a model; of two with the same name it is an error.
pub(super) fn functions(m: &ModelProto) -> (Functions<'_>, Vec<Diagnostic>) {
    let (mut all, mut errors) = (Functions::new(), vec![]);
    for f in &m.functions {
        if all.insert([domain(&f.domain), &f.name, &f.overload], f).is_some() {
            let message = format!("the model defines the function {} twice", f.name.escape_debug());
            errors.push(Diagnostic::error("O0034", message));
        }
    }
    (all, errors)
}

impl<'a> Importer<'a> {
    /// The function that a node calls, if the model defines it. It comes before an operator of that name, but for what our own export defines.
    pub(super) fn function(&self, n: &NodeProto) -> Option<&'a FunctionProto> {
        if n.domain == DOMAIN && super::ops::find(n).is_ok() {
            return None;
        }
        self.functions.get(&[domain(&n.domain), n.op_type.as_str(), n.overload.as_str()]).copied()
    }

    /// The results of a call. The function sees its arguments alone, and operators of the version that it imports.
    pub(super) fn call(
        &mut self,
        f: &'a FunctionProto,
        node: &NodeProto,
        arguments: &[Option<Meaning>],
    ) -> Result<Vec<Meaning>> {
        let what = || format!("function {}", f.name.escape_debug());
        if arguments.len() > f.input.len() {
            let message = format!("{}: {} inputs, it takes {}", what(), arguments.len(), f.input.len());
            return Err(Diagnostic::error("O0030", message));
        }
        if self.calls.iter().any(|&c| std::ptr::eq(c, f)) {
            return Err(Diagnostic::error("O0034", format!("{} calls itself", what())));
        }
        let version = f.opset_import.iter().find(|o| domain(&o.domain).is_empty()).map_or(self.opset, |o| o.version);
        if !OPSETS.contains(&version) {
            let message = format!("{}: opset {version} of domain ai.onnx is not supported", what());
            return Err(Diagnostic::error("O0005", message).failure(Failure::Unsupported));
        }
        let given = |i: usize| arguments.get(i).cloned().flatten();
        let absent = (0..f.input.len()).filter(|&i| given(i).is_none()).map(|i| f.input[i].as_str()).collect();
        let call = Call { attributes: attributes(f, node), absent };
        let port = |name: &String| ValueInfoProto { name: name.clone(), ..Default::default() };
        let there = (0..f.input.len()).filter(|&i| given(i).is_some());
        let body = GraphProto {
            node: f.node.iter().map(|n| call.node(n)).collect(),
            input: there.map(|i| port(&f.input[i])).collect(),
            output: f.output.iter().map(port).collect(),
            ..Default::default()
        };
        let arguments = arguments.iter().flatten().cloned().collect();
        let outside =
            (std::mem::take(&mut self.scope), std::mem::take(&mut self.absent), std::mem::take(&mut self.broken));
        let opset = std::mem::replace(&mut self.opset, version);
        self.calls.push(f);
        let before = self.errors.len();
        let results = self.inline(&body, arguments);
        self.calls.pop();
        self.opset = opset;
        (self.scope, self.absent, self.broken) = outside;
        if self.errors.len() > before {
            return Err(Diagnostic::error(UNDEFINED_OPERAND, "the function failed"));
        }
        results
    }
}

/// The attributes of a call by the names that the function gives them; those that are not given have the function's defaults.
fn attributes<'n>(f: &'n FunctionProto, node: &'n NodeProto) -> HashMap<&'n str, &'n AttributeProto> {
    f.attribute_proto.iter().chain(&node.attribute).map(|a| (a.name.as_str(), a)).collect()
}

/// What a call puts in place of a function's parameters.
struct Call<'n> {
    attributes: HashMap<&'n str, &'n AttributeProto>,
    /// Inputs that are not given.
    absent: HashSet<&'n str>,
}

impl Call<'_> {
    fn node(&self, n: &NodeProto) -> NodeProto {
        let mut n = n.clone();
        n.input.iter_mut().filter(|i| self.absent.contains(i.as_str())).for_each(String::clear);
        n.attribute = std::mem::take(&mut n.attribute).into_iter().filter_map(|a| self.attribute(a)).collect();
        n
    }

    /// An attribute that refers to one of the function's is that one, and is left out where that is.
    fn attribute(&self, mut a: AttributeProto) -> Option<AttributeProto> {
        if !a.ref_attr_name.is_empty() {
            let given = self.attributes.get(a.ref_attr_name.as_str())?;
            return Some(AttributeProto { name: a.name, ..(*given).clone() });
        }
        for g in a.g.as_mut().into_iter().chain(&mut a.graphs) {
            g.node = g.node.iter().map(|n| self.node(n)).collect();
        }
        Some(a)
    }
}
