"""The emulated training run of the benchmark: a slower file system keeps its accelerator less
busy."""

from __future__ import annotations

import pytest

from bench import ratios, runner
from bench.lab import Lab
from bench.loadgen import File
from bench.scenarios import train
from bench.scenarios.train import Train, Workload
from bench.subjects.client import Client
from bench.subjects.local import Local
from bench.subjects.tierfs import Tierfs
from tests.bench.test_run import Slowed, empty_run, lab

__all__ = ["lab"]

FILES = Workload("files", tuple(File(f"{n}.bin", 20_000) for n in range(30)), None, 3, 2)
RECORDS = Workload(
    "records", tuple(File(f"{n}.tfrecord", 1000 * 500) for n in range(4)), 500, 100, 2
)


class Short(Train):
    def rounds(self, quick: bool) -> int:
        return 2


def test_a_slower_file_system_keeps_its_accelerator_less_busy(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "workloads", lambda: [FILES, RECORDS])
    record = empty_run()
    runner.run(lab, [Short()], [Local(), Client(), Tierfs(), Slowed()], record, lambda line: None)
    assert [(c.subject, c.error) for c in record.cannot] == [("client", "it is not a file system")]
    sizes = record.scenarios["train"]["sizes"]
    assert sizes["files"]["step ms"] > 0
    found = {
        (series.subject, series.metric.name, series.metric.variant): series.median
        for series in record.series
    }
    for subject in ("local", "tierfs", "slowed"):
        for workload in ("files", "records"):
            for which in ("first epoch", "later epochs"):
                assert 0 < found[subject, "utilisation", f"{workload}, {which}"] <= 100
    first = next(m for m in record.metrics("train") if m.variant == "files, first epoch")
    slower = ratios.ratio(record, "train", first, "slowed", "tierfs")
    assert slower is not None
    assert slower.median < 0.8
    # What is cached stays cached: nothing is fetched in a later epoch.
    assert found["tierfs", "from the lake", "files, first epoch"] >= 30 * 0.02
    assert found["tierfs", "from the lake", "files, later epochs"] == 0


def test_the_workloads_are_those_of_mlperf_storage() -> None:
    unet3d, resnet50, retinanet = train.workloads()
    mean = sum(file.size for file in unet3d.files) / len(unet3d.files)
    assert (len(unet3d.files), unet3d.batch) == (168, 7)
    assert mean * 32 == pytest.approx(146_600_628, rel=0.1)
    assert resnet50.record_bytes == 114_660
    assert {file.size for file in resnet50.files} == {1251 * 114_660}
    assert {file.size for file in retinanet.files} == {322_957}
    for one in (unet3d, resnet50, retinanet):
        samples = one.order(0, 1)
        assert len(samples) >= 20 * one.batch
        assert len(set(samples)) == len(samples)
        assert one.order(1, 1) != samples
