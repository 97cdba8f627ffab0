"""``tierfs umount`` of mounts that write: the conversation, the question, and the exit status."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tierfs import cli
from tierfs.cli import umount, unmounting
from tierfs.control.client import Mount
from tierfs.errors import InvalidRequest, MountError

DIRECTORY = Path("/mnt/run")
MOUNT = Mount(DIRECTORY, "s3://b", "fuse.tierfs", 0)
LEFT = {"unflushed_changes": 3, "unflushed_files": 2, "unflushed_bytes": 5 << 20}
NONE = {"unflushed_changes": 0, "unflushed_files": 0, "unflushed_bytes": 0}
GONE = {"discarded": {"changes": 3, "files": 2, "bytes": 5 << 20}}
WRITING = {**LEFT, "held_names": 1, "never_closed": 0}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Played:
    """Stands for the mount and its keeper: says *lines* to whoever unmounts, then *error*."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.writing: dict[str, Any] | None = WRITING
        self.busy = False
        self.has_rules = True
        self.events: list[object] = []

    def call(
        self,
        mount: Mount,
        command: str,
        args: dict[str, Any] | None = None,
        *,
        progress: Callable[[dict[str, Any]], None] | None = None,
        runtime_dir: Path | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        assert mount == MOUNT
        if command == "status":
            return {} if self.writing is None else {"writing": self.writing}
        assert (command, progress is not None) == ("unmount", True)
        self.events.append(args)
        for fields in self.lines:
            assert progress is not None
            progress(fields)
        if self.error is not None:
            raise self.error
        return {}

    def detach(self, *_: object, **__: object) -> None:
        self.events.append("detached")
        if self.busy:
            raise MountError("cannot unmount: in use by python (pid 7)", str(DIRECTORY))


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played()
    for module in (umount, unmounting):
        monkeypatch.setattr(module, "call", played.call)
    monkeypatch.setattr(umount, "find_mount", lambda path: (MOUNT, b""))
    monkeypatch.setattr(unmounting, "mount_at", lambda path: MOUNT)
    monkeypatch.setattr(unmounting, "_detach", played.detach)
    monkeypatch.setattr(unmounting, "keeper_pid", lambda state: None)
    monkeypatch.setattr(unmounting, "writes", lambda state: played.has_rules)
    return played


WAIT = {"wait": True, "discard": False}
DISCARD = {"wait": True, "discard": True}


def test_it_unmounts_when_the_mount_is_ready(played: Played) -> None:
    played.lines = [LEFT, {"ready": True, **NONE}, NONE]
    assert cli.main(["umount", str(DIRECTORY)]) == 0
    assert played.events == [WAIT, "detached"]


def test_what_is_not_in_the_lake_is_one_line_and_a_status_of_its_own(
    played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    played.lines = [LEFT, {"ready": True, **LEFT}, LEFT]
    assert cli.main(["umount", str(DIRECTORY)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 files (5.00 MiB)" in line


def test_a_terminal_sees_how_much_is_left(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    played.lines = [LEFT, {"ready": True, **NONE}, NONE]
    assert cli.main(["umount", str(DIRECTORY)]) == 0
    assert "3 changes (5.00 MiB) are on their way" in terminal.getvalue()


@pytest.mark.parametrize("lines", [[], [LEFT], [LEFT, {"ready": True, **LEFT}]])
def test_a_mount_that_cannot_answer_is_unmounted_all_the_same(
    played: Played, lines: list[dict[str, Any]]
) -> None:
    played.lines = lines
    played.error = MountError("no answer from the mount")
    assert cli.main(["umount", str(DIRECTORY)]) == 3
    assert played.events == [WAIT, "detached"]


@pytest.mark.parametrize("command", [["umount"], ["umount", "-f"]])
def test_a_mount_that_could_not_be_asked_may_have_left_something(
    played: Played, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    played.error = MountError("cannot reach the mount")
    assert cli.main([*command, str(DIRECTORY)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "it could not be asked what is not in the lake" in line
    played.has_rules = False
    assert cli.main([*command, str(DIRECTORY)]) == 0
    assert not capsys.readouterr().err


def test_a_mount_that_is_still_there_elsewhere_is_not_waited_for_for_ever(
    played: Played, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def call(*_: object, progress: Callable[[dict[str, Any]], None], **__: object) -> None:
        progress({"ready": True, "ending": False, **NONE})
        for _second in range(1000):
            now[0] += 1.0
            progress({"ending": False, **NONE})

    monkeypatch.setattr(unmounting, "call", call)
    assert cli.main(["umount", str(DIRECTORY)]) == 1
    assert now[0] == unmounting.DAEMON_TIMEOUT_S
    assert "unmounted here, but still mounted or in use elsewhere" in capsys.readouterr().err
    assert played.events == ["detached"]


@pytest.mark.parametrize("said", [{"ending": True}, {}])
def test_a_mount_that_has_begun_to_end_takes_its_time(
    played: Played, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def call(*_: object, progress: Callable[[dict[str, Any]], None], **__: object) -> None:
        progress({"ready": True, **LEFT, **said, "ending": False})
        for _second in range(1000):
            now[0] += 1.0
            progress({**NONE, **said})

    monkeypatch.setattr(unmounting, "call", call)
    assert cli.main(["umount", str(DIRECTORY)]) == 0


def test_a_mount_of_another_version_is_unmounted_as_ever(played: Played) -> None:
    played.has_rules = False  # Its keeper has not noted them.
    played.error = InvalidRequest("run a command", "unmount")
    assert cli.main(["umount", str(DIRECTORY)]) == 0
    assert played.events == [WAIT, "detached"]


def test_a_mount_in_use_says_by_whom(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    played.lines = [{"ready": True, **NONE}]
    played.busy = True
    assert cli.main(["umount", str(DIRECTORY)]) == 1
    assert "in use by python" in capsys.readouterr().err
    assert played.events == [WAIT, "detached"]


def test_lazy_asks_nobody_and_force_does_not_wait(played: Played) -> None:
    assert cli.main(["umount", "-l", str(DIRECTORY)]) == 0
    assert played.events == ["detached"]
    played.lines = [{"ready": True, **NONE}]
    assert cli.main(["umount", "-f", str(DIRECTORY)]) == 0
    assert played.events[1] == {"wait": False, "discard": False}


# ---- throwing away -------------------------------------------------------------------------------


def test_without_a_terminal_nothing_is_thrown_away(
    played: Played, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert cli.main(["umount", "--discard-unflushed", str(DIRECTORY)]) == 1
    error = capsys.readouterr().err
    assert "3 changes (5.00 MiB), 1 temporary names" in error
    assert "give --yes" in error
    assert played.events == []


def test_what_was_given_up_is_asked_about_too(
    played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    played.writing = {**NONE, "held_names": 0, "never_closed": 0, "given_up": 2}
    assert cli.main(["umount", "--discard-unflushed", str(DIRECTORY)]) == 1
    assert "nor are 2 changes that were given up" in capsys.readouterr().err
    assert played.events == []


@pytest.mark.parametrize("answer", ["", "\n", "n\n", "yess\n"])
def test_whoever_does_not_say_yes_keeps_it(
    played: Played, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert cli.main(["umount", "--discard-unflushed", str(DIRECTORY)]) == 1
    assert played.events == []


@pytest.mark.parametrize("how", ["y\n", "YES\n", "--yes"])
def test_it_is_thrown_away_and_that_is_said(
    played: Played,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: str,
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(how))
    played.lines = [{"ready": True, **LEFT}, {**NONE, **GONE}]
    arguments = ["umount", "--discard-unflushed", *([how] if how == "--yes" else [])]
    assert cli.main([*arguments, str(DIRECTORY)]) == 0
    assert "thrown away: 2 files (5.00 MiB), 3 changes" in capsys.readouterr().out
    assert played.events == [DISCARD, "detached"]


@pytest.mark.parametrize("writing", [None, {**NONE, "held_names": 0, "never_closed": 0}])
def test_nobody_is_asked_about_nothing(played: Played, writing: dict[str, Any] | None) -> None:
    played.writing = writing
    assert cli.main(["umount", "--discard-unflushed", str(DIRECTORY)]) == 0


def test_a_mount_that_cannot_be_asked_keeps_everything(played: Played) -> None:
    played.error = MountError("no answer from the mount")
    assert cli.main(["umount", "--discard-unflushed", "--yes", str(DIRECTORY)]) == 1
    assert played.events == [DISCARD]


@pytest.mark.parametrize(
    "argv", [["--yes"], ["--discard-unflushed", "-l"], ["--discard-unflushed", "-f"]]
)
def test_a_wrong_question_is_answered_with_2(played: Played, argv: list[str]) -> None:
    assert cli.main(["umount", *argv, str(DIRECTORY)]) == 2
    assert played.events == []
