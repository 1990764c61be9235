//! Measures plans on data.

use super::SearchOptions;
use crate::driver::metric::{Reference, Score};
use crate::driver::{Metric, Plans, Result, Samples, Watch, usage};
use tersor_ir::constant::SplitMix;
use tersor_ir::plan::Plan;
use tersor_ir::{Diagnostic, Module, Tensor};
use tersor_passes::allocate::{Assignment, Fitness, Table};

/// Rows in a batch: few, so that a stage of a search can take few.
const ROWS: usize = 4;

/// Rows of outputs, such as predicted tokens, that single alternatives are measured on where nothing is said.
const PROBE: usize = 4096;

/// A part of the data, with what the exact program gives for it.
struct Batch {
    inputs: Vec<Tensor>,
    first: usize,
    rows: usize,
    exact: Option<Reference>,
}

/// What a plan gives.
#[derive(Copy, Clone, Debug)]
pub struct Measure {
    pub error: f64,
    /// The standard error.
    pub deviation: Option<f64>,
    /// Perplexity of the exact program and of the plan.
    pub perplexity: Option<(f64, f64)>,
}

/// Measures plans.
pub struct Meter<'a, 'w> {
    pub plans: Plans,
    pub table: Table,
    /// Runs of plans on a batch.
    pub runs: usize,
    pub watch: &'a Watch<'w>,
    batches: Vec<Batch>,
    /// The batches that single alternatives are measured on.
    probe: Vec<usize>,
    metric: &'a Metric,
    labels: Option<Tensor>,
    /// Names of outputs.
    names: Vec<String>,
}

impl<'a, 'w> Meter<'a, 'w> {
    /// Of plans on data.
    pub fn new(
        plans: Plans,
        data: &Samples,
        metric: &'a Metric,
        labels: Option<Tensor>,
        o: &SearchOptions,
        watch: &'a Watch<'w>,
    ) -> Result<Meter<'a, 'w>> {
        let m = plans.family();
        let batches = batches(m, data)?;
        if batches.is_empty() {
            return Err(vec![usage("there are no samples to measure on")]);
        }
        let names = m.funcs[m.main().map_err(|d| vec![d])?].outputs.iter().map(|n| n.to_string()).collect();
        let table = Table::default();
        let mut meter = Meter { plans, table, runs: 0, watch, batches, probe: vec![], metric, labels, names };
        let most = match o.probe {
            Some(samples) => samples.max(1),
            None => (PROBE / meter.rows_each()?.max(1)).max(1),
        };
        meter.probe = meter.draw(most, o.seed);
        Ok(meter)
    }
    /// Sites and data in words.
    pub fn describe(&self) -> String {
        let rows = |which: &[usize]| which.iter().map(|&i| self.batches[i].rows).sum::<usize>();
        let all = self.batches.iter().map(|b| b.rows).sum::<usize>();
        format!("{} sites; {all} samples, {} for each alternative", self.plans.sites().len(), rows(&self.probe))
    }
    /// Rows of the first output that a sample gives.
    fn rows_each(&mut self) -> Result<usize> {
        let samples = self.batches[0].rows.max(1);
        let rows = |_: usize, y: Vec<Tensor>| {
            let width = y[0].shape().last().copied().unwrap_or(1).max(1);
            Ok(y[0].len() / width / samples)
        };
        let found = self.plans.run(&Plan::default(), &[&self.batches[0].inputs], &rows).map_err(|d| vec![d])?;
        Ok(found[0])
    }
    /// Batches of about so many samples; all where a part says nothing of the whole.
    fn draw(&self, samples: usize, seed: u64) -> Vec<usize> {
        let (mut random, mut left) = (SplitMix(seed), (0..self.batches.len()).collect::<Vec<_>>());
        let (mut which, mut rows) = (vec![], 0);
        while !left.is_empty() && (rows < samples || !self.metric.on_parts()) {
            let i = left.swap_remove(random.below(left.len()));
            rows += self.batches[i].rows;
            which.push(i);
        }
        which.sort_unstable();
        which
    }
    fn measure(&mut self, plan: &Plan, which: &[usize]) -> Result<Measure> {
        let one = |d: Diagnostic| vec![d];
        self.watch.check().map_err(one)?;
        let (metric, labels) = (self.metric, self.labels.as_ref());
        let new: Vec<usize> = which.iter().copied().filter(|&i| self.batches[i].exact.is_none()).collect();
        if !new.is_empty() {
            let inputs: Vec<&[Tensor]> = new.iter().map(|&i| &self.batches[i].inputs[..]).collect();
            let refer = |i: usize, y: Vec<Tensor>| Ok(Reference::new(metric, inputs[i], y));
            let made = self.plans.run(&Plan::default(), &inputs, &refer).map_err(one)?;
            new.into_iter().zip(made).for_each(|(i, r)| self.batches[i].exact = Some(r));
        }
        let inputs: Vec<&[Tensor]> = which.iter().map(|&i| &self.batches[i].inputs[..]).collect();
        let score = |i: usize, y: Vec<Tensor>| {
            let b = &self.batches[which[i]];
            let exact = b.exact.as_ref().expect("made above");
            Score::new(metric, labels).of(b.first, &b.inputs, exact, y).map_err(|mut e| e.swap_remove(0))
        };
        let scores = self.plans.run(plan, &inputs, &score).map_err(one)?;
        self.runs += which.len();
        let mut whole = Score::new(metric, labels);
        scores.into_iter().for_each(|s| whole.merge(s));
        let (error, deviation) = whole.error(&self.names)?;
        Ok(Measure { error, deviation, perplexity: whole.perplexity() })
    }
    /// What a plan gives on all data.
    pub fn all(&mut self, plan: &Plan) -> Result<Measure> {
        self.measure(plan, &(0..self.batches.len()).collect::<Vec<_>>())
    }
    /// Its error on the samples for single alternatives.
    pub fn probe(&mut self, plan: &Plan) -> Result<f64> {
        let which = self.probe.clone();
        Ok(self.measure(plan, &which)?.error)
    }
}

impl Fitness for Meter<'_, '_> {
    fn error(&mut self, plan: &Assignment, samples: usize, draw: u64) -> tersor_ir::Result<f64> {
        let (which, plan) = (self.draw(samples, draw), self.table.plan(plan));
        self.measure(&plan, &which).map(|m| m.error).map_err(|mut e| e.swap_remove(0))
    }
}

/// The data in batches of few rows.
fn batches(m: &Module, samples: &Samples) -> Result<Vec<Batch>> {
    let f = &m.funcs[m.main().map_err(|d| vec![d])?];
    let first = |v| f.values[v].ty.shape.first().cloned();
    let axis = f.body().params.first().and_then(|&p| first(p)).filter(|d| d.as_const().is_none());
    let together = axis.is_some() && f.body().params.iter().all(|&p| first(p) == axis);
    let (mut out, mut at) = (vec![], 0);
    for inputs in crate::driver::batches(m, samples)? {
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
