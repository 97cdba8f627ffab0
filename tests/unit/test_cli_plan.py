"""``tierfs plan``: what is told of an order of reads, and what is shown of it."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tierfs import cli
from tierfs.cli import plan
from tierfs.control import telling
from tierfs.control.client import Mount
from tierfs.control.server import MAX_REQUEST_BYTES
from tierfs.errors import MountError

MOUNT = Mount(Path("/mnt/lake"), "s3://b", "fuse.tierfs", 0)
KNOWN = {
    "entries": 3000,
    "position": 17,
    "hits": 16,
    "unknown": 2,
    "believed": True,
    "followed_share": 1.0,
    "ahead_bytes": 8 << 30,
}


class Asked:
    """Stands for the mount: remembers what it was asked."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        #: Fails at this request.
        self.fails_at = -1

    def __call__(
        self, mount: Mount, command: str, args: dict[str, Any], **_: object
    ) -> dict[str, Any]:
        assert (mount, command) == (MOUNT, "plan")
        if len(self.requests) == self.fails_at:
            raise MountError("the mount stopped meanwhile")
        self.requests.append(args)
        return self.answer

    @property
    def names(self) -> list[str]:
        return [name for request in self.requests for name in request["paths"]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked(KNOWN)
    monkeypatch.setattr(plan, "find_mount", lambda path: (MOUNT, b""))
    monkeypatch.setattr(plan, "call", asked)
    monkeypatch.setattr(telling, "call", asked)
    return asked


def write(directory: Path, data: bytes) -> str:
    file = directory / "order"
    file.write_bytes(data)
    return str(file)


def test_an_order_is_told_and_what_is_known_is_shown(
    asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, b"a/1\n/mnt/lake/a/2\n\n/elsewhere/3\na\xff\n")
    assert cli.main(["plan", "/mnt/lake", file]) == 0
    assert asked.requests == [{"paths": ["a/1", "a/2", "", "a\udcff"], "append": False}]
    text = capsys.readouterr().out
    for part in ("3,000 reads", "17", "2 names", "8.00 GiB"):
        assert part in text
    assert "not gone by" not in text


def test_it_goes_in_pieces_of_which_only_the_first_replaces(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "NAMES_AT_ONCE", 10)
    names = [f"{n:03}" for n in range(25)]
    file = write(tmp_path, "\n".join(names).encode())
    assert cli.main(["plan", "/mnt/lake", file]) == 0
    assert asked.names == names
    assert [request["append"] for request in asked.requests] == [False, True, True]
    assert cli.main(["plan", "/mnt/lake", file, "--append", "--ahead", "5G"]) == 0
    assert all(request["append"] for request in asked.requests[3:])
    assert all(request["ahead_bytes"] == 5 << 30 for request in asked.requests[3:])


def test_a_piece_is_no_longer_than_a_request_may_be(asked: Asked, tmp_path: Path) -> None:
    file = write(tmp_path, b"\n".join([b"\xff" * 1000] * 3000))
    assert cli.main(["plan", "/mnt/lake", file]) == 0
    assert len(asked.names) == 3000
    assert max(len(json.dumps(request)) for request in asked.requests) < MAX_REQUEST_BYTES - 1000


def test_parts_of_a_file_stand_for_it(asked: Asked, tmp_path: Path) -> None:
    file = write(tmp_path, b"a\t0\t10\na\t10\t10\nb\t0\t10\na\t20\t10\nc\nc\nd\te\n")
    assert cli.main(["plan", "/mnt/lake", file]) == 0
    assert asked.names == ["a", "b", "a", "c", "c", "d\te"]


def test_names_may_end_with_a_nul(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"a\nb\0c\t1\t2\0"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert cli.main(["plan", "/mnt/lake", "-", "-0"]) == 0
    assert asked.names == ["a\nb", "c\t1\t2"]


def test_an_empty_order_is_one(asked: Asked, tmp_path: Path) -> None:
    assert cli.main(["plan", "/mnt/lake", write(tmp_path, b"")]) == 0
    assert asked.requests == [{"paths": [], "append": False}]


def test_names_are_relative_to_the_directory_given(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("/mnt/lake/sets")
    monkeypatch.setattr(plan, "find_mount", lambda path: (MOUNT, b"sets"))
    link = os.fsencode(tmp_path / "link")
    file = write(tmp_path, b"a\n" + link + b"/b\n/mnt/lake/c\n")
    assert cli.main(["plan", str(tmp_path / "link"), file]) == 0
    assert asked.names == ["sets/a", "sets/b", "c"]


def test_it_shows_and_forgets(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "/mnt/lake", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == KNOWN
    asked.answer = {**KNOWN, "entries": 0, "position": 0, "unknown": 0, "believed": False}
    assert cli.main(["plan", "/mnt/lake", "--clear"]) == 0
    assert capsys.readouterr().out == "no order is known\n"
    assert cli.main(["plan", "/mnt/lake", "--ahead", "1G"]) == 0
    assert asked.requests == [{}, {"clear": True}, {"ahead_bytes": 1 << 30}]


def test_one_that_is_not_followed_says_so(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked.answer = {**KNOWN, "believed": False, "followed_share": 0.25}
    assert cli.main(["plan", "/mnt/lake"]) == 0
    assert "not gone by: 25% of the last reads" in capsys.readouterr().out


def test_an_order_without_a_single_file_fails(asked: Asked, tmp_path: Path) -> None:
    asked.answer = {**KNOWN, "entries": 0}
    assert cli.main(["plan", "/mnt/lake", write(tmp_path, b"x\ny\n")]) == 1


def test_a_mount_that_goes_away_keeps_what_it_was_told(
    asked: Asked,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(telling, "NAMES_AT_ONCE", 2)
    asked.fails_at = 1
    assert cli.main(["plan", "/mnt/lake", write(tmp_path, b"a\nb\nc\n")]) == 1
    assert asked.names == ["a", "b"]
    assert "stopped meanwhile" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["plan"], "required: DIR"),
        (["plan", "/mnt/lake", "/no/such/file"], "No such file"),
        (["plan", "/mnt/lake", "x", "--clear"], "--clear takes no order"),
        (["plan", "/mnt/lake", "--append"], "name a FILE"),
        (["plan", "/mnt/lake", "--ahead", "5"], "needs a unit"),
    ],
)
def test_a_wrong_question_is_answered_with_2(
    asked: Asked, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    assert message in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_says_how_many() -> None:
    terminal = Terminal()
    line = plan.Told(terminal)
    line({"names": 12_288})
    line.close()
    assert "12,288 names told" in terminal.getvalue()
