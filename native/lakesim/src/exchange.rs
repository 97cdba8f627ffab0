//! One request and what came of it: what the log says about it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::http::Extensions;
use serde::Serialize;

use crate::faults::FaultKind;
use crate::operation::Asked;

/// A request, from its arrival on. The server puts it into the request's extensions, where the
/// backend finds it.
pub(crate) struct Exchange {
    sequence: u64,
    asked: Asked,
    arrived_ns: u64,
    commits: Arc<AtomicU64>,
    outcome: Mutex<Outcome>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// When the first and the latest piece of the answer's body left; 0: none did.
    first_sent_ns: AtomicU64,
    last_sent_ns: AtomicU64,
}

#[derive(Clone, Copy, Default)]
struct Outcome {
    fault: Option<FaultKind>,
    status: Option<u16>,
    committed: Option<Commit>,
}

/// When and as which of all a mutation took effect.
#[derive(Clone, Copy, Serialize)]
struct Commit {
    number: u64,
    at_ns: u64,
}

/// Nanoseconds since 1970.
fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Exchange {
    /// A request that arrives now. *commits* counts the mutations of the whole server.
    pub(crate) fn new(
        sequence: u64,
        asked: Asked,
        fault: Option<FaultKind>,
        commits: Arc<AtomicU64>,
    ) -> Self {
        Self {
            sequence,
            asked,
            arrived_ns: now_ns(),
            commits,
            outcome: Mutex::new(Outcome { fault, ..Outcome::default() }),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            first_sent_ns: AtomicU64::new(0),
            last_sent_ns: AtomicU64::new(0),
        }
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().expect("no panic under the lock")
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether the request in whose *extensions* we are is to be treated to that fault.
    pub(crate) fn has_fault(extensions: &Extensions, kind: FaultKind) -> bool {
        extensions.get::<Arc<Self>>().is_some_and(|this| this.outcome().fault == Some(kind))
    }

    /// The mutation that the request asked for takes effect now. Called under the lock that orders
    /// them.
    pub(crate) fn commit(extensions: &Extensions) {
        if let Some(this) = extensions.get::<Arc<Self>>() {
            let number = this.commits.fetch_add(1, Ordering::Relaxed) + 1;
            this.outcome().committed = Some(Commit { number, at_ns: now_ns() });
        }
    }

    /// The fault chosen for it did not apply.
    pub(crate) fn clear_fault(&self) {
        self.outcome().fault = None;
    }

    pub(crate) fn set_status(&self, status: u16) {
        self.outcome().status = Some(status);
    }

    pub(crate) fn add_bytes_in(&self, count: u64) {
        self.bytes_in.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_bytes_out(&self, count: u64) {
        let now = now_ns();
        if self.bytes_out.fetch_add(count, Ordering::Relaxed) == 0 {
            self.first_sent_ns.store(now, Ordering::Relaxed);
        }
        self.last_sent_ns.store(now, Ordering::Relaxed);
    }

    pub(crate) fn entry(&self) -> Entry<'_> {
        let Outcome { fault, status, committed } = *self.outcome();
        let known = |time: &AtomicU64| Some(time.load(Ordering::Relaxed)).filter(|&ns| ns > 0);
        Entry {
            sequence: self.sequence,
            method: self.asked.method,
            operation: self.asked.operation,
            bucket: &self.asked.bucket,
            key: &self.asked.key,
            query: self.asked.query.as_deref(),
            range: self.asked.range.as_deref(),
            arrived_ns: self.arrived_ns,
            status,
            fault,
            commit: committed.map(|commit| commit.number),
            committed_ns: committed.map(|commit| commit.at_ns),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            first_sent_ns: known(&self.first_sent_ns),
            last_sent_ns: known(&self.last_sent_ns),
        }
    }
}

/// A line of the request log. Times are nanoseconds since 1970; bytes are those of bodies.
#[derive(Serialize)]
pub(crate) struct Entry<'a> {
    sequence: u64,
    method: &'static str,
    operation: &'static str,
    bucket: &'a str,
    key: &'a str,
    query: Option<&'a str>,
    range: Option<&'a str>,
    arrived_ns: u64,
    /// None until there is an answer; a request that a reset cut off never has one.
    status: Option<u16>,
    fault: Option<FaultKind>,
    /// The mutations of the server are numbered in the order in which they took effect.
    commit: Option<u64>,
    committed_ns: Option<u64>,
    bytes_in: u64,
    bytes_out: u64,
    /// When the first and the latest piece of the answer's body left.
    first_sent_ns: Option<u64>,
    last_sent_ns: Option<u64>,
}
