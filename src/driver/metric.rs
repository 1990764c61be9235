//! The error of a plan: what its outputs say against the exact program's, or against labels. Less is better.

use super::{Result, usage};
use std::path::Path;
use tersor_ir::Tensor;

/// What is measured.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Metric {
    /// Mean KL divergence of the exact program's distributions from the plan's, softmax over the last axis of the first output.
    Kl,
    /// `|y - exact| / |exact|` over all outputs.
    RelL2,
    /// 1 less the mean cosine of rows of the first output with the exact program's.
    Cosine,
    /// Share of samples whose largest output is not the label; without labels, not the exact program's.
    Top1,
    /// Perplexity of the next token; labels are token ids, without them those of the only input.
    Perplexity,
    /// 1 less Spearman's correlation of labels with the outputs, or with the dot products of outputs 2i and 2i+1 where there are two to a label.
    Spearman,
}

/// Names of the metrics.
pub const METRICS: [(&str, Metric); 6] = [
    ("kl", Metric::Kl),
    ("rel-l2", Metric::RelL2),
    ("cosine", Metric::Cosine),
    ("top1", Metric::Top1),
    ("perplexity", Metric::Perplexity),
    ("spearman", Metric::Spearman),
];

impl Metric {
    /// The metric of that name.
    pub fn find(name: &str) -> Result<Metric> {
        METRICS.iter().find(|m| m.0 == name).map(|m| m.1).ok_or_else(|| {
            let names = METRICS.map(|m| m.0);
            vec![usage(format!("there is no metric `{name}`")).with_help(format!("metrics are {}", names.join(", ")))]
        })
    }
    /// Its name.
    pub fn name(self) -> &'static str {
        METRICS.iter().find(|m| m.1 == self).map_or("", |m| m.0)
    }
    /// Whether it needs labels.
    pub fn needs_labels(self) -> bool {
        self == Metric::Spearman
    }
    /// Whether a part of the samples says something about the whole.
    pub fn on_parts(self) -> bool {
        self != Metric::Spearman
    }
}

/// Reads labels: one `.npy`, or the array `labels` (or the only one) of an `.npz`.
pub fn labels(path: &Path) -> Result<Tensor> {
    let failed = |e| vec![super::runtime_error(e)];
    let t = if path.extension().is_some_and(|e| e == "npz") {
        let mut npz = tersor_runtime::data::npz::Npz::open(path).map_err(failed)?;
        let names = npz.names().to_vec();
        let name = names.iter().find(|n| *n == "labels").or(if names.len() == 1 { names.first() } else { None });
        let name = name.ok_or_else(|| {
            vec![usage(format!("{} holds {}, none is named `labels`", path.display(), names.join(", ")))]
        })?;
        npz.read(name).map_err(failed)?
    } else {
        tersor_runtime::data::read_file(path).map_err(failed)?.1
    };
    super::from_runtime(t).map_err(|d| vec![d])
}

/// A batch's exact outputs, in the form that comparing with them is cheapest.
pub struct Reference {
    outputs: Vec<Tensor>,
    /// For KL: probabilities, and each row's sum of p ln p.
    distribution: Option<(Vec<f32>, Vec<f64>)>,
}

fn width(t: &Tensor) -> usize {
    t.shape().last().copied().unwrap_or(1).max(1)
}

impl Reference {
    /// Of outputs.
    pub fn new(metric: Metric, outputs: Vec<Tensor>) -> Reference {
        if metric != Metric::Kl {
            return Reference { outputs, distribution: None };
        }
        let (z, w) = (outputs[0].to_f32(), width(&outputs[0]));
        let (mut p, mut h) = (Vec::with_capacity(z.len()), vec![]);
        for row in z.chunks_exact(w) {
            let lse = log_sum_exp(row);
            h.push(row.iter().map(|&z| (f64::from(z) - lse).exp() * (f64::from(z) - lse)).sum());
            p.extend(row.iter().map(|&z| (f64::from(z) - lse).exp() as f32));
        }
        Reference { outputs: vec![], distribution: Some((p, h)) }
    }
}

/// `exp(x)` for `x <= 0` to 2e-7 of it, without branches, so that loops over it become vector code.
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let t = (x * std::f32::consts::LOG2_E).max(-126.0);
    let shifted = t + ROUND;
    let f = t - (shifted - ROUND);
    let p = [0.000_154_035_3, 0.001_333_355_8, 0.009_618_129, 0.055_504_11, 0.240_226_5, std::f32::consts::LN_2, 1.0];
    let poly = p[1..].iter().fold(p[0], |a, c| a * f + c);
    f32::from_bits((shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23) * poly
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.chunks(64).map(|c| f64::from(c.iter().map(|&z| exp(z - most)).sum::<f32>())).sum();
    f64::from(most) + sum.ln()
}

/// Gathers a score batch by batch.
pub struct Score<'a> {
    metric: Metric,
    labels: Option<&'a Tensor>,
    /// Each sample's error, where samples have one.
    samples: Vec<f64>,
    sums: (f64, f64),
    /// Outputs, one a label.
    values: Vec<f64>,
}

impl<'a> Score<'a> {
    /// Of nothing yet.
    pub fn new(metric: Metric, labels: Option<&'a Tensor>) -> Score<'a> {
        Score { metric, labels, samples: vec![], sums: (0.0, 0.0), values: vec![] }
    }
    /// Adds a batch whose samples are `first..` of the data.
    pub fn add(&mut self, first: usize, inputs: &[Tensor], exact: &Reference, outputs: &[Tensor]) -> Result<()> {
        let y = &outputs[0];
        let (w, rows) = (width(y), y.shape().first().copied().unwrap_or(1).max(1));
        let per_sample = (y.len() / rows / w).max(1);
        let missing = |what: &str| vec![usage(format!("labels: {what}"))];
        match self.metric {
            Metric::Kl => {
                let Some((p, h)) = &exact.distribution else { return Ok(()) };
                let z = y.to_f32();
                let row = |(i, z): (usize, &[f32])| {
                    let cross = z.chunks(64).zip(p[i * w..].chunks(64));
                    let cross: f64 =
                        cross.map(|(z, p)| f64::from(z.iter().zip(p).map(|(z, p)| z * p).sum::<f32>())).sum();
                    h[i] - cross + log_sum_exp(z)
                };
                let all: Vec<f64> = z.chunks_exact(w).enumerate().map(row).collect();
                self.samples.extend(all.chunks(per_sample).map(|s| s.iter().sum::<f64>() / s.len() as f64));
            }
            Metric::RelL2 => {
                for (y, e) in outputs.iter().zip(&exact.outputs).filter(|(y, _)| y.dtype().is_float()) {
                    for (a, b) in y.to_f64().into_iter().zip(e.to_f64()) {
                        let d = if a == b || (a.is_nan() && b.is_nan()) { 0.0 } else { a - b };
                        self.sums.0 += d * d;
                        self.sums.1 += if b.is_finite() { b * b } else { 0.0 };
                    }
                }
            }
            Metric::Cosine => {
                let (a, b) = (y.to_f64(), exact.outputs[0].to_f64());
                for (a, b) in a.chunks_exact(w).zip(b.chunks_exact(w)) {
                    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
                    let norm = (dot(a, a) * dot(b, b)).sqrt();
                    self.samples.push(if norm > 0.0 { 1.0 - dot(a, b) / norm } else { 0.0 });
                }
            }
            Metric::Top1 => {
                let largest = |v: &[f64]| (0..v.len()).rev().max_by(|&a, &b| v[a].total_cmp(&v[b])).unwrap_or(0) as i64;
                let found: Vec<i64> = y.to_f64().chunks_exact(w).map(largest).collect();
                let expected: Vec<i64> = match self.labels {
                    Some(l) if l.len() < (first + rows) * per_sample => {
                        return Err(missing("there are fewer than samples"));
                    }
                    Some(l) => (first * per_sample..(first + rows) * per_sample).map(|i| integer(l, i)).collect(),
                    None => exact.outputs[0].to_f64().chunks_exact(w).map(largest).collect(),
                };
                let wrong = found.iter().zip(&expected).map(|(a, b)| f64::from(u8::from(a != b)));
                let wrong: Vec<f64> = wrong.collect();
                self.samples.extend(wrong.chunks(per_sample).map(|s| s.iter().sum::<f64>() / s.len() as f64));
            }
            Metric::Perplexity => {
                let ids = match (self.labels, inputs) {
                    (None, [ids]) if !ids.dtype().is_float() && ids.len() == rows * per_sample => ids,
                    (Some(l), _) if l.len() >= (first + rows) * per_sample => l,
                    (None, _) => return Err(missing("perplexity needs token ids")),
                    _ => return Err(missing("there are fewer token ids than outputs")),
                };
                let (shift, base) = if self.labels.is_some() { (0, first * per_sample) } else { (1, 0) };
                let z = y.to_f32();
                for s in 0..rows {
                    let (mut sum, n) = (0.0, per_sample - shift);
                    for t in 0..n {
                        let row = &z[(s * per_sample + t) * w..][..w];
                        let id = integer(ids, base + s * per_sample + t + shift);
                        let at = usize::try_from(id)
                            .ok()
                            .and_then(|i| row.get(i))
                            .ok_or_else(|| missing("a token id is out of range"))?;
                        sum += log_sum_exp(row) - f64::from(*at);
                    }
                    self.samples.push(sum / n.max(1) as f64);
                }
            }
            Metric::Spearman => {
                if self.labels.is_none() {
                    return Err(missing("spearman needs them"));
                }
                self.values.extend(y.to_f64());
                self.sums.0 = (y.len() / rows) as f64;
            }
        }
        Ok(())
    }
    /// The error, and its standard error where samples have errors of their own.
    pub fn error(&self) -> Result<(f64, Option<f64>)> {
        let n = self.samples.len() as f64;
        let mean = self.samples.iter().sum::<f64>() / n.max(1.0);
        let variance = self.samples.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / (n - 1.0).max(1.0);
        let deviation = (n > 1.0).then(|| (variance / n).sqrt());
        Ok(match self.metric {
            Metric::RelL2 => ((self.sums.0 / self.sums.1.max(f64::MIN_POSITIVE)).sqrt(), None),
            Metric::Perplexity => (mean.exp(), deviation.map(|d| d * mean.exp())),
            Metric::Spearman => {
                let (labels, w) = (self.labels.map(Tensor::to_f64).unwrap_or_default(), (self.sums.0 as usize).max(1));
                let rows: Vec<&[f64]> = self.values.chunks_exact(w).collect();
                let values: Vec<f64> = if rows.len() >= 2 * labels.len() {
                    rows.chunks_exact(2).map(|p| p[0].iter().zip(p[1]).map(|(a, b)| a * b).sum()).collect()
                } else {
                    rows.iter().map(|r| r[0]).collect()
                };
                let n = values.len().min(labels.len());
                if n < 3 {
                    return Err(vec![usage(
                        "labels: spearman needs at least three, one for each sample or pair of samples",
                    )]);
                }
                (1.0 - correlation(&ranks(&values[..n]), &ranks(&labels[..n])), None)
            }
            _ => (mean, deviation),
        })
    }
}

fn integer(t: &Tensor, i: usize) -> i64 {
    if t.dtype().is_float() { t.get_f64(i) as i64 } else { t.get_i64(i) }
}

/// Ranks; equal values share the mean of theirs.
fn ranks(v: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..v.len()).collect();
    order.sort_by(|&a, &b| v[a].total_cmp(&v[b]));
    let mut out = vec![0.0; v.len()];
    for same in order.chunk_by(|&a, &b| v[a] == v[b]) {
        let before = same.first().and_then(|f| order.iter().position(|o| o == f)).unwrap_or(0);
        same.iter().for_each(|&i| out[i] = before as f64 + (same.len() - 1) as f64 / 2.0);
    }
    out
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(a - ma, b - mb)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(metric: Metric, labels: Option<&Tensor>, exact: &Tensor, y: &Tensor) -> f64 {
        let mut s = Score::new(metric, labels);
        let ids = Tensor::from_i64(tersor_ir::DType::I64, [2, 3], &[0, 1, 1, 0, 0, 1]);
        s.add(0, &[ids], &Reference::new(metric, vec![exact.clone()]), std::slice::from_ref(y)).unwrap();
        s.error().unwrap().0
    }

    #[test]
    fn metrics_are_what_their_names_say() {
        let a = Tensor::from_f32([2, 3], &[0.0, 1.0, 2.0, 3.0, 0.0, 0.0]);
        let b = Tensor::from_f32([2, 3], &[0.0, 2.5, 2.0, 3.0, 0.5, 0.0]);
        for m in [Metric::Kl, Metric::RelL2, Metric::Cosine, Metric::Top1] {
            assert!(score(m, None, &a, &a).abs() < 1e-6, "{m:?}");
            assert!(score(m, None, &a, &b) > 1e-3, "{m:?}");
        }
        let softmax = |v: &[f64]| {
            let s: f64 = v.iter().map(|x| x.exp()).sum();
            v.iter().map(|x| x.exp() / s).collect::<Vec<_>>()
        };
        let kl: f64 = a
            .to_f64()
            .chunks(3)
            .zip(b.to_f64().chunks(3))
            .map(|(a, b)| softmax(a).iter().zip(softmax(b)).map(|(p, q)| p * (p / q).ln()).sum::<f64>())
            .sum::<f64>()
            / 2.0;
        assert!((score(Metric::Kl, None, &a, &b) - kl).abs() < 1e-6);
        assert_eq!(score(Metric::Top1, None, &a, &b), 0.5);
        let labels = Tensor::from_i64(tersor_ir::DType::I64, [2], &[0, 0]);
        assert_eq!(score(Metric::Top1, Some(&labels), &a, &b), 0.5);
        let flat = Tensor::from_f32([2, 3, 2], &[0.0; 12]);
        assert!((score(Metric::Perplexity, None, &flat, &flat) - 2.0).abs() < 1e-6);
        let rows = Tensor::from_f32([5, 1], &[1.0, 5.0, 3.0, 3.0, 9.0]);
        let order = Tensor::from_f32([5], &[0.1, 0.4, 0.2, 0.2, 0.5]);
        assert!(score(Metric::Spearman, Some(&order), &rows, &rows).abs() < 1e-12);
    }

    #[test]
    fn the_fast_exponential_is_close() {
        for i in 0..4000 {
            let x = -(i as f32) * 0.02;
            let (found, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found - exact).abs() <= 4e-6 * exact + 1e-37, "{x}: {found} {exact}");
        }
    }
}
