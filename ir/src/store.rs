//! Bytes of constants beside the text, found by content hash.
//!
//! A store file is `TSRWGHT1`, a little-endian u64 count, then for each entry the 32-byte hash, offset and length (u64 each), then the bytes, 64-byte aligned.
//! Strings are stored one after the other, each as its length in bytes (a little-endian u32) and its UTF-8.

use crate::blob::Blob;
use crate::constant::ContentHash;
use crate::diag::{Diagnostic, Failure, Result};
use crate::module::Module;
use crate::string;
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"TSRWGHT1";
const ENTRY: usize = 48;

/// Mapped bytes by hash.
#[derive(Default, Debug)]
pub struct ConstStore {
    blobs: BTreeMap<[u8; 32], Blob>,
}

impl ConstStore {
    /// Maps a store file.
    pub fn open(path: &Path) -> Result<ConstStore> {
        let file_error = |e: std::io::Error| {
            Diagnostic::error("T0901", format!("cannot read weights: {e}"))
                .in_file(path.display().to_string())
                .failure(Failure::File)
        };
        let file = File::open(path).map_err(file_error)?;
        // SAFETY: the mapping is private and read-only; a file that another process truncates meanwhile is outside what a compiler can guard against.
        let map = unsafe { Mmap::map(&file) }.map_err(file_error)?;
        let all = Blob::from_map(Arc::new(map));
        let bad = || Diagnostic::error("T0902", "not a weights file, or cut short").in_file(path.display().to_string());
        let word = |at: usize| Some(u64::from_le_bytes(all.get(at..at + 8)?.try_into().ok()?));
        if all.get(..8) != Some(MAGIC) {
            return Err(bad());
        }
        let count = word(8).ok_or_else(bad)? as usize;
        let mut blobs = BTreeMap::new();
        for i in 0..count {
            let at = 16 + i * ENTRY;
            let hash: [u8; 32] = all.get(at..at + 32).and_then(|b| b.try_into().ok()).ok_or_else(bad)?;
            let (start, len) = (word(at + 32).ok_or_else(bad)? as usize, word(at + 40).ok_or_else(bad)? as usize);
            let end = start.checked_add(len).ok_or_else(bad)?;
            blobs.insert(hash, all.slice(start..end).ok_or_else(bad)?);
        }
        Ok(ConstStore { blobs })
    }
    /// The bytes whose hash starts with these hexadecimal digits, if exactly one entry does.
    pub fn find(&self, hex: &str) -> Option<Blob> {
        let text = |h: &[u8; 32]| h.iter().map(|b| format!("{b:02x}")).collect::<String>();
        if hex.len() < 16 {
            return None;
        }
        let first = u8::from_str_radix(&hex[..2], 16).ok()?;
        let mut low = [0; 32];
        low[0] = first;
        let mut hits =
            self.blobs.range(low..).take_while(|(h, _)| h[0] == first).filter(|(h, _)| text(h).starts_with(hex));
        let hit = hits.next()?.1.clone();
        hits.next().is_none().then_some(hit)
    }
    /// Writes the constants of a module that its text shows by hash, as a store file.
    pub fn write(m: &Module, out: &mut impl Write) -> std::io::Result<()> {
        let mut entries: BTreeMap<ContentHash, Blob> = BTreeMap::new();
        for c in m.funcs.values().flat_map(|f| f.live_constants()) {
            if let (crate::constant::ConstData::Bytes(_), Some(t)) = (m.consts[c].data(), m.consts[c].tensor()) {
                entries.insert(m.consts[c].hash(), string::stored(t));
            }
        }
        out.write_all(MAGIC)?;
        out.write_all(&(entries.len() as u64).to_le_bytes())?;
        let mut at = (16 + entries.len() * ENTRY).next_multiple_of(64);
        for (hash, blob) in &entries {
            out.write_all(&hash.0)?;
            out.write_all(&(at as u64).to_le_bytes())?;
            out.write_all(&(blob.len() as u64).to_le_bytes())?;
            at = (at + blob.len()).next_multiple_of(64);
        }
        let mut written = 16 + entries.len() * ENTRY;
        for blob in entries.values() {
            out.write_all(&vec![0; written.next_multiple_of(64) - written])?;
            out.write_all(blob)?;
            written = written.next_multiple_of(64) + blob.len();
        }
        Ok(())
    }
}
