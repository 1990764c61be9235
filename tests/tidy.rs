//! What no compiler checks about the sources: that every file says what it is for, that none has grown too long, and that nothing is left unfinished.

use std::path::{Path, PathBuf};

/// Lines that a source file may have.
const LONGEST: usize = 700;

/// Every Rust source of the workspace, its path from the root, and its text.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut out = vec![];
    for top in ["host", "ir", "frontend", "passes", "backends", "runtime", "src", "tests", "examples"] {
        collect(&root.join(top), &mut out);
    }
    out.sort();
    assert!(out.len() > 100, "the sources are not where they were");
    let read = |p: &PathBuf| std::fs::read_to_string(p).unwrap_or_else(|e| panic!("{}: {e}", p.display()));
    out.iter().map(|p| (p.strip_prefix(root).expect("below the root").to_path_buf(), read(p))).collect()
}

fn collect(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|n| n != "target") {
            collect(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Fails with one line for each source that `wrong` says something about.
fn all(wrong: impl Fn(&Path, &str) -> Option<String>) {
    let found: Vec<String> =
        sources().iter().filter_map(|(p, text)| Some(format!("{}: {}", p.display(), wrong(p, text)?))).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn files_say_what_they_are_for() {
    all(|_, text| (!text.starts_with("//!")).then(|| "the first line is not `//! …`".into()));
}

#[test]
fn files_are_short() {
    all(|_, text| {
        let n = text.lines().count();
        (n > LONGEST).then(|| format!("{n} lines; a file of more than {LONGEST} is two files"))
    });
}

#[test]
fn nothing_is_left_unfinished() {
    // Spelt in two parts, so that this file does not find itself.
    let marks = [("todo", "!"), ("unimplemented", "!"), ("TO", "DO"), ("FIX", "ME"), ("#[igno", "re")];
    let marks = marks.map(|(a, b)| format!("{a}{b}"));
    all(|_, text| {
        let (i, line) = text.lines().enumerate().find(|(_, l)| marks.iter().any(|m| l.contains(m.as_str())))?;
        Some(format!("line {}: {}", i + 1, line.trim()))
    });
}
