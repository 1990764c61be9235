//! What a model file consists of, without importing it.

use crate::limits::Limits;
use crate::proto::{self, Kind};
use crate::{tensor, wire};
use std::collections::HashSet;
use std::path::Path;
use tersor_ir::diag::Result;
use tersor_ir::{Diagnostic, Failure};

/// The operators of the nodes of a file's graph, in the file's order, with the domain before those that are not of `ai.onnx`. Fails on a file that cannot
/// be read or decoded; whether the operators are known and used rightly is not looked at.
pub fn node_operators(path: &Path) -> Result<Vec<String>> {
    let shown = |domain: &str, op: &str| match domain {
        "" | "ai.onnx" => op.to_string(),
        domain => format!("{domain}.{op}"),
    };
    Ok(read(path)?.graph.node.iter().map(|n| shown(&n.domain, &n.op_type)).collect())
}

/// An input or output of a file's graph.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// What it is made of; what has no tensors counts as one.
    pub kind: Kind,
}

/// The inputs that a file's graph takes and its outputs, in the file's order; inputs that an initializer gives are left out. Fails as [`node_operators`].
pub fn interface(path: &Path) -> Result<(Vec<Port>, Vec<Port>)> {
    let graph = read(path)?.graph;
    let given: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let port = |v: &proto::ValueInfoProto| Port {
        name: v.name.clone(),
        kind: proto::tensors(v).map(|t| t.0).unwrap_or_default(),
    };
    let inputs = graph.input.iter().filter(|i| !given.contains(i.name.as_str()));
    Ok((inputs.map(port).collect(), graph.output.iter().map(port).collect()))
}

fn read(path: &Path) -> Result<proto::ModelProto> {
    let name = path.display().to_string();
    let file = tensor::map(path)
        .map_err(|e| Diagnostic::error("O0003", format!("cannot read {name}: {e}")).failure(Failure::File))?;
    wire::skeleton(&file, Limits::default().message_nesting)
        .and_then(|s| proto::decode(&s.bytes))
        .map_err(|d| d.in_file(name))
}
