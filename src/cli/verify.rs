//! `verify`: what a program gives, against a reference; exit status 1 where they differ.

use super::report::Reporter;
use super::shared::{ShapeArgs, ToleranceArgs, all_threads, usage};
use super::{Globals, Outcome};
use crate::driver::{self, Comparison, Interpreter, Limits, Loaded, Program, Result};
use serde_json::json;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use tersor_ir::target::Evaluate;
use tersor_ir::{Diagnostic, Failure};

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tersor verify model.tsr --against model.onnx --inputs data/ --max rel-l2=0.01,top1=0.5%")]
pub struct Args {
    /// An artifact, or a model that is compiled in memory.
    pub subject: PathBuf,
    /// The reference: a model or artifact. Without it, the output_*.pb files in the data are.
    #[arg(long, value_name = "MODEL")]
    pub against: Option<PathBuf>,
    /// Data: a folder of npy, an npz, a test_data_set_N folder, or a folder of such; beside the subject where nothing is named.
    #[arg(long, value_name = "PATH")]
    pub inputs: Option<PathBuf>,
    #[command(flatten)]
    pub tolerance: ToleranceArgs,
    /// Compare values inside, by name; both sides must be models.
    #[arg(long)]
    pub layers: bool,
    /// Run models with the reference interpreter.
    #[arg(long)]
    pub interp: bool,
    /// Threads that run; all CPUs where nothing is said.
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    #[command(flatten)]
    pub shapes: ShapeArgs,
    #[command(flatten)]
    pub globals: Globals,
}

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    let limits = args.tolerance.limits()?;
    let mut notes = vec![];
    reporter.watch(|watch| {
        let threads = args.threads.map_or_else(all_threads, usize::from);
        let evaluate: Box<dyn Evaluate> =
            if args.interp { Box::new(Interpreter) } else { driver::evaluator(threads, watch.stop()) };
        let mut open = |path: &Path| open(args, path, threads, &*evaluate, reporter.limits(), &mut notes);
        let (mut subject, model) = open(&args.subject)?;
        let mut reference = args.against.as_deref().map(open).transpose()?;
        let (inputs, outputs) = subject.names();
        let parent = args.subject.parent().filter(|p| !p.as_os_str().is_empty());
        let beside = || parent.unwrap_or(Path::new(".")).to_path_buf();
        let path =
            args.inputs.clone().unwrap_or_else(|| if args.subject.is_dir() { args.subject.clone() } else { beside() });
        let sets = driver::data_sets(&path)?;
        let (mut text, mut rows, mut failures) = (String::new(), vec![], vec![]);
        let _ = writeln!(text, "{:<34} {:>10} {:>10} {:>10}", "output", "rel-l2", "cosine", "max-abs");
        for (n, set) in sets.iter().enumerate() {
            watch.check().map_err(|d| vec![d])?;
            let x = driver::inputs_of(set, &inputs)?;
            if let (true, 0, Some((_, Some(r))), Some(m)) = (args.layers, n, &reference, &model) {
                layer_table(m, r, &x, &limits, &*evaluate, &mut text)?;
            }
            let found = subject.run(&x)?;
            let expected = match &mut reference {
                Some((r, _)) => by_name(&outputs, &r.names().1, r.run(&x)?)?,
                None => driver::outputs_of(set, &outputs)?,
            };
            for ((name, y), e) in outputs.iter().zip(&found).zip(&expected) {
                let Some(e) = e else {
                    return Err(vec![
                        usage(format!("{} holds no expected output {name}", set.0.display()))
                            .with_help("name a reference with --against"),
                    ]);
                };
                let c = driver::compare(name, y, e, &limits)?;
                let over = c.over(&limits);
                let _ = writeln!(text, "{}", line(name, &c, over.is_some()));
                rows.push(json!({
                    "set": set.0.file_name().map(|n| n.to_string_lossy()), "output": name, "rel_l2": finite(c.rel_l2),
                    "max_abs": finite(c.max_abs), "cosine": finite(c.cosine), "top1": c.top1, "pass": over.is_none(),
                }));
                failures.extend(over.map(|what| {
                    let d = Diagnostic::error("B0201", format!("output {name}: {what}")).failure(Failure::Gate);
                    d.in_file(set.0.display().to_string())
                }));
            }
        }
        let word = if failures.is_empty() { "PASS" } else { "FAIL" };
        let _ = writeln!(
            text,
            "{word} {} of {} outputs over {} inputs",
            rows.len() - failures.len(),
            rows.len(),
            sets.len()
        );
        let data = json!({ "pass": failures.is_empty(), "sets": sets.len(), "outputs": rows });
        notes.append(&mut failures);
        Ok(Outcome { data, text, diagnostics: std::mem::take(&mut notes), ..Outcome::default() })
    })
}

fn finite(v: f64) -> Option<f64> {
    v.is_finite().then_some(v)
}

fn line(name: &str, c: &Comparison, over: bool) -> String {
    let mark = if over { "  <--" } else { "" };
    format!("{name:<34} {:>10.3e} {:>10.7} {:>10.3e}{mark}", c.rel_l2, c.cosine, c.max_abs)
}

fn layer_table(
    a: &Loaded,
    b: &Loaded,
    x: &[tersor_ir::Tensor],
    limits: &Limits,
    evaluate: &dyn Evaluate,
    text: &mut String,
) -> Result<()> {
    for (name, c) in driver::layers(&a.module, &b.module, x, limits, evaluate)? {
        let _ = writeln!(text, "{}", line(&format!("%{name}"), &c, c.over(limits).is_some()));
    }
    Ok(())
}

/// The reference's outputs in the subject's order.
fn by_name(
    wanted: &[String],
    names: &[String],
    outputs: Vec<tersor_ir::Tensor>,
) -> Result<Vec<Option<tersor_ir::Tensor>>> {
    let at = |w: &String| names.iter().position(|n| n == w).map(|i| outputs[i].clone());
    let found: Vec<_> = wanted.iter().map(at).collect();
    match wanted.iter().zip(&found).find(|(_, f)| f.is_none()) {
        Some((name, _)) => Err(vec![
            usage(format!("the reference has no output {name}")).with_help(format!("it has {}", names.join(", "))),
        ]),
        None => Ok(found),
    }
}

fn open(
    args: &Args,
    path: &Path,
    threads: usize,
    evaluate: &dyn Evaluate,
    limits: &tersor_runtime::limits::Limits,
    notes: &mut Vec<Diagnostic>,
) -> Result<(Program, Option<Loaded>)> {
    if path.extension().is_some_and(|e| e == "tsr") {
        let model =
            tersor_runtime::Model::load(path, &Default::default()).map_err(|e| vec![driver::runtime_error(e)])?;
        if args.layers {
            let d = usage(format!("--layers works from models, {} is an artifact", path.display()));
            return Err(vec![d]);
        }
        return Ok((Program::Artifact(Box::new(model.session(threads).stop_on(limits.stop()))), None));
    }
    let loaded = super::shared::load_model(path, &args.shapes, limits, notes)?;
    Ok((Program::of_module(&loaded.module, evaluate)?, Some(loaded)))
}
