"""``tierfs flush``: what is asked of a mount, what is said of the answer, and the exit status."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tierfs import cli
from tierfs.cli import flush, live
from tierfs.cli.progress import ProgressLine
from tierfs.control.client import Mount
from tierfs.errors import MountError

MOUNT = Mount(Path("/mnt/run"), "s3://b", "fuse.tierfs", 0)
OTHER = Mount(Path("/mnt/other"), "s3://c", "fuse.tierfs", 0)
DONE: dict[str, Any] = {
    "durable": True,
    "thawed": 0,
    "unflushed_changes": 0,
    "unflushed_files": 0,
    "unflushed_bytes": 0,
    "held_names": 0,
    "roots": [{"root": "/checkpoints", "durable_lsn": 7, "failure": None, "failed_path": None}],
}
FROZEN: dict[str, Any] = {
    **DONE,
    "durable": False,
    "unflushed_changes": 1234,
    "unflushed_bytes": 3 << 30,
    "roots": [
        {
            "root": "/checkpoints",
            "durable_lsn": 7,
            "failure": "store an object: checkpoints/a (access denied)",
            "failed_path": "checkpoints/a",
        },
        {"root": "/logs", "durable_lsn": 9, "failure": None, "failed_path": None},
    ],
}


class Asked:
    """Stands for the mounts: remembers what they were asked."""

    def __init__(self) -> None:
        self.answers: dict[Mount, dict[str, Any]] = {MOUNT: DONE, OTHER: DONE}
        self.requests: list[tuple[Mount, dict[str, Any]]] = []
        self.runtime_dirs: list[Path | None] = []
        #: What the mount says of its progress.
        self.told: list[dict[str, Any]] = []
        self.error: Exception | None = None

    def __call__(
        self,
        mount: Mount,
        command: str,
        args: dict[str, Any],
        *,
        progress: ProgressLine,
        runtime_dir: Path | None,
    ) -> dict[str, Any]:
        assert command == "flush"
        self.requests.append((mount, args))
        self.runtime_dirs.append(runtime_dir)
        for fields in self.told:
            progress(fields)
        if self.error is not None:
            raise self.error
        return self.answers[mount]


def find_mount(path: Path) -> tuple[Mount, bytes]:
    for mount in (MOUNT, OTHER):
        if path.is_relative_to(mount.mountpoint):
            below = path.relative_to(mount.mountpoint)
            return mount, b"" if below == Path() else bytes(below)
    raise MountError("not on a tierfs mount", str(path))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    monkeypatch.setattr(live, "find_mount", find_mount)
    monkeypatch.setattr(flush, "call", asked)
    return asked


def test_without_options_it_asks_and_does_not_wait(
    asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["flush", "/mnt/run"]) == 0
    request = {"paths": [""], "wait": False, "timeout_s": None, "action": ""}
    assert asked.requests == [(MOUNT, request)]
    assert capsys.readouterr().out == "all of it is in the lake\n"


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (["--wait"], {"wait": True}),
        (["--wait", "--timeout", "10m"], {"wait": True, "timeout_s": 600.0}),
        (["--wait", "--timeout=250ms"], {"wait": True, "timeout_s": 0.25}),
        (["--retry"], {"action": "retry"}),
        (["--skip", "--wait"], {"action": "skip", "wait": True}),
    ],
)
def test_options_are_handed_on(asked: Asked, argv: list[str], wanted: dict[str, Any]) -> None:
    assert cli.main(["flush", *argv, "/mnt/run"]) == 0
    request = {"paths": [""], "wait": False, "timeout_s": None, "action": "", **wanted}
    assert asked.requests == [(MOUNT, request)]


def test_each_mount_is_asked_once_with_its_paths(asked: Asked) -> None:
    paths = ["/mnt/run/a", "/mnt/other", "/mnt/run/b/c\udcff"]
    assert cli.main(["flush", "--wait", "--runtime-dir", "/run/x", *paths]) == 0
    assert [(mount, args["paths"]) for mount, args in asked.requests] == [
        (MOUNT, ["a", "b/c\udcff"]),
        (OTHER, [""]),
    ]
    assert asked.runtime_dirs == [Path("/run/x")] * 2


def test_what_is_frozen_is_said_with_what_to_do(
    asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.answers[MOUNT] = FROZEN
    assert cli.main(["flush", "--wait", "/mnt/run"]) == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "1,234 changes (3.00 GiB) are on their way"
    assert second.startswith("/checkpoints is frozen at checkpoints/a: store an object")
    assert "--retry" in third
    assert "--skip" in third


def test_one_mount_that_is_not_done_is_enough_to_fail(
    asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.answers[MOUNT] = FROZEN
    assert cli.main(["flush", "--wait", "/mnt/run", "/mnt/other"]) == 1
    # The other one was asked all the same.
    assert [mount for mount, _ in asked.requests] == [MOUNT, OTHER]
    assert capsys.readouterr().out.endswith("all of it is in the lake\n")


def test_json(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked.answers[MOUNT] = FROZEN
    assert cli.main(["flush", "--json", "/mnt/run", "/mnt/other"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == FROZEN
    assert json.loads(second) == DONE


def test_held_names_are_said() -> None:
    assert flush.render({**DONE, "held_names": 1200}).splitlines() == [
        "all of it is in the lake",
        "1,200 temporary names stay on this node until they are renamed",
    ]


def test_an_answer_without_roots_can_be_shown() -> None:
    # As from a mount whose uploads have not begun.
    answer = {"unflushed_changes": 2, "unflushed_bytes": 10}
    assert flush.render(answer) == "2 changes (10 B) are on their way"


def test_a_mount_that_cannot_answer_fails(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked.error = MountError("this mount is read-only", "", "mount with --write-back to write")
    assert cli.main(["flush", "/mnt/run"]) == 1
    assert "mount with --write-back" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["flush"], "required: PATH"),
        (["flush", "--retry", "--skip", "/mnt/run"], "not allowed with"),
        (["flush", "--wait", "--timeout", "5", "/mnt/run"], "--timeout"),
        (["flush", "--wait", "--timeout", "soon", "/mnt/run"], "--timeout"),
        (["flush", "--wiat", "/mnt/run"], "--wiat"),
    ],
)
def test_a_wrong_question_is_answered_with_2(
    asked: Asked, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    assert message in capsys.readouterr().err
    assert asked.requests == []


def test_a_path_on_no_mount_is_told(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["flush", "/srv/x"]) == 1
    assert "/srv/x" in capsys.readouterr().err
    assert asked.requests == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_how_much_is_left(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    asked.told = [{"unflushed_changes": 12_288, "unflushed_bytes": 5 << 20}]
    assert cli.main(["flush", "--wait", "/mnt/run"]) == 0
    assert "12,288 changes (5.00 MiB) are on their way" in terminal.getvalue()
