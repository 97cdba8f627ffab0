"""What becomes of a file that another writer was first with, while somebody here has it open."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tests.unit.test_writeback_passed import kernel
from tests.writing import GID, UID, Lake, World, world
from tierfs.writeback import placer
from tierfs.writeback.reading import OpenHandle


@pytest.fixture(autouse=True)
def no_wait_for_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was closed is published though somebody has it open for writing."""
    monkeypatch.setattr(placer, "WRITERS_S", 0.0)


class Other:
    """For `Lake.before`: another writer is first with *key*, once, at the first *op*."""

    def __init__(self, lake: Lake, key: bytes, op: str = "put") -> None:
        self._lake, self._key, self._op = lake, key, op
        self.gate = trio.Event()
        self.gate.set()
        self.came = False

    async def __call__(self, op: str, key: bytes) -> None:
        await self.gate.wait()
        if (op, key) == (self._op, self._key) and not self.came:
            self.came = True
            self._lake.store(key, b"theirs")


async def lost(mount: World, lake: Lake, *, new: bool) -> int:
    """A handle on ``model``, whose closed content another writer kept out."""
    if not new:
        await mount.write(b"model", b"before")
        assert await mount.flush()
        await mount.settled()
    lake.before = Other(lake, b"model")
    if new:
        _, fh = await mount.files.create(1, b"model", 0o644, os.O_WRONLY, UID, GID)
    else:
        fh = await mount.files.open(await mount.ino(b"model"), os.O_WRONLY | os.O_TRUNC)
    await mount.files.write(fh, 0, b"first")
    await mount.files.flush(fh)
    assert await mount.flush()
    assert conflicts(mount, lake) == [b"first"]
    return fh


def conflicts(mount: World, lake: Lake) -> list[bytes]:
    """What was put aside."""
    contents = lake.contents()
    return [contents[name.encode()] for name in mount.service.describe()["conflicts"]]


def staged(directory: Path) -> list[Path]:
    return list((directory / "staging").iterdir())


@pytest.mark.parametrize("new", [True, False])
async def test_who_has_it_open_goes_on_and_what_is_closed_next_is_kept_too(
    tmp_path: Path, *, new: bool
) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        fh = await lost(mount, lake, new=new)
        # Here it is what was written, as long as it is open.
        assert await mount.read(b"model") == b"first"
        await mount.files.write(fh, 5, b", second")
        await mount.files.flush(fh)
        assert await mount.flush()
        assert conflicts(mount, lake) == [b"first", b"first, second"]
        await mount.files.write(fh, 13, b", third")
        await mount.files.release(fh)
        assert await mount.flush()
        assert conflicts(mount, lake) == [b"first", b"first, second", b"first, second, third"]
        await mount.settled()
        assert await mount.read(b"model") == b"theirs"
    assert lake.contents()[b"model"] == b"theirs"
    assert staged(tmp_path) == []


@pytest.mark.parametrize("new", [True, False])
async def test_with_nothing_more_written_the_lake_decides_after_the_last_close(
    tmp_path: Path, *, new: bool
) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        fh = await lost(mount, lake, new=new)
        reader = await mount.files.open(await mount.ino(b"model"), os.O_RDONLY)
        await mount.files.release(fh)
        assert await mount.files.read(reader, 0, 10) == b"first"
        await mount.files.release(reader)
        assert mount.service.describe()["nodes"] == 0
        assert await mount.read(b"model") == b"theirs"
    assert staged(tmp_path) == []


@pytest.mark.parametrize("new", [True, False])
async def test_it_is_the_lakes_after_a_kill(tmp_path: Path, *, new: bool) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await lost(mount, lake, new=new)
    async with world(tmp_path, lake) as mount:
        assert mount.service.describe()["nodes"] == 0
        assert await mount.read(b"model") == b"theirs"
    assert staged(tmp_path) == []


async def test_it_can_be_renamed_and_is_what_was_written(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        fh = await lost(mount, lake, new=False)
        await mount.rename(b"model", b"mine")
        await mount.files.release(fh)
        assert await mount.flush()
        await mount.settled()
        assert await mount.read(b"mine") == b"first"
        assert await mount.read(b"model") == b"theirs"
    assert lake.contents()[b"mine"] == b"first"


async def test_it_can_be_removed(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        fh = await lost(mount, lake, new=True)
        await mount.unlink(b"model")
        assert b"model" not in await mount.names(b"")
        await mount.files.release(fh)
        assert await mount.flush()
        assert b"model" not in await mount.names(b"")
    assert b"model" not in lake.contents()


async def chmod(mount: World) -> None:
    await mount.files.set_attributes(await mount.ino(b"model"), {"mode": 0o600}, None)


async def rename(mount: World) -> None:
    await mount.rename(b"model", b"moved")


@pytest.mark.parametrize("change", [chmod, rename])
@pytest.mark.parametrize("still_open", [True, False])
async def test_what_was_not_handed_over_yet_is_the_lakes_when_a_change_of_it_is_given_up(
    tmp_path: Path, change: Callable[[World], Awaitable[None]], *, still_open: bool
) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        # While it is open nothing is handed over.
        _, fh = await mount.files.create(1, b"model", 0o644, os.O_RDWR, UID, GID)
        await mount.files.write(fh, 0, b"first")
        await mount.files.flush(fh)
        assert await mount.flush()
        lake.before = other = Other(lake, b"model" if change is chmod else b"moved", "copy")
        other.gate = trio.Event()
        await change(mount)
        if not still_open:
            await mount.files.release(fh)
        other.gate.set()
        assert await mount.flush()
        assert len(mount.service.describe()["conflicts"]) == 1
        if still_open:
            await mount.files.release(fh)
        await mount.settled()
        if change is chmod:
            assert await mount.read(b"model") == b"theirs"
        else:
            assert await mount.read(b"model") == b"first"
            assert await mount.read(b"moved") == b"theirs"
    assert staged(tmp_path) == []


async def test_with_a_native_front_it_outlives_the_control_plane(tmp_path: Path) -> None:
    lake = Lake()
    lake.before = Other(lake, b"model")
    async with kernel(tmp_path, lake) as k:
        ino = await k.create(2, b"model", b"first")
        await k.files.flush_file(ino)
        assert await k.world.flush()
        assert conflicts(k.world, lake) == [b"first"]
    async with kernel(tmp_path, lake, in_use={ino}) as k:
        await k.files.restore([OpenHandle(ino, 2, True)])
        k.write(ino, b", second", 5)
        await k.close(2, ino)
        assert await k.world.flush()
        assert conflicts(k.world, lake) == [b"first, second"]
        await k.world.settled()
        assert await k.world.ino(b"model") != ino
    assert lake.contents()[b"model"] == b"theirs"
    assert staged(tmp_path) == []
