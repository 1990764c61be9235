//! From a trained ONNX model to native programs, plain and with 8-bit integers, and what each costs: bytes, time, accuracy on real images.
//!
//! `examples/fashion/run.sh`, or `cargo run --release --example fashion`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use tersor::driver::{self, CompileOptions, Event, Samples, Watch};
use tersor_ir::text::diff::{Change, diff};
use tersor_ir::{Diagnostic, Module};
use tersor_passes::calibrate::GRAM_BYTES;
use tersor_runtime::data::{self, Role};
use tersor_runtime::{LoadOptions, Model, Session, Tensor};

type Result<T> = std::result::Result<T, String>;

/// Pairs of runs that are timed.
const RUNS: usize = 200;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (example, out) = (root.join("examples/fashion"), root.join("target/fashion"));
    std::fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    let plain = compile(&example, "lossless", &out.join("plain.tsr"))?;
    let small = compile(&example, "int8", &out.join("int8.tsr"))?;

    let images = tensor(&example.join("data/test.npz"))?;
    let labels =
        data::read_file(&example.join("data/labels.npy")).map_err(text)?.1.to_f64().ok_or("labels are numbers")?;
    let mut sessions = [session(&plain)?, session(&small)?];
    let size = [&plain, &small].map(|p| std::fs::metadata(p).map_or(0, |m| m.len()));
    let one = latency(&mut sessions, &images.slice_rows(0, 1).map_err(text)?)?;
    let many = latency(&mut sessions, &images.slice_rows(0, 32).map_err(text)?)?;
    let right = [accuracy(&mut sessions[0], &images, &labels)?, accuracy(&mut sessions[1], &images, &labels)?];
    let model = std::fs::metadata(example.join("model.onnx")).map_or(0, |m| m.len());

    println!(
        "\nmodel.onnx {} KB, {} test images, one thread, {}",
        model / 1000,
        labels.len(),
        sessions[0].model().variant().name
    );
    println!("\n{:24}{:>12}{:>12}", "", "plain", "int8");
    println!(
        "{:24}{:>9} KB{:>9} KB{:>11.2}x smaller",
        "artifact",
        size[0] / 1000,
        size[1] / 1000,
        ratio(size[0] as f64, size[1] as f64)
    );
    for (what, ms) in [("median of 1 image", one), ("median of 32 images", many)] {
        println!("{what:24}{:>9.3} ms{:>9.3} ms{:>11.2}x as fast", ms[0], ms[1], ratio(ms[0], ms[1]));
    }
    println!("{:24}{:>10.2} %{:>10.2} %{:>+11.2} points", "accuracy", right[0], right[1], right[1] - right[0]);

    println!("\nplain to int8 (all of it: tersor diff {} {}):", plain.display(), small.display());
    show_difference(&module(&plain)?, &module(&small)?);
    Ok(())
}

/// Compiles the model for this machine with a preset.
fn compile(example: &Path, preset: &str, output: &Path) -> Result<PathBuf> {
    eprintln!("{preset}");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let calibration =
        Samples { path: example.join("data/calib.npz"), limit: None, seed: 0, threads, gram_bytes: GRAM_BYTES };
    let options = CompileOptions {
        model: &example.join("model.onnx"),
        output,
        pipeline: &driver::pipeline(preset).map_err(findings)?,
        import: Default::default(),
        bindings: Default::default(),
        samples: Some(calibration),
        targets: driver::targets(Some("native")).map_err(findings)?,
        run: Default::default(),
        threads,
        cache: None,
        locked: None,
        offering: None,
    };
    let tell = |event| {
        if let Event::Done(step) = event {
            eprintln!("  {:12} {:8.0} ms  {}", step.name, step.time.as_secs_f64() * 1e3, step.text);
        }
    };
    let watch = Watch::default().telling(&tell);
    Ok(driver::compile(&options, &watch).map_err(findings)?.artifact)
}

/// An artifact, ready to run on one thread.
fn session(artifact: &Path) -> Result<Session> {
    Ok(Model::load(artifact, &LoadOptions::default()).map_err(text)?.session(1))
}

/// The images, by the name of the model's input.
fn tensor(path: &Path) -> Result<Tensor> {
    let found = data::read(path, Role::Input, &["image"]).map_err(text)?;
    found.tensors.into_iter().next().map(|(_, t)| t).ok_or_else(|| format!("{} has no \"image\"", path.display()))
}

/// Median milliseconds of each program. They take turns, so that whatever else the machine does meets both.
fn latency(sessions: &mut [Session; 2], images: &Tensor) -> Result<[f64; 2]> {
    let mut samples = [vec![], vec![]];
    for round in 0..RUNS + RUNS / 10 {
        for (session, times) in sessions.iter_mut().zip(&mut samples) {
            let start = Instant::now();
            session.run(&[("image", images.view())]).map_err(text)?;
            // The first runs bind extents and warm caches.
            if round >= RUNS / 10 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    Ok(samples.map(|mut s| {
        s.sort_by(f64::total_cmp);
        s[s.len() / 2]
    }))
}

/// Percent of images whose largest output is at their label.
fn accuracy(session: &mut Session, images: &Tensor, labels: &[f64]) -> Result<f64> {
    let (mut right, batch) = (0, 100);
    for from in (0..labels.len()).step_by(batch) {
        let labels = &labels[from..labels.len().min(from + batch)];
        let part = images.slice_rows(from, from + labels.len()).map_err(text)?;
        let logits = session.run(&[("image", part.view())]).map_err(text)?[0].to_f64().ok_or("logits are numbers")?;
        let rows = logits.chunks(logits.len() / labels.len());
        let largest = |row: &[f64]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        right += rows.zip(labels).filter(|(row, label)| largest(row) == Some(**label as usize)).count();
    }
    Ok(100.0 * right as f64 / labels.len() as f64)
}

/// The module that an artifact was made from.
fn module(artifact: &Path) -> Result<Module> {
    Ok(driver::load(artifact, &Default::default()).map_err(findings)?.module)
}

/// The first ops that differ, and how many there are.
fn show_difference(a: &Module, b: &Module) {
    let d = diff(a, b);
    let ops: Vec<_> = d.funcs.iter().flat_map(|f| &f.ops).collect();
    for o in ops.iter().take(6) {
        println!("  {} {} {} {}", o.change, o.name, o.op, o.detail);
    }
    if ops.len() > 6 {
        println!("  … {} more", ops.len() - 6);
    }
    let count = |c| d.count(c);
    let (changed, removed, added) = (count(Change::Changed), count(Change::Removed), count(Change::Added));
    println!("  ops        {} same, {changed} changed, {removed} removed, {added} added", d.same + d.renamed);
    let (before, after) = d.bytes;
    println!("  constants  {before} B to {after} B, {:.2}x smaller", ratio(before as f64, after as f64));
}

fn ratio(before: f64, after: f64) -> f64 {
    if after > 0.0 { before / after } else { f64::NAN }
}

fn text(e: tersor_runtime::Error) -> String {
    e.to_string()
}

fn findings(all: Vec<Diagnostic>) -> String {
    all.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n")
}
