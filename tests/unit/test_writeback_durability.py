"""``durability = lake``: who changes something is answered when the lake has it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tests.unit.test_writeback_failures import flush, no_time_to_lose, refusing
from tests.unit.test_writeback_markers import Gate
from tests.writing import GID, PATIENCE_S, UID, Lake, World, world
from tierfs.errors import LakeUnavailable
from tierfs.writeback import contents, placer

__all__ = ["no_time_to_lose"]

RULES = ("slow/**,durability=lake", "**")


async def opened(mount: World, path: bytes, data: bytes) -> int:
    """A new file that was written to and not closed: its handle."""
    _, fh = await mount.files.create(*await mount.at(path), 0o644, os.O_WRONLY, UID, GID)
    await mount.files.write(fh, 0, data)
    return fh


async def close(mount: World) -> None:
    await mount.write(b"slow/new", b"1")


async def replace(mount: World) -> None:
    await mount.rename(b"slow/held.tmp", b"slow/latest")


async def move(mount: World) -> None:
    await mount.rename(b"slow/old", b"slow/newer")


async def move_directory(mount: World) -> None:
    await mount.rename(b"slow/full", b"slow/moved")


async def unlink(mount: World) -> None:
    await mount.unlink(b"slow/old")


async def mkdir(mount: World) -> None:
    await mount.mkdir(b"slow/d")


async def rmdir(mount: World) -> None:
    await mount.rmdir(b"slow/empty")


async def symlink(mount: World) -> None:
    await mount.files.make_link(*await mount.at(b"slow/link"), b"old", UID, GID)


async def chmod(mount: World) -> None:
    await mount.files.set_attributes(await mount.ino(b"slow/old"), {"mode": 0o600}, None)


async def truncate(mount: World) -> None:
    await mount.files.set_size(await mount.ino(b"slow/old"), 1, None)


async def begin(mount: World) -> None:
    for path in (b"slow", b"slow/full", b"slow/empty"):
        await mount.mkdir(path)
    await mount.write(b"slow/old", b"old")
    await mount.write(b"slow/full/x", b"x")
    await mount.write(b"slow/held.tmp", b"held")
    assert await mount.flush()


@pytest.mark.parametrize(
    "change",
    [close, replace, move, move_directory, unlink, mkdir, rmdir, symlink, chmod, truncate],
)
async def test_a_change_is_in_the_lake_when_it_returns(
    tmp_path: Path, change: Callable[[World], Awaitable[None]]
) -> None:
    lake = Lake()
    async with world(tmp_path, lake, *RULES) as mount:
        await begin(mount)
        before = len(lake.history)
        gate = Gate(lake, b"first")
        # One root: what was acknowledged before has to be there, too.
        await mount.write(b"first", b"1")
        returned = False

        async def do() -> None:
            nonlocal returned
            await change(mount)
            returned = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(do)
            await trio.sleep(0.1)
            assert not returned
            gate.open()
        assert len(lake.history) > before + 1
        roots = mount.service.describe()["roots"]
        assert roots[0]["durable_lsn"] == mount.service.describe()["acknowledged_lsn"]


async def test_fsync_brings_what_was_written_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody who has it open is waited for: whoever asks has it open.
    for module in (contents, placer):
        monkeypatch.setattr(module, "WRITERS_S", 2 * PATIENCE_S)
    lake = Lake()
    async with world(tmp_path, lake, *RULES) as mount:
        await mount.mkdir(b"slow")
        fh = await opened(mount, b"slow/log", b"12345")
        with trio.fail_after(PATIENCE_S):
            await mount.files.sync(fh, data_only=True)
        assert lake.contents()[b"slow/log"] == b"12345"
        await mount.files.write(fh, 5, b"67890")
        assert lake.contents()[b"slow/log"] == b"12345"
        await mount.files.flush(fh)
        assert lake.contents()[b"slow/log"] == b"1234567890"
        # A second close finds nothing to do.
        await mount.files.flush(fh)
        await mount.files.release(fh)
        assert lake.keys == [b"slow/", b"slow/log", b"slow/log"]


async def test_what_is_held_and_what_another_rule_has_waits_for_nothing(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake, *RULES) as mount:
        await mount.mkdir(b"slow")
        gate = Gate(lake, b"fast")
        with trio.fail_after(PATIENCE_S):
            await mount.write(b"fast", b"1")
            await mount.write(b"slow/x.tmp", b"2")
            fh = await opened(mount, b"slow/y.tmp", b"2")
            await mount.files.sync(fh, data_only=False)
            await mount.files.flush(fh)
            await mount.files.release(fh)
        gate.open()
        assert await mount.flush()
    assert lake.keys == [b"slow/", b"fast"]


async def test_a_root_that_is_frozen_is_an_error_and_nothing_is_lost(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake, *RULES) as mount:
        await mount.mkdir(b"slow")
        lake.before = refusing(b"slow/a")
        with pytest.raises(LakeUnavailable, match="no such permission"):
            await mount.write(b"slow/a", b"1")
        with pytest.raises(LakeUnavailable, match="nothing below / is uploaded"):
            await mount.write(b"slow/b", b"2")
        assert await mount.read(b"slow/b") == b"2"
        lake.before = None
        assert (await flush(mount, "retry"))["durable"]
        await mount.write(b"slow/c", b"3")
    assert lake.keys == [b"slow/", b"slow/a", b"slow/b", b"slow/c"]


async def test_a_wait_that_is_cut_off_undoes_nothing(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake, *RULES) as mount:
        await mount.mkdir(b"slow")
        gate = Gate(lake, b"slow/a")
        fh = await opened(mount, b"slow/a", b"1")
        with trio.move_on_after(0.1) as scope:
            await mount.files.flush(fh)
        assert scope.cancelled_caught
        # The next close waits for the same.
        with trio.move_on_after(0.1) as scope:
            await mount.files.flush(fh)
        assert scope.cancelled_caught
        await mount.files.release(fh)
        gate.open()
        assert await mount.flush()
    assert lake.contents()[b"slow/a"] == b"1"


async def test_a_kill_while_it_waits_costs_nothing(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake, *RULES) as mount:
        await mount.mkdir(b"slow")
        gate = Gate(lake, b"slow/a")
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mount.write, b"slow/a", b"1")
                await gate.reached.wait()
                nursery.cancel_scope.cancel()
    lake.before = None
    async with world(tmp_path, lake, *RULES) as mount:
        assert await mount.flush()
    assert lake.keys == [b"slow/", b"slow/a"]
