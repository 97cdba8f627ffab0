//! Answers to the kernel, put together from what the rest of the front speaks of.

use zerocopy::IntoBytes;

use super::abi::{Attr, AttrOut, Dirent, EntryOut};
use crate::attributes::{Attributes, Ttl};

const DIRENT: usize = size_of::<Dirent>();
const ENTRY: usize = size_of::<EntryOut>();

pub fn attr(found: &Attributes) -> Attr {
    let seconds = found.mtime_ns.div_euclid(1_000_000_000);
    let nanoseconds = u32::try_from(found.mtime_ns.rem_euclid(1_000_000_000)).unwrap_or(0);
    // The kernel takes a time before 1970 as the same 64 bits.
    let seconds = seconds.cast_unsigned();
    Attr {
        ino: found.ino,
        size: found.size,
        blocks: found.size.div_ceil(512),
        atime: seconds,
        mtime: seconds,
        ctime: seconds,
        atimensec: nanoseconds,
        mtimensec: nanoseconds,
        ctimensec: nanoseconds,
        mode: found.mode,
        nlink: 1,
        uid: found.uid,
        gid: found.gid,
        blksize: 4096,
        ..Default::default()
    }
}

pub fn entry(found: &Attributes, ttl: Ttl) -> EntryOut {
    let (seconds, nanoseconds) = ttl.parts();
    EntryOut {
        nodeid: found.ino,
        entry_valid: seconds,
        attr_valid: seconds,
        entry_valid_nsec: nanoseconds,
        attr_valid_nsec: nanoseconds,
        attr: attr(found),
        ..Default::default()
    }
}

/// The answer that a name is not there, and may be believed to be absent for `ttl`.
pub fn absence(ttl: Ttl) -> EntryOut {
    let (entry_valid, entry_valid_nsec) = ttl.parts();
    EntryOut { entry_valid, entry_valid_nsec, ..Default::default() }
}

pub fn attr_out(found: &Attributes, ttl: Ttl) -> AttrOut {
    let (attr_valid, attr_valid_nsec) = ttl.parts();
    AttrOut { attr_valid, attr_valid_nsec, attr: attr(found), ..Default::default() }
}

/// An answer to READDIR or READDIRPLUS, filled up to the size that the kernel asked for.
pub struct Directory {
    bytes: Vec<u8>,
    limit: usize,
    plus: bool,
}

impl Directory {
    pub fn new(size: u32, plus: bool) -> Self {
        let limit = size as usize;
        Self { bytes: Vec::with_capacity(limit.min(1 << 17)), limit, plus }
    }

    /// Add an entry behind which reading goes on at `next`; false if there is no room for it.
    pub fn add(&mut self, name: &[u8], found: &Attributes, ttl: Ttl, next: u64) -> bool {
        let head = if self.plus { ENTRY } else { 0 };
        let length = (head + DIRENT + name.len()).next_multiple_of(8);
        if self.bytes.len() + length > self.limit {
            return false;
        }
        let end = self.bytes.len() + length;
        if self.plus {
            // "." and ".." are not looked up: a node id of 0 says so.
            let known = if name == b"." || name == b".." {
                EntryOut { attr: attr(found), ..Default::default() }
            } else {
                entry(found, ttl)
            };
            self.bytes.extend_from_slice(known.as_bytes());
        }
        let namelen = u32::try_from(name.len()).unwrap_or(0);
        let kind = found.mode >> 12 & 0o17;
        let dirent = Dirent { ino: found.ino, off: next, namelen, kind };
        self.bytes.extend_from_slice(dirent.as_bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.resize(end, 0);
        true
    }

    /// How many more entries may fit, each with a name of one byte: no more are worth asking for.
    pub fn most_left(&self) -> u32 {
        let each = if self.plus { ENTRY } else { 0 } + DIRENT + 8;
        u32::try_from((self.limit - self.bytes.len()) / each + 1).unwrap_or(u32::MAX)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Attributes = Attributes {
        ino: 77,
        mode: 0o100_644,
        uid: 1,
        gid: 2,
        size: 513,
        mtime_ns: 1_500_000_000_000_000_007,
    };

    #[test]
    fn a_time_before_1970() {
        let found = attr(&Attributes { mtime_ns: -1, ..FILE });
        assert_eq!((found.mtime.cast_signed(), found.mtimensec), (-1, 999_999_999));
    }

    #[test]
    fn entries_until_it_is_full() {
        let mut plain = Directory::new(64, false);
        assert!(plain.add(b"a", &FILE, Ttl::ZERO, 77));
        assert!(plain.add(b"12345678", &FILE, Ttl::ZERO, 78));
        assert!(!plain.add(b"b", &FILE, Ttl::ZERO, 79));
        assert_eq!(plain.bytes().len(), 64);
        assert_eq!(plain.bytes()[20], 8); // DT_REG
        let mut plus = Directory::new(159, true);
        assert!(!plus.add(b"a", &FILE, Ttl::ZERO, 77));
        let mut plus = Directory::new(160, true);
        assert!(plus.add(b"a", &FILE, Ttl::ZERO, 77));
    }
}
