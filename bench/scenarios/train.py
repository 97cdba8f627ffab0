"""train: how busy accelerators stay whose data comes through the file system.

Record sizes, batches, files and readers are those of MLPerf Storage (github.com/mlcommons/storage,
configs/dlio/workload: unet3d_h100.yaml, resnet50_h100.yaml, retinanet_b200.yaml), whose
accelerators sleep as well: a fixed time for each batch, measured once on a real one. No real one
fits every machine, so here the step time is what keeps the local file system at `LOCAL_AU`.

| | record, bytes | samples a file | files | batch | readers | step there | passes there |
|---|---|---|---|---|---|---|---|
| unet3d | 146,600,628, deviation 68,341,808 | 1 | 168 | 7 | 4 | 323 ms (H100) | 90 % |
| resnet50 | 114,660 | 1251 | 1024 | 400 | 8 | 224 ms (H100) | 90 % |
| retinanet | 322,957 | 1 | 1,170,301 | 24 | 8 | 47.6 ms (B200) | 85 % |

What is scaled down: unet3d's records to a 32nd; resnet50's files to 8 and its batch to 50, so that
an epoch has 200 steps; retinanet's files to 1536.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import metrics, orders, processes
from bench.data import Dataset, small_files
from bench.lab import Lab
from bench.loadgen import File, Range
from bench.results import Better, Metric
from bench.scenarios.base import Measure, Scenario
from bench.subjects.base import Mounted, Subject

#: Share of the time that the accelerator computes over the local file system, by the choice of the
#: step time: above the 90 % that MLPerf Storage asks for, and where any slower reader shows.
LOCAL_AU = 0.95
CALIBRATIONS = 5
#: An epoch that takes longer ends early; its figures are of what was read.
LIMIT_S = 10.0


@dataclass(frozen=True)
class Workload:
    """One model's data, and how it is read."""

    name: str
    files: tuple[File, ...]
    #: Of each sample in its file; None: files are samples.
    record_bytes: int | None
    batch: int
    workers: int

    def order(self, number: int, seed: int) -> Sequence[File | Range]:
        """What epoch *number* reads: files shuffled; records of a file in their order, as TFRecord
        files are, each file by one worker."""
        if self.record_bytes is None:
            return orders.epoch(self.files, seed, number)
        size = self.record_bytes
        records = [
            [Range(file.path, at, size) for at in range(0, file.size, size)] for file in self.files
        ]
        return orders.streams(records, self.workers, seed, number, run=self.batch)


def _unet3d() -> Workload:
    mean, deviation, count = 146_600_628 / 32, 68_341_808 / 32, 168
    sizes = random.Random("unet3d")
    files = tuple(
        File(f"case-{n:05}.npz", max(int(sizes.gauss(mean, deviation)), int(mean / 10)))
        for n in range(count)
    )
    return Workload("unet3d", files, None, batch=7, workers=4)


def _resnet50() -> Workload:
    record, count = 114_660, 1251
    files = tuple(File(f"train-{n:05}.tfrecord", record * count) for n in range(8))
    return Workload("resnet50", files, record, batch=50, workers=8)


def _retinanet() -> Workload:
    return Workload("retinanet", small_files(1536, 322_957), None, batch=24, workers=8)


def workloads() -> list[Workload]:
    """All of them, in the order of the table."""
    return [_unet3d(), _resnet50(), _retinanet()]


class Train(Scenario):
    """How busy does the file system keep an accelerator that trains unet3d, resnet50 or retinanet,
    in the first epoch and later?

    As in MLPerf Storage the accelerator sleeps for each batch, while readers fetch the next ones
    (two batches each); utilisation is the share of the time that it does, from the first batch on.
    The step time is one that the local file system keeps up with for 95 % of the time. Each round
    has a fresh mount with room for everything; the page cache is dropped before each epoch.
    """

    name = "train"
    expected_s = 150.0

    def __init__(self) -> None:
        self._workloads = workloads()
        self._data: dict[str, Dataset] = {}
        #: By workload, in milliseconds.
        self._step_ms: dict[str, float] = {}

    def rounds(self, quick: bool) -> int:
        return 3

    def _later(self, quick: bool) -> int:
        return 1 if quick else 2

    def sizes(self, quick: bool) -> dict[str, Any]:
        sizes: dict[str, Any] = {
            one.name: {
                "files": len(one.files),
                "data_bytes": sum(file.size for file in one.files),
                "batch": one.batch,
                "readers": one.workers,
                "step ms": round(self._step_ms.get(one.name, 0), 2),
            }
            for one in self._workloads
        }
        return sizes | {"later epochs": self._later(quick), "limit_s": LIMIT_S}

    def prepare(self, lab: Lab) -> None:
        for one in self._workloads:
            self._data[one.name] = lab.dataset(f"train-{one.name}", one.files)
        steps: dict[str, list[float]] = {one.name: [] for one in self._workloads}
        for number in range(CALIBRATIONS):
            for one in self._workloads:
                steps[one.name].append(self._calibrate(lab, one, -1 - number))
        self._step_ms = {name: statistics.median(found) for name, found in steps.items()}

    def _calibrate(self, lab: Lab, one: Workload, number: int) -> float:
        """The step in milliseconds for which the local file system is `LOCAL_AU`.

        Where readers are the limit, batches come at the same times whatever the step is, so the
        time of n batches is that of an accelerator that takes no time, and one step: AU = n step /
        (time + step).
        """
        answer = self._epoch(lab, one, self._data[one.name].root, number, 0)
        step_s: float = LOCAL_AU * answer["seconds"] / (answer["batches"] - LOCAL_AU)
        return step_s * 1e3

    def _epoch(
        self, lab: Lab, one: Workload, root: Path, number: int, step_ms: float
    ) -> dict[str, Any]:
        processes.drop_caches()
        return lab.loadgen.train(
            root,
            self._data[one.name].seed,
            one.order(number, lab.seed),
            workers=one.workers,
            batch=one.batch,
            step_ms=step_ms,
            limit_s=LIMIT_S,
        )

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        def measure(n: int) -> dict[Metric, float]:
            figures: dict[Metric, float] = {}
            for one in self._workloads:
                dataset = self._data[one.name]
                with lab.mounted(subject, dataset, cache_bytes=4 * dataset.bytes) as mounted:
                    number = n * (1 + self._later(lab.quick))
                    later = range(number + 1, number + 1 + self._later(lab.quick))
                    figures |= self._epochs(lab, one, mounted, [number], "first epoch")
                    figures |= self._epochs(lab, one, mounted, later, "later epochs")
            return figures

        # Who is no file system says so here, not in the first round.
        with lab.mounted(subject, self._data[self._workloads[0].name]):
            pass
        yield measure

    def _epochs(
        self, lab: Lab, one: Workload, mounted: Mounted, numbers: Sequence[int], which: str
    ) -> dict[Metric, float]:
        """The figures of some epochs together."""
        variant = f"{one.name}, {which}"
        with lab.cost(mounted) as cost:
            answers = [
                self._epoch(lab, one, mounted.directory, number, self._step_ms[one.name])
                for number in numbers
            ]
        seconds, samples, computed = (
            sum(answer[name] for answer in answers) for name in ("seconds", "samples", "computed_s")
        )
        utilisation = Metric("utilisation", "%", Better.HIGHER, variant, headline=True)
        figures = {
            utilisation: 100 * computed / seconds,
            metrics.samples_per_s(variant): samples / seconds,
            metrics.latency_us("p99", variant): max(a["latency_us"]["p99"] for a in answers),
        }
        if cost.counted:
            figures[metrics.cpu_us_per("sample", variant)] = cost.cpu_s / samples * 1e6
        return figures | cost.figures(variant)
