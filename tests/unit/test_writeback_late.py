"""What becomes of a rename, or of other attributes, where another writer was first: what they were
to bring, and what was written since, is kept."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tests.kills import Images, WatchedLake
from tests.unit.test_writeback_conflicts import Other, conflicts, no_wait_for_writers
from tests.unit.test_writeback_failures import flush, no_time_to_lose, refusing
from tests.writing import GID, PATIENCE_S, UID, Lake, World, world

__all__ = ["no_time_to_lose", "no_wait_for_writers"]


class Gate(Other):
    """As `Other`; *reached* when the first request comes, all of which wait for the gate."""

    def __init__(self, lake: Lake, key: bytes, op: str = "put") -> None:
        super().__init__(lake, key, op)
        self.gate = trio.Event()
        self.reached = trio.Event()
        lake.before = self

    async def __call__(self, op: str, key: bytes) -> None:
        self.reached.set()
        await super().__call__(op, key)

    async def wait(self) -> None:
        with trio.fail_after(PATIENCE_S):
            await self.reached.wait()


async def uploaded(mount: World, path: bytes, data: bytes) -> int:
    """A file that is in the lake, and not handed over: a handle through which it can be read."""
    await mount.write(path, data)
    fh = await mount.files.open(await mount.ino(path), os.O_RDWR)
    assert await mount.flush()
    return fh


async def hand_over(mount: World, fh: int) -> None:
    """Only the lake has it from here on."""
    await mount.files.release(fh)
    await mount.settled()


# ---- renamed before it was kept out --------------------------------------------------------------


async def test_what_was_renamed_before_it_was_kept_out_goes_on(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        other = Gate(lake, b"a")
        ino = await mount.write(b"a", b"ours")
        await other.wait()
        await mount.files.set_attributes(ino, {"mode": 0o600}, None)
        await mount.rename(b"a", b"b")
        other.gate.set()
        assert await mount.flush()
        await mount.settled()
        assert await mount.read(b"b") == b"ours"
        assert await mount.read(b"a") == b"theirs"
        assert await mount.names(b"") == [b"a", b"b"]
        assert mount.service.describe()["conflicts"] == ["a"]
    assert lake.contents() == {b"a": b"theirs", b"b": b"ours"}
    found = (await lake.head(b"b")).metadata
    assert found is not None
    assert found["mode"] == str(0o100600)
    assert list((tmp_path / "staging").iterdir()) == []


async def again(mount: World) -> None:
    await mount.rename(b"b", b"c")


async def written_over(mount: World) -> None:
    await mount.write(b"b", b"newer")


async def removed(mount: World) -> None:
    await mount.unlink(b"b")


async def name_given_away(mount: World) -> None:
    await mount.write(b"a", b"another")


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        (again, {b"c": b"ours"}),
        (written_over, {b"b": b"newer"}),
        (removed, {}),
        (name_given_away, {b"b": b"ours", b"aside": b"another"}),
    ],
)
@pytest.mark.parametrize("killed", [False, True])
async def test_whatever_happens_to_it_then(
    tmp_path: Path,
    then: Callable[[World], Awaitable[None]],
    expected: dict[bytes, bytes],
    *,
    killed: bool,
) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        other = Gate(lake, b"a")
        await mount.write(b"a", b"ours")
        await other.wait()
        await mount.rename(b"a", b"b")
        await then(mount)
        if not killed:
            other.gate.set()
            assert await mount.flush()
    other.gate.set()
    async with world(tmp_path, lake) as mount:
        assert await mount.flush()
        await mount.settled()
        for path, data in expected.items():
            assert path == b"aside" or await mount.read(path) == data
        assert await mount.read(b"a") == b"theirs"
    found = {b"aside" if b"conflict" in key else key: data for key, data in lake.contents().items()}
    assert found == expected | {b"a": b"theirs"}
    assert list((tmp_path / "staging").iterdir()) == []


async def test_what_was_in_a_directory_that_was_renamed_goes_on(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.mkdir(b"d")
        assert await mount.flush()
        other = Gate(lake, b"d/a")
        await mount.write(b"d/a", b"ours")
        await other.wait()
        await mount.rename(b"d", b"e")
        other.gate.set()
        assert await mount.flush()
        assert await mount.read(b"e/a") == b"ours"
    assert lake.contents()[b"e/a"] == b"ours"
    assert lake.contents()[b"d/a"] == b"theirs"


async def test_a_link_that_was_renamed_goes_on(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        other = Gate(lake, b"a")
        await mount.files.make_link(1, b"a", b"target", UID, GID)
        await other.wait()
        await mount.rename(b"a", b"b")
        other.gate.set()
        assert await mount.flush()
    assert lake.contents() == {b"a": b"theirs", b"b": b"target"}


# ---- renames that come too late ------------------------------------------------------------------


@pytest.mark.parametrize("handed_over", [False, True])
async def test_what_a_directory_cannot_bring_is_kept_before_its_source_goes(
    tmp_path: Path, *, handed_over: bool
) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.mkdir(b"d")
        fh = await uploaded(mount, b"d/a", b"ours")
        if handed_over:
            await hand_over(mount, fh)
        lake.before = Other(lake, b"e/a", "copy")
        await mount.rename(b"d", b"e")
        assert await mount.flush()
        assert conflicts(mount, lake) == [b"ours"]
        if not handed_over:
            await mount.files.release(fh)
        await mount.settled()
    assert lake.contents()[b"e/a"] == b"theirs"
    assert b"d/a" not in lake.contents()
    assert list((tmp_path / "staging").iterdir()) == []
    async with world(tmp_path, lake) as mount:
        await mount.namespace.refresh(b"e")
        assert await mount.read(b"e/a") == b"theirs"


@pytest.mark.parametrize("change", [name_given_away, None])
@pytest.mark.parametrize("handed_over", [False, True])
async def test_what_a_file_cannot_bring_is_kept_if_its_name_was_given_away(
    tmp_path: Path, change: Callable[[World], Awaitable[None]] | None, *, handed_over: bool
) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        fh = await uploaded(mount, b"a", b"ours")
        if handed_over:
            await hand_over(mount, fh)
        other = Gate(lake, b"b", "copy")
        await mount.rename(b"a", b"b")
        if change is not None:
            await change(mount)
        other.gate.set()
        assert await mount.flush()
        if not handed_over:
            await mount.files.release(fh)
        await mount.settled()
        if change is None:
            # It stays what it was.
            assert mount.service.describe()["conflicts"] == ["b"]
        else:
            assert conflicts(mount, lake) == [b"ours"]
        assert await mount.read(b"a") == (b"ours" if change is None else b"another")
        assert await mount.read(b"b") == b"theirs"
    assert lake.contents()[b"a"] == (b"ours" if change is None else b"another")
    assert list((tmp_path / "staging").iterdir()) == []


@pytest.mark.parametrize("directory", [False, True])
@pytest.mark.parametrize("handed", [False, True])
async def test_what_another_writer_puts_under_an_old_name_stays(
    tmp_path: Path, *, directory: bool, handed: bool
) -> None:
    """Between the copy of a file and the removal of what was copied."""
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.mkdir(b"d")
        fh = await uploaded(mount, b"d/f", b"ours")
        if handed:
            await hand_over(mount, fh)
        lake.before = other = Other(lake, b"d/f", "delete")
        if directory:
            await mount.rename(b"d", b"e")
        else:
            await mount.mkdir(b"e")
            await mount.rename(b"d/f", b"e/f")
        assert await mount.flush()
        assert other.came
        if not handed:
            await hand_over(mount, fh)
        assert await mount.read(b"e/f") == b"ours"
        if directory:
            # Its marker went after that; a look-up finds it when the absence is not believed.
            await mount.namespace.refresh(b"d")
        assert await mount.read(b"d/f") == b"theirs"
    contents = lake.contents()
    assert (contents[b"d/f"], contents[b"e/f"]) == (b"theirs", b"ours")


@pytest.mark.parametrize("directory", [False, True])
@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("handed_over", [False, True])
async def test_what_is_no_longer_at_its_source_goes_on_from_here(
    tmp_path: Path, *, directory: bool, removed: bool, handed_over: bool
) -> None:
    """Another writer has changed, or removed, what is renamed here. What they have made of it stays
    in any case; there is nothing to go on with where its bytes were the lake's alone."""
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.mkdir(b"d")
        fh = await uploaded(mount, b"d/a", b"ours")
        if handed_over:
            await hand_over(mount, fh)
        if removed:
            await lake.delete(b"d/a")
        else:
            lake.store(b"d/a", b"theirs")
        await mount.rename(*((b"d", b"e") if directory else (b"d/a", b"d/b")))
        assert await mount.flush()
        path = b"e/a" if directory else b"d/b"
        if handed_over:
            assert mount.service.describe()["conflicts"] == [path.decode()]
        else:
            await mount.files.release(fh)
        await mount.settled()
        if not handed_over:
            assert await mount.read(path) == b"ours"
        if not directory and not removed:
            assert await mount.read(b"d/a") == b"theirs"
    files = {key: data for key, data in lake.contents().items() if not key.endswith(b"/")}
    expected = {} if removed else {b"d/a": b"theirs"}
    assert files == expected | ({} if handed_over else {path: b"ours"})
    assert list((tmp_path / "staging").iterdir()) == []
    async with world(tmp_path, lake, ttl_s=0.0) as mount:
        if not removed:
            assert await mount.read(b"d/a") == b"theirs"


# ---- what was written since ----------------------------------------------------------------------


async def chmod(mount: World) -> None:
    await mount.files.set_attributes(await mount.ino(b"a"), {"mode": 0o600}, None)


@pytest.mark.parametrize("killed", [False, True])
async def test_what_has_another_name_since_is_not_given_up_with_its_attributes(
    tmp_path: Path, *, killed: bool
) -> None:
    lake = Lake()
    lake.store(b"a", b"before")
    async with world(tmp_path, lake) as mount:
        other = Gate(lake, b"a", "copy")
        fh = await mount.files.open(await mount.ino(b"a"), os.O_RDWR)
        await chmod(mount)
        await mount.files.write(fh, 0, b"written")
        await mount.rename(b"a", b"b")
        other.gate.set()
        assert await mount.flush()
        if not killed:
            await mount.files.flush(fh)
            await mount.files.release(fh)
            assert await mount.flush()
    async with world(tmp_path, lake) as mount:
        # As any other file that was never closed.
        assert await mount.read(b"b") == b"written"
    assert lake.contents().get(b"b") == (None if killed else b"written")


@pytest.mark.parametrize("change", [chmod, None])
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("is_lakes", [False, True])
async def test_what_is_written_while_a_change_is_given_up_is_kept(
    tmp_path: Path,
    change: Callable[[World], Awaitable[None]] | None,
    *,
    closed: bool,
    is_lakes: bool,
) -> None:
    lake = Lake()
    if is_lakes:
        lake.store(b"a", b"first")
    async with world(tmp_path, lake) as mount:
        if is_lakes:
            fh = await mount.files.open(await mount.ino(b"a"), os.O_RDWR)
        else:
            fh = await uploaded(mount, b"a", b"first")
        path = b"a" if change else b"b"
        other = Gate(lake, path, "copy")
        await (mount.rename(b"a", b"b") if change is None else change(mount))
        await other.wait()
        await mount.files.write(fh, 5, b", second")
        if closed:
            await mount.files.flush(fh)
        other.gate.set()
        if not closed:
            assert await mount.flush()
        await mount.files.flush(fh)
        await mount.files.release(fh)
        assert await mount.flush()
        await mount.settled()
        asides = [data for key, data in lake.contents().items() if b"conflict" in key]
        assert asides == [b"first, second"]
        assert await mount.read(path) == b"theirs"
        if change is None:
            assert await mount.read(b"a") == b"first"
    assert list((tmp_path / "staging").iterdir()) == []


@pytest.mark.parametrize("put", [False, True])
async def test_what_is_written_since_does_not_show_under_the_old_name(
    tmp_path: Path, *, put: bool
) -> None:
    """There it is another file, which the lake has."""
    lake = Lake()
    lake.store(b"a", b"first")
    async with world(tmp_path, lake) as mount:
        fh = await mount.files.open(await mount.ino(b"a"), os.O_RDWR)
        other = Gate(lake, b"a" if put else b"b", "put" if put else "copy")
        if put:
            await mount.files.write(fh, 0, b"other")
            await mount.files.flush(fh)
            await other.wait()
        await mount.rename(b"a", b"b")
        other.gate.set()
        assert await mount.flush()
        await mount.files.write(fh, 0, b"since")
        assert await mount.read(b"a") == (b"theirs" if put else b"first")
        assert await mount.read(b"b") == b"since"
        await mount.files.flush(fh)
        await mount.files.release(fh)
        assert await mount.flush()
        await mount.settled()
        assert await mount.read(b"a") == (b"theirs" if put else b"first")


@pytest.mark.parametrize("change", [chmod, None])
async def test_what_is_written_while_a_change_is_given_up_by_hand_is_kept(
    tmp_path: Path, change: Callable[[World], Awaitable[None]] | None
) -> None:
    lake = Lake()
    lake.store(b"a", b"first")
    lake.before = refusing(b"a" if change else b"b")
    async with world(tmp_path, lake) as mount:
        fh = await mount.files.open(await mount.ino(b"a"), os.O_RDWR)
        await (mount.rename(b"a", b"b") if change is None else change(mount))
        await mount.files.write(fh, 5, b", second")
        assert not await mount.flush()
        lake.before = None
        assert (await flush(mount, "skip"))["durable"]
        await mount.files.flush(fh)
        await mount.files.release(fh)
        assert await mount.flush()
        assert await mount.read(b"a" if change else b"b") == b"first, second"
    assert lake.contents()[b"a" if change else b"b"] == b"first, second"


# ---- killed meanwhile ----------------------------------------------------------------------------


async def directory_renamed(mount: World) -> None:
    await mount.rename(b"d", b"e")


async def renamed_and_name_given_away(mount: World) -> None:
    await mount.rename(b"d/a", b"b")
    await mount.write(b"d/a", b"another")


async def renamed_twice(mount: World) -> None:
    await mount.rename(b"d/a", b"b")
    await mount.rename(b"b", b"c")


async def renamed_on_its_way(mount: World) -> None:
    await mount.rename(b"b", b"c")


@pytest.mark.parametrize(
    ("change", "op", "path"),
    [
        (directory_renamed, "copy", b"e/a"),
        (renamed_and_name_given_away, "copy", b"b"),
        (renamed_twice, "copy", b"b"),
        (renamed_on_its_way, "put", b"b"),
    ],
)
async def test_a_kill_at_any_moment_costs_nothing(
    tmp_path: Path, change: Callable[[World], Awaitable[None]], op: str, path: bytes
) -> None:
    lake, kept = WatchedLake(), {b"ours"}
    images = Images(tmp_path / "cache", lake, tmp_path / "images")
    images.stop()
    async with world(tmp_path / "cache", lake) as mount:
        await mount.mkdir(b"d")
        await uploaded(mount, b"d/a", b"ours")
        other = Gate(lake, path, op)
        if op == "put":
            await mount.write(path, b"on its way")
            kept.add(b"on its way")
            await other.wait()
        with trio.fail_after(PATIENCE_S):
            # What a start deletes in a thread is no part of an image.
            while list((tmp_path / "cache").glob("objects.old-*")):
                await trio.sleep(0.01)
        images.go_on()
        await change(mount)
        other.gate.set()
        assert await mount.flush()
        images.stop()
    assert other.came
    assert len(images.taken) > 5
    for image in images.taken:
        async with world(image.directory, image.lake) as mount:
            assert await mount.flush(), image.point
        assert kept <= set(image.lake.contents().values()), image.point
