//! Files that appear complete or not at all: written beside their destination, then renamed.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Temporary files of this process that are there now.
static TEMPORARY: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn temporary() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what has not been committed, before a process ends without unwinding.
pub fn remove_temporary() {
    temporary().iter().for_each(|p| drop(fs::remove_file(p)));
}

/// A file under a temporary name; without `commit` it is removed when dropped.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    temporary: PathBuf,
    destination: PathBuf,
    committed: bool,
}

impl AtomicFile {
    pub fn create(destination: &Path) -> Result<AtomicFile> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Some(name) = destination.file_name() else {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "not a file name");
            return Err(Error::io(destination, &error));
        };
        let unique = format!(".{}.{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(unique);
        let path = destination.with_file_name(hidden);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|e| Error::io(destination, &e))?;
        temporary().insert(path.clone());
        Ok(AtomicFile { file, temporary: path, destination: destination.to_owned(), committed: false })
    }

    /// Gives the file its name, in place of any older one.
    pub fn commit(mut self) -> Result<()> {
        let result = self.file.flush().and_then(|()| fs::rename(&self.temporary, &self.destination));
        result.map_err(|e| Error::io(&self.destination, &e))?;
        self.committed = true;
        Ok(())
    }

    pub fn destination(&self) -> &Path {
        &self.destination
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.temporary);
        }
        temporary().remove(&self.temporary);
    }
}

/// The name of a file that goes with the process, or when this is dropped.
#[derive(Debug)]
pub struct Temporary(PathBuf);

impl Temporary {
    /// A name in the system's folder for such files; the file itself is not made.
    pub fn new(extension: &str) -> Temporary {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tersor.{}.{}.{extension}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Temporary::at(std::env::temp_dir().join(name))
    }

    /// The same name with another extension.
    pub fn with_extension(&self, extension: &str) -> Temporary {
        Temporary::at(self.0.with_extension(extension))
    }

    fn at(path: PathBuf) -> Temporary {
        temporary().insert(path.clone());
        Temporary(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        temporary().remove(&self.0);
    }
}

impl Read for AtomicFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read(buf)
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.file.seek(pos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_appears_without_commit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.bin");
        let mut f = AtomicFile::create(&path).unwrap();
        f.write_all(b"half").unwrap();
        drop(f);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut f = AtomicFile::create(&path).unwrap();
        f.write_all(b"whole").unwrap();
        f.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        let mut f = AtomicFile::create(&path).unwrap();
        f.write_all(b"cut").unwrap();
        remove_temporary();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
