"""The eviction policy: sampling, what must stay, and bounded memory."""

from __future__ import annotations

import random

from tierfs.cache.eviction import Victim
from tierfs.clock import ManualClock
from tierfs.index.records import EXTENT_SIZE, CachedFile, Extent
from tierfs.readahead.policy import MAX_RECENT, SampledLru

SECOND = 1_000_000_000


def extents(*numbers: int) -> tuple[Extent, ...]:
    return tuple((n * EXTENT_SIZE, (n + 1) * EXTENT_SIZE) for n in numbers)


def part(last_used_s: int, *numbers: int) -> tuple[CachedFile, tuple[Extent, ...]]:
    """An incomplete file of a hundred extents that has these, and they."""
    held = file(last_used_s, 100 * EXTENT_SIZE)._replace(
        present_bytes=len(numbers) * EXTENT_SIZE, complete=False
    )
    return held, extents(*numbers)


def file(last_used_s: int, bytes_: int = 100) -> CachedFile:
    return CachedFile(b"", bytes_, bytes_, True, True, bytes(8), bytes_, 0, last_used_s)


class Files:
    """A source of samples."""

    def __init__(
        self,
        files: dict[int, CachedFile],
        parts: dict[int, tuple[CachedFile, tuple[Extent, ...]]] | None = None,
    ) -> None:
        self.parts = parts or {}
        self.files = files | {ino: held for ino, (held, _) in self.parts.items()}
        self.samples = 0

    def first_extents(self, ino: int, bytes_: int, most: int) -> list[Extent]:
        return list(self.parts[ino][1][: min(most, -(-bytes_ // EXTENT_SIZE))])

    def sample_files(self, rng: random.Random, n: int) -> list[tuple[int, CachedFile]]:
        self.samples += 1
        inos = rng.sample(sorted(self.files), min(n, len(self.files)))
        return [(ino, self.files[ino]) for ino in inos]


def policy(files: dict[int, CachedFile], clock: ManualClock | None = None) -> SampledLru:
    return SampledLru(Files(files), clock or ManualClock(), rng=random.Random(7))


def test_victims_are_old_ones() -> None:
    chosen = policy({n: file(n) for n in range(1000)}).choose_victims(5000, 64, lambda _: False)
    assert len(chosen) == len(set(chosen)) == 50
    assert all(victim.ino < 500 and victim.extents is None for victim in chosen)


def test_what_is_in_use_stays() -> None:
    chosen = policy({n: file(n) for n in range(20)}).choose_victims(10**9, 64, lambda n: n < 15)
    assert sorted(chosen) == [Victim(n) for n in range(15, 20)]


def test_nothing_to_choose_is_found_out_soon() -> None:
    files = Files({n: file(n) for n in range(100)})
    lru = SampledLru(files, ManualClock())
    assert lru.choose_victims(1, 64, lambda _: True) == []
    assert files.samples < 20
    assert policy({}).choose_victims(1, 64, lambda _: False) == []


def test_no_more_than_asked_for_in_one_go() -> None:
    chosen = policy({n: file(n) for n in range(100)}).choose_victims(10**9, 8, lambda _: False)
    assert len(chosen) == 8


def test_an_incomplete_file_leaves_only_what_is_needed_from_its_beginning() -> None:
    lru = SampledLru(Files({17: file(5)}, {16: part(1, 3, 4, 9)}), ManualClock())
    assert lru.choose_victims(1, 64, lambda _: False) == [Victim(16, extents(3))]
    assert lru.choose_victims(EXTENT_SIZE + 1, 64, lambda _: False) == [Victim(16, extents(3, 4))]


def test_an_incomplete_file_that_is_not_enough_goes_whole() -> None:
    lru = SampledLru(Files({17: file(5)}, {16: part(1, 3, 4, 9)}), ManualClock())
    chosen = lru.choose_victims(3 * EXTENT_SIZE + 1, 64, lambda _: False)
    assert chosen == [Victim(16), Victim(17)]


def test_extents_count_among_what_is_chosen_in_one_go() -> None:
    files = Files({17: file(0), 18: file(1)}, {16: part(2, *range(90))})
    lru = SampledLru(files, ManualClock())
    chosen = lru.choose_victims(80 * EXTENT_SIZE, 8, lambda _: False)
    assert chosen == [Victim(17), Victim(18), Victim(16, extents(*range(6)))]


def test_an_access_that_is_not_in_the_index_yet_counts() -> None:
    clock = ManualClock(10**6 * SECOND)
    lru = policy({n: file(n) for n in range(16)}, clock)
    lru.accessed(0)
    assert lru.choose_victims(1, 64, lambda _: False) == [Victim(1)]


def test_the_later_of_what_was_heard_and_what_is_recorded_counts() -> None:
    files = Files({16: file(3), 17: file(4)})
    lru = SampledLru(files, ManualClock(2 * SECOND))
    lru.accessed(16)
    lru.accessed(17)
    files.files[16] = file(9)  # Fetched since, which is no access, by who writes the index.
    assert lru.choose_victims(1, 64, lambda _: False) == [Victim(17)]


def test_accesses_are_handed_over_once_and_memory_is_bounded() -> None:
    clock = ManualClock(5 * SECOND)
    lru = policy({}, clock)
    for ino in range(MAX_RECENT + 10):
        lru.accessed(ino)
    drained = lru.drain()
    assert len(drained) == MAX_RECENT
    assert set(drained.values()) == {5}
    assert lru.drain() == {}
