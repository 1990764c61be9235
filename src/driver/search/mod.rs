//! From choices to a plan: offers, measures, allocates, and measures what was chosen.

mod journal;
mod meter;
mod table;

use super::lock::Input;
use super::{Bindings, Metric, Offering, OptimizeOptions, PlanFile, Plans, Result, Samples, Watch, usage};
use journal::Journal;
use meter::{Measure, Meter};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tersor_backends::target::Machine;
use tersor_frontend::ImportOptions;
use tersor_ir::plan::{Plan, resolve};
use tersor_ir::{Diagnostic, Failure, Module};
use tersor_passes::allocate::{
    self, Answer, Assignment, Budget, Costs, Cx, Fitness, Point, Problem, Quantity, State, Strategy, Table,
};
use tersor_passes::manager::{Decide, RunOptions};
use tersor_passes::pipeline::Pipeline;

/// What to search and how.
pub struct SearchOptions<'a> {
    /// The model.
    pub model: &'a Path,
    /// The passes that offer alternatives.
    pub pipeline: &'a Pipeline,
    /// Extents and shapes.
    pub import: ImportOptions,
    /// `--dim` and `--shape` as they were written.
    pub bindings: Bindings,
    /// Calibration data for the passes, and for measuring where `data` names none.
    pub samples: Option<Samples>,
    /// Data to measure on.
    pub data: Option<PathBuf>,
    /// Labels of the data, in their order.
    pub labels: Option<PathBuf>,
    /// What error is.
    pub metric: Metric,
    /// The limits.
    pub budget: Budget,
    /// What is to be small; by the budget where nothing is said.
    pub minimise: Option<Quantity>,
    /// The strategy, as text.
    pub strategy: String,
    /// Targets; the costs of the first decide.
    pub targets: Vec<&'static Machine>,
    /// How to run passes.
    pub run: RunOptions,
    /// Threads that run.
    pub threads: usize,
    /// Seed of the strategy.
    pub seed: u64,
    /// Where the search is kept, and goes on from when it was interrupted.
    pub resume: Option<PathBuf>,
    /// Plans on the front to measure.
    pub front: usize,
    /// Samples that single alternatives and the front are measured on; as many as give some thousand rows of outputs where nothing is said.
    pub probe: Option<usize>,
    /// Whether the table has errors of layers, not of the model's outputs.
    pub layers: bool,
}

/// A measured plan on the front.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Alternative by site.
    pub sites: BTreeMap<String, String>,
    /// Costs; the error is measured, on the samples that single alternatives are measured on.
    pub costs: Costs,
    /// Whether it is the plan that was chosen.
    pub chosen: bool,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The plan, with all that it was made for.
    pub plan: PlanFile,
    /// Whether it keeps the budget.
    pub fits: bool,
    /// Alternatives with single-site errors.
    pub table: Table,
    /// The chosen alternatives.
    pub assignment: Assignment,
    /// Costs of the exact model.
    pub exact: Costs,
    /// Costs of the plan as the table adds them up.
    pub predicted: Costs,
    /// The same with the measured error, and its standard error.
    pub measured: (Costs, Option<f64>),
    /// Perplexity of the exact model and of the plan, where the metric is KL and tokens are predicted.
    pub perplexity: Option<(f64, f64)>,
    /// Limits in absolute numbers.
    pub limits: Vec<(Quantity, f64)>,
    /// Measured plans that no other is better than in size, latency and error.
    pub front: Vec<Measured>,
    /// Error after each generation, of an evolutionary search.
    pub history: Vec<f64>,
    /// The exact module and the plan's, before the passes that come after the decision.
    pub modules: (Module, Module),
    /// What was offered, for [`super::decide`] to build the plan from.
    pub offering: Offering,
    /// Runs of plans on a batch; programs compiled for them.
    pub runs: (usize, usize),
    /// Why no plan whatever keeps the budget, where that is known.
    pub impossible: Option<Diagnostic>,
    /// Remarks and warnings.
    pub notes: Vec<Diagnostic>,
}

/// The data to measure on.
fn data(o: &SearchOptions) -> Result<Samples> {
    match (&o.data, &o.samples) {
        (Some(path), s) => {
            let limit = s.as_ref().and_then(|s| s.limit);
            Ok(Samples { path: path.clone(), limit, seed: o.seed, threads: o.threads, gram_bytes: 0 })
        }
        (None, Some(s)) if !s.is_statistics() => Ok(s.clone()),
        _ => Err(vec![usage("name data to measure on with --inputs, or calibration data with --calib")]),
    }
}

/// Searches for a plan.
pub fn search(o: &SearchOptions, watch: &Watch) -> Result<Found> {
    let one = |d: Diagnostic| vec![d];
    let strategy = allocate::parse(&o.strategy).map_err(one)?;
    let minimise = o.minimise.unwrap_or(o.budget.default_objective());
    if o.budget.limits.is_empty() && minimise == Quantity::Error {
        let d = usage("without a budget the exact model is the best plan");
        return Err(vec![d.with_help("give --budget size=0.3x, or --minimise size with --budget error=0.01")]);
    }
    let data = data(o)?;
    let labels = o.labels.as_deref().map(super::metric::labels).transpose()?;
    if labels.is_some() && data.limit.is_some() {
        return Err(vec![usage("labels belong to all samples: leave --samples out")]);
    }
    if o.metric.needs_labels() && labels.is_none() {
        return Err(vec![usage(format!("{} needs --labels", o.metric.name()))]);
    }
    let loaded = super::load_watched(o.model, &o.import, watch)?;
    let model = super::source_hash(&loaded)?;
    let isa = o.targets.first().ok_or_else(|| vec![usage("no target")])?.isa;
    let run = RunOptions { decide: Decide::Later, ..o.run.clone() };
    let options = OptimizeOptions { isa, samples: o.samples.clone(), run };
    let offering = super::offer(loaded.module, o.pipeline, &options, watch)?;
    let mut notes = loaded.notes;
    notes.extend(super::optimize::warnings(&offering.offered.steps));
    let start = watch.begin("prepare").map_err(one)?;
    let plans = Plans::new(offering.module.clone(), o.threads, watch.stop()).map_err(one)?;
    if plans.sites().is_empty() {
        let d = usage("the pipeline offers no alternatives, so there is nothing to choose");
        return Err(vec![
            d.with_help("name passes that compress, such as -p 'normalize,saturate,quantize{acts=none}'"),
        ]);
    }
    // Before everything is measured.
    let names = plans.sites().iter().flat_map(|s| s.alternatives.iter().map(|n| &**n));
    o.budget.known(names).map_err(one)?;
    let mut meter = Meter::new(plans, &data, &o.metric, labels, o, watch)?;
    watch.done("prepare", meter.describe(), start);
    let calibration = o.samples.as_ref().map(Samples::digest).transpose()?;
    let mut journal = Journal::open(o, &model, calibration.as_deref(), &data)?;
    let table = table::measure(&mut meter, o, &mut journal, &mut notes)?;
    meter.table = table.clone();
    let exact = table.totals(&table.exact());
    let problem = o.budget.problem(&table, minimise).map_err(one)?;
    let impossible = problem.check().err();
    let start = watch.begin("allocate").map_err(one)?;
    let mut history = vec![];
    let answer = if impossible.is_some() {
        Answer::Nothing(problem.nearest())
    } else {
        let resume = journal.evolution(&problem);
        let mut progress = |s: &State| {
            history.clone_from(&s.history);
            let text = format!("generation {}/{}, error {:.4e}", s.generation, s.generations, s.error);
            watch.done("evolve", text, start);
            journal.evolve(&problem, s).map_err(|mut e| e.swap_remove(0))?;
            watch.check()
        };
        let fitness: Option<&mut dyn Fitness> = if strategy.runs_plans() { Some(&mut meter) } else { None };
        let mut cx = Cx { fitness, seed: o.seed, resume, progress: &mut progress };
        strategy.solve(&problem, &mut cx).map_err(one)?
    };
    let (answer, measure) = within(&*strategy, &problem, answer, o.seed, &mut meter)?;
    watch.done("allocate", format!("{}, measured error {:.4e}", o.strategy, measure.error), start);
    let (assignment, found) = (answer.assignment().clone(), matches!(answer, Answer::Found(_)));
    let predicted = table.totals(&assignment);
    let costs = Costs { error: measure.error, ..predicted };
    let front = front(o, &mut meter, &assignment)?;
    let plan = table.plan(&assignment);
    let resolved = |plan: &Plan| -> Result<Module> {
        let mut m = meter.plans.family().clone();
        resolve(&mut m, plan)?;
        Ok(m)
    };
    let modules = (resolved(&Plan::default())?, resolved(&plan)?);
    let file = PlanFile {
        tersor: 1,
        tool: super::TOOL.into(),
        pipeline: o.pipeline.text(),
        targets: o.targets.iter().map(|m| m.isa.name().to_string()).collect(),
        strategy: Some(o.strategy.clone()),
        metric: Some(o.metric.name()),
        seed: o.seed,
        samples: o.samples.as_ref().and_then(|s| s.limit),
        budget: o.budget.limits.iter().map(|l| l.2.clone()).collect(),
        model: Input { hash: model, bytes: None },
        calibration: calibration.map(|hash| Input { hash, bytes: None }),
        bindings: o.bindings.clone(),
        expected: Some(costs),
        sites: plan.picks,
    };
    let limited = problem.limits.iter().any(|l| l.0 == Quantity::Error);
    Ok(Found {
        plan: file,
        fits: found && (!limited || problem.fits(&costs)),
        limits: problem.limits.clone(),
        table,
        assignment,
        exact,
        predicted,
        measured: (costs, measure.deviation),
        perplexity: measure.perplexity,
        front,
        history,
        modules,
        offering,
        runs: (meter.runs, meter.plans.compiled),
        impossible,
        notes,
    })
}

/// An answer measured on all data. Errors of single sites do not add up to that of the plan: a limit on their sum is moved until the measured one keeps the budget, as
/// closely as it can be.
fn within(
    strategy: &dyn Strategy,
    problem: &Problem,
    answer: Answer,
    seed: u64,
    meter: &mut Meter,
) -> Result<(Answer, Measure)> {
    let table = problem.table;
    let measure = meter.all(&table.plan(answer.assignment()))?;
    let limit = problem.limits.iter().find(|l| l.0 == Quantity::Error).map(|l| l.1);
    let Some(most) = limit.filter(|&most| measure.error > most && matches!(answer, Answer::Found(_))) else {
        return Ok((answer, measure));
    };
    let fixed = table.fixed.error;
    let (mut low, mut high, mut kept) = (0.0, 1.0, None);
    for _ in 0..8 {
        let share = (low + high) / 2.0;
        let mut p = problem.clone();
        p.limits.iter_mut().filter(|l| l.0 == Quantity::Error).for_each(|l| l.1 = fixed + (most - fixed) * share);
        let mut cx = Cx { fitness: None, seed, resume: None, progress: &mut |_| Ok(()) };
        let a = strategy.solve(&p, &mut cx).map_err(|d| vec![d])?;
        let e = meter.all(&table.plan(a.assignment()))?;
        if e.error <= most && matches!(a, Answer::Found(_)) {
            (low, kept) = (share, Some((a, e)));
        } else {
            high = share;
        }
    }
    Ok(kept.unwrap_or((Answer::Nothing(answer.assignment().clone()), measure)))
}

/// What is said when no plan keeps the budget.
pub(crate) fn over_budget(f: &Found) -> Diagnostic {
    if let Some(d) = &f.impossible {
        return d.clone();
    }
    let over = f.limits.iter().filter(|(q, most)| f.measured.0.get(*q) > *most);
    let text: Vec<String> =
        over.map(|(q, most)| format!("{q} {} of {}", q.show(f.measured.0.get(*q)), q.show(*most))).collect();
    Diagnostic::error("S0427", format!("no plan was found under the budget; the nearest has {}", text.join(", ")))
        .failure(Failure::Budget)
}

/// Plans between the least size and the exact one, and the chosen one, as far as no other is better than they are.
fn front(o: &SearchOptions, meter: &mut Meter, chosen: &Assignment) -> Result<Vec<Measured>> {
    if o.front == 0 {
        return Ok(vec![]);
    }
    let table = meter.table.clone();
    let free = Problem { table: &table, limits: vec![], minimise: Quantity::Error };
    let mut plans = allocate::sweep(&free, Quantity::Size, o.front).map_err(|d| vec![d])?;
    plans.retain(|p| p != chosen);
    plans.insert(0, chosen.clone());
    let mut points = vec![];
    for plan in plans {
        let error = meter.probe(&table.plan(&plan))?;
        points.push(Point { costs: Costs { error, ..table.totals(&plan) }, plan });
    }
    let kept = allocate::front(points, &[Quantity::Size, Quantity::Latency, Quantity::Error]);
    let one = |p: Point| Measured { sites: table.plan(&p.plan).picks, costs: p.costs, chosen: p.plan == *chosen };
    Ok(kept.into_iter().map(one).collect())
}
