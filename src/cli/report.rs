//! Everything that is printed: progress, results, diagnostics, the JSON document; and what ends a run early.

use super::globals::{Color, Globals, JsonMode, Progress};
use crate::driver::{StepLine, Watch};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tersor_ir::diag::Severity;
use tersor_ir::{Diagnostic, Failure};

/// Says that a step begins.
type Begin = Box<dyn Fn(&Reporter, &str)>;

/// What a command has to say.
#[derive(Debug, Default)]
pub struct Outcome {
    /// `data` of the document.
    pub data: Value,
    /// The same for people.
    pub text: String,
    /// Remarks, warnings, and errors that left a result.
    pub diagnostics: Vec<Diagnostic>,
    /// Exit status where no diagnostic decides it.
    pub exit: u8,
}

/// Prints on behalf of one command.
pub struct Reporter {
    command: String,
    json: Option<JsonMode>,
    globals: Globals,
    signal: Arc<AtomicBool>,
    spinner: RefCell<Option<ProgressBar>>,
    begin: Begin,
}

impl Reporter {
    /// For a command.
    pub fn new(command: &str, json: Option<JsonMode>, globals: Globals) -> Reporter {
        let begin = Box::new(|r: &Reporter, name: &str| r.step_begins(name));
        Reporter { command: command.into(), json, globals, signal: Arc::default(), spinner: RefCell::default(), begin }
    }
    /// The options that every command takes.
    pub fn globals(&self) -> &Globals {
        &self.globals
    }
    /// Calls `f` with limits and reports of steps.
    pub fn watch<T>(&self, f: impl FnOnce(&Watch) -> T) -> T {
        let begin = |name: &str| (self.begin)(self, name);
        let done = |s: &StepLine| self.step_is_done(s);
        let g = &self.globals;
        let out = f(&Watch::new(self.signal.clone(), g.timeout, g.max_memory, &begin, &done));
        self.end_spinner();
        out
    }

    /// Calls `f` with limits alone.
    pub fn limits<T>(&self, f: impl FnOnce(&Watch) -> T) -> T {
        let g = &self.globals;
        f(&Watch::new(self.signal.clone(), g.timeout, g.max_memory, &|_| {}, &|_| {}))
    }

    fn step_begins(&self, name: &str) {
        let tty = std::io::stderr().is_terminal();
        if self.globals.quiet || self.json.is_some() || self.globals.progress != Progress::Auto || !tty {
            return;
        }
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
    fn step_is_done(&self, s: &StepLine) {
        let ms = s.time.as_secs_f64() * 1e3;
        if self.json == Some(JsonMode::Lines) {
            self.out(&format!("{}\n", json!({ "event": "step", "name": s.name, "text": s.text, "ms": ms })));
        }
        if self.globals.quiet || self.json.is_some() || self.globals.progress == Progress::None {
            return;
        }
        let time = if ms < 1000.0 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1e3) };
        let line = format!("  {:<12} {:<58} {time:>8}", s.name, s.text);
        match &*self.spinner.borrow() {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => self.err(&format!("{line}\n")),
        }
    }
    fn end_spinner(&self) {
        if let Some(bar) = self.spinner.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }

    /// Runs a command, prints what it did and gives the exit status. A panic becomes an error like any other.
    pub fn run(&self, command: impl FnOnce(&Reporter) -> Result<Outcome, Vec<Diagnostic>>) -> ExitCode {
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The second signal ends the process at once.
            let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, self.signal.clone());
            let _ = signal_hook::flag::register(signal, self.signal.clone());
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
        self.emit(result)
    }

    fn emit(&self, result: Result<Outcome, Vec<Diagnostic>>) -> ExitCode {
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
        if self.json.is_some() {
            let document = json!({
                "schema": format!("tersor.{}/1", self.command),
                "tersor": env!("CARGO_PKG_VERSION"),
                "ok": exit == 0,
                "exit": exit,
                "data": outcome.data,
                "diagnostics": outcome.diagnostics.iter().map(diagnostic).collect::<Vec<_>>(),
            });
            self.out(&format!("{document}\n"));
            return ExitCode::from(exit);
        }
        let least = if self.globals.quiet { Severity::Warning } else { Severity::Note };
        let shown = outcome.diagnostics.iter().filter(|d| d.severity >= least);
        let text: String = shown.map(|d| format!("{}\n", self.paint(d))).collect();
        self.err(&text);
        self.out(&outcome.text);
        ExitCode::from(exit)
    }

    fn paint(&self, d: &Diagnostic) -> String {
        let env = |v: &str| std::env::var_os(v).is_some_and(|v| !v.is_empty());
        let auto = || std::io::stderr().is_terminal() && !env("NO_COLOR") && !env("CI");
        let colored = match self.globals.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => auto(),
        };
        // Names in a message may hold anything; a terminal is to see none of it as a command.
        let clean = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.into() };
        let text: String = d.to_string().chars().map(clean).collect();
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
    /// Whoever reads may have left; that is no failure of the command.
    fn out(&self, text: &str) {
        let _ = std::io::stdout().write_all(text.as_bytes());
    }
    fn err(&self, text: &str) {
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
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
