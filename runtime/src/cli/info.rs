//! `info`: what an artifact holds, whether or not this CPU can run it.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::artifact::Symbol;
use crate::cli::{Outcome, bytes};
use crate::cpu::Features;
use crate::error::Result;
use crate::load::{describe, describe_extent};
use crate::plan::at_hints;
use crate::reader::Artifact;

#[derive(Args, Clone, Debug)]
pub struct InfoArgs {
    /// The artifact.
    pub artifact: PathBuf,
    /// Check every checksum.
    #[arg(long)]
    pub verify: bool,
}

pub fn info(args: &InfoArgs) -> Result<Outcome> {
    let artifact = Artifact::open(&args.artifact)?;
    if args.verify {
        artifact.verify()?;
    }
    let m = artifact.manifest();
    let features = Features::detect();
    let weights: u64 = m.constants.iter().map(|c| c.length).sum();
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(text, "{key:<9} {value}");
        }
    };
    line("model", m.name.clone());
    line("made by", m.tool.clone());
    line("source", m.source.clone());
    line("pipeline", m.pipeline.clone());
    let values = |values: &[crate::artifact::Value]| -> Value {
        let dims = |v: &crate::artifact::Value| v.dims.iter().map(|&d| describe_extent(m, d)).collect::<Vec<_>>();
        values.iter().map(|v| json!({ "name": v.name, "dtype": v.dtype().name(), "dims": dims(v) })).collect()
    };
    for v in &m.inputs {
        line("input", describe(m, v));
    }
    for v in &m.outputs {
        line("output", describe(m, v));
    }
    for s in &m.symbols {
        let max = if s.max == Symbol::UNBOUNDED { String::new() } else { s.max.to_string() };
        line(
            "extent",
            match s.cap {
                Some(cap) => format!("{} 0..{}, decided by the data", s.name, describe_extent(m, cap)),
                None => format!("{} {}..{max}, typically {}", s.name, s.min, s.hint),
            },
        );
    }
    let mut variants = Vec::new();
    for v in &m.variants {
        let missing = features.missing(&v.features);
        let code = m.sections[v.code as usize].length;
        let runs = if missing.is_empty() { "runs here".into() } else { format!("needs {}", missing.join(", ")) };
        let steps = v.program.steps.len();
        let arena = at_hints(m, v).map_or(0, |p| p.peak);
        line(
            "variant",
            format!("{}: {} kernels, {steps} steps, {} code; {runs}", v.name, v.kernels.len(), bytes(code)),
        );
        variants.push(json!({
            "name": v.name, "features": v.features, "missing": missing, "kernels": v.kernels.len(), "steps": steps,
            "code_bytes": code, "arena_bytes": arena,
        }));
    }
    line("weights", format!("{} in {} constants", bytes(weights), m.constants.len()));
    for s in &m.sections {
        line("section", format!("{} {}", s.name, bytes(s.length)));
    }
    let symbols: Value = m
        .symbols
        .iter()
        .map(|s| {
            let max = Some(s.max).filter(|&m| m != Symbol::UNBOUNDED);
            let cap = s.cap.map(|cap| describe_extent(m, cap));
            json!({ "name": s.name, "min": s.min, "max": max, "hint": s.hint, "cap": cap })
        })
        .collect();
    let sections: Value = m.sections.iter().map(|s| json!({ "name": s.name, "bytes": s.length })).collect();
    let data = json!({
        "model": m.name, "tool": m.tool, "source": m.source, "pipeline": m.pipeline,
        "inputs": values(&m.inputs), "outputs": values(&m.outputs), "symbols": symbols,
        "variants": variants, "weight_bytes": weights, "constants": m.constants.len(), "sections": sections,
        "file_bytes": artifact.file_bytes(), "verified": args.verify,
    });
    Ok(Outcome { data, text, diagnostics: Vec::new() })
}
