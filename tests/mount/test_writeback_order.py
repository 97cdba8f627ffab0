"""What a write-back directory acknowledged appears in the lake in that order, once, all of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.lakesim import Fault, Lakesim, Link, lakesim
from tests.mount.mounting import Mount
from tests.servers import TEST_CREDENTIALS, need_lakesim, s3_server
from tests.writeback.history import Violation, check
from tests.writeback.markers import check_markers
from tests.writeback.recording import Recorder
from tests.writeback.scenarios import Checkpoints
from tests.writeback.states import History

Make = Callable[..., Mount]

Check = Callable[..., list[Violation]]

BUCKET = "lake"
#: Some files take several parts, whatever the size of a part is up to this.
LARGE_BYTES = 17 << 20


@pytest.fixture
def simulator() -> Iterator[Lakesim]:
    need_lakesim()
    with lakesim(seed=7) as server:
        s3_server(server).make_bucket(BUCKET)
        yield server


@pytest.fixture
def rule() -> str:
    return "w/**"


@pytest.fixture
def mounted(mount: Make, simulator: Lakesim, rule: str) -> Iterator[Mount]:
    options = ["--endpoint", simulator.endpoint, "--region", "us-east-1", "--write-back", rule]
    with mount(*options, url=f"s3://{BUCKET}", env=TEST_CREDENTIALS) as made:
        (made.directory / "w").mkdir(exist_ok=True)
        made.command("flush", made.directory, "--wait")
        simulator.reset()
        yield made


def save_and_judge(
    mounted: Mount, simulator: Lakesim, tmp_path: Path, steps: int, check: Check = check
) -> None:
    recorder = Recorder(mounted.directory / "w", tmp_path / "history")
    checkpoints = Checkpoints(recorder, seed=1, large_bytes=LARGE_BYTES)
    for step in range(steps):
        checkpoints.save(step)
    mounted.command("flush", mounted.directory / "w", "--wait")
    history = History(recorder.events, "w/")
    found = check(simulator.log(), history, bucket=BUCKET, sizes=simulator.sizes(BUCKET, "w/"))
    assert not found, "\n".join(map(str, found))


def test_in_order(mounted: Mount, simulator: Lakesim, tmp_path: Path) -> None:
    save_and_judge(mounted, simulator, tmp_path, steps=12)


def test_in_order_over_a_slow_link(mounted: Mount, simulator: Lakesim, tmp_path: Path) -> None:
    """So slow that what is saved next overtakes what is on its way, if anything can."""
    simulator.configure(link=Link(first_byte_median_ms=20, first_byte_p99_ms=200))
    save_and_judge(mounted, simulator, tmp_path, steps=8)


@pytest.mark.parametrize("rule", ["w/**,order=markers"])
def test_in_the_order_of_markers(mounted: Mount, simulator: Lakesim, tmp_path: Path) -> None:
    """Over a slow link, so that there is much to overtake; and new files do overtake each other."""
    simulator.configure(link=Link(first_byte_median_ms=20, first_byte_p99_ms=200))
    save_and_judge(mounted, simulator, tmp_path, 12, check_markers)
    begun: list[int] = [0]
    for request in simulator.log():
        if request.operation == "PutObject":
            begun.append(max(begun[-1], request.committed_ns or 0))
            if request.arrived_ns < begun[-2]:
                return
    raise AssertionError("one after the other")


@pytest.mark.parametrize("rule", ["w/**,order=markers,durability=lake"])
def test_who_closes_finds_it_in_the_lake(mounted: Mount, simulator: Lakesim) -> None:
    """``open``, ``write``, ``close``, ``rename``: each is in the lake when it returns."""
    directory = mounted.directory / "w"
    (directory / "x.tmp").write_bytes(b"held")
    assert simulator.sizes(BUCKET, "w/") == {"w/": 0}
    (directory / "x").write_bytes(b"1234")
    assert simulator.sizes(BUCKET, "w/") == {"w/": 0, "w/x": 4}
    (directory / "x.tmp").rename(directory / "latest")
    assert simulator.sizes(BUCKET, "w/") == {"w/": 0, "w/latest": 4, "w/x": 4}
    with open(directory / "log", "wb", buffering=0) as file:
        file.write(b"12345")
        os.fsync(file.fileno())
        assert simulator.sizes(BUCKET, "w/log") == {"w/log": 5}
    (directory / "x").unlink()
    assert simulator.sizes(BUCKET, "w/x") == {}


@pytest.mark.parametrize("rule", ["w/**,durability=lake"])
def test_fsync_syncs_what_others_wrote(mounted: Mount, simulator: Lakesim) -> None:
    """``sync FILE`` opens it for reading; as everywhere, that is as good as any descriptor."""
    path = mounted.directory / "w" / "log"
    with open(path, "wb", buffering=0) as file:
        file.write(b"12345")
        reader = os.open(path, os.O_RDONLY)
        try:
            os.fsync(reader)
        finally:
            os.close(reader)
        assert simulator.sizes(BUCKET, "w/log") == {"w/log": 5}


@pytest.mark.parametrize(
    "kind",
    [
        "reset_after",
        pytest.param("slow_down", marks=pytest.mark.long),
        pytest.param("internal_error", marks=pytest.mark.long),
        pytest.param("reset_before", marks=pytest.mark.long),
    ],
)
def test_in_order_and_once_with_faults(
    mounted: Mount, simulator: Lakesim, tmp_path: Path, kind: str
) -> None:
    """Above all ``reset_after``: it took effect, and nobody said so."""
    methods = ("PUT", "POST", "DELETE")
    simulator.change({"faults": [vars(Fault("slow_down", 0.2, methods)) | {"kind": kind}]})
    save_and_judge(mounted, simulator, tmp_path, steps=8)
