//! `--inputs` and `--input`: where the data for a run come from.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::Diagnostic;
use crate::data::{self, Role};
use crate::dtype::DType;
use crate::error::{Error, Kind, Result};
use crate::load::{LoadOptions, Model};
use crate::pool::MAX_THREADS;
use crate::range::at_hints;
use crate::tensor::Tensor;

/// Which artifact to run, and how.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// The artifact, made by `tersor compile`.
    pub artifact: PathBuf,
    /// Run this variant, not the best one for this CPU (`info` lists them).
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
    /// Check every checksum before running, not only those of manifest and code.
    #[arg(long)]
    pub verify: bool,
}

impl ModelArgs {
    pub fn load(&self) -> Result<Model> {
        Model::load(&self.artifact, &LoadOptions { variant: self.variant.clone(), verify: self.verify })
    }
}

/// How many threads run.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct ThreadArgs {
    /// Threads; all CPUs when left out.
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS as i64))]
    pub threads: Option<u16>,
}

impl ThreadArgs {
    /// For `Model::session`.
    pub fn count(self) -> usize {
        self.threads.map_or(0, usize::from)
    }
}

/// Where inputs come from.
#[derive(Args, Clone, Debug, Default)]
pub struct InputArgs {
    /// A folder of NAME.npy, one .npz, or an ONNX test_data_set_N folder.
    #[arg(long, value_name = "PATH")]
    pub inputs: Option<PathBuf>,
    /// One input: NAME=@FILE.npy (- is standard input), NAME=@FILE.pb, or NAME=random[:normal|uniform[:SEED]] of typical extents.
    #[arg(long = "input", value_name = "NAME=VALUE")]
    pub each: Vec<String>,
}

impl InputArgs {
    /// Whether no data are named at all.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_none() && self.each.is_empty()
    }

    /// The inputs, in the model's order; all of them are there.
    pub fn read(&self, model: &Model, diagnostics: &mut Vec<Diagnostic>) -> Result<Vec<Tensor>> {
        let mut found: Vec<Option<Tensor>> = model.inputs().iter().map(|_| None).collect();
        for spec in &self.each {
            let Some((name, value)) = spec.split_once('=') else {
                return Err(Error::new(Kind::Usage, format!("--input {spec} is not NAME=VALUE")));
            };
            let Some(index) = model.inputs().iter().position(|v| v.name == name) else {
                let known: Vec<String> = model.inputs().iter().map(|v| model.describe(v)).collect();
                return Err(Error::new(Kind::UnknownInput, format!("the model has no input {name}"))
                    .with_help(format!("its inputs are {}", known.join(", "))));
            };
            if found[index].is_some() {
                return Err(Error::new(Kind::Usage, format!("--input {name} is given twice")));
            }
            found[index] = Some(match value.strip_prefix('@') {
                Some(file) => data::read_file(Path::new(file))?.1,
                None => random(model, index, value)?,
            });
        }
        if let Some(path) = &self.inputs {
            let missing: Vec<usize> = (0..found.len()).filter(|&i| found[i].is_none()).collect();
            let wanted: Vec<&str> = model.inputs().iter().map(|v| v.name.as_str()).collect();
            let read = data::read(path, Role::Input, &wanted)?;
            if !read.unused.is_empty() {
                let what =
                    format!("{} also holds {}, which the model does not take", path.display(), read.unused.join(", "));
                diagnostics.push(Diagnostic::warning("R0310", what));
            }
            for (name, tensor) in read.tensors {
                match wanted.iter().position(|w| *w == name) {
                    Some(i) if missing.contains(&i) => found[i] = Some(tensor),
                    _ => diagnostics.push(Diagnostic::warning(
                        "R0311",
                        format!("--input {name} replaces the one in {}", path.display()),
                    )),
                }
            }
        }
        let named = found.into_iter().zip(model.inputs()).map(|(t, v)| {
            t.ok_or_else(|| {
                let place = self.inputs.as_ref().map(|p| format!(" in {}", p.display())).unwrap_or_default();
                Error::new(Kind::MissingInput, format!("input {} is missing{place}", v.name))
                    .with_help(format!("the model takes {}", model.describe(v)))
            })
        });
        named.collect()
    }
}

/// Random tensors of typical extents for all inputs.
pub fn random_inputs(model: &Model) -> Result<Vec<Tensor>> {
    (0..model.inputs().len()).map(|i| random(model, i, "random")).collect()
}

/// A random tensor: floats and parts of complex numbers as asked for, integers and booleans 0 or 1, strings empty; symbols take their hints.
fn random(model: &Model, index: usize, spec: &str) -> Result<Tensor> {
    let value = &model.inputs()[index];
    let bad = || {
        Error::new(Kind::Usage, format!("--input {}={spec} is not understood", value.name))
            .with_help("write @FILE.npy, or random, random:normal, random:uniform:SEED")
    };
    let mut parts = spec.split(':');
    if parts.next() != Some("random") {
        return Err(bad());
    }
    let normal = match parts.next() {
        None | Some("normal") => true,
        Some("uniform") => false,
        Some(_) => return Err(bad()),
    };
    let seed: u64 = parts.next().map_or(Ok(0), str::parse).map_err(|_| bad())?;
    if parts.next().is_some() {
        return Err(bad());
    }
    let m = model.manifest();
    let extents = at_hints(&m.extents, &m.symbols)?;
    let shape: Vec<usize> = value.dims.iter().map(|&d| extents[d as usize].max(0) as usize).collect();
    let mut tensor = Tensor::zeros(value.dtype(), &shape)?;
    let mut state = seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut uniform = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut float = || match normal {
        true => (-2.0 * (1.0 - uniform()).ln()).sqrt() * (uniform() * std::f64::consts::TAU).cos(),
        false => uniform(),
    };
    // Of strings, all are empty.
    if value.dtype() == DType::Str {
        return Ok(tensor);
    }
    let size = value.dtype().word().ok_or_else(bad)?;
    for element in tensor.bytes_mut().chunks_exact_mut(size) {
        let x = float();
        match value.dtype() {
            DType::F64 | DType::C128 => element.copy_from_slice(&x.to_ne_bytes()),
            DType::F32 | DType::C64 => element.copy_from_slice(&(x as f32).to_ne_bytes()),
            DType::F16 => element.copy_from_slice(&half::f16::from_f64(x).to_ne_bytes()),
            DType::Bf16 => element.copy_from_slice(&half::bf16::from_f64(x).to_ne_bytes()),
            _ => element[if cfg!(target_endian = "big") { size - 1 } else { 0 }] = u8::from(x > 0.5),
        }
    }
    Ok(tensor)
}
