//! What can be said about a file before its operators are decoded, and what the file says about its own types.

use super::{Importer, loc_of};
use crate::limits::Limits;
use crate::proto::{self, Extent, GraphProto, ModelProto, ValueInfoProto};
use crate::tensor;
use foldhash::{HashMap, HashSet};
use tersor_ir::diag::Result;
use tersor_ir::{DType, Diagnostic, Failure, Tensor, ValueId};

/// The opset versions that operators are decoded for.
pub(super) const OPSETS: std::ops::RangeInclusive<i64> = 1..=28;

/// The version of `ai.onnx` that the model asks for.
pub(super) fn header(model: &ModelProto, limits: &Limits) -> Result<i64, Vec<Diagnostic>> {
    let mut errors = vec![];
    let mut versions = HashMap::default();
    for o in &model.opset_import {
        let domain = if o.domain.is_empty() { "ai.onnx" } else { &o.domain };
        if versions.insert(domain, o.version).is_some_and(|v| v != o.version) {
            let message = format!("two versions of domain {} are imported", domain.escape_debug());
            errors.push(Diagnostic::error("O0004", message));
        }
    }
    match versions.get("ai.onnx") {
        Some(v) if !OPSETS.contains(v) => {
            let d = Diagnostic::error("O0005", format!("opset {v} of domain ai.onnx is not supported"));
            let d = d.with_note(format!("supported are {} to {}", OPSETS.start(), OPSETS.end()));
            errors.push(if (1..=40).contains(v) { d.failure(Failure::Unsupported) } else { d });
        }
        // A file of operators of other domains alone needs none.
        None if model.graph.is_some() && (versions.is_empty() || model.graph.node.iter().any(super::ops::standard)) => {
            errors.push(Diagnostic::error("O0004", "the model imports no version of domain ai.onnx"));
        }
        _ => {}
    }
    if model.graph.is_none() {
        errors.push(Diagnostic::error("O0006", "the file has no graph: it is not an ONNX model, or cut short"));
    } else if model.graph.node.len() > limits.nodes {
        errors.push(limits.exceeded("O0007", "nodes", format!("the graph has {} nodes", model.graph.node.len())));
    }
    if errors.is_empty() { Ok(versions.get("ai.onnx").copied().unwrap_or(*OPSETS.end())) } else { Err(errors) }
}

/// Every name is written once, and of bearable length.
pub(super) fn names(g: &GraphProto, limits: &Limits) -> Vec<Diagnostic> {
    let (mut errors, most) = (vec![], limits.name_bytes);
    let mut check = |name: &str, fresh: bool, what: &str| {
        if name.len() > most {
            let message = format!("a name of {} bytes is longer than {most}", name.len());
            errors.push(Diagnostic::error("O0008", message));
        }
        if !fresh {
            errors.push(Diagnostic::error("O0020", format!("two {what} are named \"{}\"", short(name))));
        }
    };
    let mut made = HashSet::default();
    for i in proto::initializers(g) {
        check(i.name(), made.insert(i.name()), "initializers");
    }
    let (mut inputs, mut outputs) = (HashSet::default(), HashSet::default());
    for i in &g.input {
        check(&i.name, inputs.insert(i.name.as_str()), "inputs");
    }
    for o in &g.output {
        check(&o.name, outputs.insert(o.name.as_str()), "outputs");
    }
    for node in &g.node {
        for name in node.output.iter().filter(|n| !n.is_empty()) {
            let long = name.len() > most || node.name.len() > most;
            if long || !made.insert(name) || inputs.contains(name.as_str()) {
                let (code, what) = match long {
                    true => ("O0008", format!("a name is longer than {most} bytes")),
                    false => ("O0020", written_twice(name)),
                };
                errors.push(Diagnostic::error(code, what).at_loc(&loc_of(node)));
            }
        }
    }
    errors
}

fn written_twice(name: &str) -> String {
    format!("\"{}\" is written twice", short(name))
}

/// A name for a message.
pub(super) fn short(name: &str) -> String {
    let mut s: String = name.escape_debug().take(120).collect();
    if s.len() < name.len() && s.chars().count() == 120 {
        s.push('…');
    }
    s
}

/// The name of a value and its declared extents, as far as they are numbers; `None` where no rank is declared.
pub(super) fn declared_extents(info: &ValueInfoProto) -> Option<(String, Vec<Option<usize>>)> {
    let number = |e: Extent| if let Extent::Value(n) = e { usize::try_from(n).ok() } else { None };
    let dims = proto::tensor_type(info)?.1?;
    Some((info.name.clone(), dims.into_iter().map(number).collect()))
}

/// A warning about a weight that is infinite or not a number in places.
pub(super) fn finite(name: &str, t: &Tensor) -> Option<Diagnostic> {
    // The largest exponent stands for both. Taking the maximum of all magnitudes goes at the speed of memory.
    let magnitude32 = |c: &[u8]| u32::from_le_bytes([c[0], c[1], c[2], c[3]]) & 0x7fff_ffff;
    let magnitude16 = |c: &[u8]| u16::from_le_bytes([c[0], c[1]]) & 0x7fff;
    let largest16 = || t.bytes().chunks_exact(2).map(magnitude16).fold(0, u16::max);
    let odd = match t.dtype() {
        DType::F32 => t.bytes().chunks_exact(4).map(magnitude32).fold(0, u32::max) >= 0x7f80_0000,
        DType::BF16 => largest16() >= 0x7f80,
        DType::F16 => largest16() >= 0x7c00,
        _ => false,
    };
    odd.then(|| Diagnostic::warning("O0029", format!("tensor \"{}\" holds infinite elements or NaN", short(name))))
}

impl Importer<'_> {
    /// Compares what the file declares about a result with what was inferred: another element type of an output is an error, other extents are a warning.
    pub(super) fn declared(&mut self, info: &ValueInfoProto, v: ValueId, output: bool) {
        let (ty, Some((number, dims))) = (self.b.ty(v).clone(), proto::tensor_type(info)) else { return };
        let what = format!("\"{}\" is declared", short(&info.name));
        if let Some(dtype) = tensor::dtype(number).filter(|&d| d != ty.dtype) {
            let message = format!("{what} as {dtype}, it is {}", ty.dtype);
            if output {
                self.errors.push(Diagnostic::error("O0027", message));
            } else {
                self.notes.push(Diagnostic::warning("O0027", message));
            }
            return;
        }
        let Some(dims) = dims else { return };
        let differs = |(d, e): (&tersor_ir::Dim, &Extent)| match (d.as_const(), e) {
            (Some(d), Extent::Value(e)) => d != *e,
            _ => false,
        };
        if dims.len() != ty.rank() || ty.shape.iter().zip(&dims).any(differs) {
            let one = |e: &Extent| match e {
                Extent::Value(n) => n.to_string(),
                Extent::Param(p) => p.escape_debug().to_string(),
                Extent::Unknown => "?".into(),
            };
            let dims: Vec<String> = dims.iter().map(one).collect();
            let message = format!("{what} with extents [{}], it is {ty}; the inferred extents count", dims.join(","));
            self.notes.push(Diagnostic::warning("O0028", message));
        }
    }
}
