"""cold-small: training samples, read for the first time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import data, metrics, processes
from bench.data import small_files
from bench.lab import Lab, files_read
from bench.loadgen import File
from bench.results import Metric
from bench.scenarios.base import Measure, Scenario
from bench.subjects.base import Subject
from bench.subjects.client import Client

SIZE = 110_000
READERS = (1, 4, 16)
#: A variant that takes longer ends early: its rate is known by then.
LIMIT_S = {True: 3.0, False: 15.0}


class ColdSmall(Scenario):
    """How many small files per second are read for the first time, in random order, by 1, 4 and 16
    readers?

    Each number of readers has a fresh mount and an empty cache, so that what was fetched ahead for
    one is there for no other; nothing is listed before. The bare client has as many connections as
    there are readers.
    """

    name = "cold-small"
    expected_s = 40.0
    patience_s = 60.0

    def rounds(self, quick: bool) -> int:
        return 3 if quick else 11

    def sizes(self, quick: bool) -> dict[str, Any]:
        files = {f"{readers} readers": self._count(readers, quick) for readers in READERS}
        return {"file_bytes": SIZE, "files": files}

    def _count(self, readers: int, quick: bool) -> int:
        # About the same time for each number of readers.
        return readers * (45 if quick else 150)

    def prepare(self, lab: Lab) -> None:
        counts = {readers: self._count(readers, lab.quick) for readers in READERS}
        self._data = lab.dataset("cold-small", small_files(sum(counts.values()), SIZE))
        files = list(self._data.files)
        random.Random(lab.seed).shuffle(files)
        #: Files of each variant; no file is in two.
        self._variants: dict[int, list[File]] = {}
        for readers, count in counts.items():
            self._variants[readers], files = files[:count], files[count:]

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        if isinstance(subject, Client):
            yield self._client(lab)
            return
        dataset = self._data

        def measure(n: int) -> dict[Metric, float]:
            figures: dict[Metric, float] = {}
            for readers, files in self._variants.items():
                processes.drop_caches()
                with (
                    lab.mounted(subject, dataset, cache_bytes=4 * dataset.bytes) as mounted,
                    lab.cost(mounted) as cost,
                ):
                    answer = lab.loadgen.small(
                        mounted.directory,
                        dataset.seed,
                        files,
                        readers,
                        limit_s=LIMIT_S[lab.quick],
                    )
                figures |= files_read(answer, cost, metrics.readers(readers))
            return figures

        yield measure

    def _client(self, lab: Lab) -> Measure:
        objects = {
            readers: data.presigned(self._data.bucket, files)
            for readers, files in self._variants.items()
        }

        def measure(n: int) -> dict[Metric, float]:
            figures: dict[Metric, float] = {}
            for readers, wanted in objects.items():
                answer = lab.loadgen.get(self._data.seed, wanted, readers)
                rate = answer["objects"] / answer["seconds"]
                figures[metrics.files_per_s(metrics.readers(readers))] = rate
            return figures

        return measure
