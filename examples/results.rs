//! Measures compression methods on real models and data, and writes the tables of `docs/results.md`.
//!
//! `examples/results/run.sh KIT`; `examples/results/table.toml` says which models, methods and settings, and which figures must hold.

use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use tersor::driver::{self, Event, Metric, OptimizeOptions, PlanFile, Reference, Samples, Score, Watch};
use tersor_ir::target::Prepared;
use tersor_ir::{Diagnostic, Module, Tensor};
use tersor_passes::calibrate::GRAM_BYTES;
use tersor_passes::manager::{Decide, RunOptions};

type Result<T> = std::result::Result<T, String>;

/// A module made ready to run.
type Program = RefCell<Box<dyn Prepared>>;

/// Rounds in which the exact program and a row's take turns.
const ROUNDS: usize = 9;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    model: Vec<Task>,
}

/// A model with its data and what is measured on them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Task {
    /// The folder of its files.
    name: String,
    /// What the table is about.
    about: String,
    /// As of `tersor search --metric`.
    metric: String,
    /// The output that is measured; the first where nothing is said.
    output: Option<String>,
    /// Stands for `@sites` in rows.
    sites: Option<String>,
    row: Vec<Row>,
    #[serde(default)]
    must: Vec<Must>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// Name, unique in the table.
    name: String,
    /// Passes after the exact ones.
    passes: Option<String>,
    /// A plan beside `table.toml`, in place of passes.
    plan: Option<String>,
}

/// A figure that must hold: the error of a row is at most so many times that of another, or so many points of the score below the exact program's; or its time is at most so
/// many times that of the exact program.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Must {
    row: String,
    times: Option<f64>,
    of: Option<String>,
    points: Option<f64>,
    time: Option<f64>,
}

/// What a row gave.
#[derive(Clone, Serialize, Deserialize)]
struct Measured {
    error: f64,
    deviation: Option<f64>,
    perplexity: Option<f64>,
    /// Bytes of constants as they are encoded.
    bytes: usize,
    /// Sites that were compressed, of those with a word about them.
    sites: (usize, usize),
    /// Time of a run on a batch, relative to the exact program.
    time: f64,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = PathBuf::from(std::env::args().nth(1).ok_or("expected the folder that data.py wrote")?);
    let only = std::env::args().nth(2);
    let path = root.join("examples/results/table.toml");
    let tables: Tables = toml::from_str(&read(&path)?).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut page = String::from(
        "# Results\n\nMade by `examples/results/run.sh`; do not edit. Everything runs in compiled code. Calibration data and test data are apart: passes see `calib.npz`, figures\ncome from `test.npz`. \
         Size is that of all constants as they are encoded, time that of a run on one batch and one thread relative to the exact program in turns with it.\n",
    );
    let mut all_hold = true;
    for task in tables.model.iter().filter(|t| only.as_ref().is_none_or(|o| *o == t.name)) {
        all_hold &= table(task, &data.join(&task.name), &path, &mut page)?;
    }
    if only.is_none() {
        std::fs::write(root.join("docs/results.md"), &page).map_err(|e| e.to_string())?;
    } else {
        println!("{page}");
    }
    eprintln!("peak memory {} MB", driver::peak_memory() / 1_000_000);
    Ok(all_hold)
}

/// One model's table. Gives whether all that must hold does.
fn table(task: &Task, dir: &Path, table: &Path, page: &mut String) -> Result<bool> {
    eprintln!("{}", task.name);
    let bench = Bench::new(task, dir)?;
    let rows = task.row.iter().map(|r| bench.row(r, dir, table)).collect::<Result<Vec<_>>>()?;
    let kl = bench.metric == Metric::Kl;
    let _ = writeln!(page, "\n## {}\n\n{}\n", task.name, task.about);
    let (head, exact) = match kl {
        true => ("KL | perplexity", format!("0 | {:.2}", bench.exact.perplexity.unwrap_or(f64::NAN))),
        false => (score_name(&bench.metric), score(&bench.exact)),
    };
    let _ = writeln!(
        page,
        "| method | passes | sites | MB | {head} | time |\n|---|---|---:|---:|{}---:|",
        "---:|".repeat(1 + usize::from(kl))
    );
    let _ = writeln!(page, "| exact | | | {:.2} | {exact} | 1.00 |", mb(bench.exact.bytes));
    for (row, m) in task.row.iter().zip(&rows) {
        let shown = match (kl, m.deviation, m.perplexity) {
            (true, Some(d), Some(p)) => format!("{:.5} ± {d:.5} | {p:.2}", m.error),
            _ => score(m),
        };
        let passes = row.passes.as_deref().map(|p| p.replace('|', "\\|"));
        let passes = passes.unwrap_or_else(|| format!("plan {}", row.plan.as_deref().unwrap_or_default()));
        let (done, all) = m.sites;
        let _ = writeln!(
            page,
            "| {} | `{passes}` | {done}/{all} | {:.2} | {shown} | {:.2} |",
            row.name,
            mb(m.bytes),
            m.time
        );
    }
    if let Some(sites) = &task.sites {
        let _ = writeln!(page, "\n`@sites` is `{sites}`.");
    }
    if task.must.is_empty() {
        return Ok(true);
    }
    let (mut all, of) = (true, |name: &str| {
        let at = task.row.iter().position(|r| r.name == name);
        at.map(|i| &rows[i]).ok_or_else(|| format!("{}: there is no row `{name}`", task.name))
    });
    let _ = writeln!(page, "\n| what must hold | at most | measured | |\n|---|---:|---:|---|");
    for must in &task.must {
        let found = of(&must.row)?;
        let (what, most, is) = match (must.times, &must.of, must.points, must.time) {
            (Some(times), Some(other), None, None) => {
                (format!("{} / {other}", must.row), times, found.error / of(other)?.error)
            }
            (None, None, Some(points), None) => {
                (format!("{}: points lost", must.row), points, 100.0 * (found.error - bench.exact.error))
            }
            (None, None, None, Some(time)) => (format!("{}: time", must.row), time, found.time),
            _ => return Err(format!("{}: give `times` and `of`, or `points`, or `time`", must.row)),
        };
        // Figures that are equal but for rounding hold.
        let holds = is <= most + 1e-9;
        all &= holds;
        let _ = writeln!(page, "| {what} | {most} | {is:.3} | {} |", if holds { "holds" } else { "**missed**" });
    }
    Ok(all)
}

fn mb(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

fn score_name(metric: &Metric) -> &'static str {
    match metric {
        Metric::Spearman => "Spearman x 100",
        Metric::Top1 => "top-1, %",
        _ => "error",
    }
}

fn score(m: &Measured) -> String {
    format!("{:.2}", 100.0 * (1.0 - m.error))
}

/// A model ready to be compared with.
struct Bench<'a> {
    task: &'a Task,
    metric: Metric,
    labels: Option<Tensor>,
    module: Module,
    program: Program,
    /// Inputs, the first sample's position, and what the exact program gives.
    batches: Vec<(Vec<Tensor>, usize, Reference)>,
    exact: Measured,
    /// The output that is measured.
    output: usize,
    names: Vec<String>,
    /// Of all that a measurement depends on beside its row.
    hash: String,
}

fn samples(path: PathBuf) -> Samples {
    Samples { path, limit: None, seed: 0, threads: 2, gram_bytes: GRAM_BYTES }
}

impl<'a> Bench<'a> {
    fn new(task: &'a Task, dir: &Path) -> Result<Bench<'a>> {
        let metric = Metric::find(&task.metric).map_err(findings)?;
        let labels = dir.join("labels.npy");
        let labels = if labels.exists() { Some(driver::labels(&labels).map_err(findings)?) } else { None };
        let module = optimized(&dir.join("model.onnx"), "lossless", None, Decide::Each)?.0;
        let program = prepare(&module)?;
        let names: Vec<String> =
            module.funcs[module.main().map_err(text)?].outputs.iter().map(|n| n.to_string()).collect();
        let output = match &task.output {
            Some(o) => names.iter().position(|n| n == o).ok_or_else(|| format!("there is no output {o}"))?,
            None => 0,
        };
        let mut hash = blake3::Hasher::new();
        for file in [
            std::env::current_exe().map_err(|e| e.to_string())?,
            dir.join("test.npz"),
            dir.join("calib.npz"),
            dir.join("model.onnx"),
        ] {
            hash.update(&std::fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?);
        }
        let none = Measured {
            error: 0.0,
            deviation: None,
            perplexity: None,
            bytes: module.constant_bytes(),
            sites: (0, 0),
            time: 1.0,
        };
        let hash = hash.finalize().to_hex().to_string();
        let mut bench =
            Bench { task, metric, labels, module, program, batches: vec![], exact: none, output, names, hash };
        let mut first = 0;
        for inputs in driver::batches(&bench.module, &samples(dir.join("test.npz"))).map_err(findings)? {
            let rows = inputs[0].shape().first().copied().unwrap_or(1);
            let outputs = bench.run(&bench.program, &inputs)?;
            let exact = Reference::new(&bench.metric, &inputs, outputs);
            bench.batches.push((inputs, first, exact));
            first += rows;
        }
        let (error, _, perplexity) = bench.error(&bench.program)?;
        (bench.exact.error, bench.exact.perplexity) = (error, perplexity);
        Ok(bench)
    }
    /// Outputs, the measured one first.
    fn run(&self, program: &Program, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let mut y = program.borrow_mut().run(inputs).map_err(text)?;
        y.swap(0, self.output);
        Ok(y)
    }
    /// Error, its deviation, perplexity.
    fn error(&self, program: &Program) -> Result<(f64, Option<f64>, Option<f64>)> {
        let mut whole = Score::new(&self.metric, self.labels.as_ref());
        for (inputs, first, exact) in &self.batches {
            let y = self.run(program, inputs)?;
            let one = Score::new(&self.metric, self.labels.as_ref());
            whole.merge(one.of(*first, inputs, exact, y).map_err(findings)?);
        }
        let (error, deviation) = whole.error(&self.names).map_err(findings)?;
        Ok((error, deviation, whole.perplexity().map(|p| p.1)))
    }
    /// A row, measured or as it was measured before.
    fn row(&self, row: &Row, dir: &Path, table: &Path) -> Result<Measured> {
        let (passes, decide) = match (&row.passes, &row.plan) {
            (Some(p), None) => (format!("normalize,saturate,normalize,{p},normalize,merge,normalize"), Decide::Each),
            (None, Some(p)) => {
                let file = PlanFile::read(&table.with_file_name(p)).map_err(findings)?;
                (file.pipeline.clone(), Decide::Plan(file.plan()))
            }
            _ => return Err(format!("{}: give `passes` or `plan`", row.name)),
        };
        let passes = passes.replace("@sites", self.task.sites.as_deref().unwrap_or("all"));
        let key = blake3::hash(format!("{}\n{passes}\n{decide:?}", self.hash).as_bytes()).to_hex();
        let kept = dir.join("measured").join(format!("{key}.json"));
        if let Some(found) = std::fs::read_to_string(&kept).ok().and_then(|t| serde_json::from_str(&t).ok()) {
            return Ok(found);
        }
        let start = Instant::now();
        let (module, sites) =
            optimized(&dir.join("model.onnx"), &passes, Some(samples(dir.join("calib.npz"))), decide)?;
        let solved = start.elapsed().as_secs_f64();
        let program = prepare(&module)?;
        let (error, deviation, perplexity) = self.error(&program)?;
        let time = self.time(&program)?;
        let m = Measured { error, deviation, perplexity, bytes: module.constant_bytes(), sites, time };
        eprintln!(
            "  {:40} {error:.6}  {:.2} MB  {time:.2}x  solved in {solved:.1} s, all in {:.1} s",
            row.name,
            mb(m.bytes),
            start.elapsed().as_secs_f64()
        );
        std::fs::create_dir_all(dir.join("measured")).map_err(|e| e.to_string())?;
        std::fs::write(kept, serde_json::to_string(&m).map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        Ok(m)
    }
    /// The median time of a program relative to the exact one's, which takes turns with it.
    fn time(&self, program: &Program) -> Result<f64> {
        let inputs: Vec<Tensor> = self.batches[0].0.iter().map(|t| t.rows(0, t.shape()[0].min(16))).collect();
        let mut ratios = vec![];
        for round in 0..=ROUNDS {
            let mut seconds = [0.0; 2];
            for (p, s) in [&self.program, program].into_iter().zip(&mut seconds) {
                let start = Instant::now();
                p.borrow_mut().run(&inputs).map_err(text)?;
                *s = start.elapsed().as_secs_f64();
            }
            // The first round warms up.
            ratios.extend((round > 0).then(|| seconds[1] / seconds[0]));
        }
        ratios.sort_by(f64::total_cmp);
        Ok(ratios[ratios.len() / 2])
    }
}

/// The model after passes, and how many sites were compressed of those with a word about them.
fn optimized(model: &Path, passes: &str, samples: Option<Samples>, decide: Decide) -> Result<(Module, (usize, usize))> {
    let loaded = driver::load(model, &Default::default()).map_err(findings)?;
    let isa = driver::targets(Some("native")).map_err(findings)?[0].isa;
    let pipeline = driver::pipeline(passes).map_err(findings)?;
    let options = OptimizeOptions { isa, samples, run: RunOptions { decide, measure: false, ..Default::default() } };
    let tell = |_: Event| {};
    let done =
        driver::optimize(loaded.module, &pipeline, &options, &Watch::default().telling(&tell)).map_err(findings)?;
    let decisions: Vec<_> = done.steps.iter().flat_map(|s| &s.decisions).collect();
    let mut sites: Vec<&str> = decisions.iter().map(|d| d.site.as_str()).collect();
    let mut picked: Vec<&str> = decisions.iter().filter(|d| d.picked.is_some()).map(|d| d.site.as_str()).collect();
    for v in [&mut sites, &mut picked] {
        v.sort_unstable();
        v.dedup();
    }
    let counts = (picked.len(), sites.len());
    Ok((done.module, counts))
}

fn prepare(m: &Module) -> Result<Program> {
    driver::evaluator(1, &Default::default()).prepare(m).map(RefCell::new).map_err(text)
}

fn text(d: Diagnostic) -> String {
    d.to_string()
}

fn findings(all: Vec<Diagnostic>) -> String {
    all.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n")
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}
