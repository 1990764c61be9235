//! Opens artifacts: maps the file, checks header and manifest, hands out constants and sections in place.
//!
//! A file that changes while it is mapped ends the process or its results; deploy by renaming, as the writer does.

use std::fs::File;
use std::path::Path;

use memmap2::{Mmap, MmapMut, MmapOptions};
use prost::Message;

use crate::artifact::{Header, Manifest};
use crate::error::{Error, Kind, Result};
use crate::validate;

/// Larger manifests are refused: decoded, they could take many times that.
const MAX_MANIFEST: u64 = 64 << 20;

/// A checked artifact. Every index in its manifest is in range.
#[derive(Debug)]
pub struct Artifact {
    map: Mmap,
    manifest: Manifest,
}

impl Artifact {
    /// Maps the file privately and read-only; bytes are read from disk as they are used.
    pub fn open(path: &Path) -> Result<Artifact> {
        let io = |e: std::io::Error| Error::io(path, &e);
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        if length < Header::SIZE as u64 {
            let mut start = Vec::new();
            std::io::Read::read_to_end(&mut &file, &mut start).map_err(io)?;
            let error =
                Header::parse(&start, start.len() as u64).map(|_| Error::new(Kind::Truncated, "changed while read"));
            return Err(error.unwrap_or_else(|e| e).context(path.display()));
        }
        // SAFETY: the mapping is private; that nobody truncates the file is the module's stated assumption.
        let map = unsafe { MmapOptions::new().map_copy_read_only(&file) }.map_err(io)?;
        Artifact::checked(map).map_err(|e| e.context(path.display()))
    }

    /// An artifact in memory; the bytes are copied once, to aligned pages.
    pub fn from_bytes(bytes: &[u8]) -> Result<Artifact> {
        if bytes.len() < Header::SIZE {
            Header::parse(bytes, bytes.len() as u64)?;
        }
        let refused = |e: std::io::Error| Error::new(Kind::Memory, format!("mapping {} bytes: {e}", bytes.len()));
        let mut map = MmapMut::map_anon(bytes.len()).map_err(refused)?;
        map.copy_from_slice(bytes);
        Artifact::checked(map.make_read_only().map_err(refused)?)
    }

    fn checked(map: Mmap) -> Result<Artifact> {
        let header = Header::parse(&map, map.len() as u64)?;
        if header.manifest_length > MAX_MANIFEST {
            return Err(Error::new(
                Kind::Manifest,
                format!("a manifest of {} bytes is refused", header.manifest_length),
            ));
        }
        let bytes = range(&map, header.manifest_offset, header.manifest_length)?;
        if *blake3::hash(bytes).as_bytes() != header.manifest_hash {
            return Err(damaged("the manifest"));
        }
        let manifest = Manifest::decode(bytes)
            .map_err(|e| Error::new(Kind::Manifest, format!("the manifest does not decode: {e}")))?;
        validate::manifest(&manifest, header.manifest_offset)?;
        Ok(Artifact { map, manifest })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// The bytes of `Manifest::constants[index]`.
    pub fn constant(&self, index: u32) -> &[u8] {
        let c = &self.manifest.constants[index as usize];
        &self.map[c.offset as usize..(c.offset + c.length) as usize]
    }

    /// The bytes of `Manifest::sections[index]`.
    pub fn section_at(&self, index: u32) -> &[u8] {
        let s = &self.manifest.sections[index as usize];
        &self.map[s.offset as usize..(s.offset + s.length) as usize]
    }

    /// The section of that name.
    pub fn section(&self, name: &str) -> Option<&[u8]> {
        let index = self.manifest.sections.iter().position(|s| s.name == name)?;
        Some(self.section_at(index as u32))
    }

    /// Checks a section's hash.
    pub fn verify_section(&self, index: u32) -> Result<()> {
        let s = &self.manifest.sections[index as usize];
        check(&format!("section {}", s.name), self.section_at(index), &s.hash)
    }

    /// Checks every hash, reading the whole file.
    pub fn verify(&self) -> Result<()> {
        for (i, c) in self.manifest.constants.iter().enumerate() {
            check(&format!("constant {}", c.name), self.constant(i as u32), &c.hash)?;
        }
        (0..self.manifest.sections.len() as u32).try_for_each(|i| self.verify_section(i))
    }
}

fn range(bytes: &[u8], offset: u64, length: u64) -> Result<&[u8]> {
    let found = offset.checked_add(length).and_then(|end| bytes.get(offset as usize..end as usize));
    found.ok_or_else(|| Error::new(Kind::Truncated, "a range lies outside the file"))
}

fn check(what: &str, bytes: &[u8], hash: &[u8]) -> Result<()> {
    if blake3::hash(bytes).as_bytes() == hash { Ok(()) } else { Err(damaged(what)) }
}

fn damaged(what: &str) -> Error {
    Error::new(Kind::Checksum, format!("{what} is damaged: its checksum differs")).with_help("copy or compile it again")
}
