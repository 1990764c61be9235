//! `tersor-run`: runs and times artifacts on machines that have no compiler.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use tersor_runtime::cli::{self, OutputArgs, bench::BenchArgs, info::InfoArgs, run::RunArgs};
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
    Run(With<RunArgs>),
    /// Time an artifact.
    Bench(With<BenchArgs>),
    /// Say what an artifact holds.
    Info(With<InfoArgs>),
}

#[derive(Args)]
struct With<A: Args> {
    #[command(flatten)]
    args: A,
    #[command(flatten)]
    output: OutputArgs,
}

fn main() -> ExitCode {
    let status = match Cli::try_parse() {
        Ok(Cli { command }) => match command {
            Command::Run(c) => cli::execute("run", &c.output, |limits| cli::run::run(&c.args, limits)),
            Command::Bench(c) => cli::execute("bench", &c.output, |limits| cli::bench::bench(&c.args, limits)),
            Command::Info(c) => cli::execute("info", &c.output, |_| cli::info::info(&c.args)),
        },
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
