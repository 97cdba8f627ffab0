//! From the lake into the cache, each block once.
//!
//! A flight belongs to no reader: a cancelled one takes nothing from the others (C7). Threads take
//! flights from the queue, which is the memory budget and the order of requests in one, and carry
//! each from its GET to the index.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Cache;
use super::buffers::Buffer;
use super::copy::Copy;
use super::flight::{Flight, Outcome, Until, Waiting};
use super::objects::State;
use super::room;
use super::table::Held;
use crate::checksum::{self, Checksum};
use crate::front::Front;
use crate::gate::Gate;
use crate::health::Part;
use crate::index::records::{BLOCK_SIZE, Block, ObjectRef, overhead_bytes};
use crate::lake::Failure;
use crate::log;
use crate::queue::Priority;
use crate::serve::Worker;
use crate::space::{NoRoom, Reservation};
use crate::stats::Stats;
use crate::upcall::wire;

/// An object up to this size is fetched in one request, whose answer carries its checksum.
pub const WHOLE_OBJECT_BYTES: u64 = 8 << 20;
/// An object that so often in a row is not what its checksum says is damaged in the lake.
const CHECKSUM_TRIES: u32 = 4;
/// A disk that does not answer for this long is treated as failing. Worst cases of healthy disks
/// under writeback are well under a second, of spinning ones a few.
pub const PATIENCE: Duration = Duration::from_secs(20);

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

    /// A GET took so long.
    fn took(&self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let before = self.latency_us.load(Ordering::Relaxed);
        self.latency_us.store(before - before / 8 + time / 8, Ordering::Relaxed);
    }

    /// Somebody wants a flight that is under way, with this urgency; see `Flight::want`.
    pub fn promote(&self, flight: &Flight, priority: Priority) {
        flight.want(priority);
        if let Some(id) = flight.id.get() {
            self.queue.promote(*id, priority);
        }
    }

    /// Carry flights, until the queue is closed.
    pub fn fly_all(front: &Arc<Front>) {
        let mut worker = Worker::new(front.clone());
        while let Some((flight, grant)) = front.cache.queue.take() {
            fly(front, &mut worker, &flight);
            worker.forget_large_buffers();
            front.cache.queue.give_back(grant);
            front.cache.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn fly(front: &Arc<Front>, worker: &mut Worker, flight: &Arc<Flight>) {
    let cache = &front.cache;
    // No reader waits for an eviction.
    let mut room = if flight.is_fill_alone() {
        Some(room::reserve(front, worker, flight))
    } else {
        room::at_hand(cache, flight)
    };
    if matches!(room, Some(Err(_))) && room::call_off(flight) {
        resume(worker, &flight.done(Err(libc::ENOSPC)));
        resume(worker, &flight.landed(cache.buffers.take(0)));
        return;
    }
    let mut announced = matches!(room, Some(Ok(_))).then(|| announce(cache, flight)).flatten();
    let begun = Instant::now();
    let got = get(front, flight);
    let taken = begun.elapsed();
    cache.took(taken);
    if got.is_ok() && flight.hi - flight.lo <= BLOCK_SIZE {
        cache.queue.answered(taken);
    }
    let outcome: Outcome = match &got {
        Ok((buffer, _)) => Ok(buffer.clone()),
        Err(code) => Err(*code),
    };
    if outcome.is_err() {
        // Unregistered before anyone is woken, so that whoever asks next asks anew.
        unregister(&mut flight.object.state(), flight);
    }
    resume(worker, &flight.done(outcome));
    // For a fill that somebody has joined, too: to them it may be worth more.
    if got.is_ok() && matches!(room, None | Some(Err(NoRoom::Declined))) {
        let made = room::reserve(front, worker, flight);
        announced = made.is_ok().then(|| announce(cache, flight)).flatten();
        room = Some(made);
    }
    let reservation = room.and_then(Result::ok);
    match (&got, reservation) {
        (_, Some(mut reservation)) => {
            cache.keeping.fetch_add(1, Ordering::AcqRel);
            let recorded = is_recorded(cache, flight, announced, &mut reservation);
            if let Ok((buffer, checked)) = &got {
                if recorded {
                    keep(cache, flight, buffer, &mut reservation, *checked);
                } else {
                    remember(cache, flight, buffer);
                }
            }
            cache.capacity.release(reservation);
            cache.kept.fetch_add(1, Ordering::AcqRel);
            cache.keeping.fetch_sub(1, Ordering::AcqRel);
        }
        (Ok((buffer, _)), None) => remember(cache, flight, buffer),
        (Err(_), None) => {}
    }
    unregister(&mut flight.object.state(), flight);
    resume(worker, &flight.landed(cache.buffers.take(0)));
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

/// Have the file recorded while its bytes are on their way, if there is none yet.
fn announce(cache: &Cache, flight: &Flight) -> Option<Gate<bool>> {
    let state = flight.object.state();
    let needed = state.copy.is_none() && !state.announced;
    drop(state);
    // A part of the time that the bytes will take to come.
    let patience = Duration::from_micros(cache.latency_us.load(Ordering::Relaxed)) / 4;
    needed.then(|| cache.recorder.announce(&flight.object, patience))
}

/// Whether the file of the flight has its record by now (C3), and so may be made. The file is
/// counted from then on.
fn is_recorded(
    cache: &Cache,
    flight: &Flight,
    announced: Option<Gate<bool>>,
    reservation: &mut Reservation,
) -> bool {
    if let Some(gate) = announced {
        match gate.wait(Some(PATIENCE)) {
            Some(true) => {}
            Some(false) => return false,
            None => {
                let error = std::io::ErrorKind::TimedOut.into();
                cache.health.part_failed(Part::Index, "record a file", &error);
                return false;
            }
        }
    }
    let mut state = flight.object.state();
    if state.announced && !std::mem::replace(&mut state.accounted, true) {
        cache.capacity.spend(reservation, overhead_bytes(flight.object.size));
    }
    true
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

/// They are not kept on disk: keep whole blocks in memory until the reader has had them.
fn remember(cache: &Cache, flight: &Flight, buffer: &Arc<Buffer>) {
    for &number in &flight.blocks {
        let (lo, hi) = flight.object.extent(number);
        let at = usize::try_from(lo - flight.lo).unwrap_or(0);
        let length = usize::try_from(hi - lo).unwrap_or(0);
        cache.hot.put(flight.object.ino, number, buffer, at, length);
    }
}

/// Write the blocks, then have them recorded (C2). Trouble with the disk ends here (C8).
fn keep(
    cache: &Cache,
    flight: &Flight,
    buffer: &Arc<Buffer>,
    reservation: &mut Reservation,
    checked: bool,
) {
    let object = &flight.object;
    let records = match write(cache, flight, buffer) {
        Ok(Some(records)) => records,
        Ok(None) => return, // The copy was thrown away meanwhile.
        Err(error) => {
            cache.health.failed("write a cache file", &error);
            cache.capacity.disk_changed();
            remember(cache, flight, buffer);
            return;
        }
    };
    cache.health.worked(Part::Disk);
    let mut state = object.state();
    if state.life != flight.life {
        return;
    }
    let added = object.add(&mut state, &records);
    cache.capacity.spend(reservation, added);
    state.checksum_ok |= checked;
    if state.whole() {
        cache.filled(object, &mut state);
    }
    drop(state);
    flight.kept.store(true, Ordering::Release);
    cache.recorder.mark(object);
}

/// Write the blocks to the cache file, made now if there is none (its record is committed, C3).
fn write(
    cache: &Cache,
    flight: &Flight,
    buffer: &Buffer,
) -> std::io::Result<Option<Vec<(u32, Block)>>> {
    let Some(copy) = file_of(cache, flight)? else { return Ok(None) };
    let mut records = Vec::with_capacity(flight.blocks.len());
    for &number in &flight.blocks {
        let (lo, hi) = flight.object.extent(number);
        let (Ok(from), Ok(to)) = (usize::try_from(lo - flight.lo), usize::try_from(hi - flight.lo))
        else {
            return Ok(None);
        };
        records.push((number, copy.write(number, &buffer[from..to])?));
    }
    Ok(Some(records))
}

fn file_of(cache: &Cache, flight: &Flight) -> std::io::Result<Option<Arc<Copy>>> {
    let object = &flight.object;
    let _making = object.making.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    {
        let state = object.state();
        if state.life != flight.life {
            return Ok(None);
        }
        if let Some(copy) = &state.copy {
            return Ok(Some(copy.clone()));
        }
    }
    let copy = Arc::new(cache.files.create(object.ino, object.size)?);
    let mut state = object.state();
    if state.life != flight.life {
        return Ok(None);
    }
    state.copy = Some(copy.clone());
    Ok(Some(copy))
}

/// Wait until `flights` have landed; for threads that may.
pub fn wait_until_landed(worker: &mut Worker, flights: Vec<Arc<Flight>>) {
    let gate = Gate::default();
    let opened = gate.clone();
    let task = Box::new(move |_: &mut Worker, _: &[Arc<Flight>]| opened.give(()));
    Waiting::until(Until::Landed, flights, task, worker);
    gate.wait(None);
}
