//! Writes a data set.

use std::fs::{self, File};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::dataset::{DataFile, DataSet};
use crate::failure::Failure;
use crate::gate::{self, Gate};

const BLOCK: usize = 1 << 20;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Files written at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: u16,
}

/// Writes the files of the lines `SIZE<TAB>PATH` below the root, and nothing is synced.
pub fn run(data: &DataSet, options: &Options, lines: &[u8]) -> Result<Value, Failure> {
    let files = Arc::new(data.files(lines)?);
    let next = Arc::new(AtomicUsize::new(0));
    let worker = |_| {
        let (files, next) = (files.clone(), next.clone());
        move |gate: &Gate<u64>| {
            let mut block = vec![0; BLOCK];
            let mut bytes = 0;
            let _ = gate.wait();
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                write(file, &mut block)?;
                bytes += file.size;
            }
            Ok(bytes)
        }
    };
    let finished = gate::run((0..options.threads).map(worker).collect())?;
    Ok(json!({
        "files": files.len(),
        "bytes": finished.results.iter().sum::<u64>(),
        "seconds": finished.seconds,
        "cpu_s": finished.cpu_s,
    }))
}

fn write(file: &DataFile, block: &mut [u8]) -> Result<(), Failure> {
    let failed = |error| file.failed(error);
    if let Some(directory) = file.location().parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let mut out = File::create(file.location()).map_err(failed)?;
    let mut at = 0;
    while at < file.size {
        let length = (file.size - at).min(block.len() as u64) as usize;
        file.content.fill(at, &mut block[..length]);
        out.write_all(&block[..length]).map_err(failed)?;
        at += length as u64;
    }
    Ok(())
}
