"""Directories: pages that stream, relistings, sweeps, failures half-way (N5, N6, N8), and
refreshes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.namespaces import WatchedLake, World, names_in, read_all, settle
from tierfs.errors import CacheError, LakeUnavailable, NotADirectory, NotFound
from tierfs.index.names import NamesBatch
from tierfs.index.records import ROOT_INO, Kind
from tierfs.lake.memory import MemoryLake
from tierfs.lake.protocol import ListPage, ObjectInfo, Version
from tierfs.namespace import Absent


def world_of(directory: Path, *keys: bytes, page_size: int = 1000) -> tuple[World, WatchedLake]:
    lake = WatchedLake(page_size)
    for key in keys:
        lake.store(key, b"content")
    return World(directory, lake), lake


NINE = [b"%d" % n for n in range(9)]


class EndlessLake(MemoryLake):
    """A flat directory of *size* objects that exist only as the pages that are asked for."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.pages = self.splits = 0
        self.gate = trio.Event()

    async def list_page(
        self,
        prefix: bytes,
        *,
        token: bytes | None = None,
        max_keys: int = 1000,
        recursive: bool = False,
        start_after: bytes = b"",
    ) -> ListPage:
        if self.pages:
            await self.gate.wait()
        await trio.lowlevel.checkpoint()
        self.pages += 1
        self.splits += bool(start_after)
        if start_after:
            # The least name of nine digits that sorts after it.
            start = int(start_after.ljust(9, b"0")) + (len(start_after) == 9)
        else:
            start = int(token or b"0")
        end = min(start + max_keys, self.size)
        objects = [ObjectInfo(b"%09d" % n, 1, 1, Version(b"%d" % n)) for n in range(start, end)]
        return ListPage(objects, [], b"%d" % end if end < self.size else None)


def rss_anon_kib() -> int:
    """This process's own memory; LMDB's mapped pages are page cache and do not count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise AssertionError("no RssAnon in /proc/self/status")


async def test_a_huge_directory_answers_at_its_first_page_in_flat_memory(tmp_path: Path) -> None:
    lake = EndlessLake(200_000)
    world = World(tmp_path, lake)
    async with world.mount() as namespace:
        batch = await namespace.readdir(ROOT_INO, 0)
        assert lake.pages == 1
        assert len(batch) == 999  # The last of a page waits for what may hide it.
        lake.gate.set()
        seen = len(batch)
        after = batch[-1][0]
        before_kib = rss_anon_kib()
        while batch := await namespace.readdir(ROOT_INO, after):
            seen += len(batch)
            assert batch[0][0] > after
            after = batch[-1][0]
        assert seen == 200_000
        assert rss_anon_kib() - before_kib < 24 << 10
        assert namespace.entry_count() == 200_000
        assert lake.splits


async def test_readers_share_one_listing_and_lose_nothing(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, *NINE, page_size=2)
    async with world.mount() as namespace:
        found: list[list[bytes]] = []

        async def read(limit: int) -> None:
            found.append([name for _, name, _ in await read_all(namespace, ROOT_INO, limit)])

        async with trio.open_nursery() as nursery:
            for limit in (1, 2, 3, 1000):
                nursery.start_soon(read, limit)
        assert found == [NINE] * 4
        assert lake.asked == [("list", b"")] * 5


async def test_a_position_survives_a_remount(tmp_path: Path) -> None:
    world, _ = world_of(tmp_path, *NINE)
    async with world.mount() as namespace:
        first = await namespace.readdir(ROOT_INO, 0, 4)
    async with world.mount() as namespace:
        rest = await namespace.readdir(ROOT_INO, first[-1][0])
        assert [name for _, name, _ in first + rest] == NINE


async def test_a_reader_that_goes_on_does_not_list_again(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, *NINE)
    async with world.mount(ttl_s=0.0) as namespace:
        first = await namespace.readdir(ROOT_INO, 0, 4)
        world.clock.advance(100)
        await namespace.readdir(ROOT_INO, first[-1][0], 4)
        assert len(lake.asked) == 1
        await namespace.readdir(ROOT_INO, 0, 4)
        assert len(lake.asked) == 2


async def test_a_relisting_removes_what_went_and_keeps_inodes(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, *NINE, b"d/x/y", page_size=2)
    async with world.mount() as namespace:
        before = {name: ino for ino, name, _ in await read_all(namespace, ROOT_INO)}
        lost = await namespace.resolve(b"d/x/y")
        lake.remove(b"3")
        lake.remove(b"d/x/y")
        lake.store(b"5", b"changed")
        lake.store(b"55", b"new")
        world.clock.advance(61)
        after = {name: ino for ino, name, _ in await read_all(namespace, ROOT_INO)}
        assert set(after) == (set(NINE) | {b"55"}) - {b"3"}
        kept = set(NINE) - {b"3", b"5"}
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
        assert after[b"5"] > before[b"5"]
        assert sorted(world.changes) == [
            (ROOT_INO, name, before[name]) for name in (b"3", b"5", b"d")
        ]
        with pytest.raises(NotFound):
            namespace.path_of(lost.ino)
        assert namespace.entry_count() == len(after)


async def test_a_relisting_streams_only_what_it_has_confirmed(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, *NINE, page_size=3)
    async with world.mount() as namespace:
        await names_in(namespace, ROOT_INO)
        lake.remove(b"4")
        world.clock.advance(61)
        lists = 0

        def hold_the_third(kind: str, key: bytes) -> None:
            nonlocal lists
            lists += 1
            if lists == 3:
                lake.gate = trio.Event()

        lake.before = hold_the_third
        first = await namespace.readdir(ROOT_INO, 0)
        names = [name for _, name, _ in first]
        assert names == NINE[: len(names)]
        assert b"4" not in names
        with trio.move_on_after(0.05):
            while batch := await namespace.readdir(ROOT_INO, first[-1][0]):
                first += batch
        assert b"4" not in [name for _, name, _ in first]
        lake.gate.set()
        while batch := await namespace.readdir(ROOT_INO, first[-1][0]):
            first += batch
        assert [name for _, name, _ in first] == [n for n in NINE if n != b"4"]


@pytest.mark.parametrize("remount", [False, True])
async def test_a_listing_that_fails_half_way_is_an_error_and_goes_on(
    tmp_path: Path, remount: bool
) -> None:
    world, lake = world_of(tmp_path, *NINE, page_size=2)
    lists = 0

    def fail_from_the_third_on(kind: str, key: bytes) -> None:
        nonlocal lists
        lists += 1
        if lists >= 3:
            raise LakeUnavailable("list", key)

    async with world.mount() as namespace:
        lake.before = fail_from_the_third_on
        first = await namespace.readdir(ROOT_INO, 0)
        error = None
        while error is None:
            try:
                batch = await namespace.readdir(ROOT_INO, first[-1][0])
                assert batch
                first += batch
            except LakeUnavailable as unavailable:
                error = unavailable
        assert 0 < len(first) < 9
        lake.before = lambda kind, key: None
        lake.asked.clear()
        if not remount:
            while batch := await namespace.readdir(ROOT_INO, first[-1][0]):
                first += batch
    if remount:
        async with world.mount() as namespace:
            while batch := await namespace.readdir(ROOT_INO, first[-1][0]):
                first += batch
    assert [name for _, name, _ in first] == NINE
    # On from the second of five pages, whose last name was held.
    assert len(lake.asked) == 4


async def test_a_relisting_that_fails_leaves_no_stale_entries_to_readers(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, *NINE, page_size=2)

    def fail(kind: str, key: bytes) -> None:
        raise LakeUnavailable("list", key)

    async with world.mount() as namespace:
        entries = await read_all(namespace, ROOT_INO)
        world.clock.advance(61)
        lake.remove(b"8")
        lake.before = fail
        with pytest.raises(LakeUnavailable):
            await namespace.readdir(ROOT_INO, 0)
        with pytest.raises(LakeUnavailable):
            await namespace.readdir(ROOT_INO, entries[4][0])
        lake.before = lambda kind, key: None
        rest = await namespace.readdir(ROOT_INO, entries[7][0])
        assert rest == []


async def test_a_listing_does_not_bring_back_what_a_look_up_saw_vanish(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, *NINE)
    async with world.mount(relist_pages=0) as namespace:
        await namespace.lookup(ROOT_INO, b"3")
        # The page is read in the lake now, and answered after the object was seen to be gone.
        held, answered = trio.Event(), lake.list_page

        async def late(
            prefix: bytes,
            *,
            token: bytes | None = None,
            max_keys: int = 1000,
            recursive: bool = False,
            start_after: bytes = b"",
        ) -> ListPage:
            page = await answered(prefix, token=token, max_keys=max_keys)
            if max_keys > 1:
                await held.wait()
            return page

        lake.list_page = late  # type: ignore[method-assign]
        names: list[bytes] = []

        async def read() -> None:
            names.extend(await names_in(namespace, ROOT_INO))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            lake.remove(b"3")
            lake.store(b"4", b"changed while the page was on its way")
            world.clock.advance(61)
            with pytest.raises(Absent):
                await namespace.lookup(ROOT_INO, b"3")
            newer = await namespace.lookup(ROOT_INO, b"4")
            held.set()
        assert names == [name for name in NINE if name != b"3"]
        assert (await namespace.lookup(ROOT_INO, b"4")).ino == newer.ino


async def test_a_listing_knows_what_is_not_committed_yet(tmp_path: Path) -> None:
    """A look-up decided about a name, and its commit is slow: the listing must not decide again."""
    world, lake = world_of(tmp_path, *NINE, page_size=2)
    async with world.mount() as namespace:
        names, committing, gate = namespace._names, trio.Event(), trio.Event()
        commit = names.commit

        async def slow_commit(batch: NamesBatch) -> None:
            committing.set()
            await gate.wait()
            await commit(batch)

        names.commit = slow_commit  # type: ignore[method-assign]
        found: list[int] = []

        async def look_up() -> None:
            found.append((await namespace.lookup(ROOT_INO, b"0")).ino)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look_up)
            await committing.wait()
            nursery.start_soon(read_all, namespace, ROOT_INO)
            await trio.testing.wait_all_tasks_blocked()
            assert ("list", b"") in lake.asked
            gate.set()
        assert (await namespace.lookup(ROOT_INO, b"0")).ino == found[0]
        assert world.changes == []


async def test_a_failed_commit_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    world, _ = world_of(tmp_path, *NINE)
    async with world.mount() as namespace:
        names = namespace._names
        commit = names.commit

        async def full(batch: NamesBatch) -> None:
            raise CacheError("write to an index", "", "no space left")

        names.commit = full  # type: ignore[method-assign]
        with pytest.raises(CacheError):
            await namespace.lookup(ROOT_INO, b"0")
        with pytest.raises(CacheError):
            await namespace.readdir(ROOT_INO, 0)
        names.commit = commit  # type: ignore[method-assign]
        assert await names_in(namespace, ROOT_INO) == NINE
        assert (await namespace.lookup(ROOT_INO, b"0")).size == 7


async def test_a_directory_of_one_page_is_listed_when_that_has_come(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, *NINE)
    async with world.mount() as namespace:
        assert await namespace.listed(ROOT_INO, 0)
        assert await namespace.listed(ROOT_INO, 2)
        assert len(lake.asked) == 1
        world.clock.advance(61)
        # Whoever goes on does not list again, and the index is not believed any more.
        assert not await namespace.listed(ROOT_INO, 2)
        assert len(lake.asked) == 1
        assert await namespace.listed(ROOT_INO, 0)
        assert len(lake.asked) == 2
        with pytest.raises(NotADirectory):
            await namespace.listed((await namespace.lookup(ROOT_INO, b"0")).ino, 0)
        with pytest.raises(NotFound):
            await namespace.listed(1 << 40, 0)


async def test_what_is_never_believed_is_never_listed(tmp_path: Path) -> None:
    world, _ = world_of(tmp_path, *NINE)
    async with world.mount(ttl_s=0.0) as namespace:
        assert not await namespace.listed(ROOT_INO, 0)


async def test_a_large_directory_is_not_waited_for(tmp_path: Path) -> None:
    lake = EndlessLake(5_000)
    async with World(tmp_path, lake).mount() as namespace:
        for after in (0, 0, 2):
            assert not await namespace.listed(ROOT_INO, after)
            assert lake.pages == 1
        lake.gate.set()
        assert len(await names_in(namespace, ROOT_INO)) == 5_000
        assert await namespace.listed(ROOT_INO, 0)


async def test_a_directory_that_cannot_be_listed_is_not(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, *NINE)

    def fail(kind: str, key: bytes) -> None:
        raise LakeUnavailable("list", key)

    lake.before = fail
    async with world.mount() as namespace:
        assert not await namespace.listed(ROOT_INO, 0)
        with pytest.raises(LakeUnavailable):
            await namespace.readdir(ROOT_INO, 0)


async def test_a_directory_that_vanishes_while_it_is_listed(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, *(b"d/" + name for name in NINE), page_size=2)
    async with world.mount() as namespace:
        directory = await namespace.lookup(ROOT_INO, b"d")
        first = await namespace.readdir(directory.ino, 0, 1)
        lake.gate = trio.Event()
        for name in NINE:
            lake.remove(b"d/" + name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(namespace.refresh, b"")
            await trio.testing.wait_all_tasks_blocked()
            lake.gate.set()
        await settle(namespace)
        with pytest.raises(NotFound):
            await namespace.readdir(directory.ino, first[-1][0])
        assert namespace.entry_count() == 0
        assert await names_in(namespace, ROOT_INO) == []


async def test_refresh_shows_the_present_state_and_announces_it(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a", b"b", b"d/x", b"d/e/y", b"unseen/z")
    async with world.mount(ttl_s=math.inf, negative_ttl_s=math.inf) as namespace:
        await names_in(namespace, ROOT_INO)
        old = {path: await namespace.resolve(path) for path in (b"a", b"d", b"d/x", b"d/e/y")}
        with pytest.raises(Absent):
            await namespace.resolve(b"d/new")
        lake.store(b"a", b"changed")
        lake.remove(b"b")
        lake.store(b"d/x", b"changed")
        lake.store(b"d/e/y", b"changed")
        lake.store(b"d/new", b"new")
        lake.asked.clear()
        assert await namespace.refresh(ROOT_INO) == 5
        assert ("list", b"unseen/") not in lake.asked
        assert (await namespace.resolve(b"d/new")).kind is Kind.FILE
        assert (await namespace.resolve(b"d")).ino == old[b"d"].ino
        assert (await namespace.resolve(b"d/e/y")).ino != old[b"d/e/y"].ino
        with pytest.raises(Absent):
            await namespace.resolve(b"b")
        announced = {name for _, name, _ in world.changes}
        assert announced == {b"a", b"b", b"x", b"y", b"new"}


async def test_a_directory_that_goes_while_it_is_listed_takes_nothing_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed with the end of its listing is others', too."""
    world, _ = world_of(tmp_path, b"d/x", b"other/x")
    async with world.mount() as namespace:
        directory = await namespace.lookup(ROOT_INO, b"d")
        sweep = namespace._listings._merger.sweep

        async def and_go(run: Any) -> None:
            await sweep(run)
            await namespace._reconciler._inodes.ensure(1)
            known = namespace._entries.known(ROOT_INO, b"d")
            namespace._reconciler.absent(ROOT_INO, b"d", known, world.clock.now_ns())
            namespace._reconciler.directory(ROOT_INO, b"other", None, world.clock.now_ns())

        monkeypatch.setattr(namespace._listings._merger, "sweep", and_go)
        with pytest.raises(NotFound):
            await namespace._listings.run(directory.ino)
        await namespace._entries.commit()
        assert namespace.lookup_cached(ROOT_INO, b"other") is not None


async def test_refresh_of_a_path_that_was_absent(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a")
    async with world.mount(ttl_s=math.inf, negative_ttl_s=math.inf) as namespace:
        await names_in(namespace, ROOT_INO)
        lake.store(b"new/dir/file", b"new")
        with pytest.raises(Absent):
            await namespace.resolve(b"new")
        await namespace.refresh(b"new/dir/file")
        assert (await namespace.resolve(b"new/dir/file")).size == 3
        with pytest.raises(Absent):
            await namespace.refresh(b"nowhere")


async def test_a_refresh_begins_after_it_was_asked_for(tmp_path: Path) -> None:
    """A listing that was already going on may have passed the place that changed."""
    world, lake = world_of(tmp_path, *NINE, page_size=2)
    async with world.mount(ttl_s=math.inf) as namespace:
        await namespace.readdir(ROOT_INO, 0)
        lake.store(b"0", b"changed behind the listing")
        await namespace.refresh(ROOT_INO)
        assert (await namespace.lookup(ROOT_INO, b"0")).size == 26


async def test_a_walk_goes_on_where_the_lake_did_not_answer(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, *(b"d/%d" % n for n in range(3)))

    def fail(kind: str, key: bytes) -> None:
        raise LakeUnavailable(kind, key)

    async with world.mount() as namespace:
        walk = namespace.walk_from((await namespace.lookup(ROOT_INO, b"d")).ino)
        await settle(namespace)
        world.clock.advance(61)
        lake.before = fail
        for _ in range(2):
            with pytest.raises(LakeUnavailable):
                await walk.page()
        lake.before = lambda kind, key: None
        assert [entry.path for entry in await walk.page()] == [b"d/0", b"d/1", b"d/2"]


async def test_walk_streams_a_tree_and_passes_over_what_vanishes(tmp_path: Path) -> None:
    keys = [b"d%d/f%d" % (d, f) for d in range(4) for f in range(5)] + [b"top"]
    world, lake = world_of(tmp_path, *keys, page_size=3)
    async with world.mount() as namespace:
        assert sorted([entry.path async for entry in namespace.walk(ROOT_INO)]) == sorted(keys)
        entry = await namespace.resolve(b"d1/f1")
        only = [found async for found in namespace.walk(entry.ino)]
        assert [(found.path, found.ino, found.size) for found in only] == [(b"d1/f1", entry.ino, 7)]
        assert only[0].reference.key == b"d1/f1"
        world.clock.advance(61)
        found: list[bytes] = []
        async for found_entry in namespace.walk(ROOT_INO):
            if not found:
                for n in range(5):
                    lake.remove(b"d3/f%d" % n)
            found.append(found_entry.path)
        assert not [path for path in found if path.startswith(b"d3/")]
        with pytest.raises(NotFound):
            _ = [entry async for entry in namespace.walk(12345)]
