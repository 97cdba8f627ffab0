//! Write-back directories: what the control plane decides about them, and their files, which the
//! kernel reads and writes by itself.
//!
//! Names and commit points are the control plane's; a request of theirs is handed over as the
//! kernel wrote it. The bytes are staging files, `staging/<ino>` in the lake's directory, each of
//! which passes through for all its handles: no WRITE ever comes here.
//!
//! ```text
//! CREATE, OPEN -> upcall CHANGE -> made, staged  a backing id of the staging file, a row
//! FLUSH        -> upcall CHANGE                  of a handle that writes: a commit point
//! FSYNC        -> upcall CHANGE                  of any handle
//! RELEASE      -> RELEASED                       told, not asked: nobody waits for it
//! ```
//!
//! A handle is known over there by the `unique` of the request that opened it, which its row has.
//! Whoever of the two dies, HANDLES says at the next session's beginning which there are.

use zerocopy::IntoBytes;

use super::Outcome::{self, Upcall};
use super::{Then, Told, Worker};
use crate::attributes::{Attributes, Ttl};
use crate::fuse::abi::{
    FallocateIn, InHeader, LseekIn, LseekOut, OpenOut, ReadIn, opcode, open_flag,
};
use crate::fuse::reply;
use crate::fuse::request::Request;
use crate::index::names::Openable;
use crate::index::records::ObjectRef;
use crate::log;
use crate::opened::{Handle, Inode};
use crate::shared::row_flag;
use crate::stats::Stats;
use crate::sys::file;
use crate::upcall::wire::{self, Ask};

const WRITE_FLAGS: i32 = libc::O_WRONLY | libc::O_RDWR | libc::O_TRUNC | libc::O_APPEND;
/// Counts in the answer to an OPEN that was handed over.
const LAKES: u32 = 0;
const STAGED: u32 = 1;
const LAKES_AS_TOLD: u32 = 2;

/// What became of a handle on a staging file.
enum Staged {
    As(Handle),
    /// Whoever decided about it is gone, and the next one may not know of it: to be asked again.
    Forgotten,
    Refused(i32),
}

/// Whether an OPEN with `flags` may change the file.
pub(super) fn writes(flags: u32) -> bool {
    flags.cast_signed() & WRITE_FLAGS != 0
}

/// Have the control plane act on a request, which it gets as the kernel wrote it.
pub(super) fn hand_over(request: &Request<'_>, then: Then) -> Outcome {
    let InHeader { opcode, unique, nodeid, uid, gid, pid, .. } = request.header;
    let mut tail = Vec::with_capacity(8 + request.body.len());
    tail.extend(gid.to_le_bytes());
    tail.extend(pid.to_le_bytes());
    tail.extend(request.body);
    let asked =
        wire::Request { offset: unique, size: opcode, uid, tail, ..wire::Request::of(nodeid) };
    Upcall(Ask::Change, asked, then)
}

/// What becomes of the answer to a request that changes something.
pub(super) fn after_change(code: u32) -> Then {
    match code {
        opcode::CREATE => Then::Created,
        opcode::MKDIR | opcode::SYMLINK => Then::Made,
        opcode::SETATTR => Then::Attributes,
        _ => Then::Nothing,
    }
}

impl Worker {
    /// Whether the journal knows `ino`: what is asked of it is the control plane's to answer.
    pub(super) fn is_journals(&mut self, ino: u64) -> bool {
        self.journal.as_mut().is_some_and(|journal| journal.has_node(ino))
    }

    /// FLUSH, FSYNC.
    pub(super) fn flush(&self, request: &Request<'_>, fh: u64) -> Outcome {
        let row = self.front.shared.row_of(fh);
        if row.is_some_and(|row| has_to_do_with(request.header.opcode, row.flags)) {
            return hand_over(request, Then::Nothing);
        }
        self.answer(request.header.unique, &[])
    }

    /// Go on with a CREATE, of which the new file's attributes are told.
    pub(super) fn created(&self, request: &Request<'_>, told: &Told) -> Outcome {
        let unique = request.header.unique;
        let Some((found, _)) = wire::attributes(&told.tail) else {
            return self.refuse(unique, libc::EIO);
        };
        match self.stage(unique, found.ino, true, told.session) {
            Staged::As(handle) => {
                let entry = reply::entry(&found, told.ttl);
                let opened = passed(handle, true);
                self.answer(unique, &[entry.as_bytes(), opened.as_bytes()])
            }
            Staged::Forgotten => hand_over(request, Then::Created),
            Staged::Refused(code) => self.refuse(unique, code),
        }
    }

    /// Go on with an OPEN that was handed over.
    pub(super) fn handed_back(
        &mut self,
        request: &Request<'_>,
        flags: u32,
        told: &Told,
    ) -> Outcome {
        let (unique, ino) = (request.header.unique, request.header.nodeid);
        match told.count {
            STAGED => match self.stage(unique, ino, writes(flags), told.session) {
                Staged::As(handle) => {
                    self.answer(unique, &[passed(handle, writes(flags)).as_bytes()])
                }
                Staged::Forgotten => hand_over(request, Then::Handed { flags }),
                Staged::Refused(code) => self.refuse(unique, code),
            },
            LAKES_AS_TOLD => match as_told(&told.tail) {
                Some(openable) => self.open_confirmed(&request.header, openable),
                None => self.refuse(unique, libc::EIO),
            },
            LAKES => self.open_lakes(&request.header),
            _ => self.refuse(unique, libc::EIO),
        }
    }

    /// A handle on the staging file of `ino`, which the kernel reads and writes by itself; decided in
    /// `session`.
    fn stage(&self, unique: u64, ino: u64, writes: bool, session: u64) -> Staged {
        let front = &self.front;
        if !front.client.is_current(session) {
            return Staged::Forgotten;
        }
        match self.add_staged(unique, ino, writes) {
            // Its row was there before the next session began, so it is told of in it.
            Ok(handle) if front.client.is_current(session) => Staged::As(handle),
            // It may be told of or not. Whoever is asked again knows it, or does it again.
            Ok(handle) => {
                front.opened.release(&front.means(), ino, handle.fh);
                Staged::Forgotten
            }
            Err(code) => {
                front.client.released(ino, unique);
                Staged::Refused(code)
            }
        }
    }

    fn add_staged(&self, unique: u64, ino: u64, writes: bool) -> Result<Handle, i32> {
        let front = &self.front;
        if let Some(known) = front.pending_rows.get(&unique)
            && front.shared.has_row(known.fh)
        {
            // The front before this one did it, and died before it could say so, or after.
            return Ok(Handle { fh: known.fh, backing: known.backing });
        }
        let flags = row_flag::STAGED | if writes { row_flag::WRITES } else { 0 };
        let backing = || {
            let opened = file::open_to_write(&file::staging(&front.lake_directory, ino));
            match opened {
                Ok(staging) => front.open_backing(&staging),
                Err(error) => {
                    log::warning(&format!("staging file of inode {ino}: {error}"));
                    0
                }
            }
        };
        let staged = Inode { staged: true, ..Inode::new(0) };
        let added = front.opened.add(&front.means(), ino, (unique, flags), staged, backing);
        match added {
            Some(handle) if front.opened.is_staged(ino) => {
                if handle.backing > 0 {
                    Stats::count(&front.stats.opens_passed_through);
                    return Ok(handle);
                }
                front.opened.release(&front.means(), ino, handle.fh);
                Err(libc::EIO)
            }
            Some(handle) => {
                // It is open as the lake's file, from before it was written to.
                front.opened.release(&front.means(), ino, handle.fh);
                Err(libc::EBUSY)
            }
            None => Err(libc::ENFILE),
        }
    }

    /// READ of what the kernel passes through: only what it fetches ahead of being asked.
    pub(super) fn read_staging(&mut self, unique: u64, ino: u64, read: &ReadIn) -> Outcome {
        let path = file::staging(&self.front.lake_directory, ino);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(read.size as usize, 0);
        let got =
            file::open(&path).and_then(|file| file::read_some(&file, &mut buffer, read.offset));
        let outcome = match got {
            Ok(length) => self.answer(unique, &[&buffer[..length]]),
            Err(error) => self.refuse(unique, error.raw_os_error().unwrap_or(libc::EIO)),
        };
        self.buffer = buffer;
        outcome
    }

    pub(super) fn seek_staging(&self, unique: u64, ino: u64, lseek: &LseekIn) -> Outcome {
        let path = file::staging(&self.front.lake_directory, ino);
        let whence = lseek.whence.cast_signed();
        match file::open(&path).and_then(|file| file::seek(&file, lseek.offset, whence)) {
            Ok(offset) => self.answer(unique, &[LseekOut { offset }.as_bytes()]),
            Err(error) => self.refuse(unique, error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    pub(super) fn allocate(&self, request: &Request<'_>, asked: &FallocateIn) -> Outcome {
        let (unique, ino) = (request.header.unique, request.header.nodeid);
        let row = self.front.shared.row_of(asked.fh);
        if row.is_none_or(|row| row.flags & row_flag::WRITES == 0) {
            return hand_over(request, Then::Nothing);
        }
        let path = file::staging(&self.front.lake_directory, ino);
        let done = file::open_to_write(&path).and_then(|staging| {
            file::allocate(&staging, asked.mode.cast_signed(), asked.offset, asked.length)
        });
        match done {
            Ok(()) => self.answer(unique, &[]),
            Err(error) => self.refuse(unique, error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
}

/// Whether a FLUSH or an FSYNC of a handle with `flags` is the control plane's matter. A close of
/// what is only read is no commit point; but what others wrote is synced through any descriptor.
fn has_to_do_with(code: u32, flags: u32) -> bool {
    let needed = if code == opcode::FSYNC { row_flag::STAGED } else { row_flag::WRITES };
    flags & needed != 0
}

/// The answer to an OPEN of what passes through.
fn passed(handle: Handle, writes: bool) -> OpenOut {
    let quiet = if writes { 0 } else { open_flag::NOFLUSH };
    let open_flags = open_flag::PASSTHROUGH | quiet;
    OpenOut { fh: handle.fh, open_flags, backing_id: handle.backing }
}

/// A lake's file that the journal tells of: attributes, then its record as in `objects`.
fn as_told(tail: &[u8]) -> Option<Openable> {
    let (attributes, record) = wire::attributes(tail)?;
    let identity = ObjectRef::parse(record)?.identity();
    Some(Openable { identity, attributes, record: record.into() })
}

/// A directory of the journal's, as `.` and `..` show it: the kernel looks at its kind alone.
pub(super) fn own_directory(ino: u64) -> Attributes {
    Attributes { ino, mode: libc::S_IFDIR | 0o755, uid: 0, gid: 0, size: 0, mtime_ns: 0 }
}

/// The answer that a name of the journal's is absent: it may be made at any time.
pub(super) fn absent() -> Ttl {
    Ttl::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_synced_through_any_descriptor_and_closed_through_one_that_writes() {
        let (lakes, read, written) = (0, row_flag::STAGED, row_flag::STAGED | row_flag::WRITES);
        assert_eq!(
            [lakes, read, written].map(|f| has_to_do_with(opcode::FSYNC, f)),
            [false, true, true]
        );
        assert_eq!(
            [lakes, read, written].map(|f| has_to_do_with(opcode::FLUSH, f)),
            [false, false, true]
        );
    }
}
