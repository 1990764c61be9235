//! Arguments that several commands share, and their meaning.

use super::Outcome;
use super::report::Reporter;
use crate::driver::{
    Bindings, Cache, CompileOptions, FIGURES, Limits, Loaded, Lock, OptimizeOptions, Result, Samples, check_output,
    compile, load, pipeline, targets,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tersor_backends::target::Machine;
use tersor_frontend::{DimBinding, Given, ImportOptions};
use tersor_ir::dim::SymbolInfo;
use tersor_ir::plan::Plan;
use tersor_ir::{Diagnostic, Failure};
use tersor_passes::manager::Decide;
use tersor_passes::pipeline::Pipeline;
use tersor_runtime::atomic::Temporary;

/// What is said of the model when it is read: `--dim`, `--shape`, `--value`, `--length`, `--limit` and `--strict-files`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ShapeArgs {
    /// A dynamic extent: NAME=N, bounds and a typical value, NAME=MIN..MAX@TYPICAL, or a multiple, NAME=32*OTHER.
    #[arg(long = "dim", value_name = "NAME=VALUE")]
    pub dims: Vec<String>,
    /// An input's shape, NAME=1x3x224x224.
    #[arg(long = "shape", value_name = "NAME=SHAPE")]
    #[arg(hide_short_help = true)]
    pub shapes: Vec<String>,
    /// An input's elements, NAME=0,1,2: the input becomes a constant, as what decides shapes must be.
    #[arg(long = "value", value_name = "NAME=NUMBERS")]
    #[arg(hide_short_help = true)]
    pub values: Vec<String>,
    /// How many elements a sequence has that is an input, NAME=3; of an optional input 1, or NAME=none.
    #[arg(long = "length", value_name = "NAME=NUMBER")]
    #[arg(hide_short_help = true)]
    pub lengths: Vec<String>,
    #[command(flatten)]
    pub limits: FileLimitArgs,
}

/// What is accepted of a model file.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct FileLimitArgs {
    /// A limit on what is read, NAME=NUMBER, such as nodes=10000; tersor check lists them with their values.
    #[arg(long = "limit", value_name = "NAME=NUMBER")]
    #[arg(hide_short_help = true)]
    pub limits: Vec<String>,
    /// Refuse external data in files that are links or have further names (hard links).
    #[arg(long)]
    #[arg(hide_short_help = true)]
    pub strict_files: bool,
}

impl FileLimitArgs {
    /// Options of the import.
    pub fn options(&self) -> Result<ImportOptions> {
        let mut out = ImportOptions { strict_files: self.strict_files, ..Default::default() };
        for (name, value) in pairs("--limit", &self.limits)? {
            let wrong =
                || usage(format!("--limit {name}={value} is not understood")).with_help("write --limit nodes=10000");
            let number = value.parse().map_err(|_| vec![wrong()])?;
            out.limits.set(&name, number).map_err(|d| vec![d])?;
        }
        Ok(out)
    }
}

/// NAME=VALUE items of a flag.
fn pairs(flag: &str, items: &[String]) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for item in items {
        let pair = item.split_once('=');
        let (name, value) = pair.ok_or_else(|| vec![usage(format!("{flag} {item} is not NAME=VALUE"))])?;
        if out.insert(name.to_string(), value.to_string()).is_some() {
            return Err(vec![usage(format!("{flag} {name} is given twice"))]);
        }
    }
    Ok(out)
}

impl ShapeArgs {
    /// Options of the import, with those of a pipeline file where none are given here.
    pub fn options(&self, file: &[(String, String)]) -> Result<ImportOptions> {
        let Bindings { dims, shapes, values, lengths } = self.written(file)?;
        let bad = |flag: &str, (name, value): (&String, &String), help: &str| {
            vec![usage(format!("{flag} {name}={value} is not understood")).with_help(help)]
        };
        let mut out = self.limits.options()?;
        for d in &dims {
            let help = "write --dim batch=8, --dim batch=1..32, --dim batch=1..32@8 or --dim height=32*rows";
            out.dims.insert(d.0.clone(), parse_dim(d.1).ok_or_else(|| bad("--dim", d, help))?);
        }
        for s in &shapes {
            let extents: Option<Vec<i64>> = s.1.split('x').map(|n| n.parse().ok().filter(|&n: &i64| n >= 0)).collect();
            out.shapes.insert(s.0.clone(), extents.ok_or_else(|| bad("--shape", s, "write --shape x=1x3x224x224"))?);
        }
        for v in &values {
            let elements: Option<Vec<f64>> = match v.1.is_empty() {
                true => Some(vec![]),
                false => v.1.split(',').map(|n| n.trim().parse().ok()).collect(),
            };
            let elements = elements.ok_or_else(|| bad("--value", v, "write --value axes=0,1"))?;
            out.values.insert(v.0.clone(), Given::Numbers(elements));
        }
        for l in &lengths {
            let length = if l.1 == "none" { Some(None) } else { l.1.parse().ok().map(Some) };
            out.lengths.insert(
                l.0.clone(),
                length.ok_or_else(|| bad("--length", l, "write --length x=3 or --length x=none"))?,
            );
        }
        Ok(out)
    }
    /// Bindings as they were written.
    pub fn written(&self, file: &[(String, String)]) -> Result<Bindings> {
        let mut dims: BTreeMap<String, String> = file.iter().cloned().collect();
        dims.extend(pairs("--dim", &self.dims)?);
        let (shapes, values) = (pairs("--shape", &self.shapes)?, pairs("--value", &self.values)?);
        Ok(Bindings { dims, shapes, values, lengths: pairs("--length", &self.lengths)? })
    }
    /// These; of a kind that is not given at all those of a file.
    pub fn or(&self, file: &Bindings) -> ShapeArgs {
        let one = |given: &Vec<String>, file: &BTreeMap<String, String>| match given.is_empty() {
            true => file.iter().map(|(n, v)| format!("{n}={v}")).collect(),
            false => given.clone(),
        };
        ShapeArgs {
            dims: one(&self.dims, &file.dims),
            shapes: one(&self.shapes, &file.shapes),
            values: one(&self.values, &file.values),
            lengths: one(&self.lengths, &file.lengths),
            limits: self.limits.clone(),
        }
    }
}

/// How far outputs may be apart.
#[derive(clap::Args, Clone, Debug)]
pub struct ToleranceArgs {
    /// Relative tolerance of an element.
    #[arg(long, default_value_t = 1e-3)]
    pub rtol: f64,
    /// Absolute tolerance of an element.
    #[arg(long, default_value_t = 1e-4)]
    pub atol: f64,
    /// Limits on figures instead of tolerances: rel-l2=0.01,max-abs=0.1,top1=0.5%.
    #[arg(long, value_name = "FIGURE=LIMIT", value_delimiter = ',')]
    pub max: Vec<String>,
}

impl ToleranceArgs {
    /// What they mean.
    pub fn limits(&self) -> Result<Limits> {
        let one = |t: &String| {
            let (name, value) = t.split_once('=')?;
            let (number, scale) = value.strip_suffix('%').map_or((value, 1.0), |n| (n, 0.01));
            let limit = number.parse::<f64>().ok()? * scale;
            FIGURES.contains(&name).then(|| (name.to_string(), limit))
        };
        let understood = |t: &String| {
            one(t).ok_or_else(|| {
                let help = format!("write FIGURE=LIMIT; figures are {}", FIGURES.join(", "));
                vec![usage(format!("--max {t} is not understood")).with_help(help)]
            })
        };
        let max = self.max.iter().map(understood).collect::<Result<_>>()?;
        Ok(Limits { rtol: self.rtol, atol: self.atol, max })
    }
}

/// Refuses a result on standard output where the document of `--json` is to be.
pub fn stdout_is_free(reporter: &Reporter) -> Result<()> {
    match reporter.globals().json {
        None => Ok(()),
        Some(_) => Err(vec![usage("-o - and --json both take standard output").with_help("name a file with -o")]),
    }
}

/// An artifact that goes with the process, and its lock.
pub fn temporary_artifact() -> [Temporary; 2] {
    let artifact = Temporary::new("tsr");
    let lock = artifact.with_extension("lock.toml");
    [artifact, lock]
}

/// An artifact to run: the file, or where that is a model one that it is compiled to, exactly and for this machine, while the files beside the path are kept.
pub fn runnable(path: &Path, reporter: &Reporter) -> Result<(PathBuf, Option<[Temporary; 2]>)> {
    let is_model = path.is_dir() || path.extension().is_some_and(|e| e == "onnx" || e == "tir");
    if !is_model {
        return Ok((path.to_path_buf(), None));
    }
    let files = temporary_artifact();
    let build = BuildArgs { model: Some(path.to_path_buf()), target: Some("native".into()), ..BuildArgs::default() };
    let pipeline = build.pipeline.or("lossless")?;
    let options = CompileOptions {
        model: path,
        output: files[0].path(),
        pipeline: &pipeline,
        import: build.import(&pipeline)?,
        bindings: Bindings::default(),
        samples: None,
        targets: build.targets(&pipeline)?,
        run: build.pipeline.run(),
        threads: build.threads(),
        cache: Cache::of_user(),
        locked: None,
        offering: None,
    };
    reporter.watch(|watch| compile(&options, watch))?;
    Ok((files[0].path().to_path_buf(), Some(files)))
}

/// An option that did nothing.
pub fn no_effect(option: &str, why: &str) -> Diagnostic {
    Diagnostic::warning("C0003", format!("{option} had no effect: {why}"))
}

/// A wrong argument.
pub fn usage(message: impl Into<String>) -> Diagnostic {
    Diagnostic::error("C0002", message).failure(Failure::Usage)
}

/// `8`, `1..32`, `1..32@8`, `1..`, `32*rows`.
fn parse_dim(text: &str) -> Option<DimBinding> {
    if let Ok(n) = text.parse::<i64>() {
        return (n >= 0).then_some(DimBinding::Fixed(n));
    }
    if let Some((factor, other)) = text.split_once('*') {
        let name = |c: char| c.is_ascii_alphanumeric() || "_.".contains(c);
        let fits = !other.starts_with(|c: char| c.is_ascii_digit()) && !other.is_empty() && other.chars().all(name);
        let factor = factor.parse::<i64>().ok().filter(|n| *n > 0)?;
        return fits.then(|| DimBinding::Multiple(factor, other.into()));
    }
    let (range, hint) = match text.split_once('@') {
        Some((range, hint)) => (range, Some(hint.parse::<i64>().ok()?)),
        None => (text, None),
    };
    let (min, max) = range.split_once("..")?;
    let unbounded = SymbolInfo::default();
    let min = if min.is_empty() { unbounded.min } else { min.parse().ok()? };
    let max = if max.is_empty() { unbounded.max } else { max.parse().ok()? };
    let hint = hint.unwrap_or(if max == unbounded.max { min.max(1) } else { max });
    (0 <= min && min <= max && (min..=max).contains(&hint)).then_some(DimBinding::Range(SymbolInfo { min, max, hint }))
}

/// `--pipeline`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct PipelineArgs {
    /// Passes such as normalize,quantize{acts=dynamic}; a preset (tersor passes); or a .toml file.
    #[arg(short, long, value_name = "PIPELINE")]
    pub pipeline: Option<String>,
    /// Print the IR after this pass.
    #[arg(long, value_name = "PASS")]
    #[arg(hide_short_help = true)]
    pub print_after: Vec<String>,
    /// Run no more than so many passes.
    #[arg(long, value_name = "N")]
    #[arg(hide_short_help = true)]
    pub stop_after: Option<usize>,
    /// Let selectors match nothing.
    #[arg(long)]
    #[arg(hide_short_help = true)]
    pub allow_empty_selector: bool,
    /// Calibrate each site on what the sites before it became, not on the exact model: slower, and often nearer.
    #[arg(long)]
    #[arg(hide_short_help = true)]
    pub sequential: bool,
    /// Who decides, where a plan or lock says so.
    #[arg(skip)]
    pub decide: Decide,
}

impl PipelineArgs {
    /// The passes; those of `preset` where nothing is said.
    pub fn or(&self, preset: &str) -> Result<Pipeline> {
        pipeline(self.pipeline.as_deref().unwrap_or(preset))
    }
    /// How to run them.
    pub fn run(&self) -> tersor_passes::manager::RunOptions {
        tersor_passes::manager::RunOptions {
            print_after: self.print_after.clone(),
            stop_after: self.stop_after,
            allow_empty_selector: self.allow_empty_selector,
            sequential: self.sequential,
            decide: self.decide.clone(),
            ..Default::default()
        }
    }
}

/// `--calib`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct CalibArgs {
    /// Calibration data, in any form of --inputs; or a .stats file of tersor calibrate.
    #[arg(long, value_name = "DATA")]
    pub calib: Option<PathBuf>,
    /// Use no more samples than this.
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// Seed for whatever is drawn at random; 0 where nothing is said.
    #[arg(long, value_name = "N")]
    #[arg(hide_short_help = true)]
    pub seed: Option<u64>,
    /// The most that Gram matrices may take in memory; 4G where nothing is said.
    #[arg(long, value_name = "SIZE", value_parser = tersor_runtime::cli::limits::parse_size)]
    #[arg(hide_short_help = true)]
    pub gram_memory: Option<u64>,
}

/// What becomes a program: a model, the passes on it, calibration data, extents, targets.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct BuildArgs {
    /// An ONNX model, a folder with one, or a .tir file; a pipeline file may name it instead.
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    #[command(flatten)]
    pub calib: CalibArgs,
    #[command(flatten)]
    pub shapes: ShapeArgs,
    /// Targets, such as native or x86-64-v3,x86-64+amx; all x86-64 ones where nothing is said. The costs of the most capable one decide.
    #[arg(long, value_name = "LIST")]
    pub target: Option<String>,
    /// Threads that work; all CPUs where nothing is said.
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

impl BuildArgs {
    /// The model, from here or from the pipeline file.
    pub fn model(&self, file: &Pipeline) -> Result<PathBuf> {
        let model = self.model.clone().or_else(|| file.model.as_ref().map(PathBuf::from));
        model.ok_or_else(|| vec![usage("name a model")])
    }
    /// What a lock asks for: its passes, targets, extents and plan, on the model and data given here.
    pub fn locked(&self, lock: &Lock) -> BuildArgs {
        let decide = lock.plan.clone().map_or(Decide::Each, |picks| Decide::Plan(Plan { picks }));
        BuildArgs {
            pipeline: PipelineArgs { pipeline: Some(lock.pipeline.clone()), decide, ..self.pipeline.clone() },
            calib: CalibArgs {
                samples: self.calib.samples.or(lock.samples),
                seed: self.calib.seed.or(lock.seed),
                ..self.calib.clone()
            },
            shapes: ShapeArgs::default().or(&lock.bindings),
            target: Some(lock.targets.join(",")),
            ..self.clone()
        }
    }
    /// The same with what a pipeline file says beside its budget, where nothing is said here: the file itself is needed no more.
    pub fn filled(&self, file: &Pipeline) -> Result<BuildArgs> {
        let (here, there) = (&self.calib, &file.calibration);
        let calib = CalibArgs {
            calib: here.calib.clone().or_else(|| there.data.as_ref().map(PathBuf::from)),
            samples: here.samples.or(there.samples.map(|n| n as usize)),
            seed: here.seed.or(there.seed),
            ..here.clone()
        };
        let listed = (!file.targets.is_empty()).then(|| file.targets.join(","));
        Ok(BuildArgs {
            model: Some(self.model(file)?),
            pipeline: PipelineArgs { pipeline: Some(file.text()), ..self.pipeline.clone() },
            calib,
            shapes: ShapeArgs { limits: self.shapes.limits.clone(), ..Default::default() }
                .or(&self.shapes.written(&file.dims)?),
            target: self.target.clone().or(listed),
            threads: self.threads,
        })
    }
    /// Options of the import.
    pub fn import(&self, file: &Pipeline) -> Result<ImportOptions> {
        self.shapes.options(&file.dims)
    }
    /// The targets, from here or from the pipeline file.
    pub fn targets(&self, file: &Pipeline) -> Result<Vec<&'static Machine>> {
        let listed = (!file.targets.is_empty()).then(|| file.targets.join(","));
        targets(self.target.as_deref().or(listed.as_deref()))
    }
    /// Threads that work.
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(all_threads, usize::from)
    }
    /// The samples, from here or from the pipeline file.
    pub fn samples(&self, file: &Pipeline) -> Option<Samples> {
        let (here, there) = (&self.calib, &file.calibration);
        let path = here.calib.clone().or_else(|| there.data.as_ref().map(PathBuf::from))?;
        let limit = here.samples.or(there.samples.map(|n| n as usize));
        let seed = here.seed.or(there.seed).unwrap_or(0);
        let most = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let gram_bytes = here.gram_memory.map_or(tersor_passes::calibrate::GRAM_BYTES, most);
        Some(Samples { path, limit, seed, threads: self.threads(), gram_bytes })
    }
    /// The same for a result that has room for one target: that of this machine where none is named.
    pub fn for_one_target(&self, file: &Pipeline) -> Result<BuildArgs> {
        let mut out = self.clone();
        if self.target.is_none() && file.targets.is_empty() {
            out.target = Some("native".into());
        }
        match out.targets(file)?.len() {
            1 => Ok(out),
            n => Err(vec![
                usage(format!("this form has code for one target, not for {n}")).with_help("name it with --target"),
            ]),
        }
    }
    /// Refuses outputs that cannot be written, or are what is read.
    pub fn check_outputs(&self, file: &Pipeline, outputs: &[&Path]) -> Result<()> {
        let pipeline = self.pipeline.pipeline.as_ref().filter(|p| p.ends_with(".toml")).map(PathBuf::from);
        let read = [Some(self.model(file)?), self.samples(file).map(|s| s.path), pipeline];
        let read: Vec<&Path> = read.iter().flatten().map(PathBuf::as_path).collect();
        outputs.iter().try_for_each(|o| check_output(o, &read))
    }
    /// What would be done to write `outputs`, after a check of everything that is named.
    pub fn dry_run(&self, file: &Pipeline, outputs: &[&Path]) -> Result<Outcome> {
        let (model, targets) = (self.model(file)?, self.targets(file)?);
        self.check_outputs(file, outputs)?;
        let loaded = load(&model, &self.import(file)?)?;
        let names: Vec<&str> = targets.iter().map(|t| t.isa.name()).collect();
        let mut text = format!("would build  {}, {} ops, for {}\n", model.display(), loaded.ops(), names.join(", "));
        for pass in &file.passes {
            text += &format!("  pass       {}\n", pass.text);
        }
        let mut samples = None;
        if let Some(s) = self.samples(file) {
            let n = s.count(&loaded.module)?;
            text += &format!("  calibrate  {n} samples from {}\n", s.path.display());
            samples = Some(n);
        }
        outputs.iter().for_each(|o| text += &format!("would write  {}\n", o.display()));
        let passes: Vec<&str> = file.passes.iter().map(|p| p.text.as_str()).collect();
        let data = json!({
            "dry_run": true, "output": outputs.first(), "files": outputs, "passes": passes, "targets": names, "samples": samples,
        });
        Ok(Outcome { data, text, diagnostics: loaded.notes, ..Outcome::default() })
    }
    /// How to run the passes.
    pub fn optimize(&self, file: &Pipeline) -> Result<OptimizeOptions> {
        Ok(OptimizeOptions { isa: self.targets(file)?[0].isa, samples: self.samples(file), run: self.pipeline.run() })
    }
}

/// Reads a model within the limits of the command, and gives its notes to `notes`.
pub fn load_model(
    path: &Path,
    shapes: &ShapeArgs,
    limits: &tersor_runtime::limits::Limits,
    notes: &mut Vec<Diagnostic>,
) -> Result<Loaded> {
    let mut loaded = load(path, &shapes.options(&[])?)?;
    limits.check().map_err(|e| vec![crate::driver::runtime_error(e)])?;
    notes.append(&mut loaded.notes);
    Ok(loaded)
}

/// How many threads to use where nothing is said.
pub fn all_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_read() {
        let range = |min, max, hint| Some(DimBinding::Range(SymbolInfo { min, max, hint }));
        assert_eq!(parse_dim("8"), Some(DimBinding::Fixed(8)));
        assert_eq!(parse_dim("1..32@8"), range(1, 32, 8));
        assert_eq!(parse_dim("1..32"), range(1, 32, 32));
        assert_eq!(parse_dim("2.."), range(2, i64::from(i32::MAX), 2));
        assert_eq!(parse_dim("32*rows"), Some(DimBinding::Multiple(32, "rows".into())));
        for bad in ["", "-1", "3..2", "1..32@64", "a..b", "1@2", "0*n", "-2*n", "2*", "2*3", "n*2", "2*n+1"] {
            assert_eq!(parse_dim(bad), None, "{bad}");
        }
    }
}
