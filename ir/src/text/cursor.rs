//! A position in text, and the tokens that can follow it.

use crate::diag::{Diagnostic, Result};
use crate::dim::Dim;
use crate::loc::Loc;
use crate::types::{DType, Type};

/// Reads a text from front to back.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    /// A position whose lines were counted, and how many end before it.
    counted: (usize, u32),
}

/// Parentheses in extents nest no deeper.
const MAX_DEPTH: usize = 32;

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Cursor<'a> {
        Cursor { text, at: 0, counted: (0, 0) }
    }
    pub(super) fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }
    /// Line and column of the next token.
    pub(super) fn loc(&mut self) -> Loc {
        self.skip_space();
        let before = &self.text[..self.at];
        let (from, lines) = if self.counted.0 <= self.at { self.counted } else { (0, 0) };
        let lines = lines + before.as_bytes()[from..].iter().filter(|&&b| b == b'\n').count() as u32;
        self.counted = (self.at, lines);
        let line = lines + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() as u32 + 1;
        Loc::Text { line, column }
    }
    pub(super) fn error(&mut self, expected: &str) -> Diagnostic {
        let loc = self.loc();
        let found: String = self.rest().chars().take_while(|c| *c != '\n').take(24).collect();
        let found = if found.is_empty() { "the end".into() } else { format!("`{found}`") };
        Diagnostic::error("P0001", format!("expected {expected}, found {found}")).at_loc(&loc)
    }
    /// Skips blanks, line ends and `//` comments.
    pub(super) fn skip_space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }
    pub(super) fn at_end(&mut self) -> bool {
        self.skip_space();
        self.rest().is_empty()
    }
    /// Whether `token` comes next; a word must end there.
    pub(super) fn peek(&mut self, token: &str) -> bool {
        self.skip_space();
        let Some(after) = self.rest().strip_prefix(token) else { return false };
        let word = token.ends_with(|c: char| c.is_ascii_alphanumeric());
        !(word && after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    }
    pub(super) fn eat(&mut self, token: &str) -> bool {
        let found = self.peek(token);
        if found {
            self.at += token.len();
        }
        found
    }
    pub(super) fn expect(&mut self, token: &str) -> Result<()> {
        if self.eat(token) { Ok(()) } else { Err(self.error(&format!("`{token}`"))) }
    }
    /// The longest run of characters that satisfy `f`.
    pub(super) fn take_while(&mut self, f: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let n = rest.find(|c| !f(c)).unwrap_or(rest.len());
        self.at += n;
        &rest[..n]
    }
    /// A plain or quoted name.
    pub(super) fn name(&mut self) -> Result<String> {
        if self.rest().starts_with('"') {
            return self.quoted();
        }
        let n = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '$'));
        if n.is_empty() { Err(self.error("a name")) } else { Ok(n.to_string()) }
    }
    /// A string in double quotes with Rust's escapes.
    pub(super) fn quoted(&mut self) -> Result<String> {
        self.expect("\"")?;
        let mut out = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(out);
                }
                '\\' => match chars.next().map(|c| c.1) {
                    Some('n') => out.push('\n'),
                    Some('t') => out.push('\t'),
                    Some('r') => out.push('\r'),
                    Some('u') => {
                        let hex: String = chars.by_ref().map(|c| c.1).skip(1).take_while(|&c| c != '}').collect();
                        out.push(u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32).unwrap_or('\u{fffd}'));
                    }
                    Some(c) => out.push(c),
                    None => break,
                },
                c => out.push(c),
            }
        }
        Err(self.error("a closing quote"))
    }
    /// A word of a mnemonic: letters, digits, `_` and `.`.
    pub(super) fn word(&mut self) -> Result<&'a str> {
        self.skip_space();
        let w = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if w.is_empty() { Err(self.error("a word")) } else { Ok(w) }
    }
    /// A number as text.
    pub(super) fn number(&mut self) -> Result<&'a str> {
        self.skip_space();
        let start = self.at;
        let n = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'));
        if n.parse::<f64>().is_ok() {
            return Ok(n);
        }
        self.at = start;
        Err(self.error("a number"))
    }
    pub(super) fn integer<T: std::str::FromStr>(&mut self) -> Result<T> {
        self.skip_space();
        let start = self.at;
        if let Ok(v) = self.take_while(|c| c.is_ascii_digit() || c == '-').parse() {
            return Ok(v);
        }
        self.at = start;
        Err(self.error("an integer in range"))
    }
    /// `f32[N,2*T+1]`
    pub(super) fn ty(&mut self) -> Result<Type> {
        let loc = self.loc();
        let word = self.take_while(|c| c.is_ascii_alphanumeric());
        let dtype = DType::from_name(word).ok_or_else(|| {
            Diagnostic::error("P0002", format!("expected an element type, found `{word}`")).at_loc(&loc)
        })?;
        self.expect("[")?;
        let mut shape = crate::types::Shape::new();
        while !self.eat("]") {
            if !shape.is_empty() {
                self.expect(",")?;
            }
            shape.push(self.dim(0)?);
        }
        Ok(Type { dtype, shape })
    }
    /// A sum of products of numbers, symbols, `max(a,b)`, parentheses and floor quotients.
    pub(super) fn dim(&mut self, depth: usize) -> Result<Dim> {
        if depth > MAX_DEPTH {
            return Err(self.error("an extent nested less deeply"));
        }
        let negative = self.eat("-");
        let mut sum = self.product(depth)?;
        if negative {
            sum = sum * (-1).into();
        }
        loop {
            if self.eat("+") {
                sum = sum + self.product(depth)?;
            } else if self.eat("-") {
                sum = sum - self.product(depth)?;
            } else {
                return Ok(sum);
            }
        }
    }
    fn product(&mut self, depth: usize) -> Result<Dim> {
        let mut p = self.factor(depth)?;
        loop {
            if self.eat("*") {
                p = p * self.factor(depth)?;
            } else if !self.peek("//") && self.eat("/") {
                let by = self.factor(depth)?;
                if by.as_const().is_some_and(|b| b <= 0) {
                    return Err(self.error("a positive divisor before"));
                }
                p = p.floor_div(by);
            } else {
                return Ok(p);
            }
        }
    }
    fn factor(&mut self, depth: usize) -> Result<Dim> {
        self.skip_space();
        if self.eat("(") {
            let d = self.dim(depth + 1)?;
            self.expect(")")?;
            return Ok(d);
        }
        if self.eat("max(") {
            let a = self.dim(depth + 1)?;
            self.expect(",")?;
            let b = self.dim(depth + 1)?;
            self.expect(")")?;
            return Ok(a.max(b));
        }
        if self.rest().starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(Dim::Const(self.integer()?));
        }
        let s = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
        if s.is_empty() { Err(self.error("an extent")) } else { Ok(Dim::symbol(s)) }
    }
    /// Raw text up to the matching `}` or the next `,` at depth 0; for attribute values.
    pub(super) fn raw_value(&mut self) -> &'a str {
        let (mut depth, mut quoted) = (0i32, false);
        let rest = self.rest();
        for (i, c) in rest.char_indices() {
            match c {
                '"' => quoted = !quoted,
                '[' | '(' | '{' if !quoted => depth += 1,
                ',' | '}' if !quoted && depth == 0 => {
                    self.at += i;
                    return rest[..i].trim();
                }
                ']' | ')' | '}' if !quoted => depth -= 1,
                _ => {}
            }
        }
        self.at = self.text.len();
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dim::Atom;

    #[test]
    fn extents_round_trip() {
        for text in ["N", "2*N-1", "T+past", "(H+1)/(2)", "4*N*(H+1)/(2)+3", "max(N,T)", "(N)/(T)"] {
            let d = Cursor::new(text).dim(0).unwrap();
            assert_eq!(Cursor::new(&d.to_string()).dim(0).unwrap(), d, "{text} printed as {d}");
        }
        assert!(matches!(Cursor::new("max(N,T)").dim(0).unwrap().terms()[0].0[0], Atom::Max(..)));
    }
}
