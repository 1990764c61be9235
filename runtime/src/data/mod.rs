//! Tensors in files: one `.npz`, a folder of `.npy` named by tensor, or an ONNX `test_data_set_N` folder.

pub mod npy;
pub mod npz;
pub mod pb;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::atomic::AtomicFile;
use crate::error::{Error, Kind, Result};
use crate::tensor::{Tensor, TensorView};

/// What [`read`] found.
#[derive(Debug, Default)]
pub struct Found {
    /// Name and tensor, for each wanted name that is there.
    pub tensors: Vec<(String, Tensor)>,
    /// Names in the data that nobody wanted.
    pub unused: Vec<String>,
}

/// The role of the tensors to read: `test_data_set_N` folders hold both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Input,
    Output,
}

/// A name as part of a file name.
pub fn file_stem(name: &str) -> String {
    name.chars().map(|c| if matches!(c, '/' | '\\' | ':' | '\0') { '_' } else { c }).collect()
}

/// Reads those of the `wanted` tensors that `path` holds. Files of a `test_data_set_N` folder belong to the name that they
/// carry, or else to the wanted name at their number.
pub fn read(path: &Path, role: Role, wanted: &[&str]) -> Result<Found> {
    let meta = fs::metadata(path).map_err(|e| Error::io(path, &e))?;
    if !meta.is_dir() {
        return match path.extension().and_then(|e| e.to_str()) {
            Some("npz") => read_npz(path, wanted),
            _ => Err(Error::new(Kind::Usage, format!("{} is neither a folder nor a .npz file", path.display()))
                .with_help("give one tensor as --input NAME=@FILE.npy")),
        };
    }
    let entries = files(path)?;
    let prefix = if role == Role::Input { "input_" } else { "output_" };
    let mut numbered: Vec<(usize, PathBuf)> = Vec::new();
    for p in &entries {
        let number = name_of(p, "pb").and_then(|n| n.strip_prefix(prefix)?.parse().ok());
        numbered.extend(number.map(|n| (n, p.clone())));
    }
    if !numbered.is_empty() {
        numbered.sort();
        return read_pb(&numbered, wanted);
    }
    let arrays: Vec<(&str, &PathBuf)> = entries.iter().filter_map(|p| Some((name_of(p, "npy")?, p))).collect();
    if arrays.is_empty() {
        let what = format!("{} holds no .npy, and no {prefix}N.pb, files", path.display());
        let sets = data_sets(path)?;
        let help = match sets.first() {
            Some(first) => format!("it holds data sets; give one, such as {}", first.display()),
            None => "give a folder of NAME.npy, a .npz file, or a test_data_set_N folder".into(),
        };
        return Err(Error::new(Kind::Usage, what).with_help(help));
    }
    let mut found = Found::default();
    for (stem, file) in arrays {
        match wanted.iter().find(|w| file_stem(w) == stem) {
            Some(name) => found.tensors.push((name.to_string(), read_file(file)?.1)),
            None => found.unused.push(stem.to_owned()),
        }
    }
    Ok(found)
}

/// The `test_data_set_N` folders in a folder, by number.
pub fn data_sets(path: &Path) -> Result<Vec<PathBuf>> {
    let number = |p: &Path| p.file_name()?.to_str()?.strip_prefix("test_data_set_")?.parse::<usize>().ok();
    let mut sets: Vec<(usize, PathBuf)> = files(path)?.into_iter().filter_map(|p| Some((number(&p)?, p))).collect();
    sets.sort();
    Ok(sets.into_iter().map(|(_, p)| p).collect())
}

/// Reads one tensor file by its extension, with the name that it carries; `-` is an `.npy` on standard input.
pub fn read_file(path: &Path) -> Result<(String, Tensor)> {
    let bytes = match path.as_os_str() == "-" {
        true => {
            let mut all = Vec::new();
            std::io::stdin().lock().read_to_end(&mut all).map(|_| all)
        }
        false => fs::read(path),
    };
    let bytes = bytes.map_err(|e| Error::io(path, &e))?;
    let named = match path.extension().and_then(|e| e.to_str()) {
        Some("pb") => pb::read(&bytes),
        _ => npy::read(&bytes).map(|t| (String::new(), t)),
    };
    named.map_err(|e| e.context(path.display()))
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path).and_then(|d| d.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>());
    let mut entries = entries.map_err(|e| Error::io(path, &e))?;
    // Reading a pipe waits for whoever writes it.
    entries.retain(|p| p.is_file() || p.is_dir());
    entries.sort();
    Ok(entries)
}

fn name_of<'a>(path: &'a Path, extension: &str) -> Option<&'a str> {
    path.file_name()?.to_str()?.strip_suffix(extension)?.strip_suffix('.')
}

fn read_npz(path: &Path, wanted: &[&str]) -> Result<Found> {
    let mut archive = npz::Npz::open(path)?;
    let names = archive.names().to_vec();
    let mut found = Found::default();
    for name in names {
        if wanted.contains(&name.as_str()) {
            let tensor = archive.read(&name).map_err(|e| e.context(path.display()))?;
            found.tensors.push((name, tensor));
        } else {
            found.unused.push(name);
        }
    }
    Ok(found)
}

fn read_pb(files: &[(usize, PathBuf)], wanted: &[&str]) -> Result<Found> {
    let mut found = Found::default();
    for (number, path) in files {
        let (name, tensor) = read_file(path)?;
        let by_name = wanted.iter().find(|w| **w == name);
        match by_name.or(wanted.get(*number)) {
            Some(w) if found.tensors.iter().any(|(n, _)| n == w) => {
                let what = format!("{}: a second tensor for {w}", path.display());
                return Err(Error::new(Kind::Data, what));
            }
            Some(w) => found.tensors.push((w.to_string(), tensor)),
            None => found.unused.push(name),
        }
    }
    Ok(found)
}

/// Writes tensors to a `.npz` file, to a single `.npy`, or as `NAME.npy` into a folder; all files appear together.
pub fn write(path: &Path, tensors: &[(&str, TensorView)]) -> Result<()> {
    if path.as_os_str() == "-" {
        return Err(Error::new(Kind::Usage, "tensors are not written to standard output")
            .with_help("name a .npz file or a folder"));
    }
    match (path.extension().and_then(|e| e.to_str()), tensors) {
        (Some("npz"), _) => npz::write(tensors.iter().copied(), AtomicFile::create(path)?)
            .map_err(|e| e.context(path.display()))?
            .commit(),
        (Some("npy"), [(_, tensor)]) => {
            let mut file = AtomicFile::create(path)?;
            npy::write(*tensor, &mut file).map_err(|e| e.context(path.display()))?;
            file.commit()
        }
        (Some("npy"), _) => {
            let what = format!("{} can hold one tensor, there are {}", path.display(), tensors.len());
            Err(Error::new(Kind::Usage, what).with_help("name a .npz file or a folder"))
        }
        _ => {
            fs::create_dir_all(path).map_err(|e| Error::io(path, &e))?;
            let mut files = Vec::new();
            for (name, tensor) in tensors {
                let mut file = AtomicFile::create(&path.join(format!("{}.npy", file_stem(name))))?;
                npy::write(*tensor, &mut file).map_err(|e| e.context(name))?;
                files.push(file);
            }
            files.into_iter().try_for_each(AtomicFile::commit)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_f32(&[values.len()], values).unwrap()
    }

    #[test]
    fn npz_folder_and_data_set_read_alike() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (tensor(&[1.0, 2.0]), tensor(&[3.0]));
        let all = [("a", a.view()), ("x/b", b.view())];
        write(&dir.path().join("t.npz"), &all).unwrap();
        write(&dir.path().join("folder"), &all).unwrap();
        let set = dir.path().join("test_data_set_0");
        fs::create_dir(&set).unwrap();
        fs::write(set.join("input_0.pb"), pb::write("x/b", b.view()).unwrap()).unwrap();
        fs::write(set.join("input_1.pb"), pb::write("other", b.view()).unwrap()).unwrap();
        fs::write(set.join("output_0.pb"), pb::write("", a.view()).unwrap()).unwrap();
        for name in ["t.npz", "folder"] {
            let found = read(&dir.path().join(name), Role::Input, &["x/b"]).unwrap();
            assert_eq!((found.tensors[0].1.bytes(), found.tensors.len()), (b.bytes(), 1));
            assert_eq!(found.unused, ["a"]);
        }
        let found = read(&set, Role::Input, &["x/b", "second"]).unwrap();
        let names: Vec<&str> = found.tensors.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["x/b", "second"]);
        let found = read(&set, Role::Output, &["y"]).unwrap();
        assert_eq!((found.tensors[0].0.as_str(), found.tensors[0].1.bytes()), ("y", a.bytes()));
        assert_eq!(data_sets(dir.path()).unwrap(), [set]);
        let e = read(dir.path(), Role::Input, &["y"]).unwrap_err();
        assert!(e.help.unwrap().contains("test_data_set_0"));
    }

    #[test]
    fn equal_tensors_give_equal_files() {
        let dir = tempfile::tempdir().unwrap();
        let a = tensor(&[1.0, 2.0]);
        let (one, two) = (dir.path().join("1.npz"), dir.path().join("2.npz"));
        write(&one, &[("a", a.view())]).unwrap();
        write(&two, &[("a", a.view())]).unwrap();
        assert_eq!(fs::read(one).unwrap(), fs::read(two).unwrap());
        assert_eq!(write(&dir.path().join("x.npy"), &[]).unwrap_err().kind, Kind::Usage);
    }
}
