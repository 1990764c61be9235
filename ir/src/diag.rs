//! Diagnostics: one shape for every message that a person reads.

use crate::loc::Loc;
use std::fmt;

/// How bad it is.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// For information.
    Note,
    /// The result is usable; something is not as asked or expected.
    Warning,
    /// No result.
    Error,
}

/// What kind of failure an error is; decides the exit code.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub enum Failure {
    /// A gate failed: difference, accuracy, speed, findings (1).
    Gate,
    /// Flags, configuration, selectors (2).
    Usage,
    /// The model is invalid or refused (3).
    #[default]
    Model,
    /// Valid, but something in it is not supported (4).
    Unsupported,
    /// No solution under the budget (5).
    Budget,
    /// Target, device or toolchain not available (6).
    Target,
    /// Time or memory limit (7).
    Limit,
    /// File system (8).
    File,
    /// A bug of tersor (70).
    Internal,
    /// Interrupted by the user (130).
    Interrupted,
}

impl Failure {
    const ALL: [Failure; 10] = [
        Failure::Gate,
        Failure::Usage,
        Failure::Model,
        Failure::Unsupported,
        Failure::Budget,
        Failure::Target,
        Failure::Limit,
        Failure::File,
        Failure::Internal,
        Failure::Interrupted,
    ];
    /// What a process failed of that ended with this exit code; of a bug where it means nothing.
    pub fn of_exit_code(code: i32) -> Failure {
        let found = Failure::ALL.into_iter().find(|f| i32::from(f.exit_code()) == code);
        found.unwrap_or(Failure::Internal)
    }
    /// The exit code of a process that ends with it.
    pub const fn exit_code(self) -> u8 {
        match self {
            Failure::Gate => 1,
            Failure::Usage => 2,
            Failure::Model => 3,
            Failure::Unsupported => 4,
            Failure::Budget => 5,
            Failure::Target => 6,
            Failure::Limit => 7,
            Failure::File => 8,
            Failure::Internal => 70,
            Failure::Interrupted => 130,
        }
    }
}

/// One message with a stable code.
///
/// Codes are a letter for the part that speaks (`T` types and verifier, `P` text parser, `O` ONNX import, `S` passes and pipelines, `Q` quantization, `B` backends and
/// benchmarks, `R` runtime, `C` command line) and four digits.
#[derive(Clone, PartialEq, Debug)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// Stable code, such as `T0312`.
    pub code: &'static str,
    /// What is wrong, on one line, with what was expected.
    pub message: String,
    /// Where.
    pub loc: Loc,
    /// The file it is in, when known.
    pub file: Option<String>,
    /// The op as text, such as `%y = matmul %a, %b`.
    pub at: Option<String>,
    /// Further facts.
    pub notes: Vec<String>,
    /// What to do.
    pub help: Option<String>,
    /// What kind of failure, for errors.
    pub failure: Failure,
}

impl Diagnostic {
    /// An error; an invalid model unless [`Diagnostic::failure`] says otherwise.
    pub fn error(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code,
            message: message.into(),
            loc: Loc::Unknown,
            file: None,
            at: None,
            notes: vec![],
            help: None,
            failure: Failure::Model,
        }
    }
    /// A warning.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Self::error(code, message) }
    }
    /// A remark.
    pub fn note(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Note, ..Self::error(code, message) }
    }
    /// Sets the kind of failure.
    pub fn failure(mut self, failure: Failure) -> Self {
        self.failure = failure;
        self
    }
    /// Sets the location, unless it has one.
    pub fn at_loc(mut self, loc: &Loc) -> Self {
        if self.loc == Loc::Unknown {
            self.loc = loc.clone();
        }
        self
    }
    /// Sets the op's text, unless it has one.
    pub fn at_op(mut self, text: impl Into<String>) -> Self {
        self.at.get_or_insert_with(|| text.into());
        self
    }
    /// Sets the file, unless it has one.
    pub fn in_file(mut self, file: impl Into<String>) -> Self {
        self.file.get_or_insert_with(|| file.into());
        self
    }
    /// Adds a fact.
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
    /// Says what to do.
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    /// The rendering that people see: `error[T0312]: …`, then indented context lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Note => "note",
            Severity::Warning => "warn",
            Severity::Error => "error",
        };
        write!(f, "{word}[{}]: {}", self.code, self.message)?;
        match (&self.file, &self.loc) {
            (None, Loc::Unknown) => {}
            (Some(file), Loc::Unknown) => write!(f, "\n  in   {file}")?,
            (Some(file), loc) => write!(f, "\n  in   {file}, {loc}")?,
            (None, loc) => write!(f, "\n  in   {loc}")?,
        }
        if let Some(at) = &self.at {
            write!(f, "\n  at   {at}")?;
        }
        for n in &self.notes {
            write!(f, "\n  note {n}")?;
        }
        if let Some(h) = &self.help {
            write!(f, "\n  help {h}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

/// The result of what can fail with one message.
pub type Result<T, E = Diagnostic> = std::result::Result<T, E>;
