"""warm-rand4k: small random reads of a cached file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import metrics
from bench.lab import Lab
from bench.loadgen import File
from bench.results import Better, Metric
from bench.scenarios.base import Measure, Scenario
from bench.subjects.base import Subject

SIZE = 256 << 20
FILE = File("random.bin", SIZE)
READERS = (1, 4)
#: Of each pass.
SECONDS = 1.0


class WarmRand4k(Scenario):
    """How long does a random read of 4 KiB take when the cache's pages are resident, alone and
    with four readers?

    The file is read once before each pass, so that no disk is in the way.
    """

    name = "warm-rand4k"
    expected_s = 20.0

    def rounds(self, quick: bool) -> int:
        return 5 if quick else 21

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {"file_bytes": SIZE, "readers": READERS, "seconds": SECONDS}

    def prepare(self, lab: Lab) -> None:
        self._data = lab.dataset("random", (FILE,))

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        data = self._data
        with lab.mounted(subject, data, cache_bytes=4 * SIZE) as mounted:
            lab.loadgen.sequential(mounted.directory, data.seed, [FILE])

            def measure(n: int) -> dict[Metric, float]:
                figures: dict[Metric, float] = {}
                for readers in READERS:
                    variant = metrics.readers(readers)
                    with lab.cost(mounted) as cost:
                        answer = lab.loadgen.rand4k(
                            mounted.directory, data.seed, FILE, readers, SECONDS
                        )
                    waited = answer["latency_us"]
                    figures[metrics.latency_us("p50", variant, headline=True)] = waited["p50"]
                    figures[metrics.latency_us("p99", variant)] = waited["p99"]
                    figures[Metric("reads", "reads/s", Better.HIGHER, variant)] = answer["iops"]
                    figures |= cost.figures(variant)
                return figures

            yield measure
