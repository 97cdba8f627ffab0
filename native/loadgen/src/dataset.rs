//! The files of a data set: where they are, what they should contain, and the one place where
//! what was read is compared with it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::content::Content;
use crate::failure::Failure;
use crate::input;

/// A tree of files whose content follows from one seed.
#[derive(Clone, Debug, clap::Args)]
pub struct DataSet {
    /// The directory that paths are relative to
    #[arg(long, value_name = "DIR", default_value = ".", global = true)]
    pub root: PathBuf,
    /// The seed of the content
    #[arg(long, default_value_t = 0, global = true)]
    pub seed: u64,
}

/// One file: its name in the data set, its place on this machine, its content.
#[derive(Debug)]
pub struct DataFile {
    location: PathBuf,
    pub content: Content,
    /// In bytes; 0 where only ranges are read.
    pub size: u64,
}

impl DataSet {
    /// The file at `path`. Without a size the file is asked for it, at once: then its lookup is
    /// over before any clock starts, and a truncated file is not noticed.
    pub fn file(&self, path: &[u8], size: Option<u64>) -> Result<DataFile, Failure> {
        let location = self.locate(path)?;
        let size = match size {
            Some(size) => size,
            None => fs::metadata(&location).map_err(|error| at(&location, error))?.len(),
        };
        let content = Content::of(self.seed, path, size)?;
        Ok(DataFile { location, content, size })
    }

    /// The files of the lines `SIZE<TAB>PATH`.
    pub fn files(&self, lines: &[u8]) -> Result<Vec<DataFile>, Failure> {
        let file = |line| {
            let [size, path] = input::fields(line)?;
            self.file(path, Some(input::number(line, size)?))
        };
        input::lines(lines).map(file).collect()
    }

    /// A file of which only ranges will be read.
    pub fn file_of_ranges(&self, path: &[u8]) -> Result<DataFile, Failure> {
        let location = self.locate(path)?;
        let content = Content::of_unknown_size(self.seed, path)?;
        Ok(DataFile { location, content, size: 0 })
    }

    /// A path of the data set on this machine; one that leaves the root is a usage error.
    pub fn locate(&self, path: &[u8]) -> Result<PathBuf, Failure> {
        let relative = Path::new(OsStr::from_bytes(path));
        let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if path.is_empty() || !relative.components().all(inside) {
            return Err(Failure::Usage(format!("{relative:?} is no path below the root")));
        }
        Ok(self.root.join(relative))
    }
}

fn at(location: &Path, error: io::Error) -> Failure {
    Failure::Io { path: location.display().to_string(), error }
}

impl DataFile {
    #[must_use]
    pub fn location(&self) -> &Path {
        &self.location
    }

    /// An error of a call on this file.
    pub fn failed(&self, error: io::Error) -> Failure {
        at(&self.location, error)
    }

    pub fn open(&self) -> Result<File, Failure> {
        File::open(&self.location).map_err(|error| self.failed(error))
    }

    /// The file turned out to have `got` bytes.
    #[must_use]
    pub fn wrong_length(&self, got: u64, wanted: u64) -> Failure {
        Failure::WrongLength { path: self.location.display().to_string(), got, wanted }
    }

    /// Compares the bytes read at `offset` with the hash that was expected of them.
    pub fn verify(&self, offset: u64, bytes: &[u8], expected: u64) -> Result<(), Failure> {
        if xxh3_64(bytes) == expected {
            return Ok(());
        }
        // Bytes that compare equal now were another thing a moment ago: a mapping can change.
        let offset = self.content.difference(offset, bytes).unwrap_or(offset);
        Err(Failure::Wrong { path: self.location.display().to_string(), offset })
    }

    /// Compares the bytes read at `offset` with the content itself.
    pub fn compare(&self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        match self.content.difference(offset, bytes) {
            None => Ok(()),
            Some(offset) => {
                Err(Failure::Wrong { path: self.location.display().to_string(), offset })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let data = DataSet { root: "/data".into(), seed: 1 };
        assert_eq!(data.locate(b"a/b\xff").unwrap().as_os_str().as_bytes(), b"/data/a/b\xff");
        for wrong in [b"/etc/x" as &[u8], b"../x", b"a/../../x", b""] {
            assert!(matches!(data.locate(wrong), Err(Failure::Usage(_))));
        }
    }

    #[test]
    fn a_wrong_byte_is_named_by_its_offset() {
        let data = DataSet { root: "/data".into(), seed: 1 };
        let file = data.file(b"f", Some(1000)).unwrap();
        let mut bytes = file.content.bytes(100, 500);
        let expected = file.content.hash(100, 500);
        file.verify(100, &bytes, expected).unwrap();
        file.compare(100, &bytes).unwrap();
        bytes[321] ^= 4;
        for found in [file.verify(100, &bytes, expected), file.compare(100, &bytes)] {
            let failure = found.unwrap_err();
            assert_eq!(failure.to_string(), "/data/f: wrong byte at offset 421");
            assert_eq!(failure.exit_code(), 3);
        }
    }
}
