"""The scenario mount: its clock runs from the command to the byte, over a place that is kept."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import data, processes, runner
from bench.lab import Lab
from bench.lakesim import lakesim
from bench.loadgen import PROGRAM, Loadgen, WrongBytesError
from bench.results import Run
from bench.scenarios import mount
from bench.scenarios.base import PartlyError
from bench.scenarios.mount import Mount
from bench.subjects.base import Bucket, Place, Subject
from bench.subjects.client import Client
from bench.subjects.local import Local
from bench.subjects.tierfs import Tierfs, TierfsMount
from tests.servers import need_lakesim

VARIANTS = ("0 entries", "250 entries")


LATE_S = 2.0


class Late(Tierfs):
    """The product, `LATE_S` later: longer than a mount takes on a machine that is busy."""

    name = "late"

    @contextmanager
    def mount(self, bucket: Bucket, place: Place) -> Iterator[TierfsMount]:
        time.sleep(LATE_S)
        with super().mount(bucket, place) as mounted:
            yield mounted


class Tiny(Mount):
    """Two rounds of a few entries."""

    def rounds(self, quick: bool) -> int:
        return 2


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    need_lakesim()
    if not PROGRAM.exists():
        pytest.skip("lakesim is not built: there is no Rust toolchain")
    monkeypatch.setenv(mount.ENTRIES, "0,250")
    monkeypatch.setattr(mount, "PER_DIRECTORY", 100)
    # Each mount would read its programs from the disk again, and so would all that runs beside it.
    monkeypatch.setattr(processes, "drop_caches", lambda: None)
    with lakesim(seed=1) as server:
        made = Lab(tmp_path, server, Loadgen(), "none", quick=True, seed=1)
        made.create_bucket()
        yield made


def run(lab: Lab, scenario: Mount, *subjects: Subject) -> Run:
    record = Run("2026-01-01T00:00:00+00:00", {}, {}, {}, {})
    runner.run(lab, [scenario], subjects, record, lambda line: None)
    return record


def test_the_clock_runs_from_the_command_to_the_byte(lab: Lab, tmp_path: Path) -> None:
    record = run(lab, Tiny(), Local(), Client(), Tierfs(), Late())
    assert [(one.subject, one.variant, one.error) for one in record.cannot] == [
        ("local", "", "it is not a mount"),
        ("client", "", "it is not a file system"),
    ]
    for variant in VARIANTS:
        values = {
            series.subject: series.measured
            for series in record.series
            if (series.metric.name, series.metric.variant) == ("time to first byte", variant)
        }
        assert {subject: len(rounds) for subject, rounds in values.items()} == {
            "tierfs": 2,
            "late": 2,
        }
        assert min(values["tierfs"]) > 0.05
        assert min(values["late"]) > LATE_S
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert os.listdir(tmp_path) == ["data"]


def test_the_place_is_kept_over_the_mounts(lab: Lab) -> None:
    scenario = Tiny()
    scenario.prepare(lab)
    with scenario.session(lab, Tierfs()) as measure:
        mark = lab.server.mark()
        figures = measure(0)
    whole = [one for one in lab.server.log(mark) if one.bytes_out == mount.FILE.size]
    assert whole == []  # The file is in the cache.
    disk = {m.variant: value for m, value in figures.items() if m.name == "space on disk"}
    assert disk["250 entries"] > disk["0 entries"]


def test_a_subject_that_does_not_show_all_cannot(lab: Lab) -> None:
    scenario = Tiny()
    scenario.prepare(lab)
    _, bucket = scenario._lakes["250 entries"]
    data.remove(bucket, [f"{bucket.prefix}{mount.TREE}00001/00000123"])
    with scenario.session(lab, Tierfs()) as measure, pytest.raises(PartlyError) as caught:
        measure(0)
    assert caught.value.errors == {"250 entries": "shows 250 of 251 files"}
    assert {metric.variant for metric in caught.value.figures} == {"0 entries"}


def test_a_wrong_byte_ends_the_run(lab: Lab) -> None:
    scenario = Tiny()
    scenario.prepare(lab)
    _, bucket = scenario._lakes["0 entries"]
    body = bytearray((lab.work / "data" / "mount-0" / mount.FILE.path).read_bytes())
    body[1000] ^= 1
    data.put(bucket, [mount.FILE], bytes(body))
    with pytest.raises(WrongBytesError, match="wrong byte at offset 1000"):
        run(lab, scenario, Tierfs())
