//! `run`: executes an artifact on given inputs and writes its outputs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::inputs::{InputArgs, ModelArgs, ThreadArgs};
use crate::cli::{Diagnostic, Outcome};
use crate::data;
use crate::error::{Error, Kind, Result};
use crate::execute::Session;
use crate::limits::Limits;
use crate::load::Model;
use crate::tensor::{Tensor, TensorView};

#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub inputs: InputArgs,
    /// Where outputs go: a .npz file, a .npy file for a single one, or a folder.
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Run so many samples at a time: splits the first axis of the inputs, joins that of the outputs.
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    #[command(flatten)]
    pub threads: ThreadArgs,
    /// Print the K largest elements of each row of the outputs.
    #[arg(long, value_name = "topK")]
    pub print: Option<String>,
}

pub fn run(args: &RunArgs, limits: &Limits) -> Result<Outcome> {
    let top = args.print.as_deref().map(parse_top).transpose()?;
    let mut diagnostics = Vec::new();
    let model = args.model.load()?;
    check_output(args, &model)?;
    let inputs = args.inputs.read(&model, &mut diagnostics)?;
    let mut session = model.session(args.threads.count()).stop_on(limits.stop());
    let started = Instant::now();
    let outputs = match args.batch {
        None => whole(&mut session, &inputs)?,
        Some(n) => batches(&mut session, &inputs, n, &mut diagnostics)?,
    };
    let seconds = started.elapsed().as_secs_f64();
    let names = model.outputs().iter().map(|v| v.name.as_str());
    let named: Vec<(&str, TensorView)> = names.zip(outputs.iter().map(Tensor::view)).collect();
    limits.check()?;
    if let Some(path) = &args.output {
        data::write(path, &named)?;
    }
    let mut text = String::new();
    let mut described = Vec::new();
    for (name, tensor) in &named {
        let mut value = json!({ "name": name, "dtype": tensor.dtype.name(), "shape": tensor.shape });
        match top {
            Some(k) => value["top"] = print_top(&mut text, name, tensor, k),
            None if args.output.is_none() => value["summary"] = summary(&mut text, name, tensor),
            None => {}
        }
        described.push(value);
    }
    let data = json!({
        "outputs": described,
        "output": args.output.as_ref().map(|p| p.display().to_string()),
        "ms": seconds * 1e3,
        "variant": model.variant().name,
        "threads": session.threads(),
    });
    Ok(Outcome { data, text, diagnostics })
}

/// What `run` would do, after a check of everything that is named.
pub fn dry_run(args: &RunArgs) -> Result<Outcome> {
    let mut diagnostics = Vec::new();
    args.print.as_deref().map(parse_top).transpose()?;
    let model = args.model.load()?;
    check_output(args, &model)?;
    let inputs = args.inputs.read(&model, &mut diagnostics)?;
    let views: Vec<TensorView> = inputs.iter().map(Tensor::view).collect();
    let mut text = String::new();
    let mut described = Vec::new();
    for (v, t) in model.outputs().iter().zip(model.session(1).prepare(&views)?) {
        let _ = writeln!(text, "would give {}  {}", v.name, t.view());
        described.push(json!({ "name": v.name, "dtype": t.dtype().name(), "shape": t.shape() }));
    }
    let output = args.output.as_ref().map(|p| p.display().to_string());
    if let Some(path) = &output {
        let _ = writeln!(text, "would write {path}");
    }
    Ok(Outcome { data: json!({ "dry_run": true, "outputs": described, "output": output }), text, diagnostics })
}

/// Refuses outputs that would overwrite what the run reads.
fn check_output(args: &RunArgs, model: &Model) -> Result<()> {
    let Some(out) = &args.output else { return Ok(()) };
    let in_folder = |folder: &Path, names: Vec<&str>| -> Vec<PathBuf> {
        names.iter().map(|n| folder.join(format!("{}.npy", data::file_stem(n)))).collect()
    };
    let names = |inputs: bool| {
        let values = if inputs { model.inputs() } else { model.outputs() };
        values.iter().map(|v| v.name.as_str()).collect::<Vec<_>>()
    };
    let written = match out.extension().and_then(|e| e.to_str()) {
        Some("npz" | "npy") => vec![out.clone()],
        _ => in_folder(out, names(false)),
    };
    let mut read = vec![args.model.artifact.clone()];
    read.extend(args.inputs.each.iter().filter_map(|spec| Some(PathBuf::from(spec.split_once("=@")?.1))));
    if let Some(inputs) = &args.inputs.inputs {
        read.push(inputs.clone());
        read.extend(in_folder(inputs, names(true)));
    }
    let read: Vec<PathBuf> = read.iter().filter_map(|p| p.canonicalize().ok()).collect();
    match written.iter().find(|w| w.canonicalize().is_ok_and(|w| read.contains(&w))) {
        Some(w) => Err(Error::new(Kind::Io, format!("{} is an input and would be overwritten", w.display()))),
        None => Ok(()),
    }
}

fn whole(session: &mut Session, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let views: Vec<TensorView> = inputs.iter().map(Tensor::view).collect();
    let mut outputs = session.prepare(&views)?;
    session.run_into(&views, &mut outputs)?;
    Ok(outputs)
}

/// Runs `n` rows at a time. The batch axis is the first input's first extent; inputs and outputs that start with the same
/// extent are split and joined, other inputs are given whole each time.
fn batches(
    session: &mut Session,
    inputs: &[Tensor],
    n: usize,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<Vec<Tensor>> {
    let model = session.model().clone();
    if n == 0 {
        return Err(Error::new(Kind::Usage, "--batch 0 would run nothing").with_help("give a positive number"));
    }
    let axis = model.inputs().first().and_then(|v| v.dims.first().copied());
    let Some(axis) = axis else {
        return Err(Error::new(Kind::Usage, "--batch needs a first input with an axis to split"));
    };
    let split: Vec<bool> = model.inputs().iter().map(|v| v.dims.first() == Some(&axis)).collect();
    let rows = |t: &Tensor| t.shape().first().copied().unwrap_or(0);
    let total = rows(&inputs[0]);
    for ((t, v), _) in inputs.iter().zip(model.inputs()).zip(&split).filter(|(_, s)| **s) {
        if rows(t) != total {
            let first = &model.inputs()[0].name;
            let what = format!("--batch splits inputs of {total} rows, as {first} has; {} has {}", v.name, rows(t));
            return Err(Error::new(Kind::SymbolConflict, what));
        }
    }
    if total <= n {
        if total < n {
            let what = format!("--batch {n} had no effect: the inputs have {total} rows");
            diagnostics.push(Diagnostic::warning("R0312", what));
        }
        return whole(session, inputs);
    }
    if let Some(v) = model.outputs().iter().find(|v| v.dims.first() != Some(&axis)) {
        let what = format!("--batch cannot join {}: it does not start with the axis split", model.describe(v));
        return Err(Error::new(Kind::Usage, what).with_help("leave --batch out"));
    }
    let mut joined: Vec<Vec<Tensor>> = model.outputs().iter().map(|_| Vec::new()).collect();
    for from in (0..total).step_by(n) {
        let to = (from + n).min(total);
        let parts: Vec<Option<Tensor>> = inputs
            .iter()
            .zip(&split)
            .map(|(t, s)| s.then(|| t.slice_rows(from, to)).transpose())
            .collect::<Result<_>>()?;
        let views: Vec<TensorView> = inputs.iter().zip(&parts).map(|(t, p)| p.as_ref().unwrap_or(t).view()).collect();
        let mut outputs = session.prepare(&views).map_err(|e| e.context(format!("rows {from}..{to}")))?;
        session.run_into(&views, &mut outputs)?;
        for (all, output) in joined.iter_mut().zip(outputs) {
            all.push(output);
        }
    }
    joined.iter().map(|parts| Tensor::concatenate(parts)).collect()
}

fn parse_top(spec: &str) -> Result<usize> {
    spec.strip_prefix("top").and_then(|k| k.parse().ok()).filter(|&k| k > 0).ok_or_else(|| {
        Error::new(Kind::Usage, format!("--print {spec} is not understood")).with_help("write --print top5")
    })
}

/// Prints the largest elements of each row (the last axis), at most 16 rows.
fn print_top(text: &mut String, name: &str, tensor: &TensorView, k: usize) -> Value {
    let Some(values) = tensor.to_f64() else { return Value::Null };
    let width = tensor.shape.last().copied().unwrap_or(1).max(1);
    let mut rows = Vec::new();
    for (row, values) in values.chunks(width).enumerate().take(16) {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
        order.truncate(k);
        let spelled: Vec<String> = order.iter().map(|&i| format!("{i} {:.4}", values[i])).collect();
        let _ = writeln!(text, "{name}[{row}]  {}", spelled.join("  "));
        rows.push(json!(order.iter().map(|&i| json!({ "index": i, "value": values[i] })).collect::<Vec<_>>()));
    }
    json!(rows)
}

fn summary(text: &mut String, name: &str, tensor: &TensorView) -> Value {
    if let Some(Ok(strings)) = tensor.to_strings() {
        let first: Vec<&String> = strings.iter().take(8).collect();
        let _ = writeln!(text, "{name}  {tensor}  {first:?}{}", if strings.len() > 8 { " …" } else { "" });
        return json!({ "first": first });
    }
    let values = tensor.to_f64().unwrap_or_default();
    let (mut least, mut most, mut sum) = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
    for &v in &values {
        least = least.min(v);
        most = most.max(v);
        sum += v;
    }
    if values.is_empty() {
        let _ = writeln!(text, "{name}  {tensor}");
        return Value::Null;
    }
    let mean = sum / values.len() as f64;
    let _ = writeln!(text, "{name}  {tensor}  min {least:.6}  max {most:.6}  mean {mean:.6}");
    json!({ "min": least, "max": most, "mean": mean })
}
