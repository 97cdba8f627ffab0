"""What becomes of a change that is given up by hand (``tierfs flush --skip``): what it was to bring
stays readable here, whatever is done to it then, and is never taken for what the lake has."""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.unit.test_writeback_conflicts import no_wait_for_writers
from tests.unit.test_writeback_failures import flush, no_time_to_lose, refusing, root_of
from tests.writing import GID, UID, Lake, World, world
from tierfs.errors import InvalidRequest, LakeDenied, NotFound

__all__ = ["no_time_to_lose", "no_wait_for_writers"]

#: What the lake has where something is given up, and what that was.
BEFORE, OURS = b"the lake's, and longer", b"given up"


async def given_up(mount: World, lake: Lake, path: bytes = b"a") -> None:
    """An overwrite of the lake's *path* is given up."""
    await refused(mount, lake, path)
    await skip(mount, lake)


async def refused(mount: World, lake: Lake, path: bytes = b"a") -> None:
    """The root is frozen at an overwrite of *path*."""
    lake.before = refusing(path)
    await mount.write(path, OURS)
    assert not await mount.flush()


async def skip(mount: World, lake: Lake) -> None:
    """Give up what the root is frozen at; nothing is refused any more."""
    lake.before = None
    assert (await flush(mount, "skip"))["durable"]


async def handed_over(mount: World) -> None:
    """Give what could be handed over the time for that."""
    assert await mount.flush()
    await mount.service._adopter.adopt_all()


async def metadata(lake: Lake, key: bytes) -> dict[str, str]:
    """What the lake was told of an object."""
    return dict((await lake.head(key)).metadata or {})


async def chmod(mount: World, path: bytes = b"a") -> None:
    await mount.files.set_attributes(await mount.ino(path), {"mode": 0o600}, None)


async def utime(mount: World, path: bytes = b"a") -> None:
    await mount.files.set_attributes(await mount.ino(path), {}, (10**18, 10**18))


# ---- a file that is in the lake ------------------------------------------------------------------


@pytest.mark.parametrize("change", [chmod, utime])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("new", [False, True])
async def test_it_stays_what_was_written_with_other_attributes(
    tmp_path: Path, change: Callable[[World], Awaitable[None]], when: str, *, new: bool
) -> None:
    lake = Lake()
    if not new:
        lake.store(b"a", BEFORE)
    async with world(tmp_path, lake) as mount:
        await refused(mount, lake)
        if when == "before":
            await change(mount)
        await skip(mount, lake)
        if when == "after":
            await change(mount)
        await handed_over(mount)
        assert await mount.read(b"a") == OURS
        assert mount.service.describe()["given_up"] == 1
        assert mount.service.describe()["conflicts"] == []
    # The lake is told nothing of them: they are not those of what it has.
    assert lake.history == []
    async with world(tmp_path, lake) as mount:
        assert await mount.read(b"a") == OURS
        node = mount.files.journal.node(await mount.ino(b"a"))
        assert node is not None
        assert (node.mode == 0o600) if change is chmod else (node.mtime_ns == 10**18)
        # What is written there next has them.
        await mount.write(b"a", b"again")
        assert await mount.flush()
        if change is chmod:
            assert (await metadata(lake, b"a"))["mode"] == str(0o100600)
    assert lake.contents() == {b"a": b"again"}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("directory", [False, True])
async def test_a_rename_brings_it_under_its_new_name(
    tmp_path: Path, when: str, *, new: bool, over: bool, directory: bool
) -> None:
    lake = Lake()
    lake.store(b"d/a", BEFORE)
    if new:
        lake.remove(b"d/a")
        lake.store(b"d/another", BEFORE)
    old, to = (b"d", b"e") if directory else (b"d/a", b"e/a")
    async with world(tmp_path, lake) as mount:
        if not directory:
            await mount.mkdir(b"e")
            if over:
                await mount.write(b"e/a", BEFORE)
            await handed_over(mount)
        await refused(mount, lake, b"d/a")
        if when == "before":
            await chmod(mount, b"d/a")
            await mount.rename(old, to)
        await skip(mount, lake)
        if when == "after":
            await mount.rename(old, to)
        await handed_over(mount)
        assert await mount.read(b"e/a") == OURS
        with pytest.raises(NotFound):
            await mount.ino(b"d/a")
        assert mount.service.describe()["given_up"] == 0
        assert mount.service.describe()["conflicts"] == []
        await mount.settled()
        assert await mount.read(b"e/a") == OURS
    found = lake.contents()
    assert found[b"e/a"] == OURS
    assert b"d/a" not in found
    if when == "before":
        assert (await metadata(lake, b"e/a"))["mode"] == str(0o100600)
    assert list((tmp_path / "staging").iterdir()) == []
    async with world(tmp_path, lake, ttl_s=0.0) as mount:
        assert await mount.read(b"e/a") == OURS
        with pytest.raises(NotFound):
            await mount.ino(b"d/a")


async def test_a_rename_that_is_given_up_as_well_leaves_it_here(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"a", BEFORE)
    async with world(tmp_path, lake) as mount:
        await given_up(mount, lake)
        lake.before = refusing(b"b")
        await mount.rename(b"a", b"b")
        assert not await mount.flush()
        await skip(mount, lake)
        await chmod(mount, b"b")
        await handed_over(mount)
        assert await mount.read(b"b") == OURS
        assert await mount.names(b"") == [b"b"]
        assert mount.service.describe()["given_up"] == 1


async def test_a_temporary_name_takes_it_out_of_the_lake(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"a", BEFORE)
    async with world(tmp_path, lake) as mount:
        await given_up(mount, lake)
        await mount.rename(b"a", b"a.tmp")
        await handed_over(mount)
        assert lake.contents() == {}
        assert await mount.read(b"a.tmp") == OURS
        await mount.rename(b"a.tmp", b"a")
        await handed_over(mount)
        assert await mount.read(b"a") == OURS
    assert lake.contents() == {b"a": OURS}


async def test_a_link_is_renamed_with_its_target(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"d/a", BEFORE)
    async with world(tmp_path, lake) as mount:
        await mount.unlink(b"d/a")
        lake.before = refusing(b"d/a")
        await mount.files.make_link(*await mount.at(b"d/a"), b"target", UID, GID)
        assert not await mount.flush()
        await skip(mount, lake)
        await chmod(mount, b"d/a")
        await mount.rename(b"d/a", b"d/b")
        await handed_over(mount)
        assert await mount.files.union.read_link(await mount.ino(b"d/b")) == b"target"
    assert lake.contents() == {b"d/": b"", b"d/b": b"target"}


@pytest.mark.parametrize("name", [b"a", b"b"])
async def test_what_a_kill_leaves_half_written_is_no_content(tmp_path: Path, name: bytes) -> None:
    """It is kept as it is, as long as it is, and not uploaded before somebody has closed it."""
    lake = Lake()
    lake.store(b"a", BEFORE)
    async with world(tmp_path, lake) as mount:
        await given_up(mount, lake)
        fh = await mount.files.open(await mount.ino(b"a"), os.O_WRONLY)
        await mount.files.write(fh, 5, b" again, in part")
    async with world(tmp_path, lake) as mount:
        half = OURS[:5] + b" again, in part"
        assert await mount.read(b"a") == half
        said = mount.service.describe()
        assert (said["never_closed"], said["given_up"]) == (1, 0)
        if name != b"a":
            await mount.rename(b"a", name)
            await chmod(mount, name)
        await handed_over(mount)
        assert await mount.read(name) == half
        assert set(lake.contents().values()) <= {BEFORE}
        fh = await mount.files.open(await mount.ino(name), os.O_WRONLY)
        await mount.files.flush(fh)
        await mount.files.release(fh)
        await handed_over(mount)
    assert lake.contents() == {name: half}


# ---- renames -------------------------------------------------------------------------------------


async def renamed(mount: World, lake: Lake, *, local: bool, over: bool) -> int:
    """The rename of ``a`` to ``b`` is refused; *local*: its bytes were not handed over yet, and it
    is open. A handle, or 0."""
    fh = 0
    if over:
        await mount.write(b"b", BEFORE)
    await mount.write(b"a", OURS)
    if local:
        fh = await mount.files.open(await mount.ino(b"a"), os.O_RDONLY)
        assert await mount.flush()
    else:
        await handed_over(mount)
    lake.before = refusing(b"b")
    await mount.rename(b"a", b"b")
    assert not await mount.flush()
    return fh


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("again", [None, "before", "after"])
async def test_a_rename_that_is_given_up_stays_here(
    tmp_path: Path, again: str | None, *, over: bool
) -> None:
    """Its bytes are here, and never taken for what the lake has under the new name."""
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        fh = await renamed(mount, lake, local=True, over=over)
        if again == "before":
            await mount.rename(b"b", b"c")
        await skip(mount, lake)
        if again == "after":
            await mount.rename(b"b", b"c")
        name = b"c" if again else b"b"
        await chmod(mount, name)
        await mount.files.release(fh)
        await handed_over(mount)
        assert await mount.read(name) == OURS
        assert mount.service.describe()["given_up"] == (again != "after")
    shown = {b"a": OURS, name: OURS}
    if over and again != "after":
        shown = {b"b": BEFORE} | shown
    async with world(tmp_path, lake, ttl_s=0.0) as mount:
        # What the lake has shows under the old names.
        assert await mount.names(b"") == sorted(shown)
        assert {path: await mount.read(path) for path in shown} == shown
        await mount.write(name, b"another")
        assert await mount.read(b"a") == OURS
        await handed_over(mount)
        assert mount.service.describe()["conflicts"] == []
    assert lake.contents() == shown | {name: b"another"}


@pytest.mark.parametrize("handed", [False, True])
@pytest.mark.parametrize("since", ["", "b", "a", "rename"])
async def test_of_a_rename_of_which_half_was_done_both_names_stay(
    tmp_path: Path, since: str, *, handed: bool
) -> None:
    """The lake has copied it, and refuses to remove what it was."""

    async def keep(op: str, key: bytes) -> None:
        if (op, key) == ("delete", b"a"):
            raise LakeDenied("delete an object", key, "no such permission")

    lake = Lake()
    async with world(tmp_path, lake, ttl_s=math.inf) as mount:
        fh = 0
        if not handed:
            _, fh = await mount.files.create(1, b"a", 0o644, os.O_WRONLY, UID, GID)
        await mount.write(b"a", OURS)
        await handed_over(mount)
        assert await mount.names(b"") == [b"a"]
        if handed:
            fh = await mount.files.open(await mount.ino(b"a"), os.O_RDONLY)
        lake.before = keep
        await mount.rename(b"a", b"b")
        assert not await mount.flush()
        shown = {b"a": OURS, b"b": OURS}
        assert lake.contents() == shown
        if since == "rename":
            await mount.rename(b"b", b"c")
            shown = {b"a": OURS, b"c": OURS}
        elif since:
            await mount.write(since.encode(), b"another")
            shown[since.encode()] = b"another"
        await skip(mount, lake)
        assert len({await mount.ino(path) for path in shown}) == 2
        await mount.files.release(fh)
        await mount.settled()
        assert {path: await mount.read(path) for path in shown} == shown
        assert await mount.names(b"") == sorted(shown)
        await mount.write(b"b", b"yet another")
        assert await mount.flush()
        said = mount.service.describe()
        assert (said["conflicts"], said["given_up"]) == ([], 0)
    assert lake.contents() == shown | {b"b": b"yet another"}


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("again", [False, True])
async def test_a_rename_of_what_only_the_lake_has_is_undone(
    tmp_path: Path, *, over: bool, again: bool
) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await renamed(mount, lake, local=False, over=over)
        await chmod(mount, b"b")
        if again:
            await mount.rename(b"b", b"c")
        await skip(mount, lake)
        await mount.settled()
        assert await mount.names(b"") == ([b"a", b"b"] if over else [b"a"])
        assert await mount.read(b"a") == OURS
        if over:
            await chmod(mount, b"b")
            await handed_over(mount)
            assert await mount.read(b"b") == BEFORE
    assert lake.contents() == {b"a": OURS} | ({b"b": BEFORE} if over else {})


@pytest.mark.parametrize("local", [False, True])
async def test_what_was_in_a_directory_stays_in_the_lake(tmp_path: Path, *, local: bool) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.mkdir(b"d")
        await mount.write(b"d/a", OURS)
        if local:
            fh = await mount.files.open(await mount.ino(b"d/a"), os.O_RDONLY)
            assert await mount.flush()
        else:
            await handed_over(mount)
        lake.before = refusing(b"e/a")
        await mount.rename(b"d", b"e")
        assert not await mount.flush()
        await skip(mount, lake)
        if local:
            await mount.files.release(fh)
        await handed_over(mount)
        await mount.namespace.refresh(b"")
        assert await mount.read(b"d/a") == OURS
        assert await mount.names(b"e") == ([b"a"] if local else [])
    assert lake.contents() == {b"e/": b"", b"d/a": OURS}
    async with world(tmp_path, lake, ttl_s=0.0) as mount:
        assert await mount.read(b"d/a") == OURS
        if local:
            # Here is what was not handed over yet, too.
            assert await mount.read(b"e/a") == OURS


async def test_what_would_be_gone_is_not_given_up(tmp_path: Path) -> None:
    """The only copy is in the lake under a name that was given away."""
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await renamed(mount, lake, local=False, over=False)
        await mount.write(b"a", b"another")
        lake.before = None
        with pytest.raises(InvalidRequest, match="copy"):
            await flush(mount, "skip")
        assert root_of(mount)["failed_path"] == "b"
        # What it says to do.
        await mount.write(b"c", await mount.read(b"b"))
        await mount.rename(b"c", b"b")
        assert (await flush(mount, "skip"))["durable"]
        await mount.settled()
        assert await mount.read(b"b") == OURS
    assert lake.contents() == {b"a": b"another", b"b": OURS}


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("killed", [False, True])
async def test_a_rename_of_what_is_open_and_not_written_is_undone_at_its_last_close(
    tmp_path: Path, *, written: bool, killed: bool
) -> None:
    lake = Lake()
    lake.store(b"a", BEFORE)
    lake.store(b"b", BEFORE + b", too")
    async with world(tmp_path, lake) as mount:
        fh = await mount.files.open(await mount.ino(b"a"), os.O_RDWR)
        lake.before = refusing(b"b")
        await mount.rename(b"a", b"b")
        assert not await mount.flush()
        await skip(mount, lake)
        expected = BEFORE
        if written:
            await mount.files.write(fh, 0, OURS)
            expected = OURS + BEFORE[len(OURS) :]
        # Here it has its new name, and the other one is not it.
        assert await mount.read(b"b") == expected
        assert await mount.read(b"a") == BEFORE
        if not killed:
            await mount.files.flush(fh)
            await mount.files.release(fh)
            await handed_over(mount)
            assert mount.service.describe()["conflicts"] == []
    if killed or not written:
        expected = BEFORE + b", too"
    async with world(tmp_path, lake) as mount:
        await handed_over(mount)
        assert await mount.read(b"a") == BEFORE
        assert await mount.read(b"b") == expected
    assert lake.contents() == {b"a": BEFORE, b"b": expected}


# ---- attributes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("local", [False, True])
async def test_attributes_that_are_given_up_stay_here(tmp_path: Path, *, local: bool) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", OURS)
        if local:
            fh = await mount.files.open(await mount.ino(b"a"), os.O_RDONLY)
            assert await mount.flush()
        else:
            await handed_over(mount)
        lake.before = refusing(b"a")
        await chmod(mount)
        assert not await mount.flush()
        await skip(mount, lake)
        if local:
            await mount.files.release(fh)
        await mount.settled()
        assert mount.files.union.attributes(await mount.ino(b"a")).mode == 0o600
        assert await mount.read(b"a") == OURS
        # The next ones arrive.
        await mount.files.set_attributes(await mount.ino(b"a"), {"mode": 0o640}, None)
        await handed_over(mount)
    assert (await metadata(lake, b"a"))["mode"] == str(0o100640)


async def test_attributes_of_what_is_written_over_another_file_are_its_own(tmp_path: Path) -> None:
    """It got the name of a lake's file while it was open, and is not in the lake under it."""
    lake = Lake()
    lake.store(b"b", BEFORE)
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", OURS)
        fh = await mount.files.open(await mount.ino(b"a"), os.O_WRONLY)
        assert await mount.flush()
        await mount.files.write(fh, len(OURS), b", and more")
        await mount.rename(b"a", b"b")
        await chmod(mount, b"b")
        assert await mount.flush()
        # It is killed.
    async with world(tmp_path, lake) as mount:
        assert await mount.read(b"b") == OURS + b", and more"
    assert lake.contents() == {b"b": BEFORE}
    assert "mode" not in await metadata(lake, b"b")
