//! Heap memory aligned to 64 bytes, whose allocation can fail without ending the process.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::error::{Error, Kind, Result};

/// Alignment of every allocation.
pub const ALIGN: usize = 64;
const HUGE: usize = 2 << 20;

/// A fixed run of bytes, zero at first.
#[derive(Debug)]
pub struct Aligned {
    pointer: NonNull<u8>,
    length: usize,
    layout: Option<Layout>,
}

// SAFETY: owns its memory like a Box<[u8]>.
unsafe impl Send for Aligned {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Aligned {}

impl Aligned {
    /// `length` zero bytes.
    pub fn zeroed(length: usize) -> Result<Aligned> {
        if length == 0 {
            return Ok(Aligned { pointer: NonNull::<Line>::dangling().cast(), length, layout: None });
        }
        let align = if length >= 2 * HUGE { HUGE } else { ALIGN };
        let refused = || Error::new(Kind::Memory, format!("cannot allocate {length} bytes"));
        let layout = Layout::from_size_align(length, align).map_err(|_| refused())?;
        // SAFETY: the layout's size is not zero.
        let pointer = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refused)?;
        #[cfg(target_os = "linux")]
        if align == HUGE {
            // SAFETY: advice about memory that this value owns; its failure changes nothing.
            unsafe { libc::madvise(pointer.as_ptr().cast(), length, libc::MADV_HUGEPAGE) };
        }
        Ok(Aligned { pointer, length, layout: Some(layout) })
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Result<Aligned> {
        let mut out = Aligned::zeroed(bytes.len())?;
        out.copy_from_slice(bytes);
        Ok(out)
    }

    /// The first byte, for code that writes through it while no reference exists.
    pub fn as_mut_pointer(&mut self) -> *mut u8 {
        self.pointer.as_ptr()
    }
}

#[repr(align(64))]
struct Line;

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `pointer` is valid for `length` initialised bytes (dangling but aligned when that is 0).
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.length) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.length) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        if let Some(layout) = self.layout {
            // SAFETY: allocated with this layout, and not used after.
            unsafe { dealloc(self.pointer.as_ptr(), layout) }
        }
    }
}
