//! What became of a site, and why: from the report inside an artifact, or from passes that just ran.

use super::lock::Decision;
use super::{Result, runtime_error, usage};
use serde::Serialize;
use std::path::Path;
use tersor_ir::Module;
use tersor_ir::text::print_node;
use tersor_passes::suggest::did_you_mean;
use tersor_runtime::Artifact;
use tersor_runtime::program::Action;

/// Name of the artifact's section that holds the decisions.
pub(super) const REPORT: &str = "report";

/// A site.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// Its name.
    pub site: String,
    /// The ONNX node that it comes from.
    pub node: Option<String>,
    /// The ops that make it now, as text.
    pub ops: Vec<String>,
    /// What the passes decided about it, in order.
    pub decisions: Vec<Decision>,
    /// The steps of an artifact that do its work.
    pub steps: Vec<KernelStep>,
}

/// A step of a variant.
#[derive(Clone, Debug, Serialize)]
pub struct KernelStep {
    /// The variant.
    pub variant: String,
    /// The step's name.
    pub step: String,
    /// Its kernel.
    pub kernel: String,
}

/// The decisions that an artifact was compiled with.
pub fn reported(artifact: &Artifact) -> Result<Vec<Decision>> {
    let bytes = artifact.section(REPORT).unwrap_or(b"[]");
    serde_json::from_slice(bytes).map_err(|e| vec![usage(format!("the artifact's report is not understood: {e}"))])
}

/// Explains a site of a module, which may be a value or an ONNX node.
pub fn explain(m: &Module, decisions: &[Decision], name: &str) -> Result<Explained> {
    let found: Vec<Decision> =
        decisions.iter().filter(|d| d.site == name || d.node.as_deref() == Some(name)).cloned().collect();
    let site = found.first().map_or(name, |d| &d.site).to_string();
    let (mut ops, mut known, mut node) = (vec![], vec![], found.iter().find_map(|d| d.node.clone()));
    for f in m.funcs.values() {
        for n in f.live_nodes() {
            let names = || f.nodes[n].results.iter().map(|&v| &*f.values[v].name);
            let origin = f.nodes[n].loc.onnx_node();
            let own = |v: &str| v.strip_prefix(&*site).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            if names().any(own) || origin == Some(name) {
                ops.push(print_node(f, n));
                node = node.or(origin.map(str::to_string));
            }
            known.extend(names().map(str::to_string));
        }
    }
    if ops.is_empty() && found.is_empty() {
        let sites: Vec<&str> = if decisions.is_empty() {
            known.iter().map(String::as_str).collect()
        } else {
            decisions.iter().map(|d| &*d.site).collect()
        };
        let d = usage(format!("there is no site `{name}`"));
        return Err(vec![d.with_help(did_you_mean(name, &sites))]);
    }
    Ok(Explained { site, node, ops, decisions: found, steps: vec![] })
}

/// Explains a site of an artifact whose module is `m`.
pub fn explain_artifact(path: &Path, m: &Module, name: &str) -> Result<Explained> {
    let artifact = Artifact::open(path).map_err(|e| vec![runtime_error(e)])?;
    let mut out = explain(m, &reported(&artifact)?, name)?;
    for v in &artifact.manifest().variants {
        for s in v.program.steps.iter().filter(|s| s.name == out.site || Some(&s.name) == out.node.as_ref()) {
            if let Some(Action::Call(c)) = &s.action {
                let kernel = v.kernels[c.kernel as usize].name.clone();
                out.steps.push(KernelStep { variant: v.name.clone(), step: s.name.clone(), kernel });
            }
        }
    }
    Ok(out)
}
