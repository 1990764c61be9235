//! Pipelines over modules, with calibration where a pass asks for it.

use super::{Result, Samples, Watch, calibrate, usage};
use tersor_backends::kernel::Isa;
use tersor_backends::target::Machine;
use tersor_ir::diag::Severity;
use tersor_ir::{Diagnostic, Module};
use tersor_passes::manager::{self, Context, Decide, Offered, RunOptions, Step};
use tersor_passes::pipeline::Pipeline;

/// How to optimize.
#[derive(Clone, Debug)]
pub struct OptimizeOptions {
    /// The machine whose costs decide.
    pub isa: Isa,
    /// Calibration.
    pub samples: Option<Samples>,
    /// How to run passes.
    pub run: RunOptions,
}

/// What the passes did.
#[derive(Debug)]
pub struct Optimized {
    /// The module.
    pub module: Module,
    /// The passes' reports.
    pub steps: Vec<Step>,
}

impl Optimized {
    /// What the passes said that everybody hears.
    pub fn warnings(&self) -> impl Iterator<Item = Diagnostic> {
        warnings(&self.steps)
    }
}

/// What passes said that everybody hears: warnings, and what decisions cost.
pub fn warnings(steps: &[Step]) -> impl Iterator<Item = Diagnostic> {
    steps.iter().flat_map(|s| &s.remarks).filter(|d| is_told(d)).cloned()
}

fn is_told(d: &Diagnostic) -> bool {
    d.severity > Severity::Note || d.code == manager::SLOWER
}

/// The pipeline that `-p` names. A budget in a file is refused: this runs passes as they are listed.
pub fn pipeline(text: &str) -> Result<Pipeline> {
    let p = Pipeline::find(text).map_err(|d| vec![d])?;
    if let Some((quantity, limit)) = p.budget.first() {
        let d = usage(format!("the pipeline's budget, {quantity} = {limit}, asks for a search"));
        return Err(vec![d.with_help("leave [budget] out, or give the file to `tersor search` or `tersor compile`")]);
    }
    Ok(p)
}

/// A module with all that a pipeline offers, for a plan to decide.
#[derive(Clone, Debug)]
pub struct Offering {
    /// The module, with its choices.
    pub module: Module,
    /// What the passes did so far.
    pub offered: Offered,
}

/// What passes are given.
fn with_context<T>(o: &OptimizeOptions, watch: &Watch, run: impl FnOnce(&Context) -> Result<T>) -> Result<T> {
    let calibrate = o.samples.as_ref().map(|s| move |m: &Module, taps: &[_]| calibrate(m, taps, s, watch));
    run(&Context {
        target: Machine::of(o.isa),
        calibrate: calibrate.as_ref().map(|c| c as _),
        interrupt: Some(watch.stop()),
        progress: Some(&|part: &str| drop(watch.begin(part))),
        options: o.run.clone(),
    })
}

/// Runs a pipeline.
pub fn optimize(mut module: Module, p: &Pipeline, options: &OptimizeOptions, watch: &Watch) -> Result<Optimized> {
    let steps = with_context(options, watch, |cx| manager::run(p, &mut module, cx, &mut |s| report(s, watch)))?;
    Ok(Optimized { module, steps })
}

/// Runs the passes of a pipeline that offer something, for [`decide`] to go on.
pub fn offer(mut module: Module, p: &Pipeline, options: &OptimizeOptions, watch: &Watch) -> Result<Offering> {
    let offered =
        with_context(options, watch, |cx| manager::offer_later(p, &mut module, cx, &mut |s| report(s, watch)))?;
    Ok(Offering { module, offered })
}

/// Goes on with what was offered, by the plan in the options: the rest of [`optimize`].
pub fn decide(offering: Offering, p: &Pipeline, options: &OptimizeOptions, watch: &Watch) -> Result<Optimized> {
    let Offering { mut module, offered } = offering;
    let Decide::Plan(plan) = &options.run.decide else { return Err(vec![usage("no plan decides what is offered")]) };
    let steps = with_context(options, watch, |cx| {
        manager::decide(p, &mut module, cx, offered, plan, &mut |s| report(s, watch))
    })?;
    Ok(Optimized { module, steps })
}

fn report(s: &Step, watch: &Watch) {
    let name = s.pass.split('{').next().unwrap_or_default();
    if !s.calibration.is_zero() {
        watch.done_in("calibrate", "", s.calibration);
    }
    let mut parts: Vec<String> = vec![];
    if !s.decisions.is_empty() {
        let picked = s.decisions.iter().filter(|d| d.picked.is_some()).count();
        parts.push(format!("{picked}/{} sites", s.decisions.len()));
    }
    parts.extend(s.counts.iter().filter(|c| c.1 > 0).map(|(n, v)| format!("{n} {v}")));
    watch.done_in(name, if parts.is_empty() { "nothing to do".into() } else { parts.join(", ") }, s.time);
    if s.pass != name {
        watch.detail(1, &s.pass);
    }
    s.remarks.iter().filter(|d| !is_told(d)).for_each(|d| watch.detail(1, &d.message));
    s.decisions.iter().for_each(|d| watch.detail(1, d.to_string()));
    s.details.iter().for_each(|d| watch.detail(2, d));
}
