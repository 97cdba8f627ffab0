//! A checkpoint being saved, call by call as its framework saves it; the training loop waits until
//! the last call returns.
//!
//! ```text
//! torch-save    open(O_CREAT | O_TRUNC), a writev for each tensor, a write of the tail, close
//! torch-dcp     stat, access(W_OK), mkdir, stat of the marker;
//!               each rank's file: open(O_CREAT | O_TRUNC), writes with an lseek before each
//!               tensor, fsync, close;
//!               then MARKER.tmp: open, fsync, write, close; stat, unlink of the old marker, rename
//! safetensors   open(O_CREAT | O_EXCL, 0600) of a temporary file, ftruncate to the full size,
//!               writes, rename while it is open, close
//! ```
//!
//! Seen with strace: torch 2.13.0, safetensors 0.8.0.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Seek, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use serde_json::{Value, json};

use crate::dataset::{DataFile, DataSet};
use crate::failure::Failure;
use crate::gate::{self, Gate};
use crate::input;
use crate::memory;

/// The tensors of a checkpoint are of this size.
const TENSOR: usize = 4 << 20;
/// torch.save: the zip entry's header, which goes with its tensor; the directory at the end.
const ENTRY: usize = 64;
const TAIL: usize = 4 << 10;
/// torch DCP: what is written before and after each tensor.
const BEFORE: usize = 704;
const AFTER: usize = 873;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Writer {
    TorchSave,
    TorchDcp,
    Safetensors,
}

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Whose calls
    #[arg(long, value_enum)]
    pub writer: Writer,
    /// fsync(2) each file before it is closed, also where the framework does not
    #[arg(long)]
    pub fsync: bool,
    /// The most that all content, made ready before the clock starts, may take
    #[arg(long, value_name = "SIZE", default_value = "8G", value_parser = input::parse_size)]
    pub memory: u64,
}

struct Job {
    file: DataFile,
    bytes: Vec<u8>,
}

/// When a thread began, and when the file that it saves was closed: nanoseconds since 1970.
struct Times {
    started: u64,
    closed: u64,
}

/// Saves the files of the lines `SIZE<TAB>PATH`, a thread each. The last line of torch-dcp is the
/// marker, which is written when all others are closed.
pub fn run(data: &DataSet, options: &Options, lines: &[u8]) -> Result<Value, Failure> {
    let mut jobs = jobs(data, options, lines)?;
    let (count, bytes) = (jobs.len(), jobs.iter().map(|job| job.bytes.len()).sum::<usize>());
    let fsync = options.fsync;
    let finished = match options.writer {
        Writer::TorchSave => each(jobs, move |job| job.torch_save(fsync))?,
        Writer::Safetensors => each(jobs, move |job| job.safetensors(fsync))?,
        Writer::TorchDcp => {
            let marker = jobs.pop().filter(|_| !jobs.is_empty()).ok_or_else(|| {
                Failure::Usage("torch-dcp needs a rank's file and the marker".into())
            })?;
            torch_dcp(jobs, marker)?
        }
    };
    Ok(json!({
        "files": count,
        "bytes": bytes,
        "seconds": finished.seconds,
        "cpu_s": finished.cpu_s,
        "started_ns": finished.results.iter().map(|times| times.started).min(),
        "first_closed_ns": finished.results.iter().map(|times| times.closed).min(),
    }))
}

/// Everything that is made ready before the clock starts.
fn jobs(data: &DataSet, options: &Options, lines: &[u8]) -> Result<Vec<Job>, Failure> {
    let files = data.files(lines)?;
    if files.is_empty() {
        return Err(Failure::Usage("standard input has no line".into()));
    }
    let bodies = memory::whole(&files, options.memory)?;
    if options.writer != Writer::TorchDcp {
        for file in &files {
            fs::create_dir_all(directory(file)).map_err(|error| file.failed(error))?;
        }
    }
    Ok(files.into_iter().zip(bodies).map(|(file, bytes)| Job { file, bytes }).collect())
}

pub fn directory(file: &DataFile) -> &Path {
    file.location().parent().expect("a path below the root has a parent")
}

fn each(
    jobs: Vec<Job>,
    save: impl Fn(&Job) -> io::Result<()> + Copy + Send + 'static,
) -> Result<gate::Finished<Times>, Failure> {
    let worker = |job: Job| {
        move |gate: &Gate<Times>| {
            let _ = gate.wait();
            let started = gate::now_ns();
            save(&job).map_err(|error| job.file.failed(error))?;
            Ok(Times { started, closed: gate::now_ns() })
        }
    };
    gate::run(jobs.into_iter().map(worker).collect())
}

fn torch_dcp(ranks: Vec<Job>, marker: Job) -> Result<gate::Finished<Times>, Failure> {
    let open = AtomicUsize::new(ranks.len());
    let ready = Barrier::new(ranks.len());
    let shared = Arc::new((marker, open, ready));
    let worker = |(rank, job): (usize, Job)| {
        let shared = shared.clone();
        move |gate: &Gate<Times>| {
            let (marker, open, ready) = &*shared;
            let _ = gate.wait();
            let started = gate::now_ns();
            if rank == 0 {
                marker.dcp_directory().map_err(|error| marker.file.failed(error))?;
            }
            ready.wait();
            job.dcp_rank().map_err(|error| job.file.failed(error))?;
            let closed = gate::now_ns();
            if open.fetch_sub(1, Ordering::AcqRel) == 1 {
                marker.dcp_marker().map_err(|error| marker.file.failed(error))?;
            }
            Ok(Times { started, closed })
        }
    };
    gate::run(ranks.into_iter().enumerate().map(worker).collect())
}

impl Job {
    fn torch_save(&self, fsync: bool) -> io::Result<()> {
        let mut out = File::create(self.file.location())?;
        let (tensors, tail) = self.bytes.split_at(self.bytes.len().saturating_sub(TAIL));
        for entry in tensors.chunks(ENTRY + TENSOR) {
            let (header, tensor) = entry.split_at(entry.len().min(ENTRY));
            let written = out.write_vectored(&[IoSlice::new(header), IoSlice::new(tensor)])?;
            out.write_all(&entry[written..])?;
        }
        out.write_all(tail)?;
        finish(out, fsync)
    }

    fn safetensors(&self, fsync: bool) -> io::Result<()> {
        let temporary = directory(&self.file).join(format!(".tmp{:06}", std::process::id()));
        let mut out =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        out.set_len(self.file.size)?;
        for block in self.bytes.chunks(TENSOR) {
            out.write_all(block)?;
        }
        fs::rename(&temporary, self.file.location())?;
        finish(out, fsync)
    }

    fn dcp_directory(&self) -> io::Result<()> {
        let directory = directory(&self.file);
        let _ = fs::metadata(directory);
        writable(directory.parent().unwrap_or(directory))?;
        fs::create_dir_all(directory)?;
        let _ = fs::metadata(self.file.location());
        Ok(())
    }

    fn dcp_rank(&self) -> io::Result<()> {
        let mut out = File::create(self.file.location())?;
        for item in self.bytes.chunks(BEFORE + TENSOR + AFTER) {
            let _ = out.stream_position()?;
            let (before, rest) = item.split_at(item.len().min(BEFORE));
            let (tensor, after) = rest.split_at(rest.len().min(TENSOR));
            for piece in [before, tensor, after] {
                out.write_all(piece)?;
            }
        }
        finish(out, true)
    }

    /// The fsync is before the write: that is what torch does.
    fn dcp_marker(&self) -> io::Result<()> {
        let marker = self.file.location();
        let mut temporary = marker.as_os_str().to_owned();
        temporary.push(".tmp");
        let mut out = File::create(&temporary)?;
        out.sync_all()?;
        out.write_all(&self.bytes)?;
        finish(out, false)?;
        if fs::metadata(marker).is_ok() {
            fs::remove_file(marker)?;
        }
        fs::rename(&temporary, marker)
    }
}

fn finish(out: File, fsync: bool) -> io::Result<()> {
    if fsync {
        out.sync_all()?;
    }
    close(out)
}

/// close(2), whose error counts: a file system may write the file only then.
#[allow(unsafe_code)]
pub fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor was owned by the file, which is gone, and is not used again.
    let result = unsafe { libc::close(file.into_raw_fd()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// access(2) with W_OK.
#[allow(unsafe_code)]
fn writable(path: &Path) -> io::Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the string ends in a zero byte and lives until the call returns.
    let result = unsafe { libc::access(path.as_ptr(), libc::W_OK) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
