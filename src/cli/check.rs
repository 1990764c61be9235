//! `check`: every finding about a model at once; exit status 1 when there are any.

use super::report::Reporter;
use super::shared::ShapeArgs;
use super::{Globals, Outcome};
use crate::driver::{self, Result, Topic, targets};
use serde_json::json;
use std::fmt::Write;
use std::path::PathBuf;
use tersor_ir::Failure;
use tersor_ir::diag::Severity;

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tersor check model.onnx")]
pub struct Args {
    /// An ONNX model, a folder with one, a .tir file or an artifact.
    pub model: PathBuf,
    #[command(flatten)]
    pub shapes: ShapeArgs,
    /// Targets that must have kernels for it, such as native or x86-64-v3,x86-64+amx; all x86-64 ones where nothing is said.
    #[arg(long, value_name = "LIST")]
    pub target: Option<String>,
    #[command(flatten)]
    pub globals: Globals,
}

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    let targets = targets(args.target.as_deref())?;
    let options = args.shapes.options(&[])?;
    let checked = reporter.watch(|watch| driver::check(&args.model, &options, &targets, watch))?;
    let names: Vec<&str> = targets.iter().map(|t| t.isa.name()).collect();
    let count = |topic: Topic, least: Severity, most: Severity| {
        let counted = |d: &tersor_ir::Diagnostic| (least..=most).contains(&d.severity);
        checked.findings.iter().filter(|(t, d)| *t == topic && counted(d)).count()
    };
    let mut text = format!("{}    for {}\n", args.model.display(), names.join(", "));
    let mut topics = serde_json::Map::new();
    for (topic, name) in Topic::ALL {
        let errors = count(topic, Severity::Error, Severity::Error);
        let warnings = count(topic, Severity::Warning, Severity::Warning);
        let line = if errors + warnings == 0 { "none".into() } else { format!("{errors} errors, {warnings} warnings") };
        let _ = writeln!(text, "{name:<9} {line}");
        topics.insert(name.into(), json!({ "errors": errors, "warnings": warnings }));
    }
    let limits = options.limits.entries();
    let listed: Vec<String> = limits.iter().map(|(n, v)| format!("{n}={v}")).collect();
    let limits: serde_json::Map<_, _> = limits.into_iter().map(|(n, v)| (n.to_string(), json!(v))).collect();
    let _ = writeln!(text, "limits    {}", listed.join(", "));
    let verdict =
        if checked.compile == 0 { "goes through".into() } else { format!("ends with exit status {}", checked.compile) };
    let _ = writeln!(text, "compile   {verdict}");
    let findings: Vec<_> = checked
        .findings
        .iter()
        .map(|(topic, d)| {
            let level = match d.severity {
                Severity::Note => "note",
                Severity::Warning => "warning",
                Severity::Error => "error",
            };
            let node = d.loc.onnx_node();
            json!({ "topic": topic.name(), "level": level, "code": d.code, "message": d.message, "node": node, "help": d.help })
        })
        .collect();
    let data = json!({
        "model": args.model, "targets": names, "topics": topics, "findings": findings, "compile": checked.compile, "limits": limits,
    });
    let exit = u8::from(checked.count() > 0);
    let diagnostics = checked.findings.into_iter().map(|(_, d)| d.failure(Failure::Gate)).collect();
    Ok(Outcome { data, text, diagnostics, exit, ..Outcome::default() })
}
