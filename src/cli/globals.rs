//! Options that every command takes.

use clap::ValueEnum;
use std::time::Duration;

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
    /// Say more; twice for all there is.
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = "Global options", conflicts_with = "quiet")]
    pub verbose: u8,
    /// Colours.
    #[arg(long, value_enum, default_value_t, help_heading = "Global options", hide_possible_values = true)]
    pub color: Color,
    /// Progress: auto, plain, none.
    #[arg(long, value_enum, default_value_t, help_heading = "Global options", hide_possible_values = true)]
    pub progress: Progress,
    /// End after this time, such as 10m, with exit status 7.
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = "Global options")]
    pub timeout: Option<Duration>,
    /// End beyond so much memory, such as 8G, with exit status 7.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Global options")]
    pub max_memory: Option<u64>,
    /// `-D warnings` makes warnings errors.
    #[arg(short = 'D', value_name = "warnings", value_parser = ["warnings"], help_heading = "Global options")]
    pub deny: Option<String>,
}

/// `--json`, for commands that are not the runtime's.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct JsonArg {
    /// Print one JSON document; `--json=lines` also progress.
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "document")]
    #[arg(help_heading = "Global options", value_name = "lines", hide_possible_values = true)]
    pub json: Option<JsonMode>,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let scale = match unit {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("write a time such as 500ms, 30s, 10m, 1h".into()),
    };
    let seconds = number.parse::<f64>().map_err(|_| "write a time such as 500ms, 30s, 10m, 1h")? * scale;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let shift = match unit.trim_end_matches(['B', 'b']).trim_end_matches('i') {
        "" => 0,
        "k" | "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err("write a size such as 512M, 8G".into()),
    };
    let n = number.parse::<f64>().map_err(|_| "write a size such as 512M, 8G")?;
    Ok((n * (1u64 << shift) as f64) as u64)
}

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!(parse_time("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_time("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!([parse_size("8G"), parse_size("512MiB"), parse_size("7")], [Ok(8 << 30), Ok(512 << 20), Ok(7)]);
        assert!(parse_time("x").is_err() && parse_time("-1s").is_err() && parse_size("8Q").is_err());
    }
}
