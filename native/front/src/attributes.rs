//! What a caller is told of an inode, and for how long it may believe it.
//!
//! The same rules as `tierfs/namespace/attributes.py`: a record that says nothing of owner or
//! permissions has the mount's, and what is to be believed for some time is so from the moment at
//! which the lake said it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::index::records::{Inode, Kind};

const SECOND_NS: u64 = 1_000_000_000;
/// FUSE carries times as seconds in 64 bits; ten years stand for "for ever".
const LONGEST_NS: u64 = 10 * 365 * 86_400 * SECOND_NS;

/// The attributes of an inode; `mode` has its kind in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub ino: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime_ns: i64,
}

/// For how long something may be believed, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(u64);

impl Ttl {
    pub const ZERO: Self = Self(0);
    pub const FOREVER: Self = Self(u64::MAX);

    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Seconds and nanoseconds for the kernel.
    pub fn parts(self) -> (u64, u32) {
        let ns = self.0.min(LONGEST_NS);
        (ns / SECOND_NS, u32::try_from(ns % SECOND_NS).unwrap_or(0))
    }
}

/// Nanoseconds since 1970.
pub fn now_ns() -> i64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(passed.as_nanos()).unwrap_or(i64::MAX)
}

/// Seconds since the Unix epoch.
pub fn now_s() -> u64 {
    u64::try_from(now_ns() / 1_000_000_000).unwrap_or(0)
}

/// The mount's own rules, as the control plane said them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub ttl: Ttl,
    pub negative_ttl: Ttl,
    pub uid: u32,
    pub gid: u32,
    pub umask: u32,
    pub directory_mtime_ns: i64,
    /// There are write-back directories.
    pub writes: bool,
}

impl Rules {
    /// The attributes of `ino` whose record is `inode`.
    pub fn show(&self, ino: u64, inode: &Inode) -> Attributes {
        let (kind_bits, default) = match inode.kind {
            Kind::Directory => (libc::S_IFDIR, 0o755 & !self.umask),
            Kind::File => (libc::S_IFREG, 0o644 & !self.umask),
            Kind::Symlink => (libc::S_IFLNK, 0o777),
        };
        let mode = if inode.mode == 0 { default } else { u32::from(inode.mode) };
        let mtime_ns = if inode.mtime_ns == 0 && inode.kind == Kind::Directory {
            self.directory_mtime_ns
        } else {
            inode.mtime_ns
        };
        Attributes {
            ino,
            mode: kind_bits | mode,
            uid: inode.uid.unwrap_or(self.uid),
            gid: inode.gid.unwrap_or(self.gid),
            size: inode.size,
            mtime_ns,
        }
    }

    /// For how long what the lake said at `checked_ns` is still believed. A time in the future
    /// means that the clock was set back: it would be fresh for as long as the clock was wrong.
    pub fn left(&self, checked_ns: i64, now_ns: i64) -> Ttl {
        if self.ttl == Ttl::FOREVER {
            return Ttl::FOREVER;
        }
        match u64::try_from(now_ns.saturating_sub(checked_ns)) {
            Ok(age_ns) => Ttl(self.ttl.0.saturating_sub(age_ns)),
            Err(_) => Ttl::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(ttl: Ttl) -> Rules {
        let negative_ttl = Ttl::from_ns(5);
        Rules {
            ttl,
            negative_ttl,
            uid: 10,
            gid: 20,
            umask: 0o022,
            directory_mtime_ns: 99,
            writes: false,
        }
    }

    #[test]
    fn what_a_record_does_not_say_is_the_mounts() {
        let inode = Inode {
            kind: Kind::Directory,
            mode: 0,
            uid: None,
            gid: Some(5),
            size: 0,
            mtime_ns: 0,
            parent: 1,
        };
        let found = rules(Ttl::ZERO).show(16, &inode);
        assert_eq!((found.mode, found.uid, found.gid, found.mtime_ns), (0o040_755, 10, 5, 99));
        let file = Inode { kind: Kind::File, mode: 0o600, ..inode };
        let found = rules(Ttl::ZERO).show(16, &file);
        assert_eq!((found.mode, found.mtime_ns), (0o100_600, 0));
    }

    #[test]
    fn the_time_that_is_left() {
        let rules = rules(Ttl::from_ns(100));
        assert_eq!(rules.left(1000, 1030), Ttl::from_ns(70));
        assert_eq!(rules.left(1000, 1100), Ttl::ZERO);
        assert_eq!(rules.left(1000, 999), Ttl::ZERO);
        assert_eq!(Rules { ttl: Ttl::FOREVER, ..rules }.left(0, 1 << 60), Ttl::FOREVER);
    }

    #[test]
    fn for_ever_is_ten_years_to_the_kernel() {
        assert_eq!(Ttl::FOREVER.parts(), (10 * 365 * 86_400, 0));
        assert_eq!(Ttl::from_ns(1_500_000_000).parts(), (1, 500_000_000));
    }
}
