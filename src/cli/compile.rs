//! `compile`: a model becomes an artifact.

use super::report::Reporter;
use super::search::{self, SearchArgs};
use super::shared::{BuildArgs, CalibArgs, PipelineArgs, no_effect, stdout_is_free, temporary_artifact, usage};
use super::{Globals, Outcome};
use crate::driver::{self, Cache, CompileOptions, Form, Found, Lock, PlanFile, Result};
use serde_json::json;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tersor_ir::Diagnostic;
use tersor_ir::diag::{Failure, Severity};
use tersor_passes::manager::Decide;
use tersor_passes::pipeline::Pipeline;
use tersor_runtime::cli::bytes;

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tersor compile model.onnx -o model.tsr
  tersor compile model.onnx -p int8 --calib data/ -o model.tsr --target x86-64+amx
  tersor compile model.onnx --plan plan.toml --calib data/ -o model.tsr")]
pub struct Args {
    #[command(flatten)]
    pub build: BuildArgs,
    /// What to write, NAME.FORM: tsr (the artifact), tir, onnx, or the kernels of one target as mlir, ll, s, o; - is standard output.
    #[arg(short, long = "output", value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The form of the result, whatever its name.
    #[arg(long, value_name = "FORM", hide_short_help = true)]
    pub emit: Option<String>,
    /// Where finished artifacts are kept: a folder, or off.
    #[arg(long, value_name = "DIR", hide_short_help = true)]
    pub cache: Option<PathBuf>,
    /// Make again what this lock or plan describes: refused where model, data or tersor are others, and where a lock's bytes differ.
    #[arg(long, value_name = "LOCK", conflicts_with_all = ["pipeline", "target", "dims", "shapes", "values", "lengths", "plan", "budget"])]
    pub locked: Option<PathBuf>,
    /// What stands at each site: a plan of `tersor search`, its passes, targets and extents included.
    #[arg(long, value_name = "FILE.toml", conflicts_with_all = ["pipeline", "budget"])]
    pub plan: Option<PathBuf>,
    #[command(flatten)]
    pub search: SearchArgs,
    #[command(flatten)]
    pub globals: Globals,
}

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    if args.out.as_ref().is_none_or(|o| o.as_os_str() != "-") {
        return compile(args, args.out.as_deref(), reporter);
    }
    stdout_is_free(reporter)?;
    let artifact = temporary_artifact();
    let form = args.emit.as_deref().unwrap_or("tsr");
    let out = artifact[0].with_extension(form);
    if matches!(form, "tir" | "onnx") {
        let d = usage(format!("`compile` writes no {form} to standard output"));
        return Err(vec![d.with_help("`tersor opt -o -` writes IR there, `tersor export -o -` a model")]);
    }
    let mut done = compile(args, Some(out.path()), reporter)?;
    if !reporter.dry_run() {
        let read = std::fs::read(out.path());
        done.bytes = Some(read.map_err(|e| vec![driver::file_error(out.path(), "read", &e)])?);
    }
    Ok(done)
}

fn compile(args: &Args, out: Option<&Path>, reporter: &Reporter) -> Result<Outcome> {
    let started = Instant::now();
    let (mut locked, mut planned) = (None, args.plan.as_deref().map(PlanFile::read).transpose()?);
    if let Some(path) = &args.locked {
        match Lock::read(path) {
            Ok(l) => locked = Some(l),
            Err(e) => planned = Some(PlanFile::read(path).map_err(|_| e)?),
        }
    }
    let given = match (&locked, &planned) {
        (Some(l), _) => args.build.locked(l),
        (_, Some(p)) => as_planned(&args.build, p),
        _ => args.build.clone(),
    };
    let named = given.pipeline.pipeline.as_deref().unwrap_or("lossless");
    let file = Pipeline::find(named).map_err(|d| vec![d])?;
    let mut build = given.filled(&file)?;
    let search = args.search.any() || !file.budget.is_empty();
    if !search && args.search.details() {
        let d = usage(
            "--metric, --minimise, --strategy, --inputs, --labels, --probe, --sensitivity and --resume are for a search",
        );
        return Err(vec![d.with_help("say what to keep to: --budget size=0.3x")]);
    }
    let mut pipeline = build.pipeline.or("lossless")?;
    let model = build.model(&pipeline)?;
    let name = model.file_name().filter(|n| *n != "-").unwrap_or("model".as_ref());
    let written = out.and_then(|o| o.extension()?.to_str());
    let form = args.emit.as_deref().or(written).unwrap_or("tsr");
    let out = out.map_or_else(|| PathBuf::from(name).with_extension(form), Path::to_path_buf);
    let other = if form == "tsr" { None } else { Some(self::form(form, locked.is_some())?) };
    if reporter.dry_run() {
        let files = other.map_or_else(|| vec![out.clone(), driver::lock_path(&out)], |f| f.files(&out));
        return build.dry_run(&pipeline, &files.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    }
    args.build.check_outputs(&file, &[&out])?;
    let mut notes = match &planned {
        Some(p) => differences(p, &build, &pipeline, args.locked.is_some())?,
        None => vec![],
    };
    let mut found = None;
    if search {
        let budget = args.search.budget(&file)?;
        let options = args.search.options(&build, &pipeline, &model, budget)?;
        let mut f = reporter.watch(|watch| driver::search(&options, watch))?;
        if !f.fits {
            return Err(vec![driver::over_budget(&f).with_help("tersor search writes the nearest plan")]);
        }
        notes.append(&mut f.notes);
        build = as_planned(&build, &f.plan);
        pipeline = build.pipeline.or("lossless")?;
        found = Some(f);
    }
    let offering = found.as_ref().map(|f: &Found| f.offering.clone());
    if let Some(form) = other {
        let mut done = super::opt::write(&build, form, Some(&out), offering, reporter)?;
        if args.cache.is_some() {
            notes.push(no_effect("--cache", "only artifacts are cached"));
        }
        done.diagnostics.splice(0..0, notes);
        return report(args, found.as_ref(), &model, done);
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
        offering,
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
    let mut data = json!({
        "output": c.artifact, "lock": c.lock_path, "bytes": c.bytes, "cached": c.cached,
        "seconds": started.elapsed().as_secs_f64(), "peak_bytes": peak,
        "pipeline": c.lock.pipeline, "targets": c.lock.targets,
        "arena": arena.collect::<Vec<_>>(), "decisions": c.lock.decisions, "decoded": c.lock.decoded,
    });
    if let Some(plan) = &c.lock.plan {
        data["plan"] = json!(plan);
    }
    notes.extend(c.notes);
    report(args, found.as_ref(), &model, Outcome { data, text, diagnostics: notes, ..Outcome::default() })
}

/// Adds what a search found to what a compilation says, and writes the page where one is asked for.
fn report(args: &Args, found: Option<&Found>, model: &Path, mut done: Outcome) -> Result<Outcome> {
    let mut page = done.data.clone();
    if let Some(f) = found {
        done.data["search"] = search::document(f);
        if let (Some(page), Some(more)) = (page.as_object_mut(), done.data["search"].as_object()) {
            page.extend(more.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
    }
    if let Some(path) = &args.search.report {
        driver::write_text(path, &crate::report::page(&format!("tersor compile {}", model.display()), &page))?;
    }
    Ok(done)
}

/// A form that is no artifact.
fn form(name: &str, locked: bool) -> Result<Form> {
    let Some(form) = Form::find(name) else {
        let d = usage(format!("`{name}` is no form that `compile` writes"));
        let names = Form::ALL.map(|f| f.0).join(", ");
        return Err(vec![d.with_help(format!("name the output NAME.FORM or give --emit FORM: tsr, {names}"))]);
    };
    if locked {
        return Err(vec![usage("a lock makes an artifact again").with_help("name the output NAME.tsr")]);
    }
    Ok(form)
}

/// What a plan asks for, as [`BuildArgs::locked`]; targets and extents given here come first.
fn as_planned(build: &BuildArgs, plan: &PlanFile) -> BuildArgs {
    let (pipeline, decide) = (Some(plan.pipeline.clone()), Decide::Plan(plan.plan()));
    BuildArgs {
        pipeline: PipelineArgs { pipeline, decide, ..build.pipeline.clone() },
        calib: CalibArgs {
            samples: build.calib.samples.or(plan.samples),
            seed: build.calib.seed.or(Some(plan.seed)),
            ..build.calib.clone()
        },
        shapes: build.shapes.or(&plan.bindings),
        target: build.target.clone().or(Some(plan.targets.join(","))),
        ..build.clone()
    }
}

/// How what there is now differs from what the plan was made for: warnings, or errors where the plan is to be made again exactly.
fn differences(plan: &PlanFile, build: &BuildArgs, pipeline: &Pipeline, strict: bool) -> Result<Vec<Diagnostic>> {
    let loaded = driver::load(&build.model(pipeline)?, &build.import(pipeline)?)?;
    let hash = build.samples(pipeline).map(|s| s.digest()).transpose()?;
    let found = plan.differences(&driver::source_hash(&loaded)?, hash.as_deref());
    if !strict || found.is_empty() {
        return Ok(found);
    }
    let refuse = |d: Diagnostic| Diagnostic { severity: Severity::Error, ..d }.failure(Failure::Usage);
    Err(found.into_iter().map(refuse).collect())
}
