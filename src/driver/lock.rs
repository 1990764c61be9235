//! `NAME.lock.toml`: what an artifact was made from and what was decided, so that it can be made again.

use super::{Bindings, Result, read_text, usage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use tersor_ir::Loc;

/// A lock.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Version of this format.
    pub tersor: u32,
    /// Version of the tool.
    pub tool: String,
    /// The passes.
    pub pipeline: String,
    /// Targets.
    pub targets: Vec<String>,
    /// No more calibration samples than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// The seed of the choice among samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The model.
    pub model: Input,
    /// What is bound at the import.
    #[serde(flatten)]
    pub bindings: Bindings,
    /// Calibration data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Input>,
    /// Which alternative a plan picked at each site; sites that it does not name stay exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<BTreeMap<String, String>>,
    /// What was written.
    pub artifact: Input,
    /// What was decided, pass by pass.
    #[serde(default, rename = "decision")]
    pub decisions: Vec<Decision>,
    /// Encoded weights that the artifact holds decoded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decoded: Vec<Decoded>,
}

/// A file by content.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// `blake3:hex`.
    pub hash: String,
    /// Bytes, where it is one file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// What became of one site.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// The pass as pipeline text.
    pub pass: String,
    /// The site.
    pub site: String,
    /// The ONNX node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The op.
    pub op: String,
    /// The alternative that was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picked: Option<String>,
    /// Bytes of constants, before.
    pub bytes_before: u64,
    /// And after.
    pub bytes_after: u64,
    /// Measured error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rel_l2: Option<f64>,
    /// Why the exact op stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What there was to choose from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub considered: Vec<Considered>,
}

/// One of the expressions that would have done at a site.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Considered {
    /// Its name.
    pub name: String,
    /// Bytes of constants.
    pub bytes: u64,
    /// Nanoseconds by the target's cost model.
    pub ns: u64,
    /// Measured error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rel_l2: Option<f64>,
}

/// An encoded weight that the artifact holds decoded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoded {
    /// The value that reads it.
    pub site: String,
    /// The weight.
    pub weight: String,
    /// Bytes of its encoding.
    pub encoded: u64,
    /// Bytes that are stored instead.
    pub stored: u64,
}

impl Lock {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Lock> {
        let text = read_text(path)?;
        Lock::parse(&text).map_err(|d| d.into_iter().map(|d| d.in_file(path.display().to_string())).collect())
    }
    /// Reads a text.
    pub fn parse(text: &str) -> Result<Lock> {
        let lock: Lock = toml::from_str(text).map_err(|e| {
            let at = e.span().map_or(0, |s| s.start);
            vec![usage(format!("not a lock file: {}", e.message())).at_loc(&Loc::in_text(text, at))]
        })?;
        if lock.tersor != 1 {
            return Err(vec![usage(format!("a lock of version {}; this tersor reads version 1", lock.tersor))]);
        }
        Ok(lock)
    }
    /// Refuses another model, other calibration data, and a tool of another version; both are `blake3:hex`.
    pub fn agrees(&self, model: &str, calibration: Option<&str>) -> Result<()> {
        let data = self.calibration.as_ref().map_or("none", |c| &c.hash);
        let all = [
            ("tersor", &*self.tool, super::TOOL),
            ("model", &*self.model.hash, model),
            ("calibration", data, calibration.unwrap_or("none")),
        ];
        let other = all.into_iter().filter(|(_, locked, found)| locked != found);
        let errors: Vec<_> = other
            .map(|(what, locked, found)| usage(format!("the lock is for another {what}: {locked}, not {found}")))
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
    /// The file's text.
    pub fn text(&self) -> String {
        toml::to_string(self).expect("plain values")
    }
}

/// The decisions of all passes.
pub fn decisions(steps: &[tersor_passes::manager::Step]) -> Vec<Decision> {
    let considered = |c: &tersor_passes::choose::Considered| Considered {
        name: c.name.clone(),
        bytes: c.bytes as u64,
        ns: (c.seconds * 1e9).round() as u64,
        rel_l2: c.rel_l2.filter(|e| e.is_finite()),
    };
    let one = |s: &tersor_passes::manager::Step, d: &tersor_passes::choose::Decision| Decision {
        pass: s.pass.clone(),
        site: d.site.clone(),
        node: d.node.clone(),
        op: d.op.clone(),
        picked: d.picked.clone(),
        bytes_before: d.bytes_before as u64,
        bytes_after: d.bytes_after as u64,
        rel_l2: d.rel_l2.filter(|e| e.is_finite()),
        reason: d.reason.clone(),
        considered: d.considered.iter().map(considered).collect(),
    };
    steps.iter().flat_map(|s| s.decisions.iter().map(move |d| one(s, d))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_round_trip() {
        let lock = Lock {
            tersor: 1,
            tool: "0.1.0".into(),
            pipeline: "normalize".into(),
            targets: vec!["x86-64-v3".into()],
            samples: Some(8),
            seed: Some(3),
            model: Input { hash: "blake3:00".into(), bytes: Some(7) },
            bindings: Bindings { dims: [("N".to_string(), "1..8@4".to_string())].into(), ..Default::default() },
            calibration: None,
            plan: None,
            artifact: Input::default(),
            decisions: vec![Decision {
                pass: "quantize".into(),
                site: "fc".into(),
                node: None,
                op: "matmul".into(),
                picked: None,
                bytes_before: 1,
                bytes_after: 2,
                rel_l2: Some(0.5),
                reason: Some("too small".into()),
                considered: vec![Considered { name: "exact".into(), bytes: 1, ns: 5, rel_l2: None }],
            }],
            decoded: vec![Decoded { site: "fc".into(), weight: "w".into(), encoded: 1, stored: 4 }],
        };
        assert_eq!(Lock::parse(&lock.text()).unwrap(), lock);
        assert!(Lock::parse("x = 1").is_err());
        assert!(Lock::parse(&lock.text().replace("tersor = 1", "tersor = 2")).is_err());
    }
}
