"""epoch-paced and epoch-hinted: readers that are not in a hurry, over a link that can just be
enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench import orders
from bench.lab import Lab
from bench.lakesim import STANDARD_LINK, Link
from bench.scenarios import epochs
from bench.scenarios.base import Measure
from bench.scenarios.epochs import Epochs, Node, Samples
from bench.subjects.base import CannotError

#: Samples a second, which leave most of a machine of two processors idle.
RATE = 400.0


class Paced(Epochs):
    """A job that takes its time, with one size of the cache."""

    expected_s = 60.0
    rate: float = RATE
    #: The cache, in the data set.
    fraction: float
    #: What the link carries while an epoch lasts, in the bytes that do not fit.
    link_bytes: float

    def fractions(self, quick: bool) -> tuple[float, ...]:
        return (self.fraction,)

    def sizes(self, quick: bool) -> dict[str, Any]:
        link = self._link(self.fraction).download_total_mb_s
        return {
            "samples/s": self.rate,
            "link MB/s": round(link, 1),
            **super().sizes(quick),
        }

    def _link(self, fraction: float) -> Link:
        read_mb_s = self.rate * epochs.SAMPLE_BYTES / 1e6
        total_mb_s = self.link_bytes * (1 - fraction) * read_mb_s
        return replace(STANDARD_LINK, download_total_mb_s=total_mb_s)

    def _orders(self, number: int, seed: int) -> Sequence[Samples]:
        return [orders.epoch(self._data.files, seed, number)]

    def _client(self, lab: Lab) -> Measure:
        raise CannotError("it reads as fast as it can")


class EpochPaced(Paced):
    """Which reads of a shuffled epoch stall when the cache holds half of the data set, and the link
    carries twice what has to be fetched?

    As `epoch`, but that 16 readers begin 400 samples a second in all, each when its turn comes. The
    link has the standard times to the first byte, and what is fetched ahead shares it with what is
    asked for. No cache can do with fewer stalls than 15.3 % (1 - c + c ln c).
    """

    name = "epoch-paced"
    fraction = 0.5
    link_bytes = 2.0


class EpochHinted(Paced):
    """Which reads of a shuffled epoch stall when its order is told before, the cache holds a fifth
    of the data set, and the link carries 1.2 times what has to be fetched?

    As `epoch-paced`. Its figures say nothing of who is not told: those are in the other scenarios.
    """

    name = "epoch-hinted"
    fraction = 0.2
    link_bytes = 1.2

    def _variant(self, fraction: float) -> str:
        return f"{super()._variant(fraction)}, hinted"

    def _announce(self, node: Node, each: Sequence[Samples]) -> None:
        for samples in each:
            node.mounted.plan([sample.path for sample in samples])
