//! The committed list of what is expected of each case.

use super::{Case, Status, Verdict};
use crate::driver::{Result, read_text, usage};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Names of cases and what is expected of them; as text one line each, the name and the status.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Expected(BTreeMap<String, Status>);

/// How a case differs from what was expected of it.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// It got worse.
    Regressed(Status, Status),
    /// It got better.
    Improved(Status, Status),
    /// The list does not have it.
    New(Status),
    /// The list has it, and it is not there.
    Gone(Status),
}

impl Change {
    /// Whether it fails a comparison: a case that got worse or went away, or a new one that is not right.
    pub fn is_regression(&self) -> bool {
        match self {
            Change::Regressed(..) | Change::Gone(_) => true,
            Change::Improved(..) => false,
            Change::New(s) => *s > Status::Unsupported,
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Change::Regressed(was, is) | Change::Improved(was, is) => {
                write!(f, "{}, expected {}", is.name(), was.name())
            }
            Change::New(is) => write!(f, "{}, not in the list", is.name()),
            Change::Gone(was) => write!(f, "not there, expected {}", was.name()),
        }
    }
}

impl Expected {
    /// What was found.
    pub fn of(cases: &[Case], verdicts: &[Verdict]) -> Expected {
        Expected(cases.iter().zip(verdicts).map(|(c, v)| (c.name.clone(), v.status)).collect())
    }
    /// Reads a list. A line that is not a name and a status is an error that gives its number.
    pub fn read(path: &Path) -> Result<Expected> {
        let text = read_text(path)?;
        let status = |word: &str| Status::ALL.into_iter().find(|s| s.name() == word);
        let mut out = BTreeMap::new();
        for (n, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let pair = line.rsplit_once(' ').and_then(|(name, word)| Some((name.trim().to_string(), status(word)?)));
            let at = format!("{}, line {}", path.display(), n + 1);
            let (name, status) = pair.ok_or_else(|| {
                let words = Status::ALL.map(Status::name).join(", ");
                vec![
                    usage(format!("{at}: `{line}` is not a name and a status")).with_help(format!("statuses: {words}")),
                ]
            })?;
            if out.insert(name.clone(), status).is_some() {
                return Err(vec![usage(format!("{at}: {name} is listed twice"))]);
            }
        }
        Ok(Expected(out))
    }
    /// As text.
    pub fn text(&self) -> String {
        self.0.iter().fold(String::new(), |mut out, (name, status)| {
            let _ = writeln!(out, "{name} {}", status.name());
            out
        })
    }
    /// How what was found differs from it, by name.
    pub fn changes(&self, found: &Expected) -> Vec<(String, Change)> {
        let change = |name: &String| match (self.0.get(name), found.0.get(name)) {
            (Some(&was), Some(&is)) if is > was => Some(Change::Regressed(was, is)),
            (Some(&was), Some(&is)) if is < was => Some(Change::Improved(was, is)),
            (None, Some(&is)) => Some(Change::New(is)),
            (Some(&was), None) => Some(Change::Gone(was)),
            _ => None,
        };
        let names: std::collections::BTreeSet<&String> = self.0.keys().chain(found.0.keys()).collect();
        names.into_iter().filter_map(|n| Some((n.clone(), change(n)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_compared() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            Expected::read(file.path())
        };
        let was = read("a passed\nb wrong\n\nc unsupported\nwith space crashed\n").unwrap();
        assert_eq!(read(&was.text()).unwrap(), was);
        let is = read("a wrong\nb passed\nd unsupported\ne crashed\nwith space crashed\n").unwrap();
        let changes = was.changes(&is);
        let shown: Vec<String> = changes.iter().map(|(n, c)| format!("{n} {} {c}", c.is_regression())).collect();
        assert_eq!(
            shown,
            [
                "a true wrong, expected passed",
                "b false passed, expected wrong",
                "c true not there, expected unsupported",
                "d false unsupported, not in the list",
                "e true crashed, not in the list",
            ]
        );
        assert!(read("a passed\na passed").unwrap_err()[0].message.contains("line 2: a is listed twice"));
        assert!(read("a passed\nb good").unwrap_err()[0].message.contains("line 2"));
    }
}
