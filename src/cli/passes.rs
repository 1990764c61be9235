//! `passes`: the passes and presets there are, and what their options do.

use super::report::Reporter;
use super::{Globals, Outcome};
use crate::driver::Result;
use serde_json::json;
use std::fmt::Write;
use tersor_passes::PASSES;
use tersor_passes::declare::PassSpec;
use tersor_passes::pipeline::PRESETS;
use tersor_passes::suggest::did_you_mean;

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    /// Describe this pass.
    pub name: Option<String>,
    /// Print the file of this preset.
    #[arg(long, value_name = "NAME", conflicts_with = "name")]
    pub preset: Option<String>,
    #[command(flatten)]
    pub globals: Globals,
}

pub fn run(args: &Args, _: &Reporter) -> Result<Outcome> {
    if let Some(name) = &args.preset {
        let names: Vec<&str> = PRESETS.iter().map(|p| p.0).collect();
        let (_, file) = PRESETS.iter().find(|p| p.0 == name).ok_or_else(|| {
            vec![super::shared::usage(format!("there is no preset `{name}`")).with_help(did_you_mean(name, &names))]
        })?;
        return Ok(Outcome {
            data: json!({ "preset": name, "toml": file }),
            text: file.to_string(),
            ..Outcome::default()
        });
    }
    if let Some(name) = &args.name {
        let spec = PassSpec::find(name).map_err(|d| vec![d])?;
        return Ok(Outcome { data: json!({ "passes": [describe(spec)] }), text: page(spec), ..Outcome::default() });
    }
    let mut text = String::new();
    for p in PASSES {
        let _ = writeln!(text, "{:<12} {}", p.name, p.doc.first().unwrap_or(&"").trim());
    }
    let presets: Vec<&str> = PRESETS.iter().map(|p| p.0).collect();
    let _ = writeln!(text, "presets      {}", presets.join(", "));
    let all: Vec<_> = PASSES.iter().map(|p| describe(p)).collect();
    Ok(Outcome { data: json!({ "passes": all, "presets": presets }), text, ..Outcome::default() })
}

fn joined(doc: &[&str]) -> String {
    doc.iter().map(|l| l.trim()).collect::<Vec<_>>().join(" ").trim().to_string()
}

fn describe(p: &PassSpec) -> serde_json::Value {
    let options = p.options.iter().zip((p.defaults)());
    json!({
        "name": p.name,
        "doc": joined(p.doc),
        "exact": p.kind == "Rewrite",
        "options": options.map(|(o, d)| json!({ "name": o.name(), "default": d, "doc": joined(o.doc) })).collect::<Vec<_>>(),
        "stats": p.stats.iter().map(|(n, d)| json!({ "name": n, "doc": d })).collect::<Vec<_>>(),
    })
}

pub fn page(p: &PassSpec) -> String {
    let kind = if p.kind == "Rewrite" { "exact" } else { "compresses" };
    let mut text = format!("{}  ({kind})\n", p.name);
    for l in p.doc {
        let _ = writeln!(text, "  {}", l.trim());
    }
    for (o, default) in p.options.iter().zip((p.defaults)()) {
        let _ = writeln!(text, "  {:<24} {}", format!("{}={default}", o.name()), joined(o.doc));
    }
    for (name, doc) in p.stats {
        let _ = writeln!(text, "  counts {name}: {doc}");
    }
    text
}
