"""The benchmark itself: it tells fast from slow, it stops at a wrong byte, it says what nobody can
do, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from bench import ratios, runner
from bench.lab import BUCKET, Lab
from bench.lakesim import lakesim
from bench.loadgen import PROGRAM, Loadgen, WrongBytesError
from bench.results import Run
from bench.scenarios.cold_small import ColdSmall
from bench.scenarios.warm_seq import WarmSeq
from bench.subjects.base import Bucket, CannotError, Mounted, Place, Subject
from bench.subjects.client import Client
from bench.subjects.local import Local
from bench.subjects.tierfs import Tierfs
from tests.servers import need_lakesim, s3_server


class Tiny(ColdSmall):
    """A handful of files of each kind."""

    def rounds(self, quick: bool) -> int:
        return 3

    def _count(self, readers: int, quick: bool) -> int:
        return 2 * readers


class Slowed(Tierfs):
    """The product behind a link of its own, with 100 ms to each first byte."""

    name = "slowed"
    options = ("--link", "100,101,90,400")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    need_lakesim()
    if not PROGRAM.exists():
        pytest.skip("lakesim is not built: there is no Rust toolchain")
    with lakesim(seed=1) as server:
        made = Lab(tmp_path, server, Loadgen(), "none", quick=True, seed=1)
        made.create_bucket()
        yield made


def empty_run() -> Run:
    return Run("2026-01-01T00:00:00+00:00", {}, {}, {}, {})


def run(lab: Lab, *subjects: Subject) -> tuple[Run, list[str]]:
    record = empty_run()
    said: list[str] = []
    runner.run(lab, [Tiny()], subjects, record, said.append)
    return record, said


def test_a_slowed_subject_is_slower_and_everything_is_taken_down(lab: Lab, tmp_path: Path) -> None:
    record, said = run(lab, Local(), Client(), Tierfs(), Slowed())
    assert record.cannot == []
    assert record.subjects("cold-small") == ["local", "client", "tierfs", "slowed"]
    for metric in record.metrics("cold-small"):
        if metric.headline:
            slower = ratios.ratio(record, "cold-small", metric, "slowed", "tierfs")
            assert slower is not None
            assert slower.count == 3
            assert slower.median < 0.8, metric
    assert any("left" in line for line in said)
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(tmp_path) not in mounts
    assert sorted(os.listdir(tmp_path)) == ["data"]
    assert Run.from_json(json.loads(json.dumps(record.to_json()))).to_json() == record.to_json()


def test_costs_are_those_of_the_subject(lab: Lab) -> None:
    record, _ = run(lab, Local(), Tierfs())
    by_name = {
        (series.subject, series.metric.name): series
        for series in record.series
        if series.metric.variant == "16 readers"
    }
    assert ("local", "daemon CPU") not in by_name
    assert by_name["tierfs", "daemon CPU"].median > 0
    assert by_name["tierfs", "peak memory"].median > 10
    # Each file once, by a request of its own, and what the names take.
    assert by_name["tierfs", "from the lake"].median >= 32 * 0.11
    assert by_name["tierfs", "lake requests"].median >= 32


def test_a_wrong_byte_ends_the_run(lab: Lab) -> None:
    scenario = Tiny()
    scenario.prepare(lab)
    dataset = lab.dataset("cold-small", ())
    file = dataset.files[7]
    client = s3_server(lab.server).client()
    body = bytearray((dataset.root / file.path).read_bytes())
    body[1000] ^= 1
    client.put_object(Bucket=BUCKET, Key=dataset.bucket.prefix + file.path, Body=bytes(body))
    client.close()
    with pytest.raises(WrongBytesError, match=file.path):
        runner.run(lab, [scenario], [Tierfs()], empty_run(), lambda line: None)


class Stuck(Local):
    """Shows a directory, and does not unmount."""

    name = "stuck"

    def __init__(self, source: Path) -> None:
        self.source = source

    def mount(self, bucket: Bucket, place: Place) -> AbstractContextManager[Mounted]:
        subprocess.run(["mount", "--bind", str(self.source), str(place.directory)], check=True)
        raise CannotError("in use")


def test_clearing_up_does_not_reach_through_a_mount(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/precious").write_bytes(b"data")
    subject = Stuck(tmp_path / "source")
    with (
        pytest.raises(CannotError),
        lab.place(subject) as place,
        subject.mount(lab.bucket(""), place),
    ):
        raise AssertionError("mounted")
    assert sorted(os.listdir(tmp_path)) == ["source"]
    assert (tmp_path / "source/precious").read_bytes() == b"data"
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_what_a_subject_cannot_do_is_said_and_the_others_go_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.scenarios.warm_seq.SIZE", {True: 1 << 20})
    record = empty_run()
    runner.run(lab, [WarmSeq()], [Client(), Local()], record, lambda line: None)
    assert [(c.subject, c.error) for c in record.cannot] == [("client", "it is not a file system")]
    assert record.subjects("warm-seq") == ["local"]
