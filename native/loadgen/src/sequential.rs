//! A large file from its beginning to its end: a checkpoint being loaded, a shard being scanned.

use std::fs::File;
use std::io::{self, Read};
use std::time::Instant;

use serde_json::{Value, json};

use crate::dataset::{DataFile, DataSet};
use crate::failure::Failure;
use crate::gate::{self, Gate};
use crate::input;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Bytes asked for with each read(2)
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = input::parse_unit)]
    pub block: u64,
    /// The files' size, where it is not to be asked of the file system before the clock starts
    #[arg(long, value_name = "SIZE", value_parser = input::parse_size)]
    pub size: Option<u64>,
    /// Compare nothing, to learn what comparing costs; never for a result
    #[arg(long)]
    pub no_check: bool,
    /// One thread each
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<std::ffi::OsString>,
}

struct One {
    bytes: u64,
    seconds: f64,
    first_byte_s: f64,
}

pub fn run(data: &DataSet, options: &Options) -> Result<Value, Failure> {
    let mut workers = Vec::new();
    for path in &options.paths {
        let file = data.file(path.as_encoded_bytes(), options.size)?;
        let hashes = expected(&file, options.block);
        workers.push(reader(file, hashes, options.block as usize, !options.no_check));
    }
    let finished = gate::run(workers)?;
    let all = &finished.results;
    let per_thread: Vec<_> = all
        .iter()
        .map(|one| {
            json!({"bytes": one.bytes, "seconds": one.seconds, "first_byte_s": one.first_byte_s})
        })
        .collect();
    Ok(json!({
        "bytes": all.iter().map(|one| one.bytes).sum::<u64>(),
        "seconds": finished.seconds,
        "cpu_s": finished.cpu_s,
        "first_byte_s": all.iter().map(|one| one.first_byte_s).fold(0.0, f64::max),
        "checked": !options.no_check,
        "per_thread": per_thread,
    }))
}

fn expected(file: &DataFile, block: u64) -> Vec<u64> {
    let offsets: Vec<u64> = (0..file.size).step_by(block as usize).collect();
    gate::prepare(&offsets, |&at| file.content.hash(at, block.min(file.size - at)))
}

fn reader(
    file: DataFile,
    hashes: Vec<u64>,
    block: usize,
    check: bool,
) -> impl FnOnce(&Gate<One>) -> Result<One, Failure> {
    move |gate| {
        // Written once, so that its pages are there.
        let mut buffer = vec![0xA5; block];
        let start = gate.wait();
        let opened = file.open()?;
        let (mut bytes, mut first_byte_s) = (0, None);
        loop {
            let length = read_block(&opened, &mut buffer, start, &mut first_byte_s)
                .map_err(|error| file.failed(error))?;
            let at = bytes;
            bytes += length as u64;
            let ended = length < block;
            if bytes > file.size || (ended && bytes < file.size) {
                return Err(file.wrong_length(bytes, file.size));
            }
            if check && length > 0 {
                file.verify(at, &buffer[..length], hashes[at as usize / block])?;
            }
            if ended {
                break;
            }
        }
        drop(opened);
        let seconds = start.elapsed().as_secs_f64();
        Ok(One { bytes, seconds, first_byte_s: first_byte_s.unwrap_or(seconds) })
    }
}

/// Reads until the buffer is full or the file ends; notes when the first read(2) ended.
fn read_block(
    mut file: &File,
    buffer: &mut [u8],
    start: Instant,
    first_byte_s: &mut Option<f64>,
) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        let got = match file.read(&mut buffer[length..]) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        first_byte_s.get_or_insert_with(|| start.elapsed().as_secs_f64());
        if got == 0 {
            break;
        }
        length += got;
    }
    Ok(length)
}
