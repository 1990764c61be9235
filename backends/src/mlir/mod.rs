//! The MLIR edge: kernels become machine code here, and only here.
//!
//! `Kernel`s are printed, parsed and lowered by MLIR (`lower`), compiled by LLVM for an [`Isa`] (`codegen`), and their objects
//! laid out and relocated into one position-independent [`Image`] (`object`), which a runtime maps and calls. Invariants: an image
//! depends on its kernels and the instruction set alone, not on the host or the number of threads; it needs nothing from outside itself.

mod codegen;
mod fatal;
pub mod jit;
mod lower;
mod object;

pub use fatal::on_fatal_error;
pub use object::{Entry, Image};

use crate::emit::{Kernel, print};
use crate::kernel::{Code, Isa};
use crate::target::Machine;
use foldhash::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use thiserror::Error;

/// Why kernels did not become code.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum Error {
    #[error("kernel `{kernel}` needs {missing}, which {isa} does not have")]
    Features { kernel: String, missing: String, isa: &'static str },
    #[error("MLIR refuses {kernels}: {message}")]
    Mlir { kernels: String, message: String },
    #[error("LLVM refuses {kernels}: {message}")]
    Llvm { kernels: String, message: String },
    #[error("the object of {kernels} cannot be placed: {message}")]
    Object { kernels: String, message: String },
    #[error("this machine lacks {0}")]
    Host(String),
    #[error("no kernel is called `{0}`")]
    NoKernel(String),
    #[error("cannot map code: {0}")]
    Map(String),
    #[error("interrupted")]
    Interrupted,
}

/// Kernels that are compiled together; a fixed number, so that objects do not depend on the threads.
const BATCH: usize = 4;

/// Some kernels of a program, as they are compiled: named by their positions, so that equal ones of several programs are the same text.
struct Unit<'a> {
    isa: Isa,
    text: Arc<str>,
    kernels: &'a [Kernel],
}

/// Compiles the kernels of some programs, each for its instruction set, on up to `threads` threads; what programs have in common is compiled once.
/// Ends with [`Error::Interrupted`] once `stop` is raised.
pub fn compile<'a>(programs: &[(Isa, &'a [Kernel])], threads: usize, stop: &AtomicBool) -> Result<Vec<Image>, Error> {
    programs.iter().try_for_each(|(isa, kernels)| check(kernels, *isa))?;
    let (mut units, mut places) = (vec![], HashMap::default());
    let mut place = |isa: Isa, kernels| {
        let isa = least(isa, kernels);
        let text: Arc<str> = print::named(kernels, symbol).into();
        *places.entry((isa, text.clone())).or_insert_with(|| {
            units.push(Unit { isa, text, kernels });
            units.len() - 1
        })
    };
    let of = |(isa, kernels): &(Isa, &'a [Kernel])| kernels.chunks(BATCH).map(|k| place(*isa, k)).collect::<Vec<_>>();
    let parts: Vec<Vec<usize>> = programs.iter().map(of).collect();
    let objects: Vec<OnceLock<Result<Vec<u8>, Error>>> = units.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let context = lower::Context::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(unit) = units.get(index) else { break };
            let object = if stop.load(Ordering::Relaxed) {
                Err(Error::Interrupted)
            } else {
                lower::to_llvm(&context, &unit.text, unit.kernels)
                    .and_then(|module| codegen::emit(&module, unit.kernels, unit.isa, Code::Object))
            };
            objects[index].get_or_init(|| object);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.clamp(1, units.len().max(1)) {
            scope.spawn(work);
        }
        work();
    });
    let objects = objects.into_iter().map(|o| o.into_inner().expect("every unit was taken"));
    let objects = objects.collect::<Result<Vec<_>, _>>()?;
    let image = |(kernels, parts): (&[Kernel], &Vec<usize>)| {
        let mut layout = object::Layout::default();
        for (batch, &part) in kernels.chunks(BATCH).zip(parts) {
            let entries: Vec<_> = batch.iter().enumerate().map(|(i, k)| (symbol(i), k.name.as_str())).collect();
            let fail = |message| Error::Object { kernels: names(batch), message };
            layout.add(&objects[part], &entries).map_err(fail)?;
        }
        Ok(layout.finish())
    };
    programs.iter().map(|p| p.1).zip(&parts).map(image).collect()
}

/// The least instruction set with the vectors of `isa` that has what kernels need: code for it is code for both.
fn least(isa: Isa, kernels: &[Kernel]) -> Isa {
    let fits = |&least: &Isa| least.wide() == isa.wide() && check(kernels, least).is_ok();
    Isa::ALL.into_iter().rev().find(fits).unwrap_or(isa)
}

/// The name of a kernel at a position of a [`Unit`].
fn symbol(position: usize) -> String {
    format!("kernel_{position}")
}

/// The kernels as text or as one object, for people who look or link themselves.
pub fn emit(kernels: &[Kernel], isa: Isa, code: Code) -> Result<Vec<u8>, Error> {
    check(kernels, isa)?;
    if code == Code::Mlir {
        return Ok(print::module(kernels).into_bytes());
    }
    let module = lower::to_llvm(&lower::Context::new(), &print::module(kernels), kernels)?;
    codegen::emit(&module, kernels, isa, code)
}

/// Refuses kernels that the instruction set does not run.
fn check(kernels: &[Kernel], isa: Isa) -> Result<(), Error> {
    let offered = features(isa);
    for kernel in kernels {
        let missing: Vec<&str> = kernel.features.iter().copied().filter(|f| !offered.contains(f)).collect();
        if !missing.is_empty() {
            return Err(Error::Features { kernel: kernel.name.clone(), missing: missing.join(", "), isa: isa.name() });
        }
    }
    Ok(())
}

/// Compiles GPU kernels to one PTX module for compute capability `sm` (80 is that of an A100) and newer.
pub fn ptx(kernels: &[Kernel], sm: u32) -> Result<String, Error> {
    let module = lower::to_llvm(&lower::Context::new(), &print::module(kernels), kernels)?;
    codegen::ptx(&module, kernels, sm)
}

/// What code for an instruction set may use, and a CPU must have.
fn features(isa: Isa) -> Vec<&'static str> {
    Machine::of(isa).features.concat()
}

/// How messages name some kernels.
fn names(kernels: &[Kernel]) -> String {
    kernels.iter().map(|k| format!("`{}`", k.name)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
