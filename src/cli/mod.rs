//! The `tersor` command: arguments in, one result out.
//!
//! A command is a function from its arguments to an [`Outcome`]; only `report` prints and only `main` exits. With `--json` exactly one document goes to stdout,
//! whatever happens; without it, results go to stdout and all else to stderr.

mod bench;
mod calibrate;
mod cat;
mod check;
mod compile;
mod completions;
mod config;
mod conformance;
mod diff;
mod explain;
mod export;
mod globals;
mod inspect;
mod opt;
mod passes;
mod reduce;
mod report;
mod run;
mod schema;
mod search;
mod shared;
mod targets;
mod test;
mod verify;

pub use globals::{Globals, JsonMode};
pub use report::Outcome;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use report::Reporter;
use std::ffi::OsString;
use std::process::ExitCode;
use tersor_ir::{Diagnostic, Failure};

/// Makes trained neural networks smaller and faster, and says what that cost.
#[derive(Parser)]
#[command(name = "tersor", version, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(after_help = "Examples:
  tersor inspect model.onnx
  tersor compile model.onnx -o model.tsr
  tersor compile model.onnx -p int8 --calib data/ -o model.tsr --target x86-64+amx
  tersor search  model.onnx -p w.toml --calib data/ --budget size=0.3x -o plan.toml
  tersor run     model.tsr --input x=@cat.npy --print top5
  tersor verify  model.tsr --against model.onnx --inputs data/ --max rel-l2=0.01")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

macro_rules! commands {
    ($($(#[doc = $doc:literal])* $variant:ident $module:ident;)*) => {
        #[derive(Subcommand)]
        enum Command {
            $($(#[doc = $doc])* $variant($module::Args),)*
        }
        /// Names of the commands.
        const COMMANDS: &[&str] = &[$(stringify!($module)),*];
        impl Command {
            fn name(&self) -> &'static str {
                match self { $(Command::$variant(_) => stringify!($module),)* }
            }
            fn globals(&self) -> &Globals {
                match self { $(Command::$variant(a) => &a.globals,)* }
            }
            fn run(&self, reporter: &Reporter) -> Result<Outcome, Vec<Diagnostic>> {
                match self { $(Command::$variant(a) => $module::run(a, reporter),)* }
            }
        }
    };
}
commands! {
    /// Say what is in a model, what will be hard, and what it should cost.
    Inspect inspect;
    /// Say everything that is wrong or odd about a model at once.
    Check check;
    /// Find a plan under a budget: which alternative at which site.
    Search search;
    /// Compile a model to an artifact.
    Compile compile;
    /// Write a module as an ONNX model for other runtimes.
    Export export;
    /// Execute an artifact on given inputs.
    Run run;
    /// Compare what a program gives with a reference, as a gate.
    Verify verify;
    /// Time an artifact, or two against each other.
    Bench bench;
    /// Show how two models, IR files or artifacts differ.
    Diff diff;
    /// Say what a pass or an op does, or what became of a site and why.
    Explain explain;
    /// Run passes and write the IR.
    Opt opt;
    /// Collect activation statistics once, for use in many compilations.
    Calibrate calibrate;
    /// List passes and presets, or describe one.
    Passes passes;
    /// List targets.
    Targets targets;
    /// Shrink a model that fails to a small one that fails in the same way, and name the pass.
    Reduce reduce;
    /// Run `.tir` cases.
    Test test;
    /// Run a folder of ONNX cases: models with inputs and expected outputs.
    Conformance conformance;
    /// Print the IR of a model, IR file or artifact.
    Cat cat;
    /// Print the JSON schema of a command's document.
    Schema schema;
    /// Print completions for a shell.
    Completions completions;
}

/// Parses the command line, runs the command, and gives its exit status.
pub fn main() -> ExitCode {
    let typed: Vec<OsString> = std::env::args_os().collect();
    let (arguments, notes) = match config::expand(typed.clone(), &Cli::command()) {
        Ok(expanded) => expanded,
        Err(errors) => return refuse(&typed, errors),
    };
    let command = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli.command,
        Err(e) => return usage(&e, &arguments),
    };
    Reporter::new(command.name(), command.globals().clone()).run(|r| {
        let mut outcome = command.run(r)?;
        outcome.diagnostics.splice(0..0, notes);
        if r.globals().dry_run && !r.asked_for_dry_run() {
            outcome.diagnostics.push(shared::no_effect("--dry-run", "this command writes nothing"));
        }
        Ok(outcome)
    })
}

/// Prints help and version as asked for, and a wrong command line as an error like any other.
fn usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if asked || !wants_json(arguments) {
        let _ = error.print();
        return ExitCode::from(if asked { 0 } else { 2 });
    }
    let text = error.to_string();
    let mut parts = text.split("\n\n").map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "));
    let message = parts.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let tip = parts.find_map(|p| Some(p.strip_prefix("tip: ")?.to_owned()));
    let help = tip.unwrap_or_else(|| "see tersor --help".into());
    refuse(arguments, vec![Diagnostic::error("C0001", message).failure(Failure::Usage).with_help(help)])
}

fn wants_json(arguments: &[OsString]) -> bool {
    arguments.iter().filter_map(|a| a.to_str()).any(|a| a == "--json" || a.starts_with("--json="))
}

/// Ends with errors in a command line that was not understood.
fn refuse(arguments: &[OsString], errors: Vec<Diagnostic>) -> ExitCode {
    let command = arguments.get(1).and_then(|a| COMMANDS.iter().find(|c| *c == a)).unwrap_or(&"tersor");
    let json = wants_json(arguments).then_some(JsonMode::Document);
    Reporter::new(command, Globals { json, ..Globals::default() }).run(|_| Err(errors))
}
