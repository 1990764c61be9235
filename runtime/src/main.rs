//! `tersor-run`: runs and times artifacts on machines that have no compiler.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use tersor_runtime::cli::{self, bench::BenchArgs, info::InfoArgs, run::RunArgs};
use tersor_runtime::{Error, Kind};

/// Runs models that `tersor compile` made.
#[derive(Parser)]
#[command(name = "tersor-run", version, arg_required_else_help = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Execute an artifact on given inputs.
    Run(RunArgs),
    /// Time an artifact.
    Bench(BenchArgs),
    /// Say what an artifact holds.
    Info(InfoArgs),
}

fn main() -> ExitCode {
    let status = match Cli::try_parse() {
        Ok(Cli { command: Command::Run(args) }) => cli::emit("run", args.json, cli::guarded(|| cli::run::run(&args))),
        Ok(Cli { command: Command::Bench(args) }) => {
            cli::emit("bench", args.json, cli::guarded(|| cli::bench::bench(&args)))
        }
        Ok(Cli { command: Command::Info(args) }) => {
            cli::emit("info", args.json, cli::guarded(|| cli::info::info(&args)))
        }
        Err(e) => usage(&e),
    };
    ExitCode::from(u8::try_from(status).unwrap_or(70))
}

/// Prints help and version as asked for, and a wrong command line as an error like any other.
fn usage(error: &clap::Error) -> i32 {
    let arguments: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if asked || !arguments.iter().any(|a| a == "--json") {
        let _ = error.print();
        return if asked { 0 } else { 2 };
    }
    let text = error.to_string();
    let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let known = ["run", "bench", "info"];
    let command = arguments.get(1).filter(|a| known.contains(&a.as_str())).map_or("run", String::as_str);
    cli::emit(command, true, Err(Error::new(Kind::Usage, message)))
}
