//! File tests: `.tir` cases that say in their first lines what to do, and whose result is a snapshot.
//!
//! | line | meaning |
//! |---|---|
//! | `//! pass: a{x=1},b` | run these passes; the snapshot holds counters, decisions, remarks, the module |
//! | `//! check: eval rel <= 0.05` | before and after agree on seeded inputs, for each output, in relative L2 norm |
//! | `//! diff` | the snapshot holds the difference that the passes make instead of the module |
//! | `//! run` | run `@main` on seeded inputs; the snapshot holds the results |
//! | `//! fails: S0101` | the passes end with this error, which is the snapshot |
//! | `… //! error: T0312` at the end of a line | reading or verifying reports this error at this line, and no other; the reports are the snapshot |
//!
//! Whatever it says, a sound case must print, parse and print to the same text. Statistics for passes that need them come from seeded normal inputs.

use crate::manager::{Context, Decide, RunOptions, Step, run};
use crate::pipeline::Pipeline;
use std::fmt::Write;
use tersor_ir::dim::{Bindings, SymbolInfo};
use tersor_ir::target::Roofline;
use tersor_ir::testing::{Gen, rel_l2};
use tersor_ir::text::diff::diff;
use tersor_ir::text::{PrintOptions, parse, print, print_with};
use tersor_ir::{Diagnostic, Loc, Module, Tensor, interp};

/// Batches of calibration data.
const CALIBRATION: u64 = 8;

#[derive(Default)]
struct Directives {
    pass: Option<String>,
    limit: Option<f64>,
    run: bool,
    diff: bool,
    fails: Option<String>,
    errors: Vec<(u32, String)>,
}

/// Runs a case. Gives the text of its snapshot, or what is wrong with it.
pub fn run_case(text: &str) -> Result<String, String> {
    let d = directives(text)?;
    let m = match parse(text, &Default::default()) {
        Ok(m) => m,
        Err(errors) => return expected_errors(&d, &errors),
    };
    let errors = tersor_ir::verify::verify(&m);
    if !errors.is_empty() || !d.errors.is_empty() {
        return expected_errors(&d, &errors);
    }
    let again = parse(&print(&m), &Default::default()).map_err(|e| format!("what is printed does not parse: {}", e[0]));
    let again = print(&again?);
    if again != print(&m) {
        return Err(format!("printed, parsed and printed again it differs:\n{}\n{again}", print(&m)));
    }
    let mut out = String::new();
    if let Some(pipeline) = &d.pass {
        let mut after = m.clone();
        match run_passes(pipeline, &mut after) {
            Err(errors) => {
                let text = errors.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n");
                return match d.fails {
                    Some(code) if errors.iter().any(|e| e.code == code) => Ok(text + "\n"),
                    _ => Err(text),
                };
            }
            Ok(steps) => steps.iter().for_each(|s| report(&mut out, s)),
        }
        let shown = match d.diff {
            true => diff(&m, &after).to_string(),
            false => print_with(&after, PrintOptions { statistics: false, locations: false }),
        };
        let _ = write!(out, "\n{shown}");
        if let Some(limit) = d.limit {
            let worst = difference(&m, &after).map_err(|e| e.to_string())?;
            if worst.is_nan() || worst > limit {
                return Err(format!("outputs differ by {worst:.3e}, allowed is {limit:e}\n{out}"));
            }
        }
    }
    if let Some(code) = d.fails {
        return Err(format!("expected to fail with {code}:\n{out}"));
    }
    if d.run {
        let inputs = seeded_inputs(&m, 1).map_err(|e| e.to_string())?;
        let results = interp::run(&m, &inputs).map_err(|e| e.to_string())?;
        let f = &m.funcs[m.main().map_err(|e| e.to_string())?];
        for (name, t) in f.outputs.iter().zip(&results) {
            let _ = writeln!(out, "%{name} = {}", elements(t));
        }
    }
    if out.is_empty() {
        return Err("the case says neither `pass`, `run` nor `error`".into());
    }
    Ok(out)
}

fn directives(text: &str) -> Result<Directives, String> {
    let mut d = Directives::default();
    for (i, line) in text.lines().enumerate() {
        let Some((code, directive)) = line.split_once("//!") else { continue };
        let (word, rest) = directive.split_once(':').map_or((directive.trim(), ""), |(w, r)| (w.trim(), r.trim()));
        match (word, code.trim().is_empty()) {
            ("error", _) => d.errors.push((i as u32 + 1, rest.into())),
            ("pass", true) => d.pass = Some(rest.into()),
            ("run", true) => d.run = true,
            ("diff", true) => d.diff = true,
            ("fails", true) => d.fails = Some(rest.into()),
            ("check", true) => {
                let limit = rest.strip_prefix("eval rel <=").and_then(|l| l.trim().parse().ok());
                d.limit = Some(limit.ok_or_else(|| format!("line {}: `{rest}` is no check", i + 1))?);
            }
            _ => return Err(format!("line {}: there is no directive `{word}`", i + 1)),
        }
    }
    if d.limit.is_some() && d.pass.is_none() {
        return Err("`check` needs `pass`".into());
    }
    Ok(d)
}

fn expected_errors(d: &Directives, errors: &[Diagnostic]) -> Result<String, String> {
    let text = errors.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n") + "\n";
    let line = |e: &Diagnostic| if let Loc::Text { line, .. } = e.loc { line } else { 0 };
    let mut found: Vec<(u32, String)> = errors.iter().map(|e| (line(e), e.code.to_string())).collect();
    let mut wanted = d.errors.clone();
    found.sort();
    wanted.sort();
    if found == wanted { Ok(text) } else { Err(format!("errors expected: {wanted:?}, found: {found:?}\n{text}")) }
}

/// A machine for tests: 1 ns for a thousand multiply-adds, half of that for each halving of the operands.
pub fn test_target() -> Roofline {
    Roofline {
        name: "test".into(),
        madds: [1e12, 2e12, 4e12],
        elementwise: 1e11,
        decodes: 1e12,
        sums: 1e11,
        bandwidth: 1e11,
        launch: 1e-7,
    }
}

/// Runs a pipeline on [`test_target`], with statistics from seeded inputs where a pass needs some.
pub fn run_passes(pipeline: &str, m: &mut Module) -> Result<Vec<Step>, Vec<Diagnostic>> {
    run_with(pipeline, m, RunOptions::default())
}

/// As [`run_passes`], with somebody else deciding.
pub fn run_decided(pipeline: &str, m: &mut Module, decide: Decide) -> Result<Vec<Step>, Vec<Diagnostic>> {
    run_with(pipeline, m, RunOptions { decide, ..RunOptions::default() })
}

/// As [`run_passes`], with options.
pub fn run_with(pipeline: &str, m: &mut Module, options: RunOptions) -> Result<Vec<Step>, Vec<Diagnostic>> {
    let p = Pipeline::find(pipeline).map_err(|d| vec![d])?;
    let calibrate = |m: &Module, taps: &[crate::patches::Tap]| {
        let batches = (100..100 + CALIBRATION).map(|seed| seeded_inputs(m, seed));
        crate::calibrate::calibrate(m, taps, &crate::calibrate::Interpreter, batches, Default::default())
    };
    let cx = Context { target: &test_target(), calibrate: Some(&calibrate), interrupt: None, progress: None, options };
    run(&p, m, &cx, &mut |_| {})
}

fn report(out: &mut String, s: &Step) {
    let counts: Vec<String> = s.counts.iter().filter(|c| c.1 > 0).map(|(n, v)| format!("{n} {v}")).collect();
    let _ = writeln!(out, "{}: {}", s.pass, if counts.is_empty() { "nothing".into() } else { counts.join(", ") });
    for d in &s.decisions {
        let _ = writeln!(out, "  {d}");
    }
    for r in &s.remarks {
        let _ = writeln!(out, "{r}");
    }
}

/// The largest relative difference of an output, on three sets of inputs.
pub fn difference(a: &Module, b: &Module) -> tersor_ir::Result<f64> {
    let mut worst = 0f64;
    for seed in 1..=3 {
        let inputs = seeded_inputs(a, seed)?;
        let (x, y) = (interp::run(a, &inputs)?, interp::run(b, &inputs)?);
        worst = x.iter().zip(&y).map(|(x, y)| rel_l2(y, x)).fold(worst, f64::max);
    }
    Ok(worst)
}

/// Random inputs of `@main`: symbols have their hints, or 3 where nothing is said about them.
pub fn seeded_inputs(m: &Module, seed: u64) -> tersor_ir::Result<Vec<Tensor>> {
    let bindings: Bindings = m
        .symbols
        .iter()
        .map(|(s, i)| (s.clone(), if *i == SymbolInfo::default() { 3 } else { i.hint.clamp(i.min, i.max) }))
        .collect();
    let f = &m.funcs[m.main()?];
    let mut g = Gen::new(seed);
    let one = |p: &tersor_ir::ValueId| {
        let mut ty = f.values[*p].ty.clone();
        ty.shape.iter_mut().for_each(|d| *d = d.substitute(&bindings));
        g.tensor(&ty)
    };
    Ok(f.body().params.iter().map(one).collect())
}

/// Type and elements, as far as there are few.
fn elements(t: &Tensor) -> String {
    let shown = t.len().min(64);
    let items: Vec<String> = (0..shown).map(|i| element(t, i)).collect();
    format!("{} [{}{}]", t.ty(), items.join(", "), if shown < t.len() { ", …" } else { "" })
}

fn element(t: &Tensor, i: usize) -> String {
    match t.dtype() {
        d if d.part().is_some() => {
            let parts = t.parts();
            format!("({}, {})", element(&parts, 2 * i), element(&parts, 2 * i + 1))
        }
        tersor_ir::DType::Str => tersor_ir::text::quote(&tersor_ir::string::get(t, i)),
        d if !d.is_float() => t.get_i64(i).to_string(),
        tersor_ir::DType::F64 => format!("{:?}", t.get_f64(i)),
        _ => format!("{:?}", t.get_f64(i) as f32),
    }
}
