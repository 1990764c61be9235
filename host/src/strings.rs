//! Tables of strings, each string once.

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// Most bytes of all strings of a table together.
pub const MAX_BYTES: usize = 1 << 30;
/// What a string takes beside its characters.
const ENTRY_BYTES: usize = 64;

/// Strings by handle. Handle 0 is the empty string, so that zeroed memory holds empty strings; equal strings have equal handles.
#[derive(Clone, Debug)]
pub struct Strings {
    items: Vec<Arc<str>>,
    index: HashMap<Arc<str>, u32>,
    bytes: usize,
}

impl Default for Strings {
    fn default() -> Strings {
        Strings { items: vec!["".into()], index: HashMap::from([("".into(), 0)]), bytes: 0 }
    }
}

impl Strings {
    /// A table of the empty string.
    pub fn new() -> Strings {
        Strings::default()
    }

    /// The handle of a string, which is added where it is new. All strings together take no more than a GiB.
    pub fn intern(&mut self, s: &str) -> Result<u32> {
        if let Some(&handle) = self.index.get(s) {
            return Ok(handle);
        }
        let bytes = self.bytes.saturating_add(s.len()).saturating_add(ENTRY_BYTES);
        if bytes > MAX_BYTES {
            return Err(Error::new(format!("strings of more than {MAX_BYTES} bytes")));
        }
        let (handle, s) = (self.items.len() as u32, Arc::<str>::from(s));
        self.bytes = bytes;
        self.items.push(s.clone());
        self.index.insert(s, handle);
        Ok(handle)
    }

    /// The string of a handle.
    pub fn get(&self, handle: u32) -> Result<&Arc<str>> {
        self.items.get(handle as usize).ok_or_else(|| Error::new(format!("no string has the handle {handle}")))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Never: the empty string is always there.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Forgets all strings but the first `len`, and the empty one.
    pub fn truncate(&mut self, len: usize) {
        for s in self.items.drain(len.clamp(1, self.items.len())..) {
            self.bytes -= s.len() + ENTRY_BYTES;
            self.index.remove(&s);
        }
    }

    /// All of them, by handle.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.items.iter().map(|s| &**s)
    }

    /// The handles, in another table, of the strings that `handles` are in this one.
    pub fn translate(&self, handles: &[u8], to: &mut Strings) -> Result<Vec<u8>> {
        let mut known = HashMap::new();
        let mut out = Vec::with_capacity(handles.len());
        for handle in self::handles(handles) {
            let new = match known.get(&handle) {
                Some(&new) => new,
                None => *known.entry(handle).or_insert(to.intern(self.get(handle)?)?),
            };
            out.extend(new.to_ne_bytes());
        }
        Ok(out)
    }
}

/// The handles in a tensor's bytes.
pub fn handles(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|c| u32::from_ne_bytes([c[0], c[1], c[2], c[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_kept_once_and_forgotten() {
        let mut t = Strings::new();
        assert_eq!(t.intern("").unwrap(), 0);
        let (a, b) = (t.intern("a").unwrap(), t.intern("b").unwrap());
        assert_eq!((t.intern("a").unwrap(), a != b, &**t.get(b).unwrap()), (a, true, "b"));
        t.truncate(2);
        assert_eq!((t.len(), t.bytes, t.get(b).is_err()), (2, 1 + ENTRY_BYTES, true));
        assert_eq!(t.intern("c").unwrap(), b);
        t.truncate(0);
        assert_eq!(t.iter().collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn tables_translate_and_refuse_unknown_handles() {
        let (mut from, mut to) = (Strings::new(), Strings::new());
        let (x, y) = (from.intern("x").unwrap(), from.intern("y").unwrap());
        let old: Vec<u8> = [y, x, 0, y].iter().flat_map(|h| h.to_ne_bytes()).collect();
        let new: Vec<u32> = handles(&from.translate(&old, &mut to).unwrap()).collect();
        assert_eq!((new, to.iter().collect::<Vec<_>>()), (vec![1, 2, 0, 1], vec!["", "y", "x"]));
        assert!(from.translate(&9u32.to_ne_bytes(), &mut to).is_err());
    }
}
