"""Epochs: where one begins, what says nothing about it, and what is known of each object then."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable

import pytest

from tierfs.readahead.epochs import PAGE, Class, Epochs

FIRST = 16
SEEDS = range(5)


def shuffled(rng: random.Random, inos: Iterable[int]) -> list[int]:
    order = list(inos)
    rng.shuffle(order)
    return order


def began_at(epochs: Epochs, order: Iterable[int]) -> list[int]:
    """Read *order*; the places in it, from 1, at which an epoch began."""
    return [n for n, ino in enumerate(order, 1) if epochs.read(ino)]


@pytest.mark.parametrize("files", [500, 5000])
def test_each_epoch_is_found_at_its_beginning_and_none_inside_it(files: int) -> None:
    places = []
    for seed in SEEDS:
        rng = random.Random(seed)
        epochs = Epochs()
        data = range(FIRST, FIRST + files)
        began_at(epochs, shuffled(rng, data))
        for _ in range(8):
            found = began_at(epochs, shuffled(rng, data))
            assert len(found) == 1
            places += found
    # A quarter of the first reads of an epoch is of what was read not long ago, and says nothing.
    assert 9 <= statistics.median(places) <= 18
    assert max(places) <= 40


def test_the_first_epoch_is_one() -> None:
    for seed in SEEDS:
        epochs = Epochs()
        assert began_at(epochs, shuffled(random.Random(seed), range(FIRST, FIRST + 3000))) == []
        assert epochs.density(9000) > 0


@pytest.mark.parametrize("part", [0.5, 0.75, 0.9])
def test_an_epoch_that_reads_a_part_is_found_all_the_same(part: float) -> None:
    for seed in SEEDS:
        rng = random.Random(seed)
        epochs = Epochs()
        data = range(FIRST, FIRST + 4000)
        began = [began_at(epochs, shuffled(rng, data)[: int(part * 4000)]) for _ in range(12)]
        assert all(len(found) == 1 and found[0] < 120 for found in began[1:])
        assert abs(epochs.due_share - part) < 0.05


def test_a_smaller_number_of_objects_is_no_epoch() -> None:
    epochs = Epochs()
    for _ in range(100):
        assert began_at(epochs, range(FIRST, FIRST + 20)) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_files_that_are_opened_twice_say_nothing(seed: int) -> None:
    rng = random.Random(seed)
    epochs = Epochs()
    data = range(FIRST, FIRST + 1000)
    for n in range(6):
        order = [ino for ino in shuffled(rng, data) for _ in range(2)]
        assert len(began_at(epochs, order)) == 1 or n == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hot_file_beside_the_data_says_nothing(seed: int) -> None:
    rng = random.Random(seed)
    epochs = Epochs()
    data, hot = range(FIRST, FIRST + 1000), 70_000
    for n in range(6):
        order = []
        for place, ino in enumerate(shuffled(rng, data)):
            order += [ino, hot] if place % 10 == 0 else [ino]
        assert len(began_at(epochs, order)) == 1 or n == 0
        assert epochs.density(hot) >= max(epochs.density(ino) for ino in data)


def test_what_an_object_is_follows_the_epochs() -> None:
    rng = random.Random(2)
    epochs = Epochs()
    data = list(range(FIRST, FIRST + 1000))
    for _ in range(2):
        for ino in shuffled(rng, data):
            epochs.read(ino)
    assert epochs.class_of(5) is epochs.class_of(1 << 40) is Class.NEVER
    for ino in shuffled(rng, data[:900]):
        epochs.read(ino)
    for ino in shuffled(rng, data[:900])[:450]:
        epochs.read(ino)
    # Until a new epoch is found, its first reads are of the last one.
    assert [epochs.class_of(ino) for ino in data[900:]].count(Class.STALE) == 100
    classes = [epochs.class_of(ino) for ino in data[:900]]
    assert abs(classes.count(Class.DUE) - 450) < 40
    assert abs(classes.count(Class.READ) - 450) < 40
    assert abs(epochs.progress - 0.5) < 0.05
    due = next(ino for ino in data if epochs.class_of(ino) is Class.DUE)
    read = next(ino for ino in data if epochs.class_of(ino) is Class.READ)
    assert epochs.density(due) > epochs.density(read) > epochs.density(data[950])
    assert epochs.density(data[950]) > epochs.density(5)


def test_epochs_have_names_for_ever() -> None:
    rng = random.Random(3)
    epochs = Epochs()
    data = list(range(FIRST, FIRST + 400))
    once = 90_000
    for _ in range(3):
        for ino in shuffled(rng, data):
            epochs.read(ino)
    epochs.read(once)
    for n in range(600):
        order = shuffled(rng, data)
        before = epochs.ended
        assert len(began_at(epochs, order[:200])) == 1, n
        assert epochs.ended == before + 1
        classes = [epochs.class_of(ino) for ino in data]
        assert abs(classes.count(Class.READ) - 200) < 40
        assert abs(classes.count(Class.DUE) - 200) < 40
        for ino in order[200:]:
            epochs.read(ino)
        assert n < 2 or epochs.class_of(once) is Class.STALE
    assert epochs.class_of(95_000) is Class.NEVER


def test_another_data_set_begins_an_epoch_soon() -> None:
    rng = random.Random(4)
    epochs = Epochs()
    old, new = range(FIRST, FIRST + 2000), range(10_000, 12_000)
    for _ in range(3):
        for ino in shuffled(rng, old):
            epochs.read(ino)
    found = began_at(epochs, shuffled(rng, new))
    assert len(found) == 1
    assert found[0] < 200
    assert [epochs.class_of(ino) for ino in old].count(Class.DUE) > 1950
    assert len(began_at(epochs, shuffled(rng, new))) == 1
    assert {epochs.class_of(ino) for ino in old} == {Class.STALE}


def test_memory_is_a_page_for_each_so_many_numbers_that_were_read() -> None:
    epochs = Epochs()
    for ino in range(PAGE, 11 * PAGE):
        epochs.read(ino)
    epochs.read(1 << 60)
    assert len(epochs._pages) == 11
    for ino in range(1 << 50, (1 << 50) + 20 * PAGE, 7):
        assert epochs.density(ino) >= 0
        assert not epochs.was_read(ino)
        assert epochs.count(ino) == 0
        epochs.age(ino)
    assert len(epochs._pages) == 11
    page = next(iter(epochs._pages.values()))
    assert len(page.stamps) + len(page.hot) + len(page.counts) == 3 * PAGE
    assert page.clocks.itemsize * len(page.clocks) == 4 * PAGE


def test_the_age_is_in_reads_and_what_was_never_read_is_oldest() -> None:
    epochs = Epochs()
    for ino in range(FIRST, FIRST + 100):
        epochs.read(ino)
    assert (epochs.age(FIRST), epochs.age(FIRST + 99)) == (99, 0)
    assert epochs.age(5) > 1 << 30


def test_counts_forget_in_time() -> None:
    epochs = Epochs()
    for n in range(60_000):
        epochs.read(FIRST + n % 2)
    assert epochs.count(FIRST) <= 255
    for n in range(60_000):
        epochs.read(FIRST + 2 + n % 2)
    assert epochs.count(FIRST) < 10 < epochs.count(FIRST + 2)
