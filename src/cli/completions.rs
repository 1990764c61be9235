//! `completions`: completions for a shell, or the pages of the manual.

use super::report::Reporter;
use super::shared::usage;
use super::{Globals, Outcome};
use crate::driver::Result;
use clap::{Command, CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use serde_json::json;

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tersor completions bash > /etc/bash_completion.d/tersor
  tersor completions man > tersor.1")]
pub struct Args {
    /// What to print.
    pub what: What,
    #[command(flatten)]
    pub globals: Globals,
}

/// A shell, or the manual.
#[derive(Copy, Clone, Debug, ValueEnum)]
pub enum What {
    /// Bash.
    Bash,
    /// Elvish.
    Elvish,
    /// Fish.
    Fish,
    /// PowerShell.
    Powershell,
    /// Zsh.
    Zsh,
    /// Pages for `man`: the command, then each of its commands.
    Man,
}

pub fn run(args: &Args, _: &Reporter) -> Result<Outcome> {
    let mut out = vec![];
    let shell = match args.what {
        What::Bash => Some(Shell::Bash),
        What::Elvish => Some(Shell::Elvish),
        What::Fish => Some(Shell::Fish),
        What::Powershell => Some(Shell::PowerShell),
        What::Zsh => Some(Shell::Zsh),
        What::Man => None,
    };
    match shell {
        Some(shell) => clap_complete::generate(shell, &mut super::Cli::command(), "tersor", &mut out),
        None => manual(&mut out).map_err(|e| vec![usage(format!("the manual cannot be written: {e}"))])?,
    }
    let text = String::from_utf8_lossy(&out).into_owned();
    Ok(Outcome { data: json!({ "script": text }), text, ..Outcome::default() })
}

fn manual(out: &mut Vec<u8>) -> std::io::Result<()> {
    let mut all = super::Cli::command();
    all.build();
    Man::new(all.clone()).render(out)?;
    let page = |c: &Command| Man::new(c.clone()).title(format!("tersor-{}", c.get_name()));
    all.get_subcommands().try_for_each(|c| page(c).render(out))
}
