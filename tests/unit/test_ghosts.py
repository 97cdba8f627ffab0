"""Which rule is found to be best for which reads, and that ghosts stay small."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator

import pytest

from tierfs.readahead import ghosts as ghosts_module
from tierfs.readahead.ghosts import SAMPLED, Ghosts
from tierfs.readahead.jobs import Jobs
from tierfs.readahead.rules import LEARNT, Rule, worths

OBJECTS = 20_000
DATA = range(16, 16 + OBJECTS)


def watched(reads: Iterable[int], cached: int, seed: int) -> Ghosts:
    """Ghosts that have seen *reads*, beside a cache of so many objects."""
    jobs = Jobs()
    ghosts = Ghosts({rule: worths(jobs, rule) for rule in LEARNT}, random.Random(seed))
    for ino in reads:
        jobs.read(ino)
        if ghosts.watches(ino):
            ghosts.read(ino, cached, jobs.known)
            assert all(
                len(ghost.held) <= max(cached // SAMPLED, 1) for ghost in ghosts._ghosts.values()
            )
    return ghosts


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_epochs_are_best_for_permutations(seed: int) -> None:
    rng = random.Random(seed)
    reads = itertools.chain.from_iterable(rng.sample(DATA, OBJECTS) for _ in range(6))
    ghosts = watched(reads, OBJECTS // 2, seed)
    assert ghosts.best is Rule.EPOCHS
    assert ghosts.misses[Rule.EPOCHS] < 0.56
    assert ghosts.misses[Rule.LRU] > 0.8


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_frequency_is_best_for_weighted_draws(seed: int) -> None:
    rng = random.Random(seed)
    weights = list(itertools.accumulate(1 / rank**0.8 for rank in range(1, OBJECTS + 1)))
    inos = rng.sample(DATA, OBJECTS)
    ghosts = watched(rng.choices(inos, cum_weights=weights, k=150_000), OBJECTS // 5, seed)
    assert ghosts.best is Rule.FREQUENCY
    assert ghosts.misses[Rule.FREQUENCY] < ghosts.misses[Rule.LRU] - 0.02


def test_lru_is_best_for_one_data_set_after_the_other() -> None:
    rng = random.Random(1)

    def reads() -> Iterator[int]:
        for begin in range(16, 60_016, 1000):
            for _ in range(2):
                yield from rng.sample(range(begin, begin + 3000), 3000)

    ghosts = watched(reads(), 4000, 1)
    assert ghosts.best is Rule.LRU


def test_a_few_reads_decide_nothing_and_a_rule_alone_is_not_compared() -> None:
    jobs = Jobs()
    ghosts = Ghosts({rule: worths(jobs, rule) for rule in LEARNT}, random.Random(1))
    sample = [ino for ino in DATA if ghosts.watches(ino)]
    assert abs(len(sample) - OBJECTS / SAMPLED) < 100
    for ino in sample[:100]:
        jobs.read(ino)
        ghosts.read(ino, 1000, jobs.known)
    assert ghosts.best is Rule.EPOCHS
    alone = Ghosts({Rule.LRU: worths(jobs, Rule.LRU)}, random.Random(1))
    assert not any(map(alone.watches, DATA))
    assert alone.best is Rule.LRU


def test_a_cache_that_shrinks_takes_its_ghosts_along_and_a_large_one_has_small_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ghosts_module, "MOST_HELD", 500)
    jobs = Jobs()
    ghosts = Ghosts({rule: worths(jobs, rule) for rule in LEARNT}, random.Random(1))
    for cached, held in ((10_000_000, 500), (3200, 100)):
        for ino in DATA:
            jobs.read(ino)
            if ghosts.watches(ino):
                ghosts.read(ino, cached, jobs.known)
        assert all(len(ghost.held) == held for ghost in ghosts._ghosts.values())
