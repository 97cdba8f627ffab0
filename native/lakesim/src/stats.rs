//! Counters of what the server did, to be read and reset between two measurements.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::Serialize;

use crate::faults::FaultKind;
use crate::operation::Asked;

#[derive(Default)]
pub(crate) struct Stats {
    counted: Mutex<Counted>,
    // Counted chunk by chunk, so without the lock.
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// Everything but bytes. The gauges, which are not reset, are `connections_open` and `in_flight`.
#[derive(Clone, Default, Serialize)]
struct Counted {
    requests: u64,
    by_method: BTreeMap<&'static str, u64>,
    by_operation: BTreeMap<&'static str, u64>,
    by_status: BTreeMap<u16, u64>,
    faults: BTreeMap<FaultKind, u64>,
    connections: u64,
    connections_open: u64,
    in_flight: u64,
    in_flight_max: u64,
}

/// What the admin port answers. Bytes are those of bodies.
#[derive(Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    counted: Counted,
    bytes_in: u64,
    bytes_out: u64,
}

impl Stats {
    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().expect("no panic under the lock")
    }

    pub(crate) fn report(&self) -> Report {
        Report {
            counted: self.counted().clone(),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn reset(&self) {
        let mut counted = self.counted();
        *counted = Counted {
            connections_open: counted.connections_open,
            in_flight: counted.in_flight,
            in_flight_max: counted.in_flight,
            ..Counted::default()
        };
        self.bytes_in.store(0, Ordering::Relaxed);
        self.bytes_out.store(0, Ordering::Relaxed);
    }

    /// A request arrives; it is in flight until the answer is dropped.
    pub(crate) fn enter(self: &Arc<Self>, asked: &Asked) -> InFlight {
        let mut counted = self.counted();
        counted.requests += 1;
        *counted.by_method.entry(asked.method).or_default() += 1;
        *counted.by_operation.entry(asked.operation).or_default() += 1;
        counted.in_flight += 1;
        counted.in_flight_max = counted.in_flight_max.max(counted.in_flight);
        InFlight(Arc::clone(self))
    }

    pub(crate) fn count_status(&self, status: u16) {
        *self.counted().by_status.entry(status).or_default() += 1;
    }

    pub(crate) fn count_fault(&self, kind: FaultKind) {
        *self.counted().faults.entry(kind).or_default() += 1;
    }

    pub(crate) fn connect(self: &Arc<Self>) -> Connected {
        let mut counted = self.counted();
        counted.connections += 1;
        counted.connections_open += 1;
        Connected(Arc::clone(self))
    }

    pub(crate) fn add_bytes_in(&self, count: u64) {
        self.bytes_in.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_bytes_out(&self, count: u64) {
        self.bytes_out.fetch_add(count, Ordering::Relaxed);
    }
}

pub(crate) struct InFlight(Arc<Stats>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.counted().in_flight -= 1;
    }
}

pub(crate) struct Connected(Arc<Stats>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.counted().connections_open -= 1;
    }
}
