//! `completions`: completions for a shell.

use super::report::Reporter;
use super::{Globals, Outcome};
use crate::driver::Result;
use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    /// The shell.
    pub shell: Shell,
    #[command(flatten)]
    pub globals: Globals,
}

pub fn run(args: &Args, _: &Reporter) -> Result<Outcome> {
    let mut out = vec![];
    clap_complete::generate(args.shell, &mut super::Cli::command(), "tersor", &mut out);
    let text = String::from_utf8_lossy(&out).into_owned();
    Ok(Outcome { data: json!({ "script": text }), text, ..Outcome::default() })
}
