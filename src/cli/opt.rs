//! `opt`: passes over a module, and the module they leave.

use super::globals::JsonArg;
use super::report::Reporter;
use super::shared::{CalibArgs, PipelineArgs, ShapeArgs, all_threads};
use super::{Globals, JsonMode, Outcome};
use crate::driver::{self, OptimizeOptions, Result};
use serde_json::json;
use std::path::PathBuf;

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
    /// The targets: the costs of the most capable one decide.
    #[arg(long, value_name = "LIST")]
    pub target: Option<String>,
    /// Where the IR goes, NAME.tir, with its weights in NAME.tirw; standard output where nothing is named.
    #[arg(short, long = "output", value_name = "FILE")]
    pub out: Option<PathBuf>,
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
    if let Some(out) = &args.out {
        if out.extension().is_none_or(|e| e != "tir") {
            let d = super::shared::usage(format!("{}: IR is written to a .tir file", out.display()));
            return Err(vec![d]);
        }
        driver::check_output(out, &[&args.model])?;
        driver::check_output(&out.with_extension("tirw"), &[&args.model])?;
    }
    let pipeline = args.pipeline.get()?;
    let options = OptimizeOptions {
        isa: driver::targets(args.target.as_deref())?[0].isa,
        samples: args.calib.get(&pipeline.calibration, all_threads()),
        run: args.pipeline.run(),
    };
    reporter.watch(|watch| {
        let start = watch.begin("import").map_err(|d| vec![d])?;
        let loaded = driver::load(&args.model, &args.shapes.options(&pipeline.dims)?)?;
        watch.done("import", "", start);
        let mut diagnostics = loaded.notes;
        let done = driver::optimize(loaded.module, &pipeline, &options, watch)?;
        let (mut text, mut steps) = (String::new(), vec![]);
        for s in &done.steps {
            if let Some(t) = &s.text {
                text.push_str(&format!("// after {}\n{t}", s.pass));
            }
            let counts: serde_json::Map<_, _> = s.counts.iter().map(|(n, v)| (n.to_string(), json!(v))).collect();
            let decisions: Vec<String> = s.decisions.iter().map(|d| d.to_string()).collect();
            steps.push(
                json!({ "pass": s.pass, "ms": s.time.as_secs_f64() * 1e3, "counts": counts, "decisions": decisions }),
            );
            diagnostics.extend(s.remarks.iter().cloned());
        }
        let tir = match &args.out {
            Some(path) => {
                watch.check().map_err(|d| vec![d])?;
                driver::write_module(&done.module, path)?;
                None
            }
            None => Some(tersor_ir::text::print(&done.module)),
        };
        text.push_str(tir.as_deref().unwrap_or_default());
        let data = json!({ "steps": steps, "output": args.out, "tir": tir });
        Ok(Outcome { data, text, diagnostics, exit: 0 })
    })
}
