//! Small files being written: each is created, written with one write(2), closed; as many at a time
//! as there are writers. What is timed is what a program waits for.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::checkpoint::{close, directory};
use crate::dataset::{DataFile, DataSet};
use crate::failure::Failure;
use crate::gate::{self, Gate};
use crate::input;
use crate::memory;
use crate::report::{Histogram, merged};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Threads; each takes the next file when it is done with one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub writers: u16,
    /// The most that all content, made ready before the clock starts, may take
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = input::parse_size)]
    pub memory: u64,
}

/// Writes the files of the lines `SIZE<TAB>PATH`; their directories are made before the clock
/// starts.
pub fn run(data: &DataSet, options: &Options, lines: &[u8]) -> Result<Value, Failure> {
    let files = data.files(lines)?;
    for file in &files {
        fs::create_dir_all(directory(file)).map_err(|error| file.failed(error))?;
    }
    let bodies = memory::whole(&files, options.memory)?;
    let jobs: Arc<Vec<_>> = Arc::new(files.into_iter().zip(bodies).collect());
    let taken = Arc::new(AtomicUsize::new(0));
    let worker = |_| {
        let (jobs, taken) = (jobs.clone(), taken.clone());
        move |gate: &Gate<Histogram>| {
            let mut latency = Histogram::default();
            let _ = gate.wait();
            while let Some((file, body)) = jobs.get(taken.fetch_add(1, Ordering::Relaxed)) {
                let begin = Instant::now();
                create(file, body).map_err(|error| file.failed(error))?;
                latency.record(begin.elapsed());
            }
            Ok(latency)
        }
    };
    let finished = gate::run((0..options.writers).map(worker).collect())?;
    Ok(json!({
        "files": jobs.len(),
        "bytes": jobs.iter().map(|(_, body)| body.len()).sum::<usize>(),
        "seconds": finished.seconds,
        "cpu_s": finished.cpu_s,
        "latency_us": merged(&finished.results).json_us(),
    }))
}

fn create(file: &DataFile, body: &[u8]) -> io::Result<()> {
    let mut out = OpenOptions::new().write(true).create_new(true).open(file.location())?;
    out.write_all(body)?;
    close(out)
}
