//! A loaded model: an artifact, the variant chosen for this CPU, and its code in executable memory.

use std::path::Path;
use std::sync::Arc;

use memmap2::{Mmap, MmapMut};
use tersor_host::{Prepared, Strings};

use crate::artifact::{Manifest, Value, Variant};
use crate::cpu::Features;
use crate::error::{Error, Kind, Result};
use crate::execute::Session;
use crate::late::{Due, due, early_needs};
use crate::plan::lifetimes;
use crate::program::{Action, ExtentOp, Host, Step};
use crate::reader::Artifact;

/// The kernel ABI (`ARCHITECTURE.md`).
pub type KernelFn = unsafe extern "C" fn(*const *mut u8, *const i64, *mut u8, i64, i64);

/// How to load.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The variant to run; the first that this CPU can run when `None`.
    pub variant: Option<String>,
    /// Whether to check every checksum, not only those of the manifest and the code.
    pub verify: bool,
}

/// A model ready to run; cheap to clone, shared by its sessions.
#[derive(Clone)]
pub struct Model(pub(crate) Arc<Loaded>);

pub(crate) struct Loaded {
    pub artifact: Artifact,
    pub variant: usize,
    pub code: Mmap,
    /// Lifetimes of the program's arena buffers.
    pub lifetimes: Vec<Option<(u32, u32)>>,
    /// What binding steps decide, in the order of these steps.
    pub due: Vec<Due>,
    /// The program's needs that inputs decide.
    pub early_needs: Vec<u32>,
    /// The functions of the program's steps, where they have one.
    pub functions: Vec<Option<Prepared>>,
    /// The strings of constants.
    pub strings: Strings,
}

impl Model {
    /// Maps an artifact and the code of the best variant.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Model> {
        Model::new(Artifact::open(path)?, options).map_err(|e| e.context(path.display()))
    }

    /// A model from an artifact's bytes.
    pub fn from_bytes(bytes: &[u8], options: &LoadOptions) -> Result<Model> {
        Model::new(Artifact::from_bytes(bytes)?, options)
    }

    pub fn new(artifact: Artifact, options: &LoadOptions) -> Result<Model> {
        let features = Features::detect();
        let variant = choose(&artifact.manifest().variants, options.variant.as_deref(), &features)?;
        let v = &artifact.manifest().variants[variant];
        if options.verify {
            artifact.verify()?
        } else {
            artifact.verify_section(v.code)?
        }
        let code = executable(artifact.section_at(v.code))?;
        let lifetimes = lifetimes(&v.program);
        let due = due(artifact.manifest(), &v.program);
        let early_needs = early_needs(artifact.manifest(), &v.program);
        let functions = v.program.steps.iter().map(function).collect::<Result<_>>()?;
        let mut strings = Strings::new();
        artifact.manifest().strings.iter().try_for_each(|s| strings.intern(s).map(drop))?;
        Ok(Model(Arc::new(Loaded { artifact, variant, code, lifetimes, due, early_needs, functions, strings })))
    }

    pub fn artifact(&self) -> &Artifact {
        &self.0.artifact
    }

    pub fn manifest(&self) -> &Manifest {
        self.0.artifact.manifest()
    }

    pub fn inputs(&self) -> &[Value] {
        &self.manifest().inputs
    }

    pub fn outputs(&self) -> &[Value] {
        &self.manifest().outputs
    }

    /// The variant that runs.
    pub fn variant(&self) -> &Variant {
        self.0.variant()
    }

    /// A session with that many threads, the caller's included; 0 means one for each CPU that this process may use.
    pub fn session(&self, threads: usize) -> Session {
        Session::new(self.clone(), threads)
    }

    /// Spells an input or output, `ids i64[N,T]`.
    pub fn describe(&self, v: &Value) -> String {
        describe(self.manifest(), v)
    }
}

/// Spells an input or output, `ids i64[N,T]`.
pub fn describe(m: &Manifest, v: &Value) -> String {
    let dims: Vec<String> = v.dims.iter().map(|&d| describe_extent(m, d)).collect();
    format!("{} {}[{}]", v.name, v.dtype(), dims.join(","))
}

/// Spells an extent, `past+T`.
pub fn describe_extent(m: &Manifest, id: u32) -> String {
    spell(m, id, 0)
}

fn spell(m: &Manifest, id: u32, depth: u32) -> String {
    if depth > 8 {
        return "...".into();
    }
    let e = m.extents[id as usize];
    let sub = |x: i64| spell(m, x as u32, depth + 1);
    let infix = |sign| format!("{}{sign}{}", sub(e.a), sub(e.b));
    match e.op() {
        ExtentOp::Constant => e.a.to_string(),
        ExtentOp::Symbol => m.symbols[e.a as usize].name.clone(),
        ExtentOp::Add if depth == 0 => infix("+"),
        ExtentOp::Sub if depth == 0 => infix("-"),
        ExtentOp::Add => format!("({})", infix("+")),
        ExtentOp::Sub => format!("({})", infix("-")),
        ExtentOp::Mul => infix("*"),
        ExtentOp::FloorDiv => infix("/"),
        ExtentOp::Max => format!("max({},{})", sub(e.a), sub(e.b)),
        ExtentOp::Min => format!("min({},{})", sub(e.a), sub(e.b)),
    }
}

/// The function of a step, if it is a call of one.
fn function(step: &Step) -> Result<Option<Prepared>> {
    let Some(Action::Host(Host { function: Some(f), .. })) = &step.action else { return Ok(None) };
    let prepared = f.prepare().map_err(|e| Error::new(Kind::Manifest, e.to_string()));
    prepared.map(Some).map_err(|e| e.context(format!("step {}", step.name)))
}

fn choose(variants: &[Variant], wanted: Option<&str>, features: &Features) -> Result<usize> {
    let names = || variants.iter().map(|v| v.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = wanted {
        let Some(i) = variants.iter().position(|v| v.name == name) else {
            return Err(Error::new(Kind::Variant, format!("there is no variant {name}, only {}", names())));
        };
        let missing = features.missing(&variants[i].features);
        if !missing.is_empty() {
            let what = format!("variant {name} needs {}, which this CPU or system lacks", missing.join(", "));
            return Err(Error::new(Kind::Variant, what).with_help("leave --variant out to run the best one"));
        }
        return Ok(i);
    }
    variants.iter().position(|v| features.missing(&v.features).is_empty()).ok_or_else(|| {
        let what = match variants.last() {
            Some(last) => {
                let missing = features.missing(&last.features).join(", ");
                format!("no variant runs on this CPU: it has {}; {} would need {missing}", names(), last.name)
            }
            None => "the artifact holds no code".into(),
        };
        Error::new(Kind::Variant, what).with_help("compile with --target native on this machine")
    })
}

/// Copies code to pages of its own and makes those executable: never writable and executable at once.
fn executable(code: &[u8]) -> Result<Mmap> {
    let refused = |e: std::io::Error| {
        Error::new(Kind::Code, format!("the system refuses executable memory: {e}"))
            .with_help("allow this program to map executable pages (SELinux execmem, seccomp)")
    };
    let mut map = MmapMut::map_anon(code.len().max(1)).map_err(refused)?;
    map[..code.len()].copy_from_slice(code);
    map.make_exec().map_err(refused)
}

impl Loaded {
    pub fn variant(&self) -> &Variant {
        &self.artifact.manifest().variants[self.variant]
    }

    /// The function of `Variant::kernels[index]`.
    pub fn kernel(&self, index: u32) -> KernelFn {
        let offset = self.variant().kernels[index as usize].offset as usize;
        let entry = self.code[offset..].as_ptr();
        // SAFETY: the offset lies within executable pages that live as long as `self`; that a function of this type begins
        // there is the compiler's promise, and the code's hash was checked.
        unsafe { std::mem::transmute::<*const u8, KernelFn>(entry) }
    }
}
