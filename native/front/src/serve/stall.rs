//! What an OPEN or a READ waits for from the lake, and for how long: the control plane puts it to the
//! job whose process that is.

use std::sync::Arc;
use std::time::Instant;

use super::After;
use crate::attributes::now_ns;
use crate::cache::flight::Flight;
use crate::front::Front;
use crate::fuse::request::Request;
use crate::shared::Slot;

pub(super) struct Stall {
    bytes: u64,
    pid: u32,
    begun: Instant,
}

impl Stall {
    /// The request in `slot` begins to wait for `flights`.
    pub(super) fn begin(
        front: &Front,
        slot: &Slot,
        after: &After,
        flights: &[Arc<Flight>],
    ) -> Self {
        let (from, to) = match after {
            After::Open(_) => (0, u64::MAX),
            After::Read(_, reading) => (reading.lo, reading.hi),
        };
        let coming = flights.iter().filter(|flight| flight.outcome().is_none());
        let bytes =
            coming.map(|flight| flight.hi.min(to).saturating_sub(flight.lo.max(from))).sum();
        let request = Request::parse(front.shared.message(slot));
        Self { bytes, pid: request.map_or(0, |request| request.header.pid), begun: Instant::now() }
    }

    /// It has its answer.
    pub(super) fn tell(&self, front: &Front) {
        if self.bytes > 0 {
            let waited_ns = i64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(i64::MAX);
            front.client.stalled(self.bytes, waited_ns, now_ns(), self.pid);
        }
    }
}
