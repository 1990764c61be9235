//! NumPy's `.npz`: a zip file of `.npy` files, one for each name.

use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::data::npy;
use crate::error::{Error, Kind, Result};
use crate::tensor::{Tensor, TensorView};

/// An open archive.
pub struct Npz {
    archive: ZipArchive<BufReader<File>>,
    names: Vec<String>,
}

impl Npz {
    pub fn open(path: &Path) -> Result<Npz> {
        let file = File::open(path).map_err(|e| Error::io(path, &e))?;
        let archive = ZipArchive::new(BufReader::new(file))
            .map_err(|e| Error::new(Kind::Data, format!("{}: not a .npz file: {e}", path.display())))?;
        let names = (0..archive.len()).filter_map(|i| archive.name_for_index(i)?.ok());
        let names = names.map(|n| n.strip_suffix(".npy").unwrap_or(&n).to_owned()).collect::<Vec<_>>();
        if names.len() != archive.len() {
            return Err(Error::new(Kind::Data, format!("{}: a name in it is not text", path.display())));
        }
        Ok(Npz { archive, names })
    }

    /// The arrays' names, in the order stored.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Reads the array of that name.
    pub fn read(&mut self, name: &str) -> Result<Tensor> {
        let bad = |e: &dyn std::fmt::Display| Error::new(Kind::Data, format!("{name}: {e}"));
        let index = self.names.iter().position(|n| n == name).ok_or_else(|| bad(&"no such array"))?;
        let entry = self.archive.by_index(index).map_err(|e| bad(&e))?;
        let size = entry.size();
        let mut bytes = Vec::new();
        let reserve = usize::try_from(size).unwrap_or(usize::MAX).min(1 << 30);
        bytes
            .try_reserve(reserve)
            .map_err(|_| Error::new(Kind::Memory, format!("{name}: {size} bytes are too many")))?;
        // A damaged entry may inflate to more than it says.
        entry.take(size).read_to_end(&mut bytes).map_err(|e| bad(&e))?;
        npy::read(&bytes).map_err(|e| e.context(name))
    }
}

/// Writes arrays, uncompressed and with a fixed date, so that equal arrays give equal files.
pub fn write<'a, W: Write + Seek>(tensors: impl IntoIterator<Item = (&'a str, TensorView<'a>)>, sink: W) -> Result<W> {
    let failed = |e: zip::result::ZipError| Error::new(Kind::Io, format!("writing .npz: {e}"));
    let mut archive = ZipWriter::new(sink);
    for (name, tensor) in tensors {
        let large = tensor.bytes.len() as u64 > u64::from(u32::MAX) - (1 << 20);
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default())
            .large_file(large);
        archive.start_file(format!("{name}.npy"), options).map_err(failed)?;
        npy::write(tensor, &mut archive).map_err(|e| e.context(name))?;
    }
    archive.finish().map_err(failed)
}
