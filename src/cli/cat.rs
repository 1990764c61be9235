//! `cat`: a module as text.

use super::report::Reporter;
use super::shared::{ShapeArgs, load_model};
use super::{Globals, Outcome};
use crate::driver::Result;
use serde_json::json;
use std::path::PathBuf;
use tersor_ir::text::{PrintOptions, print_with};

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tersor cat model.tsr")]
pub struct Args {
    /// An ONNX model, .tir file or artifact.
    pub model: PathBuf,
    /// Show where ops come from.
    #[arg(long)]
    pub locations: bool,
    /// Leave the statistics of constants out.
    #[arg(long)]
    pub no_statistics: bool,
    #[command(flatten)]
    pub shapes: ShapeArgs,
    #[command(flatten)]
    pub globals: Globals,
}

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    let mut diagnostics = vec![];
    let loaded = load_model(&args.model, &args.shapes, reporter.limits(), &mut diagnostics)?;
    let options = PrintOptions { statistics: !args.no_statistics, locations: args.locations };
    let text = print_with(&loaded.module, options);
    Ok(Outcome { data: json!({ "tir": text }), text, diagnostics, ..Outcome::default() })
}
