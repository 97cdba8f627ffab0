//! The messages between front and control plane, as byte tables. `tierfs/control/wire.py` is the
//! other side's copy, and `tests/golden/upcalls` holds both to these bytes.
//!
//! All fields are little-endian. From the front (64 bytes, then a tail):
//!
//! ```text
//!  0  2  version (1)     2  2  kind          4  4  length of the whole message
//!  8  8  session        16  8  id (0: no answer is expected)
//! 24  8  ino            32  8  offset       40  4  size      44  4  uid
//! 48  8  arena: where   56  8  arena: how many bytes          64 .  tail
//!
//! START     1  offset: where the arena begins; arena: its length
//! LOOKUP    2  ino: parent; tail: name                         -> attributes, ttl
//! GETATTR   3                                                  -> attributes, ttl
//! CONFIRM   4  is this inode still the version in the lake?    -> nothing
//! OPEN      5  keep the object ready for READ                  -> nothing
//! READ      6  offset, size, arena                             -> count: bytes in the arena
//! CLOSE     7  size: how many OPENs are over                      no answer
//! READDIR   8  offset: the last ino seen; size: most entries   -> count: entries in the arena, ttl
//! GETXATTR  9  uid; tail: name                                 -> tail: value
//! CHANGE   10  size: the FUSE opcode                           -> nothing
//! ACCESSES 11  tail: 24 bytes each: ino, at_ns, what              no answer
//! VERIFIED 12  offset: ctime_ns; arena where: the size             no answer
//! DONE     13  id: a command's; size: errno; tail: its answer
//! NOTE     14  offset, size: a READ that the front answered          no answer
//! ```
//!
//! From the control plane (40 bytes, then a tail); an answer's kind is the request's plus 0x8000:
//!
//! ```text
//!  0  2  version (1)     2  2  kind          4  4  length of the whole message
//!  8  8  session        16  8  id           24  4  errno     28  4  count
//! 32  8  ttl_ns (all ones: for ever)        40  .  tail
//!
//! HELLO          0x4001  tail:  0 8 ttl_ns   8 8 negative_ttl_ns   16 8 directory_mtime_ns
//!                              24 4 uid     28 4 gid   32 4 umask  36 4 reserved
//!                              40 . the lake's directory in the cache
//! READY          0x4002  session 0: a control plane has started, and knows no session
//! FORGET_ENTRY   0x4003  tail:  0 8 parent   8 . name
//! FORGET_CONTENT 0x4004  tail:  0 8 ino
//! STATS          0x4005
//!
//! attributes:  0 8 ino   8 8 size   16 8 mtime_ns   24 4 mode   28 4 uid   32 4 gid   36 4 reserved
//! a READDIR entry in the arena: attributes, 40 2 length of the name, 42 . name
//! ```

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use zerocopy::byteorder::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::attributes::{Attributes, Rules, Ttl};

pub const VERSION: u16 = 1;
/// No message is longer; larger things go through the arena.
pub const LONGEST: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Ask {
    Start = 1,
    Lookup = 2,
    Getattr = 3,
    Confirm = 4,
    Open = 5,
    Read = 6,
    Close = 7,
    Readdir = 8,
    Getxattr = 9,
    Change = 10,
    Accesses = 11,
    Verified = 12,
    Done = 13,
    Note = 14,
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
    reserved: U32,
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
    Hello { rules: Rules, lake_directory: PathBuf },
    Ready,
    ForgetEntry { parent: u64, name: &'a [u8] },
    ForgetContent { ino: u64 },
    Stats,
    Answer(Answer<'a>),
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
            0x4001 => {
                let (rules, path) = WireRules::read_from_prefix(tail).ok()?;
                let rules = Rules {
                    ttl: Ttl::from_ns(rules.ttl_ns.get()),
                    negative_ttl: Ttl::from_ns(rules.negative_ttl_ns.get()),
                    uid: rules.uid.get(),
                    gid: rules.gid.get(),
                    umask: rules.umask.get(),
                    directory_mtime_ns: rules.directory_mtime_ns.get(),
                };
                let lake_directory = PathBuf::from(std::ffi::OsStr::from_bytes(path));
                What::Hello { rules, lake_directory }
            }
            0x4002 => What::Ready,
            0x4003 => {
                let (parent, name) = U64::read_from_prefix(tail).ok()?;
                What::ForgetEntry { parent: parent.get(), name }
            }
            0x4004 => What::ForgetContent { ino: U64::read_from_prefix(tail).ok()?.0.get() },
            0x4005 => What::Stats,
            kind if kind & 0x8000 != 0 => {
                let errno = i32::try_from(header.errno.get()).ok()?;
                What::Answer(Answer { errno, count: header.count.get(), ttl, tail })
            }
            _ => return None,
        };
        Some(Self { session: header.session.get(), id: header.id.get(), what })
    }
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
#[repr(u64)]
pub enum AccessKind {
    /// The last handle of a file is closed.
    Released = 2,
    /// A file is in use until `Released`.
    Open = 3,
    /// An open run of a file begins.
    Read = 4,
}

/// Append one access to a tail.
pub fn push_access(tail: &mut Vec<u8>, ino: u64, at_ns: i64, kind: AccessKind) {
    tail.extend(ino.to_le_bytes());
    tail.extend(at_ns.to_le_bytes());
    tail.extend((kind as u64).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> Vec<u8> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/upcalls/messages.json");
        let text = std::fs::read_to_string(path).unwrap();
        let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(golden["version"], VERSION);
        let text = golden["messages"][name].as_str().unwrap_or_else(|| panic!("no {name}"));
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(byte).collect()
    }

    #[test]
    fn requests() {
        let lookup = Request { tail: b"caf\xc3\xa9\n\xff".to_vec(), ..Request::of(0x10) };
        assert_eq!(lookup.encode(Ask::Lookup, 7, 0x0102_0304_0506_0708), golden("lookup"));
        let read = Request {
            offset: 1 << 40,
            size: 1 << 20,
            arena_at: 65_536,
            arena_length: 1 << 20,
            ..Request::of(77)
        };
        assert_eq!(read.encode(Ask::Read, 7, 9), golden("read"));
        let note = Request { offset: 1 << 20, size: 1 << 17, ..Request::of(77) };
        assert_eq!(note.encode(Ask::Note, 7, 0), golden("note"));
        let xattr = Request { uid: 1000, tail: b"user.tierfs.etag".to_vec(), ..Request::of(77) };
        assert_eq!(xattr.encode(Ask::Getxattr, 7, 10), golden("getxattr"));
        let mut tail = Vec::new();
        push_access(&mut tail, 77, -1, AccessKind::Read);
        push_access(&mut tail, 78, 1_700_000_000_000_000_000, AccessKind::Released);
        let accesses = Request { tail, ..Default::default() };
        let mut message = accesses.encode(Ask::Accesses, 1, 0);
        set_session(&mut message, 7);
        assert_eq!(message, golden("accesses"));
    }

    #[test]
    fn answers() {
        let bytes = golden("answer to lookup");
        let incoming = Incoming::parse(&bytes).unwrap();
        assert_eq!((incoming.session, incoming.id), (7, 0x0102_0304_0506_0708));
        let What::Answer(answer) = incoming.what else { panic!() };
        assert_eq!((answer.errno, answer.count, answer.ttl), (0, 0, Ttl::from_ns(60_000_000_000)));
        let expected = Attributes {
            ino: 77,
            mode: 0o100_644,
            uid: 1000,
            gid: 100,
            size: 110_000,
            mtime_ns: -5,
        };
        assert_eq!(attributes(answer.tail), Some((expected, &[][..])));
        let bytes = golden("answer that a name is absent");
        let What::Answer(answer) = Incoming::parse(&bytes).unwrap().what else { panic!() };
        assert_eq!((answer.errno, answer.ttl), (2, Ttl::FOREVER));
        let bytes = golden("entry");
        let (found, name, rest) = entry(&bytes).unwrap();
        assert_eq!((found, name, rest), (expected, &b"a\xff"[..], &[][..]));
    }

    #[test]
    fn commands() {
        let bytes = golden("hello");
        let What::Hello { rules, lake_directory } = Incoming::parse(&bytes).unwrap().what else {
            panic!()
        };
        assert_eq!(rules.ttl, Ttl::FOREVER);
        assert_eq!(rules.negative_ttl, Ttl::from_ns(5));
        assert_eq!((rules.uid, rules.gid, rules.umask), (1000, 100, 0o027));
        assert_eq!(rules.directory_mtime_ns, 1_700_000_000_000_000_000);
        assert_eq!(lake_directory.as_os_str().as_bytes(), b"/nvme/caf\xff");
        let bytes = golden("forget entry");
        let incoming = Incoming::parse(&bytes).unwrap();
        assert!(matches!(incoming.what, What::ForgetEntry { parent: 16, name: b"a.jpg" }));
    }

    #[test]
    fn nothing_panics_whatever_comes() {
        let whole = golden("hello");
        for cut in 0..whole.len() {
            assert!(Incoming::parse(&whole[..cut]).is_none());
        }
        for kind in 0..=u16::MAX {
            let mut message = vec![0xFF; 40];
            message[..2].copy_from_slice(&VERSION.to_le_bytes());
            message[2..4].copy_from_slice(&kind.to_le_bytes());
            message[4..8].copy_from_slice(&40u32.to_le_bytes());
            let _ = Incoming::parse(&message);
        }
        for length in 0..60 {
            let _ = entry(&vec![0xFF; length]);
        }
    }
}
