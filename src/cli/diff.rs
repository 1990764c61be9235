//! `diff`: how two modules differ; exit status 1 when they do.

use super::report::Reporter;
use super::shared::{ShapeArgs, load_model};
use super::{Globals, Outcome};
use crate::driver::Result;
use serde_json::json;
use std::path::PathBuf;
use tersor_ir::text::diff::{Change, diff};

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tersor diff model.onnx model.int8.onnx")]
pub struct Args {
    /// An ONNX model, .tir file or artifact.
    pub first: PathBuf,
    /// What to compare it with.
    pub second: PathBuf,
    #[command(flatten)]
    pub shapes: ShapeArgs,
    #[command(flatten)]
    pub globals: Globals,
}

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    let mut diagnostics = vec![];
    let a = load_model(&args.first, &args.shapes, reporter.limits(), &mut diagnostics)?;
    let b = load_model(&args.second, &args.shapes, reporter.limits(), &mut diagnostics)?;
    let d = diff(&a.module, &b.module);
    let ops: Vec<_> = d
        .funcs
        .iter()
        .flat_map(|f| f.ops.iter().map(move |o| (f, o)))
        .map(|(f, o)| json!({ "func": f.name, "change": word(o.change), "name": o.name, "op": o.op, "detail": o.detail }))
        .collect();
    let constants: Vec<_> = d
        .constants
        .iter()
        .map(|c| {
            let db = c.against.as_ref().map(|a| a.0).filter(|db| db.is_finite());
            let against = c.against.as_ref().map(|a| &a.1);
            json!({ "change": word(c.change), "name": c.name, "type": c.ty, "bytes": c.bytes, "db": db, "against": against })
        })
        .collect();
    let data = json!({
        "equal": d.is_empty(), "ops": ops, "constants": constants,
        "bytes_before": d.bytes.0, "bytes_after": d.bytes.1, "same": d.same, "renamed": d.renamed,
    });
    Ok(Outcome { data, text: d.to_string(), diagnostics, exit: u8::from(!d.is_empty()), ..Outcome::default() })
}

fn word(c: Change) -> &'static str {
    match c {
        Change::Removed => "removed",
        Change::Added => "added",
        Change::Changed => "changed",
    }
}
