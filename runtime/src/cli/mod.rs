//! The commands that work on artifacts, for `tersor-run` and for `tersor` alike.
//!
//! A command is a function from its arguments to an [`Outcome`]; only `emit` prints and only `main` exits. With `--json`
//! exactly one document goes to stdout, whatever happens; without it, results go to stdout and all else to stderr.

pub mod bench;
pub mod info;
pub mod inputs;
pub mod limits;
pub mod run;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::atomic;
use crate::error::{Error, Kind};
use crate::limits::Limits;
use limits::LimitArgs;

/// Something to tell that is not the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub code: &'static str,
    /// `error` or `warning`.
    pub level: &'static str,
    pub message: String,
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn warning(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic { code, level: "warning", message: message.into(), help: None }
    }

    fn to_json(&self) -> Value {
        let mut value = json!({ "code": self.code, "level": self.level, "message": self.message });
        if let Some(help) = &self.help {
            value["help"] = json!(help);
        }
        value
    }

    fn to_text(&self) -> String {
        let help = self.help.as_ref().map(|h| format!("\n  help {h}")).unwrap_or_default();
        format!("{}[{}]: {}{help}\n", self.level, self.code, self.message)
    }
}

impl From<&Error> for Diagnostic {
    fn from(e: &Error) -> Diagnostic {
        Diagnostic { code: e.code(), level: "error", message: e.message.clone(), help: e.help.clone() }
    }
}

/// What a command has to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// `data` of the document.
    pub data: Value,
    /// The same for people.
    pub text: String,
    pub diagnostics: Vec<Diagnostic>,
}

/// The one document of a command.
pub fn document(command: &str, exit: i32, data: &Value, diagnostics: &[Diagnostic]) -> Value {
    json!({
        "schema": format!("tersor.{command}/1"),
        "tersor": env!("CARGO_PKG_VERSION"),
        "ok": exit == 0,
        "exit": exit,
        "data": data,
        "diagnostics": diagnostics.iter().map(Diagnostic::to_json).collect::<Vec<_>>(),
    })
}

/// What every command of `tersor-run` takes beside its own arguments.
#[derive(clap::Args, Clone, Debug)]
pub struct OutputArgs {
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// Runs a command within its limits, prints what it did, and returns the exit status.
pub fn execute(
    name: &'static str,
    output: &OutputArgs,
    command: impl FnOnce(&Limits) -> Result<Outcome, Error>,
) -> i32 {
    let json = output.json;
    let limits = output.limits.start(move |e| leave(emit(name, json, Err(e))));
    emit(name, json, guarded(|| command(&limits)).map_err(|e| limits.explain(e)))
}

/// Lets the first caller go on, who prints the result and ends the process; all others wait for that.
pub fn last_word() {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    while TAKEN.swap(true, Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Ends the process at once, whatever other threads do, and leaves nothing half-written.
pub fn leave(exit: i32) -> ! {
    atomic::remove_temporary();
    let _ = std::io::stdout().flush();
    // SAFETY: ends the process; runs no code of others that still use what it would tear down.
    unsafe { libc::_exit(exit) }
}

/// Runs a command; a panic becomes an error like any other.
pub fn guarded(command: impl FnOnce() -> Result<Outcome, Error>) -> Result<Outcome, Error> {
    let place = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&place);
    std::panic::set_hook(Box::new(move |info| {
        if let Ok(mut place) = seen.lock() {
            *place = info.to_string().replace('\n', " ");
        }
    }));
    let result = catch_unwind(AssertUnwindSafe(command));
    let _ = std::panic::take_hook();
    result.unwrap_or_else(|_| {
        let message = place.lock().map(|p| p.clone()).unwrap_or_default();
        Err(Error::new(Kind::Internal, message).with_help("this is a defect of tersor; please report it"))
    })
}

/// Prints what a command did and returns the exit status.
pub fn emit(command: &str, json: bool, result: Result<Outcome, Error>) -> i32 {
    let (outcome, exit) = match result {
        Ok(outcome) => (outcome, 0),
        Err(e) => (Outcome { diagnostics: vec![Diagnostic::from(&e)], ..Outcome::default() }, e.exit()),
    };
    let (out, err) = if json {
        let document = document(command, exit, &outcome.data, &outcome.diagnostics);
        (format!("{document}\n"), String::new())
    } else {
        (outcome.text, outcome.diagnostics.iter().map(Diagnostic::to_text).collect())
    };
    last_word();
    let _ = std::io::stderr().write_all(err.as_bytes());
    // Whoever reads may have left; that is no failure of the command.
    let _ = std::io::stdout().write_all(out.as_bytes());
    exit
}

/// Spells a number of bytes, `4.6 MB`.
pub fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_internal_error() {
        let e = guarded(|| panic!("impossible")).unwrap_err();
        assert_eq!((e.kind, e.exit()), (Kind::Internal, 70));
        assert!(e.message.contains("impossible"), "{e}");
        assert!(guarded(|| Ok(Outcome::default())).is_ok());
    }

    #[test]
    fn bytes_are_spelled_with_three_figures_or_so() {
        assert_eq!(
            [bytes(7), bytes(1500), bytes(4_600_000), bytes(25_100_000_000)],
            ["7 B", "1.5 kB", "4.6 MB", "25.10 GB"]
        );
    }
}
