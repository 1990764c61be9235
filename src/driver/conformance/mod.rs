//! Conformance: models with inputs and expected outputs, each through the reference evaluator and through compiled code.
//!
//! A case is a folder with `model.onnx` and `test_data_set_N` folders, the layout of ONNX's own backend tests. Cases run in worker processes, so that one that
//! aborts, hangs or takes too much memory is a crash of that case alone.

mod case;
mod expected;
mod law;
mod set;
mod workers;

pub use case::{Checks, check};
pub use expected::{Change, Expected};
pub use workers::{Worker, run_all};

use super::{Result, file_error, usage};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What became of a case, the better before the worse.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Every run agrees with every expected output.
    Passed,
    /// As passed, but for outputs that are drawn by chance: these have the expected types and extents, and elements of the same law.
    Drawn,
    /// The model needs something that is not supported, and is refused for that.
    Unsupported,
    /// Another output, or a valid model that is refused as if it were invalid.
    Wrong,
    /// A panic, an abort, a signal, or a limit of time or memory.
    Crashed,
}

impl Status {
    /// All of them.
    pub const ALL: [Status; 5] = [Status::Passed, Status::Drawn, Status::Unsupported, Status::Wrong, Status::Crashed];
    /// As lists and documents say it.
    pub fn name(self) -> &'static str {
        match self {
            Status::Passed => "passed",
            Status::Drawn => "drawn",
            Status::Unsupported => "unsupported",
            Status::Wrong => "wrong",
            Status::Crashed => "crashed",
        }
    }
}

/// What came of checking a case.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// What became of it.
    pub status: Status,
    /// Why, unless it passed.
    pub reason: Option<String>,
    /// The largest relative error of an output, in the Euclidean norm, over all runs; none where nothing ran.
    pub rel_l2: Option<f64>,
    /// The largest difference of two elements, over all runs.
    pub max_abs: Option<f64>,
}

impl Verdict {
    /// A verdict without figures.
    pub fn new(status: Status, reason: impl Into<String>) -> Verdict {
        Verdict { status, reason: Some(reason.into()), rel_l2: None, max_abs: None }
    }
}

/// A case.
#[derive(Clone, PartialEq, Debug)]
pub struct Case {
    /// Its folder, from the folder of all cases, with `/` between the parts.
    pub name: String,
    /// Its folder.
    pub dir: PathBuf,
    /// The operator that it is about: its node's where there is one, else the first word of the folder's name.
    pub operator: String,
}

/// Folders in folders that are looked into.
const MAX_DEPTH: usize = 16;

/// The cases in a folder and below, by name. It is an error when there are none.
pub fn cases(root: &Path) -> Result<Vec<Case>> {
    let mut out = vec![];
    let mut open = vec![(root.to_path_buf(), 0)];
    while let Some((dir, depth)) = open.pop() {
        let entries = std::fs::read_dir(&dir).and_then(|d| d.collect::<std::io::Result<Vec<_>>>());
        let entries = entries.map_err(|e| vec![file_error(&dir, "read", &e)])?;
        let named = |n: &str| entries.iter().any(|e| e.file_name().to_string_lossy().starts_with(n));
        if dir.join("model.onnx").is_file() && named("test_data_set_") {
            out.push(case(root, &dir));
        } else if depth < MAX_DEPTH {
            let folders = entries.iter().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            open.extend(folders.map(|e| (e.path(), depth + 1)));
        }
    }
    if out.is_empty() {
        let d = usage(format!("{} holds no cases", root.display()));
        return Err(vec![d.with_help("a case is a folder with model.onnx and test_data_set_0")]);
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

fn case(root: &Path, dir: &Path) -> Case {
    let parts = dir.strip_prefix(root).unwrap_or(dir).components();
    let name = parts.map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
    let operator = match tersor_frontend::node_operators(&dir.join("model.onnx")).as_deref() {
        Ok([one]) => one.clone(),
        _ => family(name.rsplit('/').next().unwrap_or_default()),
    };
    Case { name: if name.is_empty() { ".".into() } else { name }, dir: dir.to_path_buf(), operator }
}

fn family(folder: &str) -> String {
    let name = folder.strip_prefix("test_").unwrap_or(folder);
    name.split('_').next().filter(|w| !w.is_empty()).unwrap_or("(none)").to_string()
}
