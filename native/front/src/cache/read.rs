//! What a read needs: bytes of an object from the disk if they are there and right, else from the
//! lake.
//!
//! ```text
//! plan()      all present, or in memory: the caller reads them
//!             otherwise flights for what is missing, all at once
//! ahead()     the same for what will be read
//! damaged()   a block that is wrong, short or cannot be read: dropped, to be fetched again
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::copy::{Bad, Records};
use super::flight::Flight;
use super::objects::{State, block_of};
use super::table::Held;
use super::{Cache, Object};
use crate::health::Part;
use crate::index::cache::CacheReader;
use crate::index::records::{BLOCK_SIZE, Block};
use crate::log;
use crate::queue::Priority;
use crate::stats::Stats;

/// The largest part of one GET for blocks that a single read misses.
pub const PART_BYTES: u64 = 8 << 20;
/// A block of which a quarter was asked for in small reads is fetched whole.
const DENSE_PART: u64 = 4;
/// Blocks watched for that, in one object.
const MAX_WATCHED: usize = 1024;

/// What is to be done for a read.
pub enum Plan {
    /// Nothing may be read, or nothing right can be had: an errno.
    Refused(i32),
    /// Everything is here.
    Here,
    /// These bring what is missing.
    Wait(Vec<Arc<Flight>>),
}

/// The records of the blocks of an object in use.
pub struct ObjectRecords<'a> {
    pub object: &'a Object,
    pub index: &'a mut CacheReader,
}

impl Records for ObjectRecords<'_> {
    fn block(&mut self, number: u32) -> Option<Block> {
        let newer = self.object.state().newer(number);
        newer.unwrap_or_else(|| self.index.block(self.object.ino, number))
    }
}

impl Cache {
    /// The errno, if nothing may be read of an object any more (C4), or nothing right can be had.
    pub fn guard(object: &Object, state: &State) -> Option<i32> {
        if state.failure.is_some() {
            return state.failure;
        }
        (object.is_stale() && !state.whole()).then_some(libc::ESTALE)
    }

    /// What `[lo, hi)` (not empty, inside the object) needs; flights for it are on their way.
    ///
    /// With `whole_blocks` missing blocks are fetched whole, otherwise exactly what was asked for,
    /// unless the object is small or the block dense.
    pub fn plan(&self, object: &Held, lo: u64, hi: u64, whole_blocks: bool) -> Plan {
        let mut state = object.state();
        if let Some(code) = Self::guard(object, &state) {
            return Plan::Refused(code);
        }
        let whole_blocks = whole_blocks || object.size <= BLOCK_SIZE;
        let mut flights: Vec<Arc<Flight>> = Vec::new();
        let mut position = lo;
        while position < hi {
            let number = block_of(position);
            let block_end = object.extent(number).1.min(hi);
            if state.has(number) || self.hot.get(object.ino, number).is_some() {
                position = block_end;
                continue;
            }
            let flight = if let Some(flight) = self.join(&mut state, number, Priority::Demand) {
                position = block_end;
                flight
            } else if whole_blocks || is_dense(object, &mut state, number, block_end - position) {
                let end = self.end_of_gap(&state, object, number, hi);
                let start = object.extent(number).0;
                position = object.extent(end - 1).1.min(hi);
                let end = object.extent(end - 1).1;
                self.start(object, &mut state, start, end, Priority::Demand)
            } else {
                let end = self.end_of_gap(&state, object, number, hi);
                let end = object.extent(end - 1).1.min(hi);
                let known = state.partial_flights.get(&(position, end)).cloned();
                let flight = if let Some(flight) = known {
                    self.promote(&flight, Priority::Demand);
                    flight
                } else {
                    self.start(object, &mut state, position, end, Priority::Demand)
                };
                position = end;
                flight
            };
            if !flights.iter().any(|known| Arc::ptr_eq(known, &flight)) {
                flights.push(flight);
            }
        }
        if flights.is_empty() { Plan::Here } else { Plan::Wait(flights) }
    }

    /// Have the blocks that `[lo, hi)` touches come: a hint to the kernel for present ones, parts of
    /// at most `part_bytes` from the lake for missing ones. The flights, old and new.
    pub fn ahead(
        &self,
        object: &Held,
        lo: u64,
        hi: u64,
        part_bytes: u64,
        priority: Priority,
    ) -> Vec<Arc<Flight>> {
        let mut state = object.state();
        let mut flights: Vec<Arc<Flight>> = Vec::new();
        if hi <= lo || Self::guard(object, &state).is_some() {
            return flights;
        }
        let copy = state.copy.clone();
        let mut present = Vec::new();
        let (mut number, end) = (block_of(lo), block_of(hi - 1) + 1);
        while number < end {
            if state.has(number) {
                present.push(number);
                number += 1;
                continue;
            }
            let flight = if let Some(flight) = self.join(&mut state, number, priority) {
                number += 1;
                flight
            } else {
                let start = number;
                let mut most = block_of(part_bytes).max(1);
                if end == object.block_count() && end - number <= most + most / 2 + 1 {
                    most = end - number; // A short tail is not worth a request of its own.
                }
                let missing = |state: &State, number| {
                    !state.has(number) && !state.flights.contains_key(&number)
                };
                while number < end && number - start < most && missing(&state, number) {
                    number += 1;
                }
                let (lo, hi) = (object.extent(start).0, object.extent(number - 1).1);
                self.start(object, &mut state, lo, hi, priority)
            };
            if !flights.iter().any(|known| Arc::ptr_eq(known, &flight)) {
                flights.push(flight);
            }
        }
        drop(state);
        if let Some(copy) = copy.filter(|_| priority < Priority::WarmUp) {
            for number in present {
                copy.will_need(number);
            }
        }
        flights
    }

    /// The flight that brings block `number`, if one does; it is wanted with this urgency, too. Who
    /// waits for it reads the block from it, which is no hit.
    fn join(&self, state: &mut State, number: u32, priority: Priority) -> Option<Arc<Flight>> {
        let flight = state.flights.get(&number)?.clone();
        self.promote(&flight, priority);
        if priority == Priority::Demand {
            state.unread.entry(number).or_insert(0);
        }
        Some(flight)
    }

    /// How far ahead of who reads an object in order may be fetched, by its `State`'s `passing` and
    /// `is_kept`. Whether it will be kept is not known before some of it has come; while there is no
    /// room, most is not.
    pub fn window(&self, passes: bool, is_kept: bool) -> u64 {
        if passes || !(is_kept || self.capacity.has_room(self.max_window)) {
            self.max_window.min(self.hot.window())
        } else {
            self.max_window
        }
    }

    /// The end of the missing blocks from `number` on, as far as the read and one part go.
    fn end_of_gap(&self, state: &State, object: &Object, number: u32, hi: u64) -> u32 {
        let mut end = number + 1;
        while u64::from(end) * BLOCK_SIZE < hi
            && u64::from(end - number) * BLOCK_SIZE < PART_BYTES
            && !state.has(end)
            && !state.flights.contains_key(&end)
            && self.hot.get(object.ino, end).is_none()
        {
            end += 1;
        }
        end
    }

    /// One block, whatever the index says of it, for the read that found it unreadable.
    pub fn fetch_block(&self, object: &Held, number: u32) -> Arc<Flight> {
        let mut state = object.state();
        let (lo, hi) = object.extent(number);
        let known = state.flights.get(&number).or_else(|| state.partial_flights.get(&(lo, hi)));
        if let Some(flight) = known {
            self.promote(flight, Priority::Demand);
            return flight.clone();
        }
        self.start(object, &mut state, lo, hi, Priority::Demand)
    }

    /// What `Copy` found: drop a block that cannot be read or is wrong, count it, and say so once
    /// for each object. False: the disk does not read, which says nothing about the block.
    pub fn damaged(&self, object: &Held, index: &mut CacheReader, bad: &Bad) -> bool {
        let (number, record) = match *bad {
            Bad::Disk { code, .. } => {
                self.health.failed("read a cache file", &std::io::Error::from_raw_os_error(code));
                return false;
            }
            Bad::Unknown(_) if !index.is_readable() => {
                let error = std::io::Error::other("no answer");
                self.health.part_failed(Part::Index, "look into the cache index", &error);
                return false;
            }
            Bad::Unknown(number) => (number, None),
            Bad::Block { number, record, .. } => (number, Some(record)),
        };
        if (ObjectRecords { object, index }).block(number) != record {
            return true; // Another reader found it first.
        }
        let mut state = object.state();
        if let Bad::Block { why, .. } = bad {
            Stats::count(&self.stats.bad_blocks);
            if !std::mem::replace(&mut state.told_of_damage, true) {
                log::warning(&format!(
                    "block {number} of the cached copy is bad, fetched again: {} ({why})",
                    object.name()
                ));
            }
        }
        self.hot.remove(object.ino, number);
        self.capacity.freed(object.remove(&mut state, number));
        if let Some(copy) = &state.copy {
            copy.forget(number);
        }
        drop(state);
        self.recorder.mark(object);
        true
    }

    /// Count a read of `[lo, hi)`: a hit, unless it `missed`, or a part of it came from the lake
    /// during this use and is read for the first time.
    pub fn count_read(&self, object: &Object, lo: u64, hi: u64, missed: bool) {
        let missed = first_read(object, lo, hi) || missed;
        for number in block_of(lo)..=block_of(hi - 1) {
            if hi >= object.extent(number).1 {
                self.hot.spend(object.ino, number);
            }
        }
        let stats = &self.stats;
        let (reads, bytes) = if missed {
            (&stats.misses, &stats.miss_bytes)
        } else {
            (&stats.hits, &stats.hit_bytes)
        };
        Stats::count(reads);
        bytes.fetch_add(hi - lo, Ordering::Relaxed);
    }
}

fn first_read(object: &Object, lo: u64, hi: u64) -> bool {
    let mut state = object.state();
    let mut first = false;
    if state.unread.is_empty() {
        return false;
    }
    for number in block_of(lo)..=block_of(hi - 1) {
        let Some(read_to) = state.unread.get_mut(&number) else { continue };
        if hi >= object.extent(number).1 {
            state.unread.remove(&number);
            first = true;
        } else if hi > *read_to {
            *read_to = hi;
            first = true;
        }
    }
    first
}

/// Whether small reads have asked for enough of block `number`, one of `length` bytes counted.
fn is_dense(object: &Object, state: &mut State, number: u32, length: u64) -> bool {
    let (lo, hi) = object.extent(number);
    let asked = state.asked.remove(&number).unwrap_or(0) + length;
    if asked * DENSE_PART < hi - lo || length == hi - lo {
        // A read of the whole block needs no guess.
        if state.asked.len() >= MAX_WATCHED
            && let Some(&any) = state.asked.keys().next()
        {
            state.asked.remove(&any);
        }
        state.asked.insert(number, asked);
        return false;
    }
    asked > length
}
