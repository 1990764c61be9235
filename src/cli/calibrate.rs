//! `calibrate`: activation statistics, kept for many compilations.

use super::report::Reporter;
use super::shared::{BuildArgs, usage};
use super::{Globals, Outcome};
use crate::driver::{self, Result};
use serde_json::json;
use std::path::PathBuf;
use tersor_passes::declare::Kind;
use tersor_passes::pipeline::Pipeline;

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub build: BuildArgs,
    /// Where the statistics go, NAME.stats.
    #[arg(short, long = "output", value_name = "FILE")]
    pub out: PathBuf,
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
    driver::check_output(&args.out, &[&model])?;
    // Statistics belong to the module that the first pass to need them meets.
    let needs = pipeline.passes.iter().position(|p| matches!(p.kind, Kind::Propose(_)));
    let at = needs.ok_or_else(|| usage("no pass of the pipeline needs statistics"))?;
    if reporter.dry_run() {
        return build.dry_run(&pipeline, &[&args.out]);
    }
    let rest = pipeline.passes.split_off(at);
    let samples = build.samples(&pipeline).ok_or_else(|| usage("name calibration data with --calib"))?;
    let first = Pipeline { passes: std::mem::take(&mut pipeline.passes), ..Pipeline::default() };
    reporter.watch(|watch| {
        let loaded = driver::load_watched(&model, &build.import(&pipeline)?, watch)?;
        let options = driver::OptimizeOptions { samples: None, ..build.optimize(&pipeline)? };
        let module = driver::optimize(loaded.module, &first, &options, watch)?.module;
        let taps = match &rest[0].kind {
            Kind::Propose(p) => p.taps(&module),
            Kind::Rewrite(_) => vec![],
        };
        if taps.is_empty() {
            return Err(usage("no pass of the pipeline needs statistics"));
        }
        let start = watch.begin("calibrate").map_err(|d| vec![d])?;
        let statistics = driver::calibrate(&module, &taps, &samples, watch).map_err(|d| vec![d])?;
        watch.done("calibrate", format!("{} samples, {} tensors", statistics.samples, taps.len()), start);
        watch.check().map_err(|d| vec![d])?;
        driver::calibrate_to(&statistics, &args.out)?;
        let mut diagnostics = loaded.notes;
        diagnostics.extend(statistics.warnings());
        let data = json!({ "output": args.out, "samples": statistics.samples, "tensors": taps.len() });
        let text = format!("wrote {}\n", args.out.display());
        Ok(Outcome { data, text, diagnostics, exit: 0 })
    })
}
