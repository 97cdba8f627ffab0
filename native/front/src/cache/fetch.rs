//! From the lake into the cache, each block once.
//!
//! A flight belongs to no reader: a cancelled one takes nothing from the others (C7). Threads take
//! flights from the queue, which is the memory budget and the order of requests in one, and send
//! each one's GET; what becomes of its bytes is in `landing`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Cache;
use super::buffers::Buffer;
use super::flight::{Flight, Until, Waiting};
use super::landing::{Landing, remember};
use super::objects::State;
use super::room;
use super::table::Held;
use crate::checksum::{self, Checksum};
use crate::front::Front;
use crate::gate::Gate;
use crate::index::records::{BLOCK_SIZE, ObjectRef};
use crate::lake::Failure;
use crate::log;
use crate::queue::{Grant, Priority, Taker};
use crate::serve::Worker;
use crate::space::NoRoom;
use crate::stats::Stats;
use crate::sys;
use crate::upcall::wire;

/// An object up to this size is fetched in one request, whose answer carries its checksum.
pub const WHOLE_OBJECT_BYTES: u64 = 8 << 20;
/// An object that so often in a row is not what its checksum says is damaged in the lake.
const CHECKSUM_TRIES: u32 = 4;

impl Cache {
    /// Send for `[lo, hi)`, none of whose whole blocks is present or on its way.
    pub fn start(
        &self,
        object: &Held,
        state: &mut State,
        lo: u64,
        hi: u64,
        priority: Priority,
    ) -> Arc<Flight> {
        let missing = |number: &u32| !state.has(*number) && !state.flights.contains_key(number);
        let blocks: Vec<u32> = object.whole_blocks(lo, hi).filter(missing).collect();
        let flight = Flight::new(object.clone(), lo, hi, blocks, state.life, priority);
        let flight = Arc::new(flight);
        for &number in &flight.blocks {
            state.flights.insert(number, flight.clone());
            if priority < Priority::WarmUp {
                state.unread.insert(number, 0);
            }
        }
        state.partial_flights.entry((lo, hi)).or_insert_with(|| flight.clone());
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let id = self.queue.push(flight.clone(), hi - lo, priority);
        let _ = flight.id.set(id);
        flight
    }

    /// Somebody wants a flight that is under way, with this urgency; see `Flight::want`.
    pub fn promote(&self, flight: &Flight, priority: Priority) {
        flight.want(priority);
        if let Some(id) = flight.id.get() {
            self.queue.promote(*id, priority);
        }
    }

    /// Carry flights, until the queue is closed.
    pub fn fly_all(front: &Arc<Front>, taker: Taker) {
        if taker == Taker::Background {
            sys::step_back();
        }
        let mut worker = Worker::new(front.clone());
        while let Some((flight, grant)) = front.cache.queue.take(taker) {
            fly(front, &mut worker, flight, grant);
            worker.forget_large_buffers();
        }
    }
}

fn fly(front: &Arc<Front>, worker: &mut Worker, flight: Arc<Flight>, mut grant: Grant) {
    let cache = &front.cache;
    // No reader waits for an eviction.
    let room = if flight.is_fill_alone() {
        Some(room::reserve(front, worker, &flight))
    } else {
        room::at_hand(cache, &flight)
    };
    if matches!(room, Some(Err(_))) && room::call_off(&flight) {
        resume(worker, &flight.done(Err(libc::ENOSPC)));
        end(cache, worker, &flight, grant);
        return;
    }
    let begun = Instant::now();
    let got = get(front, &flight);
    if got.is_ok() && flight.hi - flight.lo <= BLOCK_SIZE {
        cache.queue.answered(begun.elapsed());
    }
    cache.queue.arrived(&mut grant);
    let (buffer, checked) = match got {
        Ok(got) => got,
        Err(code) => {
            // Unregistered before anyone is woken, so that whoever asks next asks anew.
            unregister(&mut flight.object.state(), &flight);
            resume(worker, &flight.done(Err(code)));
            if let Some(Ok(reservation)) = room {
                cache.capacity.release(reservation);
            }
            end(cache, worker, &flight, grant);
            return;
        }
    };
    resume(worker, &flight.done(Ok(buffer.clone())));
    let room = match room {
        Some(Ok(reservation)) => Some(reservation),
        Some(Err(NoRoom::Full)) => {
            remember(cache, &flight, &buffer);
            end(cache, worker, &flight, grant);
            return;
        }
        // For a fill that somebody has joined, too: to them it may be worth more.
        Some(Err(NoRoom::Declined)) | None => None,
    };
    cache.land(Landing { flight, buffer, checked, room, grant, recorded: None });
}

/// Nothing more becomes of a flight.
pub fn end(cache: &Cache, worker: &mut Worker, flight: &Arc<Flight>, grant: Grant) {
    unregister(&mut flight.object.state(), flight);
    resume(worker, &flight.landed(cache.buffers.take(0)));
    cache.queue.give_back(grant);
    cache.in_flight.fetch_sub(1, Ordering::Relaxed);
}

/// Whoever waited goes on, in this thread.
fn resume(worker: &mut Worker, waiting: &[Arc<Waiting>]) {
    for waiting in waiting {
        waiting.flight_is_over(worker);
    }
}

/// From here on nobody finds the flight in `state`, that of its object.
pub fn unregister(state: &mut State, flight: &Arc<Flight>) {
    for number in &flight.blocks {
        if state.flights.get(number).is_some_and(|known| Arc::ptr_eq(known, flight)) {
            state.flights.remove(number);
        }
    }
    let range = (flight.lo, flight.hi);
    if state.partial_flights.get(&range).is_some_and(|known| Arc::ptr_eq(known, flight)) {
        state.partial_flights.remove(&range);
    }
}

/// The bytes, and whether the object's own checksum was compared; or an errno.
fn get(front: &Arc<Front>, flight: &Flight) -> Result<(Arc<Buffer>, bool), i32> {
    let object = &flight.object;
    let Some(reference) = object.reference() else { return Err(libc::ESTALE) };
    let length = usize::try_from(flight.hi - flight.lo).map_err(|_| libc::EFBIG)?;
    let whole = flight.lo == 0 && flight.hi == object.size && object.size <= WHOLE_OBJECT_BYTES;
    let mut buffer = front.cache.buffers.take(length);
    for _ in 0..CHECKSUM_TRIES {
        let sent = get_once(front, object, &reference, flight.lo, buffer.bytes_mut(), whole)?;
        let stats = &front.cache.stats;
        stats.bytes_from_lake.fetch_add(flight.hi - flight.lo, Ordering::Relaxed);
        let Some(known) = sent else {
            return Ok((Arc::new(buffer), false));
        };
        if checksum::of(known.kind, &buffer, 0) == known.value {
            return Ok((Arc::new(buffer), true));
        }
        Stats::count(&stats.checksum_failures);
        log::error(&format!("bytes from the lake do not match its checksum: {}", object.name()));
    }
    log::warning(&format!(
        "check what the lake sent: {}: its checksum differs; tried {CHECKSUM_TRIES} times",
        object.name()
    ));
    Err(libc::EIO)
}

/// One GET, by our own client where there is one and it understands the answer.
fn get_once(
    front: &Arc<Front>,
    object: &Held,
    reference: &ObjectRef<'_>,
    lo: u64,
    buffer: &mut [u8],
    whole: bool,
) -> Result<Option<Checksum>, i32> {
    if let Some(lake) = front.lake() {
        let checked = whole && reference.has_checksum;
        match lake.get(reference.key, reference.etag, lo, buffer, checked) {
            Ok(known) => return Ok(known),
            // Whether there is another version now, the control plane finds out: a server may lie.
            Err(Failure::OtherVersion | Failure::Ask(_)) => {
                Stats::count(&front.cache.stats.gets_asked);
            }
        }
    }
    let request = wire::Request {
        offset: lo,
        size: u32::try_from(buffer.len()).map_err(|_| libc::EFBIG)?,
        uid: u32::from(whole),
        arena_length: buffer.len() as u64,
        tail: object.record.to_vec(),
        ..wire::Request::of(object.ino)
    };
    front.ask_for_bytes(request, buffer).map_err(|code| match code {
        libc::ESTALE => stale(object),
        code => code,
    })
}

fn stale(object: &Held) -> i32 {
    object.stale.store(true, Ordering::Release);
    libc::ESTALE
}

/// Wait until `flights` have landed; for threads that may.
pub fn wait_until_landed(worker: &mut Worker, flights: Vec<Arc<Flight>>) {
    let gate = Gate::default();
    let opened = gate.clone();
    let task = Box::new(move |_: &mut Worker, _: &[Arc<Flight>]| opened.give(()));
    Waiting::until(Until::Landed, flights, task, worker);
    gate.wait(None);
}
