//! `run`: executes an artifact, or a model that is compiled for it.

use super::report::Reporter;
use super::shared::runnable;
use super::{Globals, Outcome};
use crate::driver::{Result, runtime_error};
use tersor_ir::Diagnostic;

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "A model (.onnx, .tir, or a folder with one) is compiled first, exactly and for this machine.

Examples:
  tersor run model.tsr --input x=@cat.npy --print top5
  tersor run model.tsr --inputs data.npz --batch 100 -o out.npz
  tersor run model.onnx --input x=random")]
pub struct Args {
    #[command(flatten)]
    pub args: tersor_runtime::cli::run::RunArgs,
    #[command(flatten)]
    pub globals: Globals,
}

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    let (artifact, _made) = runnable(&args.args.model.artifact, reporter)?;
    let mut args = args.args.clone();
    args.model.artifact = artifact;
    if reporter.dry_run() {
        return outcome(tersor_runtime::cli::run::dry_run(&args));
    }
    outcome(tersor_runtime::cli::run::run(&args, reporter.limits()))
}

/// The runtime's outcome as one of ours.
pub fn outcome(result: tersor_runtime::Result<tersor_runtime::cli::Outcome>) -> Result<Outcome> {
    let o = result.map_err(|e| vec![runtime_error(e)])?;
    let one = |d: tersor_runtime::cli::Diagnostic| {
        let mut out = Diagnostic::warning(d.code, d.message);
        out.help = d.help;
        out
    };
    Ok(Outcome {
        data: o.data,
        text: o.text,
        diagnostics: o.diagnostics.into_iter().map(one).collect(),
        ..Outcome::default()
    })
}
