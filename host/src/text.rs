//! Functions of characters, as the ONNX operators `StringConcat`, `StringSplit`, `StringNormalizer` and `RegexFullMatch` say.

use crate::error::{Error, Result};
use crate::strings::{Strings, handles};
use crate::{Case, Normalize, Split};
use regex::Regex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Most bytes of one string that a function makes.
pub const MAX_STRING: usize = 1 << 26;
/// Most parts of strings in one call.
const MAX_PARTS: usize = 1 << 26;

fn all(bytes: &[u8], strings: &Strings) -> Result<Vec<Arc<str>>> {
    handles(bytes).map(|h| strings.get(h).cloned()).collect()
}

/// The results of a function of one string, computed once for each handle.
fn each(x: &[u8], strings: &mut Strings, f: impl Fn(&str) -> String) -> Result<Vec<u8>> {
    let mut known = HashMap::new();
    let mut out = Vec::with_capacity(x.len());
    for h in handles(x) {
        let new = match known.get(&h) {
            Some(&new) => new,
            None => {
                let new = f(strings.get(h)?);
                *known.entry(h).or_insert(strings.intern(&new)?)
            }
        };
        out.extend(u32::to_ne_bytes(new));
    }
    Ok(out)
}

pub(crate) fn concat(x: &[u8], y: &[u8], strings: &mut Strings) -> Result<Vec<Vec<u8>>> {
    let (a, b) = (all(x, strings)?, all(y, strings)?);
    if a.len() != b.len() {
        return Err(Error::new(format!("{} strings and {}", a.len(), b.len())));
    }
    let mut out = Vec::with_capacity(x.len());
    for (a, b) in a.iter().zip(&b) {
        let bytes = a.len() + b.len();
        if bytes > MAX_STRING {
            return Err(Error::new(format!("a string of {bytes} bytes, at most {MAX_STRING} are possible")));
        }
        out.extend(strings.intern(&[&**a, &**b].concat())?.to_ne_bytes());
    }
    Ok(vec![out])
}

/// Python's `str.isspace`.
fn blank(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Python's `str.split`.
fn parts<'a>(s: &'a str, split: &Split) -> Vec<&'a str> {
    let most = split.most.map_or(usize::MAX, |m| m as usize);
    if !split.delimiter.is_empty() {
        return s.splitn(most.saturating_add(1), split.delimiter.as_str()).collect();
    }
    let (mut out, mut rest) = (vec![], s.trim_start_matches(blank));
    while !rest.is_empty() {
        let end = if out.len() < most { rest.find(blank).unwrap_or(rest.len()) } else { rest.len() };
        out.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(blank);
    }
    out
}

pub(crate) fn split(split: &Split, x: &[u8], strings: &mut Strings) -> Result<Vec<Vec<u8>>> {
    let (x, room) = (all(x, strings)?, split.parts as usize);
    if x.len().saturating_mul(room) > MAX_PARTS {
        return Err(Error::new(format!("{room} parts of {} strings, at most {MAX_PARTS} are possible", x.len())));
    }
    let (mut y, mut counts) = (vec![0; x.len() * room * 4], Vec::with_capacity(x.len() * 8));
    for (i, s) in x.iter().enumerate() {
        let found = parts(s, split);
        if found.len() > room {
            return Err(Error::new(format!("a string of {} parts, there is room for {room}", found.len())));
        }
        for (part, to) in found.iter().zip(y[i * room * 4..].chunks_exact_mut(4)) {
            to.copy_from_slice(&strings.intern(part)?.to_ne_bytes());
        }
        counts.extend((found.len() as i64).to_ne_bytes());
    }
    Ok(vec![y, counts])
}

pub(crate) fn normalize(n: &Normalize, x: &[u8], strings: &mut Strings) -> Result<Vec<Vec<u8>>> {
    let fold = |s: &str| if n.sensitive { s.to_string() } else { s.to_lowercase() };
    let stop: HashSet<String> = n.stopwords.iter().map(|s| fold(s)).collect();
    let mut kept = vec![];
    for h in handles(x) {
        if !stop.contains(&fold(strings.get(h)?)) {
            kept.extend(h.to_ne_bytes());
        }
    }
    let mut y = each(&kept, strings, |s| match n.case() {
        Case::Keep => s.to_string(),
        Case::Lower => s.to_lowercase(),
        Case::Upper => s.to_uppercase(),
    })?;
    let count = if kept.is_empty() { (x.len() / 4).min(1) } else { kept.len() / 4 };
    y.resize(x.len(), 0);
    Ok(vec![y, (count as i64).to_ne_bytes().to_vec()])
}

/// An expression of RE2's syntax that matches whole strings only.
pub(crate) fn whole(pattern: &str) -> Result<Regex> {
    let bad = |e: regex::Error| Error::new(format!("the pattern is no regular expression: {e}"));
    // By itself first, so that nothing in it can close the group.
    Regex::new(pattern).map_err(bad)?;
    Regex::new(&format!("\\A(?:{pattern})\\z")).map_err(bad)
}

pub(crate) fn matches(e: &Regex, x: &[u8], strings: &Strings) -> Result<Vec<Vec<u8>>> {
    let mut known = HashMap::new();
    let one = |h: u32| match known.get(&h) {
        Some(&hit) => Ok(hit),
        None => Ok(*known.entry(h).or_insert(u8::from(e.is_match(strings.get(h)?)))),
    };
    Ok(vec![handles(x).map(one).collect::<Result<_>>()?])
}
