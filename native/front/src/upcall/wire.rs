//! The messages between front and control plane, as byte tables. `tierfs/control/wire.py` is the
//! other side's copy, and `tests/golden/upcalls` holds both to these bytes.
//!
//! All fields are little-endian. From the front (64 bytes, then a tail):
//!
//! ```text
//!  0  2  version (4)     2  2  kind          4  4  length of the whole message
//!  8  8  session        16  8  id (0: no answer is expected)
//! 24  8  ino            32  8  offset       40  4  size      44  4  uid
//! 48  8  arena: where   56  8  arena: how many bytes          64 .  tail
//!
//! START     1  offset: where the arena begins; arena: its length
//! LOOKUP    2  ino: parent; tail: name                         -> attributes, ttl
//! GETATTR   3                                                  -> attributes, ttl
//! CONFIRM   4  is this inode still the version in the lake?    -> nothing
//! ROOM      5  offset: bytes; size: most victims and extents;  -> tail: victims; count: 1 if the
//!              ino: what room is for (0: it has to be made);      file is not worth what would
//!              uid: 1 if nobody waits for that                    have to go: do not keep it
//! GET       6  offset, size, arena; uid: 1 if this is all of   -> count: bytes in the arena;
//!              the object; tail: its record in names/objects      tail: checksum, if it has one
//! HEAD      7  tail: a record in names/objects                 -> tail: checksum, if it has one
//! READDIR   8  offset: the last ino seen; size: most entries;  -> count: entries in the arena, ttl;
//!              uid: 1 if the index may be looked at instead       all ones: the index has them
//! GETXATTR  9  uid; tail: name                                 -> tail: value
//! CHANGE   10  a request of the kernel's; size: its opcode;    -> attributes and ttl of what was
//!              offset: its unique; uid; tail: 0 4 gid             made or changed (CREATE, MKDIR,
//!              4 4 pid   8 . what follows its header              SYMLINK, SETATTR); of OPEN below
//! ACCESSES 11  tail: accesses                                     no answer
//! DONE     13  id: a command's; size: errno; tail: its answer
//! RELEASED 14  ino; offset: the unique of the request that        no answer
//!              opened the handle
//! HANDLES  15  tail: handles; size: 1 if these are the last       no answer
//! READLINK 16                                                  -> tail: the target
//! LISTXATTR 17                                                 -> tail: names, a zero behind each
//!
//! The answer to an OPEN has as its count 0: it is the lake's, open it as such; 1: a staging file;
//! 2: the lake's, and tail: attributes, then its record as in names/objects.
//! ```
//!
//! From the control plane (40 bytes, then a tail); an answer's kind is the request's plus 0x8000:
//!
//! ```text
//!  0  2  version (4)     2  2  kind          4  4  length of the whole message
//!  8  8  session        16  8  id           24  4  errno     28  4  count
//! 32  8  ttl_ns (all ones: for ever)        40  .  tail
//!
//! HELLO          0x4001  tail:  0 8 ttl_ns   8 8 negative_ttl_ns   16 8 directory_mtime_ns
//!                              24 4 uid     28 4 gid   32 4 umask  36 4 most requests to the lake
//!                              40 8 memory  48 8 cache limit (all ones: none)
//!                              56 8 min_free (f64)     64 4 whether it is written to
//!                              68 4 reserved           72 . the lake's directory in the cache
//! READY          0x4002  session 0: a control plane has started, and knows no session
//! FORGET_ENTRY   0x4003  tail:  0 8 parent   8 . name
//! FORGET_CONTENT 0x4004  tail:  0 8 ino
//! STATS          0x4005
//! SOURCE         0x4006  where the lake is (`crate::lake::Source`), or nothing: ask with GET
//! FETCH          0x4007  tail:  0 8 ino   8 8 lo   16 8 hi   24 4 priority   28 4 reserved
//!                        -> 0 8 bytes fetched
//! EVICT          0x4008  tail: victims -> 0 8 files   8 8 bytes
//! INVALIDATE     0x4009  tail:  0 8 ino
//! RESIZE         0x400A  tail:  0 8 cache limit (all ones: none)
//! ADOPT          0x400C  tail:  0 8 ino   8 8 size   16 16 identity   32 8 crc64nvme of all of it
//! RENAMED        0x400D  tail:  0 8 ino   8 16 identity until now   24 16 identity from now on
//! SPACE          0x400E  tail:  0 8 bytes that there is room for   8 8 that are free   no answer
//! FILL           0x400B  tail: 8 bytes each: ino -> 0 8 files not worth what would have to go
//!
//! handles, each:  0 8 ino (0: a request that is not answered yet)   8 8 unique   16 4 1: it writes
//!                20 4 reserved
//! accesses, each: 0 8 ino   8 8 at_ns   16 4 what it was   20 4 pid (0: not known)
//!                 of a stall: 0 8 bytes waited for   8 8 nanoseconds that it took
//! victims, each:  0 8 ino   8 4 number of extents (0: all of it)   12 4 reserved   16 . extents
//! an extent:      0 8 lo    8 8 hi
//! checksum:       0 4 kind  4 4 reserved   8 8 value
//! attributes:  0 8 ino   8 8 size   16 8 mtime_ns   24 4 mode   28 4 uid   32 4 gid   36 4 reserved
//! a READDIR entry in the arena: attributes, 40 2 length of the name, 42 . name
//! ```

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use zerocopy::byteorder::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::attributes::{Attributes, Rules, Ttl};
use crate::cache::Limits;
use crate::cache::adopt::Adoption;
use crate::cache::evict::Victim;
use crate::checksum::{Checksum, ChecksumKind};
use crate::queue::Priority;

pub const VERSION: u16 = 4;
/// No message is longer; larger things go through the arena.
pub const LONGEST: usize = 64 << 10;

/// The count in an answer to ROOM that says: it is not worth what would have to go.
pub const DECLINED: u32 = 1;
/// In a request for room, in the place of the uid: what it is for, unless somebody reads it.
pub const ROOM_AHEAD: u32 = 1;
pub const ROOM_WARM_UP: u32 = 2;
/// In a READDIR, in the place of the uid: the index is read if the answer says so.
pub const MAY_LOOK: u32 = 1;
/// The count in an answer to that which says: the index has all of the directory.
pub const LISTED: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Ask {
    Start = 1,
    Lookup = 2,
    Getattr = 3,
    Confirm = 4,
    Room = 5,
    Get = 6,
    Head = 7,
    Readdir = 8,
    Getxattr = 9,
    Change = 10,
    Accesses = 11,
    Done = 13,
    Released = 14,
    Handles = 15,
    Readlink = 16,
    Listxattr = 17,
}

#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RequestHeader {
    version: U16,
    kind: U16,
    length: U32,
    session: U64,
    id: U64,
    ino: U64,
    offset: U64,
    size: U32,
    uid: U32,
    arena_at: U64,
    arena_length: U64,
}

#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct AnswerHeader {
    version: U16,
    kind: U16,
    length: U32,
    session: U64,
    id: U64,
    errno: U32,
    count: U32,
    ttl_ns: U64,
}

#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct WireAttributes {
    ino: U64,
    size: U64,
    mtime_ns: I64,
    mode: U32,
    uid: U32,
    gid: U32,
    reserved: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct WireRules {
    ttl_ns: U64,
    negative_ttl_ns: U64,
    directory_mtime_ns: I64,
    uid: U32,
    gid: U32,
    umask: U32,
    max_requests: U32,
    memory: U64,
    cache_limit: U64,
    min_free: U64,
    writes: U32,
    reserved: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct WireFetch {
    ino: U64,
    lo: U64,
    hi: U64,
    priority: U32,
    reserved: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct WireVictim {
    ino: U64,
    extents: U32,
    reserved: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct WireChecksum {
    kind: U32,
    reserved: U32,
    value: U64,
}

#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct WireAdopt {
    ino: U64,
    size: U64,
    identity: [u8; 16],
    crc64nvme: U64,
}

#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct WireRenamed {
    ino: U64,
    old: [u8; 16],
    new: [u8; 16],
}

/// What the front asks; fields that a kind does not use are 0.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub ino: u64,
    pub offset: u64,
    pub size: u32,
    pub uid: u32,
    pub arena_at: u64,
    pub arena_length: u64,
    pub tail: Vec<u8>,
}

impl Request {
    pub fn of(ino: u64) -> Self {
        Self { ino, ..Default::default() }
    }

    /// The message.
    pub fn encode(&self, ask: Ask, session: u64, id: u64) -> Vec<u8> {
        let length = size_of::<RequestHeader>() + self.tail.len();
        let header = RequestHeader {
            version: VERSION.into(),
            kind: (ask as u16).into(),
            length: u32::try_from(length).unwrap_or(u32::MAX).into(),
            session: session.into(),
            id: id.into(),
            ino: self.ino.into(),
            offset: self.offset.into(),
            size: self.size.into(),
            uid: self.uid.into(),
            arena_at: self.arena_at.into(),
            arena_length: self.arena_length.into(),
        };
        [header.as_bytes(), &self.tail].concat()
    }
}

/// The same message in another session.
pub fn set_session(message: &mut [u8], session: u64) {
    message[8..16].copy_from_slice(&session.to_le_bytes());
}

/// What the control plane says.
#[derive(Debug)]
pub struct Incoming<'a> {
    pub session: u64,
    pub id: u64,
    pub what: What<'a>,
}

#[derive(Debug)]
pub enum What<'a> {
    /// Its meaning, and its tail.
    Hello(Hello, &'a [u8]),
    Ready,
    ForgetEntry {
        parent: u64,
        name: &'a [u8],
    },
    ForgetContent {
        ino: u64,
    },
    Stats,
    Source(&'a [u8]),
    Fetch {
        ino: u64,
        lo: u64,
        hi: u64,
        priority: Priority,
    },
    Evict(Vec<Victim>),
    Invalidate {
        ino: u64,
    },
    Resize {
        limit: Option<u64>,
    },
    Fill(Vec<u64>),
    Adopt(Adoption),
    Renamed {
        ino: u64,
        old: [u8; 16],
        new: [u8; 16],
    },
    Space(Space),
    Answer(Answer<'a>),
}

/// What is to be shown of the room that there is for what is written, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    pub free: u64,
}

/// What a session begins with.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    pub rules: Rules,
    pub limits: Limits,
    pub lake_directory: PathBuf,
}

impl Hello {
    /// What the tail of HELLO says.
    pub fn parse(tail: &[u8]) -> Option<Self> {
        let (wire, path) = WireRules::read_from_prefix(tail).ok()?;
        let rules = Rules {
            ttl: Ttl::from_ns(wire.ttl_ns.get()),
            negative_ttl: Ttl::from_ns(wire.negative_ttl_ns.get()),
            uid: wire.uid.get(),
            gid: wire.gid.get(),
            umask: wire.umask.get(),
            directory_mtime_ns: wire.directory_mtime_ns.get(),
            writes: wire.writes.get() != 0,
        };
        let limits = Limits {
            cache: limit(wire.cache_limit.get()),
            min_free: f64::from_bits(wire.min_free.get()),
            memory: wire.memory.get(),
            max_requests: usize::try_from(wire.max_requests.get()).ok()?.max(1),
        };
        let lake_directory = PathBuf::from(std::ffi::OsStr::from_bytes(path));
        Some(Self { rules, limits, lake_directory })
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    pub errno: i32,
    pub count: u32,
    pub ttl: Ttl,
    pub tail: &'a [u8],
}

impl<'a> Incoming<'a> {
    /// `None`: not a message that this version understands.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let (header, tail) = AnswerHeader::read_from_prefix(message).ok()?;
        if header.version != VERSION || header.length.get() as usize != message.len() {
            return None;
        }
        let ttl = Ttl::from_ns(header.ttl_ns.get());
        let what = match header.kind.get() {
            0x4001 => What::Hello(Hello::parse(tail)?, tail),
            0x4002 => What::Ready,
            0x4003 => {
                let (parent, name) = U64::read_from_prefix(tail).ok()?;
                What::ForgetEntry { parent: parent.get(), name }
            }
            0x4004 => What::ForgetContent { ino: U64::read_from_prefix(tail).ok()?.0.get() },
            0x4005 => What::Stats,
            0x4006 => What::Source(tail),
            0x4007 => {
                let fetch = WireFetch::read_from_bytes(tail).ok()?;
                let priority = match fetch.priority.get() {
                    0 => Priority::Demand,
                    1 => Priority::ReadAhead,
                    2 => Priority::WarmUp,
                    _ => Priority::Fill,
                };
                let (ino, lo, hi) = (fetch.ino.get(), fetch.lo.get(), fetch.hi.get());
                What::Fetch { ino, lo, hi, priority }
            }
            0x4008 => What::Evict(victims(tail)?),
            0x4009 => What::Invalidate { ino: U64::read_from_prefix(tail).ok()?.0.get() },
            0x400A => What::Resize { limit: limit(U64::read_from_prefix(tail).ok()?.0.get()) },
            0x400B => {
                What::Fill(<[U64]>::ref_from_bytes(tail).ok()?.iter().map(|n| n.get()).collect())
            }
            0x400C => {
                let adopt = WireAdopt::read_from_bytes(tail).ok()?;
                What::Adopt(Adoption {
                    ino: adopt.ino.get(),
                    size: adopt.size.get(),
                    identity: adopt.identity,
                    crc64nvme: adopt.crc64nvme.get(),
                })
            }
            0x400D => {
                let renamed = WireRenamed::read_from_bytes(tail).ok()?;
                What::Renamed { ino: renamed.ino.get(), old: renamed.old, new: renamed.new }
            }
            0x400E => {
                let (total, rest) = U64::read_from_prefix(tail).ok()?;
                let free = U64::read_from_bytes(rest).ok()?;
                What::Space(Space { total: total.get(), free: free.get() })
            }
            kind if kind & 0x8000 != 0 => {
                let errno = i32::try_from(header.errno.get()).ok()?;
                What::Answer(Answer { errno, count: header.count.get(), ttl, tail })
            }
            _ => return None,
        };
        Some(Self { session: header.session.get(), id: header.id.get(), what })
    }
}

fn limit(bytes: u64) -> Option<u64> {
    (bytes != u64::MAX).then_some(bytes)
}

/// The victims that are all of `bytes`.
pub fn victims(mut bytes: &[u8]) -> Option<Vec<Victim>> {
    let mut victims = Vec::new();
    while !bytes.is_empty() {
        let (victim, rest) = WireVictim::read_from_prefix(bytes).ok()?;
        bytes = rest;
        let mut extents = Vec::new();
        for _ in 0..victim.extents.get() {
            let (extent, rest) = <[U64; 2]>::read_from_prefix(bytes).ok()?;
            extents.push((extent[0].get(), extent[1].get()));
            bytes = rest;
        }
        victims.push(Victim { ino: victim.ino.get(), extents });
    }
    Some(victims)
}

/// The checksum that all of `bytes` is, if it is one.
pub fn checksum(bytes: &[u8]) -> Option<Checksum> {
    let wire = WireChecksum::read_from_bytes(bytes).ok()?;
    let kind = ChecksumKind::from_number(wire.kind.get())?;
    Some(Checksum { kind, value: wire.value.get() })
}

/// The attributes at the beginning of `bytes`, and what follows them.
pub fn attributes(bytes: &[u8]) -> Option<(Attributes, &[u8])> {
    let (wire, rest) = WireAttributes::read_from_prefix(bytes).ok()?;
    let attributes = Attributes {
        ino: wire.ino.get(),
        mode: wire.mode.get(),
        uid: wire.uid.get(),
        gid: wire.gid.get(),
        size: wire.size.get(),
        mtime_ns: wire.mtime_ns.get(),
    };
    Some((attributes, rest))
}

/// The directory entry at the beginning of `bytes`, and what follows it.
pub fn entry(bytes: &[u8]) -> Option<(Attributes, &[u8], &[u8])> {
    let (found, rest) = attributes(bytes)?;
    let (length, rest) = U16::read_from_prefix(rest).ok()?;
    let (name, rest) = rest.split_at_checked(length.get().into())?;
    Some((found, name, rest))
}

/// What an access was, in ACCESSES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AccessKind {
    /// The last handle of a file is closed.
    Released = 2,
    /// A file is in use until `Released`.
    Open = 3,
    /// An open run of a file begins.
    Read = 4,
    /// An OPEN or a READ has waited for the lake: its bytes are in the place of the inode number,
    /// and how long it took is in that of the time.
    Stall = 5,
}

/// Append one access to a tail; `pid` is whose it was, 0 if that is not known.
pub fn push_access(tail: &mut Vec<u8>, ino: u64, at_ns: i64, kind: AccessKind, pid: u32) {
    tail.extend(ino.to_le_bytes());
    tail.extend(at_ns.to_le_bytes());
    tail.extend((kind as u32).to_le_bytes());
    tail.extend(pid.to_le_bytes());
}

/// A handle in HANDLES, or with an inode number of 0 a request that may still become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenHandle {
    pub ino: u64,
    pub unique: u64,
    pub writes: bool,
}

/// Append one handle to a tail.
pub fn push_handle(tail: &mut Vec<u8>, handle: OpenHandle) {
    tail.extend(handle.ino.to_le_bytes());
    tail.extend(handle.unique.to_le_bytes());
    tail.extend(u32::from(handle.writes).to_le_bytes());
    tail.extend([0; 4]);
}

#[cfg(test)]
mod tests;
