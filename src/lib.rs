//! The compiler as a library, and the `tersor` command on top of it.
//!
//! [`driver`] joins the crates: import, passes, code, artifact, verification. [`cli`] parses arguments, calls it and prints.

pub mod cli;
pub mod driver;
pub mod report;
