//! `explain`: what a pass or an op does, what a diagnostic code means, or what became of a site and why.

use super::report::Reporter;
use super::shared::{BuildArgs, no_effect, usage};
use super::{Globals, Outcome};
use crate::driver::{self, Explained, Result, Source};
use serde_json::json;
use std::fmt::Write;
use tersor_ir::OpKind;
use tersor_ir::ops::reference::prose;
use tersor_passes::PASSES;
use tersor_passes::choose::EXACT;
use tersor_passes::suggest::near;
use tersor_runtime::cli::bytes;

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tersor explain quantize
  tersor explain S0104
  tersor explain fc1 model.tsr
  tersor explain fc1 model.onnx -p int8 --calib data/")]
pub struct Args {
    /// A pass, an op, a diagnostic code; or, with a model or artifact, a site: the name of a value or of an ONNX node.
    pub what: String,
    #[command(flatten)]
    pub build: BuildArgs,
    #[command(flatten)]
    pub globals: Globals,
}

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    let pipeline = args.build.pipeline.or("lossless")?;
    if args.build.model.is_none() && pipeline.model.is_none() {
        return word(&args.what);
    }
    let model = args.build.model(&pipeline)?;
    reporter.watch(|watch| {
        let loaded = driver::load_watched(&model, &args.build.import(&pipeline)?, watch)?;
        let mut diagnostics = loaded.notes;
        let e = if let Source::Artifact = loaded.source {
            if args.build.pipeline.pipeline.is_some() {
                diagnostics.push(no_effect("--pipeline", "an artifact has been through its passes"));
            }
            driver::explain_artifact(&loaded.path, &loaded.module, &args.what)?
        } else {
            let done = driver::optimize(loaded.module, &pipeline, &args.build.optimize(&pipeline)?, watch)?;
            diagnostics.extend(done.warnings());
            driver::explain(&done.module, &driver::decisions(&done.steps), &args.what)?
        };
        Ok(Outcome { data: json!(e), text: text(&e), diagnostics, ..Outcome::default() })
    })
}

fn text(e: &Explained) -> String {
    let mut out = format!("site     %{}\n", e.site);
    if let Some(node) = &e.node {
        let _ = writeln!(out, "from     {node}");
    }
    for op in &e.ops {
        let _ = writeln!(out, "now      {op}");
    }
    if e.ops.is_empty() {
        let _ = writeln!(out, "now      nothing of this name: it became part of something else");
    }
    for d in &e.decisions {
        let _ = writeln!(out, "pass     {}", d.pass);
        match (&d.picked, &d.reason) {
            (Some(p), _) => {
                let _ = writeln!(out, "  took   {p}: {} -> {}", bytes(d.bytes_before), bytes(d.bytes_after));
            }
            (None, reason) => {
                let _ =
                    writeln!(out, "  kept   the exact {}: {}", d.op, reason.as_deref().unwrap_or("nothing is offered"));
            }
        }
        for c in &d.considered {
            let error = c.rel_l2.map_or(String::new(), |e| format!("  rel-l2 {e:.2e} at the site"));
            let taken = if d.picked.as_deref().unwrap_or(EXACT) == c.name { "  taken" } else { "" };
            let time = format!("{:.1} us", c.ns as f64 / 1e3);
            let _ = writeln!(out, "  {:<16} {:>9} {time:>10}{error}{taken}", c.name, bytes(c.bytes));
        }
    }
    if e.decisions.is_empty() {
        let _ = writeln!(out, "pass     none that approximates had it as a site");
    }
    for s in &e.steps {
        let _ = writeln!(out, "kernel   {}  {}", s.variant, s.kernel);
    }
    out
}

/// What the page of diagnostics says of a code, in any case.
fn code(what: &str) -> Option<String> {
    let start = format!("- `{}`: ", what.to_ascii_uppercase());
    let line = include_str!("../../docs/diagnostics.md").lines().find_map(|l| l.strip_prefix(&*start))?;
    Some(format!("{}\n  {line}\n", what.to_ascii_uppercase()))
}

/// A pass, an op or a code.
fn word(what: &str) -> Result<Outcome> {
    if let Some(p) = PASSES.iter().find(|p| p.name == what) {
        let text = super::passes::page(p);
        return Ok(Outcome { data: json!({ "doc": text }), text, ..Outcome::default() });
    }
    let specs = || OpKind::ALL.iter().map(|k| k.spec());
    if let Some(s) = specs().find(|s| s.mnemonics.contains(&what)) {
        let mut text = format!("{what}\n");
        prose(s.doc).lines().for_each(|l| text += &format!("  {l}\n"));
        s.attrs.iter().for_each(|a| text += &format!("  {:<24} {}\n", a.0, prose(a.1)));
        return Ok(Outcome { data: json!({ "doc": text }), text, ..Outcome::default() });
    }
    if let Some(said) = code(what) {
        return Ok(Outcome { data: json!({ "doc": said }), text: said, ..Outcome::default() });
    }
    let d = usage(format!("`{what}` is no pass, no op and no diagnostic code"));
    let passes = PASSES.iter().map(|p| p.name);
    let known: Vec<&str> = passes.chain(specs().flat_map(|s| s.mnemonics.iter().copied())).collect();
    let site = "for a site, name the model or artifact too: tersor explain fc1 model.tsr";
    Err(vec![d.with_help(near(what, &known).map_or(site.into(), |n| format!("did you mean `{n}`?")))])
}
