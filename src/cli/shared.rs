//! Arguments that several commands share, and their meaning.

use crate::driver::{Loaded, Result, Samples, load, pipeline};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tersor_frontend::{DimBinding, ImportOptions};
use tersor_ir::dim::SymbolInfo;
use tersor_ir::{Diagnostic, Failure};
use tersor_passes::pipeline::Pipeline;

/// `--dim` and `--shape`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ShapeArgs {
    /// A dynamic extent: NAME=N, or bounds and a typical value, NAME=MIN..MAX@TYPICAL.
    #[arg(long = "dim", value_name = "NAME=VALUE")]
    pub dims: Vec<String>,
    /// An input's shape, NAME=1x3x224x224.
    #[arg(long = "shape", value_name = "NAME=SHAPE")]
    pub shapes: Vec<String>,
}

impl ShapeArgs {
    /// Options of the import, with those of a pipeline file where none are given here.
    pub fn options(&self, file: &[(String, String)]) -> Result<ImportOptions> {
        let (dims, shapes) = self.written(file)?;
        let mut out = ImportOptions::default();
        for (name, value) in &dims {
            let d = parse_dim(value).ok_or_else(|| {
                let d = usage(format!("--dim {name}={value} is not understood"));
                vec![d.with_help("write --dim batch=8, --dim batch=1..32 or --dim batch=1..32@8")]
            })?;
            out.dims.insert(name.clone(), d);
        }
        for (name, value) in &shapes {
            let extents: Option<Vec<i64>> =
                value.split('x').map(|n| n.parse().ok().filter(|&n: &i64| n >= 0)).collect();
            let extents = extents.ok_or_else(|| {
                let d = usage(format!("--shape {name}={value} is not understood"));
                vec![d.with_help("write --shape x=1x3x224x224")]
            })?;
            out.shapes.insert(name.clone(), extents);
        }
        Ok(out)
    }
    /// Bindings as they were written.
    #[allow(clippy::type_complexity)]
    pub fn written(&self, file: &[(String, String)]) -> Result<(BTreeMap<String, String>, BTreeMap<String, String>)> {
        let pairs = |flag: &str, items: &[String]| -> Result<BTreeMap<String, String>> {
            let mut out = BTreeMap::new();
            for item in items {
                let pair = item.split_once('=');
                let (name, value) = pair.ok_or_else(|| vec![usage(format!("{flag} {item} is not NAME=VALUE"))])?;
                if out.insert(name.to_string(), value.to_string()).is_some() {
                    return Err(vec![usage(format!("{flag} {name} is given twice"))]);
                }
            }
            Ok(out)
        };
        let mut dims: BTreeMap<String, String> = file.iter().cloned().collect();
        dims.extend(pairs("--dim", &self.dims)?);
        Ok((dims, pairs("--shape", &self.shapes)?))
    }
}

/// A wrong argument.
pub fn usage(message: impl Into<String>) -> Diagnostic {
    Diagnostic::error("C0002", message).failure(Failure::Usage)
}

/// `8`, `1..32`, `1..32@8`, `1..`.
fn parse_dim(text: &str) -> Option<DimBinding> {
    if let Ok(n) = text.parse::<i64>() {
        return (n >= 0).then_some(DimBinding::Fixed(n));
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
    pub print_after: Vec<String>,
    /// Run no more than so many passes.
    #[arg(long, value_name = "N")]
    pub stop_after: Option<usize>,
    /// Let selectors match nothing.
    #[arg(long)]
    pub allow_empty_selector: bool,
}

impl PipelineArgs {
    /// The passes; lossless ones where nothing is said.
    pub fn get(&self) -> Result<Pipeline> {
        pipeline(self.pipeline.as_deref().unwrap_or("lossless"))
    }
    /// How to run them.
    pub fn run(&self) -> tersor_passes::manager::RunOptions {
        tersor_passes::manager::RunOptions {
            print_after: self.print_after.clone(),
            stop_after: self.stop_after,
            allow_empty_selector: self.allow_empty_selector,
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
    /// Seed for whatever is drawn at random.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl CalibArgs {
    /// The samples, from here or from a pipeline file.
    pub fn get(&self, file: &tersor_passes::pipeline::Calibration, threads: usize) -> Option<Samples> {
        let path = self.calib.clone().or_else(|| file.data.as_ref().map(PathBuf::from))?;
        let limit = self.samples.or(file.samples.map(|n| n as usize));
        Some(Samples { path, limit, seed: file.seed.unwrap_or(self.seed), threads })
    }
}

/// Reads a model and gives its notes to `notes`.
pub fn load_model(path: &Path, shapes: &ShapeArgs, notes: &mut Vec<Diagnostic>) -> Result<Loaded> {
    let mut loaded = load(path, &shapes.options(&[])?)?;
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
        for bad in ["", "-1", "3..2", "1..32@64", "a..b", "1@2"] {
            assert_eq!(parse_dim(bad), None, "{bad}");
        }
    }
}
