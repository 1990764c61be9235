//! `calibrate`: activation statistics, kept for many compilations.

use super::report::Reporter;
use super::shared::{BuildArgs, no_effect, usage};
use super::{Globals, Outcome};
use crate::driver::{self, Journal, Result};
use serde_json::json;
use std::path::PathBuf;
use tersor_ir::Module;
use tersor_passes::declare::{Kind, Pass};
use tersor_passes::patches::Tap;
use tersor_passes::pipeline::Pipeline;
use tersor_passes::statistics::Statistics;
use tersor_runtime::cli::bytes;

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tersor calibrate model.onnx -p int8 --calib data/ -o model.stats")]
pub struct Args {
    #[command(flatten)]
    pub build: BuildArgs,
    /// Where the statistics go, NAME.stats.
    #[arg(short, long = "output", value_name = "FILE")]
    pub out: PathBuf,
    /// Gram matrices of the inputs of all products and convolutions by constants, whether the pipeline needs them or not.
    #[arg(long)]
    pub gram: bool,
    /// Go on where an interrupted run of the same command left off.
    #[arg(long)]
    pub resume: bool,
    /// Add what another run over other data gathered, NAME.stats.
    #[arg(long, value_name = "FILE")]
    pub merge: Vec<PathBuf>,
    #[command(flatten)]
    pub globals: Globals,
}

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    let usage = |m: &str| vec![usage(m)];
    if args.out.extension().is_none_or(|e| e != "stats") {
        return Err(usage("statistics are written to a .stats file"));
    }
    let build = &args.build;
    let mut pipeline = build.pipeline.or("int8")?;
    let model = build.model(&pipeline)?;
    build.check_outputs(&pipeline, &[&args.out])?;
    // Statistics belong to the module that the first pass to need them meets.
    let needs = pipeline.passes.iter().position(|p| matches!(p.kind, Kind::Propose(_)));
    let end = args.gram.then_some(pipeline.passes.len());
    let at = needs.or(end).ok_or_else(|| usage("no pass of the pipeline needs statistics"))?;
    if reporter.dry_run() {
        return build.dry_run(&pipeline, &[&args.out]);
    }
    let rest = pipeline.passes.split_off(at);
    let samples = build.samples(&pipeline).ok_or_else(|| usage("name calibration data with --calib"))?;
    if samples.is_statistics() {
        return Err(usage("--calib names data here; statistics are added with --merge"));
    }
    let first = Pipeline { passes: std::mem::take(&mut pipeline.passes), ..Pipeline::default() };
    reporter.watch(|watch| {
        let loaded = driver::load_watched(&model, &build.import(&pipeline)?, watch)?;
        let options = driver::OptimizeOptions { samples: None, ..build.optimize(&pipeline)? };
        let module = driver::optimize(loaded.module, &first, &options, watch)?.module;
        let taps = taps(&module, &rest, args.gram)?;
        let start = watch.begin("calibrate").map_err(|d| vec![d])?;
        let journal = Journal { path: args.out.with_extension("stats.part"), resume: args.resume };
        let idle = args.resume && !journal.path.exists();
        let statistics = driver::gather(&module, &taps, &samples, Some(&journal), watch);
        let mut statistics = statistics.map_err(|d| vec![d])?;
        for path in &args.merge {
            let other = Statistics::read(path).and_then(|s| s.check(&module).map(|()| s)).map_err(|d| vec![d])?;
            statistics.merge(&other);
        }
        let gram = statistics.gram_bytes() as u64;
        let tensors = statistics.iter().count();
        let mut said = format!("{} samples, {tensors} tensors", statistics.samples);
        if gram > 0 {
            said += &format!(", Gram matrices {}", bytes(gram));
        }
        watch.done("calibrate", said, start);
        watch.check().map_err(|d| vec![d])?;
        driver::calibrate_to(&statistics, &args.out)?;
        let mut diagnostics = loaded.notes;
        diagnostics.extend(statistics.warnings());
        if idle {
            diagnostics.push(no_effect("--resume", &format!("there is no {}", journal.path.display())));
        }
        let peak = driver::peak_memory();
        let data = json!({
            "output": args.out, "samples": statistics.samples, "tensors": tensors, "gram_bytes": gram, "peak_bytes": peak,
        });
        let text = format!("wrote {}, peak {}\n", args.out.display(), bytes(peak));
        Ok(Outcome { data, text, diagnostics, ..Outcome::default() })
    })
}

/// What the passes need, and with `gram` the Gram matrices of all layers.
fn taps(m: &Module, passes: &[Pass], gram: bool) -> Result<Vec<Tap>> {
    let mut taps: Vec<Tap> = passes.iter().flat_map(|p| p.taps(m)).collect();
    if gram {
        taps.extend(Tap::all(m).map_err(|d| vec![d])?);
    }
    taps.sort_unstable();
    taps.dedup();
    if taps.is_empty() { Err(vec![usage("no pass of the pipeline needs statistics")]) } else { Ok(taps) }
}
