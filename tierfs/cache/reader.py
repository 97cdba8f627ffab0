"""The verified read: bytes of an object from NVMe if they are there and right, else from the lake.

One read, by the functions it goes through::

    now()             every block hot, or in the page cache: verified and answered at once
    read()            otherwise: flights for what is missing, all at once, then
      _from_file()    a present block, however long the disk takes, verified
      Flight.bytes()  a missing one, when the lake has answered
    damaged()         a block that is wrong, short or cannot be read: dropped, fetched again
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from tierfs.cache.blocks import Buffer, block_extent, intact
from tierfs.cache.budget import Priority
from tierfs.cache.fetch import Fetcher, Flight, again
from tierfs.cache.hot import HotBlocks
from tierfs.cache.objects import CachedObject
from tierfs.cache.space import Health
from tierfs.cache.store import Store
from tierfs.cache.table import ObjectTable
from tierfs.errors import StaleVersion
from tierfs.index.cache import CacheIndex
from tierfs.index.records import BLOCK_SIZE, BlockRecord

#: The largest part of one GET for blocks that a single read misses.
PART_BYTES = 8 << 20
#: A block of which this share was asked for in small reads is fetched whole.
DENSE_SHARE = 0.25
#: Blocks watched for that, in one object.
MAX_WATCHED = 1024

#: What keeps a block from being read and says nothing about it: a disk that hangs, and want of
#: descriptors or memory here.
_NOT_THE_BLOCKS = frozenset({errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})

_log = logging.getLogger(__name__)


class _Segment(NamedTuple):
    """A piece ``[lo, hi)`` of a read: within one present block (no flight), or brought by
    *flight*."""

    lo: int
    hi: int
    flight: Flight | None


class Reader:
    """Reads objects in use. Counters are in reads and bytes as the callers asked for them."""

    def __init__(
        self,
        index: CacheIndex,
        table: ObjectTable,
        store: Store,
        hot: HotBlocks,
        fetcher: Fetcher,
        health: Health,
        *,
        describe: Callable[[CachedObject], str],
    ) -> None:
        self._index = index
        self._table = table
        self._store = store
        self._hot = hot
        self._fetcher = fetcher
        self._health = health
        self._describe = describe
        self.hits = 0
        self.misses = 0
        self.hit_bytes = 0
        self.miss_bytes = 0
        self.bad_blocks = 0

    def guard(self, o: CachedObject) -> None:
        """Raise if nothing may be read of *o* any more (C4), or nothing right can be had."""
        if o.failure is not None:
            raise again(o.failure)
        if o.stale and not o.whole:
            raise StaleVersion("read", o.ref.key, "it changed in the lake; open it again")

    def now(self, o: CachedObject, lo: int, hi: int) -> Buffer | None:
        """``[lo, hi)`` (not empty, inside the object) without waiting, or None if that cannot
        be."""
        if o.stale or o.failure is not None:
            return None
        first, last = lo // BLOCK_SIZE, (hi - 1) // BLOCK_SIZE
        pieces = []
        for n in range(first, last + 1):
            block = self.block_now(o, n, hi)
            if block is None:
                return None
            base = n * BLOCK_SIZE
            pieces.append(memoryview(block)[max(lo - base, 0) : hi - base])
        self._spend(o, lo, hi)
        self._count(not (o.unread and self._first_read(o, lo, hi)), hi - lo)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def block_now(self, o: CachedObject, n: int, read_to: int) -> Buffer | None:
        """Block *n*, verified (C1), or None if it is not here, is wrong, or needs the disk.

        *read_to* is where the read ends: a block that it does not exhaust is kept for the next.
        """
        block = self._hot.get(o.ino, n)
        if block is not None:
            return block
        if o.fd < 0 or not o.has(n):
            return None
        record = self._record(o, n)
        lo, hi = block_extent(n, o.size)
        if record is None or record.length != hi - lo:
            return None
        try:
            data = self._store.read_now(o.fd, lo, hi - lo)
        except OSError:
            return None
        if data is None or not intact(record, data):
            return None  # `_from_file` looks again and draws the conclusions.
        if read_to < hi:
            self._hot.put(o.ino, n, data)
        return data

    async def read(
        self,
        o: CachedObject,
        lo: int,
        hi: int,
        *,
        whole_blocks: bool,
        stalled: Callable[[int, int], object],
    ) -> Buffer:
        """``[lo, hi)`` (not empty, inside the object), whatever it takes. *stalled* is told, if it
        waited for the lake, for how many nanoseconds and bytes.

        With *whole_blocks* missing blocks are fetched whole, otherwise exactly what was asked for,
        unless the object is small or the block dense. Raises StaleVersion, IntegrityError and what
        the lake raises; trouble with the cache is not the reader's (C8).
        """
        self.guard(o)
        begun = time.monotonic_ns()
        segments = self._plan(o, lo, hi, whole_blocks)
        missed = any(segment.flight for segment in segments)
        coming = sum(
            segment.hi - segment.lo
            for segment in segments
            if segment.flight is not None and not segment.flight.done.is_set()
        )
        pieces: list[Buffer] = []
        for segment in segments:
            if segment.flight is not None:
                pieces.append(await segment.flight.bytes(segment.lo, segment.hi))
                continue
            n = segment.lo // BLOCK_SIZE
            base = n * BLOCK_SIZE
            block = self._hot.get(o.ino, n)
            if block is None:
                block = await self._from_file(o, n, segment.hi)
            if block is None:
                missed = True
                self.guard(o)
                flight = o.flights.get(n)
                if flight is None:
                    flight = self._fetcher.start(o, *block_extent(n, o.size), Priority.DEMAND)
                else:
                    self._fetcher.join(flight, Priority.DEMAND)
                block = await flight.bytes(*block_extent(n, o.size))
                if segment.hi < base + len(block):
                    self._hot.put(o.ino, n, bytes(block))
            pieces.append(memoryview(block)[segment.lo - base : segment.hi - base])
        if coming:
            stalled(time.monotonic_ns() - begun, coming)
        self._spend(o, lo, hi)
        if o.unread and self._first_read(o, lo, hi):
            missed = True
        self._count(not missed, hi - lo)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def ahead(
        self, o: CachedObject, lo: int, hi: int, part_bytes: int, priority: Priority
    ) -> list[Flight]:
        """Have the blocks that ``[lo, hi)`` touches come: a hint to the kernel for present ones,
        parts of at most *part_bytes* from the lake for missing ones. Returns the flights, old and
        new."""
        flights: dict[int, Flight] = {}
        if o.failure is not None or (o.stale and not o.whole):
            return []
        n, end = lo // BLOCK_SIZE, -(-hi // BLOCK_SIZE)
        while n < end:
            if o.has(n):
                if o.fd >= 0 and priority < Priority.WARM_UP:
                    self._store.will_need(o.fd, n * BLOCK_SIZE, BLOCK_SIZE)
                n += 1
                continue
            flight = o.flights.get(n)
            if flight is None:
                start = n
                most = max(1, part_bytes // BLOCK_SIZE)
                if end * BLOCK_SIZE >= o.size and end - n <= most + most // 2 + 1:
                    most = end - n  # A short tail is not worth a request of its own.
                while n < end and n - start < most and not o.has(n) and n not in o.flights:
                    n += 1
                flight = self._fetcher.start(
                    o, start * BLOCK_SIZE, min(n * BLOCK_SIZE, o.size), priority
                )
            else:
                n += 1
                self._fetcher.join(flight, priority)
            flights[id(flight)] = flight
        return list(flights.values())

    def _plan(self, o: CachedObject, lo: int, hi: int, whole_blocks: bool) -> list[_Segment]:
        """Cut a read into segments and start the flights that it needs, all at once."""
        whole_blocks = whole_blocks or o.size <= BLOCK_SIZE
        segments = []
        position = lo
        while position < hi:
            n = position // BLOCK_SIZE
            block_end = min((n + 1) * BLOCK_SIZE, hi)
            if o.has(n) or self._hot.get(o.ino, n) is not None:
                segments.append(_Segment(position, block_end, None))
                position = block_end
                continue
            flight = o.flights.get(n)
            if flight is not None:
                self._fetcher.join(flight, Priority.DEMAND)
                end = block_end
            elif whole_blocks or self._is_dense(o, n, position, block_end):
                end_block = self._end_of_gap(o, n, hi)
                end = min(end_block * BLOCK_SIZE, hi)
                flight = self._fetcher.start(
                    o, n * BLOCK_SIZE, min(end_block * BLOCK_SIZE, o.size), Priority.DEMAND
                )
            else:
                end = min(self._end_of_gap(o, n, hi) * BLOCK_SIZE, hi)
                flight = o.partial_flights.get((position, end))
                if flight is None:
                    flight = self._fetcher.start(o, position, end, Priority.DEMAND)
                else:
                    self._fetcher.join(flight, Priority.DEMAND)
            segments.append(_Segment(position, end, flight))
            position = end
        return segments

    def _end_of_gap(self, o: CachedObject, n: int, hi: int) -> int:
        """The end of the missing blocks from *n* on, as far as the read and one part go."""
        end = n + 1
        while (
            end * BLOCK_SIZE < hi
            and (end - n) * BLOCK_SIZE < PART_BYTES
            and not o.has(end)
            and end not in o.flights
        ):
            end += 1
        return end

    def _is_dense(self, o: CachedObject, n: int, lo: int, hi: int) -> bool:
        """Whether small reads have asked for enough of block *n*, this one counted."""
        first, last = block_extent(n, o.size)
        asked = o.asked.pop(n, 0) + hi - lo
        if asked < DENSE_SHARE * (last - first) or hi - lo == last - first:
            # A read of the whole block needs no guess.
            if len(o.asked) >= MAX_WATCHED:
                del o.asked[next(iter(o.asked))]
            o.asked[n] = asked
            return False
        return asked > hi - lo

    async def _from_file(self, o: CachedObject, n: int, read_to: int) -> Buffer | None:
        """Block *n* from the cache file, waiting for the disk, verified (C1), or None."""
        lo, hi = block_extent(n, o.size)
        record, fd = self._record(o, n), o.fd
        if not o.has(n):
            return None
        if record is None or fd < 0:
            self._table.drop_block(o, n)
            return None
        if self._health.hanging:
            return None
        try:
            data = await self._store.read(fd, lo, hi - lo)
        except OSError as error:
            if error.errno in _NOT_THE_BLOCKS:
                self._health.failed("read a cache file", error)
            else:
                self.damaged(o, n, record, str(error))
            return None
        if not intact(record, data):
            self.damaged(o, n, record, "it does not match its checksum")
            return None
        if read_to < hi:
            self._hot.put(o.ino, n, data)
        return data

    def damaged(self, o: CachedObject, n: int, record: BlockRecord, why: str) -> None:
        """Drop a block that cannot be read or is wrong; count it, and say so once for each
        object."""
        if not o.has(n) or self._record(o, n) != record:
            return  # Another reader found it first.
        self.bad_blocks += 1
        if not o.told_of_damage:
            o.told_of_damage = True
            _log.warning(
                "block %d of the cached copy is bad, fetched again: %s (%s)",
                n,
                self._describe(o),
                why,
            )
        self._table.drop_block(o, n)

    def _record(self, o: CachedObject, n: int) -> BlockRecord | None:
        if n in o.fresh:
            return o.fresh[n]
        if n in o.recording:
            return o.recording[n]
        try:
            return self._index.block(o.ino, n)
        except Exception as error:
            self._health.failed("look into the cache index", error)
            return None

    def _spend(self, o: CachedObject, lo: int, hi: int) -> None:
        for n in range(lo // BLOCK_SIZE, -(-hi // BLOCK_SIZE)):
            if hi >= block_extent(n, o.size)[1]:
                self._hot.spend(o.ino, n)

    def _first_read(self, o: CachedObject, lo: int, hi: int) -> bool:
        """Whether a part of ``[lo, hi)`` came from the lake during this use and is read for the
        first time."""
        first = False
        for n in range(lo // BLOCK_SIZE, (hi - 1) // BLOCK_SIZE + 1):
            read_to = o.unread.get(n)
            if read_to is None:
                continue
            if hi >= block_extent(n, o.size)[1]:
                del o.unread[n]
                first = True
            elif hi > read_to:
                o.unread[n] = hi
                first = True
        return first

    def _count(self, hit: bool, bytes_: int) -> None:
        if hit:
            self.hits += 1
            self.hit_bytes += bytes_
        else:
            self.misses += 1
            self.miss_bytes += bytes_
