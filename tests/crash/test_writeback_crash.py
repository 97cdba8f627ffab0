"""kill -9 at every step of writing and of publishing: what was acknowledged is in the lake in the
end, in order and once, and the mount shows what the lake has."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.caching import noise
from tests.kills import Image, Images, Script, Seen, WatchedLake, raises_assertion, requests, tree
from tests.writeback.history import check
from tests.writeback.markers import check_markers
from tests.writing import World, world
from tierfs.writeback import uploads
from tierfs.writeback.placer import Placer
from tierfs.writeback.records import Entry
from tierfs.writeback.schedule import Schedule
from tierfs.writeback.staging import Live, Staging

MIB = 1 << 20
#: Images that are gone through at one time: they mostly wait for the disk.
AT_ONCE = 8
#: Goes up in parts: three, as `small_parts` has them.
LARGE = 2 * MIB + 17
#: Sizes are all different: the judge tells versions apart by them.
CONTENT = {
    name: noise(size, size)
    for name, size in {
        "one": 11, "published": 12, "latest-1": 13, "a": 1000, "large": LARGE, "latest-2": 14,
        "metadata": 15, "x": 16, "commit": 17, "latest-3": 18,
    }.items()
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes three parts is 2 MiB, and an image of it soon made."""
    monkeypatch.setattr(uploads, "PART_BYTES", MIB)


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    """No image is taken of another test, also if one fails, as those below do on purpose."""
    yield
    for images in set(Images.running):
        images.stop()


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory, where there is room for that: nothing here is about a power cut, and half of the
    time would go into waiting for the disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < 1 << 30:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


async def begin(script: Script, world: World) -> None:
    """What is in the lake before anything is killed."""
    await script.mkdir(world, b"d")
    await script.write(world, b"d/one", CONTENT["one"])
    await script.write(world, b"published", CONTENT["published"])
    await script.write(world, b"latest", CONTENT["latest-1"])
    assert await world.flush()


async def go_on(script: Script, world: World) -> None:
    """One of each kind. No two changes in a row that could collapse."""
    await script.mkdir(world, b"step-1")
    await script.write(world, b"step-1/a", CONTENT["a"])
    await script.write(world, b"step-1/large", CONTENT["large"])
    await script.write(world, b"latest", CONTENT["latest-2"])
    await script.write(world, b"step-1/.metadata.tmp", CONTENT["metadata"])
    await script.rename(world, b"step-1/.metadata.tmp", b"step-1/.metadata")
    await script.rename(world, b"published", b"moved")
    held = b"2.orbax-checkpoint-tmp-1"
    await script.mkdir(world, held)
    await script.write(world, held + b"/x", CONTENT["x"])
    await script.write(world, held + b"/commit_success", CONTENT["commit"])
    await script.rename(world, held, b"2")
    await script.rename(world, b"d", b"e")
    await script.unlink(world, b"step-1/a")
    await script.symlink(world, b"step-1", b"link")
    await script.write(world, b"latest", CONTENT["latest-3"])


#: What the lake shows of `begin` and `go_on`, if nothing is published before all is acknowledged.
BEGIN: Seen = [
    (b"d/", b""),
    (b"d/one", CONTENT["one"]),
    (b"published", CONTENT["published"]),
    (b"latest", CONTENT["latest-1"]),
]
ALL: Seen = [
    *BEGIN,
    (b"step-1/", b""),
    (b"step-1/a", CONTENT["a"]),
    (b"step-1/large", CONTENT["large"]),
    (b"latest", CONTENT["latest-2"]),
    (b"step-1/.metadata", CONTENT["metadata"]),
    (b"moved", CONTENT["published"]),
    (b"published", None),
    (b"2/", b""),
    (b"2/x", CONTENT["x"]),
    (b"2/commit_success", CONTENT["commit"]),
    (b"e/", b""),
    (b"e/one", CONTENT["one"]),
    (b"d/one", None),
    (b"d/", None),
    (b"step-1/a", None),
    (b"link", b"step-1"),
    (b"latest", CONTENT["latest-3"]),
]


async def reopened(image: Image, *rules: str) -> None:
    """What a kill left goes on: nothing acknowledged is missing, at once; and in the end the lake
    has shown the history, and the mount shows the lake."""
    async with world(image.directory, image.lake, *rules) as mount:
        shown = await tree(mount)
        for path, data in image.script.files.items():
            if not image.script.touches(path):
                assert shown.get(path) == data, f"{image.point}: {path!r}"
        assert await mount.flush(), image.point
        judged = check_markers if rules else check
        found = judged(requests(image.lake.changes()).requests, image.script.history())
        assert not found, f"{image.point}: " + "\n".join(map(str, found))
        files = {
            key: data
            for key, data in image.lake.contents().items()
            if not key.endswith(b"/") and key != b"link"
        }
        # What has a temporary name, or was never closed, is shown here alone.
        ours = {path for path in shown if b"tmp" in path or image.script.touches(path)}
        shown = await tree(mount)
        assert {path: shown[path] for path in shown.keys() - (ours - files.keys())} == files, (
            image.point
        )


async def judge(images: Images, *rules: str) -> None:
    """Every image."""
    assert len(images.taken) > 20
    limit = trio.CapacityLimiter(AT_ONCE)

    async def one(image: Image) -> None:
        async with limit:
            await reopened(image, *rules)
            shutil.rmtree(image.directory)

    async with trio.open_nursery() as nursery:
        for image in images.taken:
            nursery.start_soon(one, image)


async def test_a_kill_while_it_is_written(tmp_path: Path) -> None:
    lake, images = await watched(tmp_path)
    async with world(tmp_path / "cache", lake, publish=False) as mount:
        await go_on(images.script, mount)
        images.stop()
    await judge(images)


async def watched(tmp_path: Path) -> tuple[WatchedLake, Images]:
    """A lake with `begin` in it, of which images are taken from now on."""
    lake, script = WatchedLake(), Script()
    async with world(tmp_path / "cache", lake) as mount:
        await begin(script, mount)
    (tmp_path / "images").mkdir()
    images = Images(tmp_path / "cache", lake, tmp_path / "images")
    images.script = script
    return lake, images


async def test_a_kill_while_it_is_published(tmp_path: Path) -> None:
    lake, images = await watched(tmp_path)
    images.stop()
    async with world(tmp_path / "cache", lake, publish=False) as mount:
        await go_on(images.script, mount)
    images.go_on()
    async with world(tmp_path / "cache", lake) as mount:
        assert await mount.flush()
        images.stop()
    assert lake.changes() == ALL
    for image in images.taken:
        assert image.lake.changes() == ALL[: len(image.lake.changes())]
    await judge(images)
    assert [image.point for image in images.taken if image.lake.changes() != ALL] == []
    # An upload of whose beginning only the lake knows stays there, for a lifecycle rule.
    points = [image.point for image in images.taken]
    # Before it if the disk has changed since the last image, and after it in any case.
    noted = next(n for n, point in enumerate(points) if "put_part" in point)
    left = [n for n, image in enumerate(images.taken) if image.lake._uploads]
    assert all(n < noted for n in left), points
    assert not left or "after begin_upload" in points[left[0]]


async def test_a_kill_while_it_is_written_and_published(tmp_path: Path) -> None:
    lake, images = await watched(tmp_path)

    async def slowly(op: str, key: bytes) -> None:
        await trio.sleep(0.002)

    lake.before = slowly
    async with world(tmp_path / "cache", lake) as mount:
        await go_on(images.script, mount)
        assert await mount.flush()
        images.stop()
    await judge(images)


async def test_a_kill_in_the_order_of_markers(tmp_path: Path) -> None:
    """With several on their way at any time."""
    rule = "**,order=markers"
    lake, images = await watched(tmp_path)
    images.stop()
    async with world(tmp_path / "cache", lake, publish=False) as mount:
        await go_on(images.script, mount)
        for name in (b"step-1/b", b"step-1/c", b"b", b"c"):
            await images.script.write(mount, name, noise(len(name) + 100 + name[-1], 1))
        await images.script.write(mount, b"latest", noise(300, 1))
    images.go_on()
    delays = random.Random(3)

    async def slowly(op: str, key: bytes) -> None:
        await trio.sleep(delays.choice((0, 0.002, 0.01)))

    lake.before = slowly
    async with world(tmp_path / "cache", lake, rule) as mount:
        assert await mount.flush()
        images.stop()
    await judge(images, rule)


async def test_a_kill_after_a_kill(tmp_path: Path) -> None:
    """Each life gets a few steps further, if at all: in the end all is there, and once."""
    rng = random.Random(5)
    lake, images = await watched(tmp_path)
    images.stop()
    async with world(tmp_path / "cache", lake, publish=False) as mount:
        await go_on(images.script, mount)
    image = Image("begin", tmp_path / "cache", lake, images.script)
    lives = 0
    while image.lake.changes() != ALL:
        lives += 1
        into = tmp_path / f"life-{lives}"
        into.mkdir()
        only = rng.randrange(3, 12)
        images = Images(image.directory, image.lake, into, only=only)
        images.script = image.script
        async with world(image.directory, image.lake) as mount:
            assert await mount.flush()
            images.stop()
        assert image.lake.changes() == ALL
        if not images.taken:
            break
        shutil.rmtree(image.directory)
        (image,) = images.taken
    assert lives > 5
    await reopened(image)


# Sabotage


async def test_sabotage_without_the_order_it_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def last(schedule: Schedule) -> list[int]:
        return [] if schedule._begun else list(schedule._waiting)[-1:]

    monkeypatch.setattr(Schedule, "next", last)
    with raises_assertion():
        await test_a_kill_while_it_is_published(tmp_path)


async def test_sabotage_without_a_look_at_the_lake_it_is_published_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(placer: Placer, lsn: int, entry: Entry) -> bytes | None:
        return None

    monkeypatch.setattr(Placer, "_settled", nothing)
    with raises_assertion():
        await test_a_kill_while_it_is_published(tmp_path)


async def test_sabotage_without_the_freeze_the_wrong_content_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(staging: Staging, live: Live, content: int, *, empty: bool) -> None:
        pass

    monkeypatch.setattr(Staging, "freeze", nothing)
    with raises_assertion():
        await test_a_kill_while_it_is_published(tmp_path)
