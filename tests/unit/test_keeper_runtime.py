"""One keeper to a mount point; what it leaves in its runtime directory."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from tierfs.errors import MountError
from tierfs.keeper import runtime
from tierfs.keeper.runtime import Runtime, keeper_pid, wait_until_gone


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "run" / "0123456789abcdef"


def test_lock_is_the_proof_of_life(directory: Path) -> None:
    assert keeper_pid(directory) is None
    held = Runtime.claim(directory, "/mnt")
    held.write_pid()
    assert keeper_pid(directory) == os.getpid()
    assert not wait_until_gone(directory, 0.0)
    with pytest.raises(MountError, match=f"pid {os.getpid()}"):
        Runtime.claim(directory, "/mnt")
    held.release()
    assert keeper_pid(directory) is None
    assert wait_until_gone(directory, 0.0)
    assert not directory.exists()


def test_file_without_a_lock_is_a_leftover(directory: Path) -> None:
    """K4: a pid file of a dead keeper may name a pid that lives again as something else."""
    directory.mkdir(parents=True)
    for name in ("control.sock", "mount.json"):
        (directory / name).touch()
    (directory / "keeper.pid").write_text("1\n")
    assert keeper_pid(directory) is None
    held = Runtime.claim(directory, "/mnt")
    assert sorted(path.name for path in directory.iterdir()) == ["keeper.pid"]
    held.release()


def test_lock_on_an_unlinked_file_counts_for_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last keeper unlinks its file just before we lock it: we must lock the new one."""
    directory.mkdir(parents=True)
    flock = fcntl.flock
    raced: list[int] = []

    def race(fd: int, operation: int) -> None:
        if not raced:
            (directory / "keeper.pid").unlink()
        raced.append(fd)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", race)
    held = Runtime.claim(directory, "/mnt")
    monkeypatch.undo()
    assert len(raced) == 2
    with pytest.raises(MountError):
        Runtime.claim(directory, "/mnt")
    held.release()


def test_directory_that_others_may_write_is_refused(directory: Path) -> None:
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    with pytest.raises(MountError, match="somebody else"):
        Runtime.claim(directory, "/mnt")


def test_runtime_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MountError, match="--runtime-dir"):
        Runtime.claim(tmp_path / "file" / "x", "/mnt")


def test_log_is_set_aside_at_start_and_bounded(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Runtime.claim(directory, "/mnt")
    (directory / "tierfs.log").write_text("the last run\n")
    fd = held.open_log()
    assert (directory / "tierfs.log.1").read_text() == "the last run\n"
    monkeypatch.setattr(runtime, "LOG_LIMIT_BYTES", 100)
    os.write(fd, b"x" * 101)
    held.bound_log()
    os.write(fd, b"after\n")
    os.close(fd)
    assert (directory / "tierfs.log").read_text() == "after\n"
    assert (directory / "tierfs.log.1").read_text() == "x" * 101
    held.release()
    assert sorted(path.name for path in directory.iterdir()) == ["tierfs.log", "tierfs.log.1"]


def test_state_is_replaced_in_one_step(directory: Path) -> None:
    held = Runtime.claim(directory, "/mnt")
    held.write_state({"pid": 1})
    held.write_state({"pid": 2})
    assert json.loads((directory / "mount.json").read_text()) == {"pid": 2}
    held.release()


def test_the_note_says_whether_a_mount_writes(directory: Path) -> None:
    assert not runtime.writes(directory)
    held = Runtime.claim(directory, "/mnt")
    held.write_state({"pid": 1})
    assert not runtime.writes(directory)
    held.write_state({"pid": 1, "writes": True})
    assert runtime.writes(directory)
    held.release()
    assert not runtime.writes(directory)
