//! The error of a plan: what its outputs say against the exact program's, or against labels. Less is better.

use super::{Result, usage};
use std::path::Path;
use tersor_ir::Tensor;

/// What is measured.
#[derive(Clone, PartialEq, Eq, Debug)]
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
    /// The last line that a shell command writes, given an `.npz` with all outputs by name, samples along the first axis.
    Command(String),
}

/// Names of the metrics; `cmd:COMMAND` is another.
pub const METRICS: [(&str, Metric); 6] = [
    ("kl", Metric::Kl),
    ("rel-l2", Metric::RelL2),
    ("cosine", Metric::Cosine),
    ("top1", Metric::Top1),
    ("perplexity", Metric::Perplexity),
    ("spearman", Metric::Spearman),
];

/// What a metric that is a command begins with.
const COMMAND: &str = "cmd:";

impl Metric {
    /// The metric of that name.
    pub fn find(name: &str) -> Result<Metric> {
        if let Some(command) = name.strip_prefix(COMMAND) {
            return Ok(Metric::Command(command.into()));
        }
        METRICS.into_iter().find(|m| m.0 == name).map(|m| m.1).ok_or_else(|| {
            let names = METRICS.map(|m| m.0).join(", ");
            let help = format!("metrics are {names}, and {COMMAND}COMMAND for one of your own");
            vec![usage(format!("there is no metric `{name}`")).with_help(help)]
        })
    }
    /// Its name.
    pub fn name(&self) -> String {
        match self {
            Metric::Command(c) => format!("{COMMAND}{c}"),
            m => METRICS.iter().find(|n| n.1 == *m).map_or("", |n| n.0).into(),
        }
    }
    /// Whether it needs labels.
    pub fn needs_labels(&self) -> bool {
        *self == Metric::Spearman
    }
    /// Whether a part of the samples says something about the whole.
    pub fn on_parts(&self) -> bool {
        !matches!(self, Metric::Spearman | Metric::Command(_))
    }
}

/// What a command says of outputs.
fn ask(command: &str, names: &[String], batches: &[Vec<Tensor>]) -> Result<f64> {
    let failed = |what: String| vec![usage(format!("metric `{command}`: {what}"))];
    let runtime = |e| vec![super::runtime_error(e)];
    let dir = tempfile::tempdir().map_err(|e| failed(e.to_string()))?;
    let mut whole = vec![];
    for (i, name) in names.iter().enumerate() {
        let parts: Vec<&Tensor> = batches.iter().map(|b| &b[i]).collect();
        let row = &parts[0].shape().get(1..).unwrap_or_default();
        if parts.iter().any(|t| t.shape().get(1..).unwrap_or_default() != *row) {
            return Err(failed(format!("samples of {name} have different shapes, so they are no array")));
        }
        let rows: usize = parts.iter().map(|t| t.shape().first().copied().unwrap_or(1)).sum();
        let bytes: Vec<u8> = parts.iter().flat_map(|t| t.bytes()).copied().collect();
        let all = Tensor::from_blob(parts[0].dtype(), [&[rows], *row].concat(), bytes.into());
        whole.push(
            super::to_runtime(&all.ok_or_else(|| failed(format!("{name} is no array of bytes")))?)
                .map_err(|d| vec![d])?,
        );
    }
    let path = dir.path().join("outputs.npz");
    let named: Vec<_> = names.iter().map(String::as_str).zip(whole.iter().map(|t| t.view())).collect();
    tersor_runtime::data::write(&path, &named).map_err(runtime)?;
    let done =
        std::process::Command::new("sh").arg("-c").arg(format!("{command} \"$1\"")).arg("sh").arg(&path).output();
    let done = done.map_err(|e| failed(e.to_string()))?;
    let said = String::from_utf8_lossy(&done.stdout);
    let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default().trim();
    match last.parse() {
        Ok(error) if done.status.success() => Ok(error),
        _ => {
            let wrong = String::from_utf8_lossy(&done.stderr);
            let wrong = wrong.lines().last().unwrap_or_default();
            Err(failed(format!("{}, its last line is `{last}`, no number; {wrong}", done.status)))
        }
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
    /// For KL of next tokens: what they cost the exact program, sample by sample.
    surprise: Vec<f64>,
}

fn width(t: &Tensor) -> usize {
    t.shape().last().copied().unwrap_or(1).max(1)
}

/// What the tokens of a sample cost, given rows of logits and the logarithms of their sums; `None` where inputs are no token ids.
fn surprise(inputs: &[Tensor], z: &[f32], lse: &[f64], w: usize) -> Option<Vec<f64>> {
    let [ids] = inputs else { return None };
    let samples = ids.shape().first().copied().unwrap_or(1).max(1);
    let each = ids.len() / samples;
    if ids.dtype().is_float() || ids.len() != lse.len() || each < 2 {
        return None;
    }
    let one = |s: usize| -> Option<f64> {
        let cost = |t: usize| -> Option<f64> {
            let id = usize::try_from(ids.get_i64(s * each + t + 1)).ok().filter(|&i| i < w)?;
            Some(lse[s * each + t] - f64::from(z[(s * each + t) * w + id]))
        };
        Some((0..each - 1).map(cost).sum::<Option<f64>>()? / (each - 1) as f64)
    };
    (0..samples).map(one).collect()
}

impl Reference {
    /// Of outputs for inputs.
    pub fn new(metric: &Metric, inputs: &[Tensor], outputs: Vec<Tensor>) -> Reference {
        if *metric != Metric::Kl {
            return Reference { outputs, distribution: None, surprise: vec![] };
        }
        let (z, w) = (outputs[0].to_f32(), width(&outputs[0]));
        let (mut p, mut h, mut all) = (Vec::with_capacity(z.len()), vec![], vec![]);
        for row in z.chunks_exact(w) {
            let lse = log_sum_exp(row);
            let from = p.len();
            p.extend(row.iter().map(|&z| (f64::from(z) - lse).exp() as f32));
            h.push(row.iter().zip(&p[from..]).map(|(&z, &p)| f64::from(p) * (f64::from(z) - lse)).sum());
            all.push(lse);
        }
        let surprise = surprise(inputs, &z, &all, w).unwrap_or_default();
        Reference { outputs: vec![], distribution: Some((p, h)), surprise }
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
    metric: &'a Metric,
    labels: Option<&'a Tensor>,
    /// Each sample's error, where samples have one.
    samples: Vec<f64>,
    sums: (f64, f64),
    /// Outputs, one a label.
    values: Vec<f64>,
    /// What next tokens cost the exact program, and the plan.
    surprise: [Vec<f64>; 2],
    /// All outputs, for a command.
    outputs: Vec<Vec<Tensor>>,
}

impl<'a> Score<'a> {
    /// Of nothing yet.
    pub fn new(metric: &'a Metric, labels: Option<&'a Tensor>) -> Score<'a> {
        let (samples, values, surprise, outputs) = Default::default();
        Score { metric, labels, samples, sums: (0.0, 0.0), values, surprise, outputs }
    }
    /// The score of a batch, whose samples are `first..` of the data.
    pub fn of(mut self, first: usize, inputs: &[Tensor], exact: &Reference, outputs: Vec<Tensor>) -> Result<Score<'a>> {
        self.add(first, inputs, exact, outputs)?;
        Ok(self)
    }
    /// Adds the score of batches that come after.
    pub fn merge(&mut self, o: Score<'a>) {
        self.samples.extend(o.samples);
        self.values.extend(o.values);
        self.outputs.extend(o.outputs);
        self.sums = (self.sums.0 + o.sums.0, self.sums.1 + o.sums.1);
        self.surprise.iter_mut().zip(o.surprise).for_each(|(a, b)| a.extend(b));
    }
    /// Perplexity of the exact program and of the plan, beside the KL divergence of next tokens.
    pub fn perplexity(&self) -> Option<(f64, f64)> {
        let of = |v: &[f64]| (v.iter().sum::<f64>() / v.len() as f64).exp();
        let known = self.surprise.iter().all(|v| !v.is_empty() && v.len() == self.samples.len());
        known.then(|| (of(&self.surprise[0]), of(&self.surprise[1])))
    }
    fn add(&mut self, first: usize, inputs: &[Tensor], exact: &Reference, outputs: Vec<Tensor>) -> Result<()> {
        let y = &outputs[0];
        let (w, rows) = (width(y), y.shape().first().copied().unwrap_or(1).max(1));
        let per_sample = (y.len() / rows / w).max(1);
        let missing = |what: &str| vec![usage(format!("labels: {what}"))];
        match self.metric {
            Metric::Kl => {
                let Some((p, h)) = &exact.distribution else { return Ok(()) };
                let z = y.to_f32();
                let lse: Vec<f64> = z.chunks_exact(w).map(log_sum_exp).collect();
                let row = |(i, z): (usize, &[f32])| {
                    let cross = z.chunks(64).zip(p[i * w..].chunks(64));
                    let cross: f64 =
                        cross.map(|(z, p)| f64::from(z.iter().zip(p).map(|(z, p)| z * p).sum::<f32>())).sum();
                    h[i] - cross + lse[i]
                };
                let all: Vec<f64> = z.chunks_exact(w).enumerate().map(row).collect();
                self.samples.extend(all.chunks(per_sample).map(|s| s.iter().sum::<f64>() / s.len() as f64));
                self.surprise[0].extend(&exact.surprise);
                self.surprise[1].extend(surprise(inputs, &z, &lse, w).unwrap_or_default());
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
                self.sums = (self.sums.0 + y.len() as f64, self.sums.1 + rows as f64);
            }
            Metric::Command(_) => self.outputs.push(outputs),
        }
        Ok(())
    }
    /// The error, and its standard error where samples have errors of their own. A command is told these names of outputs.
    pub fn error(&self, names: &[String]) -> Result<(f64, Option<f64>)> {
        let n = self.samples.len() as f64;
        let mean = self.samples.iter().sum::<f64>() / n.max(1.0);
        let variance = self.samples.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / (n - 1.0).max(1.0);
        let deviation = (n > 1.0).then(|| (variance / n).sqrt());
        Ok(match self.metric {
            Metric::RelL2 => ((self.sums.0 / self.sums.1.max(f64::MIN_POSITIVE)).sqrt(), None),
            Metric::Perplexity => (mean.exp(), deviation.map(|d| d * mean.exp())),
            Metric::Spearman => {
                let labels = self.labels.map(Tensor::to_f64).unwrap_or_default();
                let w = ((self.sums.0 / self.sums.1.max(1.0)) as usize).max(1);
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
            Metric::Command(c) => (ask(c, names, &self.outputs)?, None),
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
        let ids = [Tensor::from_i64(tersor_ir::DType::I64, [2, 3], &[0, 1, 1, 0, 0, 1])];
        let exact = Reference::new(&metric, &ids, vec![exact.clone()]);
        let s = Score::new(&metric, labels).of(0, &ids, &exact, vec![y.clone()]).unwrap();
        if let (Metric::Kl, Some((a, b))) = (&metric, s.perplexity()) {
            assert!((a - 2.0).abs() < 1e-6 && b.is_finite());
        }
        s.error(&["y".into()]).unwrap().0
    }

    #[test]
    fn commands_read_outputs_and_perplexity_stands_beside_kl() {
        let flat = Tensor::from_f32([2, 3, 2], &[0.0; 12]);
        assert!(score(Metric::Kl, None, &flat, &flat).abs() < 1e-9);
        assert_eq!(score(Metric::find("cmd:echo hello; echo 0.25 #").unwrap(), None, &flat, &flat), 0.25);
        let bad = Metric::find("cmd:echo no;").unwrap();
        let s = Score::new(&bad, None).of(0, &[], &Reference::new(&bad, &[], vec![]), vec![flat]).unwrap();
        assert!(s.error(&["y".into()]).is_err());
    }

    #[test]
    fn metrics_are_what_their_names_say() {
        let a = Tensor::from_f32([2, 3], &[0.0, 1.0, 2.0, 3.0, 0.0, 0.0]);
        let b = Tensor::from_f32([2, 3], &[0.0, 2.5, 2.0, 3.0, 0.5, 0.0]);
        for m in [Metric::Kl, Metric::RelL2, Metric::Cosine, Metric::Top1] {
            assert!(score(m.clone(), None, &a, &a).abs() < 1e-6, "{m:?}");
            assert!(score(m.clone(), None, &a, &b) > 1e-3, "{m:?}");
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
