"""A mount with write-back directories whose processes are killed while it uploads: what was
acknowledged is there when it is back, and arrives, in order and once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.lakesim import Lakesim, Link, lakesim
from tests.mount.mounting import Mount, wait_until
from tests.servers import TEST_CREDENTIALS, need_lakesim, s3_server
from tests.writeback.history import check
from tests.writeback.recording import Recorder
from tests.writeback.states import History

Make = Callable[..., Mount]

BUCKET = "lake"
#: Several parts, of any size that a part may have up to this.
LARGE_BYTES = 40 << 20
#: So slow that the large file is on its way for seconds.
SLOW = Link(first_byte_median_ms=5, first_byte_p99_ms=20, upload_connection_mb_s=4)


@pytest.fixture
def simulator() -> Iterator[Lakesim]:
    need_lakesim()
    with lakesim(seed=7) as server:
        s3_server(server).make_bucket(BUCKET)
        yield server


@pytest.fixture
def make(mount: Make, simulator: Lakesim) -> Callable[[], Mount]:
    """Mounts of the same lake on the same cache, one after the other."""
    options = ["--endpoint", simulator.endpoint, "--region", "us-east-1", "--write-back", "w/**"]
    return lambda: mount(*options, url=f"s3://{BUCKET}", env=TEST_CREDENTIALS)


class Writer:
    """Writes below ``w`` of a mount, and knows what has to be there."""

    def __init__(self, made: Mount, log: Path) -> None:
        self.recorder = Recorder(made.directory / "w", log)
        self.files: dict[str, bytes] = {}

    def write(self, path: str, at_least: int = 0) -> None:
        data = self.recorder.unique(at_least)
        self.recorder.write(path, data)
        self.files[path] = data

    def rename(self, old: str, new: str) -> None:
        self.recorder.rename(old, new)
        self.files[new] = self.files.pop(old)

    def save(self, step: int) -> None:
        """A checkpoint: shards, a large one among them, and the marker."""
        name = f"step-{step}"
        self.recorder.mkdir(name)
        self.write(f"{name}/0", 1000)
        self.write(f"{name}/1", LARGE_BYTES)
        self.write(f"{name}/.metadata.tmp", 500)
        self.rename(f"{name}/.metadata.tmp", f"{name}/.metadata")
        self.write("latest", 10)


def prepare(made: Mount, simulator: Lakesim) -> None:
    (made.directory / "w").mkdir()
    made.command("flush", made.directory, "--wait")
    simulator.reset()
    simulator.configure(link=SLOW)


def uploading(simulator: Lakesim) -> bool:
    """Whether a part is on its way, or has just arrived."""
    return any(request.operation == "UploadPart" for request in simulator.log())


def judge(made: Mount, simulator: Lakesim, writer: Writer) -> None:
    """All that was acknowledged reads back right, and has arrived as it was written."""
    for path, data in writer.files.items():
        assert (made.directory / "w" / path).read_bytes() == data, path
    simulator.configure(link=Link())
    made.command("flush", made.directory / "w", "--wait")
    history = History(writer.recorder.events, "w/")
    found = check(simulator.log(), history, bucket=BUCKET, sizes=simulator.sizes(BUCKET, "w/"))
    assert not found, "\n".join(map(str, found))


def back(made: Mount, control: int) -> bool:
    """Whether another control plane serves the mount by now."""
    try:
        return made.pids().get("control") not in (None, control) and os.path.ismount(made.directory)
    except (AssertionError, OSError):
        return False


def write_and_leave_open(writer: Writer) -> int:
    """A checkpoint; then a file that is written and not closed: its descriptor. No command may be
    run while it is open: the process that becomes that command closes a duplicate of it."""
    writer.save(1)
    fd = os.open(writer.recorder.root / "open", os.O_RDWR | os.O_CREAT)
    assert os.pwrite(fd, b"not promised", 0) == 12
    return fd


def close_dead(fd: int) -> None:
    """A descriptor of a mount that is gone: what it says is of no interest."""
    with contextlib.suppress(OSError):
        os.close(fd)


@pytest.mark.parametrize("front", ["python"], indirect=True)
def test_uploads_go_on_after_the_control_plane_is_killed(
    make: Callable[[], Mount], simulator: Lakesim, tmp_path: Path
) -> None:
    with make() as made:
        prepare(made, simulator)
        writer = Writer(made, tmp_path / "history")
        control = made.pids()["control"]
        fd = write_and_leave_open(writer)
        wait_until(lambda: uploading(simulator), "an upload under way")
        os.kill(control, signal.SIGKILL)
        close_dead(fd)
        wait_until(lambda: back(made, control), "the mount to be back")
        # The bytes of what was never closed are not promised; it is not in the lake, and in no
        # one's way.
        assert "open" in os.listdir(made.directory / "w")
        assert made.status()["writing"]["never_closed"] == 1
        writer.save(2)
        judge(made, simulator, writer)
        (made.directory / "w" / "open").unlink()


@pytest.mark.parametrize("front", ["native"], indirect=True)
@pytest.mark.parametrize("role", ["front", "control"])
def test_a_writer_goes_on_whoever_is_killed(
    make: Callable[[], Mount], simulator: Lakesim, tmp_path: Path, role: str
) -> None:
    """Its handle stays, what it writes meanwhile counts, and its close waits until it can be
    promised."""
    with make() as made:
        prepare(made, simulator)
        writer = Writer(made, tmp_path / "history")
        killed = made.pids()[role]
        writer.save(1)
        wait_until(lambda: uploading(simulator), "an upload under way")
        first, second = writer.recorder.unique(5000), writer.recorder.unique(5000)
        with writer.recorder.open("open") as handle:
            handle.write(first)
            os.kill(killed, signal.SIGKILL)
            handle.write(second)
        writer.files["open"] = first + second
        writer.rename("open", "closed")
        writer.save(2)
        assert made.pids()[role] != killed
        judge(made, simulator, writer)


@pytest.mark.parametrize("front", ["native"], indirect=True)
def test_each_change_is_made_once_whoever_is_killed_when(
    make: Callable[[], Mount], simulator: Lakesim, tmp_path: Path
) -> None:
    """Made twice, it would fail: each makes what must not be there, or removes what must."""
    kills = 12
    with make() as made:
        prepare(made, simulator)
        simulator.configure(link=Link())
        writer = Writer(made, tmp_path / "history")
        choose = random.Random(3)
        for n in range(kills):
            pids = made.pids()
            role = choose.choice(["front", "control"])
            killer = threading.Timer(choose.uniform(0, 0.15), kill, (pids[role],))
            killer.start()
            for step in range(8):
                name = f"{n}-{step}"
                writer.recorder.mkdir(name)
                writer.write(f"{name}/a.tmp", 1000)
                writer.rename(f"{name}/a.tmp", f"{name}/a")
                writer.write(f"{name}/b", 10)
                writer.recorder.unlink(f"{name}/b")
                del writer.files[f"{name}/b"]
            killer.join()
            wait_until(lambda role=role, pids=pids: replaced(made, role, pids), f"a new {role}")
        assert sorted(os.listdir(writer.recorder.root)) == sorted(
            f"{n}-{step}" for n in range(kills) for step in range(8)
        )
        judge(made, simulator, writer)


def kill(pid: int) -> None:
    """Also if it has just ended, because who held it did."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def replaced(made: Mount, role: str, pids: dict[str, int]) -> bool:
    try:
        return made.pids().get(role) not in (None, pids[role])
    except (AssertionError, OSError):
        return False


def test_uploads_go_on_when_all_was_killed_and_it_is_mounted_again(
    make: Callable[[], Mount], simulator: Lakesim, tmp_path: Path
) -> None:
    with make() as made:
        prepare(made, simulator)
        writer = Writer(made, tmp_path / "history")
        pids = made.pids()
        fd = write_and_leave_open(writer)
        wait_until(lambda: uploading(simulator), "an upload under way")
        for role in ("keeper", "control"):
            kill(pids[role])
        close_dead(fd)
        for pid in pids.values():
            wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), f"{pid} to end")
        assert made.start().returncode == 0
        assert made.status()["writing"]["never_closed"] == 1
        writer.save(2)
        judge(made, simulator, writer)


@pytest.mark.long
def test_kills_one_after_the_other(
    make: Callable[[], Mount], simulator: Lakesim, tmp_path: Path
) -> None:
    """Each comes while the mount is at what the one before has left."""
    with make() as made:
        prepare(made, simulator)
        writer = Writer(made, tmp_path / "history")
        for step in range(4):
            writer.save(step)
            control = made.pids()["control"]
            os.kill(control, signal.SIGKILL)
            wait_until(lambda control=control: back(made, control), "the mount to be back")
        judge(made, simulator, writer)
