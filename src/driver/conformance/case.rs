//! One case: its model imported, evaluated, compiled and run, and every output compared.

use super::law;
use super::set::Set;
use super::{Status, Verdict};
use crate::driver::{
    self, Compiler, Interpreter, Limits, Loaded, OptimizeOptions, Program, Result, Watch, data_sets, file_error,
};
use serde::Deserialize;
use std::path::Path;
use tersor_frontend::{Given, ImportOptions};
use tersor_ir::diag::Severity;
use tersor_ir::target::Evaluate;
use tersor_ir::{DType, Diagnostic, Failure, Module, Tensor};
use tersor_passes::pipeline::Pipeline;

/// What is checked, and how exactly.
pub struct Checks<'a> {
    /// Relative tolerance of an element, unless the case has its own.
    pub rtol: f64,
    /// Absolute tolerance of an element, unless the case has its own.
    pub atol: f64,
    /// Passes before compiling; `None` for the reference evaluator alone.
    pub compile: Option<&'a Pipeline>,
    /// What is accepted of a model.
    pub import: ImportOptions,
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
    if let Err((stage, mut errors)) = all(dir, checks, watch, &mut verdict) {
        errors.retain(|d| d.severity == Severity::Error);
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
    let model = dir.join("model.onnx");
    let ports = tersor_frontend::interface(&model).map_err(|d| ("import", vec![d]))?;
    let sets =
        data_sets(dir).and_then(|sets| sets.into_iter().map(|s| Set::read(s, &ports)).collect::<Result<Vec<_>>>());
    let sets = sets.map_err(|e| ("data", e))?;
    let loaded = load(&model, &sets, &checks.import).map_err(|e| ("import", e))?;
    // Passes may draw the numbers already.
    let f = &loaded.module.funcs[loaded.module.main().map_err(|d| ("import", vec![d]))?];
    let drawn: Vec<bool> = f.body().results.iter().map(|&v| law::is_drawn(f, v)).collect();
    let mut compare = |m: &Module, evaluate: &dyn Evaluate| agree(m, evaluate, &sets, &limits, &drawn, verdict);
    compare(&loaded.module, &Interpreter).map_err(|e| ("evaluator", e))?;
    if let Some(pipeline) = checks.compile {
        let module = optimized(loaded.module, pipeline, watch).map_err(|e| ("passes", e))?;
        let compiler = Compiler { threads: 1, stop: watch.stop().clone() };
        compare(&module, evaluator(&compiler)).map_err(|e| ("compiled", e))?;
    }
    Ok(())
}

/// The model, for any extents where that works, or else for those of the data.
fn load(model: &Path, sets: &[Set], import: &ImportOptions) -> Result<Loaded> {
    let Some(first) = sets.first() else { return driver::load(model, import) };
    let inputs = &first.inputs;
    let with = |shapes| {
        let options = ImportOptions { lengths: inputs.lengths.clone(), shapes, ..import.clone() };
        decided(model, first, options).and_then(|options| driver::load(model, &options))
    };
    let fixed = inputs.shapes(false);
    with(inputs.shapes(true)).or_else(|errors| {
        let same = sets.iter().all(|s| s.inputs.shapes(false) == fixed);
        if same { with(fixed).map_err(|_| errors) } else { Err(errors) }
    })
}

/// Import options in which the inputs that decide the forms of operators are constants.
fn decided(model: &Path, first: &Set, mut options: ImportOptions) -> Result<ImportOptions> {
    loop {
        let names = tersor_frontend::undecided(model, &options)?;
        if names.is_empty() {
            return Ok(options);
        }
        for name in names {
            let given = Given::Tensor(first.input(&name)?);
            options.values.insert(name, given);
        }
    }
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
fn agree(
    m: &Module,
    evaluate: &dyn Evaluate,
    sets: &[Set],
    limits: &Limits,
    drawn: &[bool],
    verdict: &mut Verdict,
) -> Result<()> {
    let mut program = Program::of_module(m, evaluate)?;
    let (inputs, outputs) = program.names();
    for set in sets {
        let x: Vec<Tensor> = inputs.iter().map(|n| set.input(n)).collect::<Result<_>>()?;
        set.outputs_are(outputs.len())?;
        let found = program.run(&x)?;
        for ((name, found), &drawn) in outputs.iter().zip(&found).zip(drawn) {
            let expected = set.output(name)?;
            if drawn {
                verdict.status = Status::Drawn;
                law::agree(name, found, &expected)?;
                continue;
            }
            let mut limits = at_least(limits, &expected);
            if x.iter().any(is_lossy) && found.dtype() == DType::U8 {
                limits.atol = limits.atol.max(LEVELS);
            }
            let limits = &limits;
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

/// By how much decoders may differ, which round each in its own way.
const LEVELS: f64 = 2.0;

/// Whether an operand is an image of a format that loses: JPEG or JPEG 2000, by their signatures.
fn is_lossy(x: &Tensor) -> bool {
    let signatures = [&[0xff, 0xd8, 0xff][..], &[0, 0, 0, 0xc, b'j', b'P'], &[0xff, 0x4f, 0xff, 0x51]];
    x.dtype() == DType::U8 && x.shape().len() == 1 && signatures.iter().any(|s| x.bytes().starts_with(s))
}

/// The limits, but for what says nothing: a difference of the rounding of the largest element, since what is expected is itself a sum of terms that were
/// rounded; and of `bf16` two steps, as ONNX's runner allows them, since its reference rounds after every operator.
fn at_least(limits: &Limits, expected: &Tensor) -> Limits {
    let (step, rtol) = match expected.dtype() {
        DType::F32 => (f64::from(f32::EPSILON), 0.0),
        DType::F64 => (f64::EPSILON, 0.0),
        DType::F16 => (2f64.powi(-10), 0.0),
        DType::BF16 => (0.0, 2f64.powi(-6)),
        _ => (0.0, 0.0),
    };
    let largest = expected.to_f64().into_iter().filter(|v| v.is_finite()).fold(0.0, |a: f64, v| a.max(v.abs()));
    Limits { atol: limits.atol.max(step * largest), rtol: limits.rtol.max(rtol), ..limits.clone() }
}

/// The larger figure; one that is not finite has no place in a document.
fn worst(a: Option<f64>, b: f64) -> Option<f64> {
    if b.is_finite() { Some(a.map_or(b, |a| a.max(b))) } else { a }
}
