//! Everything that can go wrong, each with a stable code and the exit code it means on the command line.
//!
//! A message is one line: it names the thing, says what was found and what was expected.

use std::fmt;
use std::path::Path;

/// What class of failure an [`Error`] is; decides code and exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command line asks for something that does not exist or contradicts itself.
    Usage,
    /// A file could not be read or written.
    Io,
    /// The file is not an artifact.
    NotAnArtifact,
    /// The file ends early or has bytes too many.
    Truncated,
    /// A checksum does not match.
    Checksum,
    /// Made for another version of the format or of the kernel ABI.
    Version,
    /// The manifest contradicts itself.
    Manifest,
    /// No variant runs on this CPU, or the one asked for does not.
    Variant,
    /// The system refused executable memory.
    Code,
    /// A needed input was not given.
    MissingInput,
    /// An input was given that the model does not have.
    UnknownInput,
    /// An input has another element type.
    InputType,
    /// An input has another rank or extent.
    InputShape,
    /// A symbolic extent is outside its bounds.
    SymbolRange,
    /// Two inputs disagree about a symbolic extent.
    SymbolConflict,
    /// An extent overflows, is negative, or divides by zero for these inputs.
    Extent,
    /// More memory than can be had.
    Memory,
    /// A number that the data decide is outside of its bounds.
    Count,
    /// A value that a function of strings cannot take.
    Value,
    /// A data file is malformed.
    Data,
    /// A data file holds something that is not supported.
    DataUnsupported,
    /// A signal, or whoever started the work, told it to end.
    Interrupted,
    /// The time limit is reached.
    TimeLimit,
    /// The memory limit is reached.
    MemoryLimit,
    /// An invariant of this crate does not hold.
    Internal,
}

impl Kind {
    /// Every kind, in the order of the codes.
    pub const ALL: [Kind; 25] = [
        Kind::Usage,
        Kind::Io,
        Kind::NotAnArtifact,
        Kind::Truncated,
        Kind::Checksum,
        Kind::Version,
        Kind::Manifest,
        Kind::Variant,
        Kind::Code,
        Kind::MissingInput,
        Kind::UnknownInput,
        Kind::InputType,
        Kind::InputShape,
        Kind::SymbolRange,
        Kind::SymbolConflict,
        Kind::Extent,
        Kind::Memory,
        Kind::Count,
        Kind::Value,
        Kind::Data,
        Kind::DataUnsupported,
        Kind::Interrupted,
        Kind::TimeLimit,
        Kind::MemoryLimit,
        Kind::Internal,
    ];

    /// The stable diagnostic code and the process exit status.
    pub const fn code_and_exit(self) -> (&'static str, i32) {
        match self {
            Kind::Usage => ("R0001", 2),
            Kind::Io => ("R0002", 8),
            Kind::NotAnArtifact => ("R0101", 3),
            Kind::Truncated => ("R0102", 3),
            Kind::Checksum => ("R0103", 3),
            Kind::Version => ("R0104", 6),
            Kind::Manifest => ("R0105", 3),
            Kind::Variant => ("R0106", 6),
            Kind::Code => ("R0107", 6),
            Kind::MissingInput => ("R0201", 2),
            Kind::UnknownInput => ("R0202", 2),
            Kind::InputType => ("R0203", 2),
            Kind::InputShape => ("R0204", 2),
            Kind::SymbolRange => ("R0205", 2),
            Kind::SymbolConflict => ("R0206", 2),
            Kind::Extent => ("R0207", 3),
            Kind::Memory => ("R0208", 7),
            Kind::Count => ("R0209", 3),
            Kind::Value => ("R0210", 3),
            Kind::Data => ("R0301", 3),
            Kind::DataUnsupported => ("R0302", 4),
            Kind::Interrupted => ("R0401", 130),
            Kind::TimeLimit => ("R0402", 7),
            Kind::MemoryLimit => ("R0403", 7),
            Kind::Internal => ("R0900", 70),
        }
    }
}

/// A failure with its class, a one-line message and, where there is something to do about it, advice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub kind: Kind,
    pub message: String,
    pub help: Option<String>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), help: None }
    }

    /// A failed file operation, naming the file.
    pub fn io(path: &Path, error: &std::io::Error) -> Error {
        Error::new(Kind::Io, format!("{}: {error}", path.display()))
    }

    pub fn with_help(mut self, help: impl Into<String>) -> Error {
        self.help = Some(help.into());
        self
    }

    /// Puts the thing that the message is about in front of it.
    pub fn context(mut self, what: impl fmt::Display) -> Error {
        self.message = format!("{what}: {}", self.message);
        self
    }

    pub const fn code(&self) -> &'static str {
        self.kind.code_and_exit().0
    }

    pub const fn exit(&self) -> i32 {
        self.kind.code_and_exit().1
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]: {}", self.code(), self.message)
    }
}

impl std::error::Error for Error {}

impl From<tersor_host::Error> for Error {
    fn from(e: tersor_host::Error) -> Error {
        Error::new(Kind::Value, e.to_string())
    }
}
