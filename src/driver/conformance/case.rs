//! One case: its model imported, evaluated, compiled and run, and every output compared.

use super::{Status, Verdict};
use crate::driver::{
    self, Compiler, DataSet, Interpreter, Limits, OptimizeOptions, Program, Result, Watch, data_sets, file_error,
    inputs_of, outputs_of,
};
use serde::Deserialize;
use std::path::Path;
use tersor_ir::target::Evaluate;
use tersor_ir::{DType, Diagnostic, Failure, Module};
use tersor_passes::pipeline::Pipeline;

/// What is checked, and how exactly.
pub struct Checks<'a> {
    /// Relative tolerance of an element, unless the case has its own.
    pub rtol: f64,
    /// Absolute tolerance of an element, unless the case has its own.
    pub atol: f64,
    /// Passes before compiling; `None` for the reference evaluator alone.
    pub compile: Option<&'a Pipeline>,
}

/// `data.json` beside a model, as ONNX's runner reads it.
#[derive(Deserialize)]
struct Tolerances {
    rtol: Option<f64>,
    atol: Option<f64>,
}

/// Checks the case in a folder. Panics and aborts are the caller's to catch.
pub fn check(dir: &Path, checks: &Checks, watch: &Watch) -> Verdict {
    let mut verdict = Verdict { status: Status::Passed, reason: None, rel_l2: None, max_abs: None };
    if let Err((stage, errors)) = all(dir, checks, watch, &mut verdict) {
        let unsupported = errors.iter().all(|d| d.failure == Failure::Unsupported);
        let texts: Vec<String> = errors.iter().take(3).map(one_line).collect();
        verdict.status = if unsupported { Status::Unsupported } else { Status::Wrong };
        verdict.reason = Some(format!("{stage}: {}", texts.join("; ")));
    }
    verdict
}

fn one_line(d: &Diagnostic) -> String {
    let node = d.loc.onnx_node().map(|n| format!(" (node {n})")).unwrap_or_default();
    format!("{}: {}{node}", d.code, d.message)
}

/// What failed, and where.
type Failed = (&'static str, Vec<Diagnostic>);

fn all(dir: &Path, checks: &Checks, watch: &Watch, verdict: &mut Verdict) -> std::result::Result<(), Failed> {
    let limits = limits(dir, checks).map_err(|e| ("data.json", e))?;
    let loaded = driver::load(&dir.join("model.onnx"), &Default::default()).map_err(|e| ("import", e))?;
    let sets = data_sets(dir).map_err(|e| ("data", e))?;
    let mut compare = |m: &Module, evaluate: &dyn Evaluate| agree(m, evaluate, &sets, &limits, verdict);
    compare(&loaded.module, &Interpreter).map_err(|e| ("evaluator", e))?;
    if let Some(pipeline) = checks.compile {
        let module = optimized(loaded.module, pipeline, watch).map_err(|e| ("passes", e))?;
        let compiler = Compiler { threads: 1, stop: watch.stop().clone() };
        compare(&module, evaluator(&compiler)).map_err(|e| ("compiled", e))?;
    }
    Ok(())
}

#[cfg(feature = "mlir")]
fn evaluator(c: &Compiler) -> &dyn Evaluate {
    c
}

#[cfg(not(feature = "mlir"))]
fn evaluator(_: &Compiler) -> &dyn Evaluate {
    unreachable!("without a code generator nothing is compiled")
}

fn optimized(module: Module, pipeline: &Pipeline, watch: &Watch) -> Result<Module> {
    let isa = driver::targets(Some("native"))?[0].isa;
    let options = OptimizeOptions { isa, samples: None, run: Default::default() };
    Ok(driver::optimize(module, pipeline, &options, watch)?.module)
}

fn limits(dir: &Path, checks: &Checks) -> Result<Limits> {
    let path = dir.join("data.json");
    let own = match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| vec![file_error(&path, "read", &e.into())])?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Tolerances { rtol: None, atol: None },
        Err(e) => return Err(vec![file_error(&path, "read", &e)]),
    };
    Ok(Limits { rtol: own.rtol.unwrap_or(checks.rtol), atol: own.atol.unwrap_or(checks.atol), max: vec![] })
}

/// Runs a module on every set; an error where an output is not what is expected.
fn agree(m: &Module, evaluate: &dyn Evaluate, sets: &[DataSet], limits: &Limits, verdict: &mut Verdict) -> Result<()> {
    let mut program = Program::of_module(m, evaluate)?;
    let (inputs, outputs) = program.names();
    for set in sets {
        let x = if inputs.is_empty() { vec![] } else { inputs_of(set, &inputs)? };
        let found = program.run(&x)?;
        for ((name, found), expected) in outputs.iter().zip(&found).zip(outputs_of(set, &outputs)?) {
            let Some(expected) = expected else {
                let message = format!("{} holds no expected output {name}", set.0.display());
                return Err(vec![driver::usage(message)]);
            };
            let limits = &Limits { rtol: limits.rtol.max(least_rtol(expected.dtype())), ..limits.clone() };
            let c = driver::compare(name, found, &expected, limits)?;
            verdict.rel_l2 = worst(verdict.rel_l2, c.rel_l2);
            verdict.max_abs = worst(verdict.max_abs, c.max_abs);
            if let Some(what) = c.over(limits) {
                let d = Diagnostic::error("B0201", format!("output {name}: {what}"));
                return Err(vec![d.failure(Failure::Gate)]);
            }
        }
    }
    Ok(())
}

/// What ONNX's runner allows at least: two steps of `bf16`, since its reference rounds after every operator.
fn least_rtol(dtype: DType) -> f64 {
    if dtype == DType::BF16 { 2f64.powi(-6) } else { 0.0 }
}

/// The larger figure; one that is not finite has no place in a document.
fn worst(a: Option<f64>, b: f64) -> Option<f64> {
    if b.is_finite() { Some(a.map_or(b, |a| a.max(b))) } else { a }
}
