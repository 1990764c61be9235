//! Finished artifacts by what they were made from.
//!
//! An entry is one file: a hash of the rest, the length of the lock, the lock, the artifact. It appears by a rename, so that processes can share the folder; an
//! entry that does not have its hash is as good as none.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use tersor_runtime::atomic::AtomicFile;

const MAGIC: &[u8; 8] = b"TSRCACH1";
const HEAD: usize = 48;

/// A folder of entries.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// The cache in that folder, which need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Cache {
        Cache { dir: dir.into() }
    }
    /// The user's cache, where the environment names one.
    pub fn of_user() -> Option<Cache> {
        let absolute = |v: &str| std::env::var_os(v).map(PathBuf::from).filter(|p| p.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(Cache::new(base.join("tersor")))
    }
    fn path(&self, key: &blake3::Hash) -> PathBuf {
        self.dir.join(format!("{}.entry", key.to_hex()))
    }
    /// The lock's text and the artifact.
    pub fn get(&self, key: &blake3::Hash) -> Option<(String, Vec<u8>)> {
        let mut bytes = fs::read(self.path(key)).ok()?;
        let hash: [u8; 32] = bytes.get(8..40)?.try_into().ok()?;
        if bytes.get(..8)? != MAGIC || *blake3::hash(&bytes[40..]).as_bytes() != hash {
            return None;
        }
        let lock = u64::from_le_bytes(bytes.get(40..HEAD)?.try_into().ok()?) as usize;
        let text = String::from_utf8(bytes.get(HEAD..HEAD.checked_add(lock)?)?.to_vec()).ok()?;
        bytes.drain(..HEAD + lock);
        Some((text, bytes))
    }
    /// Keeps an artifact. What keeps it from being kept is no failure of the compilation.
    pub fn put(&self, key: &blake3::Hash, lock: &str, artifact: &Path) -> std::io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let artifact = fs::read(artifact)?;
        let length = (lock.len() as u64).to_le_bytes();
        let mut h = blake3::Hasher::new();
        for part in [&length[..], lock.as_bytes(), &artifact] {
            h.update(part);
        }
        let other = |e: tersor_runtime::Error| std::io::Error::other(e.message);
        let mut file = AtomicFile::create(&self.path(key)).map_err(other)?;
        for part in [&MAGIC[..], h.finalize().as_bytes(), &length, lock.as_bytes(), &artifact] {
            file.write_all(part)?;
        }
        file.commit().map_err(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_entries_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("c"));
        let artifact = dir.path().join("a");
        fs::write(&artifact, b"artifact").unwrap();
        let key = blake3::hash(b"key");
        assert!(cache.get(&key).is_none());
        cache.put(&key, "lock", &artifact).unwrap();
        assert_eq!(cache.get(&key), Some(("lock".into(), b"artifact".to_vec())));
        let whole = fs::read(cache.path(&key)).unwrap();
        for i in 0..whole.len() {
            let mut bad = whole.clone();
            bad[i] ^= 1;
            fs::write(cache.path(&key), &bad).unwrap();
            assert!(cache.get(&key).is_none(), "byte {i}");
            fs::write(cache.path(&key), &whole[..i]).unwrap();
            assert!(cache.get(&key).is_none(), "cut at {i}");
        }
    }
}
