"""What tierfs's policy is measured beside.

LRU, SIEVE (Zhang et al., NSDI 2024) and S3-FIFO (Yang et al., SOSP 2023) are libcachesim's, in the
settings that it has for them; where it is not installed, they are not measured. The bounds are our
own: the cache that never evicts, and the best that an order known beforehand makes possible.
"""

from __future__ import annotations

import heapq
import importlib
from collections.abc import Sequence
from typing import Any

from bench.policy.traces import Cache

#: Columns, and what they are called in libcachesim.
_THEIRS = {"LRU": "LRU", "SIEVE": "Sieve", "S3-FIFO": "S3FIFO"}
NAMES = [*_THEIRS, "never-evict"]
#: Of libcachesim's hash table, which is as large as this from the beginning: 2 ** 20 entries.
_HASH_POWER = 20
#: It ends the process over a cache of fewer bytes, of which S3-FIFO's small queue would get none.
_LEAST_BYTES = 10


def rivals(capacity: int) -> dict[str, Cache]:
    """Those of `NAMES` that can be had, with *capacity* bytes each."""
    found: dict[str, Cache] = {"never-evict": NeverEvict(capacity)}
    library = _library()
    if library is not None and capacity >= _LEAST_BYTES:
        for name, theirs in _THEIRS.items():
            found[name] = _TheirCache(library, theirs, capacity)
    return found


def is_complete() -> bool:
    """Whether libcachesim is installed."""
    return _library() is not None


def _library() -> Any:
    try:
        return importlib.import_module("libcachesim")
    except ImportError:
        return None


class NeverEvict:
    """Keeps what comes first, while there is room."""

    def __init__(self, capacity: int) -> None:
        self._room = capacity
        self._held: set[int] = set()

    def read(self, ino: int, size: int, job: int) -> bool:
        if ino in self._held:
            return True
        if size <= self._room:
            self._room -= size
            self._held.add(ino)
        return False


class _TheirCache:
    """One of libcachesim's."""

    def __init__(self, library: Any, name: str, capacity: int) -> None:
        self._cache = getattr(library, name)(cache_size=capacity, hashpower=_HASH_POWER)
        self._request = library.Request()

    def read(self, ino: int, size: int, job: int) -> bool:
        self._request.obj_id = ino
        self._request.obj_size = size
        hit: bool = self._cache.get(self._request)
        return hit


def belady(reads: Sequence[int], capacity: int) -> bytearray:
    """Of each of *reads*, whether it misses (1) if the cache holds *capacity* objects, of equal
    size, and keeps those that are read again soonest: no policy misses less (L. A. Belady, IBM
    Systems Journal 5(2), 1966; with the choice not to keep what has just come)."""
    never = len(reads)
    again = _read_again(reads)
    missed = bytearray(never)
    held: set[int] = set()
    # When what is held is read again, negative: the last of all is the first here. Entries of reads
    # that are over sink to the end, and no other entry is of something that is not held.
    latest: list[int] = []
    for at, ino in enumerate(reads):
        after = again[at]
        if ino in held:
            if after == never:
                held.remove(ino)
            else:
                heapq.heappush(latest, -after)
            continue
        missed[at] = 1
        if after == never or capacity < 1:
            continue
        if len(held) < capacity:
            heapq.heappush(latest, -after)
        elif -latest[0] > after:
            held.remove(reads[-heapq.heapreplace(latest, -after)])
        else:
            continue
        held.add(ino)
    return missed


def _read_again(reads: Sequence[int]) -> list[int]:
    """Of each of *reads*, when the same is read next; how many there are, if never."""
    again = [len(reads)] * len(reads)
    last: dict[int, int] = {}
    for at, ino in enumerate(reads):
        before = last.get(ino)
        if before is not None:
            again[before] = at
        last[ino] = at
    return again
