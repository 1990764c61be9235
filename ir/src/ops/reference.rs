//! The reference page of the ops, `docs/ops.md`, from their declarations.

use super::{Arity, OpKind, OpSpec, OperandSpec};
use std::fmt::Write as _;

/// The page.
pub fn reference() -> String {
    let mut out = String::from(
        "# Ops\n\nGenerated from the declarations in `ir/src/ops`; do not edit. Element types: `Float` is f64, f32, f16 and bf16; `Int` are integers of at \
         least 8 bits; `Num` is either; `Code` are integers of any width and 8- and 4-bit floats; `Text` is str, `Plain` is any other type but c64 and c128.\n",
    );
    for kind in OpKind::ALL {
        op(&mut out, &format!("{kind:?}"), kind.spec());
    }
    out
}

fn op(out: &mut String, name: &str, spec: &OpSpec) {
    let operand = |o: &OperandSpec| {
        let suffix = match o.arity {
            Arity::One => "",
            Arity::Optional => "?",
            Arity::Many => "…",
        };
        format!("{}{suffix}: {:?}", o.name, o.class)
    };
    let operands: Vec<String> = spec.operands.iter().map(operand).collect();
    let _ = write!(out, "\n## {name}\n\n`{}`\n\n{}\n\n", spec.mnemonics.join("`, `"), prose(spec.doc));
    let _ = writeln!(out, "    ({}) -> ({})", operands.join(", "), spec.results.join(", "));
    if !spec.attrs.is_empty() {
        out.push_str("\n| attribute | default | |\n|---|---|---|\n");
        for (name, doc, default) in spec.attrs {
            let default = default.map_or("required".into(), |d| format!("`{d}`"));
            let _ = writeln!(out, "| `{name}` | {default} | {} |", prose(doc).replace('|', "\\|"));
        }
    }
}

/// Lines of a doc comment as Markdown outside rustdoc: links to items become plain code.
pub fn prose(doc: &[&str]) -> String {
    let text: Vec<&str> = doc.iter().map(|l| l.trim()).collect();
    text.join("\n").replace("[`", "`").replace("`]", "`").trim().to_string()
}
