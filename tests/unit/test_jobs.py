"""Jobs: whose reads are whose, and how many of them there are."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

import pytest

from tierfs.readahead import jobs as jobs_module
from tierfs.readahead.jobs import BUSY_READS, MOST_JOBS, MOST_NAMES, Jobs
from tierfs.readahead.processes import ANYBODY, NOBODY

DATA = range(16, 2016)


def epochs_of(data: Sequence[int], seed: int) -> Iterator[int]:
    """One epoch after the other, each shuffled anew, for ever."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(data, len(data))


def read(jobs: Jobs, reads: Iterator[int], times: int, name: int) -> None:
    for ino in itertools.islice(reads, times):
        jobs.read(ino, name)


def test_whose_epochs_a_name_reads_in() -> None:
    jobs = Jobs()
    assert jobs.epochs_of(NOBODY) is None
    # Who comes first takes the place that there is, and keeps it.
    first = jobs.all[0]
    assert jobs.epochs_of(7) is first
    read(jobs, epochs_of(DATA, 1), len(DATA), name=7)
    assert jobs.epochs_of(7) is jobs.epochs_of(ANYBODY) is first
    assert jobs.epochs_of(8) is None
    read(jobs, epochs_of(DATA, 2), len(DATA), name=8)
    assert jobs.epochs_of(8) not in (first, None)


def test_a_look_around_makes_no_job() -> None:
    jobs = Jobs()
    read(jobs, epochs_of(DATA, 1), 3 * len(DATA), name=1)
    for name in range(100, 150):
        read(jobs, iter(DATA), BUSY_READS - 1, name)
    assert len(jobs.all) == 1


def test_a_look_around_ends_no_epoch() -> None:
    jobs = Jobs()
    training = epochs_of(DATA, 1)
    read(jobs, training, 3 * len(DATA) + len(DATA) * 9 // 10, name=1)
    ended = jobs.all[0].ended
    read(jobs, epochs_of(DATA, 2), 100, name=7)
    assert jobs.all[0].ended == ended


def test_two_jobs_have_epochs_of_their_own() -> None:
    jobs = Jobs()
    one, other = epochs_of(DATA, 1), epochs_of(DATA, 2)
    read(jobs, one, len(DATA) * 3 // 10, name=1)
    for _ in range(6 * len(DATA)):
        read(jobs, one, 1, name=1)
        read(jobs, other, 1, name=2)
    assert len(jobs.all) == 2
    for epochs in jobs.all:
        assert epochs.known == len(DATA)
        assert 5 <= epochs.ended <= 8
        assert epochs.due_share > 0.9
    # Either's epoch says something of an object, and both together more.
    unread = [ino for ino in DATA if all(epochs.class_of(ino) == 1 for epochs in jobs.all)]
    twice = [ino for ino in DATA if all(epochs.class_of(ino) == 0 for epochs in jobs.all)]
    assert min(map(jobs.density, unread)) > max(map(jobs.density, twice))


def test_whoever_has_no_name_is_the_first() -> None:
    jobs = Jobs()
    read(jobs, epochs_of(DATA, 1), 3 * len(DATA), name=0)
    assert len(jobs.all) == 1
    read(jobs, epochs_of(DATA, 2), len(DATA), name=5)
    assert len(jobs.all) == 1


def test_one_job_alone_goes_on_under_another_name() -> None:
    alive: set[int] = set()
    jobs = Jobs(lambda name: name in alive)
    training = epochs_of(DATA, 1)
    for name in range(1, 6):
        alive = {name}
        read(jobs, training, 2 * len(DATA), name)
        assert len(jobs.all) == 1
        assert jobs.all[0].known == len(DATA)


def test_one_that_restarts_beside_another_inherits_the_epochs_of_its_last_life() -> None:
    jobs = Jobs()
    one, other = epochs_of(DATA, 1), epochs_of(DATA, 2)
    for name in (2, 3, 4):
        for _ in range(20 * len(DATA)):
            read(jobs, one, 1, name=1)
            read(jobs, other, 1, name)
        read(jobs, one, 20 * len(DATA), name=1)  # Long enough for the other to have stopped.
    assert len(jobs.all) == 2
    assert all(epochs.ended >= 50 for epochs in jobs.all)


def test_jobs_and_names_are_bounded() -> None:
    jobs = Jobs()
    rng = random.Random(1)
    for name in range(1, 20):
        read(jobs, epochs_of(DATA, name), 2 * BUSY_READS, name)
    assert len(jobs.all) == MOST_JOBS
    for name in range(1000, 3000):
        jobs.read(rng.choice(DATA), name)
    for name in range(5000, 5000 + 2 * MOST_NAMES):
        read(jobs, epochs_of(DATA, name), BUSY_READS + 1, name)
    assert len(jobs._waiting) <= MOST_NAMES
    assert max(map(len, jobs._waiting.values())) <= BUSY_READS
    assert len(jobs._by_name) <= MOST_JOBS
    assert len(jobs.all) == MOST_JOBS


def test_two_that_begin_again_take_the_places_of_two_that_ended() -> None:
    alive: set[int] = {1, 2}
    jobs = Jobs(lambda name: name in alive)
    for names in ((1, 2), (3, 4), (5, 6)):
        alive = set(names)
        orders = [epochs_of(DATA, name) for name in names]
        read(jobs, orders[0], len(DATA) // 3, names[0])
        for _ in range(4 * len(DATA)):
            for order, name in zip(orders, names, strict=True):
                read(jobs, order, 1, name)
    assert len(jobs.all) == 2
    assert all(9 <= epochs.ended <= 13 for epochs in jobs.all)


def test_who_begins_again_goes_on_with_the_data_that_it_reads() -> None:
    """After a remount all epochs are free, and the busiest job's are the first."""
    one, other = range(16, 2016), range(8016, 10016)
    jobs = Jobs()
    orders = epochs_of(one, 1), epochs_of(other, 2)
    read(jobs, orders[0], BUSY_READS, name=1)
    for _ in range(4 * len(one)):
        read(jobs, orders[0], 2, name=1)
        read(jobs, orders[1], 1, name=2)
    after = Jobs()
    after.load(jobs.dump())
    read(after, orders[1], 2 * BUSY_READS, name=3)
    read(after, orders[0], 2 * BUSY_READS, name=4)
    assert len(after.all) == 2
    assert sorted(epochs.known for epochs in after.all) == [len(one), len(other)]


def test_together_they_take_no_more_memory_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """They grow; the one that reads least is forgotten."""
    jobs = Jobs()
    for name in (1, 2):
        first = name << 20
        read(jobs, iter(range(first, first + BUSY_READS)), BUSY_READS, name)
    assert len(jobs.all) == 2
    most = sum(epochs.memory_bytes for epochs in jobs.all)
    monkeypatch.setattr(jobs_module, "MOST_BYTES", most)
    read(jobs, iter(range(4 << 20, 5 << 20)), 1 << 16, name=2)
    assert (len(jobs.all), jobs.forgotten) == (1, 1)
    assert jobs.all[0].known == BUSY_READS + (1 << 16)
