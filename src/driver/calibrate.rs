//! Calibration data as batches, and statistics from them or from a file made before.

use super::{Result, Watch, data_sets, evaluator, inputs_of};
use std::path::{Path, PathBuf};
use tersor_ir::constant::SplitMix;
use tersor_ir::{Module, Tensor, ValueId};
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
}

impl Samples {
    /// Whether this is a statistics file.
    pub fn is_statistics(&self) -> bool {
        self.path.extension().is_some_and(|e| e == STATISTICS)
    }
    /// A hash of all files, for caches.
    pub fn hash(&self) -> Result<blake3::Hash> {
        let mut h = blake3::Hasher::new();
        let mut stack = vec![self.path.clone()];
        while let Some(p) = stack.pop() {
            let error = |e: std::io::Error| vec![super::file_error(&p, "read", &e)];
            if std::fs::metadata(&p).map_err(error)?.is_dir() {
                let mut inner: Vec<_> = std::fs::read_dir(&p).map_err(error)?.flatten().map(|e| e.path()).collect();
                inner.sort();
                stack.extend(inner.into_iter().rev());
            } else {
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
        let rows = |b: &Vec<Tensor>| b.first().and_then(|t| t.shape().first()).map_or(1, |&n| n as u64);
        Ok(batches(m, self)?.iter().map(rows).sum())
    }
}

/// Rows in a batch of calibration data, where the first extent is dynamic.
const ROWS: usize = 8;

/// The data as batches that the module takes: where the inputs' first extents are one symbol, samples lie along it.
pub fn batches(m: &Module, samples: &Samples) -> Result<Vec<Vec<Tensor>>> {
    let f = &m.funcs[m.main().map_err(|d| vec![d])?];
    let names: Vec<String> = f.inputs.iter().map(|n| n.to_string()).collect();
    let first = |i: usize| f.values[f.body().params[i]].ty.shape.first().cloned();
    let axis = (!names.is_empty()).then(|| first(0)).flatten();
    let rows_of = |t: &Tensor| t.shape().first().copied().unwrap_or(1);
    let fixed = axis.as_ref().and_then(|d| d.as_const()).map(|n| n as usize);
    let mut out = vec![];
    for set in data_sets(&samples.path)? {
        let tensors = inputs_of(&set, &names)?;
        let split: Vec<bool> = (0..names.len()).map(|i| axis.is_some() && first(i) == axis).collect();
        let total = tensors.iter().zip(&split).find(|(_, s)| **s).map_or(1, |(t, _)| rows_of(t));
        let rows = fixed.unwrap_or(ROWS).max(1);
        if !split.iter().any(|s| *s) || total <= rows {
            out.push(tensors);
            continue;
        }
        for from in (0..total - total % rows.min(total)).step_by(rows) {
            let part = |(t, s): (&Tensor, &bool)| if *s { slice(t, from, from + rows) } else { t.clone() };
            out.push(tensors.iter().zip(&split).map(part).collect());
        }
    }
    if let Some(limit) = samples.limit {
        let per = out.first().and_then(|b| b.first()).map_or(1, rows_of).max(1);
        choose(&mut out, limit.div_ceil(per), samples.seed);
    }
    Ok(out)
}

fn slice(t: &Tensor, from: usize, to: usize) -> Tensor {
    let row = t.len() / t.shape()[0].max(1);
    let mut shape = t.shape().to_vec();
    shape[0] = to - from;
    t.gathered(shape, &(from * row..to * row).collect::<Vec<_>>())
}

/// Keeps `n` of the items, chosen by seed, in their order.
fn choose<T>(items: &mut Vec<T>, n: usize, seed: u64) {
    let mut rng = SplitMix(seed);
    while items.len() > n.max(1) {
        items.remove(rng.below(items.len()));
    }
}

/// Statistics of the taps: from a file where one is named, else by running the module.
pub fn calibrate(m: &Module, taps: &[ValueId], samples: &Samples, watch: &Watch) -> tersor_ir::Result<Statistics> {
    if samples.is_statistics() {
        let statistics = Statistics::read(&samples.path)?;
        statistics.check(m)?;
        return Ok(statistics);
    }
    let batches = batches(m, samples).map_err(|mut e| e.swap_remove(0))?;
    let batches = batches.into_iter().map(|b| watch.check().map(|()| b));
    tersor_passes::calibrate::calibrate(m, taps, &*evaluator(samples.threads, watch.stop()), batches)
}

/// Writes a statistics file.
pub fn calibrate_to(statistics: &Statistics, path: &Path) -> Result<()> {
    super::load::write_file(path, |out| std::io::Write::write_all(out, &statistics.to_bytes()))
}
