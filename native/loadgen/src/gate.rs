//! Threads that start together, and what they took: wall time by the monotonic clock, CPU time.
//!
//! A worker prepares, calls [`Gate::wait`], and is timed from the common start to its return. The
//! first failure ends the run without waiting for the others: one of them may hang.

use std::cell::Cell;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::failure::Failure;

/// What the workers of a run brought back.
#[derive(Debug)]
pub struct Finished<T> {
    /// In the order of the workers.
    pub results: Vec<T>,
    /// From the common start to the last worker's end.
    pub seconds: f64,
    /// Of all workers between start and end, to a tick each; None where the kernel does not tell.
    pub cpu_s: Option<f64>,
}

/// One worker's side of the start gate.
pub struct Gate<T> {
    news: Sender<News<T>>,
    opened: Arc<Opened>,
    cpu_before_ns: Cell<Option<u64>>,
}

enum News<T> {
    Ready,
    Ended { worker: usize, at: Instant, cpu_ns: Option<u64>, result: Result<T, Failure> },
}

#[derive(Default)]
struct Opened {
    at: Mutex<Option<Instant>>,
    changed: Condvar,
}

impl<T> Gate<T> {
    /// Waits until every worker is ready; returns the common start.
    #[must_use]
    pub fn wait(&self) -> Instant {
        let _ = self.news.send(News::Ready);
        let closed = self.opened.at.lock().expect("nobody panics with this lock");
        let opened = self.opened.changed.wait_while(closed, |at| at.is_none());
        let start = opened.expect("nobody panics with this lock").expect("the gate is open");
        self.cpu_before_ns.set(thread_cpu_ns());
        start
    }
}

/// Runs each worker in a thread of its own. Each must call [`Gate::wait`], or fail.
pub fn run<T, W>(workers: Vec<W>) -> Result<Finished<T>, Failure>
where
    T: Send + 'static,
    W: FnOnce(&Gate<T>) -> Result<T, Failure> + Send + 'static,
{
    let count = workers.len();
    let (news, inbox) = mpsc::channel();
    let opened = Arc::new(Opened::default());
    for (worker, work) in workers.into_iter().enumerate() {
        let gate = Gate { news: news.clone(), opened: opened.clone(), cpu_before_ns: None.into() };
        thread::spawn(move || {
            let result = work(&gate);
            let at = Instant::now();
            let cpu_ns = gate.cpu_before_ns.get().zip(thread_cpu_ns()).map(|(a, b)| b - a);
            let _ = gate.news.send(News::Ended { worker, at, cpu_ns, result });
        });
    }
    let (mut ready, mut ended) = (0, 0);
    let mut start = Instant::now();
    let mut finish = start;
    let mut cpu_ns = Some(0);
    let mut results: Vec<Option<T>> = (0..count).map(|_| None).collect();
    while ended < count {
        match inbox.recv().expect("this thread holds a sender itself") {
            News::Ready => {
                ready += 1;
                if ready == count {
                    start = Instant::now();
                    *opened.at.lock().expect("nobody panics with this lock") = Some(start);
                    opened.changed.notify_all();
                }
            }
            News::Ended { worker, at, cpu_ns: used, result } => {
                results[worker] = Some(result?);
                finish = finish.max(at);
                cpu_ns = cpu_ns.zip(used).map(|(a, b)| a + b);
                ended += 1;
            }
        }
    }
    Ok(Finished {
        results: results.into_iter().flatten().collect(),
        seconds: finish.saturating_duration_since(start).as_secs_f64(),
        cpu_s: cpu_ns.map(|ns| ns as f64 / 1e9),
    })
}

/// Nanoseconds since 1970, by a clock that other processes share.
#[must_use]
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// CPU time of this thread; what it used since the last tick of the clock may be missing.
fn thread_cpu_ns() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok()
}

/// `work` of every item, on all processors: for what is made ready before the clock starts.
pub fn prepare<I: Sync, R: Send>(items: &[I], work: impl Fn(&I) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(items.len());
    let mut parts: Vec<(usize, R)> = thread::scope(|scope| {
        let take = || {
            let mut part = Vec::new();
            while let at = next.fetch_add(1, Ordering::Relaxed)
                && let Some(item) = items.get(at)
            {
                part.push((at, work(item)));
            }
            part
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Vec<_>>| thread.join();
        threads.into_iter().flat_map(|thread| join(thread).expect("work does not panic")).collect()
    });
    parts.sort_unstable_by_key(|&(at, _)| at);
    parts.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn results_keep_their_order_and_nobody_starts_before_all_are_ready() {
        let worker = |n: u64| {
            move |gate: &Gate<_>| {
                thread::sleep(Duration::from_millis(100 - 50 * n));
                let ready = Instant::now();
                Ok((n, ready, gate.wait()))
            }
        };
        let results = run((0..3).map(worker).collect()).unwrap().results;
        assert_eq!(results.iter().map(|one| one.0).collect::<Vec<_>>(), [0, 1, 2]);
        let start = results[0].2;
        assert!(results.iter().all(|one| one.1 <= start && one.2 == start));
    }

    #[test]
    fn a_failure_before_the_gate_ends_the_run_though_others_wait() {
        let worker = |n: u64| {
            move |gate: &Gate<()>| {
                if n == 1 {
                    return Err(Failure::Usage("no".into()));
                }
                let _ = gate.wait();
                Ok(())
            }
        };
        assert_eq!(run((0..3).map(worker).collect()).unwrap_err().to_string(), "no");
    }

    #[test]
    fn what_is_prepared_stays_in_order() {
        let items: Vec<u64> = (0..1000).collect();
        assert_eq!(prepare(&items, |n| n * 2), (0..2000).step_by(2).collect::<Vec<_>>());
        assert!(prepare(&[], |n: &u64| *n).is_empty());
    }
}
