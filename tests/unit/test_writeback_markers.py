"""``order = markers``: new files go several at a time, and no marker is there before what precedes
it; with a lake that is slow, fails, and is not heard."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tests.kills import Script, WatchedLake, raises_assertion, requests
from tests.unit.test_writeback_failures import flush, no_time_to_lose, refusing, root_of
from tests.writeback.markers import check_markers
from tests.writing import PATIENCE_S, Lake, World, world
from tierfs.errors import LakeUnavailable
from tierfs.writeback import schedule
from tierfs.writeback.records import Entry, Op

__all__ = ["no_time_to_lose"]

RULE = "**,order=markers"


# ---- what waits, and what does not ---------------------------------------------------------------


class Gate:
    """A lake in which requests about *keys* wait until they are let through."""

    def __init__(self, lake: Lake, *keys: bytes) -> None:
        self._closed = set(keys)
        self._opened = trio.Event()
        #: One of them is asked for.
        self.reached = trio.Event()
        lake.before = self._before

    async def _before(self, op: str, key: bytes) -> None:
        while key in self._closed:
            self.reached.set()
            await self._opened.wait()

    def open(self) -> None:
        self._closed.clear()
        self._opened.set()


async def until(there: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not there():
            await trio.sleep(0.005)


async def test_new_files_do_not_wait_for_each_other(tmp_path: Path) -> None:
    lake = Lake()
    gate = Gate(lake, b"d/1")
    async with world(tmp_path, lake, RULE) as mount:
        await mount.mkdir(b"d")
        for name in (b"d/1", b"d/2", b"d/3"):
            await mount.write(name, name)
        await until(lambda: {b"d/2", b"d/3"} <= set(lake.contents()))
        assert b"d/1" not in lake.contents()
        # Nothing of it is durable as long as the first one is not.
        assert root_of(mount)["durable_lsn"] == 1
        gate.open()
        assert await mount.flush()
        assert root_of(mount)["durable_lsn"] == 4


async def name_is_a_markers(mount: World) -> None:
    await mount.write(b"latest", b"7")


async def a_rename_of_what_was_held(mount: World) -> None:
    await mount.write(b"m.tmp", b"7")
    await mount.rename(b"m.tmp", b"m")


async def a_rename_of_a_held_directory(mount: World) -> None:
    await mount.mkdir(b"7.orbax-checkpoint-tmp-1")
    await mount.write(b"7.orbax-checkpoint-tmp-1/x", b"7")
    await mount.rename(b"7.orbax-checkpoint-tmp-1", b"7")


async def an_overwrite(mount: World) -> None:
    await mount.write(b"old", b"new")


async def a_removal(mount: World) -> None:
    await mount.unlink(b"old")


async def a_rename(mount: World) -> None:
    await mount.rename(b"old", b"newer")


async def a_link(mount: World) -> None:
    await mount.files.make_link(*await mount.at(b"link"), b"one", 0, 0)


async def attributes(mount: World) -> None:
    await mount.files.set_attributes(await mount.ino(b"old"), {"mode": 0o600}, None)


@pytest.mark.parametrize(
    "marker",
    [
        name_is_a_markers, a_rename_of_what_was_held, a_rename_of_a_held_directory, an_overwrite,
        a_removal, a_rename, a_link, attributes,
    ],
)  # fmt: skip
async def test_a_marker_waits_for_all_before_it(
    tmp_path: Path, marker: Callable[[World], Awaitable[None]]
) -> None:
    lake = Lake()
    async with world(tmp_path, lake, RULE) as mount:
        await mount.write(b"old", b"old")
        assert await mount.flush()
        gate = Gate(lake, b"one")
        await mount.write(b"one", b"1")
        await marker(mount)
        await mount.write(b"behind", b"2")
        before = list(lake.history)
        await until(lambda: b"behind" in lake.contents())
        await trio.sleep(0.05)
        assert lake.history == [*before, (b"behind", b"2")]
        gate.open()
        assert await mount.flush()
        assert lake.history[len(before) + 1] == (b"one", b"1")
        assert len(lake.history) > len(before) + 2


async def test_what_is_written_over_what_came_by_a_rename_waits_as_that(tmp_path: Path) -> None:
    """The first content is left out; it is a marker all the same, also after a restart."""
    lake = Lake()
    async with world(tmp_path, lake, RULE, publish=False) as mount:
        await mount.write(b"one", b"1")
        await a_rename_of_what_was_held(mount)
        await mount.write(b"m", b"8")
        await mount.write(b"behind", b"2")
    gate = Gate(lake, b"one")
    async with world(tmp_path, lake, RULE) as mount:
        await until(lambda: b"behind" in lake.contents())
        await trio.sleep(0.05)
        assert lake.keys == [b"behind"]
        gate.open()
        assert await mount.flush()
        assert lake.history == [(b"behind", b"2"), (b"one", b"1"), (b"m", b"8")]


async def test_the_last_file_of_a_renamed_directory_is_its_marker(tmp_path: Path) -> None:
    lake = Lake()
    gate = Gate(lake, b"7/1")
    held = b"7.orbax-checkpoint-tmp-1"
    async with world(tmp_path, lake, RULE) as mount:
        await mount.mkdir(held)
        for name in (b"/1", b"/2", b"/last"):
            await mount.write(held + name, name)
        await mount.rename(held, b"7")
        await until(lambda: b"7/2" in lake.contents())
        await trio.sleep(0.05)
        assert lake.keys == [b"7/", b"7/2"]
        gate.open()
        assert await mount.flush()
        assert lake.keys == [b"7/", b"7/2", b"7/1", b"7/last"]


async def test_a_file_that_stays_held_is_not_the_marker_of_its_directory(tmp_path: Path) -> None:
    lake = Lake()
    gate = Gate(lake, b"7/1")
    held = b"7.orbax-checkpoint-tmp-1"
    async with world(tmp_path, lake, RULE) as mount:
        await mount.mkdir(held)
        for name in (b"/1", b"/last", b"/left.tmp"):
            await mount.write(held + name, name)
        await mount.rename(held, b"7")
        await mount.write(b"behind", b"2")
        await until(lambda: b"behind" in lake.contents())
        await trio.sleep(0.05)
        assert lake.keys == [b"7/", b"behind"]
        gate.open()
        assert await mount.flush()
        assert lake.keys == [b"7/", b"behind", b"7/1", b"7/last"]


async def test_a_directory_does_not_meet_the_file_that_had_its_name(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake, RULE) as mount:
        await mount.write(b"a", b"1")
        await mount.mkdir(b"b")
        await mount.write(b"b/x", b"2")
        assert await mount.flush()
        gate = Gate(lake, b"one")
        await mount.write(b"one", b"1")
        await mount.unlink(b"a")
        await mount.mkdir(b"a")
        await mount.write(b"a/x", b"3")
        await mount.unlink(b"b/x")
        await mount.rmdir(b"b")
        await mount.write(b"b", b"4")
        await mount.write(b"behind", b"5")
        await until(lambda: b"behind" in lake.contents())
        assert lake.contents().keys() == {b"a", b"b/", b"b/x", b"behind"}
        gate.open()
        assert await mount.flush()
        assert lake.contents().keys() == {b"one", b"a/", b"a/x", b"b", b"behind"}


# ---- what fails ----------------------------------------------------------------------------------


async def test_a_frozen_root_begins_nothing_more_and_goes_on(tmp_path: Path) -> None:
    lake = Lake()
    lake.before = refusing(b"b")
    async with world(tmp_path, lake, RULE) as mount:
        await mount.write(b"a", b"a")
        assert await mount.flush()
        await mount.write(b"b", b"b")
        assert not await mount.flush()
        said = root_of(mount)
        assert (said["failed_path"], said["durable_lsn"]) == ("b", 1)
        for name in (b"c", b"latest"):
            await mount.write(name, name)
        assert not await mount.flush()
        assert lake.keys == [b"a"]
    async with world(tmp_path, lake, RULE) as mount:
        assert not await mount.flush()
        now = root_of(mount)
        for field in ("failure", "failed_path", "durable_lsn"):
            assert now[field] == said[field]
        assert (await flush(mount, "skip"))["durable"]
    assert sorted(lake.keys) == [b"a", b"c", b"latest"]


async def test_several_that_fail_at_once_are_given_up_one_by_one(tmp_path: Path) -> None:
    lake = Lake()
    gate, refuse = Gate(lake, b"a", b"b", b"c"), refusing(b"a", b"b")
    wait = lake.before

    async def before(op: str, key: bytes) -> None:
        assert wait is not None
        await wait(op, key)
        await refuse(op, key)

    lake.before = before
    async with world(tmp_path, lake, RULE) as mount:
        for name in (b"a", b"b", b"c"):
            await mount.write(name, name)
        await mount.write(b"latest", b"1")
        gate.open()
        assert not await mount.flush()
        assert not (await flush(mount, "skip"))["durable"]
        assert (await flush(mount, "skip"))["durable"]
    assert sorted(lake.keys) == [b"c", b"latest"]


# ---- random histories ----------------------------------------------------------------------------


def trouble(lake: WatchedLake, rng: random.Random) -> None:
    """Each request takes its own time; some fail, some are not heard of."""

    async def slowly(op: str, key: bytes) -> None:
        await trio.sleep(rng.choice((0, 0.001, 0.005, 0.02)))

    def point(what: str) -> None:
        if rng.random() < 0.1:
            raise LakeUnavailable("write", what)

    lake.before, lake.point = slowly, point


async def random_history(tmp_path: Path, seed: int, operations: int = 70) -> None:
    rng, lake, script = random.Random(seed), WatchedLake(), Script()
    trouble(lake, rng)
    sizes = iter(range(1, 10_000))
    directories: set[bytes] = set()
    async with world(tmp_path, lake, RULE) as mount:
        for _ in range(operations):
            above = rng.choice([b"", *(name + b"/" for name in sorted(directories))])
            path = above + rng.choice([b"a", b"b", b"c", b"d", b"latest"])
            files = sorted(script.files)
            kind = rng.choice(["write"] * 6 + ["held", "mkdir", "rename", "unlink", "rmdir", "dir"])
            free = path not in script.files and path not in directories
            if kind == "write" and path not in directories:
                await script.write(mount, path, bytes(next(sizes)))
            elif kind == "held" and path not in directories:
                await script.write(mount, above + b"x.tmp", bytes(next(sizes)))
                await script.rename(mount, above + b"x.tmp", path)
            elif kind == "mkdir" and free and path.count(b"/") < 2:
                await script.mkdir(mount, path)
                directories.add(path)
            elif kind == "rename" and files and path not in directories:
                await script.rename(mount, rng.choice(files), path)
            elif kind == "unlink" and files:
                await script.unlink(mount, rng.choice(files))
            elif kind == "rmdir":
                inside = {name.rpartition(b"/")[0] for name in [*directories, *script.files]}
                if empty := sorted(directories - inside):
                    await script.rmdir(mount, empty[0])
                    directories.discard(empty[0])
            elif kind == "dir" and directories and free:
                old = rng.choice(sorted(directories))
                if not (path + b"/").startswith(old + b"/"):
                    await script.rename(mount, old, path)
                    moved = {d for d in directories if d == old or d.startswith(old + b"/")}
                    directories -= moved
                    directories |= {path + name[len(old) :] for name in moved}
        assert await mount.flush()
    found = check_markers(requests(lake.changes()).requests, script.history())
    assert not found, f"seed {seed}: " + "\n".join(map(str, found))


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(n, marks=pytest.mark.long) for n in range(2, 40))]
)
async def test_random_histories(tmp_path: Path, seed: int) -> None:
    await random_history(tmp_path, seed)


async def test_sabotage_where_no_file_is_a_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def content(entry: Entry) -> bool:
        return entry.op in (Op.PUT, Op.MAKE_DIRECTORY)

    monkeypatch.setattr(schedule, "is_new", content)
    with raises_assertion():
        await test_a_marker_waits_for_all_before_it(tmp_path, name_is_a_markers)


async def test_sabotage_where_paths_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(ahead: object, paths: tuple[bytes, ...]) -> bool:
        return False

    monkeypatch.setattr(schedule._Ahead, "touches", never)
    with raises_assertion():
        await test_a_directory_does_not_meet_the_file_that_had_its_name(tmp_path)
