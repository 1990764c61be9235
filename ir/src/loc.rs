//! Where an op comes from.

use std::fmt;
use std::sync::Arc;

/// The origin of an op or constant, for diagnostics and profiles.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Loc {
    /// Not known.
    #[default]
    Unknown,
    /// A node of an ONNX graph, by its name (or the name of its first output) and operator.
    Onnx {
        /// Node name as the file has it.
        node: Arc<str>,
        /// Operator, such as `MatMul`.
        op: Arc<str>,
    },
    /// A position in a `.tir` text, counted from 1.
    Text {
        /// Line.
        line: u32,
        /// Column.
        column: u32,
    },
    /// Made by a pass from something else.
    Made {
        /// Pass or rule.
        by: Arc<str>,
        /// Origin of what it was made from.
        from: Arc<Loc>,
    },
}

impl Loc {
    /// The place of a byte of a text.
    pub fn in_text(text: &str, at: usize) -> Loc {
        let before = &text.as_bytes()[..at.min(text.len())];
        let line = before.iter().filter(|&&b| b == b'\n').count() as u32 + 1;
        let column = before.iter().rev().take_while(|&&b| b != b'\n').count() as u32 + 1;
        Loc::Text { line, column }
    }
    /// The same origin, rewritten by `pass`; repeated rewriting by one pass is noted once.
    pub fn made_by(&self, pass: &str) -> Loc {
        match self {
            Loc::Made { by, .. } if &**by == pass => self.clone(),
            _ => Loc::Made { by: pass.into(), from: Arc::new(self.clone()) },
        }
    }
    /// The ONNX node at the root of this origin.
    pub fn onnx_node(&self) -> Option<&str> {
        match self {
            Loc::Onnx { node, .. } => Some(node),
            Loc::Made { from, .. } => from.onnx_node(),
            _ => None,
        }
    }
}

impl fmt::Display for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loc::Unknown => f.write_str("unknown"),
            Loc::Onnx { node, op } => write!(f, "node \"{}\" ({op})", node.escape_debug()),
            Loc::Text { line, column } => write!(f, "line {line}:{column}"),
            Loc::Made { by, from } if **from == Loc::Unknown => write!(f, "made by {by}"),
            Loc::Made { by, from } => write!(f, "{from}, rewritten by {by}"),
        }
    }
}
