"""Rules that change while something waits: what was acknowledged goes on in its order, under the
roots that there are now, or the mount is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.writing import PATIENCE_S, Lake, World, world
from tierfs.errors import ConfigError, LakeDenied
from tierfs.writeback.fsck import fsck
from tierfs.writeback.journal import Work

#: What would overtake something has this long to do so.
OVERTAKEN_S = 0.3


def holding(lake: Lake, key: bytes, overtaken: Callable[[], bool]) -> trio.Event:
    """Keep the lake from having *key* until the event that this returns, and then for a while, or
    until it is *overtaken*."""
    ready = trio.Event()

    async def before(op: str, of: bytes) -> None:
        if of == key and op == "put":
            await ready.wait()
            with trio.move_on_after(OVERTAKEN_S):
                while not overtaken():
                    await trio.sleep(0.005)

    lake.before = before
    return ready


def refusing(*keys: bytes) -> Callable[[str, bytes], Awaitable[None]]:
    async def before(op: str, key: bytes) -> None:
        if key in keys:
            raise LakeDenied("write an object", key, "no such permission")

    return before


async def retry(mount: World) -> dict[str, Any]:
    async def told(fields: dict[str, Any]) -> None:
        pass

    return await mount.service.flush(b"", wait=True, action="retry", told=told)


def failures(mount: World) -> dict[str, str]:
    """Why which roots go no further."""
    roots = mount.service.describe()["roots"]
    return {root["root"]: root["failure"] for root in roots if root["failure"]}


async def until(there: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not there():
            await trio.sleep(0.005)


async def run1(tmp_path: Path, lake: Lake, *rules: str) -> None:
    """A mount that ends before ``ckpt/run1/a`` is in the lake."""
    async with world(tmp_path, lake, *rules, publish=False) as mount:
        await mount.mkdir(b"ckpt")
        await mount.mkdir(b"ckpt/run1")
        await mount.write(b"ckpt/run1/a", b"first")


async def test_what_is_removed_under_another_rule_stays_removed(tmp_path: Path) -> None:
    lake = Lake()
    await run1(tmp_path, lake, "ckpt/run1/**")
    removed = (b"ckpt/run1/a", None)
    ready = holding(lake, b"ckpt/run1/a", lambda: removed in lake.history)
    async with world(tmp_path, lake, "ckpt/**") as mount:
        await mount.unlink(b"ckpt/run1/a")
        ready.set()
        assert await mount.flush()
        assert await mount.names(b"ckpt/run1") == []
    assert b"ckpt/run1/a" not in lake.contents()


@pytest.mark.parametrize("order", ["strict", "markers"])
async def test_a_marker_waits_for_what_an_earlier_mount_left(tmp_path: Path, order: str) -> None:
    lake = Lake()
    await run1(tmp_path, lake, "ckpt/run1/**")
    ready = holding(lake, b"ckpt/run1/a", lambda: b"ckpt/latest" in lake.contents())
    async with world(tmp_path, lake, f"ckpt/**,order={order}") as mount:
        await mount.write(b"ckpt/latest", b"run1")
        ready.set()
        assert await mount.flush()
        assert [root["root"] for root in mount.service.describe()["roots"]] == ["/ckpt"]
    assert lake.keys.index(b"ckpt/run1/a") < lake.keys.index(b"ckpt/latest")


async def test_what_is_frozen_stays_so_and_all_comes_in_its_order(tmp_path: Path) -> None:
    lake = Lake()
    lake.before = refusing(b"ckpt/run1/a")
    async with world(tmp_path, lake, "ckpt/run1/**", "ckpt/run2/**") as mount:
        for path in (b"ckpt", b"ckpt/run1", b"ckpt/run2"):
            await mount.mkdir(path)
        await mount.write(b"ckpt/run1/a", b"1")
        assert not await mount.flush()
        await mount.write(b"ckpt/run1/b", b"1")
        await mount.write(b"ckpt/run1/a", b"2")
        await mount.write(b"ckpt/run1/c", b"2")
        why = failures(mount)["/ckpt/run1"]
    async with world(tmp_path, lake, "ckpt/**") as mount:
        await mount.write(b"ckpt/run1/a", b"3")
        await mount.write(b"ckpt/run2/a", b"3")
        assert not await mount.flush()
        assert failures(mount) == {"/ckpt": why}
    assert b"ckpt/run2/a" not in lake.contents()
    assert (await fsck(tmp_path, repair=False)).found == []
    lake.before, lake.history = None, []
    async with world(tmp_path, lake, "ckpt/**") as mount:
        assert not await mount.flush()
        answer = await retry(mount)
        assert (answer["thawed"], answer["durable"], answer["conflicts"]) == (1, True, [])
        assert await mount.read(b"ckpt/run1/a") == b"3"
    assert [row for row in lake.history if row[0].startswith(b"ckpt/run")] == [
        (b"ckpt/run1/a", b"1"), (b"ckpt/run1/b", b"1"), (b"ckpt/run1/a", b"2"),
        (b"ckpt/run1/c", b"2"), (b"ckpt/run1/a", b"3"), (b"ckpt/run2/a", b"3"),
    ]  # fmt: skip


async def test_under_an_inner_rule_all_that_waits_keeps_its_order(tmp_path: Path) -> None:
    lake = Lake()
    await run1(tmp_path, lake, "ckpt/**")
    async with world(tmp_path, lake, "ckpt/**", publish=False) as mount:
        await mount.write(b"ckpt/unmatched", b"1")
    async with world(tmp_path, lake, "ckpt/run1/**", "other/**", publish=False) as mount:
        await mount.write(b"ckpt/run1/a", b"second")
    assert (await fsck(tmp_path, repair=False)).found == []
    async with world(tmp_path, lake, "ckpt/run1/**", "other/**") as mount:
        assert await mount.flush()
        assert mount.service.describe()["conflicts"] == []
    assert lake.history == [
        (b"ckpt/", b""), (b"ckpt/run1/", b""), (b"ckpt/run1/a", b"first"),
        (b"ckpt/unmatched", b"1"), (b"ckpt/run1/a", b"second"),
    ]  # fmt: skip


async def test_what_has_nothing_to_do_with_the_rules_goes_on_by_itself(tmp_path: Path) -> None:
    lake = Lake()
    await run1(tmp_path, lake, "ckpt/**")
    async with world(tmp_path, lake, "other/**") as mount:
        assert await mount.flush()
    assert lake.contents()[b"ckpt/run1/a"] == b"first"


async def two_files(mount: World) -> None:
    await mount.write(b"ckpt/run2/b", b"1")


async def a_rename(mount: World) -> None:
    await mount.rename(b"ckpt/run1/a", b"ckpt/run2/a")


async def a_rename_of_a_directory(mount: World) -> None:
    await mount.rename(b"ckpt/run1", b"ckpt/run2/1")


@pytest.mark.parametrize("change", [two_files, a_rename, a_rename_of_a_directory])
async def test_rules_that_would_break_an_order_are_refused(
    tmp_path: Path, change: Callable[[World], Awaitable[None]]
) -> None:
    lake, inner = Lake(), ("ckpt/run1/**", "ckpt/run2/**")
    async with world(tmp_path, lake, "ckpt/**") as mount:
        for path in (b"ckpt", b"ckpt/run1", b"ckpt/run2"):
            await mount.mkdir(path)
        await mount.write(b"ckpt/run1/a", b"1")
        assert await mount.flush()
    async with world(tmp_path, lake, "ckpt/**", publish=False) as mount:
        await mount.write(b"ckpt/run1/before", b"1")
        await change(mount)
    before = dict(lake.contents())
    with pytest.RaisesGroup(ConfigError, flatten_subgroups=True) as raised:
        async with world(tmp_path, lake, *inner):
            pass
    (error,) = raised.value.exceptions
    assert "ckpt/run2" in str(error)
    assert "mount with the rules of before" in str(error)
    assert lake.contents() == before
    async with world(tmp_path, lake, "ckpt/**") as mount:
        assert await mount.flush()
    async with world(tmp_path, lake, *inner) as mount:
        assert await mount.flush()


async def test_what_is_frozen_with_nothing_left_is_frozen_under_every_rule(tmp_path: Path) -> None:
    """As a check leaves a root that has lost its last change."""
    lake, inner = Lake(), ("ckpt/run1/**", "ckpt/run2/**", "other/**")
    async with world(tmp_path, lake, "ckpt/**", publish=False) as mount:
        await mount.service.journal.change(lambda work: work.freeze(b"ckpt", 1, b"look"))
    async with world(tmp_path, lake, *inner, publish=False):
        pass
    async with world(tmp_path, lake, *inner) as mount:
        await until(lambda: failures(mount) == {"/ckpt/run1": "look", "/ckpt/run2": "look"})
    async with world(tmp_path, lake, "ckpt/**") as mount:
        await until(lambda: failures(mount) == {"/ckpt": "look"})


async def test_a_file_is_what_the_last_of_its_changes_was_whichever_was_told_last(
    tmp_path: Path,
) -> None:
    """What has published a path's changes out of order takes nothing from what is newer."""
    async with world(tmp_path, Lake(), publish=False) as mount:
        await mount.write(b"a", b"first")
        await mount.write(b"between", b"1")
        ino = await mount.write(b"a", b"second")
        tree = mount.files.tree

        def publish(work: Work) -> None:
            (first, _), _, (second, _) = list(work.log())
            tree.published(work, second, b"e2")
            tree.published(work, first, b"e1")

        await mount.files.change(publish)
        node = mount.files.journal.node(ino)
        assert node is not None
        assert node.etag == b"e2"
