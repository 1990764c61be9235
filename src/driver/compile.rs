//! From a model to an artifact with its lock, by way of the cache.

use super::lock::Input;
use super::{Bindings, Cache, Loaded, Result, Samples, Source, Watch, file_error, usage};
use std::path::{Path, PathBuf};
use tersor_backends::target::{self, Machine};
use tersor_frontend::ImportOptions;
use tersor_ir::{Diagnostic, Failure};
use tersor_passes::manager::{Decide, RunOptions};
use tersor_passes::pipeline::Pipeline;

/// What to compile and how.
pub struct CompileOptions<'a> {
    /// The model.
    pub model: &'a Path,
    /// The artifact to write.
    pub output: &'a Path,
    /// The passes.
    pub pipeline: &'a Pipeline,
    /// Extents and shapes.
    pub import: ImportOptions,
    /// `--dim` and `--shape` as they were written, for the lock.
    pub bindings: Bindings,
    /// Calibration.
    pub samples: Option<Samples>,
    /// Instruction sets.
    pub targets: Vec<&'static Machine>,
    /// How to run passes.
    pub run: RunOptions,
    /// Threads that generate code.
    pub threads: usize,
    /// Where finished artifacts are kept.
    pub cache: Option<Cache>,
    /// A lock that the result must agree with.
    pub locked: Option<super::Lock>,
    /// What the pipeline offers for the plan in `run`, where a search knows it already.
    pub offering: Option<super::Offering>,
}

/// What was written.
#[derive(Debug)]
pub struct Compiled {
    /// The artifact.
    pub artifact: PathBuf,
    /// Its lock.
    pub lock_path: PathBuf,
    /// What the lock says.
    pub lock: super::Lock,
    /// Whether it came from the cache.
    pub cached: bool,
    /// Bytes of the artifact.
    pub bytes: u64,
    /// Arena bytes of the variant named: at typical extents, and the least possible.
    pub arena: Vec<(String, u64, u64)>,
    /// Remarks and warnings.
    pub notes: Vec<Diagnostic>,
    /// Pass and module text, where asked for.
    pub printed: Vec<(String, String)>,
}

/// What a compilation that was not cached gives beside its files.
struct Built {
    lock: super::Lock,
    arena: Vec<(String, u64, u64)>,
    notes: Vec<Diagnostic>,
    printed: Vec<(String, String)>,
}

/// The targets of a list, at least one, the most capable first; all that there are when nothing is said.
pub fn targets(text: Option<&str>) -> Result<Vec<&'static Machine>> {
    let named = target::parse(text.unwrap_or("x86-64")).map_err(|d| vec![d])?;
    if named.is_empty() { Err(vec![usage("name a target")]) } else { Ok(named) }
}

/// `blake3:hex` of a model: the file, and its external data where it has some.
pub fn source_hash(loaded: &Loaded) -> Result<String> {
    let whole = |p: &Path| -> Result<blake3::Hash> {
        let mut h = blake3::Hasher::new();
        let file = std::fs::File::open(p).map_err(|e| vec![file_error(p, "read", &e)])?;
        h.update_reader(file).map_err(|e| vec![file_error(p, "read", &e)])?;
        Ok(h.finalize())
    };
    let mut h = blake3::Hasher::new();
    match &loaded.source {
        Source::Onnx(i) if i.external.is_empty() => return Ok(format!("blake3:{}", i.source_hash)),
        Source::Onnx(i) => {
            h.update(i.source_hash.as_bytes());
            for p in &i.external {
                h.update(whole(p)?.as_bytes());
            }
        }
        Source::Tir | Source::Artifact => {
            h.update(whole(&loaded.path)?.as_bytes());
            let weights = loaded.path.with_extension("tirw");
            if weights.exists() {
                h.update(whole(&weights)?.as_bytes());
            }
        }
    }
    Ok(format!("blake3:{}", h.finalize().to_hex()))
}

/// `NAME.lock.toml` beside `NAME.tsr`.
pub(crate) fn lock_path(output: &Path) -> PathBuf {
    output.with_extension("lock.toml")
}

/// Refuses outputs that cannot be or must not be written, before any work.
pub(crate) fn check_output(output: &Path, inputs: &[&Path]) -> Result<()> {
    let refuse = |message: String| Err(vec![Diagnostic::error("C0305", message).failure(Failure::File)]);
    if output.as_os_str() == "-" {
        let d = usage("this command does not write to standard output");
        return Err(vec![d.with_help("name a file with -o, or ./- for one of that name")]);
    }
    if output.is_dir() {
        return refuse(format!("{} is a folder; name a file", output.display()));
    }
    let folder = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return refuse(format!("the folder {} does not exist", folder.display()));
    }
    if let Ok(out) = output.canonicalize()
        && inputs.iter().any(|i| i.canonicalize().is_ok_and(|i| i == out))
    {
        return refuse(format!("{} is the input and would be overwritten", output.display()));
    }
    Ok(())
}

/// What a build says that has none.
pub(super) fn no_code_generator() -> Diagnostic {
    let d = Diagnostic::error("C0501", "this tersor was built without its code generator");
    d.failure(Failure::Target).with_help("build it with the feature `mlir`, or write IR with `tersor opt`")
}

/// Compiles a model to an artifact.
pub fn compile(options: &CompileOptions, watch: &Watch) -> Result<Compiled> {
    check_output(options.output, &[options.model])?;
    check_output(&lock_path(options.output), &[options.model])?;
    if !cfg!(feature = "mlir") {
        return Err(vec![no_code_generator()]);
    }
    let one = |d: Diagnostic| vec![d];
    let loaded = super::load_watched(options.model, &options.import, watch)?;
    if let Source::Artifact = loaded.source {
        let d = usage(format!("{} is an artifact already", options.model.display()));
        return Err(vec![d.with_help("compile the model that it was made from")]);
    }
    let hash = source_hash(&loaded)?;
    let calibration = options.samples.as_ref().map(Samples::digest).transpose()?;
    let draft = super::Lock {
        tersor: 1,
        tool: super::TOOL.into(),
        pipeline: options.pipeline.text(),
        targets: options.targets.iter().map(|m| m.isa.name().to_string()).collect(),
        samples: options.samples.as_ref().and_then(|s| s.limit),
        seed: options.samples.as_ref().map(|s| s.seed),
        model: Input {
            hash,
            bytes: if let Source::Onnx(i) = &loaded.source { Some(i.file_bytes as u64) } else { None },
        },
        bindings: options.bindings.clone(),
        calibration: calibration.map(|hash| Input { hash, bytes: None }),
        plan: if let Decide::Plan(p) = &options.run.decide { Some(p.picks.clone()) } else { None },
        artifact: Input::default(),
        decisions: vec![],
        decoded: vec![],
    };
    if let Some(l) = &options.locked {
        l.agrees(&draft.model.hash, draft.calibration.as_ref().map(|c| &*c.hash))?;
    }
    // Runs that print or stop between passes are not what a cache is for.
    let plain = options.run.print_after.is_empty() && options.run.stop_after.is_none();
    let cache = options.cache.as_ref().filter(|_| plain).zip(key(&draft, &loaded.module.name));
    let start = watch.begin("cache").map_err(one)?;
    let mut notes = loaded.notes;
    let (built, cached) = match cache.as_ref().and_then(|(c, key)| from_cache(c, key, options, watch)) {
        Some(lock) => {
            watch.done("cached", "", start);
            (Built { lock, arena: arenas(options.output)?, notes: vec![], printed: vec![] }, true)
        }
        None => {
            let built = build(loaded.module, draft, options, watch)?;
            if let Some((cache, key)) = &cache
                && let Err(e) = cache.put(key, &built.lock.text(), options.output)
            {
                notes.push(Diagnostic::warning("C0310", format!("the result is not kept in the cache: {e}")));
            }
            (built, false)
        }
    };
    let Built { lock, arena, notes: more, printed } = built;
    notes.extend(more);
    notes.extend(without_effect(&lock.decoded));
    if let Some(l) = options.locked.as_ref().filter(|l| l.artifact != lock.artifact) {
        let d = Diagnostic::error("C0311", "the artifact differs from the one that the lock describes");
        let d = d.with_note(format!("locked {}, made {}", l.artifact.hash, lock.artifact.hash));
        return Err(vec![d.failure(Failure::Gate)]);
    }
    let bytes = lock.artifact.bytes.unwrap_or_default();
    let path = options.output.to_path_buf();
    Ok(Compiled { artifact: path, lock_path: lock_path(options.output), lock, cached, bytes, arena, notes, printed })
}

/// Encodings that one warning names.
const NAMED: usize = 8;

/// Says which encodings save nothing in the artifact.
fn without_effect(decoded: &[super::lock::Decoded]) -> Option<Diagnostic> {
    if decoded.is_empty() {
        return None;
    }
    let (stored, encoded) = decoded.iter().fold((0, 0), |(s, e), d| (s + d.stored, e + d.encoded));
    let message = format!("{} encoded weights are stored decoded: {stored} B instead of {encoded} B", decoded.len());
    let note =
        |d: &super::lock::Decoded| format!("%{} reads {}: {} B instead of {} B", d.site, d.weight, d.stored, d.encoded);
    // Those that cost the most first; a file may have a great many small ones.
    let mut largest: Vec<_> = decoded.iter().collect();
    largest.sort_by_key(|d| std::cmp::Reverse(d.stored.saturating_sub(d.encoded)));
    let shown = largest.iter().take(NAMED);
    let mut d = shown.fold(Diagnostic::warning("C0312", message), |w, d| w.with_note(note(d)));
    if largest.len() > NAMED {
        d = d.with_note(format!("and {} more", largest.len() - NAMED));
    }
    Some(d.with_help("no kernel keeps these encodings; exclude the sites from the pass, or leave them to save nothing"))
}

/// What decides the artifact's bytes: the draft of the lock, the model's name, and this program.
fn key(draft: &super::Lock, name: &str) -> Option<blake3::Hash> {
    let mut h = blake3::Hasher::new();
    h.update_reader(std::fs::File::open(std::env::current_exe().ok()?).ok()?).ok()?;
    h.update(draft.text().as_bytes());
    h.update(name.as_bytes());
    Some(h.finalize())
}

fn from_cache(cache: &Cache, key: &blake3::Hash, options: &CompileOptions, watch: &Watch) -> Option<super::Lock> {
    use std::io::Write;
    let (text, artifact) = cache.get(key)?;
    if watch.max_memory().is_some() {
        let made = tersor_runtime::Artifact::from_bytes(&artifact).ok()?;
        fits(made.manifest(), watch).ok()?;
    }
    let lock = super::Lock::parse(&text).ok()?;
    let mut file = tersor_runtime::atomic::AtomicFile::create(options.output).ok()?;
    file.write_all(&artifact).ok()?;
    file.commit().ok()?;
    super::load::write_text(&lock_path(options.output), &text).ok()?;
    Some(lock)
}

/// What each variant of an artifact needs at typical extents, and the least possible.
fn arenas(path: &Path) -> Result<Vec<(String, u64, u64)>> {
    let artifact = tersor_runtime::Artifact::open(path).map_err(|e| vec![super::runtime_error(e)])?;
    let m = artifact.manifest();
    let plan = |v: &tersor_runtime::artifact::Variant| {
        let at = tersor_runtime::plan::at_hints(m, v).map_err(|e| vec![super::runtime_error(e)])?;
        Ok((v.name.clone(), at.peak, at.lower_bound))
    };
    m.variants.iter().map(plan).collect()
}

#[cfg(not(feature = "mlir"))]
fn build(_: tersor_ir::Module, _: super::Lock, _: &CompileOptions, _: &Watch) -> Result<Built> {
    unreachable!("refused above")
}

/// Refuses programs that no run within the limit of memory could end.
fn fits(manifest: &tersor_runtime::artifact::Manifest, watch: &Watch) -> Result<()> {
    let Some(most) = watch.max_memory() else { return Ok(()) };
    let over = |v: &tersor_runtime::artifact::Variant| match tersor_runtime::plan::run_bytes(manifest, v) {
        Ok(bytes) if bytes <= most => None,
        Ok(bytes) => Some(too_large(&v.name, bytes, most)),
        Err(e) => Some(super::runtime_error(e)),
    };
    let errors: Vec<Diagnostic> = manifest.variants.iter().filter_map(over).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn too_large(variant: &str, bytes: u64, most: u64) -> Diagnostic {
    use tersor_runtime::cli::bytes as shown;
    let message = format!("{variant}: a run takes {} at typical extents, more than {}", shown(bytes), shown(most));
    let d = Diagnostic::error("C0314", message).failure(Failure::Limit);
    d.with_help("raise --max-memory, or bind smaller extents with --dim")
}

#[cfg(feature = "mlir")]
fn build(module: tersor_ir::Module, mut lock: super::Lock, options: &CompileOptions, watch: &Watch) -> Result<Built> {
    use tersor_backends::compile;
    use tersor_runtime::ArtifactWriter;
    let one = |d: Diagnostic| vec![d];
    let runtime = |e| vec![super::runtime_error(e)];
    let isa = options.targets.first().ok_or_else(|| vec![usage("no target")])?.isa;
    let optimize = super::OptimizeOptions { isa, samples: options.samples.clone(), run: options.run.clone() };
    let optimized = match options.offering.clone() {
        Some(offering) => super::decide(offering, options.pipeline, &optimize, watch)?,
        None => super::optimize(module, options.pipeline, &optimize, watch)?,
    };
    lock.decisions = super::lock::decisions(&optimized.steps);
    let start = watch.begin("codegen").map_err(one)?;
    let backend = compile::Options {
        isas: options.targets.iter().map(|m| m.isa).collect(),
        threads: options.threads.max(1),
        tool: super::TOOL.into(),
        source: lock.model.hash.clone(),
        plan: plan_text(&lock.decisions),
        stop: watch.stop().clone(),
    };
    let mut writer = ArtifactWriter::create(options.output).map_err(runtime)?;
    let (manifest, reports) =
        compile::compile(optimized.module, &backend, &mut writer, &mut || watch.check()).map_err(one)?;
    watch.check().map_err(one)?;
    fits(&manifest, watch)?;
    for d in reports.iter().flat_map(|r| &r.decoded) {
        let (site, weight) = (d.site.clone(), d.weight.clone());
        let decoded = super::lock::Decoded { site, weight, encoded: d.encoded, stored: d.stored };
        if lock.decoded.iter().any(|l| l.weight == decoded.weight) {
            continue;
        }
        for decision in lock.decisions.iter_mut().filter(|l| l.site == d.site && l.picked.is_some()) {
            decision.bytes_after += d.stored - d.encoded;
        }
        lock.decoded.push(decoded);
    }
    let report = serde_json::to_vec(&lock.decisions).expect("plain values");
    writer.section(super::explain::REPORT, &report).map_err(runtime)?;
    let most = reports.iter().map(|r| r.kernels.len()).max().unwrap_or_default();
    let names: Vec<&str> = reports.iter().map(|r| r.isa.name()).collect();
    watch.done("codegen", format!("{most} kernels for {}", names.join(", ")), start);
    reports.iter().for_each(|r| describe(r, watch));
    writer.save(manifest).map_err(runtime)?;
    lock.artifact = hash_file(options.output)?;
    super::load::write_text(&lock_path(options.output), &lock.text())?;
    let arena = reports.iter().map(|r| (r.isa.name().into(), r.arena.0, r.arena.1)).collect();
    let mut built =
        Built { lock, arena, notes: super::optimize::warnings(&optimized.steps).collect(), printed: vec![] };
    for s in optimized.steps {
        built.printed.extend(s.text.map(|t| (s.pass, t)));
    }
    Ok(built)
}

/// What `-v` says of a variant, and `-vv` of its kernels.
#[cfg(feature = "mlir")]
fn describe(r: &tersor_backends::compile::VariantReport, watch: &Watch) {
    use tersor_runtime::cli::bytes;
    let (code, arena) = (bytes(r.code as u64), bytes(r.arena.0));
    watch.detail(
        1,
        format!("{}: {} steps, {} kernels, code {code}, arena {arena}", r.isa.name(), r.steps, r.kernels.len()),
    );
    for (kernel, calls) in &r.kernels {
        watch.detail(2, format!("{calls:>4} x {kernel}"));
    }
}

#[cfg(feature = "mlir")]
fn hash_file(path: &Path) -> Result<Input> {
    let error = |e: std::io::Error| vec![file_error(path, "read", &e)];
    let mut h = blake3::Hasher::new();
    h.update_reader(std::fs::File::open(path).map_err(error)?).map_err(error)?;
    let bytes = Some(h.count());
    Ok(Input { hash: format!("blake3:{}", h.finalize().to_hex()), bytes })
}

/// Which alternative stands at each site, for the artifact.
#[cfg(feature = "mlir")]
fn plan_text(decisions: &[super::lock::Decision]) -> String {
    let picks = decisions.iter().filter_map(|d| Some(format!("{}={}", d.site, d.picked.as_ref()?)));
    picks.collect::<Vec<_>>().join("\n")
}
