//! Many small samples, in the order of a training run's sampler: whole files, or ranges of shards.
//! One process can read pass after pass, as a training run reads epoch after epoch.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::dataset::DataSet;
use crate::failure::Failure;
use crate::gate::{self, Gate};
use crate::input;
use crate::report::{Histogram, merged};
use crate::samples::{Sample, Samples};

/// Shards that one reader keeps open.
const OPEN_FILES: usize = 64;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Threads; each takes the next file when it is done with one, ranges are dealt round robin
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub readers: u16,
    /// files: open, read whole, close. ranges: pread from a file that stays open
    #[arg(long, value_enum, default_value_t = Mode::Files)]
    pub mode: Mode,
    /// Tell when each sample was read: `[line from 0, ns since 1970, ns that it took]`
    #[arg(long)]
    pub times: bool,
    /// Stop after this time
    #[arg(long, value_name = "S")]
    pub limit_s: Option<f64>,
    /// Begin so many samples a second, each when its turn comes or, if all readers are late, after it
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// Read pass after pass: each is a line `LIMIT_S<TAB>RATE`, either may be empty, then samples up
    /// to an empty line, and is answered by a line
    #[arg(long, conflicts_with_all = ["limit_s", "rate"])]
    pub passes: bool,
    /// Compare nothing, to learn what comparing costs; never for a result
    #[arg(long)]
    pub no_check: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    Files,
    Ranges,
}

#[derive(Default)]
struct Tally {
    samples: u64,
    bytes: u64,
    latency: Histogram,
    /// Line, begin and duration of each sample, if they were asked for.
    times: Vec<(usize, Instant, Duration)>,
}

/// When samples are begun.
#[derive(Clone, Copy)]
struct Pace {
    /// No further one after this time.
    limit: Duration,
    /// Between two of them.
    interval: Duration,
}

impl Pace {
    fn of(limit_s: Option<f64>, rate: Option<f64>) -> Result<Self, Failure> {
        let limit = limit_s.map_or(Ok(Duration::MAX), input::duration)?;
        let interval = rate.map_or(Ok(Duration::ZERO), |rate| input::duration(1.0 / rate))?;
        Ok(Self { limit, interval })
    }

    /// Waits until it is the sample's turn; false if time is over.
    fn wait(self, line: usize, start: Instant) -> bool {
        let due = self.interval.saturating_mul(u32::try_from(line).unwrap_or(u32::MAX));
        let elapsed = start.elapsed();
        if due.max(elapsed) >= self.limit {
            return false;
        }
        if due > elapsed {
            thread::sleep(due - elapsed);
        }
        true
    }
}

/// Reads the passes of `input` as they come, and gives each one's result to `answer`.
pub fn run_passes(
    data: &DataSet,
    options: &Options,
    mut input: impl BufRead,
    mut answer: impl FnMut(&Value),
) -> Result<Value, Failure> {
    let mut passes = 0;
    while let Some(text) = input::pass(&mut input)? {
        let (first, lines) =
            text.split_at(text.iter().position(|&byte| byte == b'\n').unwrap_or(0));
        let [limit_s, rate] = input::fields(first)?;
        let pace = Pace::of(input::optional(limit_s)?, input::optional(rate)?)?;
        answer(&read(data, options, pace, lines)?);
        passes += 1;
    }
    Ok(json!({ "passes": passes }))
}

/// Reads the samples of `lines`: `SIZE<TAB>PATH` or just `PATH`; ranges `OFFSET<TAB>LENGTH<TAB>PATH`.
pub fn run(data: &DataSet, options: &Options, lines: &[u8]) -> Result<Value, Failure> {
    read(data, options, Pace::of(options.limit_s, options.rate)?, lines)
}

fn read(data: &DataSet, options: &Options, pace: Pace, lines: &[u8]) -> Result<Value, Failure> {
    let samples = Arc::new(Samples::of(options.mode, data, lines)?);
    let taken_files = Arc::new(AtomicUsize::new(0));
    let readers = options.readers as usize;
    let (mode, check, times) = (options.mode, !options.no_check, options.times);
    let clocks = (Instant::now(), SystemTime::now());
    let worker = |reader: usize| {
        let (samples, taken_files) = (samples.clone(), taken_files.clone());
        move |gate: &Gate<Tally>| {
            let mut source = Source::new(&samples, mode, &samples.list);
            let mut tally = Tally::default();
            let start = gate.wait();
            for turn in 0.. {
                let line = match mode {
                    // As connections of the bare client do: who had slow files reads fewer.
                    Mode::Files => taken_files.fetch_add(1, Ordering::Relaxed),
                    // A shard is one reader's.
                    Mode::Ranges => reader + turn * readers,
                };
                let Some(sample) = samples.list.get(line) else { break };
                if !pace.wait(line, start) {
                    break;
                }
                let begin = Instant::now();
                let length = source.read(sample)?;
                let taken = begin.elapsed();
                source.finish(sample, length, check)?;
                tally.record(length, taken);
                if times {
                    tally.times.push((line, begin, taken));
                }
            }
            Ok(tally)
        }
    };
    let finished = gate::run((0..readers).map(worker).collect())?;
    let all = &finished.results;
    let mut result = json!({
        "files": all.iter().map(|one| one.samples).sum::<u64>(),
        "bytes": all.iter().map(|one| one.bytes).sum::<u64>(),
        "seconds": finished.seconds,
        "cpu_s": finished.cpu_s,
        "latency_us": merged(all.iter().map(|one| &one.latency)).json_us(),
        "checked": check,
    });
    if times {
        let all = all.iter().flat_map(|one| &one.times);
        result["times"] = all.map(|&time| since_1970(clocks, time)).collect();
    }
    Ok(result)
}

/// A line, begin and duration, by a clock that other processes share.
fn since_1970(
    (now, wall): (Instant, SystemTime),
    (line, begin, taken): (usize, Instant, Duration),
) -> Value {
    let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default() + (begin - now);
    json!([line, wall.as_nanos() as u64, taken.as_nanos() as u64])
}

impl Tally {
    fn record(&mut self, length: usize, taken: Duration) {
        self.samples += 1;
        self.bytes += length as u64;
        self.latency.record(taken);
    }
}

/// One reader's buffer and open files.
pub(crate) struct Source<'a> {
    samples: &'a Samples,
    mode: Mode,
    buffer: Vec<u8>,
    /// By index of the file, the most recently used last.
    open: Vec<(usize, File)>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(samples: &'a Samples, mode: Mode, mine: &[Sample]) -> Self {
        let largest = mine.iter().map(|sample| sample.length).max().unwrap_or(0);
        // One byte more than a file should have, so that its end is seen; written, so that its
        // pages are there.
        let buffer = vec![0xA5; largest + 1];
        Self { samples, mode, buffer, open: Vec::with_capacity(OPEN_FILES) }
    }

    /// Reads the sample to its last byte; returns how many bytes there were.
    pub(crate) fn read(&mut self, sample: &Sample) -> Result<usize, Failure> {
        let file = &self.samples.files[sample.file];
        let length = match self.mode {
            Mode::Files => {
                let opened = file.open()?;
                let length = read_to_end(&opened, &mut self.buffer);
                self.open.push((sample.file, opened));
                length
            }
            Mode::Ranges => {
                self.use_file(sample.file)?;
                let (_, opened) = &self.open[self.open.len() - 1];
                read_range(opened, sample.offset, &mut self.buffer[..sample.length])
            }
        };
        length.map_err(|error| file.failed(error))
    }

    /// Closes what is to be closed and compares what was read.
    pub(crate) fn finish(
        &mut self,
        sample: &Sample,
        length: usize,
        check: bool,
    ) -> Result<(), Failure> {
        if self.mode == Mode::Files {
            self.open.clear();
        }
        let file = &self.samples.files[sample.file];
        if length != sample.length {
            let (got, wanted) = (length as u64, sample.length as u64);
            return Err(file.wrong_length(sample.offset + got, sample.offset + wanted));
        }
        if check {
            file.verify(sample.offset, &self.buffer[..length], sample.hash)?;
        }
        Ok(())
    }

    /// Brings a file to the end of the list of open ones; closes the least recently used.
    fn use_file(&mut self, index: usize) -> Result<(), Failure> {
        if let Some(at) = self.open.iter().rposition(|&(open, _)| open == index) {
            self.open[at..].rotate_left(1);
            return Ok(());
        }
        if self.open.len() == OPEN_FILES {
            self.open.remove(0);
        }
        self.open.push((index, self.samples.files[index].open()?));
        Ok(())
    }
}

/// read(2) until it says that the file ends, or the buffer is full.
fn read_to_end(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    repeat(buffer, |rest, _| file.read(rest))
}

fn read_range(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    repeat(buffer, |rest, done| file.read_at(rest, offset + done as u64))
}

fn repeat(
    buffer: &mut [u8],
    mut read: impl FnMut(&mut [u8], usize) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match read(&mut buffer[done..], done) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
