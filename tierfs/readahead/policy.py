"""Whom to evict: the seam between the cache and whoever understands the workload.

`EvictionPolicy` is all that the front asks; `SampledLru` is the policy without knowledge of epochs.
It keeps no memory for each file: last uses live in the index and victims are the oldest of a random
sample (the approximation that Redis made known; at 16 samples its hit ratio is within about a
percent of exact LRU).

A complete file leaves whole; of an incomplete one only as many extents as are needed, so that room
for 8 MiB does not cost the 300 GB of a shard that was read by half. They leave from its beginning:
when a block was fetched or read is not known, but whoever reads a file in order has passed the
beginning, and goes on where the rest of it lies.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from tierfs.cache.eviction import Victim
from tierfs.clock import Clock
from tierfs.index.records import CachedFile, Extent

SAMPLES = 16
#: Samples without a single usable victim, after which everything is taken to be in use.
PATIENCE = 8
#: Accesses kept in memory until they are flushed: bounded, some hundred bytes each.
MAX_RECENT = 16384


class FileSource(Protocol):
    """Where samples come from; `tierfs.index.cache.CacheIndex` is one."""

    def sample_files(self, rng: random.Random, n: int) -> list[tuple[int, CachedFile]]:
        """Up to *n* random files with their inode numbers; repetitions are possible."""

    def first_extents(self, ino: int, bytes_: int, most: int) -> list[Extent]:
        """The first extents of a file that hold anything, until together they hold *bytes_* or
        there are *most*."""


class EvictionPolicy(Protocol):
    """Chooses what leaves the cache. Plain calls on the trio thread; none may block for long."""

    def accessed(self, ino: int) -> None:
        """An access of *ino* began: an open run of its file."""

    def choose_victims(self, bytes_: int, most: int, in_use: Callable[[int], bool]) -> list[Victim]:
        """Victims of together at least *bytes_* bytes whose eviction costs least, or less if there
        is no more: distinct files, whole or extents of them, together at most *most*. None for
        which *in_use* says true."""

    def drain(self) -> dict[int, int]:
        """Hand over the accesses since the last call, ino -> last used (seconds since the epoch),
        to be written to the index."""


class SampledLru:
    """Least recently used, by sampling."""

    def __init__(
        self, source: FileSource, clock: Clock, *, rng: random.Random | None = None
    ) -> None:
        self._source = source
        self._clock = clock
        self._rng = rng or random.Random()
        #: By inode, the least recently accessed first.
        self._recent: OrderedDict[int, int] = OrderedDict()

    def accessed(self, ino: int) -> None:
        # Beyond the bound the oldest buffered access is forgotten: an error of seconds in an
        # estimate.
        if len(self._recent) >= MAX_RECENT and ino not in self._recent:
            self._recent.popitem(last=False)
        self._recent[ino] = self._clock.now_ns() // 1_000_000_000
        self._recent.move_to_end(ino)

    def choose_victims(self, bytes_: int, most: int, in_use: Callable[[int], bool]) -> list[Victim]:
        chosen: dict[int, Victim] = {}
        missing = bytes_
        fruitless = 0
        while missing > 0 and len(chosen) < most and fruitless < PATIENCE:
            candidates = {
                ino: file
                for ino, file in self._source.sample_files(self._rng, SAMPLES)
                if ino not in chosen and not in_use(ino)
            }
            if not candidates:
                fruitless += 1
                continue
            fruitless = 0
            ino = min(candidates, key=lambda ino: self._last_used_s(ino, candidates[ino]))
            file = candidates[ino]
            if missing < file.present_bytes < file.size:
                extents = self._source.first_extents(ino, missing, most - len(chosen))
                chosen[ino] = Victim(ino, tuple(extents))
                break
            chosen[ino] = Victim(ino)
            # An empty record frees its file's own block; count it so that the loop ends.
            missing -= max(file.present_bytes, 1)
        return list(chosen.values())

    def _last_used_s(self, ino: int, file: CachedFile) -> int:
        return max(self._recent.get(ino, 0), file.last_used_s)

    def drain(self) -> dict[int, int]:
        recent, self._recent = self._recent, OrderedDict()
        return recent
