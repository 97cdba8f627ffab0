"""The records of the index as Python values. Their bytes on disk are `tierfs.index.schema`'s
matter.

These types are what the domain functions speak: they know nothing of LMDB and nothing of FUSE.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, TypeAlias

from tierfs.lake.protocol import Version

ROOT_INO = 1
#: Inode numbers below this are the file system's own (1 is the root).
FIRST_INO = 16


class Kind(enum.IntEnum):
    """What an inode is. Values are stored on disk; never renumber."""

    DIRECTORY = 1
    FILE = 2
    SYMLINK = 3


class Inode(NamedTuple):
    """``names/inodes``: ino -> this. *mode* holds the permission bits only, as an override;
    0 means the mount's default for the kind. *uid* and *gid* of -1 mean the mount's."""

    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    parent: int


class ObjectRef(NamedTuple):
    """``names/objects``: ino -> where its bytes are. *key* is relative to the lake's root."""

    key: bytes
    version: Version
    archived: bool
    has_checksum: bool


class Dentry(NamedTuple):
    """``names/dentries``: (parent, name) -> this. *checked_ns* is when the lake last confirmed
    it.
    """

    ino: int
    kind: Kind
    checked_ns: int


class ListingState(enum.IntEnum):
    """How much of a directory is known. Values are stored on disk; never renumber."""

    NONE = 0
    PARTIAL = 1
    COMPLETE = 2


class Listing(NamedTuple):
    """``names/listings``: directory ino -> this. *checked_ns* is when the listing that filled it
    began; *pages* how many pages it took; *token* where a partial one goes on."""

    state: ListingState
    checked_ns: int
    pages: int
    entries: int
    token: bytes | None


class HiddenReason(enum.IntEnum):
    """Why an object cannot be shown as a path. Values are stored on disk; never renumber."""

    EMPTY_COMPONENT = 1
    DOT_COMPONENT = 2
    NAME_TOO_LONG = 3
    SHADOWED_BY_DIRECTORY = 4
    MARKER_WITH_CONTENT = 5
    UNLISTABLE = 6
    NUL_BYTE = 7


class Hidden(NamedTuple):
    """``names/hidden``: (directory ino, key) -> reason. *key* may be a prefix ending in ``/``."""

    directory: int
    key: bytes
    reason: HiddenReason


class CachedFile(NamedTuple):
    """``cache/files``: ino -> what the cache holds of it.

    *identity* is xxh3-128 of (key, etag, version id); *verified_boot* the first 8 bytes of the boot
    id during which all present bytes were verified (zeros: never); *verified_size* and
    *verified_ctime_ns* the cache file's fstat at that moment; *checksum_ok* that a full-object
    checksum was compared.
    """

    identity: bytes
    size: int
    present_bytes: int
    complete: bool
    checksum_ok: bool
    verified_boot: bytes
    verified_size: int
    verified_ctime_ns: int
    last_used_s: int

    @property
    def overhead_bytes(self) -> int:
        """See `overhead_bytes`."""
        return overhead_bytes(self.size)


#: The pages of the cache's file system, and about what an inode takes of it.
_PAGE_BYTES, _INODE_BYTES = 4096, 512


def overhead_bytes(size: int) -> int:
    """What a cache file for *size* bytes takes of the disk beyond them: the rest of the last page,
    and its inode. It is counted as long as the file has a record, whatever is present of it."""
    return -size % _PAGE_BYTES + _INODE_BYTES


class Totals(NamedTuple):
    """``cache/totals``: of all files together."""

    files: int
    present_bytes: int
    overhead_bytes: int

    @property
    def disk_bytes(self) -> int:
        """What they take of the disk."""
        return self.present_bytes + self.overhead_bytes


class BlockRecord(NamedTuple):
    """``cache/blocks``: (ino, block number) -> this. *length* is BLOCK_SIZE but for the last
    block.
    """

    length: int
    xxh3: int
    crc64nvme: int


#: The unit of index and checksum, in bytes (DESIGN: "The unit of index and checksum is a 1 MiB
#: block").
BLOCK_SIZE = 1 << 20

#: A byte range ``[lo, hi)`` of an object.
Extent: TypeAlias = tuple[int, int]
#: The unit in which incomplete files are evicted, in bytes (DESIGN: "incomplete ones by 8 MiB
#: extents"), aligned to its multiples; a multiple of BLOCK_SIZE.
EXTENT_SIZE = 8 << 20
