//! Opening and closing files: OPEN, RELEASE, and what makes a file pass through.

use std::sync::Arc;

use zerocopy::IntoBytes;

use super::Outcome::{self, Upcall, Wait};
use super::write::{hand_over, writes};
use super::{After, Then, Worker};
use crate::attributes::{Rules, Ttl, now_ns};
use crate::cache::copy::Copy;
use crate::cache::flight::Flight;
use crate::cache::read::ObjectRecords;
use crate::cache::table::Held;
use crate::fuse::abi::{InHeader, OpenOut, ReleaseIn, open_flag};
use crate::fuse::request::Request;
use crate::index::names::Openable;
use crate::index::records::{self, BLOCK_SIZE};
use crate::opened::{Handle, Inode};
use crate::queue::Priority;
use crate::shared::row_flag;
use crate::stats::Stats;
use crate::upcall::wire::{self, Ask};

/// A copy up to this size is verified while its OPEN waits; a larger one is read block by block
/// until it has been verified beside.
const VERIFY_AT_ONCE_BYTES: u64 = 8 << 20;
/// A file up to this size is fetched while its OPEN waits, which fails where the lake has another
/// version, and is then tried again: few programs open what they do not read.
const FETCH_AT_ONCE_BYTES: u64 = BLOCK_SIZE;

impl Worker {
    pub(super) fn open(&mut self, request: &Request<'_>, flags: u32) -> Outcome {
        if writes(flags) || self.is_journals(request.header.nodeid) {
            return hand_over(request, Then::Handed { flags });
        }
        self.open_lakes(&request.header)
    }

    /// Open a file of the lake's.
    pub(super) fn open_lakes(&mut self, header: &InHeader) -> Outcome {
        let (unique, ino) = (header.unique, header.nodeid);
        let front = self.front.clone();
        if let Some(known) = front.pending_rows.get(&unique)
            && front.shared.has_row(known.fh)
        {
            // The front before this one did it, and died before it could say so, or after.
            return self.opened(unique, Handle { fh: known.fh, backing: known.backing });
        }
        match self.names.openable(&front.rules, ino) {
            Some(openable) => self.open_confirmed(header, openable),
            None => Upcall(Ask::Confirm, wire::Request::of(ino), Then::Open),
        }
    }

    pub(super) fn open_confirmed(&mut self, header: &InHeader, version: Openable) -> Outcome {
        let front = self.front.clone();
        let (unique, ino) = (header.unique, header.nodeid);
        // Told before anything is fetched for it: what it is worth depends on that.
        front.client.access(ino, now_ns(), header.pid);
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
        self.open_object(unique, ino, version, object)
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

    /// Open an object in use; what is small is fetched first.
    fn open_object(&mut self, unique: u64, ino: u64, version: Openable, object: Held) -> Outcome {
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
            return self.open_passed(unique, ino, version, &copy);
        }
        let small = object.size <= FETCH_AT_ONCE_BYTES;
        // What is not kept on disk, and was open just now, is in memory still.
        if !whole && small && front.cache.hot.get(object.ino, 0).is_none() {
            let flights = front.cache.ahead(&object, 0, object.size, BLOCK_SIZE, Priority::Demand);
            if !flights.is_empty() {
                let after = After::Open(Box::new((version, object)));
                return Wait(flights, after);
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
        let handle = front.opened.add(&front.means(), ino, (unique, 0), inode, backing);
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
        let handle = front.opened.add(&front.means(), ino, (unique, 0), inode, || 0);
        if unverified {
            // Whoever finds the queue full tries again at its next OPEN.
            let _ = front.unverified.try_send(ino);
        }
        self.give(unique, ino, handle)
    }

    /// Answer an OPEN with `handle`.
    fn give(&self, unique: u64, ino: u64, handle: Option<Handle>) -> Outcome {
        let Some(handle) = handle else { return self.refuse(unique, libc::ENFILE) };
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

    /// Go on with an OPEN that waited for its file. What just came is read from memory, and is on its
    /// way to the cache disk: the next OPEN passes through.
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
        self.open_to_ask(unique, ino, version, Some(object))
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

    pub(super) fn release(&self, unique: u64, ino: u64, release: &ReleaseIn) -> Outcome {
        let front = &self.front;
        let row = front.shared.row_of(release.fh);
        if let Some(inode) = front.opened.release(&front.means(), ino, release.fh)
            && inode.doomed
        {
            drop(inode); // Who uses it no more.
            front.evict_soon(ino);
        }
        if let Some(row) = row.filter(|row| row.flags & row_flag::STAGED != 0) {
            front.client.released(ino, row.unique);
        }
        self.answer(unique, &[])
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
