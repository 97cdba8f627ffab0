"""Whom to evict: the seam between the cache and whoever understands the workload.

`EvictionPolicy` is all that the front asks; `SampledLru` is the policy without knowledge of epochs.
It keeps no memory for each file: last uses live in the index and victims are the oldest of a random
sample (the approximation that Redis made known; at 16 samples its hit ratio is within about a
percent of exact LRU).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from tierfs.clock import Clock
from tierfs.index.records import CachedFile

SAMPLES = 16
#: Samples without a single usable victim, after which everything is taken to be in use.
PATIENCE = 8
#: Accesses kept in memory until they are flushed: bounded, some hundred bytes each.
MAX_RECENT = 16384


class FileSource(Protocol):
    """Where samples come from; `tierfs.index.cache.CacheIndex` is one."""

    def sample_files(self, rng: random.Random, n: int) -> list[tuple[int, CachedFile]]:
        """Up to *n* random files with their inode numbers; repetitions are possible."""


class EvictionPolicy(Protocol):
    """Chooses what leaves the cache. Plain calls on the trio thread; none may block for long."""

    def accessed(self, ino: int) -> None:
        """An access of *ino* began: an open run of its file."""

    def choose_victims(self, bytes_: int, most: int, in_use: Callable[[int], bool]) -> list[int]:
        """At most *most* distinct files of together at least *bytes_* bytes whose eviction costs
        least, or fewer if there are no more. None for which *in_use* says true."""

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
        self._recent: dict[int, int] = {}

    def accessed(self, ino: int) -> None:
        # Beyond the bound the oldest buffered access is forgotten: an error of seconds in an
        # estimate.
        if len(self._recent) >= MAX_RECENT and ino not in self._recent:
            del self._recent[next(iter(self._recent))]
        self._recent[ino] = self._clock.now_ns() // 1_000_000_000

    def choose_victims(self, bytes_: int, most: int, in_use: Callable[[int], bool]) -> list[int]:
        chosen: dict[int, int] = {}
        missing = bytes_
        fruitless = 0
        while missing > 0 and len(chosen) < most and fruitless < PATIENCE:
            candidates = {
                ino: (self._recent.get(ino, file.last_used_s), file.present_bytes)
                for ino, file in self._source.sample_files(self._rng, SAMPLES)
                if ino not in chosen and not in_use(ino)
            }
            if not candidates:
                fruitless += 1
                continue
            fruitless = 0
            victim = min(candidates, key=lambda ino: candidates[ino][0])
            chosen[victim] = candidates[victim][1]
            # An empty record frees its file's own block; count it so that the loop ends.
            missing -= max(candidates[victim][1], 1)
        return list(chosen)

    def drain(self) -> dict[int, int]:
        recent, self._recent = self._recent, {}
        return recent
