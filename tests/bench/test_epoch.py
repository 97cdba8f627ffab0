"""The epochs of the benchmark: what is fetched and what stalls, with caches that are too small."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import processes, runner
from bench.lab import MIB, Lab
from bench.loadgen import File, ReadFailedError
from bench.results import Run
from bench.scenarios import epoch
from bench.scenarios.base import Scenario
from bench.subjects.base import Subject
from bench.subjects.client import Client
from bench.subjects.local import Local
from bench.subjects.tierfs import Tierfs
from tests.bench.test_run import Slowed, empty_run, lab

__all__ = ["lab"]

EPOCHS: list[type[Scenario]] = [
    epoch.Epoch,
    epoch.EpochRanks,
    epoch.EpochWeighted,
    epoch.EpochShards,
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """64 samples in 4 shards, and cgroups that nobody feels."""
    monkeypatch.setattr(epoch, "DATA_BYTES", 4 * MIB)
    monkeypatch.setattr(epoch, "SAMPLE_BYTES", 64 << 10)
    monkeypatch.setattr(epoch, "MEMBER_BYTES", 512 + (64 << 10))
    monkeypatch.setattr(epoch, "SHARD_BYTES", MIB)
    monkeypatch.setattr(epoch, "CGROUP_BYTES", 256 * MIB)
    monkeypatch.setattr(epoch, "NODE_BYTES", 512 * MIB)
    try:
        with processes.memory_cgroup(f"tierfs-bench-test-{os.getpid()}", 1 << 30):
            pass
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error.strerror}")
    yield
    groups = Path("/sys/fs/cgroup").glob(f"*/tierfs-bench-{os.getpid()}-*")
    assert list(groups) == []


def measured(lab: Lab, scenario: Scenario, *subjects: Subject) -> dict[tuple[str, str], float]:
    """The medians by subject and metric."""
    record: Run = empty_run()
    runner.run(lab, [scenario], subjects, record, lambda line: None)
    assert record.cannot == []
    return {(series.subject, series.metric.name): series.median for series in record.series}


@pytest.mark.parametrize("scenario", EPOCHS, ids=lambda scenario: scenario.name)
def test_what_is_in_the_cache_neither_stalls_nor_is_fetched(
    lab: Lab, scenario: type[Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    # All of it fits: a cache of one and a half.
    monkeypatch.setattr(epoch, "FRACTIONS", (0.2, 1.5, 0.8))
    found = measured(lab, scenario(), Local(), Client(), Tierfs())
    assert found["tierfs", "fetched"] == 0
    assert found["tierfs", "stalls"] == 0
    assert found["client", "stalls"] == 100
    assert found["local", "samples"] > found["tierfs", "samples"] > 0
    assert ("local", "stalls") not in found


@pytest.mark.parametrize("scenario", [epoch.Epoch, epoch.EpochShards])
def test_what_the_cache_has_no_room_for_is_fetched_again_and_stalls(
    lab: Lab, scenario: type[Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch, "DATA_BYTES", 16 * MIB)
    monkeypatch.setattr(epoch, "SHARD_BYTES", 4 * MIB)
    monkeypatch.setattr(epoch, "FRACTIONS", (0.2, 0.1, 0.8))
    found = measured(lab, scenario(), Tierfs(), Slowed())
    for subject in ("tierfs", "slowed"):
        assert found[subject, "fetched"] > 20
        assert 0 < found[subject, "stalled"] <= 100
        assert found[subject, "stalls"] > 0
    assert found["slowed", "samples"] < 0.8 * found["tierfs", "samples"]


def test_a_reader_that_hangs_is_given_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.loadgen.STUCK_S", 0.5)
    root = lab.work / "data"
    root.mkdir()
    os.mkfifo(root / "hangs")
    with pytest.raises(ReadFailedError, match=r"not done after 0\.6 s"):
        lab.loadgen.small(root, 1, [File("hangs", 10)], 1, limit_s=0.1)
    for process in lab.loadgen.abandoned:
        assert process.wait(10) < 0


def test_a_subject_that_has_too_little_memory_cannot(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch, "CGROUP_BYTES", 40 * MIB)
    monkeypatch.setattr(epoch, "NODE_BYTES", 80 * MIB)
    record = empty_run()
    runner.run(lab, [epoch.Epoch()], [Local(), Tierfs()], record, lambda line: None)
    assert record.subjects("epoch") == ["local"]
    assert [c.subject for c in record.cannot] == ["tierfs"]
