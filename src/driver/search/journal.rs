//! What an interrupted search leaves: alternatives that were measured, and where evolution stands.

use super::SearchOptions;
use crate::driver::load::write_text;
use crate::driver::{Result, Samples, TOOL, file_error, usage};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tersor_passes::allocate::{Problem, Row, State};

/// How often measured alternatives are written, at most.
const SAVE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Saved {
    tersor: u32,
    /// Hash of all that decides the rows.
    key: String,
    /// Rows of sites, in program order.
    rows: Vec<Row>,
    /// What an evolution minimises and its limits, and where it stands.
    evolution: Option<(String, State)>,
}

/// A search as it is kept, in a file where one is named.
pub struct Journal {
    path: Option<PathBuf>,
    saved: Saved,
    when: Instant,
}

impl Journal {
    /// That of a search: from its file where there is one, else empty.
    pub fn open(o: &SearchOptions, model: &str, calibration: Option<&str>, data: &Samples) -> Result<Journal> {
        let key = key(o, model, calibration, data)?;
        let new = Saved { tersor: 1, key, rows: vec![], evolution: None };
        let saved = match o.resume.as_ref().filter(|p| p.exists()) {
            None => new,
            Some(p) => {
                let refuse = |message: String| vec![usage(message).in_file(p.display().to_string())];
                let text = std::fs::read_to_string(p).map_err(|e| vec![file_error(p, "read", &e)])?;
                let found: Saved =
                    serde_json::from_str(&text).map_err(|e| refuse(format!("not a saved search: {e}")))?;
                if (found.tersor, &found.key) != (new.tersor, &new.key) {
                    let d = usage("the saved search is for another model, pipeline, data, metric, target or seed");
                    let d = d.in_file(p.display().to_string());
                    return Err(vec![d.with_help("name another file, or remove this one")]);
                }
                found
            }
        };
        Ok(Journal { path: o.resume.clone(), saved, when: Instant::now() })
    }
    /// Rows that were measured.
    pub fn rows(&self) -> &[Row] {
        &self.saved.rows
    }
    /// Adds the row of the next site.
    pub fn add(&mut self, row: Row) -> Result<()> {
        self.saved.rows.push(row);
        if self.when.elapsed() < SAVE { Ok(()) } else { self.save() }
    }
    /// Writes the file.
    pub fn save(&mut self) -> Result<()> {
        self.when = Instant::now();
        let Some(path) = &self.path else { return Ok(()) };
        write_text(path, &serde_json::to_string(&self.saved).expect("plain values"))
    }
    /// Where an evolution for this problem stands.
    pub fn evolution(&self, p: &Problem) -> Option<State> {
        self.saved.evolution.clone().filter(|e| e.0 == aim(p)).map(|e| e.1)
    }
    /// Keeps where it stands now.
    pub fn evolve(&mut self, p: &Problem, state: &State) -> Result<()> {
        self.saved.evolution = Some((aim(p), state.clone()));
        self.save()
    }
}

/// What a problem wants.
fn aim(p: &Problem) -> String {
    let limits: Vec<String> = p.limits.iter().map(|(q, most)| format!("{q}<={most}")).collect();
    format!("{} {}", p.minimise, limits.join(","))
}

fn key(o: &SearchOptions, model: &str, calibration: Option<&str>, data: &Samples) -> Result<String> {
    let targets: Vec<&str> = o.targets.iter().map(|t| t.isa.name()).collect();
    let parts = [
        TOOL.to_string(),
        model.to_string(),
        o.pipeline.text(),
        calibration.unwrap_or("none").to_string(),
        data.hash()?.to_hex().to_string(),
        format!("{:?} {:?} {}", o.labels, o.probe, o.layers),
        o.metric.name(),
        targets.join(","),
        o.seed.to_string(),
        format!("{:?}", o.bindings),
    ];
    Ok(blake3::hash(parts.join("\n").as_bytes()).to_hex().to_string())
}
