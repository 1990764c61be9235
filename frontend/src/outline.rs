//! What a model file consists of, without importing it.

use crate::{proto, tensor, wire};
use std::path::Path;
use tersor_ir::diag::Result;
use tersor_ir::{Diagnostic, Failure};

/// The operators of the nodes of a file's graph, in the file's order, with the domain before those that are not of `ai.onnx`. Fails on a file that cannot
/// be read or decoded; whether the operators are known and used rightly is not looked at.
pub fn node_operators(path: &Path) -> Result<Vec<String>> {
    let name = path.display().to_string();
    let file = tensor::map(path)
        .map_err(|e| Diagnostic::error("O0003", format!("cannot read {name}: {e}")).failure(Failure::File))?;
    let model = wire::skeleton(&file).and_then(|s| proto::decode(&s.bytes)).map_err(|d| d.in_file(name))?;
    let shown = |domain: &str, op: &str| match domain {
        "" | "ai.onnx" => op.to_string(),
        domain => format!("{domain}.{op}"),
    };
    Ok(model.graph.node.iter().map(|n| shown(&n.domain, &n.op_type)).collect())
}
