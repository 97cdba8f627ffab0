"""When the last block of an object is in: compare the whole with the lake's own checksum (C9).

Ranged GETs carry no checksum of the object, so until now length, ETag and TLS protected its bytes.
The blocks' crc64nvme combine without reading the file again; for another kind of checksum the file
is streamed once. A copy that does not match is thrown away, counted and logged; it is fetched
again, and a second mismatch is the reader's error: the lake itself holds, or sends, something else
than it says.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable

from tierfs.boot import boot_id
from tierfs.cache.blocks import (
    block_count,
    block_extent,
    checksum_of,
    combined_crc64nvme,
    intact,
)
from tierfs.cache.objects import NEVER, CachedObject
from tierfs.cache.store import Store
from tierfs.cache.table import ObjectTable
from tierfs.errors import IntegrityError, LakeError, NotFound, show
from tierfs.index.cache import CacheIndex
from tierfs.index.records import BlockRecord
from tierfs.lake.protocol import Checksum, ChecksumKind, Lake, Version

#: The second mismatch of one object in use is final.
MAX_MISMATCHES = 2

_log = logging.getLogger(__name__)


def same_version(known: Version, answer: Version) -> bool:
    """Whether a HEAD's version is the one known, perhaps from a listing, which tells no version
    id."""
    if known.etag != answer.etag:
        return False
    return not (known.version_id and answer.version_id) or known.version_id == answer.version_id


class Completion:
    """Makes whole objects complete. *dropped* hears of those whose bytes were wrong: readers may
    have had some of them, and the kernel may still."""

    def __init__(
        self,
        lake: Lake,
        table: ObjectTable,
        index: CacheIndex,
        store: Store,
        *,
        spawn: Callable[[Callable[[CachedObject], Awaitable[None]], CachedObject], None],
        dropped: Callable[[int], None],
    ) -> None:
        self._lake = lake
        self._table = table
        self._index = index
        self._store = store
        self._spawn = spawn
        self._dropped = dropped
        #: What a verification during this boot is stamped with.
        self.boot = boot_id()
        self.mismatches = 0
        #: Comparisons under way.
        self.running = 0

    def filled(self, o: CachedObject) -> None:
        """All blocks of *o* are present. Returns at once; a comparison goes on in a task."""
        if o.complete or o.completing or o.fd < 0:
            return
        if o.checksum_ok or not o.ref.has_checksum:
            self._finish(o)
            return
        o.completing = True
        self.running += 1
        self._table.retain(o)
        self._spawn(self._check, o)

    def _finish(self, o: CachedObject) -> None:
        o.complete = True
        if not o.restored:
            # Every block was written, from bytes that were checked, since this process started.
            status = os.fstat(o.fd)
            o.verified = (self.boot, status.st_size, status.st_ctime_ns)
        else:
            o.verified = (NEVER, 0, 0)
        self._table.recorder.mark(o)

    async def _check(self, o: CachedObject) -> None:
        life = o.life
        try:
            expected = await self._ask(o)
            matches = expected is None or await self._compare(o, expected)
            if o.life != life or not o.whole or o.stale:
                return
            if matches:
                o.checksum_ok = expected is not None
                self._finish(o)
                return
            self.mismatches += 1
            o.mismatches += 1
            _log.error(
                "the cached copy does not match the lake's checksum, dropped: %s", show(o.ref.key)
            )
            self._table.discard(o)
            self._dropped(o.ino)
            if o.mismatches >= MAX_MISMATCHES:
                o.failure = IntegrityError(
                    "check against the lake", o.ref.key, "its checksum differs; tried twice"
                )
        except (LakeError, OSError) as error:
            # Not complete, but readable: the next open of the object tries again.
            _log.info("could not compare %s with the lake: %s", show(o.ref.key), error)
        except Exception:
            _log.exception("comparing with the lake failed: %s", show(o.ref.key))
        finally:
            o.completing = False
            self.running -= 1
            self._table.release(o)

    async def _ask(self, o: CachedObject) -> Checksum | None:
        """The lake's checksum of this version, or None if it has none after all."""
        try:
            info = await self._lake.head(o.ref.key, checksum=True)
        except NotFound:
            o.stale = True
            return None
        if not same_version(o.ref.version, info.version):
            o.stale = True
            return None
        if info.checksum is None or info.checksum.kind is ChecksumKind.NONE:
            return None
        return info.checksum

    async def _compare(self, o: CachedObject, expected: Checksum) -> bool:
        records = self._records(o)
        if len(records) != block_count(o.size):
            return True  # A block was lost meanwhile: not whole, so nothing is concluded.
        if expected.kind is ChecksumKind.CRC64NVME:
            return combined_crc64nvme(records[n] for n in range(len(records))) == expected.value
        running = 0
        for n in range(len(records)):
            lo, hi = block_extent(n, o.size)
            if o.fd < 0:
                return True
            data = await self._store.read(o.fd, lo, hi - lo)
            if not intact(records[n], data):
                # Damage on our side: drop the block alone, so that a reader fetches it again.
                self._table.drop_block(o, n)
                return True
            running = checksum_of(expected.kind, data, running)
        return running == expected.value

    def _records(self, o: CachedObject) -> dict[int, BlockRecord]:
        records: dict[int, BlockRecord] = dict(self._index.blocks(o.ino))
        for newer in (o.recording, o.fresh):
            for n, record in newer.items():
                if record is None:
                    records.pop(n, None)
                else:
                    records[n] = record
        return records
