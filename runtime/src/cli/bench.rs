//! `bench`: how long a run takes, with how much confidence.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use crate::cli::inputs::{InputArgs, ModelArgs, ThreadArgs, random_inputs};
use crate::cli::{Diagnostic, Outcome, bytes};
use crate::error::{Error, Kind, Result};
use crate::execute::Session;
use crate::limits::{Limits, peak_memory};
use crate::tensor::{Tensor, TensorView};

#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub inputs: InputArgs,
    #[command(flatten)]
    pub threads: ThreadArgs,
    /// How long to measure.
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    pub seconds: f64,
    /// Also measure each step.
    #[arg(long)]
    pub steps: bool,
}

/// Fewest runs that are timed, however long they take.
const LEAST_RUNS: usize = 3;
const MOST_RUNS: usize = 1_000_000;

/// Figures of a set of durations, in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    pub median: f64,
    pub min: f64,
    pub p99: f64,
    pub mean: f64,
    /// Bounds that hold the true median with 95 % confidence, from the order of the samples.
    pub ci95: [f64; 2],
    pub runs: usize,
}

impl Figures {
    /// The figures of at least one sample.
    pub fn of(mut samples: Vec<f64>) -> Figures {
        samples.sort_by(f64::total_cmp);
        let n = samples.len();
        let at = |i: usize| samples[i.min(n - 1)];
        let median = if n.is_multiple_of(2) { (at(n / 2 - 1) + at(n / 2)) / 2.0 } else { at(n / 2) };
        let half = 0.98 * (n as f64).sqrt();
        let low = (n as f64 / 2.0 - half).floor().max(0.0) as usize;
        let high = (n as f64 / 2.0 + half).ceil() as usize;
        Figures {
            median,
            min: at(0),
            p99: at((n as f64 * 0.99).ceil() as usize - 1),
            mean: samples.iter().sum::<f64>() / n as f64,
            ci95: [at(low), at(high)],
            runs: n,
        }
    }
}

pub fn bench(args: &BenchArgs, limits: &Limits) -> Result<Outcome> {
    if !(args.seconds > 0.0 && args.seconds <= 86_400.0) {
        let what = format!("--seconds {} is not a time to measure", args.seconds);
        return Err(Error::new(Kind::Usage, what));
    }
    let mut diagnostics = Vec::new();
    let started = Instant::now();
    let model = args.model.load()?;
    let load = started.elapsed();
    let inputs = if args.inputs.is_empty() {
        diagnostics.push(Diagnostic::warning("R0313", "no inputs given: random ones of typical extents are used"));
        random_inputs(&model)?
    } else {
        args.inputs.read(&model, &mut diagnostics)?
    };
    let mut session = model.session(args.threads.count()).stop_on(limits.stop());
    let views: Vec<TensorView> = inputs.iter().map(Tensor::view).collect();
    let mut outputs = session.prepare(&views)?;
    let budget = Duration::from_secs_f64(args.seconds);
    let (samples, cpu) = measure(&mut session, &views, &mut outputs, budget)?;
    let f = Figures::of(samples);
    let memory = session.memory();
    let mut data = json!({
        "median_ms": f.median, "min_ms": f.min, "p99_ms": f.p99, "mean_ms": f.mean, "ci95": f.ci95, "runs": f.runs,
        "cpu_ms": cpu / f.runs as f64,
        "peak_bytes": peak_memory(), "arena_bytes": memory.arena, "arena_lower_bound": memory.lower_bound,
        "scratch_bytes": memory.scratch, "file_bytes": model.artifact().file_bytes(),
        "load_ms": load.as_secs_f64() * 1e3,
        "variant": model.variant().name, "threads": session.threads(),
    });
    let mut text = format!(
        "median {:.4} ms   95% {:.4}-{:.4}   min {:.4}   p99 {:.4}   {} runs, {} threads, {}, arena {}\n",
        f.median,
        f.ci95[0],
        f.ci95[1],
        f.min,
        f.p99,
        f.runs,
        session.threads(),
        model.variant().name,
        bytes(memory.arena),
    );
    if args.steps {
        let steps = measure_steps(&mut session, &views, &mut outputs, budget)?;
        let total: f64 = steps.iter().sum();
        let mut rows = Vec::new();
        let _ = writeln!(text, "{:>10} {:>6}  step", "ms", "%");
        for (step, ms) in session.steps().zip(&steps) {
            let percent = if total > 0.0 { 100.0 * ms / total } else { 0.0 };
            let _ = writeln!(text, "{ms:>10.4} {percent:>6.2}  {}  {}", step.name, step.kernel);
            rows.push(json!({ "name": step.name, "kernel": step.kernel, "ms": ms }));
        }
        data["steps"] = json!(rows);
    }
    Ok(Outcome { data, text, diagnostics })
}

/// Latencies in milliseconds, and the CPU time of all of them together.
fn measure(
    session: &mut Session,
    inputs: &[TensorView],
    outputs: &mut [Tensor],
    budget: Duration,
) -> Result<(Vec<f64>, f64)> {
    let started = Instant::now();
    let mut warm = 0;
    while warm < 2 || (started.elapsed() < budget / 5 && warm < MOST_RUNS) {
        session.run_into(inputs, outputs)?;
        warm += 1;
        if started.elapsed() > budget {
            break;
        }
    }
    let mut samples = Vec::new();
    let (started, cpu) = (Instant::now(), cpu_time());
    while samples.len() < LEAST_RUNS || (started.elapsed() < budget && samples.len() < MOST_RUNS) {
        let before = Instant::now();
        session.run_into(inputs, outputs)?;
        samples.push(before.elapsed().as_secs_f64() * 1e3);
    }
    Ok((samples, cpu_time() - cpu))
}

/// The median time of each step, in milliseconds.
fn measure_steps(
    session: &mut Session,
    inputs: &[TensorView],
    outputs: &mut [Tensor],
    budget: Duration,
) -> Result<Vec<f64>> {
    let mut samples: Vec<Vec<f64>> = session.steps().map(|_| Vec::new()).collect();
    let started = Instant::now();
    let mut runs = 0;
    while runs < LEAST_RUNS || (started.elapsed() < budget && runs < 10_000) {
        session.run_observed(inputs, outputs, &mut |i, t| samples[i].push(t.as_secs_f64() * 1e3))?;
        runs += 1;
    }
    Ok(samples.into_iter().map(|s| Figures::of(s).median).collect())
}

/// CPU time that this process has used, all threads together, in milliseconds.
fn cpu_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_from_the_order_of_the_samples() {
        let f = Figures::of((1..=100).rev().map(f64::from).collect());
        assert_eq!((f.median, f.min, f.p99, f.mean, f.runs), (50.5, 1.0, 99.0, 50.5, 100));
        assert_eq!(f.ci95, [41.0, 61.0]);
        assert_eq!(Figures::of(vec![2.0]).ci95, [2.0, 2.0]);
    }
}
