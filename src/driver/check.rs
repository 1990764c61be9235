//! Everything that there is to say about a model, at once: what is wrong with the file, what does not fit, what is not supported, what is odd.

use super::{Loaded, OptimizeOptions, Result, Source, Watch, runtime_error};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use tersor_backends::kernel::Isa;
use tersor_backends::lower;
use tersor_backends::target::Machine;
use tersor_frontend::ImportOptions;
use tersor_ir::diag::Severity;
use tersor_ir::dim::SymbolInfo;
use tersor_ir::{Diagnostic, Failure, Module};

/// What a finding is about.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Topic {
    /// A file that is damaged or asks for what no file may: paths, sizes, nesting, names.
    Security,
    /// Structure and operators: names, cycles, arguments.
    Graph,
    /// Extents and element types.
    Shape,
    /// What is valid and has no translation or no kernel.
    Support,
    /// What is legal and odd.
    Lint,
}

impl Topic {
    /// All of them, with their names.
    pub const ALL: [(Topic, &str); 5] = [
        (Topic::Security, "security"),
        (Topic::Graph, "graph"),
        (Topic::Shape, "shape"),
        (Topic::Support, "support"),
        (Topic::Lint, "lint"),
    ];

    /// What a diagnostic is about, by its code.
    pub fn of(d: &Diagnostic) -> Topic {
        if d.failure == Failure::Unsupported {
            return Topic::Support;
        }
        match d.code {
            "O0001" | "O0002" | "O0007" | "O0008" | "O0010" | "O0011" | "O0012" | "O0100" => Topic::Security,
            "O0023" | "O0027" | "O0028" | "O0040" | CONFIGURATION => Topic::Shape,
            "O0029" => Topic::Lint,
            c if c.starts_with("O01") => Topic::Lint,
            c if c.starts_with('O') || c.starts_with('P') => Topic::Graph,
            c if c.starts_with('T') => Topic::Shape,
            c if c.starts_with('R') => Topic::Security,
            c if c.starts_with('B') => Topic::Support,
            _ => Topic::Lint,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Topic::ALL.iter().find(|t| t.0 == self).map_or("", |t| t.1)
    }
}

/// Code of the remark about an extent without bounds.
const CONFIGURATION: &str = "C0602";

/// What was found.
#[derive(Debug)]
pub struct Checked {
    /// Errors, warnings and remarks, with what they are about.
    pub findings: Vec<(Topic, Diagnostic)>,
    /// The exit status of a compilation for these targets, as far as the findings tell.
    pub compile: u8,
}

impl Checked {
    /// Findings that are more than remarks.
    pub fn count(&self) -> usize {
        self.findings.iter().filter(|f| f.1.severity > Severity::Note).count()
    }
}

/// Checks a model for targets. Only what says nothing about the model is an error: no such file, a wrong option, a limit of time.
pub fn check(path: &Path, options: &ImportOptions, targets: &[&'static Machine], watch: &Watch) -> Result<Checked> {
    let start = watch.begin("import").map_err(|d| vec![d])?;
    let mut found = vec![];
    let module = read(path, options, &mut found)?;
    watch.done("import", "", start);
    if let Some((module, folded)) = module {
        found.extend(unbounded(&module));
        if folded {
            found.extend(supported(module, targets, watch)?);
        }
    }
    // Targets mostly lack the same.
    let mut seen = HashSet::new();
    found.retain(|d| seen.insert(d.to_string()));
    let errors = found.iter().filter(|d| d.severity == Severity::Error);
    let compile = errors.map(|d| d.failure.exit_code()).next().unwrap_or(0);
    Ok(Checked { findings: found.into_iter().map(|d| (Topic::of(&d), d)).collect(), compile })
}

/// Whether an error is about the request or the machine rather than the model.
fn foreign(d: &Diagnostic) -> bool {
    use Failure::*;
    matches!(d.failure, Usage | File | Internal | Interrupted | Target) || d.code.starts_with("R04")
}

/// Findings, unless one of them is about something else.
fn about(errors: Vec<Diagnostic>) -> Result<Vec<Diagnostic>> {
    if errors.iter().any(foreign) { Err(errors.into_iter().filter(foreign).collect()) } else { Ok(errors) }
}

/// Reads a model of any kind. Gives the module, and whether it can be compiled; none where there were errors.
fn read(path: &Path, options: &ImportOptions, found: &mut Vec<Diagnostic>) -> Result<Option<(Module, bool)>> {
    let path = super::load::resolve(path)?;
    match path.extension().and_then(|e| e.to_str()) {
        Some("tir" | "tsr") => {
            let loaded = match super::load(&path, options) {
                Ok(loaded) => loaded,
                Err(errors) => {
                    found.extend(about(errors)?);
                    return Ok(None);
                }
            };
            let Loaded { module, source, notes, .. } = loaded;
            found.extend(notes);
            let artifact = matches!(source, Source::Artifact);
            if artifact {
                let whole = tersor_runtime::Artifact::open(&path).and_then(|a| a.verify());
                found.extend(whole.err().map(runtime_error));
            }
            Ok(Some((module, !artifact)))
        }
        _ => {
            let checked = tersor_frontend::check(&path, options)?;
            found.extend(about(checked.findings)?);
            let Some(imported) = checked.imported else { return Ok(None) };
            let errors = tersor_ir::verify::verify(&imported.module);
            let sound = errors.is_empty();
            found.extend(errors);
            Ok(sound.then_some((imported.module, true)))
        }
    }
}

/// What targets have no code for once the exact passes have run.
fn supported(module: Module, targets: &[&'static Machine], watch: &Watch) -> Result<Vec<Diagnostic>> {
    let options = OptimizeOptions { isa: targets[0].isa, samples: None, run: Default::default() };
    let optimized = match super::optimize(module, &super::pipeline("lossless")?, &options, watch) {
        Ok(optimized) => optimized,
        Err(errors) => return about(errors),
    };
    let mut found: Vec<Diagnostic> = optimized.warnings().collect();
    watch.check().map_err(|d| vec![d])?;
    let isas: Vec<Isa> = targets.iter().map(|t| t.isa).collect();
    found.extend(lower::refused(optimized.module, &isas));
    about(found)
}

/// Remarks about extents that a compilation for known bounds would gain from.
fn unbounded(m: &Module) -> Vec<Diagnostic> {
    let caps = m.caps();
    let free = |(n, s): &(&Arc<str>, &SymbolInfo)| s.max == SymbolInfo::default().max && !caps.contains_key(*n);
    let symbols = m.symbols.iter().filter(free);
    symbols
        .map(|(name, _)| {
            let d = Diagnostic::note(CONFIGURATION, format!("extent {name} has no upper bound"));
            d.with_help(format!("--dim {name}=1..32@8 or --dim {name}=8 plans memory and kernels for less"))
        })
        .collect()
}
