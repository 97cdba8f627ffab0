"""Modes, owners, times and links that one node wrote, as another node shows and changes them."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.writing import GID, UID, Lake, World, world
from tierfs.index.records import ROOT_INO, Kind
from tierfs.namespace.described import within

TIME_NS = 1_700_000_000_123_456_789
TREE = {b"run/file": b"bytes", b"run/link": b"file", b"run/deep/link": b"../file"}


async def write(mount: World) -> None:
    """What `TREE` says, and an empty directory."""
    await mount.mkdir(b"run")
    await mount.mkdir(b"run/deep")
    await mount.mkdir(b"run/empty")
    ino = await mount.write(b"run/file", TREE[b"run/file"])
    for path in (b"run/link", b"run/deep/link"):
        await mount.files.make_link(*await mount.at(path), TREE[path], UID, GID)
    await mount.files.set_attributes(ino, {"mode": 0o640, "uid": 7, "gid": 8}, (TIME_NS, TIME_NS))
    await mount.files.set_attributes(await mount.ino(b"run/empty"), {"mode": 0o700}, None)
    assert await mount.flush()


@contextlib.asynccontextmanager
async def another(directory: Path, lake: Lake) -> AsyncIterator[World]:
    """Another node, on which *directory* is."""
    (directory / "another").mkdir(exist_ok=True)
    async with world(directory / "another", lake, described=within([b"run"])) as mount:
        yield mount


async def target(mount: World, path: bytes) -> bytes:
    assert await mount.kind(path) is Kind.SYMLINK
    return await mount.files.union.read_link(await mount.ino(path))


async def test_another_node_shows_what_one_wrote(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await write(mount)
    async with another(tmp_path, lake) as mount:
        assert await mount.names(b"run") == [b"deep", b"empty", b"file", b"link"]
        found = mount.files.union.attributes(await mount.ino(b"run/file"))
        assert found[2:7] == (0o640, 7, 8, 5, TIME_NS)
        assert mount.files.union.attributes(await mount.ino(b"run/empty")).mode == 0o700
        for path in (b"run/link", b"run/deep/link"):
            assert await target(mount, path) == TREE[path]


async def test_what_a_directory_is_given_later_arrives_too(tmp_path: Path) -> None:
    """One that was handed over, and one that only the names of objects made."""
    lake = Lake()
    lake.store(b"theirs/file", b"x")
    async with world(tmp_path, lake) as mount:
        await mount.mkdir(b"ours")
        assert await mount.flush()
        await mount.settled()
        for path in (b"ours", b"theirs"):
            await mount.files.set_attributes(await mount.ino(path), {"mode": 0o700}, None)
            assert mount.files.union.attributes(await mount.ino(path)).mode == 0o700
        assert await mount.flush()
    for key in (b"ours/", b"theirs/"):
        metadata = (await lake.head(key)).metadata
        assert metadata is not None
        assert metadata["mode"] == str(stat.S_IFDIR | 0o700)


async def rename(mount: World) -> dict[bytes, bytes]:
    await mount.rename(b"run/link", b"run/moved")
    return {b"run/moved": TREE[b"run/link"], b"run/deep/link": TREE[b"run/deep/link"]}


async def rename_directory(mount: World) -> dict[bytes, bytes]:
    await mount.rename(b"run/deep", b"run/moved")
    return {b"run/link": TREE[b"run/link"], b"run/moved/link": TREE[b"run/deep/link"]}


async def touch(mount: World) -> dict[bytes, bytes]:
    ino = await mount.ino(b"run/link")
    await mount.files.set_attributes(ino, {}, (TIME_NS, TIME_NS))
    assert mount.files.union.attributes(ino).mtime_ns == TIME_NS
    return {path: TREE[path] for path in (b"run/link", b"run/deep/link")}


async def replace(mount: World) -> dict[bytes, bytes]:
    await mount.unlink(b"run/link")
    await mount.files.make_link(*await mount.at(b"run/link"), b"elsewhere", UID, GID)
    return {b"run/link": b"elsewhere", b"run/deep/link": TREE[b"run/deep/link"]}


async def replace_by_rename(mount: World) -> dict[bytes, bytes]:
    await mount.files.make_link(*await mount.at(b"run/new"), b"elsewhere", UID, GID)
    await mount.rename(b"run/new", b"run/link")
    return {b"run/link": b"elsewhere", b"run/deep/link": TREE[b"run/deep/link"]}


@pytest.mark.parametrize("change", [rename, rename_directory, touch, replace, replace_by_rename])
async def test_a_link_of_another_nodes_stays_one_whatever_is_done_to_it(
    tmp_path: Path, change: Callable[[World], Awaitable[dict[bytes, bytes]]]
) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await write(mount)
    async with another(tmp_path, lake) as mount:
        links = await change(mount)
        assert {path: await target(mount, path) for path in links} == links
        assert await mount.flush()
        assert {path: await target(mount, path) for path in links} == links
        assert mount.service.describe()["conflicts"] == []
    # A third node, which knows nothing.
    async with another(tmp_path / "another", lake) as mount:
        assert {path: await target(mount, path) for path in links} == links
        assert await mount.read(b"run/file") == b"bytes"
    assert {path: body for path, body in lake.contents().items() if path in links} == links


async def test_a_link_of_another_nodes_can_be_removed(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await write(mount)
    async with another(tmp_path, lake) as mount:
        await mount.unlink(b"run/link")
        assert await mount.names(b"run") == [b"deep", b"empty", b"file"]
        assert await mount.flush()
    assert b"run/link" not in lake.contents()


async def test_without_the_option_a_link_is_a_file(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await write(mount)
    (tmp_path / "another").mkdir()
    async with world(tmp_path / "another", lake) as mount:
        assert await mount.kind(b"run/link") is Kind.FILE
        assert await mount.read(b"run/link") == b"file"
        assert mount.files.union.attributes(await mount.ino(b"run/file")).uid == 0
        assert (await mount.files.union.lookup(ROOT_INO, b"run")).kind is Kind.DIRECTORY
