//! Random 4 KiB reads of one file: an index, a memory-mapped table, a database.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::content::{STEP, mix};
use crate::dataset::{DataFile, DataSet};
use crate::failure::Failure;
use crate::gate::{self, Gate};
use crate::input;
use crate::report::{Histogram, merged};

const PAGE: usize = 4096;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("end").required(true))]
pub struct Options {
    /// Threads, each with an order of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub readers: u16,
    /// Stop after this time
    #[arg(long, value_name = "T", group = "end")]
    pub seconds: Option<f64>,
    /// Stop after so many reads, of all readers together
    #[arg(long, value_name = "K", group = "end")]
    pub count: Option<u64>,
    /// Read the file once before, so that its pages are resident
    #[arg(long)]
    pub warm: bool,
    /// The order of the pages
    #[arg(long, value_name = "X", default_value_t = 0)]
    pub order_seed: u64,
    /// The file's size, where it is not to be asked of the file system before the clock starts
    #[arg(long, value_name = "SIZE", value_parser = input::parse_size)]
    pub size: Option<u64>,
    #[arg(value_name = "PATH")]
    pub path: std::ffi::OsString,
}

pub fn run(data: &DataSet, options: &Options) -> Result<Value, Failure> {
    let limit = Duration::try_from_secs_f64(options.seconds.unwrap_or(f64::from(u32::MAX)))
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let file = Arc::new(data.file(options.path.as_encoded_bytes(), options.size)?);
    let pages = file.size / PAGE as u64;
    if pages == 0 {
        return Err(Failure::Usage(format!("{} has no whole page", file.location().display())));
    }
    if options.warm {
        warm(&file)?;
    }
    let readers = u64::from(options.readers);
    let worker = |reader: u64| {
        let file = file.clone();
        let order = mix(options.order_seed.wrapping_add(reader.wrapping_mul(STEP)));
        let count =
            options.count.map_or(u64::MAX, |count| (count + readers - 1 - reader) / readers);
        move |gate: &Gate<Histogram>| {
            let mut latency = Histogram::default();
            let mut page = [0; PAGE];
            let start = gate.wait();
            let opened = file.open()?;
            for n in 0..count {
                let draw = mix(order.wrapping_add(n.wrapping_mul(STEP)));
                let at = scaled(draw, pages) * PAGE as u64;
                let begin = Instant::now();
                if begin - start >= limit {
                    break;
                }
                let got = opened.read_at(&mut page, at).map_err(|error| file.failed(error))?;
                latency.record(begin.elapsed());
                if got != PAGE {
                    return Err(file.wrong_length(at + got as u64, file.size));
                }
                file.compare(at, &page)?;
            }
            Ok(latency)
        }
    };
    let finished = gate::run((0..readers).map(worker).collect())?;
    let latency = merged(&finished.results);
    Ok(json!({
        "reads": latency.count(),
        "seconds": finished.seconds,
        "cpu_s": finished.cpu_s,
        "iops": latency.count() as f64 / finished.seconds,
        "latency_us": latency.json_us(),
    }))
}

/// A number below `end`, as even as `draw` is.
fn scaled(draw: u64, end: u64) -> u64 {
    ((u128::from(draw) * u128::from(end)) >> 64) as u64
}

fn warm(file: &DataFile) -> Result<(), Failure> {
    let opened = file.open()?;
    let mut block = vec![0; 1 << 20];
    let mut at = 0;
    while at < file.size {
        let got = opened.read_at(&mut block, at).map_err(|error| file.failed(error))?;
        if got == 0 {
            return Err(file.wrong_length(at, file.size));
        }
        file.compare(at, &block[..got])?;
        at += got as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_can_be_drawn_and_no_other() {
        let drawn: std::collections::HashSet<u64> = (0..1000).map(|n| scaled(mix(n), 7)).collect();
        assert_eq!(drawn.len(), 7);
        assert_eq!(scaled(u64::MAX, 7), 6);
    }
}
