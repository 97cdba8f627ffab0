"""What the demonstration computes beside what it shows."""

from __future__ import annotations

import math

import pytest

from bench.demo.half import Lru
from bench.demo.reader import shuffled


def test_lru_keeps_what_was_read_last() -> None:
    cache = Lru(30)
    for name in "abcab":
        cache.read(name, 10)
    assert cache.fetched_bytes == 30
    cache.read("d", 10)  # Instead of c.
    assert cache.fetched_bytes == 40
    for name in "abd":
        cache.read(name, 10)
    assert cache.fetched_bytes == 40
    cache.read("c", 25)
    cache.read("d", 10)
    assert cache.fetched_bytes == 75


def test_lru_over_shuffled_epochs_is_what_the_formula_says() -> None:
    count, share = 4000, 0.5
    cache = Lru(int(count * share))
    names = list(map(str, range(count)))
    for epoch in range(5):
        before = cache.fetched_bytes
        for name in shuffled(names, epoch):
            cache.read(name, 1)
    hits = share + (1 - share) * math.log(1 - share)
    assert (cache.fetched_bytes - before) / count == pytest.approx(1 - hits, abs=0.02)


def test_an_order_follows_from_its_seed_alone() -> None:
    names = list(range(100))
    assert shuffled(names, 1) == shuffled(names, 1) != shuffled(names, 2)
    assert sorted(shuffled(names, 1)) == names
    # The reader shuffles other things of the same number: the same places.
    assert [str(n) for n in shuffled(names, 1)] == shuffled([str(n) for n in names], 1)
