"""What a rename does to a file that is open and not written to, and in which order the files of a
directory come to be under their new names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.caching import noise
from tests.unit.test_writeback_passed import kernel
from tests.writing import PATIENCE_S, Lake, World, world
from tierfs.errors import CrossRoot
from tierfs.index.records import BLOCK_SIZE
from tierfs.lake.protocol import Version
from tierfs.writeback.passed import Renumbered

# ---- open, and not written to --------------------------------------------------------------------


async def opened(mount: World, path: bytes) -> int:
    """A handle through which the file can be written."""
    return await mount.files.open(await mount.ino(path), os.O_RDWR)


async def close(mount: World, fh: int) -> None:
    await mount.files.flush(fh)
    await mount.files.release(fh)


@pytest.mark.parametrize("directory", [False, True])
async def test_a_lakes_file_that_is_open_and_not_written_is_moved(
    tmp_path: Path, directory: bool
) -> None:
    lake = Lake()
    lake.store(b"run/a", b"weights")
    old, new = (b"run", b"moved") if directory else (b"run/a", b"moved")
    path = b"moved/a" if directory else b"moved"
    async with world(tmp_path, lake) as mount:
        fh = await opened(mount, b"run/a")
        await mount.rename(old, new)
        assert await mount.files.read(fh, 0, 100) == b"weights"
        assert await mount.flush()
        assert lake.contents().get(path) == b"weights"
        assert b"run/a" not in lake.contents()
        await close(mount, fh)
        assert await mount.read(path) == b"weights"
    assert list((tmp_path / "staging").iterdir()) == []
    assert [key for key in lake.keys if not key.endswith(b"/")] == [path]


class SlowLake(Lake):
    """Answers reads of *key* when its gate is opened, by what it has then."""

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self._key = key
        self.gate = trio.Event()
        self.asked = 0

    async def get(self, key: bytes, version: Version, offset: int, length: int) -> bytes:
        if key == self._key:
            self.asked += 1
            await self.gate.wait()
        return await super().get(key, version, offset, length)


async def test_whoever_reads_while_it_is_moved_reads_on(tmp_path: Path) -> None:
    """All of them: who is first to find out opens it for the others."""
    data, lake = noise(24 * BLOCK_SIZE, 1), SlowLake(b"a")
    lake.store(b"a", data)
    offsets = [0, 9 * BLOCK_SIZE, 17 * BLOCK_SIZE]
    async with world(tmp_path, lake) as mount:
        ino = await mount.ino(b"a")
        handles = [await mount.files.open(ino, os.O_RDONLY) for _ in offsets]

        async def read(fh: int, offset: int) -> None:
            assert await mount.files.read(fh, offset, 100) == data[offset : offset + 100]

        async with trio.open_nursery() as nursery:
            for fh, offset in zip(handles, offsets, strict=True):
                nursery.start_soon(read, fh, offset)
            with trio.fail_after(PATIENCE_S):
                while lake.asked < len(offsets):
                    await trio.sleep(0.005)
            await mount.rename(b"a", b"b")
            assert await mount.flush()
            assert list(lake.contents()) == [b"b"]
            lake.gate.set()
        for fh in handles:
            await read(fh, 5)
            await close(mount, fh)


class RemovingLake(SlowLake):
    """Removes *key*, and answers when its gate is opened."""

    async def delete(self, key: bytes, **how: Any) -> None:
        await super().delete(key, **how)
        if key == self._key:
            self.asked += 1
            await self.gate.wait()

    async def get(self, key: bytes, version: Version, offset: int, length: int) -> bytes:
        return await Lake.get(self, key, version, offset, length)


async def test_whoever_reads_before_the_journal_hears_of_it_reads_on(tmp_path: Path) -> None:
    """The lake has moved it, and the answer is on its way."""
    data, lake = noise(24 * BLOCK_SIZE, 1), RemovingLake(b"a")
    lake.store(b"a", data)
    async with world(tmp_path, lake) as mount, trio.open_nursery() as nursery:
        fh = await mount.files.open(await mount.ino(b"a"), os.O_RDONLY)
        await mount.rename(b"a", b"b")
        with trio.fail_after(PATIENCE_S):
            while not lake.asked:
                await trio.sleep(0.005)

        async def read() -> None:
            offset = 9 * BLOCK_SIZE
            assert await mount.files.read(fh, offset, 100) == data[offset : offset + 100]

        nursery.start_soon(read)
        await trio.sleep(0.05)
        lake.gate.set()
    assert list(lake.contents()) == [b"b"]


async def test_a_lakes_file_that_was_open_is_the_lakes_again_before_it_is_moved(
    tmp_path: Path,
) -> None:
    """By its close, and by a kill; what is read of it is the object under its old name."""
    lake = Lake()
    for name in (b"closed", b"killed"):
        lake.store(name, name)
    async with world(tmp_path, lake, publish=False) as mount:
        for name in (b"closed", b"killed"):
            fh = await opened(mount, name)
            await mount.rename(name, name + b"-1")
            if name == b"closed":
                await close(mount, fh)
                assert await mount.read(b"closed-1") == b"closed"
    async with world(tmp_path, lake) as mount:
        assert await mount.names(b"") == [b"closed-1", b"killed-1"]
        assert await mount.read(b"killed-1") == b"killed"
        assert await mount.flush()
        assert await mount.read(b"killed-1") == b"killed"
    assert lake.contents() == {b"closed-1": b"closed", b"killed-1": b"killed"}


async def test_what_is_written_to_it_after_the_rename_is_under_the_new_name(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"a", b"old")
    async with world(tmp_path, lake) as mount:
        fh = await opened(mount, b"a")
        await mount.rename(b"a", b"b")
        await mount.files.write(fh, 0, b"new")
        await close(mount, fh)
        assert await mount.flush()
        assert mount.service.describe()["conflicts"] == []
        assert await mount.read(b"b") == b"new"
    assert lake.contents() == {b"b": b"new"}


async def test_what_is_written_to_it_before_the_rename_is_under_the_new_name(
    tmp_path: Path,
) -> None:
    lake = Lake()
    lake.store(b"a", b"old")
    async with world(tmp_path, lake) as mount:
        fh = await opened(mount, b"a")
        await mount.files.write(fh, 0, b"new")
        await mount.rename(b"a", b"b")
        await close(mount, fh)
        assert await mount.flush()
    assert lake.contents() == {b"b": b"new"}
    assert lake.keys == [b"b"]


async def test_it_gets_no_temporary_name(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"a", b"1")
    lake.store(b"d/a", b"1")
    async with world(tmp_path, lake) as mount:
        for path, name in ((b"a", b"a"), (b"d/a", b"d")):
            fh = await opened(mount, path)
            with pytest.raises(CrossRoot, match="temporary name"):
                await mount.rename(name, name + b".tmp")
            await close(mount, fh)
        assert await mount.flush()
    assert lake.history == []


async def test_what_was_copied_to_be_written_to_is_moved(tmp_path: Path) -> None:
    """Where the kernel writes by itself, and nobody has come for the copy."""
    lake = Lake()
    lake.store(b"a", b"weights")
    async with kernel(tmp_path, lake) as k:
        with pytest.raises(Renumbered):
            await k.files.open(await k.world.ino(b"a"), os.O_RDWR, fh=2)
        await k.world.rename(b"a", b"b")
        assert await k.world.flush()
    assert lake.contents() == {b"b": b"weights"}


# ---- attributes of what is open and not written to -----------------------------------------------


@pytest.mark.parametrize("killed", [False, True])
async def test_attributes_of_a_lakes_file_that_is_open_arrive(tmp_path: Path, killed: bool) -> None:
    """As ``touch`` does it: it opens for writing, sets the times, and closes."""
    lake, when_ns = Lake(), 1_600_000_000_123_456_789
    lake.store(b"a", b"1")
    async with world(tmp_path, lake, publish=not killed) as mount:
        ino = await mount.ino(b"a")
        fh = await opened(mount, b"a")
        await mount.files.set_attributes(ino, {"mode": 0o600}, (when_ns, when_ns))
        if not killed:
            await close(mount, fh)
            assert mount.files.union.attributes(ino).mtime_ns == when_ns
    async with world(tmp_path, lake) as mount:
        assert await mount.flush()
        shown = mount.files.union.attributes(await mount.ino(b"a"))
        assert (shown.mode, shown.mtime_ns) == (0o600, when_ns)
        assert await mount.read(b"a") == b"1"
    found = (await lake.head(b"a")).metadata
    assert found is not None
    assert (found["mode"], found["mtime"]) == (str(0o100600), "1600000000.123456789")
    assert lake.history == [(b"a", b"1")]


# ---- the order in a directory --------------------------------------------------------------------


async def moved(mount: World, lake: Lake) -> Sequence[bytes]:
    """In which order the files of ``7``, which is renamed, come to be under their new names."""
    lake.history.clear()
    await mount.rename(b"7", b"8")
    assert await mount.flush()
    copied = [key for key in lake.keys if key.startswith(b"8/")]
    assert copied[0] == b"8/"
    return [key.removeprefix(b"8/") for key in copied[1:]]


async def test_a_directory_moves_as_its_files_were_closed(tmp_path: Path) -> None:
    """Whatever they are called."""
    lake, names = Lake(), [b"metadata.json", b"1", b"0", b"DONE"]
    async with world(tmp_path, lake) as mount:
        await mount.mkdir(b"7")
        for name in names:
            await mount.write(b"7/" + name, name)
            # In use, so that it is not handed over.
            await mount.files.open(await mount.ino(b"7/" + name), os.O_RDONLY)
        assert await mount.flush()
        assert await moved(mount, lake) == names


async def test_a_marker_that_got_its_name_late_is_moved_late(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.mkdir(b"7")
        for name in (b"new", b"1", b"0"):
            await mount.write(b"7/" + name, name)
            await mount.files.open(await mount.ino(b"7/" + name), os.O_RDONLY)
        assert await mount.flush()
        await mount.rename(b"7/new", b"7/metadata.json")
        assert await mount.flush()
        assert await moved(mount, lake) == [b"1", b"0", b"metadata.json"]


async def test_a_directory_that_was_handed_over_moves_by_its_times_and_markers_last(
    tmp_path: Path,
) -> None:
    lake = Lake()
    times_ns = {b".metadata": 1, b"latest": 3, b"late": 9, b"early": 2, b"e/between": 4}
    async with world(tmp_path, lake) as mount:
        await mount.mkdir(b"7")
        await mount.mkdir(b"7/e")
        for name, time_ns in times_ns.items():
            ino = await mount.write(b"7/" + name, name)
            await mount.files.set_attributes(ino, {}, (time_ns, time_ns))
        assert await mount.flush()
        await mount.settled()
        order = await moved(mount, lake)
    assert order == [b"e/", b"early", b"e/between", b"late", b".metadata", b"latest"]


async def test_a_directory_that_was_handed_over_in_part_moves_by_its_times_and_markers_last(
    tmp_path: Path,
) -> None:
    """The marker was adopted, and some of what it marks was not: they are in use."""
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.mkdir(b"7")
        times_ns = {b"0": 2, b"1": 1, b"DONE": 3, b".metadata": 1}
        for name, time_ns in times_ns.items():
            ino = await mount.write(b"7/" + name, name)
            await mount.files.set_attributes(ino, {}, (time_ns, time_ns))
            if name in (b"0", b"1"):
                await mount.files.open(ino, os.O_RDONLY)
        assert await mount.flush()
        with trio.fail_after(PATIENCE_S):
            while mount.service.describe()["nodes"] > 2:
                await trio.sleep(0.01)
        assert await moved(mount, lake) == [b"1", b"0", b"DONE", b".metadata"]


async def test_what_was_never_closed_decides_nothing(tmp_path: Path) -> None:
    """It has no place yet, and those of the others are known."""
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.mkdir(b"7")
        for name in (b"0", b"1", b"2"):
            ino = await mount.write(b"7/" + name, name)
            await mount.files.set_attributes(ino, {}, (9 - int(name), 9 - int(name)))
            await mount.files.open(ino, os.O_RDONLY)
        await mount.files.create(*await mount.at(b"7/log"), 0o644, os.O_WRONLY, 0, 0)
        assert await mount.flush()
        assert await moved(mount, lake) == [b"0", b"1", b"2"]


# ---- what is known of a directory from under its old name ----------------------------------------


async def test_what_was_removed_after_a_rename_stays_removed(tmp_path: Path) -> None:
    """Though it was handed over under the old name of its directory, and written to meanwhile."""
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.mkdir(b"d")
        await mount.write(b"d/c", b"one")
        assert await mount.flush()
        await mount.settled()
        fh = await opened(mount, b"d/c")
        await mount.files.write(fh, 0, b"two")
        await mount.rename(b"d", b"e")
        await mount.unlink(b"e/c")
        await close(mount, fh)
        assert await mount.flush()
        await mount.settled()
        assert await mount.names(b"e") == []
    assert lake.contents() == {b"e/": b""}


async def test_a_removal_under_an_old_name_uncovers_nothing_under_the_new_one(
    tmp_path: Path,
) -> None:
    class Gates(Lake):
        def __init__(self) -> None:
            super().__init__()
            self.gates = {b"d/x": trio.Event(), b"e/x": trio.Event()}

        async def delete(self, key: bytes, **how: Any) -> None:
            if key in self.gates:
                await self.gates[key].wait()
            await super().delete(key, **how)

    lake = Gates()
    async with world(tmp_path, lake) as mount:
        await mount.mkdir(b"d")
        await mount.write(b"d/x", b"one")
        assert await mount.flush()
        await mount.settled()
        await mount.unlink(b"d/x")
        await mount.rename(b"d", b"e")
        await mount.write(b"e/x", b"two")
        await mount.write(b"between", b"")
        await mount.unlink(b"e/x")
        lake.gates[b"d/x"].set()
        with trio.fail_after(PATIENCE_S):
            while b"between" not in lake.contents():
                await trio.sleep(0.005)
        await mount.namespace.refresh(b"e")
        assert await mount.names(b"e") == []
        lake.gates[b"e/x"].set()
        assert await mount.flush()
        assert await mount.names(b"e") == []
