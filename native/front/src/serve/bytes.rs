//! Open files and their bytes: OPEN, READ, RELEASE, LSEEK.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use zerocopy::IntoBytes;

use super::Outcome::{self, Upcall, Wait};
use super::{After, Then, Worker, change};
use crate::attributes::{Rules, Ttl, now_ns};
use crate::cache::copy::{Bad, Copy};
use crate::cache::flight::{Flight, Until};
use crate::cache::objects::block_of;
use crate::cache::read::{ObjectRecords, Plan};
use crate::cache::table::Held;
use crate::front::Front;
use crate::fuse::abi::{
    InHeader, LseekIn, LseekOut, OpenOut, ReadIn, ReleaseIn, opcode, open_flag,
};
use crate::index::names::Openable;
use crate::index::records::{self, BLOCK_SIZE};
use crate::opened::{Handle, Inode};
use crate::queue::Priority;
use crate::stats::Stats;
use crate::upcall::wire::{self, Ask};

/// A copy up to this size is verified while its OPEN waits; a larger one is read block by block
/// until it has been verified beside.
const VERIFY_AT_ONCE_BYTES: u64 = 8 << 20;
/// A file up to this size is fetched while its OPEN waits, so that it passes through: few programs
/// open what they do not read.
const FETCH_AT_ONCE_BYTES: u64 = BLOCK_SIZE;
/// A block that is bad so often while one read waits for it is given up.
const MOST_TRIES: u32 = 4;
const WRITE_FLAGS: i32 = libc::O_WRONLY | libc::O_RDWR | libc::O_TRUNC | libc::O_APPEND;

/// A READ that is under way: `[lo, hi)` of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    lo: u64,
    hi: u64,
    /// It goes on with what was read before.
    sequential: bool,
    missed: bool,
    tries: u32,
}

impl Worker {
    // OPEN

    pub(super) fn open(&mut self, header: &InHeader, flags: u32) -> Outcome {
        let (unique, ino) = (header.unique, header.nodeid);
        if flags.cast_signed() & WRITE_FLAGS != 0 {
            return change(ino, opcode::OPEN);
        }
        let front = self.front.clone();
        if let Some(known) = front.pending_rows.get(&unique)
            && front.shared.has_row(known.fh)
        {
            // The front before this one did it, and died before it could say so, or after.
            return self.opened(unique, Handle { fh: known.fh, backing: known.backing });
        }
        match self.names.openable(&front.rules, ino) {
            Some(openable) => self.open_confirmed(unique, ino, openable),
            None => Upcall(Ask::Confirm, wire::Request::of(ino), Then::Open),
        }
    }

    pub(super) fn open_confirmed(&mut self, unique: u64, ino: u64, version: Openable) -> Outcome {
        let front = self.front.clone();
        if let Some(handle) = front.opened.join(&front.shared, ino, unique) {
            return self.give(unique, ino, handle);
        }
        if version.attributes.size == 0 {
            // There is nothing to read of it, and no cache file.
            return self.open_to_ask(unique, ino, version, None);
        }
        if let Some(copy) = self.verified_copy(ino, &version) {
            return self.open_passed(unique, ino, version, &copy);
        }
        let Some(object) = self.acquire(ino, &version) else {
            return self.refuse(unique, libc::ESTALE);
        };
        self.open_object(unique, ino, version, object, true)
    }

    /// The copy of a file that is not in use, if it is whole and the one that was verified since
    /// this boot (C1).
    fn verified_copy(&mut self, ino: u64, version: &Openable) -> Option<Copy> {
        let cache = &self.front.cache;
        if !self.front.passes_through() || cache.table.contains(ino) {
            return None;
        }
        let size = version.attributes.size;
        let known = self.cache.file(ino)?;
        let whole = known.complete && known.present_bytes == size;
        if !whole || known.identity != version.identity || known.size != size {
            return None;
        }
        let copy = cache.files.open(ino, size).ok()?;
        (cache.files.stamp(&copy).ok()? == known.verified).then_some(copy)
    }

    /// Become a user of an object; `None` if it is in use as another version.
    pub fn acquire(&mut self, ino: u64, version: &Openable) -> Option<Held> {
        let Openable { identity, attributes, record } = version;
        self.front.cache.acquire(&mut self.cache, ino, attributes.size, *identity, record)
    }

    /// Open an object in use. `may_wait`: what is small is fetched first; otherwise it just was.
    fn open_object(
        &mut self,
        unique: u64,
        ino: u64,
        version: Openable,
        object: Held,
        may_wait: bool,
    ) -> Outcome {
        let front = self.front.clone();
        let (whole, filled) = {
            let mut state = object.state();
            let was = state.complete;
            if state.whole() {
                front.cache.filled(&object, &mut state);
            }
            (state.whole(), state.complete != was)
        };
        if filled {
            front.cache.recorder.mark(&object);
        }
        if let Some(copy) = self.passable(&object) {
            if !may_wait {
                let stats = &front.stats;
                Stats::count(&stats.opens_fetched);
                Stats::count(&stats.misses);
                stats.miss_bytes.fetch_add(object.size, Ordering::Relaxed);
            }
            return self.open_passed(unique, ino, version, &copy);
        }
        if !whole && object.size <= FETCH_AT_ONCE_BYTES && may_wait {
            let flights = front.cache.ahead(&object, 0, object.size, BLOCK_SIZE, Priority::Demand);
            if front.passes_through() && !flights.is_empty() {
                let after = After::Open(Box::new((version, object)));
                return Wait(flights, Until::Landed, after);
            }
        }
        self.open_to_ask(unique, ino, version, Some(object))
    }

    /// The copy of an object in use that may pass through. A small one that was not verified since
    /// this boot is so now; a larger one beside.
    fn passable(&mut self, object: &Held) -> Option<Arc<Copy>> {
        let front = self.front.clone();
        let (copy, verified) = {
            let state = object.state();
            if !state.complete {
                return None;
            }
            (state.copy.clone()?, state.verified)
        };
        if front.cache.files.stamp(&copy).ok()? == verified {
            return Some(copy);
        }
        if object.size > VERIFY_AT_ONCE_BYTES {
            return None;
        }
        self.verify_object(object, &copy).then_some(copy)
    }

    /// Compare every block of a whole copy with its record, and record that this was so. A block
    /// that is bad is dropped.
    fn verify_object(&mut self, object: &Held, copy: &Copy) -> bool {
        let front = self.front.clone();
        let cache = &front.cache;
        let Ok(before) = cache.files.stamp(copy) else { return false };
        let mut records = ObjectRecords { object, index: &mut self.cache };
        if let Err(bad) = copy.verify(&mut records, &mut self.scratch) {
            Stats::count(&front.stats.unverified);
            cache.damaged(object, &mut self.cache, &bad);
            return false;
        }
        // What changed meanwhile was not what was verified.
        if cache.files.stamp(copy).ok() != Some(before) || before.size != object.size {
            return false;
        }
        let mut state = object.state();
        if !state.complete {
            return false;
        }
        state.verified = before;
        drop(state);
        Stats::count(&front.stats.verified);
        cache.recorder.mark(object);
        true
    }

    fn open_passed(&mut self, unique: u64, ino: u64, version: Openable, copy: &Copy) -> Outcome {
        let front = self.front.clone();
        let inode = Inode { version: Some(version), ..Inode::new(0) };
        let backing = || {
            if front.passes_through() { front.open_backing(&copy.file) } else { 0 }
        };
        // Of one that the kernel does not pass through, the object is looked up at the first READ.
        let handle = front.opened.add(&front.means(), ino, unique, inode, backing);
        self.give(unique, ino, handle)
    }

    fn open_to_ask(
        &mut self,
        unique: u64,
        ino: u64,
        version: Openable,
        object: Option<Held>,
    ) -> Outcome {
        let front = self.front.clone();
        let unverified = object
            .as_ref()
            .is_some_and(|object| object.size > VERIFY_AT_ONCE_BYTES && object.state().complete);
        let inode = Inode { version: Some(version), object, ..Inode::new(0) };
        let handle = front.opened.add(&front.means(), ino, unique, inode, || 0);
        if unverified {
            // Whoever finds the queue full tries again at its next OPEN.
            let _ = front.unverified.try_send(ino);
        }
        self.give(unique, ino, handle)
    }

    /// Answer an OPEN with `handle`.
    fn give(&self, unique: u64, ino: u64, handle: Option<Handle>) -> Outcome {
        let Some(handle) = handle else { return self.refuse(unique, libc::ENFILE) };
        self.front.client.access(ino, now_ns());
        self.front.cache.used(ino);
        self.opened(unique, handle)
    }

    fn opened(&self, unique: u64, handle: Handle) -> Outcome {
        let Handle { fh, backing } = handle;
        let open_flags = if backing > 0 {
            Stats::count(&self.front.stats.opens_passed_through);
            open_flag::PASSTHROUGH | open_flag::NOFLUSH
        } else {
            Stats::count(&self.front.stats.opens_asked);
            open_flag::KEEP_CACHE | open_flag::NOFLUSH // F2
        };
        let out = OpenOut { fh, open_flags, backing_id: backing };
        self.answer(unique, &[out.as_bytes()])
    }

    /// Go on with an OPEN that waited for its file.
    pub(super) fn open_fetched(
        &mut self,
        unique: u64,
        ino: u64,
        version: Openable,
        object: Held,
        flights: &[Arc<Flight>],
    ) -> Outcome {
        let front = self.front.clone();
        if let Some(Err(code)) = flights.iter().find_map(|flight| flight.outcome()) {
            return self.refuse(unique, code);
        }
        if let Some(handle) = front.opened.join(&front.shared, ino, unique) {
            return self.give(unique, ino, handle);
        }
        self.open_object(unique, ino, version, object, false)
    }

    // READ

    pub(super) fn read(&mut self, unique: u64, ino: u64, read: &ReadIn) -> Outcome {
        let front = self.front.clone();
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
            return Wait(flights, Until::Done, After::Read(object, reading));
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
                        Wait(flights, Until::Done, After::Read(object, reading))
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

    /// An open inode. Of one that was open before this front began, what it is a version of is
    /// looked up, and remembered.
    pub(super) fn known(&mut self, ino: u64) -> Option<Inode> {
        let front = self.front.clone();
        let inode = front.opened.get(ino)?;
        if inode.version.is_some() {
            return Some(inode);
        }
        // An inode is one version, however long ago it was confirmed.
        let rules = Rules { ttl: Ttl::FOREVER, ..front.rules.clone() };
        let named = self.names.openable(&rules, ino);
        // One that has lost its name is known by its copy.
        let found = named.or_else(|| {
            let file = self.cache.file(ino)?;
            let attributes = rules.show(ino, &records::Inode::file(file.size));
            Some(Openable { identity: file.identity, attributes, record: Arc::default() })
        });
        match found {
            Some(version) => front.opened.identify(ino, &version),
            None => Some(inode),
        }
    }

    // The rest

    pub(super) fn release(&self, unique: u64, ino: u64, release: &ReleaseIn) -> Outcome {
        let front = &self.front;
        if let Some(inode) = front.opened.release(&front.means(), ino, release.fh)
            && inode.doomed
        {
            drop(inode); // Who uses it no more.
            front.evict_soon(ino);
        }
        self.answer(unique, &[])
    }

    pub(super) fn lseek(&mut self, unique: u64, ino: u64, lseek: &LseekIn) -> Outcome {
        let front = self.front.clone();
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

    /// Verify the copy of `ino` as a whole.
    pub fn verify(&mut self, ino: u64) {
        let front = self.front.clone();
        let Some(object) = front.opened.get(ino).and_then(|inode| inode.object) else { return };
        let copy = object.state().copy.clone();
        if let Some(copy) = copy {
            self.verify_object(&object, &copy);
        }
    }
}

/// Have what is to come beside a read sent for; whether the read goes on with what was read before.
fn read_ahead(front: &Front, object: &Held, lo: u64, hi: u64) -> bool {
    let cache = &front.cache;
    let (advice, whole) = {
        let mut state = object.state();
        let whole = state.whole();
        let Some(streams) = &mut state.streams else { return false };
        (streams.note(lo, hi - lo), whole)
    };
    // The block that the read ends in comes for the read, and sooner alone.
    let start = advice.ahead.start.div_ceil(BLOCK_SIZE) * BLOCK_SIZE;
    let mut end = advice.ahead.end;
    if cache.health.streaming() && !whole {
        // What is fetched ahead then waits in the small memory of hot blocks alone.
        end = end.min(start + cache.hot.capacity_bytes() / 4);
    }
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
