//! The directory of cache files: `objects/ab/cd/<ino>`, one sparse file for each object version.
//!
//! Offsets in the file are offsets in the object; what is not recorded in the index is not there,
//! whatever the file holds.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::copy::Copy;
use crate::index::records::Stamp;
use crate::log;
use crate::sys::file;

/// The cache files of one lake.
pub struct Files {
    directory: PathBuf,
    boot: [u8; 8],
    /// Whether the file system can free a part of a file, as far as is known.
    punches: AtomicBool,
}

impl Files {
    pub fn new(lake_directory: &Path, boot: [u8; 8]) -> Self {
        Self { directory: lake_directory.to_owned(), boot, punches: AtomicBool::new(true) }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The cache file of `ino`, to be passed through: it is not written.
    pub fn open(&self, ino: u64, size: u64) -> io::Result<Copy> {
        Ok(Copy::new(file::open(&file::path(&self.directory, ino))?, size))
    }

    /// The same, to be filled.
    pub fn open_to_fill(&self, ino: u64, size: u64) -> io::Result<Copy> {
        let file = file::open_to_write(&file::path(&self.directory, ino))?;
        file::no_read_ahead(&file); // What it would bring was not compared by anybody.
        Ok(Copy::new(file, size))
    }

    /// A new, empty cache file. One that was there before goes on for whoever has it open, the
    /// kernel among them. The caller has recorded the file in the index (C3).
    pub fn create(&self, ino: u64, size: u64) -> io::Result<Copy> {
        let path = file::path(&self.directory, ino);
        let made = match file::create(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                file::make_directories(path.parent().unwrap_or(&self.directory))?;
                file::create(&path)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                std::fs::remove_file(&path)?;
                file::create(&path)
            }
            made => made,
        };
        let made = made?;
        file::no_read_ahead(&made);
        Ok(Copy::new(made, size))
    }

    /// The file at `path`, which holds all of an object, becomes its cache file, in the place of
    /// one that is there; what its verification is recorded as. The caller has recorded it (C3).
    pub fn take_in(&self, ino: u64, size: u64, path: &Path) -> io::Result<Stamp> {
        let place = file::path(&self.directory, ino);
        file::make_directories(place.parent().unwrap_or(&self.directory))?;
        std::fs::rename(path, &place)?;
        let copy = self.open(ino, size)?;
        let stamp = self.stamp(&copy)?;
        if stamp.size == size { Ok(stamp) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// Remove the cache file of `ino`, if there is one.
    pub fn unlink(&self, ino: u64) -> io::Result<()> {
        match std::fs::remove_file(file::path(&self.directory, ino)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether parts of files can be freed, as far as is known.
    pub fn punches(&self) -> bool {
        self.punches.load(Ordering::Relaxed)
    }

    /// Free ranges of a cache file that nobody has open; a file that is gone has none.
    pub fn punch(&self, ino: u64, ranges: &[(u64, u64)]) -> io::Result<()> {
        let file = match file::open_to_write(&file::path(&self.directory, ino)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        for &(lo, hi) in ranges {
            if let Err(error) = file::punch(&file, lo, hi) {
                if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
                    && self.punches.swap(false, Ordering::Relaxed)
                {
                    log::warning(&format!(
                        "the cache's file system cannot free parts of a file ({error}): \
                         incomplete files are evicted whole"
                    ));
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// What a verification of `copy` now would be recorded as.
    pub fn stamp(&self, copy: &Copy) -> io::Result<Stamp> {
        let (size, ctime_ns) = file::size_and_ctime(&copy.file)?;
        Ok(Stamp { boot: self.boot, size, ctime_ns })
    }

    /// Put every cache file aside, for `sweep` to delete: the index knows none of them.
    pub fn start_over(&self) -> io::Result<()> {
        let objects = self.directory.join("objects");
        for number in 0.. {
            let aside = self.directory.join(format!("objects.old-{number}"));
            match std::fs::rename(&objects, aside) {
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) => {}
                done => {
                    done?;
                    break;
                }
            }
        }
        file::make_directories(&objects)
    }

    /// Delete what `start_over` has put aside, now or before an earlier end.
    pub fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with("objects.old-") {
                // What cannot be deleted now is left to the next start.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}
