//! Calibration data as batches, and statistics from them or from a file made before.

use super::{Result, Watch, data_sets, evaluator, inputs_of};
use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tersor_ir::constant::{ContentHash, SplitMix};
use tersor_ir::{Diagnostic, Failure, Func, Module, Tensor};
use tersor_passes::calibrate::{Collector, Gathering};
use tersor_passes::patches::Tap;
use tersor_passes::statistics::Statistics;

/// Extension of statistics files.
const STATISTICS: &str = "stats";

/// Where calibration data are, and how much of them to use.
#[derive(Clone, Debug)]
pub struct Samples {
    /// A statistics file, or data in any of the forms of `--inputs`.
    pub path: PathBuf,
    /// No more samples than this.
    pub limit: Option<usize>,
    /// Seed for choosing among them.
    pub seed: u64,
    /// Threads that run.
    pub threads: usize,
    /// The most bytes that Gram matrices may take.
    pub gram_bytes: usize,
}

impl Samples {
    /// Whether this is a statistics file.
    pub fn is_statistics(&self) -> bool {
        self.path.extension().is_some_and(|e| e == STATISTICS)
    }
    /// [`hash`](Self::hash) as locks and plans write it, `blake3:hex`.
    pub fn digest(&self) -> Result<String> {
        Ok(format!("blake3:{}", self.hash()?.to_hex()))
    }
    /// A hash of all files, for caches.
    pub fn hash(&self) -> Result<blake3::Hash> {
        data_sets(&self.path)?;
        let mut h = blake3::Hasher::new();
        let mut stack = vec![(self.path.clone(), 0)];
        while let Some((p, depth)) = stack.pop() {
            let error = |e: std::io::Error| vec![super::file_error(&p, "read", &e)];
            let meta = std::fs::metadata(&p).map_err(error)?;
            // Data are in folders of a folder at most. Further down links may lead anywhere, also back up.
            if meta.is_dir() && depth < 2 {
                let mut inner: Vec<_> = std::fs::read_dir(&p).map_err(error)?.flatten().map(|e| e.path()).collect();
                inner.sort();
                stack.extend(inner.into_iter().rev().map(|p| (p, depth + 1)));
            } else if meta.is_file() {
                h.update(p.file_name().unwrap_or_default().as_encoded_bytes());
                h.update(&[0]);
                h.update_reader(std::fs::File::open(&p).map_err(error)?).map_err(error)?;
            }
        }
        h.update(format!("{:?} {}", self.limit, self.seed).as_bytes());
        Ok(h.finalize())
    }
}

impl Samples {
    /// How many there are for a module that was just imported.
    pub fn count(&self, m: &Module) -> Result<u64> {
        if self.is_statistics() {
            return Ok(Statistics::read(&self.path).map_err(|d| vec![d])?.samples);
        }
        Ok(batches(m, self)?.iter().map(|b| b.first().map_or(1, |t| rows_of(t) as u64)).sum())
    }
}

/// What all values of a batch may take together, about; a batch is one sample at least.
const BATCH_BYTES: i64 = 256 << 20;
/// No batch has more samples.
const MOST_ROWS: i64 = 1024;

/// The data as batches that the module takes: where the inputs' first extents are one symbol, samples lie along it.
pub fn batches(m: &Module, samples: &Samples) -> Result<Vec<Vec<Tensor>>> {
    let f = &m.funcs[m.main().map_err(|d| vec![d])?];
    let names: Vec<String> = f.inputs.iter().map(|n| n.to_string()).collect();
    let first = |i: usize| f.values[f.body().params[i]].ty.shape.first().cloned();
    let axis = (!names.is_empty()).then(|| first(0)).flatten();
    let split: Vec<bool> = (0..names.len()).map(|i| axis.is_some() && first(i) == axis).collect();
    let sets = data_sets(&samples.path)?.iter().map(|s| inputs_of(s, &names)).collect::<Result<Vec<_>>>()?;
    // The smallest parts that can be run alone: set, first row, end.
    let mut units = vec![];
    for (i, set) in sets.iter().enumerate() {
        let total = set.first().map_or(1, rows_of);
        let whole = total == 0 || set.iter().zip(&split).any(|(t, s)| *s && rows_of(t) != total);
        let unit = match axis.as_ref() {
            Some(d) if !whole => d.as_const().map_or(1, |n| n.max(1) as usize),
            _ => total,
        };
        let starts = (0..total.max(1)).step_by(unit.max(1));
        let all = starts.map(|from| (i, from, from + unit));
        // Rows that do not fill a batch of a fixed size are left out, but for the only ones.
        units.extend(all.filter(|u| u.2 <= total || total < unit).map(|u| (u.0, u.1, u.2.min(total))));
    }
    if let Some(limit) = samples.limit {
        choose(&mut units, limit, samples.seed);
    }
    let most = sets.first().map_or(1, |s| rows_per_batch(m, f, s));
    let fixed = axis.as_ref().is_none_or(|d| d.as_const().is_some());
    let mut out = vec![];
    for of_set in units.chunk_by(|a, b| a.0 == b.0) {
        // Batches of a set are about equally large.
        let count = if fixed { of_set.len() } else { of_set.len().div_ceil(most) };
        for i in 0..count {
            let part = &of_set[i * of_set.len() / count..(i + 1) * of_set.len() / count];
            let one = |(t, s): (&Tensor, &bool)| if *s { join(t, part) } else { t.clone() };
            out.push(sets[part[0].0].iter().zip(&split).map(one).collect());
        }
    }
    Ok(out)
}

/// Samples that are equal to one before, where a sample is a row of every input; batches of other inputs are a sample each.
fn repeated(batches: &[Vec<Tensor>]) -> u64 {
    let mut seen = HashSet::new();
    let mut count = 0;
    for batch in batches {
        let rows = batch.first().map_or(1, rows_of);
        let whole = batch.iter().any(|t| t.shape().is_empty() || rows_of(t) != rows);
        for row in 0..if whole { 1 } else { rows } {
            let mut h = blake3::Hasher::new();
            for t in batch {
                h.update(if whole { t.clone() } else { t.rows(row, row + 1) }.bytes());
            }
            count += if seen.insert(h.finalize()) {
                0
            } else if whole {
                rows as u64
            } else {
                1
            };
        }
    }
    count
}

fn rows_of(t: &Tensor) -> usize {
    t.shape().first().copied().unwrap_or(1)
}

/// As many samples as make about [`BATCH_BYTES`], given inputs like these.
fn rows_per_batch(m: &Module, f: &Func, set: &[Tensor]) -> usize {
    let mut env = m.hints();
    for (p, t) in f.body().params.iter().zip(set) {
        let extents = f.values[*p].ty.shape.iter().zip(t.shape());
        env.extend(extents.filter_map(|(d, n)| d.as_multiple().map(|(s, factor)| (s.clone(), *n as i64 / factor))));
    }
    if let Some(batch) = f.body().params.first().and_then(|p| f.values[*p].ty.shape.first()?.as_symbol()) {
        env.insert(batch.clone(), 1);
    }
    let results = f.body().nodes.iter().flat_map(|n| &f.nodes[*n].results);
    let bytes = results.filter_map(|v| {
        let ty = &f.values[*v].ty;
        let n = ty.shape.iter().try_fold(1i64, |n, d| n.checked_mul(d.eval(&env)?))?;
        n.checked_mul(ty.dtype.bits().into()).map(|bits| bits / 8)
    });
    let each = bytes.fold(0i64, i64::saturating_add).max(1);
    (BATCH_BYTES / each).clamp(1, MOST_ROWS) as usize
}

/// Rows of a tensor, in order; without a copy where they follow each other.
fn join(t: &Tensor, parts: &[(usize, usize, usize)]) -> Tensor {
    if parts.windows(2).all(|w| w[0].2 == w[1].1) {
        return t.rows(parts[0].1, parts[parts.len() - 1].2);
    }
    let row = t.len() / rows_of(t).max(1);
    let rows: usize = parts.iter().map(|p| p.2 - p.1).sum();
    let at: Vec<usize> = parts.iter().flat_map(|p| p.1 * row..p.2 * row).collect();
    t.gathered([&[rows], &t.shape()[1..]].concat(), &at)
}

/// Keeps units of `limit` rows at most, and one at least, chosen by seed, in their order.
fn choose(units: &mut Vec<(usize, usize, usize)>, limit: usize, seed: u64) {
    let mut rng = SplitMix(seed);
    let mut left = limit;
    for i in 0..units.len() {
        let at = i + rng.below(units.len() - i);
        units.swap(i, at);
        let rows = (units[i].2 - units[i].1).max(1);
        if rows > left && i > 0 {
            units.truncate(i);
            break;
        }
        left = left.saturating_sub(rows);
    }
    units.sort_unstable();
}

/// Statistics of the taps: from a file where one is named, else by running the module.
pub fn calibrate(m: &Module, taps: &[Tap], samples: &Samples, watch: &Watch) -> tersor_ir::Result<Statistics> {
    if !samples.is_statistics() {
        return gather(m, taps, samples, None, watch);
    }
    let statistics = Statistics::read(&samples.path)?;
    statistics.check(m)?;
    let f = &m.funcs[m.main()?];
    let Some(t) = taps.iter().find(|t| !statistics.cover(f, std::slice::from_ref(t))) else { return Ok(statistics) };
    let what = if t.gram.is_some() { "Gram matrix" } else { "statistics" };
    let message = format!("{} has no {what} of %{}", samples.path.display(), f.values[t.value].name);
    let d = Diagnostic::error("Q0111", message).failure(Failure::Usage);
    Err(d.with_help("run `tersor calibrate` with the pipeline that will use it, or with --gram"))
}

/// Where statistics are kept while they are gathered.
#[derive(Clone, Debug)]
pub struct Journal {
    /// The file; removed at the end.
    pub path: PathBuf,
    /// Go on from what it holds, where it exists.
    pub resume: bool,
}

/// How often the journal is written, at most.
const SAVE: Duration = Duration::from_secs(60);

/// Gathers statistics of the taps by running the module over the samples. Interrupted with a journal, it can go on later, to the same bytes.
pub fn gather(
    m: &Module,
    taps: &[Tap],
    samples: &Samples,
    journal: Option<&Journal>,
    watch: &Watch,
) -> tersor_ir::Result<Statistics> {
    let first = |mut e: Vec<Diagnostic>| e.swap_remove(0);
    let data = Some(ContentHash(*samples.hash().map_err(first)?.as_bytes()));
    let batches = batches(m, samples).map_err(first)?;
    let (threads, gram_bytes, repeated) = (samples.threads, samples.gram_bytes, repeated(&batches));
    let how = Gathering { threads, gram_bytes, data, repeated };
    let mut collector = Collector::new(m, taps, &*evaluator(samples.threads, watch.stop()), how)?;
    if let Some(j) = journal.filter(|j| j.resume && j.path.exists()) {
        collector.resume(Statistics::read(&j.path)?)?;
    }
    let known = collector.samples();
    let (mut seen, mut saved) = (0, Instant::now());
    for batch in batches {
        seen += batch.first().map_or(1, rows_of) as u64;
        if seen <= known {
            continue;
        }
        let stop = watch.check().err();
        if let Some(j) = journal.filter(|_| stop.is_some() || saved.elapsed() >= SAVE) {
            collector.show(|s| calibrate_to(s, &j.path)).map_err(first)?;
            saved = Instant::now();
        }
        match (stop, journal) {
            (None, _) => collector.add(&batch)?,
            (Some(d), None) => return Err(d),
            (Some(d), Some(j)) => {
                let help = format!("{} has what was gathered: go on with --resume", j.path.display());
                return Err(d.with_help(help));
            }
        }
    }
    let statistics = collector.finish()?;
    if let Some(j) = journal
        && let Err(e) = std::fs::remove_file(&j.path)
        && e.kind() != ErrorKind::NotFound
    {
        return Err(super::file_error(&j.path, "remove", &e));
    }
    Ok(statistics)
}

/// Writes a statistics file.
pub fn calibrate_to(statistics: &Statistics, path: &Path) -> Result<()> {
    super::load::write_file(path, |out| statistics.write(out))
}
