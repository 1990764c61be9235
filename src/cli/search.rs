//! `search`: from alternatives to a plan under a budget.

use super::report::Reporter;
use super::shared::{BuildArgs, usage};
use super::{Globals, Outcome};
use crate::driver::{self, Found, METRICS, Metric, Result, SearchOptions};
use clap::ValueEnum;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use tersor_ir::Diagnostic;
use tersor_passes::allocate::{Budget, Costs, Quantity};
use tersor_passes::pipeline::Pipeline;

/// What is searched for, on what data.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct SearchArgs {
    /// Limits: size=0.3x, size=4MB, encoded=@w3g64-gptq (as with that everywhere), latency=-20%, memory=512MB, error=0.01; with commas or several times.
    #[arg(long, value_name = "LIMITS")]
    pub budget: Vec<String>,
    /// What is to be as small as possible: error, or size where error has a limit; also latency, memory, encoded, work.
    #[arg(long, value_name = "QUANTITY")]
    pub minimise: Option<String>,
    /// How to choose: uniform, greedy, dp, ilp, or evo{generations=100, offspring=32, survivors=[8,2,1], samples=[4,16,64]}; dp or ilp where nothing is said.
    #[arg(long, value_name = "STRATEGY")]
    #[arg(hide_short_help = true)]
    pub strategy: Option<String>,
    /// What error is: kl, rel-l2 (where nothing is said), cosine, top1, perplexity, spearman, or cmd:COMMAND, the number on its last line.
    #[arg(long, value_name = "METRIC")]
    pub metric: Option<String>,
    /// Data to measure on, in any form of `run --inputs`; the calibration data where nothing is named.
    #[arg(long, value_name = "DATA")]
    pub inputs: Option<PathBuf>,
    /// Labels of the data: a .npy, or an .npz with an array `labels`.
    #[arg(long, value_name = "FILE")]
    #[arg(hide_short_help = true)]
    pub labels: Option<PathBuf>,
    /// Samples that single alternatives are measured on; as many as give 4096 rows of outputs where nothing is said. Plans are measured on all.
    #[arg(long, value_name = "N")]
    #[arg(hide_short_help = true)]
    pub probe: Option<usize>,
    /// Whose error the table of alternatives has: that of the model's outputs, or the relative error of each layer's, which costs no runs and finds worse plans.
    #[arg(long, value_enum, default_value_t, hide_possible_values = true, value_name = "outputs|layers")]
    #[arg(hide_short_help = true)]
    pub sensitivity: Sensitivity,
    /// Keep the search in this file, and go on from it when it is there.
    #[arg(long, value_name = "FILE")]
    #[arg(hide_short_help = true)]
    pub resume: Option<PathBuf>,
    /// Write a page with sensitivities, plan, sizes and latencies before and after, and the difference of the programs.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
}

/// Whose error a table has.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Sensitivity {
    /// The model's outputs.
    #[default]
    Outputs,
    /// Layers, each alone.
    Layers,
}

impl SearchArgs {
    /// Limits and metric; those of a pipeline file where none are given here. A metric's name stands for error.
    pub fn budget(&self, file: &Pipeline) -> Result<(Budget, Metric)> {
        let there = file.budget.iter().map(|(q, l)| format!("{q}={l}"));
        let items: Vec<String> = if self.budget.is_empty() { there.collect() } else { self.budget.clone() };
        let mut metric = self.metric.as_deref().map(Metric::find).transpose()?;
        let mut budget = Budget::default();
        for item in items.iter().flat_map(|i| i.split(',')).filter(|i| !i.trim().is_empty()) {
            let name = item.split(['=', '<']).next().unwrap_or_default().trim();
            let named = METRICS.into_iter().find(|m| m.0 == name).map(|m| m.1);
            if let Some(named) = &named {
                if metric.as_ref().is_some_and(|m| m != named) {
                    return Err(vec![usage(format!("the budget limits {name}, but the metric is another"))]);
                }
                metric = Some(named.clone());
            }
            let item = if named.is_some() { item.trim().replacen(name, "error", 1) } else { item.trim().to_string() };
            budget.add(&item).map_err(|d| vec![d])?;
        }
        Ok((budget, metric.unwrap_or(Metric::RelL2)))
    }
    /// A search with this budget.
    pub fn options<'a>(
        &self,
        build: &BuildArgs,
        pipeline: &'a Pipeline,
        model: &'a Path,
        (budget, metric): (Budget, Metric),
    ) -> Result<SearchOptions<'a>> {
        let default = if budget.limits.len() > 1 { "ilp" } else { "dp" };
        Ok(SearchOptions {
            model,
            pipeline,
            import: build.import(pipeline)?,
            bindings: build.shapes.written(&pipeline.dims)?,
            samples: build.samples(pipeline),
            data: self.inputs.clone(),
            labels: self.labels.clone(),
            metric,
            budget,
            minimise: self.minimise.as_deref().map(|t| t.parse().map_err(|d: Diagnostic| vec![d])).transpose()?,
            strategy: self.strategy.clone().unwrap_or_else(|| default.into()),
            targets: build.targets(pipeline)?,
            run: build.pipeline.run(),
            threads: build.threads(),
            seed: build.calib.seed.unwrap_or(0),
            resume: self.resume.clone(),
            front: 0,
            probe: self.probe,
            layers: self.sensitivity == Sensitivity::Layers,
        })
    }
    /// Whether limits are given.
    pub fn any(&self) -> bool {
        !self.budget.is_empty()
    }
    /// Whether something is said that matters to a search alone.
    pub fn details(&self) -> bool {
        let texts = [&self.minimise, &self.strategy, &self.metric];
        let files = [&self.inputs, &self.labels, &self.resume];
        let how = self.probe.is_some() || self.sensitivity != Sensitivity::default();
        how || texts.iter().any(|t| t.is_some()) || files.iter().any(|f| f.is_some())
    }
}

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tersor search model.onnx -p w.toml --calib data/ --budget size=0.3x -o plan.toml")]
pub struct Args {
    #[command(flatten)]
    pub build: BuildArgs,
    #[command(flatten)]
    pub search: SearchArgs,
    /// Where the plan goes, NAME.toml.
    #[arg(short, long = "output", value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Measure plans between the smallest and the exact one, and write those that no other is better than, as JSON.
    #[arg(long, value_name = "FILE.json")]
    pub pareto: Option<PathBuf>,
    #[command(flatten)]
    pub globals: Globals,
}

/// Plans that are measured for a front.
const FRONT: usize = 9;

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    let named = args.build.pipeline.pipeline.as_deref().unwrap_or("lossless");
    let file = Pipeline::find(named).map_err(|d| vec![d])?;
    let build = args.build.filled(&file)?;
    let pipeline = build.pipeline.or("lossless")?;
    let model = build.model(&pipeline)?;
    let name = PathBuf::from(model.file_name().unwrap_or_default());
    let out = args.out.clone().unwrap_or_else(|| name.with_extension("plan.toml"));
    let others = [args.pareto.as_ref(), args.search.report.as_ref(), args.search.resume.as_ref()];
    let files: Vec<&Path> = [Some(&out)].into_iter().chain(others).flatten().map(PathBuf::as_path).collect();
    args.build.check_outputs(&file, &files)?;
    let budget = args.search.budget(&file)?;
    let mut options = args.search.options(&build, &pipeline, &model, budget)?;
    if reporter.dry_run() {
        return build.dry_run(&pipeline, &files);
    }
    if args.pareto.is_some() || args.search.report.is_some() {
        options.front = FRONT;
    }
    let started = std::time::Instant::now();
    let mut found = reporter.watch(|watch| driver::search(&options, watch))?;
    let mut data = document(&found);
    data["seconds"] = json!(started.elapsed().as_secs_f64());
    data["peak_bytes"] = json!(driver::peak_memory());
    let mut diagnostics = std::mem::take(&mut found.notes);
    // A plan over budget never has the name of one that keeps it.
    let written = if found.fits { out } else { out.with_extension("nearest.toml") };
    found.plan.write(&written)?;
    data["output"] = json!(written);
    if let Some(path) = &args.pareto {
        let front = json!({ "metric": found.plan.metric, "exact": found.exact, "front": found.front });
        driver::write_text(path, &format!("{front}\n"))?;
    }
    if let Some(path) = &args.search.report {
        driver::write_text(path, &crate::report::page(&format!("tersor search {}", model.display()), &data))?;
    }
    if !found.fits {
        diagnostics.push(driver::over_budget(&found).with_note(format!("it is in {}", written.display())));
    }
    Ok(Outcome { data, text: summary(&found, &written), diagnostics, ..Outcome::default() })
}

/// What was found, as data.
pub fn document(f: &Found) -> Value {
    let alternative = |a: &tersor_passes::allocate::Alternative| {
        let Costs { error, latency, size, encoded, memory, work } = a.costs;
        json!({
            "name": a.name, "error": error, "latency": latency, "size": size, "encoded": encoded, "memory": memory, "work": work,
        })
    };
    let rows = f.table.rows.iter().zip(&f.assignment).map(|(r, &i)| {
        let all: Vec<Value> = r.alternatives.iter().map(alternative).collect();
        json!({ "sites": r.sites, "picked": r.alternatives[i].name, "alternatives": all })
    });
    let limits: serde_json::Map<String, Value> = f.limits.iter().map(|(q, v)| (q.name().into(), json!(v))).collect();
    json!({
        "fits": f.fits, "pipeline": f.plan.pipeline, "strategy": f.plan.strategy, "metric": f.plan.metric, "budget": f.plan.budget,
        "targets": f.plan.targets, "limits": limits, "exact": f.exact, "predicted": f.predicted, "measured": f.measured.0,
        "standard_error": f.measured.1, "perplexity": f.perplexity.map(|(a, b)| json!({ "exact": a, "plan": b })),
        "plan": f.plan.sites, "table": rows.collect::<Vec<_>>(), "front": f.front, "history": f.history,
        "runs": f.runs.0, "compiled": f.runs.1, "diff": tersor_ir::text::diff::diff(&f.modules.0, &f.modules.1).to_string(),
    })
}

/// What was found, for people.
pub fn summary(f: &Found, written: &Path) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{:<10} {:>14} {:>14} {:>8}", "", "exact", "plan", "");
    for q in Quantity::ALL {
        let (a, b) = (f.exact.get(q), f.measured.0.get(q));
        let ratio = if a > 0.0 { format!("{:.2}x", b / a) } else { String::new() };
        let _ = writeln!(out, "{:<10} {:>14} {:>14} {ratio:>8}", q.name(), q.show(a), q.show(b));
    }
    if let Some(e) = f.measured.1 {
        let _ = writeln!(out, "{:<10} {:>14} {:>14}", "+-", "", format!("{e:.4e}"));
    }
    if let Some((a, b)) = f.perplexity {
        let _ = writeln!(out, "{:<10} {a:>14.4} {b:>14.4} {:>7.3}x", "perplexity", b / a);
    }
    let counts: Vec<String> = f.table.counts(&f.assignment).iter().map(|(n, c)| format!("{n} {c}")).collect();
    let _ = writeln!(out, "sites      {}", counts.join(", "));
    for p in &f.front {
        let [e, l, s] = [Quantity::Error, Quantity::Latency, Quantity::Size].map(|q| q.show(p.costs.get(q)));
        let _ = writeln!(out, "front      {s:>12} {l:>12} {e:>14}");
    }
    let _ = writeln!(out, "wrote {}; build it with: tersor compile MODEL --plan {0}", written.display());
    out
}
