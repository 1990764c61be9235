//! `reduce`: the smallest model that fails as this one does, and the pass that it takes.

use super::report::Reporter;
use super::shared::{BuildArgs, ToleranceArgs, usage};
use super::{Globals, Outcome};
use crate::driver::{self, Result};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tersor_ir::{Diagnostic, Failure, Module};

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub build: BuildArgs,
    /// Where the small model goes, NAME.tir; MODEL.reduced.tir where nothing is named.
    #[arg(short, long = "output", value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// A shell command that is given a .tir file and ends with 0 where that fails, in place of passes, compilation and comparison.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["once", "rtol", "atol", "max"])]
    pub check: Option<String>,
    /// Only say how the model fails.
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    pub tolerance: ToleranceArgs,
    #[command(flatten)]
    pub globals: Globals,
}

/// The seed of inputs where none is given.
const SEED: u64 = 1;

/// A candidate that takes longer hangs.
const TIMEOUT: &str = "60s";

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    let pipeline = args.build.pipeline.or("lossless")?;
    let model = args.build.model(&pipeline)?;
    let default = || model.with_extension("reduced.tir");
    let out = args.out.clone().unwrap_or_else(default);
    if out.extension().is_none_or(|e| e != "tir") {
        return Err(vec![usage(format!("{}: what is left is written to a .tir file", out.display()))]);
    }
    if !args.once {
        driver::check_output(&out, &[&model])?;
    }
    if reporter.dry_run() {
        let files = [out.as_path()];
        return args.build.dry_run(&pipeline, if args.once { &[] } else { &files });
    }
    let seed = args.build.calib.seed.unwrap_or(SEED);
    reporter.watch(|watch| {
        let loaded = driver::load_watched(&model, &args.build.import(&pipeline)?, watch)?;
        let most = args.build.pipeline.stop_after.unwrap_or(usize::MAX);
        let listed = pipeline.passes.iter().take(if args.check.is_some() { 0 } else { most });
        let passes: Vec<String> = listed.map(|p| p.text.clone()).collect();
        if args.once {
            let limits = args.tolerance.limits()?;
            let options = args.build.optimize(&pipeline)?;
            let failure = driver::failure(&loaded.module, &passes, &options, &limits, seed, watch)?;
            let text = format!("{}\n", failure.as_deref().unwrap_or("does not fail"));
            return Ok(Outcome {
                data: json!({ "failure": failure }),
                text,
                diagnostics: loaded.notes,
                ..Outcome::default()
            });
        }
        let dir = tempfile::tempdir().map_err(|e| vec![driver::file_error(Path::new("TMPDIR"), "write to", &e)])?;
        let candidate = dir.path().join("candidate.tir");
        let mut oracle = |m: &Module, passes: &[String]| {
            driver::write_module(m, &candidate)?;
            match &args.check {
                Some(command) => asked(command, &candidate),
                None => apart(args, &candidate, passes, seed),
            }
        };
        let found = driver::reduce(loaded.module.clone(), passes, &mut oracle, watch)?;
        let Some(r) = found else {
            let d = Diagnostic::error("C0706", "the model does not fail, so there is nothing to reduce");
            let help = "name the passes with -p, another --seed, or what failing is with --check";
            return Err(vec![d.failure(Failure::Usage).in_file(model.display().to_string()).with_help(help)]);
        };
        driver::write_module(&r.module, &out)?;
        let nodes = |m: &Module| m.funcs.values().map(|f| f.live_nodes().len()).sum::<usize>();
        let (before, after) = (nodes(&loaded.module), nodes(&r.module));
        let mut text = tersor_ir::text::print(&r.module);
        let _ = writeln!(text, "{}", r.failure);
        if let Some(pass) = r.passes.last() {
            let _ = writeln!(text, "takes the passes {}, and shows after {pass}", r.passes.join(","));
        }
        let _ = writeln!(text, "{before} nodes -> {after}, {} candidates tried; wrote {}", r.tried, out.display());
        let data = json!({
            "output": out, "failure": r.failure, "passes": r.passes, "pass": r.passes.last(),
            "nodes": { "before": before, "after": after }, "tried": r.tried,
        });
        Ok(Outcome { data, text, diagnostics: loaded.notes, ..Outcome::default() })
    })
}

/// What a command of the user's says.
fn asked(command: &str, candidate: &Path) -> Result<Option<String>> {
    let mut c = Command::new("sh");
    c.arg("-c").arg(format!("{command} \"$1\"")).arg("sh").arg(candidate).stdin(Stdio::null());
    let out = c.output().map_err(|e| vec![usage(format!("--check {command}: {e}"))])?;
    Ok(out.status.success().then(|| "the command of --check ends with 0".into()))
}

/// How a candidate fails in a process of its own, which it may bring down.
fn apart(args: &Args, candidate: &Path, passes: &[String], seed: u64) -> Result<Option<String>> {
    let failed = |e: std::io::Error| vec![driver::file_error(candidate, "run", &e)];
    let mut c = Command::new(std::env::current_exe().map_err(failed)?);
    c.arg("reduce").arg(candidate).args(["--once", "--json", "--seed", &seed.to_string(), "-p"]);
    // A pipeline has passes; none of them run where none are left.
    if passes.is_empty() {
        c.args(["normalize", "--stop-after", "0"]);
    } else {
        c.arg(passes.join(","));
    }
    let ToleranceArgs { rtol, atol, max } = &args.tolerance;
    c.args(["--rtol", &rtol.to_string(), "--atol", &atol.to_string()]);
    c.args(["--timeout", TIMEOUT]);
    if let Some(target) = &args.build.target {
        c.arg("--target").arg(target);
    }
    if let Some(data) = &args.build.calib.calib {
        c.arg("--calib").arg(data);
    }
    if !max.is_empty() {
        c.arg("--max").arg(max.join(","));
    }
    let out = c.stdin(Stdio::null()).output().map_err(failed)?;
    let said: Option<Value> = serde_json::from_slice(&out.stdout).ok();
    Ok(match said {
        Some(d) if d["ok"] == true => d["data"]["failure"].as_str().map(str::to_string),
        Some(d) => Some(format!("ends with {}", d["diagnostics"][0]["code"].as_str().unwrap_or("an error"))),
        None => Some(format!("crashes: {}", out.status)),
    })
}
