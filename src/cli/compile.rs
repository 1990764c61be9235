//! `compile`: a model becomes an artifact.

use super::globals::JsonArg;
use super::report::Reporter;
use super::shared::{CalibArgs, PipelineArgs, ShapeArgs, all_threads, usage};
use super::{Globals, JsonMode, Outcome};
use crate::driver::{self, Cache, CompileOptions, Lock, Result};
use serde_json::json;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;
use tersor_runtime::cli::bytes;

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    /// An ONNX model, a folder with one, or a .tir file; a pipeline file may name it instead.
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    #[command(flatten)]
    pub calib: CalibArgs,
    #[command(flatten)]
    pub shapes: ShapeArgs,
    /// Targets, such as native or x86-64-v3,x86-64+amx; all x86-64 ones where nothing is said.
    #[arg(long, value_name = "LIST")]
    pub target: Option<String>,
    /// What to write: NAME.tsr (the artifact) or NAME.tir (the optimized IR).
    #[arg(short, long = "output", value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The form of the result, whatever its name: tsr or tir.
    #[arg(long, value_name = "KIND", value_parser = ["tsr", "tir"])]
    pub emit: Option<String>,
    /// Threads that generate code.
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Where finished artifacts are kept: a folder, or off.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Make the artifact again that this lock describes, and fail if its bytes differ.
    #[arg(long, value_name = "LOCK", conflicts_with_all = ["pipeline", "target", "dims", "shapes"])]
    pub locked: Option<PathBuf>,
    #[command(flatten)]
    pub output: JsonArg,
    #[command(flatten)]
    pub globals: Globals,
}

impl Args {
    pub fn json(&self) -> Option<JsonMode> {
        self.output.json
    }
}

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    let started = Instant::now();
    let locked = args.locked.as_deref().map(Lock::read).transpose()?;
    let pipeline = match &locked {
        Some(l) => driver::pipeline(&l.pipeline)?,
        None => args.pipeline.get()?,
    };
    let model = args.model.clone().or_else(|| pipeline.model.as_ref().map(PathBuf::from));
    let model = model.ok_or_else(|| vec![usage("name a model to compile")])?;
    let out =
        args.out.clone().unwrap_or_else(|| PathBuf::from(model.file_name().unwrap_or_default()).with_extension("tsr"));
    let extension = out.extension().and_then(|e| e.to_str()).unwrap_or_default();
    match args.emit.as_deref().unwrap_or(extension) {
        "tsr" => {}
        "tir" => return super::opt::run(&as_opt(args, model, out), reporter),
        other => {
            let d = usage(format!("`{other}` is no form that `compile` writes"));
            return Err(vec![d.with_help("name the output NAME.tsr or NAME.tir")]);
        }
    }
    let shapes = match &locked {
        Some(l) => ShapeArgs {
            dims: l.dims.iter().map(|(n, v)| format!("{n}={v}")).collect(),
            shapes: l.shapes.iter().map(|(n, v)| format!("{n}={v}")).collect(),
        },
        None => args.shapes.clone(),
    };
    let listed = match &locked {
        Some(l) => Some(l.targets.join(",")),
        None => args.target.clone().or_else(|| (!pipeline.targets.is_empty()).then(|| pipeline.targets.join(","))),
    };
    let cache = match &args.cache {
        Some(dir) if dir.as_os_str() == "off" => None,
        Some(dir) => Some(Cache::new(dir)),
        None => Cache::of_user(),
    };
    let threads = args.threads.map_or_else(all_threads, usize::from);
    let options = CompileOptions {
        model: &model,
        output: &out,
        pipeline: &pipeline,
        import: shapes.options(&pipeline.dims)?,
        bindings: shapes.written(&pipeline.dims)?,
        samples: args.calib.get(&pipeline.calibration, threads),
        targets: driver::targets(listed.as_deref())?,
        run: args.pipeline.run(),
        threads,
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

fn as_opt(args: &Args, model: PathBuf, out: PathBuf) -> super::opt::Args {
    super::opt::Args {
        model,
        pipeline: args.pipeline.clone(),
        calib: args.calib.clone(),
        shapes: args.shapes.clone(),
        target: args.target.clone(),
        out: Some(out),
        output: args.output,
        globals: args.globals.clone(),
    }
}
