"""The epochs of the benchmark: what is fetched and what stalls, with caches that are too small."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from bench import processes, runner
from bench.data import Dataset
from bench.lab import MIB, Lab
from bench.results import Run
from bench.scenarios import epoch, epochs
from bench.scenarios.base import Scenario
from bench.scenarios.epoch_cold import EpochCold
from bench.scenarios.epoch_jobs import EpochJobs
from bench.scenarios.epoch_paced import EpochHinted, EpochPaced
from bench.subjects.base import Mounted, Subject
from bench.subjects.client import Client
from bench.subjects.local import Local
from bench.subjects.tierfs import Tierfs
from tests.bench.test_run import Slowed, empty_run, lab

__all__ = ["lab"]

#: What varies the first one takes minutes together, and is the same but for its orders.
VARIANTS = [epoch.EpochWarm, epoch.EpochRanks, epoch.EpochWeighted, epoch.EpochShards, EpochJobs]
EPOCHS = [epoch.Epoch, *(pytest.param(one, marks=pytest.mark.long) for one in VARIANTS)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """64 samples in 4 shards, and cgroups that nobody feels."""
    monkeypatch.setattr(epochs, "DATA_BYTES", 4 * MIB)
    monkeypatch.setattr(epochs, "SAMPLE_BYTES", 64 << 10)
    monkeypatch.setattr(epoch, "SHARD_BYTES", MIB)
    monkeypatch.setattr(epochs, "CGROUP_BYTES", 256 * MIB)
    monkeypatch.setattr(epochs, "NODE_BYTES", 512 * MIB)
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


@pytest.mark.parametrize("scenario", EPOCHS)
def test_what_is_in_the_cache_neither_stalls_nor_is_fetched(
    lab: Lab, scenario: type[Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    # All of it fits: a cache of one and a half.
    monkeypatch.setattr(epochs, "FRACTIONS", (0.2, 1.5, 0.8))
    found = measured(lab, scenario(), Local(), Client(), Tierfs())
    assert found["tierfs", "fetched"] == 0
    assert found["tierfs", "stalls"] == 0
    assert found["client", "stalls"] == 100
    assert found["local", "samples"] > found["tierfs", "samples"] > 0
    assert ("local", "stalls") not in found


@pytest.mark.parametrize(
    "scenario",
    [
        epoch.Epoch,
        pytest.param(epoch.EpochShards, marks=pytest.mark.long),
        pytest.param(EpochJobs, marks=pytest.mark.long),
    ],
)
def test_what_the_cache_has_no_room_for_is_fetched_again_and_stalls(
    lab: Lab, scenario: type[Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "DATA_BYTES", 16 * MIB)
    monkeypatch.setattr(epoch, "SHARD_BYTES", 4 * MIB)
    monkeypatch.setattr(epochs, "FRACTIONS", (0.2, 0.1, 0.8))
    found = measured(lab, scenario(), Tierfs(), Slowed())
    for subject in ("tierfs", "slowed"):
        assert found[subject, "fetched"] > 20
        assert 0 < found[subject, "stalled"] <= 100
        assert found[subject, "stalls"] > 0
        bound = found[subject, "fetched"] / found[subject, "fetched over the bound"]
        assert bound == pytest.approx(90)
    assert found["slowed", "samples"] < 0.8 * found["tierfs", "samples"]


def test_a_paced_job_takes_its_time_over_a_link_of_its_own(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EpochPaced, "rate", 160.0)
    scenario = EpochPaced()
    found = measured(lab, scenario, Local(), Tierfs())
    for subject in ("local", "tierfs"):
        assert 80 < found[subject, "samples"] <= 168
    assert found["tierfs", "fetched"] > 20
    # Half of 160 samples of 64 KiB a second, twice.
    assert scenario.sizes(True)["link MB/s"] == 10.5
    assert lab.server.change({})["link"]["download_total_mb_s"] == 0


class Told(Local):
    """The local file system, to which somebody listens."""

    name = "told"

    def __init__(self) -> None:
        self.plans: list[list[str]] = []

    def listening(self, root: Path) -> Mounted:
        plans = self.plans

        class Listening(Mounted):
            def plan(self, paths: Sequence[str]) -> None:
                plans.append(list(paths))

        return Listening(root)


def test_an_order_is_told_before_each_epoch_and_not_to_everybody(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Told()
    mounted = lab.mounted

    def listening(
        who: Subject, dataset: Dataset, **options: Any
    ) -> AbstractContextManager[Mounted]:
        if who is subject:
            return nullcontext(subject.listening(dataset.root))
        return mounted(who, dataset, **options)

    monkeypatch.setattr(lab, "mounted", listening)
    record = empty_run()
    runner.run(lab, [EpochHinted()], [Local(), Client(), subject], record, lambda line: None)
    assert [cannot.subject for cannot in record.cannot] == ["local", "client"]
    assert {metric.variant for metric in record.metrics("epoch-hinted")} == {"cache 0.2, hinted"}
    # One to settle; each of the three rounds is short, and has three.
    assert len(subject.plans) == 10
    assert all(len(set(plan)) == 64 for plan in subject.plans)
    assert subject.plans[0] != subject.plans[1]


def test_a_first_epoch_comes_from_the_lake(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EpochCold, "_count", lambda self, quick: 100)
    found = measured(lab, EpochCold(), Local(), Client(), Tierfs(), Slowed())
    assert found["tierfs", "from the lake"] >= 100 * 0.11
    assert found["local", "samples"] > found["tierfs", "samples"] > found["slowed", "samples"]
    assert found["client", "samples"] > 0
    for subject in ("client", "tierfs"):
        assert 0 < found[subject, "machine CPU"] <= 100
    assert ("tierfs", "of the link") not in found


def test_a_subject_that_has_too_little_memory_cannot(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "CGROUP_BYTES", 40 * MIB)
    monkeypatch.setattr(epochs, "NODE_BYTES", 80 * MIB)
    record = empty_run()
    runner.run(lab, [epoch.Epoch()], [Local(), Tierfs()], record, lambda line: None)
    assert record.subjects("epoch") == ["local"]
    assert [c.subject for c in record.cannot] == ["tierfs"]
