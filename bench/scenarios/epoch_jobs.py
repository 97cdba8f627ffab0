"""epoch-jobs: two training jobs over one data set."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

from bench import orders
from bench.scenarios.epochs import Epochs, Samples

#: What each reads in a round: what they find of each other's differs as widely from one of these
#: epochs to the next as between policies.
EPOCHS = (5, 3)


class EpochJobs(Epochs):
    """What do epochs cost two jobs that read the same data set, each in orders of its own, one at
    0.6 of the other's speed?

    As `epoch` with half of the data set, with 10 and 6 readers, each job a process of its own that
    goes on from round to round. A round is five epochs of the faster one and three of the other.
    The bound is that of one job; who tells the jobs apart can do with less.
    """

    name = "epoch-jobs"
    expected_s = 300.0
    patience_s = 90.0
    jobs = (10, 6)
    limit_s: ClassVar[dict[bool, float]] = {True: 60.0, False: 60.0}

    def _orders(self, number: int, seed: int) -> Sequence[Samples]:
        each = []
        # No run's seed is negative.
        for own_seed, epochs in zip((seed, -1 - seed), EPOCHS, strict=True):
            numbers = range(number * epochs, (number + 1) * epochs)
            parts = (orders.epoch(self._data.files, own_seed, n) for n in numbers)
            each.append(list(itertools.chain.from_iterable(parts)))
        return each

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {"epochs": EPOCHS, **super().sizes(quick)}
