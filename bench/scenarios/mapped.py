"""warm-mmap and cold-mmap: model weights, loaded through a mapping."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import processes
from bench.lab import Lab, bytes_read
from bench.loadgen import File
from bench.results import Metric
from bench.scenarios.base import Measure, Scenario
from bench.subjects.base import Mounted, Subject


class _Mapped(Scenario):
    """What both have: one safetensors file, its tensors in random order."""

    expected_s = 30.0

    def rounds(self, quick: bool) -> int:
        return 5 if quick else 21

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {"file_bytes": self._size(quick)}

    def _size(self, quick: bool) -> int:
        return 512 << 20 if quick else 1 << 30

    def prepare(self, lab: Lab) -> None:
        self._file = File("model.safetensors", self._size(lab.quick))
        self._data = lab.dataset("weights", (self._file,))

    def _load(self, lab: Lab, mounted: Mounted, order: int) -> dict[Metric, float]:
        processes.drop_caches()
        with lab.cost(mounted) as cost:
            answer = lab.loadgen.mmap(mounted.directory, self._data.seed, self._file, order)
        return bytes_read(answer, cost)


class WarmMmap(_Mapped):
    """How fast are the tensors of a cached safetensors file read through a mapping, in random
    order?

    The page cache is dropped before each pass.
    """

    name = "warm-mmap"

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        size = self._data.bytes
        with lab.mounted(subject, self._data, cache_bytes=4 * size) as mounted:
            lab.loadgen.sequential(mounted.directory, self._data.seed, [self._file])
            yield lambda n: self._load(lab, mounted, n)


class ColdMmap(_Mapped):
    """How fast are the tensors of a safetensors file read through a mapping for the first time, in
    random order?

    Each pass has a fresh mount and an empty cache.
    """

    name = "cold-mmap"

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        def measure(n: int) -> dict[Metric, float]:
            with lab.mounted(subject, self._data, cache_bytes=4 * self._data.bytes) as mounted:
                return self._load(lab, mounted, n)

        yield measure
