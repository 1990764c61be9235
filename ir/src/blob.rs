//! Immutable bytes: owned, or a range of a mapped file.

use memmap2::Mmap;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

#[derive(Clone)]
enum Owner {
    Heap(Arc<Vec<u8>>),
    Map(Arc<Mmap>),
    Other(Arc<dyn AsRef<[u8]> + Send + Sync>),
}

/// A cheaply cloned view of immutable bytes.
#[derive(Clone)]
pub struct Blob {
    owner: Owner,
    range: Range<usize>,
}

impl Blob {
    /// The whole of a mapped file.
    pub fn from_map(map: Arc<Mmap>) -> Blob {
        let range = 0..map.len();
        Blob { owner: Owner::Map(map), range }
    }
    /// The bytes of something else, which is kept. It must always give the same.
    pub fn of(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Blob {
        let range = 0..owner.as_ref().len();
        Blob { owner: Owner::Other(Arc::new(owner)), range }
    }
    /// A part of these bytes; `None` when out of range.
    pub fn slice(&self, range: Range<usize>) -> Option<Blob> {
        let (start, end) = (self.range.start.checked_add(range.start)?, self.range.start.checked_add(range.end)?);
        (start <= end && end <= self.range.end).then(|| Blob { owner: self.owner.clone(), range: start..end })
    }
}

impl Deref for Blob {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.owner {
            Owner::Heap(v) => &v[self.range.clone()],
            Owner::Map(m) => &m[self.range.clone()],
            Owner::Other(o) => &(**o).as_ref()[self.range.clone()],
        }
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Blob {
        let range = 0..bytes.len();
        Blob { owner: Owner::Heap(Arc::new(bytes)), range }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.len())
    }
}
