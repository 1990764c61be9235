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
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

/// Compiles kernels, whose names must differ, for one instruction set, on up to `threads` threads. Ends with [`Error::Interrupted`] once `stop` is raised.
pub fn compile(kernels: &[Kernel], isa: Isa, threads: usize, stop: &AtomicBool) -> Result<Image, Error> {
    check(kernels, isa)?;
    let batches: Vec<&[Kernel]> = kernels.chunks(BATCH).collect();
    let objects: Vec<OnceLock<Result<Vec<u8>, Error>>> = batches.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let context = lower::Context::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(batch) = batches.get(index) else { break };
            let object = if stop.load(Ordering::Relaxed) {
                Err(Error::Interrupted)
            } else {
                lower::to_llvm(&context, batch).and_then(|module| codegen::emit(&module, batch, isa, Code::Object))
            };
            objects[index].get_or_init(|| object);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.clamp(1, batches.len().max(1)) {
            scope.spawn(work);
        }
        work();
    });
    let mut layout = object::Layout::default();
    for (batch, object) in batches.iter().zip(objects) {
        let object = object.into_inner().expect("every batch was taken")?;
        let fail = |message| Error::Object { kernels: names(batch), message };
        layout.add(&object).map_err(fail)?;
    }
    layout.finish(kernels.iter().map(|k| k.name.as_str()))
}

/// The kernels as text or as one object, for people who look or link themselves.
pub fn emit(kernels: &[Kernel], isa: Isa, code: Code) -> Result<Vec<u8>, Error> {
    check(kernels, isa)?;
    if code == Code::Mlir {
        return Ok(print::module(kernels).into_bytes());
    }
    let module = lower::to_llvm(&lower::Context::new(), kernels)?;
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
    let module = lower::to_llvm(&lower::Context::new(), kernels)?;
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
