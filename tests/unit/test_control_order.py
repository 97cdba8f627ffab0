"""An order of reads as it is told: names, and what the lake is asked for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from tests.namespaces import WatchedLake, World
from tierfs.control.commands import Commands
from tierfs.control.order import LISTING_AFTER, Resolver
from tierfs.control.planner import Planner
from tierfs.errors import InvalidRequest, LakeUnavailable
from tierfs.front.port import FrontPort
from tierfs.index.records import ROOT_INO
from tierfs.namespace import Namespace
from tierfs.readahead.policy import AdaptivePolicy

FILES = 40


class Front:
    """Of which only its limit is asked."""

    limit_bytes = 1000

    def cached_bytes(self) -> int:
        return 0


def world(directory: Path) -> World:
    made = World(directory)
    for n in range(FILES):
        made.lake.store(b"a/%02d" % n, b"x")
        made.lake.store(b"b/c/%02d" % n, b"x")
    return made


def lake_of(made: World) -> WatchedLake:
    return cast("WatchedLake", made.lake)


async def inode(namespace: Namespace, path: bytes) -> int:
    return (await namespace.resolve(path)).ino


async def test_a_directory_of_many_is_listed_once(tmp_path: Path) -> None:
    made = world(tmp_path)
    async with made.mount() as namespace:
        paths = [b"a/%02d" % n for n in reversed(range(FILES))]
        inos = await Resolver(namespace).resolve(paths)
        assert [namespace.path_of(ino) for ino in inos] == paths
        assert len(lake_of(made).asked) <= 4
        asked = len(lake_of(made).asked)
        made.clock.advance(10_000.0)
        assert await Resolver(namespace).resolve(paths) == inos
        assert len(lake_of(made).asked) == asked


async def test_a_few_are_asked_for(tmp_path: Path) -> None:
    made = world(tmp_path)
    async with made.mount() as namespace:
        paths = [b"b/c/%02d" % n for n in range(LISTING_AFTER)]
        inos = await Resolver(namespace).resolve(paths)
        assert inos == [await inode(namespace, path) for path in paths]


async def test_what_is_no_file_is_none(tmp_path: Path) -> None:
    made = world(tmp_path)
    async with made.mount() as namespace:
        paths = [b"a/00", b"a", b"", b"a/../a/01", b"a/00/x", b"nothing", b"no/thing", b"b/c"]
        paths += [b"a/" + b"x" * 300, b"./a//01", b"a/\0"]
        paths += [b"b/c/x%d" % n for n in range(LISTING_AFTER + 1)]
        inos = await Resolver(namespace).resolve(paths)
        assert [path for path, ino in zip(paths, inos, strict=True) if ino] == [b"a/00", b"./a//01"]


async def test_a_lake_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    made = world(tmp_path)

    def fail(kind: str, key: bytes) -> None:
        raise LakeUnavailable(kind, key)

    async with made.mount() as namespace:
        assert await inode(namespace, b"a") != ROOT_INO
        lake_of(made).before = fail
        with pytest.RaisesGroup(LakeUnavailable, flatten_subgroups=True):
            await Resolver(namespace).resolve([b"a/00"])


async def ask(commands: Commands, **args: Any) -> dict[str, Any]:
    async def progress(fields: dict[str, Any]) -> None:
        raise AssertionError(fields)

    return await commands.run("plan", args, progress)


async def test_the_command(tmp_path: Path) -> None:
    made = world(tmp_path)
    async with made.mount() as namespace:
        front = cast("FrontPort", Front())
        policy = AdaptivePolicy(cast("Any", None))
        planner = Planner(namespace, front, policy)
        unused = cast("Any", None)
        commands = Commands(unused, unused, unused, namespace, front, planner)
        assert (await ask(commands))["entries"] == 0
        told = await ask(commands, paths=["a/00", "x", "a/01"], ahead_bytes=123)
        assert (told["entries"], told["unknown"], told["ahead_bytes"]) == (2, 1, 123)
        assert told["believed"]
        told = await ask(commands, paths=["a/02"], append=True)
        assert (told["entries"], told["unknown"]) == (3, 1)
        assert policy.plan.next_use(await inode(namespace, b"a/02")) == 2
        told = await ask(commands, paths=["a/02"])
        assert (told["entries"], told["unknown"]) == (1, 0)
        assert (await ask(commands, paths=[]))["entries"] == 0
        await ask(commands, paths=["a/02"])
        assert not (await ask(commands, clear=True))["believed"]
        for wrong in ({"paths": [1]}, {"paths": "a"}, {"ahead_bytes": -1}, {"ahead_bytes": "1G"}):
            with pytest.raises(InvalidRequest):
                await ask(commands, **cast("Any", wrong))
