//! Everything that is printed: progress, results, diagnostics, the JSON document; and what ends a run early.

use super::globals::{Color, Globals, JsonMode, Progress};
use crate::driver::{Event, Watch, runtime_error};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tersor_ir::diag::Severity;
use tersor_ir::{Diagnostic, Failure};
use tersor_runtime::cli::{last_word, leave};
use tersor_runtime::limits::Limits;

/// What a command has to say.
#[derive(Debug, Default)]
pub struct Outcome {
    /// `data` of the document.
    pub data: Value,
    /// The same for people.
    pub text: String,
    /// A result for standard output; the text goes to stderr then.
    pub bytes: Option<Vec<u8>>,
    /// Remarks, warnings, and errors that left a result.
    pub diagnostics: Vec<Diagnostic>,
    /// Exit status where no diagnostic decides it.
    pub exit: u8,
}

/// Reports on behalf of one command, which runs within its limits.
pub struct Reporter {
    printer: Printer,
    limits: Limits,
    spinner: RefCell<Option<ProgressBar>>,
    asked: Cell<bool>,
}

impl Reporter {
    /// For a command; its time begins to count.
    pub fn new(command: &str, globals: Globals) -> Reporter {
        let printer = Printer { command: command.into(), globals };
        let last = printer.clone();
        let end = move |reason| leave(last.emit(Err(vec![runtime_error(reason)])).into());
        Reporter {
            limits: printer.globals.limits.start(end),
            printer,
            spinner: RefCell::default(),
            asked: Cell::default(),
        }
    }
    /// The options that every command takes.
    pub fn globals(&self) -> &Globals {
        &self.printer.globals
    }
    /// Whether to write nothing.
    pub fn dry_run(&self) -> bool {
        self.asked.set(true);
        self.globals().dry_run
    }
    /// Whether the command asked that.
    pub fn asked_for_dry_run(&self) -> bool {
        self.asked.get()
    }
    /// What ends the command early.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
    /// Calls `f` with limits and reports of steps.
    pub fn watch<T>(&self, f: impl FnOnce(&Watch) -> T) -> T {
        let tell = |e: Event| self.tell(e);
        let out = f(&Watch::new(&self.limits).telling(&tell));
        self.end_spinner();
        out
    }

    fn tell(&self, e: Event) {
        let Globals { quiet, json, progress, verbose, .. } = self.globals();
        let (document, lines) = match &e {
            Event::Begin(name) => {
                if !quiet && json.is_none() && *progress == Progress::Auto && std::io::stderr().is_terminal() {
                    self.spin(name);
                }
                return;
            }
            Event::Done(s) => {
                let ms = s.time.as_secs_f64() * 1e3;
                let time = if ms < 1000.0 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1e3) };
                let line = format!("  {:<12} {:<58} {time:>8}\n", s.name, s.text);
                (json!({ "event": "step", "name": s.name, "text": s.text, "ms": ms }), line)
            }
            Event::Detail(level, _) if level > verbose => return,
            Event::Detail(level, text) => {
                (json!({ "event": "detail", "level": level, "text": text }), format!("    {text}\n"))
            }
        };
        if *json == Some(JsonMode::Lines) {
            let _ = out(format!("{document}\n"));
        }
        if *quiet || json.is_some() || *progress == Progress::None {
            return;
        }
        match &*self.spinner.borrow() {
            Some(bar) => bar.suspend(|| err(&lines)),
            None => err(&lines),
        }
    }
    fn spin(&self, name: &str) {
        let mut spinner = self.spinner.borrow_mut();
        let bar = spinner.get_or_insert_with(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::with_template("  {msg:12} {spinner} {elapsed}").expect("a template"));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        bar.reset_elapsed();
        bar.set_message(name.to_string());
    }
    fn end_spinner(&self) {
        if let Some(bar) = self.spinner.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }

    /// Runs a command, prints what it did and gives the exit status. A panic becomes an error like any other.
    pub fn run(&self, command: impl FnOnce(&Reporter) -> Result<Outcome, Vec<Diagnostic>>) -> ExitCode {
        #[cfg(feature = "mlir")]
        {
            let last = self.printer.clone();
            let end = move |message: &str| {
                let text = format!("LLVM gave up: {message}\n\n{}", Backtrace::force_capture());
                leave(last.emit(Err(vec![internal(&text)])).into())
            };
            tersor_backends::mlir::on_fatal_error(end);
        }
        let place = Arc::new(Mutex::new(String::new()));
        let seen = Arc::clone(&place);
        std::panic::set_hook(Box::new(move |info| {
            if let Ok(mut place) = seen.lock() {
                *place = format!("{info}\n\n{}", Backtrace::force_capture());
            }
        }));
        let result = catch_unwind(AssertUnwindSafe(|| command(self)));
        let _ = std::panic::take_hook();
        self.end_spinner();
        let result = result.unwrap_or_else(|_| {
            let text = place.lock().map(|p| p.clone()).unwrap_or_default();
            Err(vec![internal(&text)])
        });
        let exit = self.printer.emit(result.map_err(|errors| self.explain(errors)));
        tersor_runtime::atomic::remove_temporary();
        ExitCode::from(exit)
    }

    /// The reason instead of a part's remark that it was told to end.
    fn explain(&self, errors: Vec<Diagnostic>) -> Vec<Diagnostic> {
        let told = errors.iter().any(|d| d.failure == Failure::Interrupted);
        match self.limits.check() {
            Err(reason) if told => vec![runtime_error(reason)],
            _ => errors,
        }
    }
}

/// Prints the result of a command.
#[derive(Clone)]
struct Printer {
    command: String,
    globals: Globals,
}

impl Printer {
    /// Prints everything, unless somebody else has, and gives the exit status.
    fn emit(&self, result: Result<Outcome, Vec<Diagnostic>>) -> u8 {
        last_word();
        let mut outcome = result.unwrap_or_else(|diagnostics| Outcome { diagnostics, ..Outcome::default() });
        if self.globals.deny.is_some() {
            for d in outcome.diagnostics.iter_mut().filter(|d| d.severity == Severity::Warning) {
                d.severity = Severity::Error;
                d.failure = Failure::Gate;
            }
        }
        // What is wrong with the request outranks gates, whatever came first.
        let errors = outcome.diagnostics.iter().filter(|d| d.severity == Severity::Error);
        let first = errors.clone().find(|d| d.failure != Failure::Gate).or(errors.clone().next());
        let exit = first.map_or(outcome.exit, |d| d.failure.exit_code());
        if self.globals.json.is_some() {
            let document = json!({
                "schema": format!("tersor.{}/1", self.command),
                "tersor": env!("CARGO_PKG_VERSION"),
                "ok": exit == 0,
                "exit": exit,
                "data": outcome.data,
                "diagnostics": outcome.diagnostics.iter().map(diagnostic).collect::<Vec<_>>(),
            });
            return self.written(exit, out(format!("{document}\n")));
        }
        let least = if self.globals.quiet { Severity::Warning } else { Severity::Note };
        let shown = outcome.diagnostics.iter().filter(|d| d.severity >= least);
        let text: String = shown.map(|d| format!("{}\n", self.paint(d))).collect();
        err(&text);
        let written = match &outcome.bytes {
            Some(bytes) => {
                err(&clean(&outcome.text));
                out(bytes)
            }
            None => out(clean(&outcome.text).as_bytes()),
        };
        self.written(exit, written)
    }

    /// The exit status once the result was written, or could not be.
    fn written(&self, exit: u8, written: std::io::Result<()>) -> u8 {
        // Whoever reads may have left; that is no failure of the command.
        let Some(e) = written.err().filter(|e| e.kind() != ErrorKind::BrokenPipe) else { return exit };
        let d = crate::driver::file_error("standard output".as_ref(), "write", &e);
        err(&format!("{}\n", self.paint(&d)));
        if exit == 0 { d.failure.exit_code() } else { exit }
    }

    fn paint(&self, d: &Diagnostic) -> String {
        let env = |v: &str| std::env::var_os(v).is_some_and(|v| !v.is_empty());
        let auto = || std::io::stderr().is_terminal() && !env("NO_COLOR") && !env("CI");
        let colored = match self.globals.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => auto(),
        };
        let text = clean(&d.to_string());
        let code = match d.severity {
            Severity::Error => 31,
            Severity::Warning => 33,
            Severity::Note => 36,
        };
        match text.split_once(':').filter(|_| colored) {
            Some((head, rest)) => format!("\x1b[1;{code}m{head}\x1b[0m:{rest}"),
            None => text,
        }
    }
}

/// Text without control characters but ends of lines and tabs: names may hold anything, and a terminal is to see none of it as a command.
fn clean(text: &str) -> String {
    let one =
        |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { c.escape_default().to_string() } else { c.into() };
    text.chars().map(one).collect()
}

fn out(bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
    let mut to = std::io::stdout().lock();
    to.write_all(bytes.as_ref())?;
    to.flush()
}

fn err(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn diagnostic(d: &Diagnostic) -> Value {
    let level = match d.severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let mut v = json!({ "code": d.code, "level": level, "message": d.message });
    let location = (d.loc != tersor_ir::Loc::Unknown).then(|| d.loc.to_string());
    let optional = [
        ("file", d.file.clone()),
        ("node", d.loc.onnx_node().map(str::to_string)),
        ("location", location),
        ("at", d.at.clone()),
        ("help", d.help.clone()),
    ];
    for (key, value) in optional.into_iter().filter_map(|(k, v)| Some((k, v?))) {
        v[key] = json!(value);
    }
    if !d.notes.is_empty() {
        v["notes"] = json!(d.notes);
    }
    v
}

/// An internal error, with a report file where one can be written.
fn internal(panic: &str) -> Diagnostic {
    let message = panic.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    let d = Diagnostic::error("C0900", message).failure(Failure::Internal);
    let arguments: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let text = format!("tersor {}\narguments: {arguments:?}\n\n{panic}\n", env!("CARGO_PKG_VERSION"));
    let path = std::env::temp_dir().join(format!("tersor-report-{}.txt", std::process::id()));
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut f| f.write_all(text.as_bytes()));
    match written {
        Ok(()) => d.with_help(format!("this is a defect of tersor; please send {}", path.display())),
        Err(_) => d.with_help("this is a defect of tersor; please report it"),
    }
}
