//! The text form, `.tir`: printing, parsing, and the structural diff.
//!
//! `parse(print(m))` gives `m` again, up to ids of dead values. Statistics and other comments are not part of a module.

mod cursor;
pub mod diff;

mod parse;
mod print;

pub use parse::{parse, parse_dim, parse_type};
pub use print::{PrintOptions, print, print_node, print_with};
use std::borrow::Cow;

/// Whether a name stands in text without quotes.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '$'))
}

/// Text in double quotes, with none inside.
pub fn quote(text: &str) -> String {
    format!("\"{}\"", text.escape_default().to_string().replace("\\\"", "\\u{22}"))
}

/// Reads what [`quote`] wrote.
pub fn unquote(text: &str) -> Result<String, String> {
    let mut c = cursor::Cursor::new(text);
    let out = c.quoted().map_err(|d| d.message)?;
    if c.at_end() { Ok(out) } else { Err(format!("text in quotes, not `{text}`")) }
}

/// A name as text, quoted and escaped where it must be.
pub fn quote_name(name: &str) -> Cow<'_, str> {
    if is_plain(name) { name.into() } else { format!("\"{}\"", name.escape_default()).into() }
}

/// Reads what [`quote_name`] wrote.
pub fn unquote_name(text: &str) -> Result<String, String> {
    let mut c = cursor::Cursor::new(text);
    let name = c.name().map_err(|d| d.message)?;
    if c.at_end() { Ok(name) } else { Err(format!("a name, not `{text}`")) }
}

#[cfg(test)]
mod tests {
    use super::{parse, print};
    use std::fmt::Write;

    #[test]
    fn many_constants_take_linear_time() {
        let (mut text, mut before) = ("module @m {\n".to_string(), "%x".to_string());
        for i in 0..100_000 {
            let _ = writeln!(text, "  const @c{i} : f32[] = [{i}.0]");
        }
        text.push_str("  func @main(%x: f32[2]) -> (%y: f32[2]) {\n");
        for i in 0..100_000 {
            let _ = writeln!(text, "    %v{i} = add {before}, @c{i} : f32[2]");
            before = format!("%v{i}");
        }
        let _ = writeln!(text, "    return {before}\n  }}\n}}");
        let start = std::time::Instant::now();
        let m = parse(&text, &Default::default()).unwrap();
        assert!(crate::verify::verify(&m).is_empty());
        let again = parse(&print(&m), &Default::default()).unwrap();
        assert_eq!(print(&again), print(&m));
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
