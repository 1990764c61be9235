//! Runs pipelines: verifies between passes, times them, gathers what they say, and turns proposals into choices, measurements and a plan.

use crate::choose::{Considered, Decision, Held, NO_SITE, Offer, offer, run_proposal, settle};
use crate::coupling::Group;
use crate::coupling::region::Region;
use crate::declare::{Kind, Pass, PassSpec};
use crate::patches::Tap;
use crate::pipeline::Pipeline;
use crate::propose::Site;
use crate::selector::Selector;
use crate::sequential::{self, Outcome, Source};
use crate::statistics::Statistics;
use crate::suggest::did_you_mean;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tersor_ir::diag::{Failure, Severity};
use tersor_ir::plan::Plan;
use tersor_ir::target::Target;
use tersor_ir::{Diagnostic, FuncId, Module, Result, ValueId};

/// Gathers statistics at values of `@main` when a pass first needs some.
pub type Calibrate<'a> = dyn Fn(&Module, &[Tap]) -> Result<Statistics> + 'a;

/// Hears of a part of a step.
pub type Progress<'a> = dyn Fn(&str) + 'a;

/// What a run is given beside the pipeline and the module.
pub struct Context<'a> {
    /// The machine.
    pub target: &'a dyn Target,
    /// Gathers statistics; without it, passes that need some fail.
    pub calibrate: Option<&'a Calibrate<'a>>,
    /// Set from outside to end the run between two steps of work.
    pub interrupt: Option<&'a AtomicBool>,
    /// Hears of the parts of a step as they begin.
    pub progress: Option<&'a Progress<'a>>,
    /// How to run.
    pub options: RunOptions,
}

impl Context<'_> {
    /// Gathers statistics on behalf of a pass.
    pub(crate) fn calibrate(&self, pass: &Pass, m: &Module, taps: &[Tap]) -> Result<Statistics> {
        let calibrate = self.calibrate.ok_or_else(|| {
            Diagnostic::error("S0104", format!("{} needs calibration data", pass.text))
                .failure(Failure::Usage)
                .with_help("give a folder of inputs with --calib")
        })?;
        calibrate(m, taps)
    }
    pub(crate) fn tell(&self, part: &str) {
        if let Some(progress) = self.progress {
            progress(part);
        }
    }
}

/// Who decides between a pass's alternatives and the exact op.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Decide {
    /// Each pass by itself, right after it proposed: its smallest alternative, where that pays.
    #[default]
    Each,
    /// Nobody yet: all alternatives of all passes stay under `choice` ops. Passes that rewrite and come after the first proposal do not run.
    Later,
    /// A plan, once all passes have proposed; only then do rewrites that come after the first proposal run.
    Plan(Plan),
}

/// How to run a pipeline.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Verify the module before the first pass and after each.
    pub verify: bool,
    /// Keep the module's text after passes of these names.
    pub print_after: Vec<String>,
    /// Run no more than so many passes.
    pub stop_after: Option<usize>,
    /// Selectors may match nothing.
    pub allow_empty_selector: bool,
    /// Measure the error of alternatives. Without it decisions have none.
    pub measure: bool,
    /// Who decides.
    pub decide: Decide,
    /// Calibrate each site on what the sites before it became.
    pub sequential: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        RunOptions {
            verify: true,
            print_after: vec![],
            stop_after: None,
            allow_empty_selector: false,
            measure: true,
            decide: Decide::Each,
            sequential: false,
        }
    }
}

/// What one pass did.
#[derive(Clone, Debug)]
pub struct Step {
    /// The pass as pipeline text.
    pub pass: String,
    /// Time it took, its proposals' measurement among it, calibration not.
    pub time: Duration,
    /// Time of calibration.
    pub calibration: Duration,
    /// Counters of the pass, in the order of its declaration.
    pub counts: Vec<(&'static str, u64)>,
    /// What it said.
    pub remarks: Vec<Diagnostic>,
    /// Facts for those who look closely.
    pub details: Vec<String>,
    /// What was decided at its sites, in program order.
    pub decisions: Vec<Decision>,
    /// The module after it, where asked for.
    pub text: Option<String>,
}

/// The positions that are left of each axis; `None` where all are.
pub(crate) type Kept = Vec<Option<Vec<usize>>>;

/// What a pass may use and where it reports.
pub struct PassCx<'a> {
    /// The machine.
    pub target: &'a dyn Target,
    /// Statistics of the taps that the pass asked for.
    pub statistics: Option<&'a Statistics>,
    pub(crate) remarks: Vec<Diagnostic>,
    pub(crate) details: Vec<String>,
    pub(crate) refusals: Vec<((FuncId, ValueId), Decision)>,
    pub(crate) allow_empty_selector: bool,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// Names of values that lost positions, before and after, and those that are left of each axis.
    pub(crate) narrowed: Vec<(String, String, Kept)>,
    /// Sites are decided one after another.
    pub(crate) in_turn: bool,
    /// Groups of coupled channels by the names of their sites, and what their removal rewrites.
    pub(crate) coupled: BTreeMap<String, (Group, Region)>,
    spec: &'static PassSpec,
    interrupt: Option<&'a AtomicBool>,
}

impl<'a> PassCx<'a> {
    pub(crate) fn new(
        pass: &Pass,
        cx: &Context<'a>,
        statistics: Option<&'a Statistics>,
        remarks: Vec<Diagnostic>,
    ) -> PassCx<'a> {
        PassCx {
            target: cx.target,
            statistics,
            remarks,
            details: vec![],
            refusals: vec![],
            allow_empty_selector: cx.options.allow_empty_selector,
            counts: BTreeMap::new(),
            narrowed: vec![],
            in_turn: false,
            coupled: BTreeMap::new(),
            spec: pass.spec,
            interrupt: cx.interrupt,
        }
    }
}

impl PassCx<'_> {
    /// Name of the running pass.
    pub fn pass(&self) -> &'static str {
        self.spec.name
    }
    /// Adds a remark.
    pub fn remark(&mut self, d: Diagnostic) {
        self.remarks.push(d);
    }
    /// Adds a fact for those who look closely, such as the size of what was searched.
    pub fn detail(&mut self, text: impl Into<String>) {
        self.details.push(text.into());
    }
    /// Adds to a declared counter.
    pub fn count(&mut self, name: &'static str, by: u64) {
        debug_assert!(self.spec.stats.iter().any(|s| s.0 == name), "`{name}` is not declared");
        *self.counts.entry(name).or_default() += by;
    }
    /// Notes that nothing is offered at a site, and why.
    pub fn decline(&mut self, site: &Site, reason: impl Into<String>) {
        self.refusals.push(((site.func, site.value), Decision::refused(site, reason.into())));
    }
    /// The candidates that `select` and not `exclude` matches. A selector without effect is an error.
    pub fn select(&self, candidates: Vec<Site>, select: &Selector, exclude: &Selector) -> Result<Vec<Site>> {
        for (name, s) in [("select", select), ("exclude", exclude)] {
            let idle = !s.is_none() && !candidates.iter().any(|c| s.matches(c));
            let anything = name == "select" && tersor_ir::ops::Attr::print(s) == "all";
            if idle && !anything && !self.allow_empty_selector {
                let shown = tersor_ir::ops::Attr::print(s);
                let message = format!("{}: `{name}={shown}` matches none of {} sites", self.pass(), candidates.len());
                let some: Vec<&str> = candidates.iter().take(8).map(|c| c.name.as_str()).collect();
                let d = Diagnostic::error("S0101", message).failure(Failure::Usage);
                return Err(if some.is_empty() {
                    d
                } else {
                    d.with_help(format!("sites are {}, …", some.join(", ")))
                });
            }
        }
        Ok(candidates.into_iter().filter(|c| select.matches(c) && !exclude.matches(c)).collect())
    }
    /// An error once the run is to end.
    pub fn check_interrupt(&self) -> Result<()> {
        match self.interrupt {
            Some(flag) if flag.load(Ordering::Relaxed) => {
                Err(Diagnostic::error("S0102", "interrupted").failure(Failure::Interrupted))
            }
            _ => Ok(()),
        }
    }
}

/// Runs the passes on the module, and calls `done` after each.
///
/// On errors the module is what the failed pass left and must not be used.
pub fn run(
    pipeline: &Pipeline,
    m: &mut Module,
    cx: &Context,
    done: &mut dyn FnMut(&Step),
) -> Result<Vec<Step>, Vec<Diagnostic>> {
    let offered = offer_all(pipeline, m, cx, done)?;
    match &cx.options.decide {
        Decide::Plan(plan) => decide(pipeline, m, cx, offered, plan, done),
        Decide::Each => Ok(offered.steps),
        Decide::Later => {
            offered.steps.iter().for_each(done);
            Ok(offered.steps)
        }
    }
}

/// What passes offered and nobody has decided on yet.
#[derive(Clone, Debug, Default)]
pub struct Offered {
    /// What the passes did.
    pub steps: Vec<Step>,
    /// Offers by the position of their step.
    offers: Vec<(usize, Offer)>,
    /// Of the samples that errors are measured on.
    statistics: Option<Statistics>,
}

/// As [`run`] where a decision comes later, by [`decide`].
pub fn offer_later(
    pipeline: &Pipeline,
    m: &mut Module,
    cx: &Context,
    done: &mut dyn FnMut(&Step),
) -> Result<Offered, Vec<Diagnostic>> {
    debug_assert_eq!(cx.options.decide, Decide::Later);
    let mut offered = offer_all(pipeline, m, cx, done)?;
    offered.steps.iter().for_each(done);
    offered.steps.iter_mut().for_each(|s| (s.time, s.calibration) = Default::default());
    if let Some(s) = &mut offered.statistics {
        s.forget_grams();
    }
    Ok(offered)
}

/// Settles on a plan what was offered in a module that is as [`offer_later`] left it, and runs the passes that come after the decision: what [`run`] does under
/// [`Decide::Plan`].
pub fn decide(
    pipeline: &Pipeline,
    m: &mut Module,
    cx: &Context,
    mut offered: Offered,
    plan: &Plan,
    done: &mut dyn FnMut(&Step),
) -> Result<Vec<Step>, Vec<Diagnostic>> {
    settle_plan(m, plan, &mut offered, cx)?;
    offered.steps.iter().for_each(&mut *done);
    let (mut steps, mut state) = (offered.steps, Pending::default());
    for (_, pass) in parts(pipeline, cx).1 {
        let step = one_pass(pass, m, cx, &mut state)?;
        done(&step);
        steps.push(step);
    }
    quiet_without_sites(&mut steps);
    Ok(steps)
}

/// Passes with their positions in the pipeline.
type Listed<'p> = Vec<(usize, &'p Pass)>;

/// The passes that run: those before a decision that is not theirs, and those after it.
fn parts<'p>(pipeline: &'p Pipeline, cx: &Context) -> (Listed<'p>, Listed<'p>) {
    let first = pipeline.passes.iter().position(|p| matches!(p.kind, Kind::Propose(_))).unwrap_or(usize::MAX);
    let late = |(i, p): &(usize, &Pass)| *i > first && matches!(p.kind, Kind::Rewrite(_));
    let listed = pipeline.passes.iter().enumerate().take(cx.options.stop_after.unwrap_or(usize::MAX));
    listed.partition(|p| cx.options.decide == Decide::Each || !late(p))
}

fn one_pass(pass: &Pass, m: &mut Module, cx: &Context, state: &mut Pending) -> Result<Step, Vec<Diagnostic>> {
    let step = run_pass(pass, m, cx, state).map_err(|d| vec![d])?;
    if cx.options.verify {
        verify(m, Some(&pass.text))?;
    }
    Ok(step)
}

/// Runs the passes before a decision: all where each pass decides.
fn offer_all(
    pipeline: &Pipeline,
    m: &mut Module,
    cx: &Context,
    done: &mut dyn FnMut(&Step),
) -> Result<Offered, Vec<Diagnostic>> {
    let refuse = |code, message: String, help: String| {
        Err(vec![Diagnostic::error(code, message).failure(Failure::Usage).with_help(help)])
    };
    for name in &cx.options.print_after {
        let names: Vec<&str> = pipeline.passes.iter().map(|p| p.spec.name).collect();
        if !names.contains(&name.as_str()) {
            let message = format!("the pipeline has no pass `{name}` to print after");
            return refuse("S0103", message, did_you_mean(name, &names));
        }
    }
    if cx.options.sequential && cx.options.decide != Decide::Each {
        let message = "sequential calibration decides at each site before it comes to the next";
        return refuse("S0115", message.into(), "leave out either it or what is to decide later".into());
    }
    if cx.options.verify {
        verify(m, None)?;
    }
    let (mut steps, mut state) = (vec![], Pending::default());
    let before = parts(pipeline, cx).0;
    let amended = |i: usize| before.iter().any(|&(at, p)| at == i + 1 && p.amends());
    if let Some((_, p)) = before.iter().find(|p| cx.options.sequential && p.1.amends()) {
        let message = format!("{} amends what another pass offers, which sequential calibration resolves", p.text);
        return refuse("S0119", message, "leave out either it or sequential calibration".into());
    }
    for &(i, pass) in &before {
        state.hold = amended(i);
        let step = one_pass(pass, m, cx, &mut state)?;
        if cx.options.decide == Decide::Each {
            done(&step);
        }
        steps.push(step);
    }
    if cx.options.decide == Decide::Each {
        quiet_without_sites(&mut steps);
    }
    Ok(Offered { steps, offers: state.offers, statistics: state.statistics })
}

/// A pass for which the model has no site at all is worth a warning only where no other compressed anything: a preset has passes for many kinds of models.
fn quiet_without_sites(steps: &mut [Step]) {
    if !steps.iter().any(|s| s.decisions.iter().any(|d| d.picked.is_some())) {
        return;
    }
    let remarks = steps.iter_mut().flat_map(|s| &mut s.remarks);
    remarks.filter(|d| d.code == NO_SITE).for_each(|d| d.severity = Severity::Note);
}

/// What passes that only offer leave for later.
#[derive(Default)]
struct Pending {
    statistics: Option<Statistics>,
    /// The module that the first proposal met: data flow without choices.
    exact: Option<Module>,
    /// Whether the running pass is decided on together with the one behind it.
    hold: bool,
    held: Held,
    /// Offers by the position of their step.
    offers: Vec<(usize, Offer)>,
    steps: usize,
}

/// Resolves all offers under a plan, and notes what became of each site at the step that offered it.
fn settle_plan(m: &mut Module, plan: &Plan, offered: &mut Offered, cx: &Context) -> Result<(), Vec<Diagnostic>> {
    let (at, offers): (Vec<usize>, Vec<Offer>) = std::mem::take(&mut offered.offers).into_iter().unzip();
    let statistics = offered.statistics.as_ref().filter(|_| cx.options.measure);
    let decisions = settle(m, &offers, plan, cx.target, statistics, cx.options.measure)?;
    for (at, d) in at.into_iter().zip(decisions) {
        offered.steps[at].decisions.push(d);
    }
    if cx.options.verify { verify(m, Some("the plan")) } else { Ok(()) }
}

/// Statistics of the taps, gathered where those at hand lack some. A tap behind a choice is gathered from the exact program, and known by the tap's name.
fn gather(pass: &Pass, taps: &[Tap], m: &Module, cx: &Context, state: &mut Pending) -> Result<Vec<Diagnostic>> {
    let f = &m.funcs[m.main()?];
    let exact = |mut v: ValueId| {
        while let Some(tersor_ir::Op::Choice(_)) = f.def_node(v).map(|n| &n.op) {
            v = f.def_node(v).map_or(v, |n| n.operands[0]);
        }
        v
    };
    if taps.is_empty() || state.statistics.as_ref().is_some_and(|s| s.cover(f, taps)) {
        return Ok(vec![]);
    }
    let mut behind: Vec<Tap> = taps.iter().map(|t| Tap { value: exact(t.value), ..t.clone() }).collect();
    behind.sort_unstable();
    behind.dedup();
    let mut found = cx.calibrate(pass, state.exact.as_ref().unwrap_or(m), &behind)?;
    for t in taps {
        found.alias(&f.values[exact(t.value)].name, &f.values[t.value].name);
    }
    Ok(state.statistics.insert(found).warnings())
}

fn run_pass(pass: &Pass, m: &mut Module, cx: &Context, state: &mut Pending) -> Result<Step> {
    let (mut calibration, mut remarks) = (Duration::ZERO, vec![]);
    let each = cx.options.decide == Decide::Each;
    let taps = pass.taps(m);
    if let (Kind::Propose(p), true) = (&pass.kind, cx.options.sequential && !taps.is_empty()) {
        let start = Instant::now();
        let out = sequential::run(pass, &**p, m, cx, Source::Anew)?;
        let time = start.elapsed().saturating_sub(out.calibration);
        return Ok(step(pass, m, cx, out, time));
    }
    if let (Kind::Propose(_), true, None) = (&pass.kind, !each || state.hold, &state.exact) {
        state.exact = Some(m.clone());
    }
    if !taps.is_empty() {
        let start = Instant::now();
        remarks = gather(pass, &taps, m, cx, state)?;
        calibration = start.elapsed();
    }
    let start = Instant::now();
    if let (Kind::Propose(p), true) = (&pass.kind, each)
        && p.in_turn()
    {
        // What comes after is of another program, and calibrates it anew.
        let mut out = sequential::run(pass, &**p, m, cx, Source::Exact(state.statistics.take()))?;
        out.remarks.splice(0..0, remarks);
        out.calibration = calibration;
        return Ok(step(pass, m, cx, out, start.elapsed()));
    }
    let mut pass_cx = PassCx::new(pass, cx, state.statistics.as_ref(), remarks);
    pass_cx.check_interrupt()?;
    let decisions = match &pass.kind {
        Kind::Rewrite(p) => {
            p.run(m, &mut pass_cx)?;
            vec![]
        }
        Kind::Propose(p) if each => {
            run_proposal(&**p, m, &mut pass_cx, cx.options.measure, &mut state.held, state.hold)?
        }
        Kind::Propose(p) => {
            let offered = offer(&**p, m, &mut pass_cx)?;
            state.offers.extend(offered.into_iter().map(|o| (state.steps, o)));
            std::mem::take(&mut pass_cx.refusals).into_iter().map(|(_, d)| d).collect()
        }
    };
    if each && !state.hold {
        state.exact = None;
    }
    state.steps += 1;
    let PassCx { remarks, details, counts, narrowed, .. } = pass_cx;
    if let (Kind::Rewrite(_), Some(statistics)) = (&pass.kind, &mut state.statistics) {
        narrowed.iter().for_each(|(_, name, kept)| statistics.narrow(name, kept));
    }
    Ok(step(pass, m, cx, Outcome { decisions, remarks, details, counts, calibration }, start.elapsed()))
}

/// The code of what is said of alternatives that are smaller and slower: a note that everybody hears.
pub const SLOWER: &str = "S0135";

/// What is said of alternatives that stand because they are smaller, though the target takes longer for them.
fn slower(pass: &Pass, decisions: &[Decision], target: &dyn Target) -> Option<Diagnostic> {
    let (mut sites, mut bytes, mut seconds) = (vec![], [0, 0], [0.0, 0.0]);
    for d in decisions {
        let picked = d.considered.iter().find(|c| d.picked.as_ref() == Some(&c.name));
        let (before, after) = (d.bytes_before, d.bytes_after);
        let worse = |(e, p): &(&Considered, &Considered)| p.seconds > e.seconds && after < before;
        let Some((exact, picked)) = d.considered.first().zip(picked).filter(worse) else { continue };
        let times = format!("{:.1} us instead of {:.1} us", picked.seconds * 1e6, exact.seconds * 1e6);
        sites.push(format!("%{} {}: {after} B instead of {before} B, {times}", d.site, picked.name));
        bytes = [bytes[0] + before, bytes[1] + after];
        seconds = [seconds[0] + exact.seconds, seconds[1] + picked.seconds];
    }
    if sites.is_empty() {
        return None;
    }
    let times = format!("{:.1} us instead of {:.1} us", seconds[1] * 1e6, seconds[0] * 1e6);
    let message = format!(
        "{}: {} of {} sites are smaller and slower on {}: {} B instead of {} B, {times}",
        pass.spec.name,
        sites.len(),
        decisions.len(),
        target.name(),
        bytes[1],
        bytes[0]
    );
    let d = Diagnostic::note(SLOWER, message).with_help("a search keeps the time, as with --budget latency=1x");
    Some(sites.into_iter().take(MOST_NAMED).fold(d, |d, s| d.with_note(s)))
}

/// Sites that a remark names.
const MOST_NAMED: usize = 4;

/// The report of a pass that is done.
fn step(pass: &Pass, m: &mut Module, cx: &Context, out: Outcome, time: Duration) -> Step {
    m.pipeline.push(pass.text.clone());
    let counts = pass.spec.stats.iter().map(|s| (s.0, out.counts.get(s.0).copied().unwrap_or(0))).collect();
    let text = cx.options.print_after.iter().any(|n| n == pass.spec.name).then(|| tersor_ir::text::print(m));
    let Outcome { decisions, mut remarks, details, calibration, .. } = out;
    remarks.extend(slower(pass, &decisions, cx.target));
    Step { pass: pass.text.clone(), time, calibration, counts, remarks, details, decisions, text }
}

fn verify(m: &Module, after: Option<&str>) -> Result<(), Vec<Diagnostic>> {
    let errors = tersor_ir::verify::verify(m);
    if errors.is_empty() {
        return Ok(());
    }
    let blame = |d: Diagnostic| match after {
        None => d,
        Some(pass) => d.failure(Failure::Internal).with_note(format!("found after pass `{pass}`")),
    };
    Err(errors.into_iter().map(blame).collect())
}
