//! `compile`: a model becomes an artifact.

use super::report::Reporter;
use super::shared::{BuildArgs, PipelineArgs, ShapeArgs, no_effect, usage};
use super::{Globals, Outcome};
use crate::driver::{self, Cache, CompileOptions, Form, Lock, Result};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;
use tersor_runtime::cli::bytes;

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub build: BuildArgs,
    /// What to write, NAME.FORM: tsr (the artifact), tir (the IR after all passes), or the kernels of one target as mlir, ll, s, o.
    #[arg(short, long = "output", value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The form of the result, whatever its name.
    #[arg(long, value_name = "FORM")]
    pub emit: Option<String>,
    /// Where finished artifacts are kept: a folder, or off.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Make the artifact again that this lock describes, and fail if its bytes differ.
    #[arg(long, value_name = "LOCK", conflicts_with_all = ["pipeline", "target", "dims", "shapes"])]
    pub locked: Option<PathBuf>,
    #[command(flatten)]
    pub globals: Globals,
}

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    let started = Instant::now();
    let locked = args.locked.as_deref().map(Lock::read).transpose()?;
    let build = match &locked {
        Some(l) => as_locked(&args.build, l),
        None => args.build.clone(),
    };
    let pipeline = build.pipeline.or("lossless")?;
    let model = build.model(&pipeline)?;
    let name = model.file_name().unwrap_or_default();
    let written = args.out.as_ref().and_then(|o| o.extension()?.to_str());
    let form = args.emit.as_deref().or(written).unwrap_or("tsr");
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(name).with_extension(form));
    if form != "tsr" {
        let Some(form) = Form::find(form) else {
            let d = usage(format!("`{form}` is no form that `compile` writes"));
            let names = Form::ALL.map(|f| f.0).join(", ");
            return Err(vec![d.with_help(format!("name the output NAME.FORM or give --emit FORM: tsr, {names}"))]);
        };
        if args.locked.is_some() {
            return Err(vec![usage("--locked makes an artifact again").with_help("name the output NAME.tsr")]);
        }
        let mut done = super::opt::write(&build, form, Some(&out), reporter)?;
        if args.cache.is_some() {
            done.diagnostics.push(no_effect("--cache", "only artifacts are cached"));
        }
        return Ok(done);
    }
    if reporter.dry_run() {
        let lock = driver::lock_path(&out);
        return build.dry_run(&pipeline, &[&out, &lock]);
    }
    let cache = match &args.cache {
        Some(dir) if dir.as_os_str() == "off" => None,
        Some(dir) => Some(Cache::new(dir)),
        None => Cache::of_user(),
    };
    let options = CompileOptions {
        model: &model,
        output: &out,
        pipeline: &pipeline,
        import: build.import(&pipeline)?,
        bindings: build.shapes.written(&pipeline.dims)?,
        samples: build.samples(&pipeline),
        targets: build.targets(&pipeline)?,
        run: build.pipeline.run(),
        threads: build.threads(),
        cache,
        locked,
    };
    let c = reporter.watch(|watch| driver::compile(&options, watch))?;
    let mut text = c.printed.iter().map(|(pass, tir)| format!("// after {pass}\n{tir}")).collect::<String>();
    let peak = driver::peak_memory();
    if !reporter.globals().quiet {
        if let Some((_, peak, least)) = c.arena.first() {
            let _ = writeln!(text, "  plan         arena {} (lower bound {})", bytes(*peak), bytes(*least));
        }
        let decided = &c.lock.decisions;
        if !decided.is_empty() {
            let taken = decided.iter().filter(|d| d.picked.is_some()).count();
            let _ = writeln!(text, "  decisions    {taken} of {} sites changed; see the lock", decided.len());
        }
        let _ = writeln!(
            text,
            "wrote {} {}, {}    {:.1} s, peak {}",
            c.artifact.display(),
            bytes(c.bytes),
            c.lock_path.display(),
            started.elapsed().as_secs_f64(),
            bytes(peak)
        );
    }
    let arena = c.arena.iter().map(|(n, peak, least)| json!({ "variant": n, "bytes": peak, "lower_bound": least }));
    let data = json!({
        "output": c.artifact, "lock": c.lock_path, "bytes": c.bytes, "cached": c.cached,
        "seconds": started.elapsed().as_secs_f64(), "peak_bytes": peak,
        "pipeline": c.lock.pipeline, "targets": c.lock.targets,
        "arena": arena.collect::<Vec<_>>(), "decisions": c.lock.decisions, "decoded": c.lock.decoded,
    });
    Ok(Outcome { data, text, diagnostics: c.notes, exit: 0 })
}

/// What a lock asks for: its passes, targets and extents, on the model and data given here.
fn as_locked(build: &BuildArgs, lock: &Lock) -> BuildArgs {
    let listed = |m: &BTreeMap<String, String>| m.iter().map(|(n, v)| format!("{n}={v}")).collect();
    BuildArgs {
        pipeline: PipelineArgs { pipeline: Some(lock.pipeline.clone()), ..build.pipeline.clone() },
        shapes: ShapeArgs { dims: listed(&lock.dims), shapes: listed(&lock.shapes) },
        target: Some(lock.targets.join(",")),
        ..build.clone()
    }
}
