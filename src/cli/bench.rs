//! `bench`: how long an artifact takes, or a model that is compiled for it, alone or against another.

use super::report::Reporter;
use super::shared::{runnable, usage};
use super::{Globals, Outcome};
use crate::driver::{Result, runtime_error};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tersor_ir::{Diagnostic, Failure};
use tersor_runtime::cli::bench::{BenchArgs, Figures};
use tersor_runtime::cli::inputs::{ModelArgs, random_inputs};
use tersor_runtime::{Model, Session, Tensor};

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "A model (.onnx, .tir, or a folder with one) is compiled first, exactly and for this machine.

Examples:
  tersor bench model.tsr
  tersor bench model.tsr --against model.onnx --gate 1.5")]
pub struct Args {
    #[command(flatten)]
    pub args: BenchArgs,
    /// Another artifact or model to time in turn with this one, on the same inputs.
    #[arg(long, value_name = "ARTIFACT")]
    pub against: Option<PathBuf>,
    /// Fail with exit status 1 when the speed-up against the other is less than this.
    #[arg(long, value_name = "RATIO", requires = "against")]
    pub gate: Option<f64>,
    #[command(flatten)]
    pub globals: Globals,
}

/// Rounds in which the two take turns.
const ROUNDS: u32 = 10;

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    let runtime = |e| vec![runtime_error(e)];
    if args.against.is_some() && args.args.steps {
        return Err(vec![usage("--steps is for one artifact; leave --against out")]);
    }
    let (artifact, _made) = runnable(&args.args.model.artifact, reporter)?;
    let own = ModelArgs { artifact, ..args.args.model.clone() };
    let Some(other) = &args.against else {
        let one = BenchArgs { model: own, ..args.args.clone() };
        return super::run::outcome(tersor_runtime::cli::bench::bench(&one, reporter.limits()));
    };
    let model = own.load().map_err(runtime)?;
    let (reference, _made_too) = runnable(other, reporter)?;
    let reference = Model::load(&reference, &Default::default()).map_err(runtime)?;
    let mut warnings = vec![];
    let inputs =
        if args.args.inputs.is_empty() { random_inputs(&model) } else { args.args.inputs.read(&model, &mut warnings) };
    let inputs = inputs.map_err(runtime)?;
    let names: Vec<String> = model.inputs().iter().map(|v| v.name.clone()).collect();
    let named = names.iter().map(String::as_str).zip(inputs.iter().map(Tensor::view)).collect::<Vec<_>>();
    let mut sides = [model, reference].map(|m| m.session(args.args.threads.count()).stop_on(reporter.limits().stop()));
    let turn = Duration::from_secs_f64((args.args.seconds / f64::from(2 * ROUNDS)).clamp(0.0, 3600.0));
    let mut samples = [vec![], vec![]];
    let mut ratios = vec![];
    for round in 0..=ROUNDS {
        let mut medians = [0.0; 2];
        for (side, session) in sides.iter_mut().enumerate() {
            let times = measure(session, &named, turn)?;
            medians[side] = Figures::of(times.clone()).median;
            // The first round warms up.
            if round > 0 {
                samples[side].extend(times);
            }
        }
        if round > 0 {
            ratios.push(medians[1] / medians[0]);
        }
    }
    let [a, b] = samples.map(Figures::of);
    let ratio = Figures::of(ratios);
    let path = args.args.model.artifact.display().to_string();
    let row = |name: &str, f: &Figures| {
        format!("{name:<32} {:>9.4} ms  {:.4}-{:.4}  p99 {:.4}\n", f.median, f.ci95[0], f.ci95[1], f.p99)
    };
    let mut text = row(&other.display().to_string(), &b) + &row(&path, &a);
    text += &format!(
        "speed-up {:.3}x ({:.3}-{:.3}), {ROUNDS} interleaved rounds\n",
        ratio.median, ratio.ci95[0], ratio.ci95[1]
    );
    let figures = |f: &Figures| json!({ "median_ms": f.median, "min_ms": f.min, "p99_ms": f.p99, "mean_ms": f.mean, "ci95": f.ci95, "runs": f.runs });
    let mut data = figures(&a);
    data["against"] = figures(&b);
    data["speedup"] = json!({ "median": ratio.median, "ci95": ratio.ci95, "rounds": ROUNDS });
    let mut diagnostics = vec![];
    if let Some(least) = args.gate.filter(|g| ratio.median < *g || ratio.median.is_nan()) {
        let d = Diagnostic::error("B0301", format!("the speed-up is {:.3}x, less than {least}x", ratio.median));
        diagnostics.push(d.failure(Failure::Gate));
    }
    Ok(Outcome { data, text, diagnostics, ..Outcome::default() })
}

fn measure(session: &mut Session, inputs: &[(&str, tersor_runtime::TensorView)], budget: Duration) -> Result<Vec<f64>> {
    let runtime = |e| vec![runtime_error(e)];
    let views = tersor_runtime::execute::arrange(session.model(), inputs).map_err(runtime)?;
    let mut outputs = session.prepare(&views).map_err(runtime)?;
    session.run_into(&views, &mut outputs).map_err(runtime)?;
    let (start, mut times) = (Instant::now(), vec![]);
    while times.is_empty() || start.elapsed() < budget {
        let before = Instant::now();
        session.run_into(&views, &mut outputs).map_err(runtime)?;
        times.push(before.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}
