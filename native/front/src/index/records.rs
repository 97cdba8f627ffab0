//! The records of the index; their byte tables stand in `tierfs/index/schema.py`, and
//! `tests/golden/index` holds both sides to them. A record of another shape is `None`: to who reads
//! as if it were not there, to who writes damage.

use xxhash_rust::xxh3::Xxh3;

pub const BLOCK_SIZE: u64 = 1 << 20;
pub const ROOT_INO: u64 = 1;

const MOUNTS_OWN: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
    Symlink,
}

impl Kind {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Directory),
            2 => Some(Self::File),
            3 => Some(Self::Symlink),
            _ => None,
        }
    }
}

/// `names/inodes`. A `mode` of 0, and a `uid` or `gid` of `None`, are the mount's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    pub kind: Kind,
    pub mode: u16,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: u64,
    pub mtime_ns: i64,
    pub parent: u64,
}

impl Inode {
    pub fn parse(value: &[u8]) -> Option<Self> {
        let owner = |id| (id != MOUNTS_OWN).then_some(id);
        let value: &[u8; 40] = value.try_into().ok()?;
        Some(Self {
            kind: Kind::from_byte(value[0])?,
            mode: u16_at(value, 2)?,
            uid: owner(u32_at(value, 4)?),
            gid: owner(u32_at(value, 8)?),
            size: u64_at(value, 16)?,
            mtime_ns: u64_at(value, 24)?.cast_signed(),
            parent: u64_at(value, 32)?,
        })
    }

    /// What the root is while nothing is recorded of it.
    pub fn root() -> Self {
        Self { kind: Kind::Directory, ..Self::file(0) }
    }

    /// A file of which no more than its size is known.
    pub fn file(size: u64) -> Self {
        Self {
            kind: Kind::File,
            mode: 0,
            uid: None,
            gid: None,
            size,
            mtime_ns: 0,
            parent: ROOT_INO,
        }
    }
}

/// `names/dentries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dentry {
    pub ino: u64,
    pub kind: Kind,
    pub checked_ns: i64,
}

impl Dentry {
    pub fn parse(value: &[u8]) -> Option<Self> {
        let value: &[u8; 24] = value.try_into().ok()?;
        Some(Self {
            ino: u64_at(value, 0)?,
            checked_ns: u64_at(value, 8)?.cast_signed(),
            kind: Kind::from_byte(value[16])?,
        })
    }
}

/// `names/objects`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectRef<'a> {
    pub key: &'a [u8],
    pub etag: &'a [u8],
    pub version_id: &'a [u8],
    /// The lake has to bring it back before it can be read.
    pub archived: bool,
    /// The lake keeps a checksum of the whole object.
    pub has_checksum: bool,
}

impl<'a> ObjectRef<'a> {
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let flags = *value.first()?;
        let key_end = 8 + usize::from(u16_at(value, 2)?);
        let etag_end = key_end + usize::from(u16_at(value, 4)?);
        let end = etag_end + usize::from(u16_at(value, 6)?);
        Some(Self {
            key: value.get(8..key_end)?,
            etag: value.get(key_end..etag_end)?,
            version_id: value.get(etag_end..end)?,
            archived: flags & 1 != 0,
            has_checksum: flags & 2 != 0,
        })
    }

    /// The name that the object has in its directory.
    pub fn name(&self) -> &'a [u8] {
        let start = self.key.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        &self.key[start..]
    }

    /// What a cached copy is a copy of; `identity_of` in `tierfs/cache/blocks.py`.
    pub fn identity(&self) -> [u8; 16] {
        let mut hasher = Xxh3::new();
        for field in [self.key, self.etag, self.version_id] {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
        hasher.digest128().to_be_bytes()
    }
}

/// `names/listings`, as far as a reader of the index wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing {
    pub complete: bool,
    pub checked_ns: i64,
}

impl Listing {
    pub fn parse(value: &[u8]) -> Option<Self> {
        if value.len() < 24 {
            return None;
        }
        Some(Self { complete: value[0] == 2, checked_ns: u64_at(value, 8)?.cast_signed() })
    }
}

/// `cache/files`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedFile {
    pub identity: [u8; 16],
    pub size: u64,
    pub present_bytes: u64,
    pub verified: Stamp,
    pub last_used_s: u64,
    pub complete: bool,
    /// The checksum of the whole object was compared with the lake's.
    pub checksum_ok: bool,
}

/// When and as what a cache file was last verified as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub boot: [u8; 8],
    pub size: u64,
    pub ctime_ns: i64,
}

impl Stamp {
    /// Of a file that was not verified yet: no boot has this id.
    pub const NEVER: Self = Self { boot: [0; 8], size: 0, ctime_ns: 0 };
}

/// The pages of the cache's file system, and about what an inode takes of it.
const PAGE_BYTES: u64 = 4096;
const INODE_BYTES: u64 = 512;

/// What a cache file for `size` bytes takes of the disk beyond them: the rest of the last page, and
/// its inode. It is counted as long as the file has a record, whatever is present of it.
pub fn overhead_bytes(size: u64) -> u64 {
    size.wrapping_neg() % PAGE_BYTES + INODE_BYTES
}

impl CachedFile {
    /// See `overhead_bytes`.
    pub fn overhead_bytes(&self) -> u64 {
        overhead_bytes(self.size)
    }

    pub fn parse(value: &[u8]) -> Option<Self> {
        let value: &[u8; 72] = value.try_into().ok()?;
        let flags = u32_at(value, 64)?;
        Some(Self {
            identity: value[..16].try_into().ok()?,
            size: u64_at(value, 16)?,
            present_bytes: u64_at(value, 24)?,
            verified: Stamp {
                boot: value[32..40].try_into().ok()?,
                size: u64_at(value, 40)?,
                ctime_ns: u64_at(value, 48)?.cast_signed(),
            },
            last_used_s: u64_at(value, 56)?,
            complete: flags & 1 != 0,
            checksum_ok: flags & 2 != 0,
        })
    }

    pub fn encode(&self) -> [u8; 72] {
        let mut value = [0; 72];
        value[..16].copy_from_slice(&self.identity);
        value[16..24].copy_from_slice(&self.size.to_le_bytes());
        value[24..32].copy_from_slice(&self.present_bytes.to_le_bytes());
        value[32..40].copy_from_slice(&self.verified.boot);
        value[40..48].copy_from_slice(&self.verified.size.to_le_bytes());
        value[48..56].copy_from_slice(&self.verified.ctime_ns.to_le_bytes());
        value[56..64].copy_from_slice(&self.last_used_s.to_le_bytes());
        value[64] = u8::from(self.complete) | u8::from(self.checksum_ok) << 1;
        value
    }
}

/// `cache/blocks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub length: u32,
    pub xxh3: u64,
    pub crc64nvme: u64,
}

impl Block {
    pub fn parse(value: &[u8]) -> Option<Self> {
        let value: &[u8; 24] = value.try_into().ok()?;
        Some(Self {
            length: u32_at(value, 0)?,
            xxh3: u64_at(value, 8)?,
            crc64nvme: u64_at(value, 16)?,
        })
    }

    pub fn encode(&self) -> [u8; 24] {
        let mut value = [0; 24];
        value[..4].copy_from_slice(&self.length.to_le_bytes());
        value[8..16].copy_from_slice(&self.xxh3.to_le_bytes());
        value[16..].copy_from_slice(&self.crc64nvme.to_le_bytes());
        value
    }
}

/// `cache/totals`, of which there is one record: the sums over all files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub files: u64,
    pub present_bytes: u64,
    pub overhead_bytes: u64,
}

impl Totals {
    pub const KEY: &[u8] = b"totals";

    pub fn parse(value: &[u8]) -> Option<Self> {
        let value: &[u8; 24] = value.try_into().ok()?;
        Some(Self {
            files: u64_at(value, 0)?,
            present_bytes: u64_at(value, 8)?,
            overhead_bytes: u64_at(value, 16)?,
        })
    }

    pub fn encode(&self) -> [u8; 24] {
        let mut value = [0; 24];
        value[..8].copy_from_slice(&self.files.to_le_bytes());
        value[8..16].copy_from_slice(&self.present_bytes.to_le_bytes());
        value[16..].copy_from_slice(&self.overhead_bytes.to_le_bytes());
        value
    }

    /// What they take of the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.present_bytes + self.overhead_bytes
    }
}

/// The key of an inode in `inodes`, `objects`, `listings` and `files`.
pub fn ino_key(ino: u64) -> [u8; 8] {
    ino.to_be_bytes()
}

/// The key of a name in `dentries`.
pub fn dentry_key(parent: u64, name: &[u8]) -> Vec<u8> {
    [&parent.to_be_bytes(), name].concat()
}

/// The key of a child in `children`.
pub fn child_key(parent: u64, ino: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&parent.to_be_bytes());
    key[8..].copy_from_slice(&ino.to_be_bytes());
    key
}

/// The key of a block in `blocks`.
pub fn block_key(ino: u64, number: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&ino.to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The number in the key of a block of `ino`; `None`: it is another file's.
pub fn block_number(ino: u64, key: &[u8]) -> Option<u32> {
    let (owner, number) = key.split_at_checked(8)?;
    (owner == ino_key(ino)).then(|| Some(u32::from_be_bytes(number.try_into().ok()?)))?
}

pub(super) fn u16_at(value: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(value.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(value: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(value.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(value: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(value.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    /// Hexadecimal text of the golden records, by name.
    fn golden(name: &str) -> Vec<u8> {
        golden::bytes(&golden::file("index/records.json"), "records", name)
    }

    #[test]
    fn keys() {
        assert_eq!(ino_key(0x0102_0304_0506_0708)[..], golden("inodes key"));
        assert_eq!(dentry_key(0x10, b"caf\xc3\xa9\n\xff"), golden("dentries key"));
        assert_eq!(child_key(0x10, 0x1122_3344_5566_7788)[..], golden("children key"));
        assert_eq!(block_key(0x10, 0xA0B0_C0D0)[..], golden("blocks key"));
        assert_eq!(block_number(0x10, &golden("blocks key")), Some(0xA0B0_C0D0));
        assert_eq!(block_number(0x11, &golden("blocks key")), None);
    }

    #[test]
    fn inodes() {
        let file = Inode::parse(&golden("inodes value, file")).unwrap();
        let expected = Inode {
            kind: Kind::File,
            mode: 0o640,
            uid: Some(1000),
            gid: Some(100),
            size: 110_000,
            mtime_ns: 1_700_000_000_123_456_789,
            parent: 16,
        };
        assert_eq!(file, expected);
        let directory = Inode::parse(&golden("inodes value, directory")).unwrap();
        assert_eq!(directory, Inode::root());
        let extremes = Inode::parse(&golden("inodes value, extremes")).unwrap();
        assert_eq!((extremes.uid, extremes.gid), (Some(u32::MAX - 1), Some(0)));
        assert_eq!((extremes.size, extremes.mtime_ns), (u64::MAX, i64::MIN));
    }

    #[test]
    fn dentries_and_listings() {
        let dentry = Dentry::parse(&golden("dentries value")).unwrap();
        let expected = Dentry { ino: 0x1122_3344_5566_7788, kind: Kind::File, checked_ns: -2 };
        assert_eq!(dentry, expected);
        let listing = Listing::parse(&golden("listings value, complete")).unwrap();
        assert_eq!(listing, Listing { complete: true, checked_ns: 1_700_000_000_000_000_000 });
        assert!(!Listing::parse(&golden("listings value, partial")).unwrap().complete);
    }

    #[test]
    fn objects() {
        let value = golden("objects value, plain");
        let object = ObjectRef::parse(&value).unwrap();
        assert_eq!(object.key, b"train/a.jpg");
        assert_eq!(object.name(), b"a.jpg");
        assert_eq!(object.etag, b"\"d41d8cd98f00b204\"");
        assert_eq!(object.version_id, b"");
        assert!(!object.archived && !object.has_checksum);
        let value = golden("objects value, all");
        let object = ObjectRef::parse(&value).unwrap();
        assert_eq!(
            (object.key.len(), object.etag.len(), object.version_id.len()),
            (1024, 64, 1024)
        );
        assert!(object.archived && object.has_checksum);
        let archived = ObjectRef::parse(&[1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert!(archived.archived && !archived.has_checksum);
        assert_eq!(ObjectRef::parse(&value[..value.len() - 1]), None);
    }

    #[test]
    fn cached_files_and_blocks() {
        let fresh = CachedFile::parse(&golden("files value, fresh")).unwrap();
        assert_eq!((fresh.complete, fresh.checksum_ok), (false, false));
        assert_eq!((fresh.size, fresh.verified, fresh.last_used_s), (110_000, Stamp::NEVER, 0));
        let whole = CachedFile::parse(&golden("files value, whole")).unwrap();
        assert!(whole.complete && whole.checksum_ok);
        assert_eq!((whole.size, whole.present_bytes), (1 << 40, 1 << 40));
        let stamp = Stamp { boot: *b"bootboot", size: 1 << 40, ctime_ns: -1 };
        assert_eq!((whole.identity, whole.verified), ([0xFE; 16], stamp));
        assert_eq!(whole.last_used_s, 1_700_000_000);
        let last = Block::parse(&golden("blocks value, last")).unwrap();
        let (xxh3, crc64nvme) = (0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210);
        assert_eq!(last, Block { length: 1, xxh3, crc64nvme });
        let totals = Totals::parse(&golden("totals value")).unwrap();
        assert_eq!(
            totals,
            Totals { files: 3, present_bytes: (1 << 40) + 1, overhead_bytes: 3 * 512 }
        );
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        for name in ["files value, fresh", "files value, whole"] {
            let value = golden(name);
            assert_eq!(CachedFile::parse(&value).unwrap().encode()[..], value);
        }
        for name in ["blocks value, full", "blocks value, last"] {
            let value = golden(name);
            assert_eq!(Block::parse(&value).unwrap().encode()[..], value);
        }
        let value = golden("totals value");
        assert_eq!(Totals::parse(&value).unwrap().encode()[..], value);
    }

    #[test]
    fn damage_is_none() {
        for length in 0..200 {
            let bytes = vec![0xFF; length];
            assert_eq!(Inode::parse(&bytes), None);
            assert_eq!(Dentry::parse(&bytes), None);
            let _ = (ObjectRef::parse(&bytes), Listing::parse(&bytes));
            let _ = (CachedFile::parse(&bytes), Block::parse(&bytes));
        }
    }
}
