//! Bytes of open files: READ, LSEEK.

use std::sync::Arc;

use zerocopy::IntoBytes;

use super::Outcome::{self, Wait};
use super::{After, Worker};
use crate::cache::copy::Bad;
use crate::cache::flight::Flight;
use crate::cache::objects::block_of;
use crate::cache::read::{ObjectRecords, Plan};
use crate::cache::table::Held;
use crate::front::Front;
use crate::fuse::abi::{LseekIn, LseekOut, ReadIn};
use crate::index::records::BLOCK_SIZE;
use crate::queue::Priority;

/// A block that is bad so often while one read waits for it is given up.
const MOST_TRIES: u32 = 4;

/// A READ that is under way: `[lo, hi)` of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) lo: u64,
    pub(super) hi: u64,
    /// It goes on with what was read before.
    sequential: bool,
    missed: bool,
    tries: u32,
}

impl Worker {
    pub(super) fn read(&mut self, unique: u64, ino: u64, read: &ReadIn) -> Outcome {
        let front = self.front.clone();
        if front.opened.is_staged(ino) {
            return self.read_staging(unique, ino, read);
        }
        let inode = self.known(ino);
        let Some(version) = inode.as_ref().and_then(|inode| inode.version.as_ref()) else {
            return self.refuse(unique, libc::ESTALE);
        };
        let end = read.offset.saturating_add(read.size.into()).min(version.attributes.size);
        if end <= read.offset {
            return self.answer(unique, &[]);
        }
        let known = inode.as_ref().and_then(|inode| inode.object.clone());
        let object = if let Some(object) = known {
            object
        } else {
            let Some(object) = self.acquire(ino, version) else {
                return self.refuse(unique, libc::ESTALE);
            };
            front.opened.set_object(ino, &object);
            object
        };
        let sequential = read_ahead(&front, &object, read.offset, end);
        let reading = Reading { lo: read.offset, hi: end, sequential, missed: false, tries: 0 };
        self.read_object(unique, object, reading)
    }

    fn read_object(&mut self, unique: u64, object: Held, mut reading: Reading) -> Outcome {
        let front = self.front.clone();
        while reading.tries < MOST_TRIES {
            let Reading { lo, hi, sequential, .. } = reading;
            let flights = match front.cache.plan(&object, lo, hi, sequential) {
                Plan::Refused(code) => return self.refuse(unique, code),
                Plan::Wait(flights) => flights,
                Plan::Here => match self.fill(&object, &[], lo, hi) {
                    Ok(()) => {
                        front.cache.count_read(&object, lo, hi, reading.missed);
                        return self.answer(unique, &[&self.buffer]);
                    }
                    Err(bad) => {
                        reading.tries += 1;
                        reading.missed = true;
                        match self.mend(&object, &bad) {
                            Some(flight) => vec![flight],
                            None => continue,
                        }
                    }
                },
            };
            reading.missed = true;
            return Wait(flights, After::Read(object, reading));
        }
        self.refuse(unique, libc::EIO)
    }

    /// Go on with a READ that waited for `flights`.
    pub(super) fn read_fetched(
        &mut self,
        unique: u64,
        object: Held,
        mut reading: Reading,
        flights: &[Arc<Flight>],
    ) -> Outcome {
        let front = self.front.clone();
        let Reading { lo, hi, missed, .. } = reading;
        for flight in flights {
            if let Some(Err(code)) = flight.outcome() {
                return self.refuse(unique, code);
            }
        }
        if let [flight] = flights
            && let Some(Ok(buffer)) = flight.outcome()
            && let Some(bytes) = part(&buffer, flight.lo, lo, hi)
        {
            front.cache.count_read(&object, lo, hi, missed);
            return self.answer(unique, &[bytes]);
        }
        match self.fill(&object, flights, lo, hi) {
            Ok(()) => {
                front.cache.count_read(&object, lo, hi, missed);
                self.answer(unique, &[&self.buffer])
            }
            Err(bad) => {
                reading.tries += 1;
                match self.mend(&object, &bad) {
                    Some(flight) if reading.tries < MOST_TRIES => {
                        let mut flights = flights.to_vec();
                        flights.push(flight);
                        Wait(flights, After::Read(object, reading))
                    }
                    _ => self.read_object(unique, object, reading),
                }
            }
        }
    }

    /// `[lo, hi)` of an object into `self.buffer`: from flights, from memory, from its copy.
    fn fill(
        &mut self,
        object: &Held,
        flights: &[Arc<Flight>],
        lo: u64,
        hi: u64,
    ) -> Result<(), Bad> {
        let front = self.front.clone();
        let copy = object.state().copy.clone();
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(usize::try_from(hi - lo).unwrap_or(0), 0);
        let mut position = lo;
        let mut result = Ok(());
        while position < hi && result.is_ok() {
            let number = block_of(position);
            let (start, end) = object.extent(number);
            let end = end.min(hi);
            let place = usize::try_from(position - lo).unwrap_or(0);
            let length = usize::try_from(end - position).unwrap_or(0);
            let place = &mut buffer[place..place + length];
            if from_flights(flights, position, place) {
            } else if let Some(block) = front.cache.hot.get(object.ino, number) {
                let at = usize::try_from(position - start).unwrap_or(0);
                place.copy_from_slice(&block.bytes()[at..at + length]);
            } else if let Some(copy) = &copy {
                let mut records = ObjectRecords { object, index: &mut self.cache };
                result = copy.read(&mut records, position, place, &mut self.scratch);
            } else {
                result = Err(Bad::Unknown(number));
            }
            position = end;
        }
        self.buffer = buffer;
        result
    }

    /// Something of a copy cannot be read: a flight for it, where dropping it is no way on.
    fn mend(&mut self, object: &Held, bad: &Bad) -> Option<Arc<Flight>> {
        let front = self.front.clone();
        if front.cache.damaged(object, &mut self.cache, bad) {
            return None;
        }
        let (Bad::Disk { number, .. } | Bad::Block { number, .. } | Bad::Unknown(number)) = *bad;
        Some(front.cache.fetch_block(object, number))
    }

    pub(super) fn lseek(&mut self, unique: u64, ino: u64, lseek: &LseekIn) -> Outcome {
        let front = self.front.clone();
        if front.opened.is_staged(ino) {
            return self.seek_staging(unique, ino, lseek);
        }
        let size = match front.opened.get(ino).and_then(|inode| inode.version) {
            Some(version) => version.attributes.size,
            None => match self.names.attributes(&front.rules, ino) {
                Some((found, _)) => found.size,
                None => return self.refuse(unique, libc::ESTALE),
            },
        };
        // An object has no holes but the one at its end.
        let offset = match lseek.whence.cast_signed() {
            _ if lseek.offset >= size => return self.refuse(unique, libc::ENXIO),
            libc::SEEK_DATA => lseek.offset,
            libc::SEEK_HOLE => size,
            _ => return self.refuse(unique, libc::EINVAL),
        };
        self.answer(unique, &[LseekOut { offset }.as_bytes()])
    }
}

/// Have what is to come beside a read sent for; whether the read goes on with what was read before.
fn read_ahead(front: &Front, object: &Held, lo: u64, hi: u64) -> bool {
    let cache = &front.cache;
    let advice = {
        let mut state = object.state();
        let state = &mut *state;
        let Some(streams) = &mut state.streams else { return false };
        streams.keep_within(cache.window(state.passing.is_some(), state.is_kept));
        streams.note(lo, hi - lo)
    };
    // The block that the read ends in comes for the read, and sooner alone.
    let start = advice.ahead.start.div_ceil(BLOCK_SIZE) * BLOCK_SIZE;
    let end = advice.ahead.end;
    if !advice.ahead.is_empty() && end > start {
        cache.ahead(object, start, end, advice.part_bytes, Priority::ReadAhead);
    }
    advice.sequential
}

fn from_flights(flights: &[Arc<Flight>], position: u64, place: &mut [u8]) -> bool {
    let end = position + place.len() as u64;
    for flight in flights.iter().filter(|flight| flight.lo <= position && end <= flight.hi) {
        if let Some(Ok(buffer)) = flight.outcome()
            && let Some(bytes) = part(&buffer, flight.lo, position, end)
        {
            place.copy_from_slice(bytes);
            return true;
        }
    }
    false
}

/// `[lo, hi)` out of a buffer that begins at `start`.
fn part(buffer: &[u8], start: u64, lo: u64, hi: u64) -> Option<&[u8]> {
    let (from, to) = (lo.checked_sub(start)?, hi.checked_sub(start)?);
    buffer.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)
}
