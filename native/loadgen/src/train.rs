//! A training step loop without an accelerator: workers read batches ahead, the accelerator waits
//! for each in turn and "computes" by sleeping, as MLPerf Storage and its DLIO do.
//!
//! ```text
//! batch b is read by worker b mod W, sample by sample, and waits in that worker's queue;
//! a worker is at most P batches ahead (torch.utils.data.DataLoader: prefetch_factor);
//! accelerator: wait for batch 0 | step, wait for 1, step, wait for 2, ... step
//!                               ^ from here on time counts
//! utilisation = time of all steps / time counted
//! ```
//!
//! A step begins when its batch is ready and the step before is over, and takes exactly its time: a
//! thread that is woken late, as on a busy machine, is a fault of ours, not of the accelerator's.
//!
//! The first batch's wait is left out, as DLIO leaves the first step out of its figures: it is the
//! time to fill the pipeline. A last batch that is not full is not read.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::dataset::DataSet;
use crate::failure::Failure;
use crate::gate::{self, Gate};
use crate::input;
use crate::report::{Histogram, merged};
use crate::samples::{Sample, Samples};
use crate::small::{Mode, Source};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Threads that read batches
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub workers: u16,
    /// Samples of one step
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// Batches that a worker may be ahead, the one that it reads included
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    pub prefetch: u16,
    /// What the accelerator takes for a batch
    #[arg(long, value_name = "MS")]
    pub step_ms: f64,
    /// files: open, read whole, close. ranges: pread from a file that stays open
    #[arg(long, value_enum, default_value_t = Mode::Files)]
    pub mode: Mode,
    /// No step is begun after this time
    #[arg(long, value_name = "S")]
    pub limit_s: Option<f64>,
}

/// What one thread brings back: a worker's reads, or the accelerator's times.
#[derive(Default)]
struct Tally {
    latency: Histogram,
    batches: u64,
    bytes: u64,
    first_batch: Duration,
    waited: Duration,
    computed: Duration,
    counted: Duration,
}

/// The bytes of a batch, and since when it is ready.
type Batch = (u64, Instant);

/// A worker or the accelerator.
type Thread = Box<dyn FnOnce(&Gate<Tally>) -> Result<Tally, Failure> + Send>;

/// Trains one epoch on the samples of `lines`, in that order: `SIZE<TAB>PATH` or just `PATH`;
/// ranges `OFFSET<TAB>LENGTH<TAB>PATH`.
pub fn run(data: &DataSet, options: &Options, lines: &[u8]) -> Result<Value, Failure> {
    let step = input::duration(options.step_ms / 1e3)?;
    let limit = options.limit_s.map(input::duration).transpose()?.unwrap_or(Duration::MAX);
    let samples = Arc::new(Samples::of(options.mode, data, lines)?);
    let (workers, batch) = (options.workers as usize, options.batch as usize);
    let batches = samples.list.len() / batch;
    let mut queues = Vec::new();
    let mut threads: Vec<Thread> = Vec::new();
    for worker in 0..workers {
        // A finished batch that finds the queue full stays with its worker.
        let (queue, ready) = sync_channel(options.prefetch as usize - 1);
        queues.push(ready);
        let (samples, mode) = (samples.clone(), options.mode);
        threads.push(Box::new(move |gate| {
            let all = samples.list.chunks_exact(batch);
            let mine: Vec<&[Sample]> = all.skip(worker).step_by(workers).collect();
            load(&samples, mode, &mine, &queue, gate)
        }));
    }
    threads.push(Box::new(move |gate| Ok(train(&queues, batches, step, limit, gate))));
    let finished = gate::run(threads)?;
    let (accelerator, readers) = finished.results.split_last().expect("it is one of them");
    let seconds = accelerator.counted.as_secs_f64();
    Ok(json!({
        "batches": accelerator.batches,
        "samples": accelerator.batches * u64::from(options.batch),
        "bytes": accelerator.bytes,
        "seconds": seconds,
        "first_batch_s": accelerator.first_batch.as_secs_f64(),
        "waited_s": accelerator.waited.as_secs_f64(),
        "computed_s": accelerator.computed.as_secs_f64(),
        "cpu_s": finished.cpu_s,
        "latency_us": merged(readers.iter().map(|one| &one.latency)).json_us(),
    }))
}

/// A worker: reads its batches until all are read or nobody wants them.
fn load(
    samples: &Samples,
    mode: Mode,
    mine: &[&[Sample]],
    queue: &SyncSender<Batch>,
    gate: &Gate<Tally>,
) -> Result<Tally, Failure> {
    let all: Vec<Sample> = mine.concat();
    let mut source = Source::new(samples, mode, &all);
    let mut tally = Tally::default();
    let _ = gate.wait();
    for batch in mine {
        let mut bytes = 0;
        for sample in *batch {
            let begin = Instant::now();
            let length = source.read(sample)?;
            tally.latency.record(begin.elapsed());
            source.finish(sample, length, true)?;
            bytes += length as u64;
        }
        if queue.send((bytes, Instant::now())).is_err() {
            break;
        }
    }
    Ok(tally)
}

/// The accelerator.
fn train(
    queues: &[Receiver<Batch>],
    batches: usize,
    step: Duration,
    limit: Duration,
    gate: &Gate<Tally>,
) -> Tally {
    let mut tally = Tally::default();
    let start = gate.wait();
    let mut counted_from = start;
    // When the last step is over.
    let mut free = start;
    for number in 0..batches {
        if start.elapsed() >= limit {
            break;
        }
        // A worker that failed hangs up; the gate tells why.
        let Ok((bytes, ready)) = queues[number % queues.len()].recv() else { break };
        let begin = free.max(ready);
        if number == 0 {
            tally.first_batch = begin - start;
            counted_from = begin;
        } else {
            tally.waited += begin - free;
        }
        free = begin + step;
        thread::sleep(free.saturating_duration_since(Instant::now()));
        tally.computed += step;
        tally.batches += 1;
        tally.bytes += bytes;
        tally.counted = free - counted_from;
    }
    tally
}
