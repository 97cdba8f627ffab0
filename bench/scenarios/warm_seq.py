"""warm-seq: one large file, read again from the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import metrics, processes
from bench.lab import MIB, Lab, bytes_read
from bench.loadgen import File
from bench.results import Metric
from bench.scenarios.base import Measure, Scenario
from bench.subjects.base import Subject

#: A quick run has more rounds of less: disks that others use as well are fast and slow by turns.
SIZE = {True: 512 << 20, False: 1 << 30}


class WarmSeq(Scenario):
    """How fast is a large file read sequentially, in reads of 1 MiB, once it is cached?

    The page cache is dropped before each pass, so that the bytes come from the disk cache.
    """

    name = "warm-seq"
    expected_s = 20.0

    def rounds(self, quick: bool) -> int:
        return 7 if quick else 21

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {"file_bytes": SIZE[quick], "read_bytes": MIB}

    def prepare(self, lab: Lab) -> None:
        self._data = lab.dataset("large", (File("large.bin", SIZE[lab.quick]),))

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        seed, files = self._data.seed, self._data.files
        with lab.mounted(subject, self._data, cache_bytes=4 * self._data.bytes) as mounted:
            lab.loadgen.sequential(mounted.directory, seed, files)

            def measure(n: int) -> dict[Metric, float]:
                processes.drop_caches()
                with lab.cost(mounted) as cost:
                    answer = lab.loadgen.sequential(mounted.directory, seed, files)
                figures = bytes_read(answer, cost)
                if cost.counted:
                    figures[metrics.disk()] = mounted.disk_bytes() / 1e6
                return figures

            yield measure
