"""What the epochs of the benchmark read, and which of their reads count as stalls."""

from __future__ import annotations

import collections
from dataclasses import replace

import pytest

from bench import orders, stalls
from bench.lakesim import Request
from bench.stalls import Read

SAMPLES = list(range(1000))
MS = 1_000_000


def test_an_epoch_is_every_sample_once_in_an_order_of_its_own() -> None:
    first, second = (orders.epoch(SAMPLES, 1, number) for number in (0, 1))
    assert sorted(first) == sorted(second) == SAMPLES
    assert first != second
    assert first == orders.epoch(SAMPLES, 1, 0)
    assert first != orders.epoch(SAMPLES, 2, 0)


def test_eight_ranks_together_read_every_sample_once() -> None:
    parts = [orders.rank(SAMPLES, 1, 3, which, 8) for which in range(8)]
    assert {len(part) for part in parts} == {125}
    assert sorted(sample for part in parts for sample in part) == SAMPLES


def test_a_rank_reads_another_part_each_time() -> None:
    one, two = (set(orders.rank(SAMPLES, 1, number, 0, 8)) for number in (0, 1))
    # An eighth of an eighth is expected to come again: 16 of 125.
    assert 4 < len(one & two) < 35


def test_weighted_draws_follow_the_weights() -> None:
    places = orders.epoch(SAMPLES, 1, -1)
    total = sum(place**-orders.ZIPF for place in range(1, 1001))
    count = collections.Counter[int]()
    epochs = 200
    for number in range(epochs):
        order = orders.weighted(SAMPLES, 1, number)
        assert len(order) == 1000
        count.update(order)
    for place in (1, 10, 100):
        expected = epochs * 1000 * place**-orders.ZIPF / total
        # Five standard deviations of a Poisson count.
        assert count[places[place - 1]] == pytest.approx(expected, abs=5 * expected**0.5)
    once = set(orders.weighted(SAMPLES, 1, 0))
    assert 300 < len(once) < 600


def test_places_are_those_of_the_weights() -> None:
    places = orders.places(SAMPLES, 1)
    assert sorted(places) == SAMPLES
    often = set(places[:100])
    drawn = sum(sample in often for n in range(20) for sample in orders.weighted(SAMPLES, 1, n))
    weights = [place**-orders.ZIPF for place in range(1, 1001)]
    assert drawn / 20_000 == pytest.approx(sum(weights[:100]) / sum(weights), abs=0.02)


def test_shards_are_read_from_beginning_to_end_each_by_one_reader() -> None:
    shards = [[(shard, member) for member in range(10)] for shard in range(8)]
    order = orders.streams(shards, 4, 1, 0)
    assert sorted(order) == [member for shard in shards for member in shard]
    for reader in range(4):
        own = order[reader::4]
        for at in range(0, len(own), 10):
            assert own[at : at + 10] == shards[own[at][0]]
    assert [member for _, member in order[:8]] == [0] * 4 + [1] * 4
    assert order != orders.streams(shards, 4, 1, 1)


def test_readers_of_shards_end_together() -> None:
    shards = [[(shard, member) for member in range(10)] for shard in range(6)]
    assert len(orders.streams(shards, 4, 1, 0)) == 40


def test_records_are_read_in_batches_of_one_file() -> None:
    files = [[(file, record) for record in range(25)] for file in range(4)]
    order = orders.streams(files, 2, 1, 0, run=10)
    batches = [order[at : at + 10] for at in range(0, len(order), 10)]
    # Two files of 25 records each are five batches for either worker.
    assert len(batches) == 10
    for worker in range(2):
        own = [record for batch in batches[worker::2] for record in batch]
        assert own == files[own[0][0]] + files[own[25][0]]


#: 1000 bytes, asked for at 10 ms; the first left the server at 30 ms, the last at 40 ms.
FETCH = Request(
    sequence=0,
    method="GET",
    operation="GetObject",
    bucket="lake",
    key="a",
    query=None,
    range=None,
    arrived_ns=10 * MS,
    status=200,
    fault=None,
    commit=None,
    committed_ns=None,
    bytes_in=0,
    bytes_out=1000,
    first_sent_ns=30 * MS,
    last_sent_ns=40 * MS,
)


def read(begin_ms: float, end_ms: float, start: int = 0, end: int = 1000, key: str = "a") -> Read:
    return Read(key, start, end, int(begin_ms * MS), int(end_ms * MS))


@pytest.mark.parametrize(
    "waiting",
    [
        read(9, 41),
        # Somebody else had asked already.
        read(20, 41),
        read(39, 41),
        # Its bytes are in the second half of what comes between 30 and 40 ms.
        read(34, 41, 500, 600),
        read(39, 41, 999, 3000),
    ],
)
def test_a_read_that_begins_before_its_bytes_are_there_stalls(waiting: Read) -> None:
    assert stalls.stalled([waiting], [FETCH]) == [waiting]


@pytest.mark.parametrize(
    "quick",
    [
        # However slow it is.
        read(41, 900),
        read(9, 41, key="b"),
        read(9, 41, 1000, 2000),
        # It was over when the request came: what it read was there.
        read(1, 9),
        # The beginning of an answer that is still coming.
        read(36, 37, 0, 500),
    ],
)
def test_a_read_of_what_is_there_does_not(quick: Read) -> None:
    assert stalls.stalled([quick], [FETCH]) == []


def test_ranges_and_other_requests_are_told_apart() -> None:
    middle = replace(FETCH, range="bytes=5000-5999")
    one, other = read(9, 41, 5500, 5600), read(9, 41, 0, 100)
    assert stalls.stalled([one, other], [middle]) == [one]
    assert stalls.stalled([one], [replace(FETCH, method="PUT", range="bytes=5000-5999")]) == []
    unanswered = replace(middle, bytes_out=0, first_sent_ns=None, last_sent_ns=None)
    assert stalls.stalled([one], [unanswered]) == []
