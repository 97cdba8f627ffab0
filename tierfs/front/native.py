"""The native front, as this process sees it: what it is told, and what it says of itself.

It fills the cache by itself and is the only writer of ``cache/`` and ``objects/``; here they are
read. Commands go to it through `Orders`. It tells in batches which files it has in use and which
are accessed, and asks what to evict when it finds no room, and whether that is worth it
(`NativeFront.choose_victims`).

Pins are kept here: a pinned file is never named as a victim, and the front knows of none. What is
told of files in use is a little late, so the front looks itself before it evicts.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import trio

from tierfs.cache.blocks import identity_of
from tierfs.cache.budget import Priority
from tierfs.cache.eviction import EVICT_PAGE, Victim
from tierfs.cache.fetch import WHOLE_OBJECT_BYTES
from tierfs.cache.store import cache_path
from tierfs.front.accesses import AccessLog, OnAccess, OnStall
from tierfs.front.port import FileState
from tierfs.index.cache import CacheIndex
from tierfs.index.records import BLOCK_SIZE, Extent, ObjectRef
from tierfs.lake.protocol import LakeCounters
from tierfs.readahead.policy import AdaptivePolicy, EvictionPolicy, Incoming

#: Files and extents chosen in one go: choosing takes the loop's thread for some 50 us a file.
EVICT_AT_ONCE = 64

#: Fetches that the front is told to do at one time; each has a thread of its own there.
MOST_FETCHES = 64
#: One order to fetch: 16 parts.
FETCH_BYTES = 128 << 20

#: Gauges of the front's that `FrontPort.stats` gives as they are.
_GAUGES = (
    "used_bytes",
    "reserved_bytes",
    "open_handles",
    "in_flight",
    "buffer_bytes",
    "buffer_limit_bytes",
    "waiting_requests",
    "hot_bytes",
)
#: And its counters.
_COUNTED = (
    "misses",
    "hit_bytes",
    "miss_bytes",
    "bytes_from_lake",
    "bad_blocks",
    "checksum_failures",
    "evicted_files",
    "evicted_extents",
    "evicted_bytes",
    "declined",
    "declined_bytes",
    "disk_errors",
)
#: All that only grows in the life of one front.
_GROWING = (
    *_COUNTED,
    "hits",
    "opens_passed_through",
    "lake_get_requests",
    "lake_bytes_read",
    "lake_retries",
    "lake_slow_downs",
)


class Orders(Protocol):
    """The commands that reach the front, or its successor: each waits until it is carried out, and
    raises what the front says went wrong."""

    async def fetch(self, ino: int, lo: int, hi: int, priority: Priority) -> int:
        """Bring ``[lo, hi)``, whole blocks, into the cache; returns the bytes fetched for it."""

    async def fill(self, inos: Sequence[int]) -> int:
        """Bring files, which nobody waits for, into the cache, and wait until that is over; returns
        how many were not worth what would have had to go."""

    async def evict(self, victims: Sequence[Victim]) -> tuple[int, int]:
        """Evict them; a whole file in use goes when its last user leaves. Returns (files, bytes)
        that are gone by now."""

    async def adopt(self, ino: int, size: int, identity: bytes, crc64nvme: int) -> None:
        """The staging file of *ino*, which nobody has open, becomes the cached copy of the object
        that *identity* says (`tierfs.cache.blocks.identity_of`); the records of its blocks, which
        have *crc64nvme* together, are beside it."""

    async def renamed(self, ino: int, old: bytes, new: bytes) -> None:
        """The cached copy of *ino*, known by the identity *old*, is known by *new* from now on."""

    async def invalidate(self, ino: int) -> None:
        """See `FrontPort.invalidate`."""

    async def resize(self, limit_bytes: int | None) -> None:
        """See `FrontPort.resize`."""


class NativeFront:
    """A `FrontPort` onto a front in a process of its own. *directory* is the lake's in the cache
    root; *cache_size* is the limit until `resize` sets another."""

    def __init__(
        self,
        index: CacheIndex,
        directory: Path,
        background: trio.Nursery,
        orders: Orders,
        *,
        cache_size: int | None,
        policy: EvictionPolicy | None = None,
    ) -> None:
        self._index = index
        self._objects = os.fsencode(directory / "objects")
        self._background = background
        self._orders = orders
        self._policy = policy or AdaptivePolicy(index)
        # The front itself writes to the index when a file was used.
        self._accesses = AccessLog(None, self._policy.accessed)
        self._used: set[int] = set()
        self._pins: dict[int, int] = {}
        #: Fetches under way, by inode: what is just being filled is nobody's victim.
        self._fetching: Counter[int] = Counter()
        self._fetches = trio.Semaphore(MOST_FETCHES)
        #: The limit of the cache, which every front is told at its beginning.
        self.limit_bytes = cache_size
        #: What the front counted last, by name.
        self.front_stats: dict[str, int] = {}
        #: What the fronts before it counted of what only grows.
        self._earlier: Counter[str] = Counter()
        self._streaming_reason = ""

    async def start(self) -> None:
        """Start the task that reports accesses, in the nursery given."""
        self._background.start_soon(self._accesses.run)

    async def aclose(self) -> None:
        """Report the last accesses. Idempotent."""
        self._accesses.report()

    # ---- what the front tells and asks ---------------------------------------------------------

    def begin_session(self) -> None:
        """Another native front, or the same one anew: what is in use it will tell."""
        self._used.clear()

    def used(self, ino: int) -> None:
        """The front has *ino* open, until `not_used`. Twice is once."""
        self._used.add(ino)

    def not_used(self, ino: int) -> None:
        """The last handle of *ino* over there is closed."""
        self._used.discard(ino)

    def is_used(self, ino: int) -> bool:
        """Whether the front has *ino* open, as far as it has told."""
        return ino in self._used

    def accessed(self, ino: int, at_ns: int, pid: int = 0) -> None:
        """An open run of *ino* by process *pid* (0: not known) began over there, at *at_ns* since
        the Unix epoch."""
        self._accesses.add(ino, at_ns, pid)

    def stalled(self, pid: int, waited_ns: int, bytes_: int) -> None:
        """An open or a read by process *pid* has waited for so many bytes over there."""
        self._accesses.stalled(pid, waited_ns, bytes_)

    def choose_victims(
        self, bytes_: int, most: int, incoming: Incoming | None = None
    ) -> list[Victim] | None:
        """What the front is to evict for *bytes_* bytes of room: at most *most* files and extents,
        none of them in use or pinned. None: *incoming* is not worth that (see
        `EvictionPolicy.choose_victims`). Raises what the index raises."""
        most = min(most, EVICT_AT_ONCE)
        return self._policy.choose_victims(bytes_, most, self._stays, incoming)

    def heard(self, stats: Mapping[str, str]) -> None:
        """The front said *stats* of itself."""
        said = {
            name: int(value) for name, value in stats.items() if value.isascii() and value.isdigit()
        }
        for name in _GROWING:
            # Less than before: another front, which counts anew.
            if said.get(name, 0) < self.front_stats.get(name, 0):
                self._earlier[name] += self.front_stats[name]
        self.front_stats = said
        self._streaming_reason = stats.get("streaming_reason", "")

    def _stays(self, ino: int) -> bool:
        return ino in self._used or ino in self._pins or ino in self._fetching

    # ---- the port ------------------------------------------------------------------------------

    def tell_accesses(self, told: OnAccess, stalls: OnStall) -> None:
        """See `FrontPort.tell_accesses`."""
        self._accesses.told, self._accesses.told_stalls = told, stalls

    async def fetch(
        self,
        ino: int,
        ref: ObjectRef,
        size: int,
        extent: tuple[int, int] | None,
        priority: Priority,
    ) -> int:
        """See `FrontPort.fetch`. The front finds *ref* in the index by itself."""
        lo, hi = extent or (0, size)
        lo = max(lo, 0) // BLOCK_SIZE * BLOCK_SIZE
        hi = min(-(-hi // BLOCK_SIZE) * BLOCK_SIZE, size)
        if lo >= hi:
            return 0
        fetched = 0
        self._fetching[ino] += 1
        try:
            # In pieces, so that a caller who gives up leaves at most one of them under way.
            while lo < hi:
                end = min(lo + FETCH_BYTES, hi)
                async with self._fetches:
                    fetched += await self._orders.fetch(ino, lo, end, priority)
                lo = end
        finally:
            self._fetching[ino] -= 1
            if not self._fetching[ino]:
                del self._fetching[ino]
        return fetched

    async def fill(self, files: Sequence[tuple[int, ObjectRef, int]]) -> int:
        """See `FrontPort.fill`. The front finds the objects in the index by itself."""
        inos = [ino for ino, _, _ in files]
        self._fetching.update(inos)
        try:
            return await self._orders.fill(inos)
        finally:
            self._fetching.subtract(inos)
            for ino in inos:
                if not self._fetching[ino]:
                    del self._fetching[ino]

    async def evict(self, ino: int, extents: Sequence[Extent] | None = None) -> int:
        """See `FrontPort.evict`."""
        if ino in self._pins or (extents is not None and not extents):
            return 0
        if ino not in self._used and self._index.file(ino) is None:
            return 0
        freed = 0
        pieces: list[tuple[Extent, ...] | None] = [None]
        if extents is not None:
            pieces = [
                tuple(extents[at : at + EVICT_PAGE]) for at in range(0, len(extents), EVICT_PAGE)
            ]
        for piece in pieces:
            freed += (await self._orders.evict([Victim(ino, piece)]))[1]
        return freed

    async def evict_all(self) -> tuple[int, int]:
        """See `FrontPort.evict_all`."""
        files = freed = after = 0
        while page := self._index.scan_files(after, EVICT_PAGE):
            after = page[-1][0]
            victims = [Victim(ino) for ino, _ in page if not self._stays(ino)]
            if victims:
                more_files, more_bytes = await self._orders.evict(victims)
                files += more_files
                freed += more_bytes
        return files, freed

    async def evict_some(self, bytes_: int) -> int:
        """Evict some of what is worth least, up to about *bytes_*, for what is to be written.
        Returns the bytes that are gone by now."""
        victims = self.choose_victims(bytes_, EVICT_AT_ONCE)
        return (await self._orders.evict(victims))[1] if victims else 0

    def cached_bytes(self) -> int:
        """What is on the disk and could be evicted, by the index: some are in use."""
        return self._index.totals().disk_bytes

    def pin(self, ino: int) -> None:
        """See `FrontPort.pin`."""
        self._pins[ino] = self._pins.get(ino, 0) + 1

    def unpin(self, ino: int) -> None:
        """See `FrontPort.unpin`."""
        pins = self._pins.get(ino, 0)
        if pins > 1:
            self._pins[ino] = pins - 1
        else:
            self._pins.pop(ino, None)

    async def invalidate(self, ino: int) -> None:
        """See `FrontPort.invalidate`."""
        await self._orders.invalidate(ino)

    async def resize(self, limit_bytes: int | None) -> None:
        """See `FrontPort.resize`."""
        self.limit_bytes = limit_bytes
        await self._orders.resize(limit_bytes)

    async def adopt(self, ino: int, ref: ObjectRef, size: int, crc64nvme: int) -> None:
        """See `Orders.adopt`. Raises what the front says is in the way of it."""
        await self._orders.adopt(ino, size, identity_of(ref), crc64nvme)

    async def renamed(self, ino: int, old: ObjectRef, ref: ObjectRef) -> None:
        """See `Orders.renamed`."""
        await self._orders.renamed(ino, identity_of(old), identity_of(ref))

    def file_state(self, ino: int) -> FileState:
        """See `FrontPort.file_state`."""
        file = self._index.file(ino)
        if file is None:
            return FileState(0, False, None)
        present = file.present_bytes
        path = os.fsdecode(cache_path(self._objects, ino)) if present else None
        return FileState(present, present == file.size, path)

    def requests_to_fetch(self, size: int) -> int:
        """See `FrontPort.requests_to_fetch`."""
        return -(-size // WHOLE_OBJECT_BYTES)

    def lake_counters(self) -> LakeCounters:
        """See `FrontPort.lake_counters`."""
        return LakeCounters(
            get_requests=self._said("lake_get_requests"),
            bytes_read=self._said("lake_bytes_read"),
            retries=self._said("lake_retries"),
            slow_downs=self._said("lake_slow_downs"),
        )

    def stats(self) -> dict[str, Any]:
        """See `FrontPort.stats`: what the front said last, and what the index says."""
        cached = self._index.totals()
        return {
            "cached_files": cached.files,
            "cached_bytes": cached.present_bytes,
            "limit_bytes": self.limit_bytes,
            "hits": self._said("hits") + self._said("opens_passed_through"),
            **{name: self._said(name) for name in (*_GAUGES, *_COUNTED)},
            "streaming": bool(self._said("streaming")),
            "streaming_reason": self._streaming_reason,
        }

    def _said(self, name: str) -> int:
        return self._earlier[name] + self.front_stats.get(name, 0)
