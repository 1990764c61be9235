//! `--timeout` and `--max-memory`, and how times and sizes are written.

use std::time::Duration;

use clap::Args;

use crate::error::Error;
use crate::limits::Limits;

/// Limits of a command.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct LimitArgs {
    /// End after this time, such as 10m, with exit status 7.
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = "Global options")]
    pub timeout: Option<Duration>,
    /// End beyond so much memory, such as 8G, with exit status 7.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Global options")]
    pub max_memory: Option<u64>,
}

impl LimitArgs {
    /// The limits of this process, from now on; `end` as for [`Limits::of_process`].
    pub fn start(self, end: impl FnOnce(Error) + Send + 'static) -> Limits {
        Limits::of_process(self.timeout, self.max_memory, end)
    }
}

pub fn parse_time(text: &str) -> Result<Duration, String> {
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

pub fn parse_size(text: &str) -> Result<u64, String> {
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
