//! Walks a tree, as find and every indexer does: each directory's own ones in the order in which it
//! shows them, with all below the first before the second.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::dataset::DataSet;
use crate::failure::Failure;
use crate::gate::{self, Gate};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// lstat(2) every entry, as find -newer and ls -l do
    #[arg(long)]
    pub stat: bool,
    /// The directory, below the root
    #[arg(value_name = "DIR", default_value = ".")]
    pub directory: std::ffi::OsString,
}

#[derive(Default)]
struct Count {
    entries: u64,
    directories: u64,
    bytes: u64,
}

pub fn run(data: &DataSet, options: &Options) -> Result<Value, Failure> {
    let top = data.locate(options.directory.as_encoded_bytes())?;
    let stat = options.stat;
    let worker = move |gate: &Gate<Count>| {
        let _ = gate.wait();
        walk(top, stat)
    };
    let finished = gate::run(vec![worker])?;
    let count = &finished.results[0];
    let mut result = json!({
        "entries": count.entries,
        "directories": count.directories,
        "seconds": finished.seconds,
        "cpu_s": finished.cpu_s,
    });
    if stat {
        result["bytes"] = count.bytes.into();
    }
    Ok(result)
}

/// `entries` counts what readdir(3) returned, `directories` what was read, `bytes` the files'.
fn walk(top: PathBuf, stat: bool) -> Result<Count, Failure> {
    let mut count = Count::default();
    let mut pending = vec![top];
    while let Some(directory) = pending.pop() {
        let failed = |path: &Path, error| Failure::Io { path: path.display().to_string(), error };
        count.directories += 1;
        let mut below = Vec::new();
        for entry in fs::read_dir(&directory).map_err(|error| failed(&directory, error))? {
            let entry = entry.map_err(|error| failed(&directory, error))?;
            count.entries += 1;
            if stat {
                let found = entry.metadata().map_err(|error| failed(&entry.path(), error))?;
                if found.is_file() {
                    count.bytes += found.len();
                }
            }
            // Comes with readdir where the file system tells, which costs nothing.
            if entry.file_type().map_err(|error| failed(&entry.path(), error))?.is_dir() {
                below.push(entry.path());
            }
        }
        pending.extend(below.into_iter().rev());
    }
    Ok(count)
}
