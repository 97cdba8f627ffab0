"""Directories that are listed before their reader comes (`tierfs.namespace.ahead`)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.namespaces import WatchedLake, World, names_in
from tierfs.errors import LakeUnavailable
from tierfs.index.records import ROOT_INO
from tierfs.namespace import Namespace, ahead


def world_of(directory: Path, count: int, *, files: int = 2, page_size: int = 1000) -> World:
    lake = WatchedLake(page_size)
    for n in range(count):
        for file in range(files):
            lake.store(b"d/%03d/%03d" % (n, file), b"content")
    return World(directory, lake)


async def directories(namespace: Namespace) -> list[int]:
    """Of ``d``, in their order."""
    found = await namespace.lookup(ROOT_INO, b"d")
    return [ino for ino, _, _ in await namespace.readdir(found.ino, 0, 10_000)]


def listed(world: World) -> list[bytes]:
    """Which of them the lake was asked for since the last time."""
    assert isinstance(world.lake, WatchedLake)
    asked = [key for kind, key in world.lake.asked if kind == "list" and key.count(b"/") == 2]
    world.lake.asked.clear()
    return [key[2:-1] for key in asked]


async def settled(namespace: Namespace) -> None:
    """Nothing is listed any more, nor about to be."""
    await trio.testing.wait_all_tasks_blocked()
    seats = namespace._reader._ahead._seats
    while len(namespace._listings) or seats.value < (seats.max_value or 0):
        await trio.sleep(0.001)


async def test_the_next_ones_are_listed_as_the_reader_goes_on(tmp_path: Path) -> None:
    world = world_of(tmp_path, 100)
    async with world.mount() as namespace:
        inos = await directories(namespace)
        listed(world)
        steps = []
        for n, ino in enumerate(inos):
            assert await names_in(namespace, ino) == [b"000", b"001"]
            await settled(namespace)
            if asked := listed(world):
                steps.append((n, len(asked)))
        # Itself, and twice as many as before.
        assert steps == [(0, 1), (1, 3), (4, 5), (9, 9), (18, 17), (35, 33), (68, 32)]
        assert await names_in(namespace, inos[0]) == [b"000", b"001"]


async def test_a_look_around_lists_what_it_looks_at(tmp_path: Path) -> None:
    world = world_of(tmp_path, 50)
    async with world.mount() as namespace:
        inos = await directories(namespace)
        listed(world)
        looked = [inos[7], *random.Random(1).sample(inos[20:50:2], 12), *reversed(inos[:7])]
        for ino in looked:
            await names_in(namespace, ino)
            await settled(namespace)
        assert len(listed(world)) == len(looked)


async def test_of_a_large_one_the_first_page_is_listed(tmp_path: Path) -> None:
    world = world_of(tmp_path, 8, files=9, page_size=3)
    async with world.mount() as namespace:
        inos = await directories(namespace)
        for ino in inos[:2]:
            assert len(await names_in(namespace, ino)) == 9
        await settled(namespace)
        asked = listed(world)
        assert sorted(asked.count(name) for name in set(asked)) == [1, 1, 3, 3]
        for ino in inos[2:4]:
            assert len(await names_in(namespace, ino)) == 9


async def test_so_many_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "AT_A_TIME", 3)
    world = world_of(tmp_path, 60)
    async with world.mount() as namespace:
        inos = await directories(namespace)
        for ino in inos[:9]:
            await names_in(namespace, ino)
            await settled(namespace)
        world.lake.gate = trio.Event()  # type: ignore[attr-defined]
        listed(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(names_in, namespace, inos[9])
            await trio.testing.wait_all_tasks_blocked()
            assert len(listed(world)) == 1 + 3
            world.lake.gate.set()  # type: ignore[attr-defined]
        await settled(namespace)


async def test_what_cannot_be_listed_is_the_readers_to_hear(tmp_path: Path) -> None:
    world = world_of(tmp_path, 10)
    async with world.mount() as namespace:
        inos = await directories(namespace)

        def fail(kind: str, key: bytes) -> None:
            if key == b"d/003/":
                raise LakeUnavailable("list", key)

        world.lake.before = fail  # type: ignore[attr-defined]
        for ino in inos[:3]:
            await names_in(namespace, ino)
        await settled(namespace)
        with pytest.raises(LakeUnavailable):
            await names_in(namespace, inos[3])
        world.lake.before = lambda kind, key: None  # type: ignore[attr-defined]
        assert await names_in(namespace, inos[3]) == [b"000", b"001"]


async def test_what_is_believed_is_not_listed_again(tmp_path: Path) -> None:
    world = world_of(tmp_path, 10)
    async with world.mount() as namespace:
        inos = await directories(namespace)
        await names_in(namespace, inos[3])
        await settled(namespace)
        listed(world)
        for ino in inos:
            await names_in(namespace, ino)
            await settled(namespace)
        assert b"003" not in listed(world)
        world.clock.advance(61)
        for ino in inos[:2]:
            await names_in(namespace, ino)
            await settled(namespace)
        assert listed(world) == [b"000", b"001", b"002", b"003"]
