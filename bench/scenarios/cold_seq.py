"""cold-seq: large files, read for the first time."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import data, metrics, processes
from bench.connections import CONNECTIONS, fastest
from bench.lab import Lab, bytes_read
from bench.loadgen import File
from bench.results import Metric
from bench.scenarios.base import Measure, Scenario
from bench.subjects.base import Subject
from bench.subjects.client import Client
from bench.subjects.local import Local

FILES = 4
#: Bytes of each file of several, which together are as many as of one alone in a full run.
EACH = 256 << 20
LOCAL_PASSES = 3


class ColdSeq(Scenario):
    """How fast is a large file read sequentially for the first time, one alone and four at once?

    Each pass has a fresh mount and an empty cache. The bare client takes the number of connections
    that was fastest for it with one file.
    """

    name = "cold-seq"
    expected_s = 30.0
    patience_s = 60.0

    def rounds(self, quick: bool) -> int:
        return 3 if quick else 11

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {"bytes": self._alone(quick), f"bytes each of {FILES}": EACH, "client": CONNECTIONS}

    def _alone(self, quick: bool) -> int:
        return 256 << 20 if quick else 1 << 30

    def prepare(self, lab: Lab) -> None:
        alone = File("alone.bin", self._alone(lab.quick))
        parts = tuple(File(f"part-{n}.bin", EACH) for n in range(FILES))
        self._data = lab.dataset("cold-large", (alone, *parts))
        #: Files of the variant; no file is in both.
        self._variants = {"1 file": (alone,), f"{FILES} files": parts}

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        if isinstance(subject, Client):
            yield self._client(lab)
            return
        if isinstance(subject, Local):
            yield self._local(lab, subject)
            return
        seed = self._data.seed

        def measure(n: int) -> dict[Metric, float]:
            figures: dict[Metric, float] = {}
            for variant, files in self._variants.items():
                processes.drop_caches()
                with (
                    lab.mounted(subject, self._data, cache_bytes=4 * self._data.bytes) as mounted,
                    lab.cost(mounted) as cost,
                ):
                    answer = lab.loadgen.sequential(mounted.directory, seed, files)
                figures |= bytes_read(answer, cost, variant)
            return figures

        yield measure

    def _local(self, lab: Lab, subject: Local) -> Measure:
        """The local disk is done in a moment, and is fast and slow by turns where others use it as
        well: the pass in the middle of some counts."""

        def measure(n: int) -> dict[Metric, float]:
            figures: dict[Metric, float] = {}
            with lab.mounted(subject, self._data) as mounted:
                for variant, files in self._variants.items():
                    rates = []
                    for _ in range(LOCAL_PASSES):
                        processes.drop_caches()
                        answer = lab.loadgen.sequential(mounted.directory, self._data.seed, files)
                        rates.append(float(answer["bytes"] / answer["seconds"] / 1e6))
                    figures[metrics.throughput(variant)] = statistics.median(rates)
            return figures

        return measure

    def _client(self, lab: Lab) -> Measure:
        objects = {
            variant: data.presigned(self._data.bucket, files)
            for variant, files in self._variants.items()
        }

        def seconds(variant: str, connections: int) -> float:
            return float(lab.loadgen.get(self._data.seed, objects[variant], connections)["seconds"])

        best = fastest(lambda connections: seconds(next(iter(objects)), connections))
        return lambda n: {
            metrics.throughput(variant): sum(file.size for file in files)
            / seconds(variant, best)
            / 1e6
            for variant, files in self._variants.items()
        }
