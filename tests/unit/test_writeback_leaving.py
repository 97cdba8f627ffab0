"""The end of a mount that writes: what is waited for, what ends the wait, and what stays."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.writing import PATIENCE_S, Lake, world
from tierfs.errors import LakeDenied
from tierfs.writeback.leaving import Telling

Fields = dict[str, Any]


class Gate:
    """For `Lake.before`: requests wait while it is shut."""

    def __init__(self) -> None:
        self.open = trio.Event()

    async def __call__(self, op: str, key: bytes) -> None:
        await self.open.wait()


async def nobody(fields: Fields) -> None:
    pass


async def test_the_end_waits_until_all_is_in_the_lake(tmp_path: Path) -> None:
    lake = Lake()
    lake.before = gate = Gate()
    async with world(tmp_path, lake, unmount_flush_s=math.inf) as mount:
        for name in (b"a", b"b"):
            await mount.write(name, name)
        ended = trio.Event()

        async def end() -> None:
            await mount.service.end()
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            await trio.sleep(0.2)
            assert not ended.is_set()
            gate.open.set()
        assert lake.contents() == {b"a": b"a", b"b": b"b"}


async def test_past_the_deadline_everything_stays_for_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lake = Lake()
    lake.before = Gate()
    async with world(tmp_path, lake, unmount_flush_s=0.1) as mount:
        await mount.write(b"a", b"a" * 10)
        await mount.service.end()
        assert lake.contents() == {}
    (said,) = [text for text in caplog.messages if "not in the lake yet" in text]
    assert "1 changes (1 files, 10 bytes)" in said
    lake.before = None
    async with world(tmp_path, lake) as mount:
        assert await mount.flush()
        assert lake.contents() == {b"a": b"a" * 10}


async def test_nobody_waits_where_nothing_is_to_be_waited_for(tmp_path: Path) -> None:
    lake = Lake()
    lake.before = Gate()
    async with world(tmp_path, lake, unmount_flush_s=0.0) as mount:
        await mount.write(b"a", b"a")
        with trio.fail_after(PATIENCE_S):
            await mount.service.end()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_hurry_ends_the_wait(tmp_path: Path, when: str) -> None:
    lake = Lake()
    lake.before = Gate()
    async with world(tmp_path, lake, unmount_flush_s=math.inf) as mount:
        await mount.write(b"a", b"a")
        if when == "before":
            mount.service.hurry()
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mount.service.end)
                await trio.sleep(0.1)
                mount.service.hurry()


async def test_a_frozen_root_is_not_waited_for_and_others_are(tmp_path: Path) -> None:
    lake = Lake()

    async def before(op: str, key: bytes) -> None:
        if key == b"a/1":
            raise LakeDenied("write an object", key, "no such permission")
        await trio.sleep(0.05)

    lake.before = before
    async with world(tmp_path, lake, "a/**", "b/**", unmount_flush_s=math.inf) as mount:
        for name in (b"a", b"b"):
            await mount.mkdir(name)
            await mount.write(name + b"/1", name)
        with trio.fail_after(PATIENCE_S):
            await mount.service.end()
        assert sorted(lake.contents()) == [b"a/", b"b/", b"b/1"]


async def test_whoever_unmounts_is_told_when_and_how_it_ends(tmp_path: Path) -> None:
    lake = Lake()
    lake.before = gate = Gate()
    told: list[Fields] = []
    async with world(tmp_path, lake, unmount_flush_s=math.inf) as mount:
        await mount.write(b"a", b"a")
        ready = trio.Event()

        async def tell(fields: Fields) -> None:
            told.append(fields)
            if fields.get("ready"):
                ready.set()

        async def leave() -> None:
            await mount.service.leave(wait=True, told=tell)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            await trio.sleep(0.1)
            assert not ready.is_set()
            gate.open.set()
            with trio.fail_after(PATIENCE_S):
                await ready.wait()
            assert lake.contents() == {b"a": b"a"}
            # Somebody wrote before the mount was gone: that is waited for, too.
            await mount.write(b"b", b"b")
            await mount.service.end()
        assert lake.contents() == {b"a": b"a", b"b": b"b"}
    assert told[0]["unflushed_files"] == 1
    assert told[-1]["unflushed_files"] == 0
    assert not any(fields["ending"] for fields in told if "ready" in fields)
    assert told[-1]["ending"]
    assert sum("ready" in fields for fields in told) == 1


def test_saying_how_far_it_is_does_not_hold_up_what_it_is_about() -> None:
    described, told = 0, []

    def describe() -> Fields:
        nonlocal described
        described += 1
        return {"n": described}

    async def tell(fields: Fields) -> None:
        told.append(fields)

    async def main() -> None:
        telling = Telling(tell, describe)
        # As after each of a thousand files.
        for _ in range(1000):
            await telling()
        assert told == [{"n": 1}]
        await trio.sleep(telling.pause_s)
        await telling()
        assert await telling.now(ready=True) == {"n": 3, "ready": True}

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert told == [{"n": 1}, {"n": 2}, {"n": 3, "ready": True}]


async def test_both_waits_have_one_deadline(tmp_path: Path) -> None:
    lake = Lake()
    lake.before = Gate()
    told: list[Fields] = []

    async def tell(fields: Fields) -> None:
        told.append(fields)

    async def leave() -> None:
        await mount.service.leave(wait=False, told=tell)

    async with world(tmp_path, lake, unmount_flush_s=math.inf) as mount:
        await mount.write(b"a", b"a")
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(leave)
                while not told:
                    await trio.sleep(0.01)
                await mount.service.end()
    assert told[-1]["unflushed_files"] == 1


async def test_whoever_cannot_unmount_has_asked_for_nothing(tmp_path: Path) -> None:
    lake = Lake()
    lake.before = gate = Gate()
    async with world(tmp_path, lake, unmount_flush_s=math.inf) as mount:
        await mount.write(b"a", b"a")
        # A deadline that is over, of a client that went away.
        with trio.move_on_after(0.1):
            await mount.service.leave(wait=False, told=nobody)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.service.end)
            await trio.sleep(0.2)
            assert lake.contents() == {}
            gate.open.set()
        assert lake.contents() == {b"a": b"a"}
