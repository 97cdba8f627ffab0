"""Look-ups and opens: what asks the lake, how often, and what is answered (N1, N2, N5, N7)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.namespaces import WatchedLake, World, names_in, settle
from tierfs.errors import (
    IsADirectory,
    LakeUnavailable,
    NotADirectory,
    NotFound,
    StaleVersion,
)
from tierfs.index.records import ROOT_INO, Kind
from tierfs.lake.protocol import ListPage
from tierfs.namespace import Absent, Attributes
from tierfs.namespace.listing import BACKGROUND_LISTINGS
from tierfs.namespace.lookup import LISTING_AFTER


def world_of(directory: Path, *keys: bytes, page_size: int = 1000) -> tuple[World, WatchedLake]:
    lake = WatchedLake(page_size)
    for key in keys:
        lake.store(key, b"content")
    return World(directory, lake), lake


async def test_a_look_up_asks_once_and_then_the_index(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a", b"d/x")
    async with world.mount(relist_pages=0) as namespace:
        found = await namespace.lookup(ROOT_INO, b"a")
        assert sorted(lake.asked) == [("head", b"a"), ("probe", b"a/")]
        assert found._replace(ino=0) == Attributes(
            0, Kind.FILE, 0o644, 1000, 1001, 7, 1_700_000_000_000_000_000, 60.0
        )
        world.clock.advance(20)
        assert await namespace.lookup(ROOT_INO, b"a") == found._replace(ttl_s=40.0)
        assert namespace.lookup_cached(ROOT_INO, b"a") == found._replace(ttl_s=40.0)
        assert len(lake.asked) == 2
        directory = await namespace.lookup(ROOT_INO, b"d")
        assert (directory.kind, directory.mode) == (Kind.DIRECTORY, 0o755)
        assert await namespace.getattr(directory.ino) == directory
        assert namespace.lookup_cached(ROOT_INO, b"unknown") is None


async def test_look_ups_of_one_name_share_one_question(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a")
    async with world.mount(relist_pages=0) as namespace:
        lake.gate = trio.Event()
        found: list[Attributes] = []

        async def look_up() -> None:
            found.append(await namespace.lookup(ROOT_INO, b"a"))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(look_up)
            await trio.testing.wait_all_tasks_blocked()
            lake.gate.set()
        assert len(set(found)) == 1
        assert len(found) == 20
        assert len(lake.asked) == 2


async def test_an_answer_does_not_bring_back_what_was_removed_meanwhile(tmp_path: Path) -> None:
    class Halting(WatchedLake):
        go_on = trio.Event()

        async def list_page(self, *args: Any, **how: Any) -> ListPage:
            await self.go_on.wait()
            return await super().list_page(*args, **how)

    lake = Halting()
    lake.store(b"a", b"content")
    world = World(tmp_path, lake)
    async with world.mount() as namespace, trio.open_nursery() as nursery:

        async def look_up() -> None:
            with pytest.raises(Absent):
                await namespace.lookup(ROOT_INO, b"a")

        nursery.start_soon(look_up)
        await trio.testing.wait_all_tasks_blocked()
        assert lake.asked == [("head", b"a")]  # And it was there.
        world.clock.advance(1)
        await namespace.vanished(ROOT_INO, b"a")
        lake.go_on.set()


async def test_a_cancelled_question_is_taken_over(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a")
    async with world.mount(relist_pages=0) as namespace:
        lake.gate = trio.Event()
        scope = trio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await namespace.lookup(ROOT_INO, b"a")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancelled)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(namespace.lookup, ROOT_INO, b"a")
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            lake.gate.set()
        assert namespace.lookup_cached(ROOT_INO, b"a") is not None
        assert len(lake.asked) == 4


async def test_an_absence_is_remembered_for_its_own_time(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a")
    async with world.mount(negative_ttl_s=5.0, relist_pages=0) as namespace:
        with pytest.raises(Absent) as first:
            await namespace.lookup(ROOT_INO, b"b")
        world.clock.advance(2)
        with pytest.raises(Absent) as second:
            await namespace.lookup(ROOT_INO, b"b")
        assert (first.value.ttl_s, second.value.ttl_s) == (5.0, 3.0)
        assert len(lake.asked) == 2
        lake.store(b"b", b"now")
        world.clock.advance(4)
        assert (await namespace.lookup(ROOT_INO, b"b")).size == 3
        # A kernel may have held the name as absent.
        assert world.changes == [(ROOT_INO, b"b", 0)]


async def test_a_fresh_listing_answers_for_names_it_has_not(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a")
    async with world.mount() as namespace:
        await names_in(namespace, ROOT_INO)
        lake.asked.clear()
        world.clock.advance(58)
        with pytest.raises(Absent) as absent:
            await namespace.lookup(ROOT_INO, b"b")
        assert absent.value.ttl_s == pytest.approx(2.0)
        assert (await namespace.lookup(ROOT_INO, b"a")).ttl_s == pytest.approx(2.0)
        assert lake.asked == []


async def test_a_refresh_announces_what_a_listing_had_denied(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"d/a")
    async with world.mount(ttl_s=math.inf) as namespace:
        directory = (await namespace.lookup(ROOT_INO, b"d")).ino
        await names_in(namespace, directory)
        assert world.changes == []
        with pytest.raises(Absent):
            await namespace.lookup(directory, b"b")
        lake.store(b"d/b", b"now")
        assert await namespace.refresh(b"d") == 1
        assert world.changes == [(directory, b"b", 0)]
        assert (await namespace.lookup(directory, b"b")).size == 3


async def test_a_refresh_has_no_answer_of_before_it(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a")
    async with world.mount(ttl_s=math.inf) as namespace:
        await namespace.lookup(ROOT_INO, b"a")
        lake.asked.clear()
        lake.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            for requests in (2, 4):
                nursery.start_soon(namespace.refresh, b"a")
                await trio.testing.wait_all_tasks_blocked()
                assert len(lake.asked) == requests
            lake.gate.set()


async def test_a_small_directory_is_relisted_once_for_all_who_ask(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, *(b"%d" % n for n in range(30)), page_size=3)
    async with world.mount() as namespace:
        await names_in(namespace, ROOT_INO)
        lake.asked.clear()
        world.clock.advance(61)
        async with trio.open_nursery() as nursery:
            for n in range(30):
                nursery.start_soon(namespace.lookup, ROOT_INO, b"%d" % n)
        assert lake.asked == [("list", b"")] * 10


async def test_names_of_a_large_directory_are_asked_for_one_by_one(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, *(b"%d" % n for n in range(33)), page_size=3)
    async with world.mount() as namespace:
        await names_in(namespace, ROOT_INO)
        lake.asked.clear()
        world.clock.advance(61)
        before = await namespace.lookup(ROOT_INO, b"7")
        assert lake.asked == [("head", b"7")]
        assert (await namespace.lookup(ROOT_INO, b"7")).ino == before.ino
        with pytest.raises(Absent):
            await namespace.lookup(ROOT_INO, b"x")
        assert len(lake.asked) == 3


async def test_a_directory_is_looked_into_with_the_first_question_about_a_name(
    tmp_path: Path,
) -> None:
    world, lake = world_of(tmp_path, *(b"d/%d" % n for n in range(20)))
    async with world.mount() as namespace:
        directory = await namespace.lookup(ROOT_INO, b"d")
        await namespace.lookup(directory.ino, b"7")
        await settle(namespace)
        questions = [("head", b"d"), ("probe", b"d/"), ("head", b"d/7"), ("probe", b"d/7/")]
        assert sorted(lake.asked) == sorted([*questions, ("list", b""), ("list", b"d/")])
        lake.asked.clear()
        for n in range(20):
            assert namespace.lookup_cached(directory.ino, b"%d" % n) is not None
        with pytest.raises(Absent):
            await namespace.lookup(directory.ino, b"x")
        assert lake.asked == []


async def test_where_too_much_is_listed_a_directory_is_looked_into_with_the_next_question(
    tmp_path: Path,
) -> None:
    names = [b"%d" % n for n in range(BACKGROUND_LISTINGS + 1)]
    world, lake = world_of(tmp_path, *(name + b"/" + x for name in names for x in (b"a", b"b")))
    async with world.mount() as namespace, trio.open_nursery() as nursery:
        inos = [(await namespace.lookup(ROOT_INO, name)).ino for name in names]
        await settle(namespace)
        lake.gate = trio.Event()
        for ino in inos:
            nursery.start_soon(namespace.lookup, ino, b"a")
        await trio.testing.wait_all_tasks_blocked()
        lake.gate.set()
        await settle(namespace)
        left = [ino for ino in inos if namespace.lookup_cached(ino, b"b") is None]
        assert len(left) == 1
        await namespace.lookup(left[0], b"b")
        await settle(namespace)
        assert all(("list", name + b"/") in lake.asked for name in names)


async def test_of_a_large_directory_a_page_is_looked_at_until_more_is_asked_for(
    tmp_path: Path,
) -> None:
    names = [b"%02d" % n for n in range(99)]
    world, lake = world_of(tmp_path, *names, page_size=3)
    async with world.mount() as namespace:
        for n in range(LISTING_AFTER):
            await namespace.lookup(ROOT_INO, names[-1 - n])
            await settle(namespace)
        assert lake.asked.count(("list", b"")) == 1
        assert namespace.lookup_cached(ROOT_INO, b"01") is not None
        assert namespace.lookup_cached(ROOT_INO, b"03") is None
        await namespace.lookup(ROOT_INO, b"50")
        await settle(namespace)
        assert lake.asked.count(("list", b"")) >= 33
        assert await names_in(namespace, ROOT_INO) == names


async def test_who_reads_a_directory_that_is_looked_into_gets_all_of_it(tmp_path: Path) -> None:
    names = [b"%02d" % n for n in range(9)]
    world, lake = world_of(tmp_path, *names, page_size=3)
    async with world.mount() as namespace, trio.open_nursery() as nursery:
        lake.gate = trio.Event()
        nursery.start_soon(namespace.lookup, ROOT_INO, b"08")
        await trio.testing.wait_all_tasks_blocked()
        found: list[bytes] = []

        async def read() -> None:
            found.extend(await names_in(namespace, ROOT_INO))

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        lake.gate.set()
    assert found == names


async def test_what_a_look_into_a_directory_brought_is_not_believed_for_longer(
    tmp_path: Path,
) -> None:
    """By who lists it later: its first page is asked for anew."""
    names = [b"%02d" % n for n in range(9)]
    world, lake = world_of(tmp_path, *names, page_size=3)
    async with world.mount() as namespace:
        await namespace.lookup(ROOT_INO, b"08")
        await settle(namespace)
        lake.remove(b"01")
        lake.store(b"011", b"new")
        world.clock.advance(61)
        assert await names_in(namespace, ROOT_INO) == [b"00", b"011", *names[2:]]


async def test_many_look_ups_in_one_directory_have_it_listed(tmp_path: Path) -> None:
    keys = [b"d/%d" % n for n in range(20)]
    world, lake = world_of(tmp_path, *keys)
    async with world.mount(relist_pages=0) as namespace:
        directory = await namespace.lookup(ROOT_INO, b"d")
        for n in range(LISTING_AFTER):
            await namespace.lookup(directory.ino, b"%d" % n)
        assert ("list", b"d/") not in lake.asked
        await namespace.lookup(directory.ino, b"19")
        await settle(namespace)
        assert lake.asked.count(("list", b"d/")) == 1
        asked = len(lake.asked)
        for n in range(20):
            await namespace.lookup(directory.ino, b"%d" % n)
        assert len(lake.asked) == asked


async def test_an_infinite_ttl_never_asks_again_but_on_refresh(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a")
    async with world.mount(ttl_s=math.inf, relist_pages=0) as namespace:
        found = await namespace.lookup(ROOT_INO, b"a")
        assert found.ttl_s == math.inf
        lake.store(b"a", b"changed!")
        world.clock.advance(10**7)
        assert await namespace.lookup(ROOT_INO, b"a") == found
        await namespace.open_object(found.ino)
        assert len(lake.asked) == 2
        assert await namespace.refresh(b"a") == 1
        assert (await namespace.lookup(ROOT_INO, b"a")).size == 8


async def test_a_clock_set_back_makes_nothing_fresh(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a", b"d/x")
    async with world.mount() as namespace:
        await namespace.lookup(ROOT_INO, b"a")
        directory = await namespace.lookup(ROOT_INO, b"d")
        await names_in(namespace, directory.ino)
        with pytest.raises(Absent):
            await namespace.lookup(ROOT_INO, b"b")
        world.clock.advance(-3600)
        lake.store(b"a", b"changed!")
        lake.store(b"b", b"new")
        lake.remove(b"d/x")
        lake.store(b"d/y", b"new")
        assert namespace.lookup_cached(ROOT_INO, b"a") is None
        assert (await namespace.lookup(ROOT_INO, b"a")).size == 8
        assert (await namespace.lookup(ROOT_INO, b"b")).size == 3
        assert await names_in(namespace, directory.ino) == [b"y"]


async def test_the_same_version_is_the_same_inode_over_remounts(tmp_path: Path) -> None:
    world, _ = world_of(tmp_path, b"a", b"d/x")
    async with world.mount() as namespace:
        first = [(await namespace.resolve(path)).ino for path in (b"a", b"d", b"d/x")]
        times = namespace.attributes(first[1]).mtime_ns
    world.clock.advance(3600)
    async with world.mount() as namespace:
        await names_in(namespace, ROOT_INO)
        assert [(await namespace.resolve(path)).ino for path in (b"a", b"d", b"d/x")] == first
        assert namespace.attributes(first[1]).mtime_ns == times
    assert world.changes == []


async def test_another_version_is_another_inode_and_announced(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a")
    async with world.mount() as namespace:
        old = await namespace.lookup(ROOT_INO, b"a")
        await settle(namespace)
        lake.store(b"a", b"content, changed")
        world.clock.advance(61)
        new = await namespace.lookup(ROOT_INO, b"a")
        assert new.ino > old.ino
        assert world.changes == [(ROOT_INO, b"a", old.ino)]
        with pytest.raises(NotFound):
            await namespace.getattr(old.ino)
        # A handle that is open on it still knows what it was.
        detached = namespace.detached_attributes(old.ino, 7)
        assert (detached.size, detached.mtime_ns) == (7, old.mtime_ns)


async def test_the_same_bytes_written_again_are_the_same_version(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a")
    async with world.mount(relist_pages=0) as namespace:
        old = await namespace.lookup(ROOT_INO, b"a")
        lake.store(b"a", b"content", mtime_ns=old.mtime_ns + 999_999_999)
        world.clock.advance(61)
        again = await namespace.lookup(ROOT_INO, b"a")
        assert again == old  # The fraction of a second is the kind of answer's, not the object's.
        lake.store(b"a", b"content", mtime_ns=old.mtime_ns + 5_000_000_000)
        world.clock.advance(61)
        later = await namespace.lookup(ROOT_INO, b"a")
        assert (later.ino, later.mtime_ns) == (old.ino, old.mtime_ns + 5_000_000_000)


async def test_a_file_becomes_a_directory_and_a_file_again(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a")
    async with world.mount() as namespace:
        first = await namespace.lookup(ROOT_INO, b"a")
        lake.store(b"a/b", b"x")
        world.clock.advance(61)
        second = await namespace.lookup(ROOT_INO, b"a")
        assert second.kind is Kind.DIRECTORY
        await namespace.lookup(second.ino, b"b")
        lake.remove(b"a/b")
        world.clock.advance(61)
        third = await namespace.lookup(ROOT_INO, b"a")
        assert third.kind is Kind.FILE
        assert len({first.ino, second.ino, third.ino}) == 3
        assert namespace.entry_count() == 1


async def test_errors_of_the_lake_come_as_they_are_and_are_not_remembered(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a")

    def fail(kind: str, key: bytes) -> None:
        raise LakeUnavailable(kind, key)

    async with world.mount() as namespace:
        lake.before = fail
        with pytest.raises(LakeUnavailable):
            await namespace.lookup(ROOT_INO, b"a")
        with pytest.raises(LakeUnavailable):
            await namespace.readdir(ROOT_INO, 0)
        lake.before = lambda kind, key: None
        assert (await namespace.lookup(ROOT_INO, b"a")).size == 7
        assert await names_in(namespace, ROOT_INO) == [b"a"]


async def test_a_directory_is_one_even_if_its_object_cannot_be_asked_for(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a/b")

    def fail(kind: str, key: bytes) -> None:
        if kind == "head":
            raise LakeUnavailable(kind, key)

    async with world.mount() as namespace:
        lake.before = fail
        assert (await namespace.lookup(ROOT_INO, b"a")).kind is Kind.DIRECTORY


async def test_looking_up_in_what_is_no_directory(tmp_path: Path) -> None:
    world, _ = world_of(tmp_path, b"a")
    async with world.mount() as namespace:
        found = await namespace.lookup(ROOT_INO, b"a")
        with pytest.raises(NotADirectory):
            await namespace.lookup(found.ino, b"b")
        with pytest.raises(NotADirectory):
            await namespace.readdir(found.ino, 0)
        with pytest.raises(NotFound):
            await namespace.lookup(99, b"b")
        assert (await namespace.resolve(b"")).ino == ROOT_INO


async def test_opening_within_the_ttl_asks_nothing_and_past_it_once(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a")
    async with world.mount(relist_pages=0) as namespace:
        found = await namespace.lookup(ROOT_INO, b"a")
        lake.asked.clear()
        reference, size = await namespace.open_object(found.ino)
        assert (reference.key, size, lake.asked) == (b"a", 7, [])
        world.clock.advance(61)
        assert await namespace.open_object(found.ino) == (reference, size)
        assert sorted(lake.asked) == [("head", b"a"), ("probe", b"a/")]
        await namespace.open_object(found.ino)
        assert len(lake.asked) == 2


async def test_opening_what_changed_is_stale_and_what_is_gone_is_not_found(tmp_path: Path) -> None:
    world, lake = world_of(tmp_path, b"a", b"b", b"d/x")
    async with world.mount(relist_pages=0) as namespace:
        changed = await namespace.lookup(ROOT_INO, b"a")
        gone = await namespace.lookup(ROOT_INO, b"b")
        directory = await namespace.lookup(ROOT_INO, b"d")
        with pytest.raises(IsADirectory):
            await namespace.open_object(directory.ino)
        lake.store(b"a", b"changed!")
        lake.remove(b"b")
        world.clock.advance(61)
        with pytest.raises(StaleVersion):
            await namespace.open_object(changed.ino)
        assert (await namespace.lookup(ROOT_INO, b"a")).size == 8
        with pytest.raises(NotFound):
            await namespace.open_object(gone.ino)
        with pytest.raises(StaleVersion):
            await namespace.open_object(changed.ino)
