//! `schema`: the JSON schemas of the commands' documents.

use super::report::Reporter;
use super::{Globals, Outcome};
use crate::driver::Result;
use serde_json::{Value, json};

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    /// A command; all are listed where none is named.
    pub command: Option<String>,
    #[command(flatten)]
    pub globals: Globals,
}

macro_rules! schemas {
    ($($name:literal),* $(,)?) => {
        /// Command and schema.
        pub const SCHEMAS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../schemas/", $name, ".json")))),*];
    };
}
schemas! {
    "bench", "calibrate", "cat", "check", "compile", "completions", "conformance", "diff", "explain", "export", "inspect", "opt", "passes", "reduce", "run", "schema", "search", "targets", "test",
    "verify",
}

pub fn run(args: &Args, _: &Reporter) -> Result<Outcome> {
    let names: Vec<&str> = SCHEMAS.iter().map(|s| s.0).collect();
    let Some(name) = &args.command else {
        let text = names.join("\n") + "\n";
        return Ok(Outcome { data: json!({ "schemas": names }), text, ..Outcome::default() });
    };
    let (_, text) = SCHEMAS.iter().find(|s| s.0 == name).ok_or_else(|| {
        let help = tersor_passes::suggest::did_you_mean(name, &names);
        vec![super::shared::usage(format!("there is no command `{name}`")).with_help(help)]
    })?;
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    Ok(Outcome { data: json!({ "schema": value }), text: text.to_string(), ..Outcome::default() })
}
