"""Eviction with an order of reads that was told: by next use, as long as reads go by it."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from tierfs.cache.eviction import Victim
from tierfs.index.records import CachedFile, Extent
from tierfs.readahead.plan import WATCHED
from tierfs.readahead.policy import AdaptivePolicy, Incoming
from tierfs.readahead.rules import Rule

SIZE = 100


def nobody(_: int) -> bool:
    return False


class Cache:
    """A cache of *capacity* equally large files, and its policy."""

    def __init__(self, capacity: int, plan: Sequence[int] = ()) -> None:
        self.capacity = capacity
        self.files: set[int] = set()
        self.policy = AdaptivePolicy(self, rng=random.Random(1))
        self.policy.plan.append(plan)

    def sample_files(self, rng: random.Random, n: int) -> list[tuple[int, CachedFile]]:
        inos = rng.sample(sorted(self.files), min(n, len(self.files)))
        return [
            (ino, CachedFile(b"", SIZE, SIZE, True, True, bytes(8), SIZE, 0, 0)) for ino in inos
        ]

    def file(self, ino: int) -> CachedFile | None:
        return None

    def first_extents(self, ino: int, bytes_: int, most: int) -> list[Extent]:
        raise AssertionError("no file is incomplete here")

    def totals(self) -> tuple[int, int]:
        return len(self.files), len(self.files) * SIZE

    def rule(self) -> Rule:
        return self.policy.rule

    def read(self, ino: int) -> bool:
        """Whether *ino*, which is read, was there."""
        self.policy.accessed(ino)
        return self.fetch(ino)

    def fetch(self, ino: int, *, ahead: bool = False) -> bool:
        if ino in self.files:
            return True
        if len(self.files) == self.capacity:
            victims = self.policy.choose_victims(SIZE, 64, nobody, Incoming(ino, ahead))
            if victims is None:
                return False
            assert len(victims) == 1
            self.files.remove(victims[0].ino)
        self.files.add(ino)
        return False


def fewest_misses(trace: Sequence[int], capacity: int) -> int:
    """Of all ways to keep, or not to keep, what was missed."""

    @functools.cache
    def misses(at: int, files: frozenset[int]) -> int:
        if at == len(trace):
            return 0
        if trace[at] in files:
            return misses(at + 1, files)
        choices = [files]
        if len(files) < capacity:
            choices.append(files | {trace[at]})
        choices += [files - {victim} | {trace[at]} for victim in files]
        return 1 + min(misses(at + 1, choice) for choice in choices)

    return misses(0, frozenset())


@settings(max_examples=150, deadline=None)
@given(trace=st.lists(st.integers(1, 7), max_size=14), capacity=st.integers(1, 4))
def test_nothing_misses_less_where_all_reads_are_known(trace: list[int], capacity: int) -> None:
    cache = Cache(capacity, trace)
    missed = sum(not cache.read(ino) for ino in trace)
    assert missed == fewest_misses(trace, capacity)


def test_what_is_not_read_again_goes_first_and_the_longest_ago_of_it() -> None:
    cache = Cache(4, [1, 2, 3, 4, 1, 2])
    for ino in (1, 2, 4, 3):
        cache.read(ino)
    assert cache.rule() is Rule.PLAN
    assert cache.policy.choose_victims(SIZE, 64, nobody) == [Victim(4)]
    cache.read(5)  # Which the plan knows nothing of.
    assert cache.files == {1, 2, 3, 5}


def test_a_miss_that_is_read_later_than_all_that_is_kept_is_declined() -> None:
    cache = Cache(2, [1, 2, 3, 1, 2, 3])
    for ino in (1, 2):
        cache.read(ino)
    cache.policy.accessed(3)
    assert cache.policy.choose_victims(SIZE, 64, nobody, Incoming(3)) is None


def test_what_is_fetched_ahead_takes_the_place_of_what_is_read_later() -> None:
    cache = Cache(2, [1, 2, 3, 4, 2, 1])
    for ino in (1, 2):
        cache.read(ino)
    cache.fetch(3, ahead=True)
    assert cache.files == {2, 3}
    cache.fetch(4, ahead=True)
    assert cache.files == {3, 4}
    cache.fetch(1, ahead=True)
    assert cache.files == {3, 4}


def test_a_plan_that_nobody_goes_by_decides_nothing() -> None:
    cache = Cache(40, list(range(1, 1001)))
    assert cache.rule() is Rule.PLAN
    for ino in range(2000, 2001 + WATCHED // 2):
        cache.read(ino)
    assert cache.rule() is Rule.EPOCHS
    for ino in range(1, 2 + WATCHED // 2):
        cache.read(ino)
    assert cache.rule() is Rule.PLAN


def test_at_its_end_the_plan_decides_nothing_any_more() -> None:
    cache = Cache(40, [1, 2, 3])
    for ino in (1, 2, 3):
        cache.read(ino)
    assert cache.rule() is Rule.EPOCHS
    cache.policy.plan.append([4])
    assert cache.rule() is Rule.PLAN
