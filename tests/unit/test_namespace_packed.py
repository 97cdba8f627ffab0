"""Pages of new files on their way into the index: what is known of them before they are committed
(E1), and when a page is not one of new files alone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.namespaces import WatchedLake, World, read_all
from tests.packing import packed
from tierfs.errors import NotFound
from tierfs.index.index import Index
from tierfs.index.records import ROOT_INO, Dentry, HiddenReason, Inode, Kind
from tierfs.lake.protocol import ListPage, ObjectInfo, Version
from tierfs.lake.s3_listing import parse
from tierfs.namespace import Absent
from tierfs.namespace.entries import Entries, Known
from tierfs.namespace.merge import Merger
from tierfs.namespace.packed import NewFiles, PackedFiles

pytestmark = pytest.mark.skipif(parse is None, reason="tierfs was installed without Rust")

PATIENCE_S = 10


def files(*names: bytes) -> PackedFiles:
    infos = [ObjectInfo(name, len(name), 0, Version(b'"e"')) for name in names]
    page = packed(ListPage(infos))
    assert page.packed is not None
    return PackedFiles(page.packed, page.objects, b"")


@contextlib.asynccontextmanager
async def entries(directory: Path) -> AsyncIterator[tuple[Entries, Index]]:
    index = await Index.open(directory, "lake")
    try:
        async with trio.open_nursery() as nursery:
            yield Entries(index.names, nursery), index
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await index.aclose()


async def test_a_page_is_known_before_it_is_committed(tmp_path: Path) -> None:
    async with entries(tmp_path) as (known, index):
        known.put_new(NewFiles(files(b"a", b"b", b"c"), ROOT_INO, 100, 7, [1]))
        assert index.names.entry_count() == 0
        c = known.known(ROOT_INO, b"c")
        assert c is not None
        assert c.dentry == Dentry(101, Kind.FILE, 7)
        assert (c.inode.size, c.ref and c.ref.key) == (1, b"c")
        assert known.known(ROOT_INO, b"b") is None
        assert known.known(2, b"c") is None
        found = known.known_all(ROOT_INO, [b"a", b"b", b"c", b"d"])
        assert [dentry and dentry.ino for dentry in found] == [100, None, 101, None]
        assert known.knows_any(ROOT_INO, files(b"bb", b"c"))
        assert not known.knows_any(ROOT_INO, files(b"d", b"e"))
        await known.commit()
        assert not known._new
        assert known.known(ROOT_INO, b"c") == c
        assert known.knows_any(ROOT_INO, files(b"c", b"d"))
        assert not known.knows_any(ROOT_INO, files(b"b", b"d"))


async def test_what_is_decided_since_counts(tmp_path: Path) -> None:
    async with entries(tmp_path) as (known, index):
        known.put_new(NewFiles(files(b"a", b"b", b"c", b"d"), ROOT_INO, 100, 7, []))
        for name in (b"a", b"b", b"c"):
            before = known.known(ROOT_INO, name)
            assert before is not None
            if name == b"a":
                known.remove(ROOT_INO, name, before)
            elif name == b"b":
                inode = Inode(Kind.DIRECTORY, 0, -1, -1, 0, 0, ROOT_INO)
                known.put(
                    ROOT_INO, name, Known(Dentry(200, Kind.DIRECTORY, 8), inode, None), before
                )
            else:
                known.touch(ROOT_INO, name, before.dentry, 9)
        assert known.known(ROOT_INO, b"a") is None
        found = known.known_all(ROOT_INO, [b"a", b"b", b"c", b"d"])
        assert [dentry and (dentry.ino, dentry.checked_ns) for dentry in found] == [
            None, (200, 8), (102, 9), (103, 7),
        ]  # fmt: skip
        await known.commit()
        for parent, name, ino in [(ROOT_INO, b"b", 200), (ROOT_INO, b"c", 102)]:
            dentry = index.names.dentry(parent, name)
            assert dentry is not None
            assert dentry.ino == ino
        assert index.names.dentry(ROOT_INO, b"a") is None
        assert index.names.inode(100) is None
        assert index.names.entry_count() == 3


class Counting:
    """How often a page was taken as one of new files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.new = self.others = 0
        merge_new = Merger._merge_new

        def counted(merger: Merger, *how: object) -> bool:
            was_new = merge_new(merger, *how)  # type: ignore[arg-type]
            self.new += was_new
            self.others += not was_new
            return was_new

        monkeypatch.setattr(Merger, "_merge_new", counted)


async def test_a_first_listing_is_packed_and_a_second_one_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(monkeypatch)
    world = World(tmp_path, WatchedLake(10))
    for n in range(25):
        world.lake.store(b"%02d" % n, b"x")
    async with world.mount() as namespace:
        assert len(await read_all(namespace, ROOT_INO)) == 25
        assert (counting.new, counting.others) == (3, 0)
        world.lake.store(b"24", b"yy")
        world.clock.advance(61)
        assert len({name for _, name, _ in await read_all(namespace, ROOT_INO)}) == 25
        assert (counting.new, counting.others) == (3, 3)
        assert (await namespace.lookup(ROOT_INO, b"24")).size == 2


async def test_a_name_that_was_denied_is_no_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel may hold it as absent, and is told (E4)."""
    counting = Counting(monkeypatch)
    world = World(tmp_path, WatchedLake(1))
    world.lake.store(b"d/a", b"x")
    async with world.mount() as namespace:
        directory = (await namespace.lookup(ROOT_INO, b"d")).ino
        with pytest.raises(Absent):
            await namespace.lookup(directory, b"b")
        with trio.fail_after(PATIENCE_S):
            while len(namespace._listings):  # The directory is looked into beside the answer.
                await trio.sleep(0.001)
        world.changes.clear()
        world.lake.store(b"d/b", b"x")
        counting.new = 0
        world.clock.advance(61)
        await read_all(namespace, directory)
        with trio.fail_after(PATIENCE_S):
            while not world.changes:  # It is told once it is committed.
                await trio.sleep(0.001)
        assert counting.new == 0
        assert world.changes == [(directory, b"b", 0)]


async def test_a_directory_behind_the_end_of_a_page_hides_its_object(tmp_path: Path) -> None:
    world = World(tmp_path, WatchedLake(2))
    for key in (b"a", b"a!", b"a-b", b"a.c", b"a/x", b"b"):
        world.lake.store(key, b"x")
    async with world.mount() as namespace:
        found = await read_all(namespace, ROOT_INO)
        assert sorted(name for _, name, _ in found) == [b"a", b"a!", b"a-b", b"a.c", b"b"]
        assert {name: attributes.kind for _, name, attributes in found}[b"a"] is Kind.DIRECTORY
        assert [hidden.reason for hidden in namespace.hidden(10)] == [
            HiddenReason.SHADOWED_BY_DIRECTORY
        ]


async def test_another_absence_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(monkeypatch)
    world = World(tmp_path)
    for n in range(25):
        world.lake.store(b"d/%02d" % n, b"x")
    async with world.mount() as namespace:
        directory = (await namespace.lookup(ROOT_INO, b"d")).ino
        counting.new = counting.others = 0
        with pytest.raises(Absent):
            await namespace.lookup(directory, b"index.json")
        assert len(await read_all(namespace, directory)) == 25
        assert (counting.new, counting.others) == (1, 0)


async def test_what_cannot_be_committed_is_not_known(tmp_path: Path) -> None:
    async with entries(tmp_path) as (known, _):
        known.put_new(NewFiles(files(b"a"), 77, 100, 7, []))  # There is no such directory.
        with pytest.raises(NotFound):
            await known.commit()
        assert known.known(77, b"a") is None
        assert not known._new
