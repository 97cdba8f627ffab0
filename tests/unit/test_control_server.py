"""The control socket: answers, errors, progress, and clients that go away or send nonsense."""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tierfs.control import server as server_module
from tierfs.control.server import MAX_REQUEST_BYTES, Progress, serve_control
from tierfs.errors import NotFound


class Handler:
    """Commands of a make-believe mount."""

    def __init__(self) -> None:
        self.cancelled = trio.Event()

    async def run(self, command: str, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        if command == "count":
            for n in range(args["to"]):
                await progress({"n": n})
            return {}
        if command == "hang":
            await progress({"started": True})
            try:
                await trio.sleep_forever()
            finally:
                self.cancelled.set()
        if command == "crash":
            raise RuntimeError("a bug")
        raise NotFound("find", b"\xffname", "look elsewhere")


@asynccontextmanager
async def server(path: Path) -> AsyncIterator[Handler]:
    handler = Handler()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_control, path, handler)
        while not path.exists():
            await trio.sleep(0.001)
        yield handler
        nursery.cancel_scope.cancel()
    assert not path.exists()


async def ask(path: Path, line: bytes) -> list[dict[str, Any]]:
    stream = await trio.open_unix_socket(path)
    async with stream:
        await stream.send_all(line)
        data = bytearray()
        async for piece in stream:
            data += piece
    return [json.loads(answer) for answer in data.splitlines()]


def request(command: str, version: int = 1, **args: Any) -> bytes:
    return json.dumps({"v": version, "command": command, "args": args}).encode() + b"\n"


async def test_progress_then_one_answer_even_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "run" / "control.sock"
    async with server(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        answers = await ask(path, request("count", to=2))
        assert answers == [{"progress": {"n": 0}}, {"progress": {"n": 1}}, {"ok": {}}]


async def test_errors_arrive_with_kind_subject_and_hint(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with server(path):
        (answer,) = await ask(path, request("other"))
        assert answer["error"] == {
            "kind": "NotFound",
            "op": "find",
            "subject": "\\xffname",
            "hint": "look elsewhere",
        }


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"[]\n",
        b'{"v": 1}\n',
        b'{"v": 1, "command": 3}\n',
        request("x", version=99),
        b"x" * (MAX_REQUEST_BYTES + 70000),
    ],
    ids=["text", "list", "no-command", "number", "version", "endless"],
)
async def test_nonsense_is_refused_and_the_server_goes_on(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "control.sock"
    async with server(path):
        try:
            answers = await ask(path, line)
        except trio.BrokenResourceError:
            answers = []  # It hung up on us in the middle of the endless line.
        assert all(answer["error"]["kind"] == "InvalidRequest" for answer in answers)
        assert (await ask(path, request("count", to=0)))[-1] == {"ok": {}}


async def test_a_client_that_goes_away_ends_its_command(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with server(path) as handler:
        stream = await trio.open_unix_socket(path)
        await stream.send_all(request("hang"))
        await stream.receive_some(100)
        await stream.aclose()
        with trio.fail_after(5):
            await handler.cancelled.wait()


async def test_a_bug_in_a_command_does_not_end_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control.sock"
    async with server(path):
        assert await ask(path, request("crash")) == []
        assert "a bug" in caplog.text
        assert (await ask(path, request("count", to=0)))[-1] == {"ok": {}}


async def test_too_many_open_files_do_not_end_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control.sock"
    monkeypatch.setattr(server_module, "ACCEPT_RETRY_S", 0.001)
    with trio.socket.socket() as example:
        socket_type = type(example)
    accept = socket_type.accept
    failures = 2

    async def failing(self: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return await accept(self)

    monkeypatch.setattr(socket_type, "accept", failing)
    async with server(path):
        assert await ask(path, request("count", to=0)) == [{"ok": {}}]
    assert failures == 0
    assert caplog.text.count("cannot accept") == 1
