"""warm-small: training samples, read again from the cache."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import metrics, processes
from bench.data import small_files
from bench.lab import Lab, files_read
from bench.results import Metric
from bench.scenarios.base import Measure, Scenario
from bench.subjects.base import Subject

COUNT, SIZE, READERS, FILLERS = 4000, 110_000, 4, 16
#: A pass that takes longer ends early: its rate is known by then.
LIMIT_S = {True: 3.0, False: 12.0}
#: So long the cache is filled; what is not in it by then is not read afterwards.
FILL_S = {True: 12.0, False: 60.0}


class WarmSmall(Scenario):
    """How many small files per second are read in random order, once they are cached, and what
    does one cost?

    Four readers open, read and close each file. The page cache is dropped before each pass. A
    subject that is slow to fill its cache is asked only for the files that it has in it.
    """

    name = "warm-small"
    expected_s = 25.0

    def rounds(self, quick: bool) -> int:
        return 4 if quick else 21

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {"files": COUNT, "file_bytes": SIZE, "readers": READERS}

    def prepare(self, lab: Lab) -> None:
        self._data = lab.dataset("small", small_files(COUNT, SIZE))

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        data = self._data
        with lab.mounted(subject, data, cache_bytes=4 * data.bytes) as mounted:
            filled = lab.loadgen.small(
                mounted.directory,
                data.seed,
                data.files,
                FILLERS,
                times=True,
                limit_s=FILL_S[lab.quick],
            )
            files = [data.files[line] for line, _, _ in filled["times"]]

            def measure(n: int) -> dict[Metric, float]:
                random.Random(n).shuffle(files)
                processes.drop_caches()
                with lab.cost(mounted) as cost:
                    answer = lab.loadgen.small(
                        mounted.directory, data.seed, files, READERS, limit_s=LIMIT_S[lab.quick]
                    )
                figures = files_read(answer, cost)
                if cost.counted:
                    figures[metrics.disk()] = mounted.disk_bytes() / 1e6
                return figures

            yield measure
