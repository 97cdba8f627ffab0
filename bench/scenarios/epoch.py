"""epoch: training reads every sample once each epoch, in a new order, with a cache that is too
small."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench import data, metrics, processes
from bench.data import small_files
from bench.lab import MIB, Lab
from bench.results import Better, Metric
from bench.scenarios.base import Measure, Scenario
from bench.subjects.base import Mounted, Subject
from bench.subjects.client import Client

SAMPLE_BYTES = 256 << 10
READERS = 16
#: Of the data set, in the cache; a quick run has the middle one only.
FRACTIONS = (0.2, 0.5, 0.8)
#: A sample that took longer waited for the lake: the standard link's first byte takes 20 ms, a read
#: from the cache disk well under one.
STALL_MS = 5.0


class Limits(NamedTuple):
    """What nobody may exceed, so that no hidden cache flatters anyone."""

    samples: int
    memory_bytes: int
    cgroup_bytes: int


class Epoch(Scenario):
    """What does a shuffled epoch cost when the cache holds 0.2, 0.5 or 0.8 of the data set?

    Every round is one epoch: each sample once, in a new random order, by 16 readers of one rank.
    The subject's processes and the readers each have a memory cgroup, page cache included; the page
    cache is dropped before each epoch. A stall is a sample that took over 5 ms from open to its
    last byte, by the reader's clock: it waited for the lake, for a fill in flight too.
    """

    name = "epoch"
    expected_s = 120.0

    def rounds(self, quick: bool) -> int:
        return 4 if quick else 7

    def sizes(self, quick: bool) -> dict[str, Any]:
        limits = self._limits(quick)
        return {
            "samples": limits.samples,
            "sample_bytes": SAMPLE_BYTES,
            "readers": READERS,
            "cache": _fractions(quick),
            "memory_budget_bytes": limits.memory_bytes,
            "cgroup_bytes": limits.cgroup_bytes,
            "stall_ms": STALL_MS,
        }

    def _limits(self, quick: bool) -> Limits:
        if quick:
            return Limits((1 << 30) // SAMPLE_BYTES, 64 * MIB, 128 * MIB)
        return Limits((8 << 30) // SAMPLE_BYTES, 256 * MIB, 512 * MIB)

    def prepare(self, lab: Lab) -> None:
        count = self._limits(lab.quick).samples
        self._data = lab.dataset("epoch", small_files(count, SAMPLE_BYTES))

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        limits = self._limits(lab.quick)
        if isinstance(subject, Client):
            yield self._client(lab)
            return
        with contextlib.ExitStack() as stack:
            mounts: dict[str, tuple[Mounted, Path]] = {}
            for fraction in _fractions(lab.quick):
                groups = [
                    stack.enter_context(
                        processes.memory_cgroup(
                            f"tierfs-bench-{os.getpid()}-{subject.name}-{fraction}-{who}",
                            limits.cgroup_bytes,
                        )
                    )
                    for who in ("daemon", "readers")
                ]
                mounted = stack.enter_context(
                    lab.mounted(
                        subject,
                        self._data,
                        cache_bytes=int(self._data.bytes * fraction),
                        memory_bytes=limits.memory_bytes,
                        cgroup=groups[0],
                    )
                )
                mounts[f"cache {fraction}"] = mounted, groups[1]
            # The first epoch fills the cache; it is not counted.
            for mounted, readers in mounts.values():
                self._read(lab, mounted, -1, readers)

            def measure(n: int) -> dict[Metric, float]:
                figures: dict[Metric, float] = {}
                for variant, (mounted, readers) in mounts.items():
                    figures |= self._epoch(lab, mounted, readers, n, variant)
                return figures

            yield measure

    def _read(self, lab: Lab, mounted: Mounted, n: int, readers: Path) -> dict[str, Any]:
        files = list(self._data.files)
        random.Random(f"{lab.seed} {n}").shuffle(files)
        return lab.loadgen.small(
            mounted.directory, self._data.seed, files, READERS, stall_ms=STALL_MS, cgroup=readers
        )

    def _epoch(
        self, lab: Lab, mounted: Mounted, readers: Path, n: int, variant: str
    ) -> dict[Metric, float]:
        processes.drop_caches()
        with lab.cost(mounted) as cost:
            answer = self._read(lab, mounted, n, readers)
        share = Metric("stalls", "% of samples", Better.LOWER, variant)
        figures = {
            metrics.samples_per_s(variant): answer["files"] / answer["seconds"],
            share: 100 * answer["stalls"] / answer["files"],
            metrics.latency_us("p99", variant): answer["latency_us"]["p99"],
        }
        if cost.counted:
            again = Metric("fetched again", "% of the data", Better.LOWER, variant)
            figures[again] = 100 * cost.lake_bytes / self._data.bytes
            figures[metrics.cpu_us_per("sample", variant)] = cost.cpu_s / answer["files"] * 1e6
            figures[metrics.disk(variant)] = mounted.disk_bytes() / 1e6
        return figures | cost.figures(variant)

    def _client(self, lab: Lab) -> Measure:
        objects = data.presigned(self._data.bucket, self._data.files)

        def measure(n: int) -> dict[Metric, float]:
            random.Random(f"{lab.seed} {n}").shuffle(objects)
            answer = lab.loadgen.get(self._data.seed, objects, READERS)
            return {metrics.samples_per_s("no cache"): answer["objects"] / answer["seconds"]}

        return measure


def _fractions(quick: bool) -> tuple[float, ...]:
    return FRACTIONS[1:2] if quick else FRACTIONS
