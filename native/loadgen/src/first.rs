//! The first byte of a file that is not there yet: below a mount point whose mount is being made.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::dataset::{DataFile, DataSet};
use crate::failure::Failure;
use crate::gate;
use crate::input;

/// How long after an open(2) that failed the next one is tried.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The file's size
    #[arg(long, value_name = "SIZE", value_parser = input::parse_size)]
    pub size: u64,
    /// Give up after so many seconds
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    pub limit_s: f64,
    #[arg(value_name = "PATH")]
    pub path: OsString,
}

/// Opens the file as soon as it can be opened, reads it to its end, and says when the first read(2)
/// returned, in nanoseconds since 1970.
pub fn run(data: &DataSet, options: &Options) -> Result<Value, Failure> {
    let file = data.file(options.path.as_encoded_bytes(), Some(options.size))?;
    let failed = |error| file.failed(error);
    let mut opened = open(&file, options.limit_s)?;
    let mut bytes = vec![0; options.size as usize];
    let first = match opened.read(&mut bytes).map_err(failed)? {
        0 if options.size > 0 => return Err(file.wrong_length(0, options.size)),
        got => got,
    };
    let at_ns = gate::now_ns();
    match opened.read_exact(&mut bytes[first..]) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            return Err(file.wrong_length(first as u64, options.size));
        }
        other => other.map_err(failed)?,
    }
    file.compare(0, &bytes)?;
    Ok(json!({ "bytes": options.size, "first_byte_ns": at_ns }))
}

fn open(file: &DataFile, limit_s: f64) -> Result<File, Failure> {
    let begin = Instant::now();
    loop {
        match file.open() {
            Ok(opened) => return Ok(opened),
            Err(failure) if begin.elapsed().as_secs_f64() > limit_s => return Err(failure),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}
