//! The text form, `.tir`: printing, parsing, and the structural diff.
//!
//! `parse(print(m))` gives `m` again, up to ids of dead values. Statistics and other comments are not part of a module.

mod cursor;
pub mod diff;

mod parse;
mod print;

pub use parse::{parse, parse_dim, parse_type};
pub use print::{PrintOptions, print, print_node, print_with};

/// Whether a name stands in text without quotes.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '$'))
}

/// A name as text, quoted and escaped where it must be.
pub fn quote_name(name: &str) -> String {
    if is_plain(name) { name.to_string() } else { format!("\"{}\"", name.escape_default()) }
}

/// Reads what [`quote_name`] wrote.
pub fn unquote_name(text: &str) -> Result<String, String> {
    let mut c = cursor::Cursor::new(text);
    let name = c.name().map_err(|d| d.message)?;
    if c.at_end() { Ok(name) } else { Err(format!("a name, not `{text}`")) }
}
