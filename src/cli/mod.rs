//! The `tersor` command: arguments in, one result out.
//!
//! A command is a function from its arguments to an [`Outcome`]; only `report` prints and only `main` exits. With `--json` exactly one document goes to stdout,
//! whatever happens; without it, results go to stdout and all else to stderr.

mod bench;
mod calibrate;
mod cat;
mod compile;
mod completions;
mod diff;
mod globals;
mod inspect;
mod opt;
mod passes;
mod report;
mod run;
mod schema;
mod shared;
mod targets;
mod test;
mod verify;

pub use globals::{Globals, JsonMode};
pub use report::Outcome;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use report::Reporter;
use std::process::ExitCode;
use tersor_ir::{Diagnostic, Failure};

/// Makes trained neural networks smaller and faster, and says what that cost.
#[derive(Parser)]
#[command(name = "tersor", version, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(after_help = "Examples:
  tersor inspect model.onnx
  tersor compile model.onnx -o model.tsr
  tersor compile model.onnx -p int8 --calib data/ -o model.tsr --target x86-64+amx
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
            fn json(&self) -> Option<JsonMode> {
                match self { $(Command::$variant(a) => a.json(),)* }
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
    /// Compile a model to an artifact.
    Compile compile;
    /// Execute an artifact on given inputs.
    Run run;
    /// Compare what a program gives with a reference, as a gate.
    Verify verify;
    /// Time an artifact, or two against each other.
    Bench bench;
    /// Show how two models, IR files or artifacts differ.
    Diff diff;
    /// Run passes and write the IR.
    Opt opt;
    /// Collect activation statistics once, for use in many compilations.
    Calibrate calibrate;
    /// List passes and presets, or describe one.
    Passes passes;
    /// List targets.
    Targets targets;
    /// Run `.tir` cases.
    Test test;
    /// Print the IR of a model, IR file or artifact.
    Cat cat;
    /// Print the JSON schema of a command's document.
    Schema schema;
    /// Print completions for a shell.
    Completions completions;
}

/// Parses the command line, runs the command, and gives its exit status.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => {
            let reporter = Reporter::new(cli.command.name(), cli.command.json(), cli.command.globals().clone());
            reporter.run(|r| cli.command.run(r))
        }
        Err(e) => usage(&e),
    }
}

/// Prints help and version as asked for, and a wrong command line as an error like any other.
fn usage(error: &clap::Error) -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let json = arguments.iter().any(|a| a == "--json" || a.starts_with("--json="));
    if asked || !json {
        let _ = error.print();
        return ExitCode::from(if asked { 0 } else { 2 });
    }
    let command = arguments.get(1).and_then(|a| COMMANDS.iter().find(|c| *c == a)).unwrap_or(&"tersor");
    let text = error.to_string();
    let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let d = Diagnostic::error("C0001", message).failure(Failure::Usage).with_help("see tersor --help");
    Reporter::new(command, Some(JsonMode::Document), Globals::default()).run(|_| Err(vec![d]))
}
