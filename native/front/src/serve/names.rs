//! Names, directories and attributes: LOOKUP, GETATTR, READDIR, STATFS, GETXATTR.

use zerocopy::IntoBytes;

use super::Outcome::{self, Upcall};
use super::write::{absent, own_directory};
use super::{Then, Worker};
use crate::attributes::{Attributes, Ttl};
use crate::fuse::abi::{GetxattrOut, InHeader, StatfsOut};
use crate::fuse::reply;
use crate::fuse::request::DirectoryRequest;
use crate::index::journal::Whose;
use crate::index::names::Lookup;
use crate::upcall::wire::{self, Answer, Ask, Space};

const XATTR_PREFIX: &[u8] = b"user.tierfs.";
const USER_PREFIX: &[u8] = b"user.";
/// Offsets of the two entries that are in every directory; real ones are inode numbers >= 16.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
const LONGEST_NAME: usize = 255;
const STATFS_BLOCK: u64 = 4096;
/// The lake has no capacity: `df` shows 1 PiB, all of it free.
const STATFS_BYTES: u64 = 1 << 50;
/// How long what the journal says of a directory is believed: `TTL_S` of
/// `tierfs/writeback/union.py`.
const OWN_TTL: Ttl = Ttl::from_ns(1_000_000_000);
/// Entries in one answer of the control plane.
const MOST_ENTRIES: u32 = 1000;
/// Attributes, the length of a name, and the longest name.
const LONGEST_ENTRY: u64 = 40 + 2 + 255;

/// What is to be done about a directory of which the index has not all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unlisted {
    /// The control plane lists it. What takes it a page is then read from the index.
    MayComeToBe,
    /// The control plane says what is in it.
    IsTold,
}

impl Worker {
    pub(super) fn lookup(&mut self, unique: u64, parent: u64, name: &[u8]) -> Outcome {
        let front = self.front.clone();
        // Asked only by who has a handle of an inode and wants its name (open_by_handle_at).
        if name == b"." {
            return self.entry_of(unique, parent);
        }
        if name == b".." {
            return match self.names.attributes(&front.rules, parent) {
                Some((_, above)) => self.entry_of(unique, above),
                None => self.refuse(unique, libc::ESTALE),
            };
        }
        if name.len() > LONGEST_NAME {
            return self.refuse(unique, libc::ENAMETOOLONG);
        }
        match self.journal.as_mut().map_or(Whose::Lakes, |journal| journal.whose(parent, name)) {
            Whose::Lakes => {}
            Whose::Journals => return ask_for(parent, name),
            Whose::Nobodys => {
                return self.answer(unique, &[reply::absence(absent()).as_bytes()]); // F4
            }
        }
        match self.names.lookup(&front.rules, parent, name) {
            Lookup::Found(found, ttl) => {
                self.answer(unique, &[reply::entry(&found, ttl).as_bytes()])
            }
            Lookup::Absent(ttl) => self.answer(unique, &[reply::absence(ttl).as_bytes()]), // F4
            Lookup::Ask => ask_for(parent, name),
        }
    }

    pub(super) fn entry_of(&mut self, unique: u64, ino: u64) -> Outcome {
        match self.names.attributes(&self.front.rules, ino) {
            Some((found, _)) => {
                let entry = reply::entry(&found, self.front.rules.ttl);
                self.answer(unique, &[entry.as_bytes()])
            }
            None => self.refuse(unique, libc::ESTALE),
        }
    }

    pub(super) fn getattr(&mut self, unique: u64, ino: u64) -> Outcome {
        let front = self.front.clone();
        if let Some(own) = self.journal.as_mut().and_then(|journal| journal.directory(ino)) {
            return self.answer(unique, &[reply::attr_out(&own, OWN_TTL).as_bytes()]);
        }
        if self.is_journals(ino) {
            return Upcall(Ask::Getattr, wire::Request::of(ino), Then::Attributes);
        }
        let named = self.names.attributes(&front.rules, ino).map(|(found, _)| found);
        let found = named.or_else(|| Some(self.known(ino)?.version?.attributes));
        match found {
            Some(found) => {
                let out = reply::attr_out(&found, front.rules.ttl);
                self.answer(unique, &[out.as_bytes()])
            }
            None => Upcall(Ask::Getattr, wire::Request::of(ino), Then::Attributes),
        }
    }

    pub(super) fn readdir(
        &mut self,
        unique: u64,
        ino: u64,
        asked: DirectoryRequest,
        unlisted: Unlisted,
    ) -> Outcome {
        let front = self.front.clone();
        let DirectoryRequest { offset, size, plus } = asked;
        let mut directory = reply::Directory::new(size, plus);
        let journals = self.journal.as_mut().is_some_and(|journal| journal.has_entries(ino));
        if offset < DOT_DOT {
            let Some(own) = self.directory_itself(ino, journals) else {
                return self.refuse(unique, libc::ENOENT);
            };
            if !add_dots(&mut directory, &own, offset) {
                return self.answer(unique, &[directory.bytes()]);
            }
        }
        let after = if offset <= DOT_DOT { 0 } else { offset };
        let listed = !journals
            && self.names.readdir(&front.rules, ino, after, |name, found, ttl| {
                directory.add(name, found, ttl, found.ino)
            });
        if listed {
            return self.answer(unique, &[directory.bytes()]);
        }
        let most = directory.most_left().min(MOST_ENTRIES);
        let may_look = unlisted == Unlisted::MayComeToBe && !journals;
        let request = wire::Request {
            offset: after,
            size: most,
            uid: if may_look { wire::MAY_LOOK } else { 0 },
            arena_length: u64::from(most) * LONGEST_ENTRY,
            ..wire::Request::of(ino)
        };
        Upcall(Ask::Readdir, request, Then::Readdir(asked))
    }

    fn directory_itself(&mut self, ino: u64, journals: bool) -> Option<Attributes> {
        let front = self.front.clone();
        let named = self.names.attributes(&front.rules, ino).map(|(own, _)| own);
        named.or_else(|| journals.then(|| own_directory(ino)))
    }

    pub(super) fn statfs(&mut self, unique: u64) -> Outcome {
        let endless = Space { total: STATFS_BYTES, free: STATFS_BYTES };
        let space = self.front.space().unwrap_or(endless);
        let out = StatfsOut {
            blocks: space.total / STATFS_BLOCK,
            bfree: space.free / STATFS_BLOCK,
            bavail: space.free / STATFS_BLOCK,
            files: self.names.entry_count() + (1 << 32),
            ffree: 1 << 32,
            bsize: 4096,
            frsize: 4096,
            namelen: 255,
            ..Default::default()
        };
        self.answer(unique, &[out.as_bytes()])
    }

    pub(super) fn getxattr(&self, header: &InHeader, name: &[u8], size: u32) -> Outcome {
        let own = self.journal.is_some() && name.starts_with(USER_PREFIX);
        if !own && !name.starts_with(XATTR_PREFIX) {
            // Also security.capability, which the kernel asks for before it runs a file.
            return self.refuse(header.unique, libc::ENODATA);
        }
        let request = wire::Request {
            uid: header.uid,
            tail: name.to_vec(),
            ..wire::Request::of(header.nodeid)
        };
        Upcall(Ask::Getxattr, request, Then::Xattr { size })
    }

    /// Of what is only read empty on purpose: what a listing shows, `cp -a` copies.
    pub(super) fn listxattr(&self, unique: u64, ino: u64, size: u32) -> Outcome {
        if self.journal.is_some() {
            return Upcall(Ask::Listxattr, wire::Request::of(ino), Then::Xattr { size });
        }
        if size == 0 {
            return self.answer(unique, &[GetxattrOut::default().as_bytes()]);
        }
        self.answer(unique, &[])
    }

    pub(super) fn readdir_answered(
        &mut self,
        unique: u64,
        ino: u64,
        asked: DirectoryRequest,
        answer: &Answer<'_>,
        mut bytes: &[u8],
    ) -> Outcome {
        if answer.count == wire::LISTED {
            return self.readdir(unique, ino, asked, Unlisted::IsTold);
        }
        let front = self.front.clone();
        let mut directory = reply::Directory::new(asked.size, asked.plus);
        if asked.offset < DOT_DOT
            && let Some(own) = self.directory_itself(ino, front.journal.is_some())
        {
            add_dots(&mut directory, &own, asked.offset);
        }
        for _ in 0..answer.count {
            let Some((found, name, rest)) = wire::entry(bytes) else {
                return self.refuse(unique, libc::EIO);
            };
            if !directory.add(name, &found, answer.ttl, found.ino) {
                break;
            }
            bytes = rest;
        }
        self.answer(unique, &[directory.bytes()])
    }

    pub(super) fn xattr(&self, unique: u64, size: u32, value: &[u8]) -> Outcome {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        if size == 0 {
            let out = GetxattrOut { size: length, padding: 0 };
            return self.answer(unique, &[out.as_bytes()]);
        }
        if length > size {
            return self.refuse(unique, libc::ERANGE);
        }
        self.answer(unique, &[value])
    }
}

fn ask_for(parent: u64, name: &[u8]) -> Outcome {
    let request = wire::Request { tail: name.to_vec(), ..wire::Request::of(parent) };
    Upcall(Ask::Lookup, request, Then::Entry)
}

/// `.` and `..`, of those that come after `offset`; whether there was room for them.
fn add_dots(directory: &mut reply::Directory, own: &Attributes, offset: u64) -> bool {
    [(DOT, &b"."[..]), (DOT_DOT, b"..")]
        .into_iter()
        .filter(|&(next, _)| offset < next)
        .all(|(next, name)| directory.add(name, own, Ttl::ZERO, next))
}
