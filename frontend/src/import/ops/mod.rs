//! The table of operators: each entry decodes one ONNX operator into ops of the IR.
//!
//! To add an operator that is a composition of existing ops, add one entry to the topic file that it belongs to.

mod attention;
mod control;
mod einsum;
mod elementwise;
mod gradient;
mod image;
mod indexing;
mod inverse;
mod known;
mod linear_attention;
mod loops;
mod loss;
mod microsoft;
mod microsoft_attention;
mod microsoft_nbits;
mod microsoft_quantized;
mod ml_features;
mod ml_linear;
mod ml_maps;
mod ml_trees;
mod ml_vectors;
mod movement;
mod nn;
mod quantized;
mod random;
mod recurrent;
mod reduce;
mod resize;
mod sampling;
mod selection;
mod sequences;
mod signal;
mod text;
mod training;
mod transposed;
mod unpool;
mod vectorizer;
mod windows;

use super::Meaning;
use super::node::NodeCx;
use crate::proto::NodeProto;
pub(super) use selection::Selected;
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
    control::OPS,
    einsum::OPS,
    elementwise::OPS,
    gradient::OPS,
    image::OPS,
    indexing::OPS,
    inverse::OPS,
    known::OPS,
    linear_attention::OPS,
    loss::OPS,
    microsoft::OPS,
    microsoft_attention::OPS,
    microsoft_nbits::OPS,
    microsoft_quantized::OPS,
    ml_features::OPS,
    ml_linear::OPS,
    ml_maps::OPS,
    ml_trees::OPS,
    ml_vectors::OPS,
    movement::OPS,
    nn::OPS,
    quantized::OPS,
    random::OPS,
    recurrent::OPS,
    reduce::OPS,
    resize::OPS,
    sampling::OPS,
    selection::OPS,
    sequences::OPS,
    signal::OPS,
    text::OPS,
    training::OPS,
    transposed::OPS,
    unpool::OPS,
    vectorizer::OPS,
    windows::OPS,
];

/// Every operator that is imported, by name; those of other domains than `ai.onnx` after their domain and a colon.
pub fn operators() -> impl Iterator<Item = &'static str> {
    TOPICS.iter().flat_map(|t| t.iter().map(|(n, _)| *n))
}

/// What decodes a node, if anything does.
pub(super) fn find(node: &NodeProto) -> Result<Import> {
    static TABLE: LazyLock<HashMap<&str, Import>> =
        LazyLock::new(|| TOPICS.iter().flat_map(|t| t.iter().copied()).collect());
    let standard = standard(node);
    let import = if standard {
        TABLE.get(node.op_type.as_str())
    } else {
        TABLE.get(format!("{}:{}", node.domain, node.op_type).as_str())
    };
    import.copied().ok_or_else(|| {
        let of = if standard { String::new() } else { format!(" of domain {}", node.domain.escape_debug()) };
        let message = format!("operator {}{of} is not supported", node.op_type.escape_debug());
        Diagnostic::error("O0032", message).failure(Failure::Unsupported)
    })
}

/// Whether an operator is one of `ai.onnx`.
pub(super) fn standard(node: &NodeProto) -> bool {
    node.domain.is_empty() || node.domain == "ai.onnx"
}

/// Decodes a node.
pub(super) fn import(cx: &mut NodeCx, import: Import) -> Result<Vec<Meaning>> {
    if standard(cx.node)
        && let Some(results) = known::evaluate(cx)?
    {
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
