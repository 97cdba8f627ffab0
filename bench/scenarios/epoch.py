"""epoch and its relatives: epochs as samplers deal them, one job at a time, as fast as they can be
read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from bench import orders
from bench.lab import MIB, Lab
from bench.loadgen import File, Range
from bench.results import Run
from bench.scenarios import epochs
from bench.scenarios.epochs import Epochs, Samples
from bench.subjects.base import Subject

RANKS = 8
SHARD_BYTES = 64 * MIB
#: Of a cache that holds everything, in the data set: there is room to spare.
WHOLE = 1.2


class Epoch(Epochs):
    """What does a shuffled epoch cost when the cache holds 0.2, 0.5 or 0.8 of the data set?

    Every round is one epoch: each sample once, in a new random order, by 16 readers of one job.
    The page cache is dropped before each, and the subject and the readers each have a memory
    cgroup, page cache included. A stall is a sample that waited for bytes from the lake, of a
    request of its own or of one under way (`bench.stalls`). The bound is the share of the data set
    that the cache cannot hold: in an order that is not known before, nobody fetches less.
    """

    name = "epoch"
    expected_s = 140.0

    def fractions(self, quick: bool) -> tuple[float, ...]:
        return epochs.FRACTIONS[1:2] if quick else epochs.FRACTIONS

    def _orders(self, number: int, seed: int) -> Sequence[Samples]:
        return [orders.epoch(self._data.files, seed, number)]


class EpochWarm(Epochs):
    """How fast is a shuffled epoch when the cache holds all of it, and is anything fetched?

    As `epoch`.
    """

    name = "epoch-warm"
    expected_s = 60.0

    def rounds(self, quick: bool) -> int:
        return 4 if quick else 7

    def fractions(self, quick: bool) -> tuple[float, ...]:
        return (WHOLE,)

    def leaves_out(self, record: Run, subject: Subject) -> str:
        return ""  # With room for everything nobody need be far off.

    def _orders(self, number: int, seed: int) -> Sequence[Samples]:
        return [orders.epoch(self._data.files, seed, number)]


class EpochRanks(Epochs):
    """What do epochs cost one of 8 ranks, which reads another random eighth in each?

    As `epoch` with half of the data set, but that a round is 8 epochs, of which the rank reads its
    parts; before the first round every sample was read once, and 8 such parts.
    """

    name = "epoch-ranks"
    expected_s = 120.0

    def _orders(self, number: int, seed: int) -> Sequence[Samples]:
        numbers = range(number * RANKS, (number + 1) * RANKS)
        parts = (orders.rank(self._data.files, seed, n, 0, RANKS) for n in numbers)
        return [list(itertools.chain.from_iterable(parts))]

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {"ranks": RANKS, **super().sizes(quick)}


class EpochWeighted(Epochs):
    """What does an epoch of weighted sampling cost: as many draws as there are samples, with
    replacement, by Zipf's law with an exponent of 0.9?

    As `epoch` with half of the data set; before the first round every sample was read once. The
    bound is what was drawn of the samples that are rarest and have no room.
    """

    name = "epoch-weighted"
    expected_s = 90.0
    settling = 2

    def _orders(self, number: int, seed: int) -> Sequence[Samples]:
        return [orders.weighted(self._data.files, seed, number)]

    def _least(self, fraction: float, samples: Samples, seed: int) -> float:
        places = orders.places(self._data.files, seed)
        rare = set(places[int(len(places) * fraction) :])
        return sum(sample in rare for sample in samples) / len(samples)


class EpochShards(Epochs):
    """What does an epoch over shards cost, which four readers read in a new random order of shards,
    each from beginning to end?

    As `epoch` with half of the data set; a shard has 64 MiB and its members the places that tar
    gives them, their headers are not read. All readers keep their shard open and read one member at
    a time.
    """

    name = "epoch-shards"
    expected_s = 80.0
    jobs = (4,)
    ranges = True

    def prepare(self, lab: Lab) -> None:
        count = epochs.DATA_BYTES // SHARD_BYTES
        files = tuple(File(f"shard-{n:04}.tar", SHARD_BYTES) for n in range(count))
        self._data = lab.dataset("epoch-shards", files)
        # Of a member: its header and its content, in records of 512 bytes.
        size = epochs.SAMPLE_BYTES
        members = range(SHARD_BYTES // (512 + size))
        self._shards = [
            [Range(file.path, member * (512 + size) + 512, size) for member in members]
            for file in files
        ]

    def _all(self, number: int, seed: int) -> Samples:
        return self._order(number, seed)

    def _orders(self, number: int, seed: int) -> Sequence[Samples]:
        return [self._order(number, seed)]

    def _order(self, number: int, seed: int) -> Samples:
        return orders.streams(self._shards, self.jobs[0], seed, number)

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {"shard_bytes": SHARD_BYTES, **super().sizes(quick)}
