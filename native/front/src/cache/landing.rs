//! What has come from the lake goes into the cache file, beside whoever reads it.
//!
//! Nobody who reads waits for the cache disk, nor does the next request to the lake: on a disk that
//! is busy with all that was written, one commit of the index takes most of a second. So threads of
//! their own do this, and what waits for a commit waits without a thread. While it does it counts in
//! the memory budget, which thereby bounds what can wait (`Queue`).
//!
//! ```text
//! fetch: Cache::land() --> room: taken before the GET, or made now (room)
//!                            |- there is none: in memory until it was read   (remember)
//!                            |- the file has no record yet: the recorder sends it here again (C3)
//!                            `- written, then recorded (C2)                  (keep)
//! ```

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::Cache;
use super::buffers::Buffer;
use super::copy::Copy;
use super::fetch::end;
use super::flight::Flight;
use super::room;
use crate::front::Front;
use crate::health::Part;
use crate::index::records::{Block, overhead_bytes};
use crate::queue::Grant;
use crate::serve::Worker;
use crate::space::Reservation;
use crate::sys;

/// A flight whose bytes are here.
pub struct Landing {
    pub flight: Arc<Flight>,
    pub buffer: Arc<Buffer>,
    /// They were compared with the object's own checksum.
    pub checked: bool,
    /// Room on the disk; `None`: it is to be made.
    pub room: Option<Reservation>,
    /// Its memory.
    pub grant: Grant,
    /// Whether the record of its file was committed; `None`: nobody was asked to.
    pub recorded: Option<bool>,
}

impl Cache {
    /// Have what has come kept.
    pub fn land(&self, landing: Landing) {
        self.landing.fetch_add(1, Ordering::AcqRel);
        let _ = self.landings.send(landing); // Whoever takes them ends with this process.
    }
}

/// Keep what comes, until the end of the process; one of several threads that do.
pub fn run(front: &Arc<Front>) {
    sys::step_back();
    let mut worker = Worker::new(front.clone());
    loop {
        let next = front.cache.to_land.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(landing) = next else { return };
        land(front, &mut worker, landing);
        worker.forget_large_buffers();
    }
}

fn land(front: &Arc<Front>, worker: &mut Worker, mut landing: Landing) {
    let cache = &front.cache;
    let room = landing.room.take();
    let room = room.or_else(|| room::reserve(front, worker, &landing.flight).ok());
    let Some(mut room) = room else { return finish(cache, worker, landing, false) };
    // Since it was taken the disk may have begun to fail.
    let mut kept = !cache.health.streaming() && landing.recorded != Some(false);
    if kept && landing.recorded.is_none() && has_no_record(&landing.flight) {
        let object = landing.flight.object.clone();
        let landings = cache.landings.clone();
        landing.room = Some(room);
        let again = move |recorded| {
            landing.recorded = Some(recorded);
            let _ = landings.send(landing);
        };
        cache.recorder.announce(&object, again);
        return;
    }
    if kept {
        kept = keep(cache, &landing, &mut room);
        cache.landed.fetch_add(1, Ordering::AcqRel);
    }
    cache.capacity.release(room);
    finish(cache, worker, landing, kept);
}

fn finish(cache: &Cache, worker: &mut Worker, landing: Landing, kept: bool) {
    let Landing { flight, buffer, grant, .. } = landing;
    if !kept {
        remember(cache, &flight, &buffer);
    }
    drop(buffer);
    end(cache, worker, &flight, grant);
    cache.landing.fetch_sub(1, Ordering::AcqRel);
}

/// Whether the file of the flight may not be made yet (C3).
fn has_no_record(flight: &Flight) -> bool {
    let state = flight.object.state();
    state.copy.is_none() && !state.announced
}

/// Keep the whole blocks in memory that somebody reads and has not had all of, until then.
pub fn remember(cache: &Cache, flight: &Flight, buffer: &Arc<Buffer>) {
    let state = flight.object.state();
    for &number in flight.blocks.iter().filter(|&number| state.unread.contains_key(number)) {
        let place = flight.place_of(number);
        cache.hot.put(flight.object.ino, number, buffer, place.start, place.len());
    }
}

/// Write the blocks, then have them recorded (C2); false if the disk does not take them, which ends
/// here (C8).
fn keep(cache: &Cache, landing: &Landing, room: &mut Reservation) -> bool {
    let flight = &landing.flight;
    let object = &flight.object;
    let mut state = object.state();
    if state.announced && !std::mem::replace(&mut state.accounted, true) {
        cache.capacity.spend(room, overhead_bytes(object.size));
    }
    drop(state);
    let records = match write(cache, flight, &landing.buffer) {
        Ok(Some(records)) => records,
        Ok(None) => return true, // The copy was thrown away meanwhile.
        Err(error) => {
            cache.health.failed("write a cache file", &error);
            cache.capacity.disk_changed();
            return false;
        }
    };
    cache.health.worked(Part::Disk);
    let mut state = object.state();
    if state.life != flight.life {
        return true;
    }
    let added = object.add(&mut state, &records);
    cache.capacity.spend(room, added);
    state.checksum_ok |= landing.checked;
    if state.whole() {
        cache.filled(object, &mut state);
    }
    drop(state);
    flight.kept.store(true, Ordering::Release);
    cache.recorder.mark(object);
    true
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
        records.push((number, copy.write(number, &buffer[flight.place_of(number)])?));
    }
    Ok(Some(records))
}

fn file_of(cache: &Cache, flight: &Flight) -> std::io::Result<Option<Arc<Copy>>> {
    let object = &flight.object;
    let _making = object.making.lock().unwrap_or_else(PoisonError::into_inner);
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
