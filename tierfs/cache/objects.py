"""The objects in use: what the cache holds of each, agreed between its readers, fetches and
records.

While an object is in the table, its `CachedObject` is the truth about it and the index follows
(`recorder`); when its last user leaves, the index alone knows. A user is a handle, a fetch, a
completion, or changes that are not committed yet.

::

    acquire() --> in use --release() by the last--> settled: descriptor closed, out of the table
                    |                                  |
                    | doomed (stale, told to go)       | evict(): file unlinked, record dropped;
                    +----release() by the last---------+--> gone      or extents of it leave
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio

from tierfs.cache.blocks import block_count, block_extent, identity_of
from tierfs.errors import StaleVersion, TierfsError
from tierfs.index.records import BlockRecord, CachedFile, ObjectRef

if TYPE_CHECKING:
    from tierfs.cache.fetch import Flight

NEVER = bytes(8)


class CachedObject:
    """One object version in use. Fields are changed by plain functions on the trio thread only."""

    __slots__ = (
        "accounted", "announced", "asked", "bypass", "checksum_ok", "complete", "completing",
        "doomed", "failure", "fd", "flights", "fresh", "identity", "ino", "is_kept", "last_used_s",
        "life", "making", "mismatches", "partial_flights", "present", "present_bytes", "purge",
        "recording", "ref", "restored", "size", "stale", "told_of_damage", "unread", "unrecorded",
        "users", "verified", "whole",
    )  # fmt: skip

    def __init__(self, ino: int, ref: ObjectRef, size: int, identity: bytes) -> None:
        self.ino = ino
        self.ref = ref
        self.size = size
        self.identity = identity
        self.users = 0
        #: Descriptor of the cache file, or -1.
        self.fd = -1
        #: Every block is present.
        self.whole = size == 0
        #: One byte for each block, 1 if present; None where `whole` says it all.
        self.present: bytearray | None = None
        self.present_bytes = 0
        #: `whole`, and compared with the lake's checksum as far as there is one (C9).
        self.complete = size == 0
        self.checksum_ok = False
        self.completing = False
        #: (boot id, size, ctime in ns) of the file at its last full verification.
        self.verified = (NEVER, 0, 0)
        self.last_used_s = 0
        #: A record of the file is committed, so the file may exist (C3).
        self.announced = False
        #: The file itself is counted in the capacity.
        self.accounted = False
        #: The cache file is being made; set when that has ended, well or not.
        self.making: trio.Event | None = None
        #: The cache file could not be opened: leave it alone and stream.
        self.bypass = False
        #: For the last of it that needed that, room was made.
        self.is_kept = False
        #: Blocks come from an earlier use of the cache.
        self.restored = False
        #: Records not handed to the index yet; None: to be dropped there.
        self.fresh: dict[int, BlockRecord | None] = {}
        #: Records that are being committed now.
        self.recording: dict[int, BlockRecord | None] = {}
        #: What the index has of the old life is to be dropped before anything else is written.
        self.purge = False
        #: A commit failed: the index may hold less of it than this says, or more.
        self.unrecorded = False
        #: Counts how often the copy was thrown away; a fetch of an older life adds nothing.
        self.life = 0
        #: The lake has another version now (C4).
        self.stale = False
        #: Evict when the last user leaves.
        self.doomed = False
        #: Full-object checksums that did not match, and the error once there is no hope.
        self.mismatches = 0
        self.failure: TierfsError | None = None
        self.told_of_damage = False
        #: Flights that bring whole blocks, by block; and those that bring less, by extent.
        self.flights: dict[int, Flight] = {}
        self.partial_flights: dict[tuple[int, int], Flight] = {}
        #: Block -> bytes asked of it in part, to see when the file densifies. Bounded.
        self.asked: dict[int, int] = {}
        #: Blocks fetched for readers during this use -> how far (in the object) they were read:
        #: what is read for the first time is a miss, whoever sent for it.
        self.unread: dict[int, int] = {}

    def has(self, n: int) -> bool:
        """Whether block *n* is in the cache file."""
        return self.whole or (self.present is not None and self.present[n] == 1)

    def add(self, records: dict[int, BlockRecord]) -> int:
        """Blocks were written to the file (C2). Returns how many of their bytes are new."""
        added = 0
        if self.present is None:
            self.present = bytearray(block_count(self.size))
        for n, record in records.items():
            if not self.has(n):
                self.present[n] = 1
                added += record.length
            self.fresh[n] = record
        self.present_bytes += added
        if self.present_bytes == self.size:
            self.whole, self.present = True, None
        return added

    def remove(self, n: int) -> int:
        """Block *n* is wrong: forget it. Returns its length, 0 if it was not there."""
        if not self.has(n):
            return 0
        if self.present is None:
            self.present = bytearray(b"\1") * block_count(self.size)
        self.present[n] = 0
        self.fresh[n] = None
        self.whole = self.complete = self.checksum_ok = False
        self.verified = (NEVER, 0, 0)
        lo, hi = block_extent(n, self.size)
        self.present_bytes -= hi - lo
        return hi - lo

    def remove_all(self) -> int:
        """Throw the whole copy away; a new life begins. Returns how many bytes it had."""
        had = self.present_bytes
        self.present = None
        self.present_bytes = 0
        self.whole = self.complete = self.checksum_ok = False
        self.verified = (NEVER, 0, 0)
        self.fresh.clear()
        self.purge = True
        self.announced = self.restored = False
        self.life += 1
        return had

    def file_record(self) -> CachedFile:
        """What the index should hold."""
        return CachedFile(
            identity=self.identity,
            size=self.size,
            present_bytes=self.present_bytes,
            complete=self.complete,
            checksum_ok=self.checksum_ok,
            verified_boot=self.verified[0],
            verified_size=self.verified[1],
            verified_ctime_ns=self.verified[2],
            last_used_s=self.last_used_s,
        )


def new_object(ino: int, ref: ObjectRef, size: int) -> CachedObject:
    """An object of which nothing is cached."""
    return CachedObject(ino, ref, size, identity_of(ref))


def restore(ino: int, ref: ObjectRef, size: int, file: CachedFile) -> CachedObject:
    """The object that *file* records; its blocks are still to be told with `blocks_known`."""
    o = new_object(ino, ref, size)
    o.announced = o.accounted = True
    o.restored = file.present_bytes > 0
    o.present_bytes = file.present_bytes
    o.checksum_ok = file.checksum_ok
    o.verified = (file.verified_boot, file.verified_size, file.verified_ctime_ns)
    o.last_used_s = file.last_used_s
    o.whole = file.present_bytes == size
    o.complete = file.complete and o.whole
    return o


def blocks_known(o: CachedObject, blocks: Iterable[int]) -> None:
    """Tell a restored, incomplete object which blocks it has."""
    o.present = bytearray(block_count(o.size))
    o.present_bytes = 0
    for n in blocks:
        if n < len(o.present):
            o.present[n] = 1
            lo, hi = block_extent(n, o.size)
            o.present_bytes += hi - lo
    if o.present_bytes == o.size:
        o.whole, o.present = True, None


def close_descriptor(o: CachedObject) -> None:
    """Close the cache file, if it is open. Workers have duplicates of their own."""
    if o.fd >= 0:
        fd, o.fd = o.fd, -1
        os.close(fd)


def check_version(o: CachedObject, ref: ObjectRef) -> None:
    """A new version is a new inode: one inode with two versions at once is stale (C4)."""
    if o.ref is not ref and o.identity != identity_of(ref):
        raise StaleVersion("open", ref.key, "it changed in the lake; open it again")
