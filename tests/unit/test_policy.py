"""The eviction policy: sampling, what must stay, and bounded memory."""

from __future__ import annotations

import random

from tierfs.clock import ManualClock
from tierfs.index.records import CachedFile
from tierfs.readahead.policy import MAX_RECENT, SampledLru

SECOND = 1_000_000_000


def file(last_used_s: int, bytes_: int = 100) -> CachedFile:
    return CachedFile(b"", bytes_, bytes_, True, True, bytes(8), bytes_, 0, last_used_s)


class Files:
    """A source of samples."""

    def __init__(self, files: dict[int, CachedFile]) -> None:
        self.files = files
        self.samples = 0

    def sample_files(self, rng: random.Random, n: int) -> list[tuple[int, CachedFile]]:
        self.samples += 1
        inos = rng.sample(sorted(self.files), min(n, len(self.files)))
        return [(ino, self.files[ino]) for ino in inos]


def policy(files: dict[int, CachedFile], clock: ManualClock | None = None) -> SampledLru:
    return SampledLru(Files(files), clock or ManualClock(), rng=random.Random(7))


def test_victims_are_old_ones() -> None:
    chosen = policy({n: file(n) for n in range(1000)}).choose_victims(5000, 64, lambda _: False)
    assert len(chosen) == len(set(chosen)) == 50
    assert sum(n < 500 for n in chosen) == 50


def test_what_is_in_use_stays() -> None:
    chosen = policy({n: file(n) for n in range(20)}).choose_victims(10**9, 64, lambda n: n < 15)
    assert sorted(chosen) == [15, 16, 17, 18, 19]


def test_nothing_to_choose_is_found_out_soon() -> None:
    files = Files({n: file(n) for n in range(100)})
    lru = SampledLru(files, ManualClock())
    assert lru.choose_victims(1, 64, lambda _: True) == []
    assert files.samples < 20
    assert policy({}).choose_victims(1, 64, lambda _: False) == []


def test_no_more_than_asked_for_in_one_go() -> None:
    chosen = policy({n: file(n) for n in range(100)}).choose_victims(10**9, 8, lambda _: False)
    assert len(chosen) == 8


def test_an_access_that_is_not_in_the_index_yet_counts() -> None:
    clock = ManualClock(10**6 * SECOND)
    lru = policy({n: file(n) for n in range(16)}, clock)
    lru.accessed(0)
    assert lru.choose_victims(1, 64, lambda _: False) == [1]


def test_accesses_are_handed_over_once_and_memory_is_bounded() -> None:
    clock = ManualClock(5 * SECOND)
    lru = policy({}, clock)
    for ino in range(MAX_RECENT + 10):
        lru.accessed(ino)
    drained = lru.drain()
    assert len(drained) == MAX_RECENT
    assert set(drained.values()) == {5}
    assert lru.drain() == {}
