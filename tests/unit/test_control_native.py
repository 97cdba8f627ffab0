"""The control plane of a native front, wired as it is in a mount; the front is played."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.played_front import Played, play
from tierfs.config import Config
from tierfs.control import main as control
from tierfs.control import wire
from tierfs.control.report import Reporter
from tierfs.control.upcall_loop import native_wire
from tierfs.control.wire import Ask, Command
from tierfs.index.records import ROOT_INO
from tierfs.lake.protocol import LakeCounters


async def run(config: Config, command: str, **args: Any) -> dict[str, Any]:
    """What the control socket answers; nothing at the end of the mount."""
    while not config.control_socket.exists():
        await trio.sleep(0.001)
    async with await trio.open_unix_socket(config.control_socket) as stream:
        line = json.dumps({"v": 1, "command": command, "args": args})
        await stream.send_all(line.encode() + b"\n")
        answer = b"".join([piece async for piece in stream])
    found: dict[str, Any] = json.loads(answer.splitlines()[-1] if answer else b"{}")
    return found


async def answer(played: Played, kind: Command, tail: bytes = b"", error: int = 0) -> bytes:
    """Carry out the command that comes next, which is of this kind; its tail."""
    told = await played.hear()
    assert told["kind"] == kind
    await played.say(Ask.DONE, told["id"], size=error, tail=tail)
    found: bytes = told["tail"]
    return found


async def test_from_the_first_message_to_the_last(
    tmp_path: Path, signals: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tierfs.control.upcalls.STATS_S", 60.0)  # However busy the machine is.
    lake = tmp_path / "lake"
    lake.mkdir()
    (lake / "a").write_bytes(b"some data")
    config = Config(
        url=f"file://{lake}",
        mountpoint=Path("/x"),
        cache=tmp_path / "cache",
        cache_size=1 << 30,
        max_connections=5,
        runtime_dir=tmp_path / "run",
    )
    reporter = Reporter(os.open("/dev/null", os.O_WRONLY))
    answers: dict[str, dict[str, Any]] = {}

    async def ask(name: str, **args: Any) -> None:
        answers[name] = await run(config, name, **args)

    with trio.fail_after(30), play() as (played, upcall_fd, shared_fd):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(control._serve, config, native_wire(upcall_fd, shared_fd), reporter)
            assert (await played.hear())["kind"] == Command.READY
            rules = wire.RULES.unpack_from(await played.begin())
            assert rules[6:] == (5, config.memory, 1 << 30, config.min_free, False)

            found = await played.ask(Ask.LOOKUP, 1, ROOT_INO, tail=b"a")
            ino = wire.ATTRIBUTES.unpack(found["tail"])[0]

            await ask("warmup")
            assert "paths" in str(answers.pop("warmup")["error"])
            args = {"paths": [""]}
            nursery.start_soon(lambda: ask("warmup", **args))
            fetch = await answer(played, Command.FETCH, wire.FETCHED.pack(9))
            assert fetch == wire.pack_fetch(ino, 0, 9, 2)
            nursery.start_soon(ask, "status")
            await answer(played, Command.STATS, b"lake_get_requests 40\nhits 3\nin_flight 2\n")
            while len(answers) < 2:
                await trio.sleep(0.001)
            assert answers["warmup"]["ok"]["fetched_bytes"] == 9
            status = answers["status"]["ok"]
            assert (status["front"], status["cache"]["hits"]) == ("native", 3)
            assert status["cache"]["in_flight"] == 2
            assert status["cache"]["limit_bytes"] == 1 << 30
            assert status["lake_requests"]["get"] == 40  # None of them from here.

            # A command that the front never carries out does not keep the mount from ending.
            nursery.start_soon(lambda: ask("warmup", **args))
            assert (await played.hear())["kind"] == Command.FETCH
            os.kill(os.getpid(), signal.SIGTERM)
    assert not config.control_socket.exists()


@pytest.mark.mockclock
async def test_heaps_are_trimmed_once_when_the_lake_is_quiet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trimmed: list[int] = []
    counters = LakeCounters()
    monkeypatch.setattr(control, "trim_heaps", lambda: trimmed.append(counters.bytes_read))

    async def at_once(function: Callable[[], object]) -> object:
        # The clock of the test does not wait for a thread.
        return function()

    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control._trim_when_quiet, counters)
        await trio.sleep(4.5 * control.TRIM_INTERVAL_S)
        assert trimmed == []  # Nothing has come yet.
        for _ in range(6):
            counters.bytes_read += 1
            await trio.sleep(control.TRIM_INTERVAL_S)
        assert trimmed == []
        await trio.sleep(4 * control.TRIM_INTERVAL_S)
        assert trimmed == [6]
        counters.list_requests += 1
        await trio.sleep(4 * control.TRIM_INTERVAL_S)
        assert trimmed == [6, 6]
        nursery.cancel_scope.cancel()
