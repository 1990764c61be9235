//! `calibrate`: activation statistics, kept for many compilations.

use super::globals::JsonArg;
use super::report::Reporter;
use super::shared::{CalibArgs, PipelineArgs, ShapeArgs, all_threads};
use super::{Globals, JsonMode, Outcome};
use crate::driver::{self, Result};
use serde_json::json;
use std::path::PathBuf;
use tersor_passes::declare::Kind;
use tersor_passes::pipeline::Pipeline;

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    /// An ONNX model or .tir file.
    pub model: PathBuf,
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    #[command(flatten)]
    pub calib: CalibArgs,
    #[command(flatten)]
    pub shapes: ShapeArgs,
    /// The target whose costs decide, as the compilation will have it.
    #[arg(long, value_name = "LIST")]
    pub target: Option<String>,
    /// Where the statistics go, NAME.stats.
    #[arg(short, long = "output", value_name = "FILE")]
    pub out: PathBuf,
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
    let usage = |m: &str| vec![super::shared::usage(m)];
    if args.out.extension().is_none_or(|e| e != "stats") {
        return Err(usage("statistics are written to a .stats file"));
    }
    driver::check_output(&args.out, &[&args.model])?;
    let mut pipeline = if args.pipeline.pipeline.is_some() { args.pipeline.get()? } else { driver::pipeline("int8")? };
    // Statistics belong to the module that the first pass to need them meets.
    let needs = pipeline.passes.iter().position(|p| matches!(p.kind, Kind::Propose(_)));
    let at = needs.ok_or_else(|| usage("no pass of the pipeline needs statistics"))?;
    let rest = pipeline.passes.split_off(at);
    let samples = args.calib.get(&pipeline.calibration, all_threads());
    let samples = samples.ok_or_else(|| usage("name calibration data with --calib"))?;
    let first = Pipeline { passes: std::mem::take(&mut pipeline.passes), ..Pipeline::default() };
    let isa = driver::targets(args.target.as_deref())?[0].isa;
    reporter.watch(|watch| {
        let loaded = driver::load(&args.model, &args.shapes.options(&pipeline.dims)?)?;
        let options = driver::OptimizeOptions { isa, samples: None, run: args.pipeline.run() };
        let module = driver::optimize(loaded.module, &first, &options, watch)?.module;
        let taps = match &rest[0].kind {
            Kind::Propose(p) => p.taps(&module),
            Kind::Rewrite(_) => vec![],
        };
        if taps.is_empty() {
            return Err(usage("no pass of the pipeline needs statistics"));
        }
        let start = watch.begin("calibrate").map_err(|d| vec![d])?;
        let statistics = driver::calibrate(&module, &taps, &samples).map_err(|d| vec![d])?;
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
