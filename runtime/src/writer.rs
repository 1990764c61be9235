//! Writes artifacts. The same calls in the same order give the same bytes.

use std::collections::HashMap;
use std::io::{BufWriter, Cursor, Seek, SeekFrom, Write};
use std::path::Path;

use prost::Message;

use crate::artifact::{ALIGN, Constant, Header, Manifest, PAGE, Section};
use crate::atomic::AtomicFile;
use crate::error::{Error, Kind, Result};
use crate::validate;

/// Streams constants and sections to a file (or to memory), and finishes with the manifest.
pub struct ArtifactWriter<W> {
    sink: W,
    at: u64,
    constants: Vec<Constant>,
    by_hash: HashMap<[u8; 32], u32>,
    sections: Vec<Section>,
}

impl ArtifactWriter<BufWriter<AtomicFile>> {
    /// Starts the artifact at `path`; it appears there when `save` succeeds.
    pub fn create(path: &Path) -> Result<Self> {
        Self::new(BufWriter::new(AtomicFile::create(path)?))
    }

    /// Writes the manifest and puts the file in its place.
    pub fn save(self, manifest: Manifest) -> Result<()> {
        self.finish(manifest)?.into_inner().map_err(|e| write_error(e.into_error()))?.commit()
    }
}

impl ArtifactWriter<Cursor<Vec<u8>>> {
    pub fn in_memory() -> Self {
        Self::start(Cursor::new(Vec::new())).expect("memory takes all writes")
    }

    /// The constants so far with their bytes, in the order of their indices.
    pub fn into_constants(self) -> Vec<(Constant, Vec<u8>)> {
        let bytes = self.sink.into_inner();
        let of = |c: &Constant| bytes[c.offset as usize..(c.offset + c.length) as usize].to_vec();
        self.constants.iter().map(|c| (c.clone(), of(c))).collect()
    }

    /// Writes the manifest and returns the file's bytes.
    pub fn into_bytes(self, manifest: Manifest) -> Result<Vec<u8>> {
        Ok(self.finish(manifest)?.into_inner())
    }
}

impl<W: Write + Seek> ArtifactWriter<W> {
    /// Starts an artifact at the beginning of an empty sink.
    pub fn new(sink: W) -> Result<Self> {
        Self::start(sink).map_err(write_error)
    }

    fn start(mut sink: W) -> std::io::Result<Self> {
        sink.write_all(&[0; Header::SIZE])?;
        let at = Header::SIZE as u64;
        Ok(ArtifactWriter { sink, at, constants: Vec::new(), by_hash: HashMap::new(), sections: Vec::new() })
    }

    fn append(&mut self, bytes: &[u8], align: u64) -> Result<u64> {
        static PADDING: [u8; PAGE as usize] = [0; PAGE as usize];
        let offset = self.at.next_multiple_of(align);
        self.sink.write_all(&PADDING[..(offset - self.at) as usize]).map_err(write_error)?;
        self.sink.write_all(bytes).map_err(write_error)?;
        self.at = offset + bytes.len() as u64;
        Ok(offset)
    }

    /// Writes a constant, unless these bytes are there already; returns its index for `Place::Constant`.
    pub fn constant(&mut self, name: &str, layout: &str, bytes: &[u8]) -> Result<u32> {
        let hash = *blake3::hash(bytes).as_bytes();
        if let Some(&index) = self.by_hash.get(&hash) {
            return Ok(index);
        }
        let length = bytes.len() as u64;
        let offset = self.append(bytes, if length < PAGE { ALIGN } else { PAGE })?;
        let index = self.constants.len() as u32;
        self.by_hash.insert(hash, index);
        self.constants.push(Constant {
            name: name.to_owned(),
            layout: layout.to_owned(),
            hash: hash.to_vec(),
            offset,
            length,
        });
        Ok(index)
    }

    /// Writes a named section; returns its index. Names are unique.
    pub fn section(&mut self, name: &str, bytes: &[u8]) -> Result<u32> {
        if self.sections.iter().any(|s| s.name == name) {
            return Err(Error::new(Kind::Internal, format!("section {name} is written twice")));
        }
        let hash = blake3::hash(bytes).as_bytes().to_vec();
        let offset = self.append(bytes, ALIGN)?;
        self.sections.push(Section { name: name.to_owned(), hash, offset, length: bytes.len() as u64 });
        Ok(self.sections.len() as u32 - 1)
    }

    /// Total bytes of the constants so far.
    pub fn constant_bytes(&self) -> u64 {
        self.constants.iter().map(|c| c.length).sum()
    }

    /// Completes `manifest` with the constants and sections, checks it as a reader would, writes it and the header, and
    /// returns the sink.
    pub fn finish(mut self, mut manifest: Manifest) -> Result<W> {
        manifest.constants = std::mem::take(&mut self.constants);
        manifest.sections = std::mem::take(&mut self.sections);
        validate::manifest(&manifest, self.at)?;
        let bytes = manifest.encode_to_vec();
        let manifest_offset = self.append(&bytes, ALIGN)?;
        let header = Header {
            manifest_offset,
            manifest_length: bytes.len() as u64,
            file_length: self.at,
            manifest_hash: *blake3::hash(&bytes).as_bytes(),
        };
        self.sink.seek(SeekFrom::Start(0)).map_err(write_error)?;
        self.sink.write_all(&header.to_bytes()).map_err(write_error)?;
        self.sink.flush().map_err(write_error)?;
        Ok(self.sink)
    }
}

fn write_error(e: std::io::Error) -> Error {
    Error::new(Kind::Io, format!("writing the artifact: {e}"))
}
