//! Options that every command takes.

use clap::ValueEnum;
use std::path::PathBuf;
use tersor_runtime::cli::limits::LimitArgs;

/// How `--json` answers.
#[derive(Copy, Clone, PartialEq, Eq, Debug, ValueEnum)]
pub enum JsonMode {
    /// One document.
    Document,
    /// Progress events, one a line, then the document.
    Lines,
}

/// When to show progress.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Progress {
    /// A spinner on a terminal, lines elsewhere.
    #[default]
    Auto,
    /// Lines.
    Plain,
    /// Nothing.
    None,
}

/// When to use colours.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR or CI are set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Options that every command takes.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Globals {
    /// Say less: no progress, no notes.
    #[arg(short, long, help_heading = "Global options")]
    pub quiet: bool,
    /// Say more: what passes found and decided, and with -vv what was searched and every kernel.
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = "Global options", conflicts_with = "quiet")]
    pub verbose: u8,
    /// Colours.
    #[arg(long, value_enum, default_value_t, help_heading = "Global options", hide_possible_values = true)]
    #[arg(hide_short_help = true)]
    pub color: Color,
    /// Progress: auto, plain, none.
    #[arg(long, value_enum, default_value_t, help_heading = "Global options", hide_possible_values = true)]
    #[arg(hide_short_help = true)]
    pub progress: Progress,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Check the request, say what would be done, and write nothing.
    #[arg(long, help_heading = "Global options")]
    pub dry_run: bool,
    /// Options from a TOML file, which those given here override.
    #[arg(long, value_name = "FILE", help_heading = "Global options")]
    #[arg(hide_short_help = true)]
    pub config: Option<PathBuf>,
    /// Print one JSON document; `--json=lines` also progress.
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "document")]
    #[arg(help_heading = "Global options", value_name = "lines", hide_possible_values = true)]
    pub json: Option<JsonMode>,
    /// `-D warnings` makes warnings errors.
    #[arg(short = 'D', long = "deny", value_name = "warnings", value_parser = ["warnings"], help_heading = "Global options")]
    #[arg(hide_short_help = true)]
    pub deny: Option<String>,
}
