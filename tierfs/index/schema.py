"""What the index looks like on disk: every key and value as a byte table, and the code that packs
them.

Keys are big-endian, so that LMDB's byte order is numeric order; values are little-endian and, but
for the tails named below, of fixed width, with eight-byte fields on eight-byte offsets. Reserved
bytes are written as zeros and not read. Times are nanoseconds since the Unix epoch unless named
``_s``. A change to any table raises its environment's version (FORMAT_VERSIONS);
``tests/golden/index`` holds readers and writers in every language to these bytes.

Every environment: database ``meta``, key ``environment``::

    0  8  magic "TIERFSIX"     8  4  format version     12  2  name length     14  2  lake length
    16 8  created_ns           24 .  name ("names", "cache", "journal"), then lake (UTF-8)

``names/`` (I1..I6 in `tierfs.index.names`)::

    inodes     key 0 8 ino
               0  1  kind (1 directory, 2 file, 3 symlink)   1  1  reserved   2  2  permission bits
               4  4  uid (0xFFFFFFFF: the mount's)   8  4  gid (likewise)    12  4  reserved
               16 8  size      24 8  mtime_ns (signed)       32 8  parent ino
    dentries   key 0 8 parent ino   8 . name (1 to 255 bytes)
               0  8  ino       8  8  checked_ns (signed)     16 1  kind       17 7  reserved
    children   key 0 8 parent ino   8 8 ino
               0  .  name (1 to 255 bytes)
    objects    key 0 8 ino
               0  1  flags (1 archived, 2 has_checksum)      1  1  reserved   2  2  key length
               4  2  etag length   6  2  version id length   8  .  key, etag, version id
    listings   key 0 8 directory ino
               0  1  state (0 none, 1 partial, 2 complete)   1  1  flags (1 a token follows)
               2  2  token length  4  4  pages   8  8  checked_ns (signed)    16 8  entries
               24 .  token
    hidden     key 0 8 directory ino   8 16 xxh3-128 of the object key (canonical, big-endian)
               0  1  reason     1  .  object key
    orphans    key 0 8 ino of a directory that lost its entry; its subtree is still to be purged
               empty
    state      key: a caller's, or 0x00 "hidden" and one byte of reason -> 0 8 how many are hidden
    so

``cache/`` (I7..I9 in `tierfs.index.cache`)::

    files      key 0 8 ino
               0  16 identity (xxh3-128)   16 8  size        24 8  present_bytes
               32 8  verified_boot         40 8  verified_size   48 8  verified_ctime_ns (signed)
               56 8  last_used_s           64 4  flags (1 complete, 2 checksum_ok)   68 4  reserved
    blocks     key 0 8 ino   8 4 block number
               0  4  length     4  4  reserved   8  8  xxh3-64     16 8  crc64nvme
    totals     key "totals"
               0  8  files      8  8  bytes       16 8  overhead bytes

``journal/``::

    reservations   key "inodes"
               0  8  the first inode number that was never reserved
    and those of write-back: byte tables in `tierfs.writeback.records`
"""

from __future__ import annotations

from struct import Struct

from xxhash import xxh3_128_digest

from tierfs.errors import IndexDamaged
from tierfs.index.records import (
    BlockRecord,
    CachedFile,
    Dentry,
    Hidden,
    HiddenReason,
    Inode,
    Kind,
    Listing,
    ListingState,
    ObjectRef,
)
from tierfs.lake.protocol import Version

#: Of each environment, the version of its tables.
FORMAT_VERSIONS = {"names": 1, "cache": 2, "journal": 1}
MAGIC = b"TIERFSIX"

#: Databases of ``journal/`` whose content is `tierfs.writeback`'s matter.
WRITE_BACK_DATABASES = (
    "nodes", "entries", "children", "log", "contents", "parts", "heads", "xattrs", "intents",
    "replies", "state",
)  # fmt: skip

META_KEY = b"environment"
TOTALS_KEY = b"totals"
INODES_KEY = b"inodes"

#: Longest name of a directory entry, in bytes (NAME_MAX of Linux).
NAME_MAX = 255

KEY_U64 = Struct(">Q")
KEY_PAIR = Struct(">QQ")
KEY_BLOCK = Struct(">QI")
U64 = Struct("<Q")
TOTALS = Struct("<QQQ")
META = Struct("<8sIHHq")
INODE = Struct("<BxHII4xQqQ")
DENTRY = Struct("<QqB7x")
OBJECT = Struct("<BxHHH")
LISTING = Struct("<BBHIqQ")
FILE = Struct("<16sQQ8sQqQI4x")
BLOCK = Struct("<I4xQQ")

#: Where names/inodes keeps the parent, for readers that need nothing else.
INODE_PARENT_OFFSET = 32
DENTRY_KIND_OFFSET = 16

_MOUNTS_OWN = 0xFFFFFFFF
_KINDS: tuple[Kind | None, ...] = (None, Kind.DIRECTORY, Kind.FILE, Kind.SYMLINK)
_ARCHIVED, _HAS_CHECKSUM = 1, 2
_HAS_TOKEN = 1
_COMPLETE, _CHECKSUM_OK = 1, 2

pack_u64_key = KEY_U64.pack
pack_pair_key = KEY_PAIR.pack
pack_block_key = KEY_BLOCK.pack
_pack_inode = INODE.pack
_unpack_inode = INODE.unpack
_pack_dentry = DENTRY.pack
_unpack_dentry = DENTRY.unpack
_new_inode = Inode._make
_new_dentry = Dentry._make


def pack_meta(name: str, lake: str, created_ns: int, *, version: int | None = None) -> bytes:
    """The record that says whose environment this is, and of which version if not the latest."""
    name_bytes = name.encode()
    lake_bytes = lake.encode("utf-8", "surrogateescape")
    version = FORMAT_VERSIONS[name] if version is None else version
    head = META.pack(MAGIC, version, len(name_bytes), len(lake_bytes), created_ns)
    return head + name_bytes + lake_bytes


def unpack_meta(value: bytes) -> tuple[int, str, str, int]:
    """``(format version, name, lake, created_ns)``. Raises IndexDamaged."""
    if len(value) < META.size or not value.startswith(MAGIC):
        raise IndexDamaged("read an index", "meta", "it does not begin as tierfs writes it")
    _, version, name_length, lake_length, created_ns = META.unpack_from(value)
    name = value[META.size : META.size + name_length]
    lake = value[META.size + name_length : META.size + name_length + lake_length]
    return (
        version,
        name.decode("utf-8", "replace"),
        lake.decode("utf-8", "surrogateescape"),
        created_ns,
    )


def pack_inode(inode: Inode) -> bytes:
    """``names/inodes`` value."""
    kind, mode, uid, gid, size, mtime_ns, parent = inode
    return _pack_inode(kind, mode, uid & _MOUNTS_OWN, gid & _MOUNTS_OWN, size, mtime_ns, parent)


def unpack_inode(value: bytes) -> Inode:
    """``names/inodes`` value back."""
    kind, mode, uid, gid, size, mtime_ns, parent = _unpack_inode(value)
    return _new_inode(
        (
            _KINDS[kind],
            mode,
            uid if uid != _MOUNTS_OWN else -1,
            gid if gid != _MOUNTS_OWN else -1,
            size,
            mtime_ns,
            parent,
        )
    )


def pack_dentry_key(parent: int, name: bytes) -> bytes:
    """``names/dentries`` key."""
    return pack_u64_key(parent) + name


def pack_dentry(ino: int, kind: Kind, checked_ns: int) -> bytes:
    """``names/dentries`` value."""
    return _pack_dentry(ino, checked_ns, kind)


def unpack_dentry(value: bytes) -> Dentry:
    """``names/dentries`` value back."""
    ino, checked_ns, kind = _unpack_dentry(value)
    return _new_dentry((ino, _KINDS[kind], checked_ns))


def pack_object(ref: ObjectRef) -> bytes:
    """``names/objects`` value."""
    key, (etag, version_id) = ref.key, (ref.version.etag, ref.version.version_id)
    flags = (_ARCHIVED if ref.archived else 0) | (_HAS_CHECKSUM if ref.has_checksum else 0)
    return OBJECT.pack(flags, len(key), len(etag), len(version_id)) + key + etag + version_id


def unpack_object(value: bytes) -> ObjectRef:
    """``names/objects`` value back."""
    flags, key_length, etag_length, _ = OBJECT.unpack_from(value)
    etag_at = OBJECT.size + key_length
    version_id_at = etag_at + etag_length
    return ObjectRef(
        value[OBJECT.size : etag_at],
        Version(value[etag_at:version_id_at], value[version_id_at:]),
        bool(flags & _ARCHIVED),
        bool(flags & _HAS_CHECKSUM),
    )


def pack_listing(listing: Listing) -> bytes:
    """``names/listings`` value."""
    token = listing.token
    flags = 0 if token is None else _HAS_TOKEN
    tail = token or b""
    head = LISTING.pack(
        listing.state, flags, len(tail), listing.pages, listing.checked_ns, listing.entries
    )
    return head + tail


def unpack_listing(value: bytes) -> Listing:
    """``names/listings`` value back."""
    state, flags, token_length, pages, checked_ns, entries = LISTING.unpack_from(value)
    token = value[LISTING.size : LISTING.size + token_length] if flags & _HAS_TOKEN else None
    return Listing(ListingState(state), checked_ns, pages, entries, token)


def pack_hidden_key(directory: int, key: bytes) -> bytes:
    """``names/hidden`` key. A digest stands for the object key, which may be longer than LMDB's."""
    return pack_u64_key(directory) + xxh3_128_digest(key)


def pack_hidden(hidden: Hidden) -> bytes:
    """``names/hidden`` value; the directory is in the key."""
    return bytes((hidden.reason,)) + hidden.key


def unpack_hidden(key: bytes, value: bytes) -> Hidden:
    """``names/hidden`` key and value back."""
    return Hidden(KEY_U64.unpack_from(key)[0], value[1:], HiddenReason(value[0]))


def hidden_count_key(reason: int) -> bytes:
    """``names/state`` key of the number of objects hidden for *reason*."""
    return b"\0hidden" + bytes((reason,))


def pack_file(file: CachedFile) -> bytes:
    """``cache/files`` value."""
    flags = (_COMPLETE if file.complete else 0) | (_CHECKSUM_OK if file.checksum_ok else 0)
    return FILE.pack(
        file.identity,
        file.size,
        file.present_bytes,
        file.verified_boot,
        file.verified_size,
        file.verified_ctime_ns,
        file.last_used_s,
        flags,
    )


def unpack_file(value: bytes) -> CachedFile:
    """``cache/files`` value back."""
    identity, size, present, boot, verified_size, ctime_ns, last_used_s, flags = FILE.unpack(value)
    return CachedFile(
        identity,
        size,
        present,
        bool(flags & _COMPLETE),
        bool(flags & _CHECKSUM_OK),
        boot,
        verified_size,
        ctime_ns,
        last_used_s,
    )


def pack_block(block: BlockRecord) -> bytes:
    """``cache/blocks`` value."""
    return BLOCK.pack(*block)


def unpack_block(value: bytes) -> BlockRecord:
    """``cache/blocks`` value back."""
    return BlockRecord._make(BLOCK.unpack(value))
