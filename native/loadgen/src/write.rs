//! A checkpoint being saved: bytes that are in memory go to files, in blocks, and the training loop
//! waits until that returns.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use crate::dataset::{DataFile, DataSet};
use crate::failure::Failure;
use crate::gate::{self, Gate};
use crate::input;
use crate::memory::{self, Extent};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Bytes given to each write(2)
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = input::parse_unit)]
    pub block: u64,
    /// Files for each PATH, a thread each; more than one are PATH.00000, PATH.00001, ...
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub files: u16,
    /// The size of each file
    #[arg(long, value_name = "SIZE", value_parser = input::parse_size)]
    pub size: u64,
    /// fsync(2) each file before it is closed
    #[arg(long)]
    pub fsync: bool,
    /// Write PATH.tmp, and rename it to PATH when it is closed
    #[arg(long)]
    pub rename: bool,
    /// The most that all content, made ready before the clock starts, may take
    #[arg(long, value_name = "SIZE", default_value = "8G", value_parser = input::parse_size)]
    pub memory: u64,
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,
}

/// One file, and where it is written first.
struct Job {
    file: DataFile,
    bytes: Vec<u8>,
    temporary: PathBuf,
}

/// Seconds from the common start until the last call of each kind returned.
struct Times {
    write: f64,
    fsync: f64,
    close: f64,
    rename: f64,
}

pub fn run(data: &DataSet, options: &Options) -> Result<Value, Failure> {
    let jobs = jobs(data, options)?;
    let bytes: u64 = jobs.iter().map(|job| job.file.size).sum();
    let (block, fsync, rename) = (options.block as usize, options.fsync, options.rename);
    let worker = |job: Job| {
        move |gate: &Gate<Times>| {
            let start = gate.wait();
            job.write(start, block, fsync, rename)
        }
    };
    let count = jobs.len();
    let finished = gate::run(jobs.into_iter().map(worker).collect())?;
    let last = |time: fn(&Times) -> f64| finished.results.iter().map(time).fold(0.0, f64::max);
    let mut result = json!({
        "files": count,
        "bytes": bytes,
        "seconds": finished.seconds,
        "cpu_s": finished.cpu_s,
        "seconds_to_return": last(|times| times.write),
        "seconds_to_close": last(|times| times.close),
    });
    if fsync {
        result["seconds_to_fsync"] = last(|times| times.fsync).into();
    }
    if rename {
        result["seconds_to_rename"] = last(|times| times.rename).into();
    }
    Ok(result)
}

/// Everything that is made ready before the clock starts: content, directories.
fn jobs(data: &DataSet, options: &Options) -> Result<Vec<Job>, Failure> {
    let mut files = Vec::new();
    for path in &options.paths {
        let path = path.as_encoded_bytes();
        if options.files == 1 {
            files.push(data.file(path, Some(options.size))?);
            continue;
        }
        for n in 0..options.files {
            let name = [path, format!(".{n:05}").as_bytes()].concat();
            files.push(data.file(&name, Some(options.size))?);
        }
    }
    let extents: Vec<_> =
        files.iter().map(|file| Extent { file, offset: 0, length: file.size }).collect();
    let bodies = memory::bodies(&extents, options.memory)?;
    let mut jobs = Vec::new();
    for (file, bytes) in files.into_iter().zip(bodies) {
        if let Some(directory) = file.location().parent() {
            fs::create_dir_all(directory).map_err(|error| file.failed(error))?;
        }
        let mut temporary = file.location().as_os_str().to_owned();
        temporary.push(".tmp");
        jobs.push(Job { file, bytes, temporary: temporary.into() });
    }
    Ok(jobs)
}

impl Job {
    fn write(
        &self,
        start: Instant,
        block: usize,
        fsync: bool,
        rename: bool,
    ) -> Result<Times, Failure> {
        let failed = |error| self.file.failed(error);
        let now = || start.elapsed().as_secs_f64();
        let target = if rename { &self.temporary } else { self.file.location() };
        let mut out = File::create(target).map_err(failed)?;
        for block in self.bytes.chunks(block) {
            out.write_all(block).map_err(failed)?;
        }
        let write = now();
        if fsync {
            out.sync_all().map_err(failed)?;
        }
        let fsync = now();
        close(out).map_err(failed)?;
        let close = now();
        if rename {
            fs::rename(target, self.file.location()).map_err(failed)?;
        }
        Ok(Times { write, fsync, close, rename: now() })
    }
}

/// close(2), whose error counts: a file system may write the file only then.
#[allow(unsafe_code)]
fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor was owned by the file, which is gone, and is not used again.
    let result = unsafe { libc::close(file.into_raw_fd()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
