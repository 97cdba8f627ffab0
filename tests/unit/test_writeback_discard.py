"""Throwing away what is not in the lake: the mount is then what the lake is, and goes on."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.unit.test_writeback_failures import flush, refusing
from tests.writing import PATIENCE_S, Lake, World, world
from tierfs.errors import AlreadyExists, NotEmpty, NotFound, TierfsError
from tierfs.writeback import uploads
from tierfs.writeback.discard import discard
from tierfs.writeback.journal import Work
from tierfs.writeback.records import Flag

#: Runs in every test run, and in the long one.
FEW, MANY = 12, 100


class Gate:
    """For `Lake.before`: requests wait while it is shut."""

    def __init__(self) -> None:
        self.open = trio.Event()

    async def __call__(self, op: str, key: bytes) -> None:
        await self.open.wait()


async def nobody(fields: dict[str, Any]) -> None:
    pass


async def throw_away(mount: World) -> dict[str, Any]:
    """As an unmount that asks for it; what is told of it."""
    found: dict[str, Any] = {}

    async def leave() -> None:
        found.update(await mount.service.leave(wait=True, discard=True, told=told))

    asked = trio.Event()

    async def told(fields: dict[str, Any]) -> None:
        asked.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await asked.wait()
        await mount.service.end()
    return dict(found["discarded"])


async def tree(mount: World, path: bytes = b"") -> dict[bytes, bytes | None]:
    """Everything that a mount shows below *path*."""
    found: dict[bytes, bytes | None] = {}
    for name in await mount.names(path):
        below = path + b"/" + name if path else name
        try:
            found[below] = await mount.read(below)
        except TierfsError:
            found[below] = None
            found |= await tree(mount, below)
    return found


def in_lake(lake: Lake) -> dict[bytes, bytes | None]:
    """The same of a lake."""
    found: dict[bytes, bytes | None] = {}
    for key, content in lake.contents().items():
        if not key.endswith(b"/"):
            found[key] = content
        parts = key.rstrip(b"/").split(b"/")
        ends = range(1, len(parts) + key.endswith(b"/"))
        found |= {b"/".join(parts[:n]): None for n in ends}
    return found


async def test_what_is_not_in_the_lake_is_gone_and_the_rest_shows(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"theirs", b"theirs")
    lake.store(b"removed", b"removed")
    async with world(tmp_path, lake) as mount:
        await mount.write(b"done", b"done")
        await mount.write(b"over", b"before")
        await mount.mkdir(b"dir")
        await mount.write(b"dir/1", b"1")
        assert await mount.flush()
        before = in_lake(lake)
        lake.before = Gate()
        await mount.write(b"new", b"n" * 100)
        await mount.write(b"over", b"after" * 10)
        await mount.write(b"theirs", b"ours")
        await mount.unlink(b"removed")
        await mount.mkdir(b"made")
        await mount.write(b"made/1.tmp", b"x" * 7)
        await mount.rename(b"dir", b"moved")
        said = await throw_away(mount)
        assert said["files"] == 4
        assert said["bytes"] == 100 + 50 + 4 + 7
        assert said["changes"] >= 6
        assert mount.service.describe()["unflushed_changes"] == 0
    lake.before = None
    assert in_lake(lake) == before
    async with world(tmp_path, lake) as mount:
        assert await tree(mount) == before
        assert mount.service.describe()["held_names"] == 0
        # And it goes on as ever, without a conflict.
        await mount.write(b"over", b"again")
        await mount.unlink(b"dir/1")
        await mount.write(b"made", b"a file now")
        assert await mount.flush()
        assert mount.service.describe()["conflicts"] == []
        assert lake.contents()[b"over"] == b"again"
        assert lake.contents()[b"made"] == b"a file now"
        assert b"dir/1" not in lake.contents()


async def test_what_is_uploaded_and_not_handed_over_stays(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        ino = await mount.write(b"a", b"a" * 10)
        fh = await mount.files.open(ino, os.O_RDONLY)
        await mount.files.make_link(1, b"link", b"a", 0, 0)
        assert await mount.flush()
        lake.before = Gate()
        await mount.write(b"b", b"b")
        await mount.files.release(fh)
        assert (await throw_away(mount))["files"] == 1
    lake.before = None
    async with world(tmp_path, lake) as mount:
        assert sorted(await mount.names(b"")) == [b"a", b"link"]
        assert await mount.read(b"a") == b"a" * 10
        assert await mount.files.union.read_link(await mount.ino(b"link")) == b"a"


async def test_an_earlier_version_shows_whatever_was_listed_before(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake, ttl_s=math.inf) as mount:
        await mount.mkdir(b"d")
        ino = await mount.write(b"d/1", b"first")
        # It stays open, so that the lake's part of the tree has the directory, and not this.
        fh = await mount.files.open(ino, os.O_RDONLY)
        assert await mount.flush()
        assert await mount.names(b"d") == [b"1"]
        lake.before = Gate()
        await mount.write(b"d/1", b"second")
        await throw_away(mount)
        await mount.files.release(fh)
    async with world(tmp_path, lake, ttl_s=math.inf) as mount:
        assert await tree(mount) == {b"d": None, b"d/1": b"first"}


@pytest.mark.parametrize("change", ["write", "remove"])
async def test_of_what_was_given_up_before_nothing_is_left(tmp_path: Path, change: str) -> None:
    """What another writer makes of it then can be written over."""
    lake = Lake()
    lake.store(b"a", b"before")
    async with world(tmp_path, lake) as mount:
        lake.before = refusing(b"a")
        await (mount.write(b"a", b"given up") if change == "write" else mount.unlink(b"a"))
        assert not await mount.flush()
        lake.before = None
        await flush(mount, "skip")
        await throw_away(mount)
    lake.store(b"a", b"theirs")
    async with world(tmp_path, lake, ttl_s=0.0) as mount:
        assert await mount.read(b"a") == b"theirs"
        await mount.write(b"a", b"ours")
        assert await mount.flush()
        assert mount.service.describe()["conflicts"] == []
    assert lake.contents() == {b"a": b"ours"}


async def test_nothing_is_left_in_a_directory_that_goes(tmp_path: Path) -> None:
    async with world(tmp_path, Lake(), publish=False) as mount:
        await mount.mkdir(b"d")
        ino = await mount.write(b"d/1", b"1")

        def publish(work: Work) -> None:
            node = work.node(ino)
            assert node is not None
            work.put_node(ino, node.marked(Flag.PUBLISHED))

        await mount.files.change(publish)
        found = await mount.files.change(lambda work: discard(mount.files.tree, work))
        assert found.staged == set()
        assert mount.files.journal.read(lambda work: list(work.nodes())) == []
        assert mount.files.journal.read(lambda work: list(work.children(1))) == []


async def test_parts_that_were_sent_are_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART_BYTES", 1 << 20)
    lake = Lake()

    async def before(op: str, key: bytes) -> None:
        if op == "complete":
            await trio.sleep_forever()

    lake.before = before
    async with world(tmp_path, lake) as mount:
        await mount.write(b"large", b"x" * (3 << 20))
        with trio.fail_after(PATIENCE_S):
            while mount.service.describe()["sent_ahead_bytes"] < 3 << 20:
                await trio.sleep(0.01)
        assert (await throw_away(mount))["bytes"] == 3 << 20
        assert lake._uploads == {}
        assert [path for _, _, path in mount.service._staging.files()] == []


async def test_whoever_cannot_unmount_throws_nothing_away(tmp_path: Path) -> None:
    lake = Lake()
    lake.before = gate = Gate()
    async with world(tmp_path, lake, unmount_flush_s=60.0) as mount:
        await mount.write(b"a", b"a")
        with trio.move_on_after(0.1):
            await mount.service.leave(wait=True, discard=True, told=nobody)
        gate.open.set()
        await mount.service.end()
        assert lake.contents() == {b"a": b"a"}


async def change(mount: World, rng: random.Random, step: int) -> None:
    """One random change; what is not possible is not done."""
    names = (b"a", b"b", b"c", b"x.tmp")

    def path() -> bytes:
        return b"/".join(rng.choice(names) for _ in range(rng.choice((1, 1, 2, 3))))

    try:
        match rng.randrange(8):
            case 0 | 1 | 2:
                await mount.write(path(), b"%d" % step * rng.randrange(1, 20))
            case 3 | 4:
                await mount.mkdir(path())
            case 5:
                await mount.unlink(path())
            case 6:
                await mount.rename(path(), path())
            case _:
                await mount.rmdir(path())
    except (TierfsError, AlreadyExists, NotEmpty, NotFound):
        pass


@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=pytest.mark.long if n >= FEW else ()) for n in range(MANY)]
)
async def test_after_it_a_mount_is_what_the_lake_is(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    lake = Lake()
    budget = rng.randrange(40)

    async def before(op: str, key: bytes) -> None:
        nonlocal budget
        budget -= 1
        if budget < 0:
            await trio.sleep_forever()

    lake.before = before
    async with world(tmp_path, lake) as mount:
        for step in range(60):
            await change(mount, rng, step)
            if rng.random() < 0.1:
                await trio.sleep(0.02)
        await throw_away(mount)
        assert mount.service.describe()["unflushed_changes"] == 0
    lake.before = None
    async with world(tmp_path, lake) as mount:
        assert await tree(mount) == in_lake(lake)
        for step in range(60, 90):
            await change(mount, rng, step)
        shown = await tree(mount)
        assert await mount.flush()
        assert mount.service.describe()["conflicts"] == []
        held = {p for p in shown if any(part == b"x.tmp" for part in p.split(b"/"))}
        assert {p: c for p, c in shown.items() if p not in held} == {
            p: c for p, c in in_lake(lake).items() if p not in held
        }


async def test_what_was_not_handed_over_yet_shows_what_the_lake_has_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory of which the journal knows all is one of which it then knows too little."""
    lake = Lake()
    async with world(tmp_path, lake, ttl_s=math.inf) as mount:
        with monkeypatch.context() as later:

            async def not_yet(ino: int) -> None:
                pass

            later.setattr(mount.service._adopter, "try_adopt", not_yet)
            await mount.mkdir(b"d")
            await mount.write(b"d/1", b"first")
            assert await mount.flush()
            lake.before = Gate()
            await mount.write(b"d/1", b"second")
        await throw_away(mount)
    lake.before = None
    async with world(tmp_path, lake, ttl_s=math.inf) as mount:
        assert await tree(mount) == {b"d": None, b"d/1": b"first"}
