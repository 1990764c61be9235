//! What a model file consists of, without importing it.

use crate::{proto, tensor, wire};
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

/// The names of the inputs that a file's graph takes, in the file's order: those that no initializer gives. Fails as [`node_operators`].
pub fn input_names(path: &Path) -> Result<Vec<String>> {
    let graph = read(path)?.graph;
    let given: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    Ok(graph.input.iter().map(|i| i.name.clone()).filter(|n| !given.contains(n.as_str())).collect())
}

fn read(path: &Path) -> Result<proto::ModelProto> {
    let name = path.display().to_string();
    let file = tensor::map(path)
        .map_err(|e| Diagnostic::error("O0003", format!("cannot read {name}: {e}")).failure(Failure::File))?;
    wire::skeleton(&file).and_then(|s| proto::decode(&s.bytes)).map_err(|d| d.in_file(name))
}
