//! Open files and their bytes: OPEN, READ, RELEASE, LSEEK.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use zerocopy::IntoBytes;

use super::Outcome::{self, Upcall};
use super::{Then, Worker, change};
use crate::attributes::{Rules, Ttl, now_ns};
use crate::copies::{Copy, State};
use crate::front::Front;
use crate::fuse::abi::{
    InHeader, LseekIn, LseekOut, OpenOut, ReadIn, ReleaseIn, opcode, open_flag,
};
use crate::index::names::Openable;
use crate::index::records::{self, BLOCK_SIZE};
use crate::opened::{Handle, Inode};
use crate::stats::Stats;
use crate::upcall::wire::{self, Ask};

/// A copy up to this size is verified while its OPEN waits; a larger one is read block by block
/// until it has been verified beside.
const VERIFY_AT_ONCE_BYTES: u64 = 8 << 20;
const WRITE_FLAGS: i32 = libc::O_WRONLY | libc::O_RDWR | libc::O_TRUNC | libc::O_APPEND;

impl Worker {
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

    pub(super) fn open_confirmed(&mut self, unique: u64, ino: u64, openable: Openable) -> Outcome {
        let front = self.front.clone();
        if let Some(handle) = front.opened.join(&front.shared, ino, unique, false) {
            return self.give(unique, ino, handle, false);
        }
        let size = openable.attributes.size;
        let mut inode = Inode::new(0);
        inode.attributes = Some(openable.attributes);
        inode.identity = Some(openable.identity);
        let state = if size == 0 {
            None // There is nothing to read of it, and no cache file.
        } else {
            Some(front.copies.find(&mut self.cache, ino, &openable.identity, size))
        };
        let passed = match state {
            None => None,
            Some(State::Missing) => {
                let then = Then::Opened(Box::new(openable));
                return Upcall(Ask::Open, wire::Request::of(ino), then);
            }
            Some(State::Verified(copy)) => {
                inode.copy = Some(Arc::new(copy));
                inode.copy.clone()
            }
            Some(State::Whole(copy)) if size <= VERIFY_AT_ONCE_BYTES => {
                let Some(stamp) =
                    copy.verify(&front.copies, &mut self.cache, ino, &mut self.scratch)
                else {
                    // The control plane finds out what is wrong, and mends it.
                    Stats::count(&front.stats.unverified);
                    let then = Then::Opened(Box::new(openable));
                    return Upcall(Ask::Open, wire::Request::of(ino), then);
                };
                Stats::count(&front.stats.verified);
                tell_verified(&front, ino, stamp.size, stamp.ctime_ns);
                inode.copy = Some(Arc::new(copy));
                inode.copy.clone()
            }
            Some(State::Whole(copy)) => {
                // Whoever finds the queue full tries again at its next OPEN.
                let _ = front.unverified.try_send(ino);
                inode.copy = Some(Arc::new(copy));
                None
            }
        };
        let backing = || match passed {
            Some(copy) if front.passes_through() => front.open_backing(&copy.file),
            _ => 0,
        };
        let handle = front.opened.add(&front.means(), ino, unique, inode, backing);
        self.give(unique, ino, handle, false)
    }

    /// Answer an OPEN with `handle`. `upcalled`: the control plane knows of the access.
    pub(super) fn give(
        &self,
        unique: u64,
        ino: u64,
        handle: Option<Handle>,
        upcalled: bool,
    ) -> Outcome {
        let Some(handle) = handle else { return self.refuse(unique, libc::ENFILE) };
        if !upcalled {
            self.front.client.access(ino, now_ns());
        }
        self.opened(unique, handle)
    }

    pub(super) fn opened(&self, unique: u64, handle: Handle) -> Outcome {
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

    pub(super) fn read(&mut self, unique: u64, ino: u64, read: &ReadIn) -> Outcome {
        let front = self.front.clone();
        let inode = self.known(ino);
        let Some(attributes) = inode.as_ref().and_then(|inode| inode.attributes) else {
            return self.ask_for_bytes(ino, read);
        };
        let end = read.offset.saturating_add(read.size.into()).min(attributes.size);
        let Some(length) = end.checked_sub(read.offset).filter(|&length| length > 0) else {
            return self.answer(unique, &[]);
        };
        if self.read_copy(inode.as_ref(), ino, attributes.size, read.offset, length) {
            Stats::count(&front.stats.hits);
            front.stats.hit_bytes.fetch_add(length, Ordering::Relaxed);
            if inode.is_some_and(|inode| inode.upcalled > 0) {
                // Who fills what is missing wants to see where reading goes on.
                let request = wire::Request {
                    offset: read.offset,
                    size: u32::try_from(length).unwrap_or(u32::MAX),
                    ..wire::Request::of(ino)
                };
                front.client.tell(Ask::Note, &request);
            }
            return self.answer(unique, &[&self.buffer]);
        }
        self.ask_for_bytes(ino, read)
    }

    /// An open inode. Of one that was open before this front began, what it is a version of is
    /// looked up, and remembered.
    pub(super) fn known(&mut self, ino: u64) -> Option<Inode> {
        let front = self.front.clone();
        let inode = front.opened.get(ino)?;
        if inode.attributes.is_some() {
            return Some(inode);
        }
        // An inode is one version, however long ago it was confirmed.
        let rules = Rules { ttl: Ttl::FOREVER, ..front.rules.clone() };
        let named = self.names.openable(&rules, ino);
        // One that has lost its name is known by its copy.
        let found = named.or_else(|| {
            let file = self.cache.file(ino)?;
            let attributes = rules.show(ino, &records::Inode::file(file.size));
            Some(Openable { identity: file.identity, attributes })
        });
        match found {
            Some(openable) => front.opened.identify(ino, &openable),
            None => Some(inode),
        }
    }

    fn ask_for_bytes(&self, ino: u64, read: &ReadIn) -> Outcome {
        self.front.opened.set_asked(ino);
        let request = wire::Request {
            offset: read.offset,
            size: read.size,
            arena_length: read.size.into(),
            ..wire::Request::of(ino)
        };
        Upcall(Ask::Read, request, Then::Read)
    }

    /// Read `length` bytes of a cached copy into `self.buffer`; false if they are not all here.
    pub(super) fn read_copy(
        &mut self,
        inode: Option<&Inode>,
        ino: u64,
        size: u64,
        offset: u64,
        length: u64,
    ) -> bool {
        let Some(copy) = self.copy_for(inode, ino, size, offset) else { return false };
        let Ok(length) = usize::try_from(length) else { return false };
        self.buffer.resize(length, 0);
        copy.read(&mut self.cache, ino, offset, &mut self.buffer, &mut self.scratch)
    }

    /// The cached copy of an open inode, opened here if the block at `offset` is in it.
    pub(super) fn copy_for(
        &mut self,
        inode: Option<&Inode>,
        ino: u64,
        size: u64,
        offset: u64,
    ) -> Option<Arc<Copy>> {
        let inode = inode?;
        if let Some(copy) = &inode.copy {
            return Some(copy.clone());
        }
        self.cache.block(ino, u32::try_from(offset / BLOCK_SIZE).ok()?)?;
        if self.cache.file(ino)?.identity != inode.identity? {
            return None;
        }
        let copy = Arc::new(self.front.copies.open(ino, size)?);
        self.front.opened.set_copy(ino, &copy);
        Some(copy)
    }

    pub(super) fn release(&self, unique: u64, ino: u64, release: &ReleaseIn) -> Outcome {
        let front = &self.front;
        if let Some(inode) = front.opened.release(&front.means(), ino, release.fh)
            && (inode.upcalled > 0 || inode.asked)
        {
            tell_closed(front, ino, inode.upcalled.max(1));
        }
        self.answer(unique, &[])
    }

    pub(super) fn lseek(&mut self, unique: u64, ino: u64, lseek: &LseekIn) -> Outcome {
        let front = self.front.clone();
        let size = match front.opened.get(ino).and_then(|inode| inode.attributes) {
            Some(found) => found.size,
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

    pub(super) fn open_upcalled(&self, unique: u64, ino: u64, openable: &Openable) -> Outcome {
        let front = &self.front;
        let mut inode = Inode::new(0);
        inode.attributes = Some(openable.attributes);
        inode.identity = Some(openable.identity);
        inode.upcalled = 1;
        let handle = front.opened.add(&front.means(), ino, unique, inode, || 0);
        if handle.is_none() {
            tell_closed(front, ino, 1);
        }
        self.give(unique, ino, handle, true)
    }

    /// Verify the copy of `ino` as a whole.
    pub fn verify(&mut self, ino: u64) {
        let front = self.front.clone();
        let Some(inode) = front.opened.get(ino) else { return };
        let Some(copy) = inode.copy else { return };
        match copy.verify(&front.copies, &mut self.cache, ino, &mut self.scratch) {
            Some(stamp) => {
                Stats::count(&front.stats.verified);
                tell_verified(&front, ino, stamp.size, stamp.ctime_ns);
            }
            // A reader that comes upon the block asks the control plane for it.
            None => Stats::count(&front.stats.unverified),
        }
    }
}

fn tell_verified(front: &Front, ino: u64, size: u64, ctime_ns: i64) {
    let request = wire::Request {
        offset: ctime_ns.cast_unsigned(),
        arena_at: size,
        ..wire::Request::of(ino)
    };
    front.client.tell(Ask::Verified, &request);
}

/// So many OPENs that the control plane has answered are over.
fn tell_closed(front: &Front, ino: u64, count: u32) {
    let request = wire::Request { size: count, ..wire::Request::of(ino) };
    front.client.tell(Ask::Close, &request);
}
