"""The keeper of a native mount: hanging and crashing processes, signals, and nothing left behind
(K10, K11). The processes are the real ones, their deadlines short."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.mounting import detach, wait_until
from tierfs import keeper, mountinfo
from tierfs.config import Config
from tierfs.front.program import native_front

pytestmark = pytest.mark.skipif(native_front() is None, reason="the native front is not built")

#: The control plane says that it is alive every 2 s.
QUICK = keeper.Timing(
    watchdog_s=4.0,
    start_s=20.0,
    answer_s=5.0,
    drain_s=0.5,
    stop_s=5.0,
    abort_s=0.2,
    backoff_first_s=0.01,
    backoff_most_s=0.05,
    crash_limit=4,
)


class Kept:
    """A lake of one file, and a keeper of its native mount in a child of the test."""

    def __init__(self, root: Path) -> None:
        lake = root / "lake"
        lake.mkdir()
        (lake / "f").write_bytes(b"content")
        self.directory = root / "mnt"
        self.directory.mkdir()
        self.config = Config(
            url=f"file://{lake}",
            mountpoint=self.directory,
            runtime_dir=root / "run",
            cache=root / "cache",
            cache_size=1 << 30,
            front="native",
        )
        self.log = root / "stderr"
        self.pid = 0

    def run(self, *, program: Path | None = None) -> None:
        """Start the keeper, with *program* as its front."""
        self.pid = os.fork()
        if self.pid:
            return
        code = 99
        try:
            os.dup2(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), 2)
            sys.stderr = sys.__stderr__
            if program is not None:
                setattr(keeper, "native_front", lambda: program)  # noqa: B010
            code = keeper.run(self.config, timing=QUICK)
        finally:
            os._exit(code)

    def serve(self) -> None:
        self.run()
        wait_until(lambda: self.record().get("state") == "serving", "the mount", 30)

    def record(self) -> dict[str, object]:
        """What the keeper wrote down."""
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, object] = json.loads(
                (self.config.state_dir / "mount.json").read_bytes()
            )
            return found
        return {}

    def is_over_or_other(self, role: str, pid: int) -> bool:
        """Whether all is over, or another process than *pid* has the *role*."""
        record = self.record()
        pids = record.get("pids")
        return record == {} or (isinstance(pids, dict) and pids.get(role, 0) not in (0, pid))

    def process(self, role: str) -> int:
        pids = self.record().get("pids")
        assert isinstance(pids, dict)
        return int(pids.get(role, 0))

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def result(self) -> int:
        """Wait for the end: the exit code, with nothing left behind."""
        ended: list[int] = []

        def end() -> bool:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                ended.append(os.waitstatus_to_exitcode(status))
            return bool(done)

        wait_until(end, f"the keeper to end; {self.said()}", 30)
        self.pid = 0
        assert mountinfo.topmost(bytes(self.directory)) is None
        assert keeper.keeper_pid(self.config.state_dir) is None
        return ended[0]

    def clean(self) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
        detach(self.directory)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.clean()


@pytest.mark.parametrize("role", ["front", "control"])
def test_a_process_that_hangs_is_replaced(kept: Kept, role: str) -> None:
    kept.serve()
    assert (kept.directory / "f").read_bytes() == b"content"
    hanging = kept.process(role)
    os.kill(hanging, signal.SIGSTOP)
    # Asks the front, and, for a name that nobody has asked for, the control plane.
    assert not (kept.directory / "absent").exists()
    assert (kept.directory / "f").read_bytes() == b"content"
    wait_until(lambda: kept.process(role) not in (0, hanging), f"another {role}")
    assert "said nothing for 4 s" in kept.said()
    # What was to kill the old one does not strike the new one.
    replaced = kept.process(role)
    time.sleep(3 * QUICK.abort_s)
    assert kept.process(role) == replaced
    os.kill(kept.pid, signal.SIGTERM)
    assert kept.result() == 0


@pytest.mark.parametrize("role", ["front", "control"])
def test_a_process_that_crashes_in_a_loop_ends_the_mount(kept: Kept, role: str) -> None:
    kept.serve()
    for _ in range(QUICK.crash_limit):
        pid = kept.process(role)
        os.kill(pid, signal.SIGABRT)
        wait_until(
            lambda pid=pid: kept.is_over_or_other(role, pid),
            "another one, or the end",
        )
    assert kept.result() == 1
    assert f"died {QUICK.crash_limit} times" in kept.said()


def test_kills_from_outside_do_not_count(kept: Kept) -> None:
    kept.serve()
    for _ in range(2 * QUICK.crash_limit):
        pid = kept.process("front")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: kept.process("front") not in (0, pid), "another one")
        assert (kept.directory / "f").read_bytes() == b"content"
    os.kill(kept.pid, signal.SIGTERM)
    assert kept.result() == 0


def test_umount_ends_all_three(kept: Kept) -> None:
    kept.serve()
    pids = [kept.pid, kept.process("front"), kept.process("control")]
    os.kill(kept.pid, signal.SIGTERM)
    assert kept.result() == 0
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()


def test_a_front_that_does_not_start_is_an_error_and_no_mount(kept: Kept) -> None:
    kept.run(program=Path("/bin/false"))
    assert kept.result() == 1
    assert "the native front failed to start: exited with 1" in kept.said()


def test_a_control_plane_that_does_not_start_is_an_error_and_no_mount(kept: Kept) -> None:
    kept.config = dataclasses.replace(kept.config, url="file:///nowhere/at/all")
    kept.run()
    assert kept.result() == 1
    assert "/nowhere/at/all" in kept.said()
