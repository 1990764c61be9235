//! From choices to a plan: offers, measures, allocates, and measures what was chosen.

use super::lock::Input;
use super::metric::{Reference, Score};
use super::{Metric, OptimizeOptions, PlanFile, Plans, Result, Samples, Watch, usage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tersor_backends::lower;
use tersor_backends::target::Machine;
use tersor_frontend::ImportOptions;
use tersor_ir::constant::SplitMix;
use tersor_ir::plan::{Plan, resolve};
use tersor_ir::{Diagnostic, Failure, Module, Tensor};
use tersor_passes::allocate::{
    self, Alternative, Answer, Assignment, Budget, Costs, Cx, Fitness, Limit, Point, Quantity, Row, State, Table,
};
use tersor_passes::choose::costs_of;
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
    pub bindings: (BTreeMap<String, String>, BTreeMap<String, String>),
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
}

/// A measured plan on the front.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Alternative by site.
    pub sites: BTreeMap<String, String>,
    /// Costs; the error is measured.
    pub costs: Costs,
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
    /// Limits in absolute numbers.
    pub limits: Vec<(Quantity, f64)>,
    /// Measured plans that no other is better than in size, latency and error.
    pub front: Vec<Measured>,
    /// Error after each generation, of an evolutionary search.
    pub history: Vec<f64>,
    /// The exact module and the plan's, before the passes that come after the decision.
    pub modules: (Module, Module),
    /// Runs of plans on a batch; programs compiled for them.
    pub runs: (usize, usize),
    /// Why no plan whatever keeps the budget, where that is known.
    pub impossible: Option<Diagnostic>,
    /// Remarks and warnings.
    pub notes: Vec<Diagnostic>,
}

/// What an interrupted search leaves.
#[derive(Serialize, Deserialize)]
struct Journal {
    tersor: u32,
    /// Hash of all that decides the table and the limits.
    key: String,
    table: Table,
    state: Option<State>,
}

/// A part of the data, with what the exact program gives for it.
struct Batch {
    inputs: Vec<Tensor>,
    first: usize,
    rows: usize,
    exact: Option<Reference>,
}

/// Measures plans.
struct Meter<'a, 'w> {
    plans: Plans,
    batches: Vec<Batch>,
    metric: Metric,
    labels: Option<Tensor>,
    table: Table,
    runs: usize,
    watch: &'a Watch<'w>,
}

impl Meter<'_, '_> {
    fn measure(&mut self, plan: &Plan, which: &[usize]) -> Result<(f64, Option<f64>)> {
        let one = |d: Diagnostic| vec![d];
        let mut score = Score::new(self.metric, self.labels.as_ref());
        for &i in which {
            self.watch.check().map_err(one)?;
            let b = &mut self.batches[i];
            if b.exact.is_none() {
                b.exact = Some(Reference::new(self.metric, self.plans.run(&Plan::default(), &b.inputs).map_err(one)?));
            }
            let outputs = self.plans.run(plan, &b.inputs).map_err(one)?;
            self.runs += 1;
            if let Some(exact) = &b.exact {
                score.add(b.first, &b.inputs, exact, &outputs)?;
            }
        }
        score.error()
    }
    fn all(&mut self, plan: &Plan) -> Result<(f64, Option<f64>)> {
        self.measure(plan, &(0..self.batches.len()).collect::<Vec<_>>())
    }
}

impl Fitness for Meter<'_, '_> {
    fn error(&mut self, plan: &Assignment, samples: usize, draw: u64) -> tersor_ir::Result<f64> {
        let (mut random, mut left) = (SplitMix(draw), (0..self.batches.len()).collect::<Vec<_>>());
        let (mut which, mut rows) = (vec![], 0);
        while !left.is_empty() && (rows < samples || !self.metric.on_parts()) {
            let i = left.swap_remove(random.below(left.len()));
            rows += self.batches[i].rows;
            which.push(i);
        }
        which.sort_unstable();
        let plan = self.table.plan(plan);
        self.measure(&plan, &which).map(|e| e.0).map_err(|mut e| e.swap_remove(0))
    }
}

/// Rows in a batch of data that is measured on.
const ROWS: usize = 4;

/// The data in batches of few rows, so that a stage of a search can take few.
fn batches(m: &Module, samples: &Samples) -> Result<Vec<Batch>> {
    let f = &m.funcs[m.main().map_err(|d| vec![d])?];
    let first = |v| f.values[v].ty.shape.first().cloned();
    let axis = f.body().params.first().and_then(|&p| first(p)).filter(|d| d.as_const().is_none());
    let together = axis.is_some() && f.body().params.iter().all(|&p| first(p) == axis);
    let (mut out, mut at) = (vec![], 0);
    for inputs in super::batches(m, samples)? {
        let rows = inputs.first().and_then(|t| t.shape().first()).map_or(1, |&n| n.max(1));
        let step = if together { ROWS } else { rows };
        for from in (0..rows).step_by(step) {
            let to = (from + step).min(rows);
            let part = |t: &Tensor| {
                let (row, mut shape) = (t.len() / rows, t.shape().to_vec());
                shape[0] = to - from;
                t.gathered(shape, &(from * row..to * row).collect::<Vec<_>>())
            };
            let inputs = if step < rows { inputs.iter().map(part).collect() } else { inputs.clone() };
            out.push(Batch { inputs, first: at, rows: to - from, exact: None });
            at += to - from;
        }
    }
    Ok(out)
}

/// Searches for a plan.
pub fn search(o: &SearchOptions, watch: &Watch) -> Result<Found> {
    let one = |d: Diagnostic| vec![d];
    let strategy = allocate::parse(&o.strategy).map_err(one)?;
    let minimise = o.minimise.unwrap_or(o.budget.default_objective());
    let data = match (&o.data, &o.samples) {
        (Some(path), s) => {
            let limit = s.as_ref().and_then(|s| s.limit);
            Samples { path: path.clone(), limit, seed: o.seed, threads: o.threads, gram_bytes: 0 }
        }
        (None, Some(s)) if !s.is_statistics() => s.clone(),
        _ => return Err(vec![usage("name data to measure on with --inputs, or calibration data with --calib")]),
    };
    let labels = o.labels.as_deref().map(super::metric::labels).transpose()?;
    if labels.is_some() && data.limit.is_some() {
        return Err(vec![usage("labels belong to all samples: leave --samples out")]);
    }
    if o.metric.needs_labels() && labels.is_none() {
        return Err(vec![usage(format!("{} needs --labels", o.metric.name()))]);
    }
    let start = watch.begin("import").map_err(one)?;
    let loaded = super::load(o.model, &o.import)?;
    let model = super::source_hash(&loaded)?;
    watch.done("import", "", start);
    let isa = o.targets.first().ok_or_else(|| vec![usage("no target")])?.isa;
    let run = RunOptions { decide: Decide::Later, ..o.run.clone() };
    let options = OptimizeOptions { isa, samples: o.samples.clone(), run };
    let offered = super::optimize(loaded.module, o.pipeline, &options, watch)?;
    let mut notes = loaded.notes;
    notes.extend(offered.steps.into_iter().flat_map(|s| s.remarks));
    let start = watch.begin("prepare").map_err(one)?;
    let plans = Plans::new(offered.module, o.threads, watch.stop()).map_err(one)?;
    if plans.sites().is_empty() {
        let d = usage("the pipeline offers no alternatives, so there is nothing to choose");
        return Err(vec![
            d.with_help("name passes that compress, such as -p 'normalize,saturate,quantize{acts=none}'"),
        ]);
    }
    let batches = batches(plans.family(), &data)?;
    if batches.is_empty() {
        return Err(vec![usage("there are no samples to measure on")]);
    }
    watch.done("prepare", format!("{} sites, {} batches", plans.sites().len(), batches.len()), start);
    let calibration = o.samples.as_ref().map(Samples::hash).transpose()?.map(|h| format!("blake3:{}", h.to_hex()));
    let key = journal_key(o, &model, calibration.as_deref(), &data)?;
    let journal = o.resume.as_deref().filter(|p| p.exists()).map(|p| read_journal(p, &key)).transpose()?;
    let mut meter = Meter { plans, batches, metric: o.metric, labels, table: Table::default(), runs: 0, watch };
    let (table, state) = match journal {
        Some(j) => (j.table, j.state),
        None => (measure_table(&mut meter, isa, &mut notes)?, None),
    };
    meter.table = table.clone();
    let exact = table.totals(&table.exact());
    let problem = o.budget.problem(&table, minimise).map_err(one)?;
    let impossible = problem.check().err();
    if o.budget.limits.is_empty() && minimise == Quantity::Error {
        let d = usage("without a budget the exact model is the best plan");
        return Err(vec![d.with_help("give --budget size=0.3x, or --minimise size with --budget error=0.01")]);
    }
    let save = |state: Option<&State>| -> Result<()> {
        let Some(path) = &o.resume else { return Ok(()) };
        let j = Journal { tersor: 1, key: key.clone(), table: table.clone(), state: state.cloned() };
        super::load::write_text(path, &serde_json::to_string(&j).expect("plain values"))
    };
    if state.is_none() {
        save(None)?;
    }
    let start = watch.begin("allocate").map_err(one)?;
    let mut history = vec![];
    let mut answer = if impossible.is_some() {
        Answer::Nothing(problem.nearest())
    } else {
        let mut progress = |s: &State| {
            history.clone_from(&s.history);
            let text = format!("generation {}/{}, error {:.4e}", s.generation, s.generations, s.error);
            watch.done("evolve", text, start);
            save(Some(s)).map_err(|mut e| e.swap_remove(0))?;
            watch.check()
        };
        let fitness: Option<&mut dyn Fitness> = if strategy.runs_plans() { Some(&mut meter) } else { None };
        let mut cx = Cx { fitness, seed: o.seed, resume: state, progress: &mut progress };
        strategy.solve(&problem, &mut cx).map_err(one)?
    };
    let mut measured = meter.all(&table.plan(answer.assignment()))?;
    let limit = problem.limits.iter().find(|l| l.0 == Quantity::Error).map(|l| l.1);
    if let (Some(most), Answer::Found(_)) = (limit, &answer) {
        // Errors of single sites do not add up to that of the plan: the limit on their sum is moved until the measured one keeps the budget, as closely as it can be.
        let fixed = table.fixed.error;
        let (mut low, mut high) = (0.0, 1.0);
        let mut kept = (measured.0 <= most).then(|| (answer.clone(), measured));
        for _ in 0..if kept.is_some() { 0 } else { 8 } {
            let share = (low + high) / 2.0;
            let mut p = problem.clone();
            p.limits.iter_mut().filter(|l| l.0 == Quantity::Error).for_each(|l| l.1 = fixed + (most - fixed) * share);
            let mut cx = Cx { fitness: None, seed: o.seed, resume: None, progress: &mut |_| Ok(()) };
            let a = strategy.solve(&p, &mut cx).map_err(one)?;
            let e = meter.all(&table.plan(a.assignment()))?;
            let fits = e.0 <= most && matches!(a, Answer::Found(_));
            if fits {
                (low, kept) = (share, Some((a, e)));
            } else {
                high = share;
            }
        }
        (answer, measured) = kept.unwrap_or_else(|| (Answer::Nothing(answer.assignment().clone()), measured));
    }
    watch.done("allocate", format!("{}, measured error {:.4e}", o.strategy, measured.0), start);
    let (assignment, found) = (answer.assignment().clone(), matches!(answer, Answer::Found(_)));
    let predicted = table.totals(&assignment);
    let costs = Costs { error: measured.0, ..predicted };
    let front = front(o, &mut meter, &problem, &assignment, costs)?;
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
        metric: Some(o.metric.name().into()),
        seed: o.seed,
        samples: o.samples.as_ref().and_then(|s| s.limit),
        budget: o.budget.limits.iter().map(|l| l.2.clone()).collect(),
        model: Input { hash: model, bytes: None },
        calibration: calibration.map(|hash| Input { hash, bytes: None }),
        dims: o.bindings.0.clone(),
        shapes: o.bindings.1.clone(),
        expected: Some(costs),
        sites: plan.picks,
    };
    let fits = found && (limit.is_none() || problem.fits(&costs));
    let limits = problem.limits.clone();
    let runs = (meter.runs, meter.plans.compiled);
    let measured = (costs, measured.1);
    Ok(Found {
        plan: file,
        fits,
        table,
        assignment,
        exact,
        predicted,
        measured,
        limits,
        front,
        history,
        modules,
        runs,
        impossible,
        notes,
    })
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

/// Costs of every alternative: bytes as the target's kernels read them, seconds by its description, and the error of the plan that picks it alone.
fn measure_table(meter: &mut Meter, isa: tersor_backends::kernel::Isa, notes: &mut Vec<Diagnostic>) -> Result<Table> {
    let one = |d: Diagnostic| vec![d];
    let start = meter.watch.begin("measure").map_err(one)?;
    let family = meter.plans.family().clone();
    let sites = meter.plans.sites().to_vec();
    let target = Machine::of(isa);
    let packed =
        |m: &Module| -> tersor_ir::Result<f64> { Ok(lower::packed(m, isa)?.iter().map(|c| c.1.len() as f64).sum()) };
    let base = meter.all(&Plan::default())?.0;
    let mut rows: Vec<Row> = vec![];
    let mut done = 0;
    for s in &sites {
        let mut row = Row { sites: vec![s.name.clone()], alternatives: vec![] };
        for (a, name) in s.alternatives.iter().enumerate() {
            let nodes = s.nodes(&family, a);
            let size = match s.program(&family, a).and_then(|m| packed(&m)) {
                Ok(size) => size,
                Err(_) if a == 0 => costs_of(&family, s.func, &nodes, target).0 as f64,
                Err(d) => {
                    let message = format!("%{}: {name} is left out, it does not compile: {}", s.name, d.message);
                    notes.push(Diagnostic::warning("S0428", message));
                    continue;
                }
            };
            let error = match a {
                0 => 0.0,
                _ => meter.all(&Plan { picks: [(s.name.clone(), name.clone())].into() })?.0 - base,
            };
            if !error.is_finite() {
                let message = format!("%{}: {name} is left out, its outputs are not finite", s.name);
                notes.push(Diagnostic::warning("S0428", message));
                continue;
            }
            let latency = costs_of(&family, s.func, &nodes, target).1;
            let costs = Costs { error, latency, size, memory: size, work: work(&family, s.func, &nodes) };
            row.alternatives.push(Alternative { name: name.clone(), costs });
            done += 1;
        }
        // Sites of one name choose together; their error was measured together.
        match rows.iter_mut().find(|r| r.sites == row.sites) {
            Some(first) => {
                for (x, y) in first.alternatives.iter_mut().zip(&row.alternatives) {
                    x.costs = x.costs + Costs { error: 0.0, ..y.costs };
                }
            }
            None => rows.push(row),
        }
    }
    let mut exact = family.clone();
    resolve(&mut exact, &Plan::default())?;
    let func = exact.main().map_err(one)?;
    let nodes = exact.funcs[func].live_nodes();
    let size = packed(&exact).map_err(one)?;
    let all = Costs {
        error: base,
        latency: costs_of(&exact, func, &nodes, target).1,
        size,
        memory: size + lower::arena(&exact, isa).map_err(one)? as f64,
        work: work(&exact, func, &nodes),
    };
    let mut table = Table { rows, fixed: Costs::default() };
    let fixed = all - table.totals(&table.exact());
    let positive = |v: f64| v.max(0.0);
    table.fixed = Costs {
        error: base,
        latency: positive(fixed.latency),
        size: positive(fixed.size),
        memory: positive(fixed.memory),
        work: positive(fixed.work),
    };
    meter.watch.done("measure", format!("{done} alternatives at {} sites", table.rows.len()), start);
    Ok(table)
}

fn work(m: &Module, func: tersor_ir::FuncId, nodes: &[tersor_ir::NodeId]) -> f64 {
    let (f, hints) = (&m.funcs[func], m.hints());
    let one = |&n: &tersor_ir::NodeId| {
        let node = &f.nodes[n];
        let heavy = matches!(node.op, tersor_ir::Op::MatMul(_) | tersor_ir::Op::Conv(_) | tersor_ir::Op::Attention(_));
        let ins: Vec<_> = node.operands.iter().map(|&v| &f.values[v].ty).collect();
        let outs: Vec<_> = node.results.iter().map(|&v| f.values[v].ty.clone()).collect();
        if heavy { node.op.work(&ins, &outs).madds.eval(&hints).unwrap_or(0) as f64 } else { 0.0 }
    };
    nodes.iter().map(one).sum()
}

/// Plans between the least size and the exact one, measured.
fn front(
    o: &SearchOptions,
    meter: &mut Meter,
    problem: &allocate::Problem,
    chosen: &Assignment,
    costs: Costs,
) -> Result<Vec<Measured>> {
    let table = problem.table;
    let mut points = vec![Point { plan: chosen.clone(), costs }];
    if o.front > 0 {
        let free = allocate::Problem { table, limits: vec![], minimise: Quantity::Error };
        for plan in allocate::sweep(&free, Quantity::Size, o.front).map_err(|d| vec![d])? {
            let error = meter.all(&table.plan(&plan))?.0;
            points.push(Point { costs: Costs { error, ..table.totals(&plan) }, plan });
        }
    }
    let kept = allocate::front(points, &[Quantity::Size, Quantity::Latency, Quantity::Error]);
    Ok(kept.into_iter().map(|p| Measured { sites: table.plan(&p.plan).picks, costs: p.costs }).collect())
}

fn journal_key(o: &SearchOptions, model: &str, calibration: Option<&str>, data: &Samples) -> Result<String> {
    let limits: Vec<String> = o
        .budget
        .limits
        .iter()
        .map(|(q, l, _)| match l {
            Limit::Absolute(v) => format!("{q}={v}"),
            Limit::Factor(v) => format!("{q}={v}x"),
        })
        .collect();
    let targets: Vec<&str> = o.targets.iter().map(|t| t.isa.name()).collect();
    let parts = [
        super::TOOL.to_string(),
        model.to_string(),
        o.pipeline.text(),
        calibration.unwrap_or("none").to_string(),
        data.hash()?.to_hex().to_string(),
        format!("{:?}", o.labels),
        o.metric.name().to_string(),
        limits.join(","),
        targets.join(","),
        o.seed.to_string(),
        format!("{:?}", o.bindings),
    ];
    Ok(blake3::hash(parts.join("\n").as_bytes()).to_hex().to_string())
}

fn read_journal(path: &Path, key: &str) -> Result<Journal> {
    let text = std::fs::read_to_string(path).map_err(|e| vec![super::file_error(path, "read", &e)])?;
    let refuse = |message: String| vec![usage(message).in_file(path.display().to_string())];
    let j: Journal = serde_json::from_str(&text).map_err(|e| refuse(format!("not a saved search: {e}")))?;
    if j.tersor != 1 || j.key != key {
        let d = usage("the saved search is for another model, pipeline, data, budget, target or seed");
        return Err(vec![d.in_file(path.display().to_string()).with_help("name another file, or remove this one")]);
    }
    Ok(j)
}
