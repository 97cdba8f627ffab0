"""An order of reads that was told: against a list, and what becomes of it when reads differ."""

from __future__ import annotations

import random
import tracemalloc
from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierfs.readahead import plan as module
from tierfs.readahead.plan import BELIEVED, JUMP, LEAST_SLACK, PIECE, SLACK, WATCHED, Plan


class Listed:
    """A plan as a list, of which every question looks at all."""

    def __init__(self) -> None:
        self.inos: list[int] = []
        self.done: set[int] = set()
        self.position = self.floor = 0
        self.elsewhere = self.votes = 0
        self.recent: list[int] = []

    def next_use(self, ino: int) -> int | None:
        for at in range(self.floor, len(self.inos)):
            if self.inos[at] == ino and at not in self.done:
                return at
        return None

    def move(self, position: int, slack: int) -> None:
        self.position = max(self.position, position)
        self.floor = max(self.floor, self.position - slack)

    def accessed(self, ino: int, slack: int) -> bool:
        at = self.next_use(ino)
        if at is not None and at < self.position + slack:
            self.done.add(at)
            self.recent.append(ino)
            self.votes = max(0, self.votes - 1)
            if at >= self.position:
                self.move(at + 1, slack)
            return True
        if at is not None and ino not in self.recent[-64:]:
            if abs(at - self.elsewhere) < slack:
                self.elsewhere, self.votes = max(self.elsewhere, at), self.votes + 1
            elif self.votes:
                self.votes -= 1
            else:
                self.elsewhere, self.votes = at, 1
            if self.votes >= JUMP:
                self.votes = 0
                self.move(self.elsewhere + 1, slack)
        return False


INOS = st.integers(1, 40) | st.integers(4090, 4100) | st.just((1 << 63) - 1)
STEPS = st.lists(
    st.tuples(st.just("append"), st.lists(INOS, max_size=80))
    | st.tuples(st.just("read"), st.lists(INOS, max_size=80))
    | st.tuples(st.just("follow"), st.integers(1, 80)),
    max_size=12,
)


def same(plan: Shifted, listed: Listed) -> None:
    assert (plan.entries, plan.position) == (len(listed.inos), listed.position)
    for ino in {*listed.inos, 99}:
        assert plan.next_use(ino) == listed.next_use(ino)
    rest = list(enumerate(listed.inos))[listed.position :]
    assert plan.upcoming(0, 1000) == rest[:1000]


@settings(max_examples=100, deadline=None)
@given(steps=STEPS, start=st.sampled_from([0, PIECE - 3, (1 << 32) - 50]))
def test_it_is_what_a_list_says(steps: list[tuple[str, list[int] | int]], start: int) -> None:
    plan, listed = Plan(), Listed()
    begin_at(plan, start)
    for kind, what in steps:
        if kind == "append":
            assert isinstance(what, list)
            plan.append(what)
            listed.inos += what
        else:
            reads = what if isinstance(what, list) else listed.inos[listed.position :][:what]
            for ino in reads:
                assert plan.accessed(ino) == listed.accessed(ino, plan.slack)
        same(Shifted(plan, start), listed)


def begin_at(plan: Plan, start: int) -> None:
    """As after *start* entries that were read long ago."""
    plan._base, plan.entries = start & -PIECE, start
    plan._swept = plan._floor = plan.position = plan._elsewhere = start
    if start > plan._base:
        plan._inos[start // PIECE] = array("Q", bytes(8 * PIECE))
        plan._links[start // PIECE] = array("I", bytes(4 * PIECE))


class Shifted:
    """A plan whose positions are shown from *start* on."""

    def __init__(self, plan: Plan, start: int) -> None:
        self._plan = plan
        self._start = start
        self.entries, self.position = plan.entries - start, plan.position - start

    def next_use(self, ino: int) -> int | None:
        at = self._plan.next_use(ino)
        return None if at is None else at - self._start

    def upcoming(self, start: int, most: int) -> list[tuple[int, int]]:
        found = self._plan.upcoming(start + self._start, most)
        return [(at - self._start, ino) for at, ino in found]


def order(files: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(1, files + 1), files)


def read(plan: Plan, inos: Sequence[int]) -> None:
    for ino in inos:
        plan.accessed(ino)


def test_epochs_follow_each_other() -> None:
    plan = Plan()
    first, second = order(1000, 1), order(1000, 2)
    plan.append(first)
    plan.append(second)
    assert plan.next_use(first[10]) == 10
    read(plan, first)
    assert (plan.position, plan.hits, plan.trust) == (1000, 1000, 1.0)
    assert plan.next_use(second[7]) == 1007
    plan.append(first)
    read(plan, second)
    assert plan.upcoming(0, 2) == [(2000, first[0]), (2001, first[1])]
    read(plan, first)
    assert plan.next_use(first[0]) is None
    assert not plan.in_charge


def test_workers_read_out_of_order() -> None:
    plan, rng = Plan(), random.Random(1)
    inos = order(50_000, 1)
    plan.append(inos)
    late = sorted((n + rng.randrange(SLACK // 2), ino) for n, ino in enumerate(inos))
    mixed = [ino for _, ino in late]
    read(plan, mixed[:40_000])
    assert plan.trust == 1.0
    assert plan.hits == 40_000


def test_what_is_passed_over_for_long_is_not_expected_any_more() -> None:
    plan = Plan()
    inos = order(10 * SLACK, 1)
    plan.append(inos)
    assert plan.slack == SLACK
    read(plan, inos[1:SLACK])
    assert plan.next_use(inos[0]) == 0
    read(plan, inos[SLACK : SLACK + 2])
    assert plan.next_use(inos[0]) is None


def test_a_wrong_order_is_not_believed() -> None:
    for files in (400, 5000, 100_000):
        plan = Plan()
        plan.append(order(files, 1) + order(files, 3))
        wrong = order(files, 2)
        read(plan, wrong[:300])
        assert plan.trust < BELIEVED, files
        assert not plan.in_charge


def test_one_that_nobody_follows_is_not_believed_until_somebody_does() -> None:
    plan = Plan()
    inos = order(10_000, 1)
    plan.append(inos)
    read(plan, range(20_000, 20_000 + WATCHED // 2))
    assert plan.believed
    read(plan, [30_000])
    assert not plan.in_charge
    read(plan, inos[: WATCHED // 2 + 1])
    assert plan.in_charge


def test_who_begins_in_the_middle_is_followed_there() -> None:
    plan = Plan()
    inos = order(200_000, 1)
    plan.append(inos)
    read(plan, inos[150_000 : 150_000 + JUMP])
    assert plan.position == 150_000 + JUMP
    assert plan.believed
    read(plan, inos[150_000 + JUMP : 151_000])
    assert plan.next_use(inos[100]) is None
    assert plan.trust > 0.8


def test_a_stray_read_far_ahead_moves_nothing() -> None:
    plan = Plan()
    inos = order(100_000, 1)
    plan.append(inos)
    for n in range(0, 3000, 3):
        read(plan, inos[n : n + 3])
        plan.accessed(inos[50_000 + 31 * n % 40_000])
    assert plan.position == 3000
    assert plan.believed


def test_a_file_that_is_opened_twice_counts_once() -> None:
    plan = Plan()
    inos = order(10_000, 1)
    plan.append(inos + order(10_000, 2))
    for ino in inos[:1000]:
        read(plan, [ino, ino])
    assert (plan.trust, plan.position) == (1.0, 1000)


def test_a_small_order_has_a_small_window() -> None:
    plan = Plan()
    plan.append(order(400, 1))
    assert plan.slack == 50
    plan.clear()
    assert (plan.entries, plan.slack, plan.next_use(1)) == (0, LEAST_SLACK, None)


def test_what_was_read_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ENTRIES", 10 * PIECE)
    plan = Plan()
    for seed in range(6):
        inos = order(2 * PIECE, seed)
        plan.append(inos)
        read(plan, inos)
        assert len(plan._inos) <= 3
    assert plan.room > 6 * PIECE


def test_an_entry_takes_16_bytes() -> None:
    inos = range(1, 4 * PIECE + 1)
    tracemalloc.start()
    plan = Plan()
    plan.append(inos)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(inos) < 18
