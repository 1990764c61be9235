//! Runs pipelines: verifies between passes, times them, gathers what they say, and turns proposals into choices, measurements and a plan.

use crate::choose::{Decision, Held, NO_SITE, Offer, offer, run_proposal, settle};
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
    let one = |d: Diagnostic| vec![d];
    for name in &cx.options.print_after {
        let names: Vec<&str> = pipeline.passes.iter().map(|p| p.spec.name).collect();
        if !names.contains(&name.as_str()) {
            let d = Diagnostic::error("S0103", format!("the pipeline has no pass `{name}` to print after"));
            return Err(one(d.failure(Failure::Usage).with_help(did_you_mean(name, &names))));
        }
    }
    if cx.options.sequential && cx.options.decide != Decide::Each {
        let d = Diagnostic::error("S0115", "sequential calibration decides at each site before it comes to the next");
        return Err(one(d.failure(Failure::Usage).with_help("leave out either it or what is to decide later")));
    }
    if cx.options.verify {
        verify(m, None)?;
    }
    let mut steps = vec![];
    let mut state = Pending::default();
    let listed = &pipeline.passes[..pipeline.passes.len().min(cx.options.stop_after.unwrap_or(usize::MAX))];
    if let Some(p) = listed.iter().find(|p| cx.options.sequential && p.amends()) {
        let message = format!("{} amends what another pass offers, which sequential calibration resolves", p.text);
        let d = Diagnostic::error("S0119", message).failure(Failure::Usage);
        return Err(one(d.with_help("leave out either it or sequential calibration")));
    }
    let first = pipeline.passes.iter().position(|p| matches!(p.kind, Kind::Propose(_))).unwrap_or(usize::MAX);
    let late = |(i, p): &(usize, &Pass)| *i > first && matches!(p.kind, Kind::Rewrite(_));
    let (after, before): (Vec<_>, Vec<_>) =
        listed.iter().enumerate().partition(|p| cx.options.decide != Decide::Each && late(p));
    let one_pass = |pass: &Pass, m: &mut Module, state: &mut Pending| -> Result<Step, Vec<Diagnostic>> {
        let step = run_pass(pass, m, cx, state).map_err(one)?;
        if cx.options.verify {
            verify(m, Some(&pass.text))?;
        }
        Ok(step)
    };
    for (i, pass) in before {
        state.hold = listed.get(i + 1).is_some_and(Pass::amends);
        let step = one_pass(pass, m, &mut state)?;
        if cx.options.decide == Decide::Each {
            done(&step);
        }
        steps.push(step);
    }
    if let Decide::Plan(plan) = &cx.options.decide {
        settle_plan(m, plan, &mut state, &mut steps, cx)?;
    }
    if cx.options.decide != Decide::Each {
        steps.iter().for_each(&mut *done);
    }
    if cx.options.decide != Decide::Later {
        for (_, pass) in after {
            let step = one_pass(pass, m, &mut state)?;
            done(&step);
            steps.push(step);
        }
    }
    quiet_without_sites(&mut steps);
    Ok(steps)
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
fn settle_plan(
    m: &mut Module,
    plan: &Plan,
    state: &mut Pending,
    steps: &mut [Step],
    cx: &Context,
) -> Result<(), Vec<Diagnostic>> {
    let (at, offers): (Vec<usize>, Vec<Offer>) = std::mem::take(&mut state.offers).into_iter().unzip();
    state.exact = None;
    let statistics = state.statistics.as_ref().filter(|_| cx.options.measure);
    let decisions = settle(m, &offers, plan, cx.target, statistics, cx.options.measure)?;
    for (at, d) in at.into_iter().zip(decisions) {
        steps[at].decisions.push(d);
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
    let PassCx { remarks, details, counts, .. } = pass_cx;
    Ok(step(pass, m, cx, Outcome { decisions, remarks, details, counts, calibration }, start.elapsed()))
}

/// The report of a pass that is done.
fn step(pass: &Pass, m: &mut Module, cx: &Context, out: Outcome, time: Duration) -> Step {
    m.pipeline.push(pass.text.clone());
    let counts = pass.spec.stats.iter().map(|s| (s.0, out.counts.get(s.0).copied().unwrap_or(0))).collect();
    let text = cx.options.print_after.iter().any(|n| n == pass.spec.name).then(|| tersor_ir::text::print(m));
    let Outcome { decisions, remarks, details, calibration, .. } = out;
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
