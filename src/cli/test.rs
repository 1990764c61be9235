//! `test`: `.tir` cases, against the snapshots beside them.

use super::report::Reporter;
use super::{Globals, Outcome};
use crate::driver::Result;
use serde_json::json;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use tersor_ir::{Diagnostic, Failure};

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    /// Cases; a folder means all in it.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Print what each case gives.
    #[arg(long)]
    pub show: bool,
    #[command(flatten)]
    pub globals: Globals,
}

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    let mut files = vec![];
    args.files.iter().try_for_each(|p| collect(p, &mut files))?;
    if files.is_empty() {
        return Err(vec![super::shared::usage("there are no .tir files in what was named")]);
    }
    let (mut text, mut rows, mut diagnostics) = (String::new(), vec![], vec![]);
    for path in &files {
        reporter.limits().check().map_err(|e| vec![crate::driver::runtime_error(e)])?;
        let name = path.display().to_string();
        let result = check(path)?;
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        let _ = writeln!(text, "{word:<7} {name}");
        match &result {
            Ok(shown) if args.show => text.push_str(shown),
            Ok(_) => {}
            Err(why) => {
                diagnostics.push(Diagnostic::error("C0601", why.clone()).in_file(&*name).failure(Failure::Gate))
            }
        }
        rows.push(json!({ "file": name, "ok": result.is_ok(), "message": result.err() }));
    }
    let failed = diagnostics.len();
    let _ = writeln!(text, "{} passed, {failed} failed", files.len() - failed);
    Ok(Outcome {
        data: json!({ "cases": rows, "passed": files.len() - failed, "failed": failed }),
        text,
        diagnostics,
        ..Outcome::default()
    })
}

fn collect(path: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        out.push(path.to_path_buf());
        return Ok(());
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)
        .map_err(|e| vec![crate::driver::file_error(path, "read", &e)])?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_dir() || p.extension().is_some_and(|e| e == "tir"))
        .collect();
    entries.sort();
    entries.iter().try_for_each(|p| collect(p, out))
}

/// What the case gives, or what is wrong with it.
fn check(path: &Path) -> Result<std::result::Result<String, String>> {
    let text = std::fs::read_to_string(path).map_err(|e| vec![crate::driver::file_error(path, "read", &e)])?;
    let found = match tersor_passes::filetest::run_case(&text) {
        Ok(found) => found,
        Err(why) => return Ok(Err(why)),
    };
    let snapshot = std::fs::read_to_string(path.with_extension("snap")).ok();
    // A snapshot has a head between two lines of dashes.
    let body = snapshot.as_deref().and_then(|s| s.strip_prefix("---\n")?.split_once("\n---\n")).map(|s| s.1);
    Ok(match body {
        Some(b) if b.trim_end() != found.trim_end() => Err(differs(b, &found)),
        _ => Ok(found),
    })
}

fn differs(expected: &str, found: &str) -> String {
    let at = expected.lines().zip(found.lines()).take_while(|(a, b)| a == b).count();
    let line = |t: &str| t.lines().nth(at).unwrap_or("(the end)").to_string();
    format!("line {} of the result is\n  {}\nthe snapshot has\n  {}", at + 1, line(found), line(expected))
}
