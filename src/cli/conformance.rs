//! `conformance`: folders of ONNX cases through the reference evaluator and through compiled code.

use super::report::Reporter;
use super::shared::{FileLimitArgs, all_threads, usage};
use super::{Globals, Outcome};
use crate::driver::conformance::{Case, Change, Checks, Expected, Status, Verdict, Worker, cases, check, run_all};
use crate::driver::{Result, Watch, pipeline};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{BufRead, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tersor_ir::{Diagnostic, Failure};
use tersor_runtime::cli::limits::{parse_size, parse_time};

/// Arguments.
#[derive(clap::Args)]
#[command(
    after_help = "A case is a folder with model.onnx and test_data_set_N folders. It passes when the reference evaluator and compiled code both give
every output that is stored: its element type, its shape, and its values within the tolerances, those of the case's data.json
where it has one. Bytes of a decoded JPEG or JPEG 2000 may differ by 2. An output that is drawn by chance needs elements of the same law instead; its case is listed as drawn. A model that is refused as unsupported is no failure; a case that is wrong or crashes is.

Examples:
  tersor conformance cases/
  tersor conformance cases/ --expect expected.txt
  tersor conformance cases/node --interp --json"
)]
pub struct Args {
    /// The folder with all cases, in it or in folders below.
    #[arg(required_unless_present = "worker")]
    pub dir: Option<PathBuf>,
    /// Relative tolerance of an element.
    #[arg(long, default_value_t = 1e-3)]
    pub rtol: f64,
    /// Absolute tolerance of an element.
    #[arg(long, default_value_t = 1e-7)]
    pub atol: f64,
    /// Passes before compiling: a list, a preset, or a .toml file.
    #[arg(short, long, value_name = "PIPELINE", default_value = "lossless")]
    pub pipeline: String,
    /// Run the reference evaluator only.
    #[arg(long)]
    pub interp: bool,
    /// Compare with a list of names and statuses, and fail where a case got worse, and only there.
    #[arg(long, value_name = "FILE")]
    pub expect: Option<PathBuf>,
    /// Write the list of names and statuses.
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Time for one case.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    pub case_timeout: Duration,
    /// Memory for one case.
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = parse_size)]
    pub case_memory: u64,
    /// Cases that run at once; as many as there are CPUs where nothing is said.
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    #[command(flatten)]
    pub limits: FileLimitArgs,
    /// Answer questions on standard input, for another `tersor conformance`.
    #[arg(long, hide = true)]
    pub worker: bool,
    #[command(flatten)]
    pub globals: Globals,
}

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    if !args.interp && !cfg!(feature = "mlir") {
        let d = Diagnostic::error("C0501", "this tersor was built without its code generator");
        return Err(vec![d.failure(Failure::Target).with_help("check the reference evaluator alone, with --interp")]);
    }
    if args.worker {
        return reporter.watch(|watch| work(args, watch));
    }
    let Some(dir) = &args.dir else { return Err(vec![usage("name a folder of cases")]) };
    pipeline(&args.pipeline)?;
    args.limits.options()?;
    let expected = args.expect.as_deref().map(Expected::read).transpose()?;
    if let Some(path) = &args.write {
        crate::driver::check_output(path, &[])?;
    }
    reporter.watch(|watch| {
        let start = watch.begin("conformance").map_err(|d| vec![d])?;
        let cases = cases(dir)?;
        let arguments = worker_arguments(args);
        let count = args.threads.map_or_else(all_threads, usize::from);
        let program =
            std::env::current_exe().map_err(|e| vec![crate::driver::file_error(Path::new("tersor"), "find", &e)])?;
        let worker = Worker { program: &program, arguments: &arguments, count, timeout: args.case_timeout };
        let verdicts = run_all(&cases, &worker, watch, &mut |c, v| watch.detail(1, line(c, v)))?;
        watch.done("conformance", format!("{} cases", cases.len()), start);
        let found = Expected::of(&cases, &verdicts);
        if let Some(path) = args.write.as_ref().filter(|_| !reporter.dry_run()) {
            crate::driver::write_text(path, &found.text())?;
        }
        let changes = expected.map(|e| e.changes(&found));
        Ok(outcome(&cases, &verdicts, changes))
    })
}

fn worker_arguments(args: &Args) -> Vec<String> {
    let mut out = vec!["conformance".to_string(), "--worker".into()];
    out.extend([format!("--rtol={}", args.rtol), format!("--atol={}", args.atol)]);
    out.extend([format!("--pipeline={}", args.pipeline), format!("--max-memory={}", args.case_memory)]);
    out.extend(["--progress=none".into(), "--color=never".into()]);
    out.extend(args.limits.limits.iter().map(|l| format!("--limit={l}")));
    out.extend(args.limits.strict_files.then(|| "--strict-files".to_string()));
    out.extend(args.interp.then(|| "--interp".to_string()));
    out
}

/// Answers with one verdict for each folder that it is asked about, until there are no more questions.
fn work(args: &Args, watch: &Watch) -> Result<Outcome> {
    let pipeline = pipeline(&args.pipeline)?;
    let compile = (!args.interp).then_some(&pipeline);
    let checks = Checks { rtol: args.rtol, atol: args.atol, compile, import: args.limits.options()? };
    let panic = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&panic);
    std::panic::set_hook(Box::new(move |info| {
        if let Ok(mut text) = seen.lock() {
            *text = info.to_string().replace('\n', " ");
        }
    }));
    let piped = |e: std::io::Error| vec![crate::driver::file_error(Path::new("-"), "use", &e)];
    for question in std::io::stdin().lock().lines() {
        let question = question.map_err(piped)?;
        let dir: PathBuf = serde_json::from_str(&question).map_err(|e| vec![usage(format!("{question}: {e}"))])?;
        let verdict = catch_unwind(AssertUnwindSafe(|| check(&dir, &checks, watch))).unwrap_or_else(|_| {
            let text = panic.lock().map(|t| t.clone()).unwrap_or_default();
            Verdict::new(Status::Crashed, text)
        });
        watch.check().map_err(|d| vec![d])?;
        let mut out = std::io::stdout().lock();
        let answer = serde_json::to_string(&verdict).expect("plain values");
        writeln!(out, "{answer}").and_then(|()| out.flush()).map_err(piped)?;
    }
    Ok(Outcome::default())
}

fn line(case: &Case, v: &Verdict) -> String {
    let why = v.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
    format!("{:<11} {}{why}", v.status.name(), case.name)
}

/// How many cases have each status, in the order of [`Status::ALL`].
type Counts = [usize; 5];

fn count(counts: &mut Counts, status: Status) {
    counts[status as usize] += 1;
}

fn counted(counts: &Counts) -> Value {
    let mut v = json!({ "total": counts.iter().sum::<usize>() });
    for (status, n) in Status::ALL.iter().zip(counts) {
        v[status.name()] = json!(n);
    }
    v
}

fn outcome(cases: &[Case], verdicts: &[Verdict], changes: Option<Vec<(String, Change)>>) -> Outcome {
    let (mut all, mut operators) = (Counts::default(), BTreeMap::<&str, Counts>::new());
    for (c, v) in cases.iter().zip(verdicts) {
        count(&mut all, v.status);
        count(operators.entry(&c.operator).or_default(), v.status);
    }
    let mut text = String::new();
    let row = |text: &mut String, name: &str, c: &Counts| {
        let _ = writeln!(
            text,
            "{name:<32} {:>6} {:>7} {:>6} {:>12} {:>6} {:>8}",
            c.iter().sum::<usize>(),
            c[0],
            c[1],
            c[2],
            c[3],
            c[4]
        );
    };
    let _ = writeln!(
        text,
        "{:<32} {:>6} {:>7} {:>6} {:>12} {:>6} {:>8}",
        "operator", "total", "passed", "drawn", "unsupported", "wrong", "crashed"
    );
    operators.iter().for_each(|(name, c)| row(&mut text, name, c));
    row(&mut text, "all", &all);
    let diagnostics = match &changes {
        Some(changes) => changes.iter().map(changed).collect(),
        None => cases.iter().zip(verdicts).filter_map(|(c, v)| failed(c, v)).collect(),
    };
    let mut data = counted(&all);
    data["operators"] = operators
        .iter()
        .map(|(name, c)| {
            let mut v = json!({ "operator": name });
            v.as_object_mut().expect("an object").extend(counted(c).as_object().expect("an object").clone());
            v
        })
        .collect();
    data["cases"] = cases
        .iter()
        .zip(verdicts)
        .map(|(c, v)| {
            let mut one = serde_json::to_value(v).expect("plain values");
            one["name"] = json!(c.name);
            one["operator"] = json!(c.operator);
            one
        })
        .collect();
    data["changes"] = match &changes {
        None => Value::Null,
        Some(changes) => changes
            .iter()
            .map(|(name, c)| json!({ "name": name, "what": c.to_string(), "regression": c.is_regression() }))
            .collect(),
    };
    Outcome { data, text, diagnostics, ..Outcome::default() }
}

/// What is said of a case that is wrong or crashed.
fn failed(c: &Case, v: &Verdict) -> Option<Diagnostic> {
    let code = match v.status {
        Status::Passed | Status::Drawn | Status::Unsupported => return None,
        Status::Wrong => "C0701",
        Status::Crashed => "C0702",
    };
    let why = v.reason.as_deref().unwrap_or_default();
    Some(Diagnostic::error(code, format!("{} {}: {why}", c.name, v.status.name())).failure(Failure::Gate))
}

/// What is said of a case that is not as it was expected to be.
fn changed((name, change): &(String, Change)) -> Diagnostic {
    let message = format!("{name} is {change}");
    if change.is_regression() {
        return Diagnostic::error("C0704", message).failure(Failure::Gate);
    }
    Diagnostic::note("C0705", message).with_help("write the list again with --write FILE")
}
