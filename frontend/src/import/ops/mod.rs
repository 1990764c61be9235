//! The table of operators: each entry decodes one ONNX operator into ops of the IR.
//!
//! To add an operator that is a composition of existing ops, add one entry to the topic file that it belongs to.

mod attention;
mod einsum;
mod elementwise;
mod known;
mod movement;
mod nn;
mod quantized;
mod reduce;
mod resize;
mod transposed;

use super::Meaning;
use super::node::NodeCx;
use crate::proto::NodeProto;
use std::collections::HashMap;
use std::sync::LazyLock;
use tersor_ir::diag::Result;
use tersor_ir::{Diagnostic, Failure};

/// An importer of one operator: the results' meanings, in order.
pub(super) type Import = fn(&mut NodeCx) -> Result<Vec<Meaning>>;

/// Operators of one topic.
type Topic = &'static [(&'static str, Import)];

const TOPICS: &[Topic] = &[
    attention::OPS,
    einsum::OPS,
    elementwise::OPS,
    known::OPS,
    movement::OPS,
    nn::OPS,
    quantized::OPS,
    reduce::OPS,
    resize::OPS,
    transposed::OPS,
];

/// Every operator that is imported, by name.
pub fn operators() -> impl Iterator<Item = &'static str> {
    TOPICS.iter().flat_map(|t| t.iter().map(|(n, _)| *n))
}

/// What decodes a node, if anything does.
pub(super) fn find(node: &NodeProto) -> Result<Import> {
    if !(node.domain.is_empty() || node.domain == "ai.onnx") {
        let message = format!("operator {} of domain {} is not supported", node.op_type, node.domain.escape_debug());
        return Err(Diagnostic::error("O0032", message).failure(Failure::Unsupported));
    }
    static TABLE: LazyLock<HashMap<&str, Import>> =
        LazyLock::new(|| TOPICS.iter().flat_map(|t| t.iter().copied()).collect());
    TABLE.get(node.op_type.as_str()).copied().ok_or_else(|| {
        let message = format!("operator {} is not supported", node.op_type.escape_debug());
        Diagnostic::error("O0032", message).failure(Failure::Unsupported)
    })
}

/// Decodes a node.
pub(super) fn import(cx: &mut NodeCx, import: Import) -> Result<Vec<Meaning>> {
    if let Some(results) = known::evaluate(cx)? {
        return Ok(results);
    }
    import(cx)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_operator_has_one_entry() {
        let mut names: Vec<_> = super::operators().collect();
        let n = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), n);
    }
}
