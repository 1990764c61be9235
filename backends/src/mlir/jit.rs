//! Runs compiled kernels in this process, over the same [`Call`] as the emulator. For tests, benchmarks and calibration.

use super::{Error, Image, compile};
use crate::emit::Kernel;
use crate::emit::emulate::Call;
use crate::kernel::Isa;
use crate::target::{self, Machine};
use memmap2::{Mmap, MmapMut};
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use tersor_runtime::cpu::Features;

/// The kernel ABI of `ARCHITECTURE.md`.
pub type Entry = unsafe extern "C" fn(*const *mut u8, *const i64, *mut u8, i64, i64);

/// Kernels ready to be called.
pub struct Jit {
    code: Mmap,
    /// Offset, operands and extents of each kernel.
    kernels: HashMap<String, (usize, usize, usize)>,
}

/// The most capable instruction set that this machine runs.
pub fn host() -> Option<Isa> {
    target::detect(&Features::detect()).map(|m| m.isa)
}

/// Compiles kernels for an instruction set and maps the code, if this machine has what it takes.
pub fn load(kernels: &[Kernel], isa: Isa) -> Result<Jit, Error> {
    let missing = Machine::of(isa).missing(&Features::detect());
    if !missing.is_empty() {
        return Err(Error::Host(missing.join(", ")));
    }
    let images = compile(&[(isa, kernels)], 1, &AtomicBool::new(false))?;
    map(&images[0], kernels)
}

fn map(image: &Image, kernels: &[Kernel]) -> Result<Jit, Error> {
    let fail = |e: std::io::Error| Error::Map(e.to_string());
    let mut code = MmapMut::map_anon(image.bytes.len().max(1)).map_err(fail)?;
    code[..image.bytes.len()].copy_from_slice(&image.bytes);
    let code = code.make_exec().map_err(fail)?;
    let describe = |(entry, kernel): (&super::Entry, &Kernel)| {
        (entry.name.clone(), (entry.offset as usize, kernel.args.len(), kernel.dims.len()))
    };
    Ok(Jit { code, kernels: image.entries.iter().zip(kernels).map(describe).collect() })
}

impl Jit {
    /// The function of a kernel; it lives as long as `self`.
    pub fn entry(&self, name: &str) -> Result<Entry, Error> {
        let &(offset, ..) = self.kernels.get(name).ok_or_else(|| Error::NoKernel(name.into()))?;
        // SAFETY: a function of this type begins there.
        Ok(unsafe { std::mem::transmute::<*const u8, Entry>(self.code[offset..].as_ptr()) })
    }

    /// Runs a kernel on a call that fits it; buffers are changed in place. The kernel must stay within its buffers, which a
    /// run in the emulator shows.
    pub fn run(&self, name: &str, call: &mut Call) -> Result<(), Error> {
        let entry = self.entry(name)?;
        let &(_, args, dims) = self.kernels.get(name).ok_or_else(|| Error::NoKernel(name.into()))?;
        assert_eq!((call.args.len(), call.dims.len()), (args, dims), "operands and extents of {name}");
        let mut scratch = vec![0xffu8; call.scratch + 64];
        let skip = scratch.as_ptr().align_offset(64);
        let starts: Vec<*mut u8> = call.buffers.iter_mut().map(|b| b.bytes_mut().as_mut_ptr()).collect();
        let pointers: Vec<*mut u8> = call.args.iter().map(|&i| starts[i]).collect();
        // SAFETY: the operands and extents are as many as the kernel takes, aligned and alive.
        unsafe {
            let scratch = scratch.as_mut_ptr().add(skip);
            entry(pointers.as_ptr(), call.dims.as_ptr(), scratch, call.range.0, call.range.1);
        }
        Ok(())
    }
}
