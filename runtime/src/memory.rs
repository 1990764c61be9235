//! Heap memory aligned to 64 bytes, whose allocation can fail without ending the process.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use memmap2::MmapMut;

use crate::error::{Error, Kind, Result};

/// Alignment of every allocation.
pub const ALIGN: usize = 64;
/// From this size on, memory comes from the system page by page as it is touched, in huge pages where it has them.
const LARGE: usize = 4 << 20;

/// A fixed run of bytes, zero at first.
#[derive(Debug)]
pub struct Aligned {
    pointer: NonNull<u8>,
    length: usize,
    owner: Owner,
}

#[derive(Debug)]
enum Owner {
    Nobody,
    Heap(Layout),
    Map(#[allow(dead_code, reason = "held to be dropped")] MmapMut),
}

// SAFETY: owns its memory like a Box<[u8]>.
unsafe impl Send for Aligned {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Aligned {}

impl Aligned {
    /// `length` zero bytes.
    pub fn zeroed(length: usize) -> Result<Aligned> {
        let refused = || Error::new(Kind::Memory, format!("cannot allocate {length} bytes"));
        if length == 0 {
            return Ok(Aligned { pointer: NonNull::<Line>::dangling().cast(), length, owner: Owner::Nobody });
        }
        if length >= LARGE {
            let mut map = MmapMut::map_anon(length).map_err(|_| refused())?;
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            let pointer = NonNull::new(map.as_mut_ptr()).ok_or_else(refused)?;
            return Ok(Aligned { pointer, length, owner: Owner::Map(map) });
        }
        let layout = Layout::from_size_align(length, ALIGN).map_err(|_| refused())?;
        // SAFETY: the layout's size is not zero.
        let pointer = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refused)?;
        Ok(Aligned { pointer, length, owner: Owner::Heap(layout) })
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
        if let Owner::Heap(layout) = self.owner {
            // SAFETY: allocated with this layout, and not used after.
            unsafe { dealloc(self.pointer.as_ptr(), layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_aligned_zero_and_freed() {
        for length in [0, 1, 63, 64, 5000, LARGE, LARGE + 1] {
            let mut a = Aligned::zeroed(length).unwrap();
            assert!(a.as_ptr().addr().is_multiple_of(ALIGN) && a.len() == length && a.iter().all(|&b| b == 0));
            a.fill(7);
            assert_eq!(Aligned::copy_of(&a).unwrap()[..], a[..]);
        }
        assert_eq!(Aligned::zeroed(isize::MAX as usize).unwrap_err().kind, Kind::Memory);
    }
}
