//! Plan files: which alternative stands at each site, and what the plan was made for. Small TOML that people read and edit.

use super::lock::Input;
use super::{Bindings, Result, read_text, usage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use tersor_ir::plan::Plan;
use tersor_ir::{Diagnostic, Loc};
use tersor_passes::allocate::Costs;

/// A plan file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    /// Version of this format.
    pub tersor: u32,
    /// Version of the tool.
    pub tool: String,
    /// The passes that offer the alternatives.
    pub pipeline: String,
    /// Targets; the costs of the first decided.
    pub targets: Vec<String>,
    /// How it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// What was measured as error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// The seed of the search and of the choice among samples.
    #[serde(default)]
    pub seed: u64,
    /// No more calibration samples than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// The limits, as they were written.
    #[serde(default)]
    pub budget: Vec<String>,
    /// The model.
    pub model: Input,
    /// Calibration data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Input>,
    /// What is bound at the import.
    #[serde(flatten)]
    pub bindings: Bindings,
    /// What the plan costs: error as measured, the rest as the table has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Costs>,
    /// Alternative by site. Sites that are not named stay exact.
    pub sites: BTreeMap<String, String>,
}

impl PlanFile {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<PlanFile> {
        let text = read_text(path)?;
        PlanFile::parse(&text).map_err(|d| d.into_iter().map(|d| d.in_file(path.display().to_string())).collect())
    }
    /// Reads a text.
    pub fn parse(text: &str) -> Result<PlanFile> {
        let plan: PlanFile = toml::from_str(text).map_err(|e| {
            let at = e.span().map_or(0, |s| s.start);
            vec![usage(format!("not a plan file: {}", e.message())).at_loc(&Loc::in_text(text, at))]
        })?;
        if plan.tersor != 1 {
            return Err(vec![usage(format!("a plan of version {}; this tersor reads version 1", plan.tersor))]);
        }
        Ok(plan)
    }
    /// The file's text.
    pub fn text(&self) -> String {
        toml::to_string(self).expect("plain values")
    }
    /// Writes the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        super::load::write_text(path, &self.text())
    }
    /// The plan.
    pub fn plan(&self) -> Plan {
        Plan { picks: self.sites.clone() }
    }
    /// What the plan was made for and what there is now, where they differ.
    pub fn differences(&self, model: &str, calibration: Option<&str>) -> Vec<Diagnostic> {
        let data = self.calibration.as_ref().map_or("none", |c| &c.hash);
        let pairs = [
            ("tersor", self.tool.as_str(), super::TOOL),
            ("model", &self.model.hash, model),
            ("calibration", data, calibration.unwrap_or("none")),
        ];
        let differ = pairs.into_iter().filter(|(_, a, b)| a != b);
        differ
            .map(|(what, a, b)| Diagnostic::warning("C0313", format!("the plan is for another {what}: {a}, not {b}")))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_round_trip_and_say_what_they_are_for() {
        let text = "tersor = 1\ntool = \"0.1.0\"\npipeline = \"quantize\"\ntargets = [\"x86-64-v3\"]\nseed = 3\nbudget = [\"size=0.3x\"]\n\n[model]\nhash = \"blake3:00\"\n\n[dims]\n\n[shapes]\n\n[sites]\n\"a/b\" = \"w4\"\nfc = \"exact\"\n";
        let p = PlanFile::parse(text).unwrap();
        assert_eq!((p.text().as_str(), p.plan().picks.len()), (text, 2));
        assert_eq!(p.differences("blake3:00", None).len(), usize::from(crate::driver::TOOL != "0.1.0"));
        assert!(p.differences("blake3:01", Some("blake3:02")).len() >= 2);
        for bad in ["x = 1", &text.replace("tersor = 1", "tersor = 2"), &text.replace("seed = 3", "sede = 3")] {
            assert!(PlanFile::parse(bad).is_err());
        }
        let at = PlanFile::parse(&text.replace("seed = 3", "seed = [")).unwrap_err().remove(0).loc;
        assert!(matches!(at, Loc::Text { line: 5 | 6, .. }), "{at:?}");
    }
}
