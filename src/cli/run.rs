//! `run`: executes an artifact.

use super::report::Reporter;
use super::{Globals, Outcome};
use crate::driver::{Result, runtime_error};
use tersor_ir::Diagnostic;

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub args: tersor_runtime::cli::run::RunArgs,
    #[command(flatten)]
    pub globals: Globals,
}

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    if reporter.dry_run() {
        return outcome(tersor_runtime::cli::run::dry_run(&args.args));
    }
    outcome(tersor_runtime::cli::run::run(&args.args, reporter.limits()))
}

/// The runtime's outcome as one of ours.
pub fn outcome(result: tersor_runtime::Result<tersor_runtime::cli::Outcome>) -> Result<Outcome> {
    let o = result.map_err(|e| vec![runtime_error(e)])?;
    let one = |d: tersor_runtime::cli::Diagnostic| {
        let mut out = Diagnostic::warning(d.code, d.message);
        out.help = d.help;
        out
    };
    Ok(Outcome { data: o.data, text: o.text, diagnostics: o.diagnostics.into_iter().map(one).collect(), exit: 0 })
}
