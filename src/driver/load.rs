//! Models from files: ONNX, `.tir` with its weights beside it, the module inside an artifact, or a folder that holds one model.

use super::{Result, Watch, file_error, runtime_error, usage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tersor_frontend::{DimBinding, ImportOptions, Imported};
use tersor_ir::store::ConstStore;
use tersor_ir::{Diagnostic, Failure, Module};
use tersor_runtime::atomic::{AtomicFile, Temporary};

/// Bytes by which the kind of what standard input holds is told.
const HEAD: u64 = 16;

/// Where a module comes from.
#[derive(Debug)]
pub enum Source {
    /// An ONNX file; the module is not in it.
    Onnx(Box<Imported>),
    /// Text.
    Tir,
    /// An artifact. Its module lacks the elements of large constants.
    Artifact,
}

/// A module and its origin.
#[derive(Debug)]
pub struct Loaded {
    /// The file, where a folder was named the model in it.
    pub path: PathBuf,
    /// The module as it is in the file.
    pub module: Module,
    /// What it was read from.
    pub source: Source,
    /// Remarks and warnings.
    pub notes: Vec<Diagnostic>,
}

impl Loaded {
    /// How many ops the module has.
    pub fn ops(&self) -> usize {
        self.module.funcs.values().map(|f| f.live_nodes().len()).sum()
    }
}

/// What the command line binds at the import, as it was written.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct Bindings {
    /// `--dim`.
    #[serde(default)]
    pub dims: BTreeMap<String, String>,
    /// `--shape`.
    #[serde(default)]
    pub shapes: BTreeMap<String, String>,
    /// `--value`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
    /// `--length`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lengths: BTreeMap<String, String>,
}

/// Reads an ONNX model.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Imported> {
    tersor_frontend::import(path, options)
}

/// What standard input holds, in a file: an artifact, the text of a module, or else an ONNX model without external data.
fn spooled() -> Result<PathBuf> {
    static SPOOL: OnceLock<std::result::Result<Temporary, Diagnostic>> = OnceLock::new();
    let spool = || {
        let cannot = |e| file_error(Path::new("-"), "read", &e);
        let mut head = vec![];
        let mut input = io::stdin().lock();
        input.by_ref().take(HEAD).read_to_end(&mut head).map_err(cannot)?;
        let text = |b: &u8| b.is_ascii_graphic() || b.is_ascii_whitespace();
        let extension = match &head {
            h if h.starts_with(&tersor_runtime::artifact::MAGIC) => "tsr",
            h if !h.is_empty() && h.iter().all(text) => "tir",
            _ => "onnx",
        };
        let out = Temporary::new(extension);
        let file = File::options().write(true).create_new(true).open(out.path());
        let copied = file.and_then(|mut f| io::copy(&mut head.chain(input), &mut f));
        copied.map_err(|e| file_error(out.path(), "write", &e))?;
        Ok(out)
    };
    SPOOL.get_or_init(spool).as_ref().map(|t| t.path().into()).map_err(|d| vec![d.clone()])
}

/// The model that a path names: the file, the only model in a folder, or for `-` what standard input holds.
pub(super) fn resolve(path: &Path) -> Result<PathBuf> {
    if path.as_os_str() == "-" {
        return spooled();
    }
    let meta = std::fs::metadata(path).map_err(|e| vec![file_error(path, "read", &e)])?;
    if meta.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|e| vec![file_error(path, "read", &e)])?;
        let mut models: Vec<PathBuf> =
            entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "onnx")).collect();
        models.sort();
        return match models.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(vec![usage(format!("{} holds no .onnx file", path.display()))]),
            many => {
                let names: Vec<String> = many.iter().map(|p| p.display().to_string()).collect();
                let d = usage(format!("{} holds {} models", path.display(), many.len()));
                Err(vec![d.with_help(format!("name one: {}", names.join(", ")))])
            }
        };
    }
    if !meta.is_file() {
        let d = Diagnostic::error("C0302", format!("{} is not a regular file", path.display()));
        return Err(vec![d.failure(Failure::Model)]);
    }
    Ok(path.to_path_buf())
}

/// Reads a model of any kind.
pub fn load(path: &Path, options: &ImportOptions) -> Result<Loaded> {
    let path = resolve(path)?;
    let shown = path.display().to_string();
    let in_file = |errors: Vec<Diagnostic>| errors.into_iter().map(|d| d.in_file(&*shown)).collect::<Vec<_>>();
    let (module, source, notes) = match path.extension().and_then(|e| e.to_str()) {
        Some("tir") => {
            let text = std::fs::read_to_string(&path).map_err(|e| vec![file_error(&path, "read", &e)])?;
            let store = load_weights(&path)?;
            let mut module = tersor_ir::text::parse(&text, &store).map_err(in_file)?;
            verified(&module).map_err(in_file)?;
            bind(&mut module, options)?;
            (module, Source::Tir, vec![])
        }
        Some("tsr") => {
            let artifact = tersor_runtime::Artifact::open(&path).map_err(|e| vec![runtime_error(e.context(&shown))])?;
            let text = artifact.section("tir").and_then(|s| std::str::from_utf8(s).ok()).ok_or_else(|| {
                vec![Diagnostic::error("C0303", format!("{shown} holds no module")).failure(Failure::Unsupported)]
            })?;
            let mut module = tersor_ir::text::parse(text, &ConstStore::default()).map_err(in_file)?;
            bind(&mut module, options)?;
            (module, Source::Artifact, vec![])
        }
        _ => {
            let mut imported = import(&path, options)?;
            verified(&imported.module).map_err(in_file)?;
            let module = std::mem::take(&mut imported.module);
            let notes = std::mem::take(&mut imported.notes);
            (module, Source::Onnx(Box::new(imported)), notes)
        }
    };
    Ok(Loaded { path, module, source, notes })
}

/// The weights beside a `.tir` file; none when there is no such file.
pub fn load_weights(tir: &Path) -> Result<ConstStore> {
    let path = tir.with_extension("tirw");
    if path.exists() { ConstStore::open(&path).map_err(|d| vec![d]) } else { Ok(ConstStore::default()) }
}

/// Writes a module as text, and its weights beside it.
pub fn write_module(m: &Module, path: &Path) -> Result<()> {
    write_file(&path.with_extension("tirw"), |out| ConstStore::write(m, out))?;
    write_text(path, &tersor_ir::text::print(m))
}

/// Reads a model as the first step of a run.
pub fn load_watched(path: &Path, options: &ImportOptions, watch: &Watch) -> Result<Loaded> {
    let start = watch.begin("import").map_err(|d| vec![d])?;
    let loaded = load(path, options)?;
    watch.done("import", format!("{} ops", loaded.ops()), start);
    Ok(loaded)
}

/// Most bytes of a text that is read whole: a plan or lock has a line for each site and alternative.
const TEXT_BYTES: usize = 64 << 20;

/// The text of a file that a command line names.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let failed = |e: io::Error| {
        let d = file_error(path, "read", &e);
        let unfit = matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::FileTooLarge);
        vec![if unfit { d.failure(Failure::Usage) } else { d }]
    };
    tersor_passes::pipeline::read_text(path, TEXT_BYTES).map_err(failed)
}

/// Writes a text that appears whole or not at all.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<()> {
    write_file(path, |out| out.write_all(text.as_bytes()))
}

/// Writes a file that appears whole or not at all.
pub(crate) fn write_file(path: &Path, write: impl FnOnce(&mut BufWriter<AtomicFile>) -> io::Result<()>) -> Result<()> {
    let runtime = |e| vec![runtime_error(e)];
    let mut out = BufWriter::new(AtomicFile::create(path).map_err(runtime)?);
    let written = write(&mut out).and_then(|()| out.into_inner().map_err(io::IntoInnerError::into_error));
    written.map_err(|e| vec![file_error(path, "write", &e)])?.commit().map_err(runtime)
}

fn verified(m: &Module) -> Result<()> {
    let errors = tersor_ir::verify::verify(m);
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Bounds from the command line for a module whose types are settled: ranges narrow symbols, numbers are ranges of one.
fn bind(m: &mut Module, options: &ImportOptions) -> Result<()> {
    if !options.shapes.is_empty() {
        return Err(vec![usage("--shape works on ONNX models only").with_help("use --dim NAME=MIN..MAX@TYPICAL")]);
    }
    if !options.values.is_empty() || !options.lengths.is_empty() {
        return Err(vec![usage("--value and --length work on ONNX models only: they decide how those are read")]);
    }
    unknown_dims(m, options)?;
    for (name, info) in &mut m.symbols {
        match options.dims.get(&**name) {
            Some(DimBinding::Range(r)) => *info = *r,
            Some(&DimBinding::Fixed(n)) => *info = tersor_ir::dim::SymbolInfo { min: n, max: n, hint: n },
            Some(DimBinding::Multiple(..)) => {
                return Err(vec![usage(format!("--dim {name}: multiples work on ONNX models only"))]);
            }
            None => {}
        }
    }
    Ok(())
}

/// An extent that the module does not have is an error.
fn unknown_dims(m: &Module, options: &ImportOptions) -> Result<()> {
    let decided = m.caps();
    let known: Vec<&str> = m.symbols.keys().filter(|s| !decided.contains_key(*s)).map(|s| &**s).collect();
    let unknown = options.dims.keys().filter(|n| !known.contains(&n.as_str()));
    let errors: Vec<Diagnostic> = unknown
        .map(|n| {
            usage(format!("--dim {n}: the model has no such dynamic extent"))
                .with_help(tersor_passes::suggest::did_you_mean(n, &known))
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
