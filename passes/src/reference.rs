//! The reference page of the passes, `docs/passes.md`, from their declarations.

use crate::PASSES;
use crate::declare::PassSpec;
use crate::pipeline::PRESETS;
use std::fmt::Write as _;
use tersor_ir::ops::reference::prose;

/// The page.
pub fn reference() -> String {
    let mut out = String::from(
        "# Passes\n\nGenerated from the declarations in `passes/src` and the presets in `passes/presets`; do not edit. A rewrite is exact. A proposal \
         compresses: it offers alternatives at sites, which are measured before one is taken.\n",
    );
    for spec in PASSES {
        pass(&mut out, spec);
    }
    out.push_str("\n## Presets\n\nFor `-p`.\n");
    for (name, file) in PRESETS {
        let (about, pipeline): (Vec<&str>, Vec<&str>) = file.lines().partition(|l| l.starts_with('#'));
        let about: Vec<&str> = about.iter().map(|l| l.trim_start_matches('#').trim()).collect();
        let _ = write!(out, "\n### {name}\n\n{}\n\n```toml\n{}\n```\n", about.join("\n"), pipeline.join("\n").trim());
    }
    out
}

fn pass(out: &mut String, spec: &PassSpec) {
    let kind = if spec.kind == "Rewrite" { "rewrite" } else { "proposal" };
    let _ = write!(out, "\n## {}\n\nA {kind}. {}\n", spec.name, prose(spec.doc));
    if !spec.options.is_empty() {
        out.push_str("\n| option | default | |\n|---|---|---|\n");
        for (o, default) in spec.options.iter().zip((spec.defaults)()) {
            let _ = writeln!(out, "| `{}` | `{default}` | {} |", o.name(), cell(&prose(o.doc)));
        }
    }
    if !spec.stats.is_empty() {
        out.push_str("\n| counter | |\n|---|---|\n");
        for (name, what) in spec.stats {
            let _ = writeln!(out, "| `{name}` | {} |", cell(what));
        }
    }
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
