//! Gathers statistics: adds taps to a module as its outputs and runs it over calibration batches, one at a time.

use crate::parallel::{self, Job};
use crate::sample;
use crate::statistics::{Statistics, ValueStatistics, module_hash};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use tersor_ir::diag::Failure;
use tersor_ir::target::{Evaluate, Prepared};
use tersor_ir::{Diagnostic, Func, Module, NodeId, Op, Result, Tensor, ValueId};

/// A module whose outputs are these values of `@main`'s body, under their names.
pub fn with_taps(m: &Module, values: &[ValueId]) -> Result<Module> {
    let mut out = m.clone();
    let main = out.main()?;
    let f = &mut out.funcs[main];
    f.outputs = values.iter().map(|&v| f.values[v].name.clone()).collect();
    f.body_mut().results = values.to_vec();
    f.remove_dead();
    Ok(out)
}

/// How to gather.
#[derive(Copy, Clone, Default)]
pub struct Gathering<'a> {
    /// Threads that gather, beside those that the evaluator has.
    pub threads: usize,
    /// Set from outside to end the run after a batch.
    pub interrupt: Option<&'a AtomicBool>,
}

/// Runs the batches through the tapped module and gathers statistics of the taps. A batch has one tensor for each parameter of `@main`.
pub fn calibrate(
    m: &Module,
    taps: &[ValueId],
    evaluate: &dyn Evaluate,
    batches: impl IntoIterator<Item = Result<Vec<Tensor>>>,
    how: Gathering,
) -> Result<Statistics> {
    let mut prepared = evaluate.prepare(&with_taps(m, taps)?)?;
    let f = &m.funcs[m.main()?];
    let consumers = consumers(f);
    let mut out = Statistics { module: Some(module_hash(m)), ..Statistics::default() };
    let mut all: Vec<ValueStatistics> = taps
        .iter()
        .map(|v| {
            let rank = f.values[*v].ty.rank();
            let first = matches!(consumers.get(v).map(|n| &f.nodes[*n].op), Some(Op::Conv(c)) if !c.channels_last);
            ValueStatistics::new(if first { 1 } else { rank.saturating_sub(1) })
        })
        .collect();
    for batch in batches {
        let batch = batch?;
        if how.interrupt.is_some_and(|i| i.load(Ordering::Relaxed)) {
            return Err(Diagnostic::error("S0102", "interrupted").failure(Failure::Interrupted));
        }
        out.samples += batch.first().and_then(|t| t.shape().first()).map_or(1, |&n| n as u64);
        let tensors = prepared.run(&batch)?;
        let jobs = taps.iter().zip(&mut all).zip(&tensors).map(|((v, s), t)| {
            let consumer = consumers.get(v);
            let job = move || {
                s.add(t);
                if let (None, Some(&n)) = (&s.sample, consumer) {
                    s.sample = cut(m, f, n, t);
                }
            };
            (t.len(), Box::new(job) as Job)
        });
        let mut jobs: Vec<(usize, Job)> = jobs.collect();
        // The longest first, so that no thread is left with one at the end.
        jobs.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
        parallel::run(how.threads, jobs.into_iter().map(|(_, job)| job).collect());
    }
    if out.samples == 0 {
        return Err(Diagnostic::error("Q0106", "there are no calibration samples").failure(Failure::Usage));
    }
    out.values = taps.iter().map(|&v| f.values[v].name.to_string()).zip(all).collect();
    Ok(out)
}

/// The first product or convolution that reads each value as its first operand.
fn consumers(f: &Func) -> HashMap<ValueId, NodeId> {
    let mut out = HashMap::new();
    for n in f.live_nodes() {
        if matches!(f.nodes[n].op, Op::MatMul(_) | Op::Conv(_)) {
            out.entry(f.nodes[n].operands[0]).or_insert(n);
        }
    }
    out
}

/// The part of a tensor on which alternatives for its consumer will be compared.
fn cut(m: &Module, f: &Func, consumer: NodeId, t: &Tensor) -> Option<Tensor> {
    let wanted = sample::shapes(m, f, consumer).swap_remove(0);
    let shape: Vec<usize> = wanted.iter().zip(t.shape()).map(|(w, h)| *w.min(h)).collect();
    sample::crop(t, &shape)
}

/// The reference interpreter as an evaluator, for tests and for machines without a backend.
pub struct Interpreter;

impl Evaluate for Interpreter {
    fn prepare(&self, m: &Module) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(Interpreted(m.clone())))
    }
}

struct Interpreted(Module);

impl Prepared for Interpreted {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        tersor_ir::interp::run(&self.0, inputs)
    }
}
