"""epoch-jobs: two training jobs over one data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench import orders
from bench.scenarios.epochs import Epochs, Samples

#: The other job's speed, of the first one's.
SPEED = 0.6


class EpochJobs(Epochs):
    """What do epochs cost two jobs that read the same data set, each in orders of its own, one at
    0.6 of the other's speed?

    As `epoch`, with 10 and 6 readers, each job a process of its own that goes on from round to
    round. A round is an epoch of the faster one and what the slower one reads meanwhile. The bound
    is that of one job; who tells the jobs apart can do with less.
    """

    name = "epoch-jobs"
    expected_s = 200.0
    jobs = (10, 6)
    settling = 2
    # What the slower one reads goes on where it stopped.
    repeats = 1

    def _orders(self, number: int, seed: int) -> Sequence[Samples]:
        files = self._data.files
        slower = orders.slower(files, seed, number + self.settling, SPEED)
        return [orders.epoch(files, seed, number), slower]

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {"speeds": (1, SPEED), **super().sizes(quick)}
