//! Gathers statistics: adds taps to a module as its outputs and runs it over calibration batches, one at a time.
//!
//! Work on a batch is shared among threads by taps, and Gram matrices by bands of their rows; each number is summed by one thread at a time in the order of
//! the data, so that statistics do not depend on the number of threads, nor on whether a run was interrupted and resumed between two batches.

use crate::gram::Gram;
use crate::parallel::{self, Job};
use crate::patches::{Patches, Tap, Window};
use crate::sample;
use crate::statistics::{Statistics, ValueStatistics, module_hash};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tersor_ir::constant::ContentHash;
use tersor_ir::diag::Failure;
use tersor_ir::target::{Evaluate, Prepared};
use tersor_ir::{Diagnostic, Func, Module, NodeId, Op, Result, Tensor, ValueId};

/// Rows of windows that are laid out at a time.
const ROWS: usize = 512;
/// Bytes that Gram matrices may take where nothing is said.
pub const GRAM_BYTES: usize = 4 << 30;

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
#[derive(Copy, Clone, Debug)]
pub struct Gathering {
    /// Threads that gather, beside those that the evaluator has.
    pub threads: usize,
    /// The most bytes that Gram matrices may take together. Beside them there are a batch, its taps, and some megabytes for each thread.
    pub gram_bytes: usize,
    /// Hash of the data.
    pub data: Option<ContentHash>,
    /// Samples of the data that are equal to one before.
    pub repeated: u64,
}

impl Default for Gathering {
    fn default() -> Self {
        Gathering { threads: 1, gram_bytes: GRAM_BYTES, data: None, repeated: 0 }
    }
}

/// Gram matrices of one kind of rows of one tap: a matrix for each group. While they are added to, only lower triangles are up to date.
struct Sum {
    tap: usize,
    rows: Patches,
    grams: Vec<Gram>,
}

/// Statistics in the making.
pub struct Collector<'m> {
    m: &'m Module,
    f: &'m Func,
    how: Gathering,
    prepared: Box<dyn Prepared>,
    taps: Vec<ValueId>,
    /// Extents of the samples that are of one whole input.
    whole: HashMap<ValueId, Vec<usize>>,
    consumers: HashMap<ValueId, NodeId>,
    samples: u64,
    /// In the order of the taps, without their Gram matrices.
    values: Vec<ValueStatistics>,
    sums: Vec<Sum>,
}

impl<'m> Collector<'m> {
    /// Compiles the tapped module. Refuses Gram matrices that would take more than they may.
    pub fn new(m: &'m Module, taps: &[Tap], evaluate: &dyn Evaluate, how: Gathering) -> Result<Collector<'m>> {
        let f = &m.funcs[m.main()?];
        let consumers = consumers(f);
        let mut wanted: BTreeMap<ValueId, BTreeSet<&Patches>> = BTreeMap::new();
        for t in taps {
            wanted.entry(t.value).or_default().extend(&t.gram);
        }
        let whole = wanted.keys().copied().filter(|v| taps.iter().any(|t| t.whole && t.value == *v));
        let whole = whole.filter_map(|v| Some((v, sample::whole(m, f, v)?))).collect();
        let (mut values, mut sums) = (vec![], vec![]);
        for (tap, (&v, kinds)) in wanted.iter().enumerate() {
            let first = matches!(consumers.get(&v).map(|n| &f.nodes[*n].op), Some(Op::Conv(c)) if !c.channels_last);
            values.push(ValueStatistics::new(if first { 1 } else { f.values[v].ty.rank().saturating_sub(1) }));
            for &rows in kinds {
                sums.push((tap, rows, extent(f, v, rows)?));
            }
        }
        let bytes = |s: &(usize, &Patches, (usize, usize))| s.2.0.saturating_mul(Gram::bytes(s.2.1));
        let all = sums.iter().map(bytes).fold(0, usize::saturating_add);
        let taps: Vec<ValueId> = wanted.keys().copied().collect();
        if all > how.gram_bytes {
            let mega = |n: usize| n.div_ceil(1 << 20);
            let largest = sums.iter().max_by_key(|s| bytes(s)).map(|s| (f.values[taps[s.0]].name.clone(), bytes(s)));
            let (name, most) = largest.unwrap_or_default();
            let message = format!("Gram matrices would take {} MB, of {} MB allowed", mega(all), mega(how.gram_bytes));
            let d = Diagnostic::error("Q0107", message).failure(Failure::Limit);
            return Err(d
                .with_note(format!("the largest is that of %{name}, {} MB", mega(most)))
                .with_help("raise --gram-memory, or select fewer sites"));
        }
        let zero = |(tap, rows, (many, dim)): (usize, &Patches, _)| Sum {
            tap,
            rows: rows.clone(),
            grams: (0..many).map(|_| Gram::new(dim)).collect(),
        };
        let sums = sums.into_iter().map(zero).collect();
        let prepared = evaluate.prepare(&with_taps(m, &taps)?)?;
        Ok(Collector { m, f, how, prepared, taps, whole, consumers, samples: 0, values, sums })
    }
    /// Samples seen.
    pub fn samples(&self) -> u64 {
        self.samples
    }
    /// Goes on from what an earlier run over the first batches knew. Refuses what is of other data or taps.
    pub fn resume(&mut self, from: Statistics) -> Result<()> {
        from.check(self.m)?;
        let names: Vec<&str> = self.taps.iter().map(|v| &*self.f.values[*v].name).collect();
        let kinds = |v: &ValueStatistics| v.windows.len() + usize::from(v.gram.is_some());
        let same = from.data == self.how.data
            && names.len() == from.iter().count()
            && names.iter().all(|n| from.get(n).is_some())
            && self.sums.iter().all(|s| from.get(names[s.tap]).is_some_and(|v| v.grams(&s.rows).is_some()))
            && from.iter().map(|(_, v)| kinds(v)).sum::<usize>() == self.sums.len();
        if !same {
            let d =
                Diagnostic::error("Q0110", "the interrupted calibration was of other data, or gathered other things");
            return Err(d.failure(Failure::Usage).with_help("start again, without --resume"));
        }
        self.take(from);
        Ok(())
    }
    /// Runs one batch: a tensor for each parameter of `@main`.
    pub fn add(&mut self, batch: &[Tensor]) -> Result<()> {
        let tensors = self.prepared.run(batch)?;
        self.samples += batch.first().and_then(|t| t.shape().first()).map_or(1, |&n| n as u64);
        let (m, f, taps, whole, consumers) = (self.m, self.f, &self.taps, &self.whole, &self.consumers);
        let inputs: Vec<Rows> = self.sums.iter().map(|s| Rows::of(&tensors[s.tap], &s.rows)).collect();
        // With about what each costs: the longest are done first, so that no thread is left with one at the end.
        let mut jobs: Vec<(usize, Job)> = vec![];
        for ((s, t), v) in self.values.iter_mut().zip(&tensors).zip(taps) {
            let job = move || {
                s.add(t);
                if s.sample.is_none() {
                    s.sample = match whole.get(v) {
                        Some(shape) => sample::crop(t, shape),
                        None => consumers.get(v).and_then(|&n| cut(m, f, n, t)),
                    };
                }
            };
            jobs.push((t.len() * 16, Box::new(job)));
        }
        for (sum, input) in self.sums.iter_mut().zip(&inputs) {
            for (group, gram) in sum.grams.iter_mut().enumerate() {
                let (dim, rows) = (gram.dim, input.count(gram.dim));
                gram.rows += rows as u64;
                for mut band in gram.bands() {
                    let columns = band.columns();
                    let cost = rows * columns * dim.min(columns);
                    let job = move || input.blocks(group, dim, columns, &mut |x, stride| band.add(x, stride));
                    jobs.push((cost, Box::new(job)));
                }
            }
        }
        jobs.sort_by_key(|(cost, _)| Reverse(*cost));
        parallel::run(self.how.threads, jobs.into_iter().map(|(_, job)| job).collect());
        Ok(())
    }
    /// Shows what is known so far.
    pub fn show<R>(&mut self, f: impl FnOnce(&Statistics) -> R) -> R {
        let statistics = self.assemble();
        let out = f(&statistics);
        self.take(statistics);
        out
    }
    /// The statistics. An error when there was no sample.
    pub fn finish(mut self) -> Result<Statistics> {
        if self.samples == 0 {
            return Err(Diagnostic::error("Q0106", "there are no calibration samples").failure(Failure::Usage));
        }
        Ok(self.assemble())
    }
    fn assemble(&mut self) -> Statistics {
        let mut values = std::mem::take(&mut self.values);
        for mut s in std::mem::take(&mut self.sums) {
            s.grams.iter_mut().for_each(|g| g.mirror(0));
            match s.rows {
                Patches::Rows => values[s.tap].gram = s.grams.pop(),
                Patches::Windows(w) => values[s.tap].windows.push((w, s.grams)),
            }
        }
        let names = self.taps.iter().map(|&v| self.f.values[v].name.to_string());
        Statistics {
            samples: self.samples,
            repeated: self.how.repeated,
            module: Some(module_hash(self.m)),
            data: self.how.data,
            values: names.zip(values).collect(),
        }
    }
    /// Takes over statistics of exactly these taps.
    fn take(&mut self, mut from: Statistics) {
        self.samples = from.samples;
        self.sums.clear();
        self.values = self.taps.iter().filter_map(|v| from.values.remove(&*self.f.values[*v].name)).collect();
        for (tap, v) in self.values.iter_mut().enumerate() {
            let rows = v.gram.take().map(|g| Sum { tap, rows: Patches::Rows, grams: vec![g] });
            let windows = std::mem::take(&mut v.windows).into_iter();
            self.sums.extend(rows);
            self.sums.extend(windows.map(|(w, grams)| Sum { tap, rows: Patches::Windows(w), grams }));
        }
    }
}

/// Matrices and elements of a row that a tap's Gram matrices have.
fn extent(f: &Func, v: ValueId, rows: &Patches) -> Result<(usize, usize)> {
    let value = &f.values[v];
    let extent = value.ty.shape.get(rows.axis(value.ty.rank())).and_then(|d| d.as_const());
    extent.and_then(|n| usize::try_from(n).ok()).map(|n| rows.extent(n)).ok_or_else(|| {
        let message = format!("the rows of %{} have no fixed length: there is no Gram matrix of them", value.name);
        Diagnostic::error("Q0109", message).failure(Failure::Usage).with_help("fix the extent with --dim")
    })
}

/// Rows of one tap in one batch; those with an element that is not finite are left out, and images with one whole.
enum Rows<'t> {
    Plain(Cow<'t, [f32]>),
    Windows(Window, Cow<'t, Tensor>),
}

impl<'t> Rows<'t> {
    fn of(t: &'t Tensor, rows: &Patches) -> Rows<'t> {
        let values = t.f32s();
        let parts = match rows {
            Patches::Rows => t.shape().last(),
            Patches::Windows(_) => t.shape().first(),
        };
        let part = match (rows, parts.copied().unwrap_or(1).max(1)) {
            (Patches::Rows, n) => n,
            (Patches::Windows(_), n) => values.len() / n,
        };
        let all = values.iter().all(|v| v.is_finite());
        let some = || {
            let kept = values.chunks_exact(part.max(1)).filter(|p| p.iter().all(|v| v.is_finite()));
            kept.flatten().copied().collect::<Vec<f32>>()
        };
        match rows {
            Patches::Rows if all => Rows::Plain(values),
            Patches::Rows => Rows::Plain(some().into()),
            Patches::Windows(w) if all => Rows::Windows(w.clone(), Cow::Borrowed(t)),
            Patches::Windows(w) => {
                let kept = some();
                let mut shape = t.shape().to_vec();
                shape[0] = kept.len() / part.max(1);
                Rows::Windows(w.clone(), Cow::Owned(Tensor::from_f32(shape, &kept)))
            }
        }
    }
    /// How many there are, of `dim` elements each.
    fn count(&self, dim: usize) -> usize {
        match self {
            Rows::Plain(x) => x.len() / dim.max(1),
            Rows::Windows(w, t) => w.places(t.shape()),
        }
    }
    /// Calls `f` with rows, and the distance from one to the next.
    fn blocks(&self, group: usize, dim: usize, columns: usize, f: &mut dyn FnMut(&[f32], usize)) {
        match self {
            Rows::Plain(x) => f(x, dim),
            Rows::Windows(w, t) => w.blocks(t, group, columns, ROWS, &mut |x| f(x, columns)),
        }
    }
}

/// Runs the batches through the tapped module and gathers statistics of the taps. A batch has one tensor for each parameter of `@main`.
pub fn calibrate(
    m: &Module,
    taps: &[Tap],
    evaluate: &dyn Evaluate,
    batches: impl IntoIterator<Item = Result<Vec<Tensor>>>,
    how: Gathering,
) -> Result<Statistics> {
    let mut collector = Collector::new(m, taps, evaluate, how)?;
    batches.into_iter().try_for_each(|batch| collector.add(&batch?))?;
    collector.finish()
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

#[cfg(test)]
mod tests;
