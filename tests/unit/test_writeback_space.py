"""Write-back in little space: a budget, a small disk that the cache shares, a disk that fails."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.caching import noise
from tests.writing import GID, PATIENCE_S, UID, Lake, World, world
from tierfs.cache.space import Capacity, DiskSpace
from tierfs.errors import (
    CacheError,
    CacheFull,
    CrossRoot,
    LakeDenied,
    LakeUnavailable,
    NotFound,
    StagingFull,
    StaleVersion,
)
from tierfs.namespace import Absent
from tierfs.writeback import publisher, room, service, uploads
from tierfs.writeback.directories import HANDING_OVER
from tierfs.writeback.journal import Journal
from tierfs.writeback.staging import Staging

MIB = 1 << 20


@pytest.fixture(autouse=True)
def no_time_to_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, and parts of 1 MiB."""
    monkeypatch.setattr(publisher, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(publisher, "LAST_PAUSE_S", 0.002)
    monkeypatch.setattr(service, "ADOPT_AGAIN_S", 0.01)
    monkeypatch.setattr(room, "LOOK_AGAIN_S", 0.05)
    monkeypatch.setattr(room, "IN_VAIN_S", 1.5)
    monkeypatch.setattr(uploads, "PART_BYTES", MIB)


def used(mount: World) -> int:
    """What is counted as written and not handed over."""
    return mount.service.room.account.used_bytes


def on_disk(directory: Path) -> int:
    """What the files below *directory* take."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


async def create(mount: World, path: bytes, data: bytes = b"") -> int:
    """A file that is open for writing: its handle."""
    parent, name = await mount.at(path)
    _, fh = await mount.files.create(parent, name, 0o644, os.O_WRONLY, UID, GID)
    for at in range(0, len(data), MIB):
        await mount.files.write(fh, at, data[at : at + MIB])
    return fh


async def close(mount: World, fh: int) -> None:
    await mount.files.flush(fh)
    await mount.files.release(fh)


# ---- a budget ------------------------------------------------------------------------------------


async def test_all_arrives_through_a_budget_that_is_smaller_than_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, most = Lake(), 0

    async def before(op: str, key: bytes) -> None:
        await trio.sleep(0.005)

    lake.before = before
    # Who waits for the others' uploads does not wait in vain, however slow they are.
    monkeypatch.setattr(room, "IN_VAIN_S", PATIENCE_S)
    budget, writers, each = 4 * MIB, 4, 6
    async with world(tmp_path, lake, staging_size=budget) as mount:
        wait = mount.service.room.wait

        async def watched(bytes_: int, ino: int = 0, **how: Any) -> None:
            nonlocal most
            await wait(bytes_, ino, **how)
            most = max(most, used(mount))

        monkeypatch.setattr(mount.service.room, "wait", watched)

        async def write(writer: int) -> None:
            for n in range(each):
                await mount.write(b"%d-%d" % (writer, n), noise(MIB, 10 * writer + n))

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for writer in range(writers):
                    nursery.start_soon(write, writer)
            assert await mount.flush()
        await mount.settled()
        assert used(mount) == 0
        assert mount.service.room.refused == 0
    assert budget / 2 < most <= budget + writers * MIB
    assert lake.contents() == {
        b"%d-%d" % (writer, n): noise(MIB, 10 * writer + n)
        for writer in range(writers)
        for n in range(each)
    }


async def test_what_is_there_at_the_start_is_counted(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        for name in (b"a", b"b"):
            await mount.write(name, noise(MIB, 1))
        # Frozen content counts, too.
        await mount.write(b"a", noise(2 * MIB, 2))
        counted = used(mount)
        assert counted == on_disk(tmp_path / "staging")
        assert counted >= 4 * MIB
    async with world(tmp_path, lake, publish=False) as mount:
        assert used(mount) == counted
    async with world(tmp_path, lake) as mount:
        assert await mount.flush()
        await mount.settled()
        assert used(mount) == 0


async def test_the_account_has_no_drift(tmp_path: Path) -> None:
    """Files are written over while they wait, cut off, renamed, removed while open, lost to
    another writer: in the end nothing is counted."""
    # The lake has its own: when it is asked would change what is done.
    rng, dice = random.Random(5), random.Random(6)
    lake = Lake()

    async def before(op: str, key: bytes) -> None:
        await trio.sleep(dice.random() / 500)
        if op == "put" and dice.random() < 0.1:
            lake.store(key, b"another writer's")

    lake.before = before
    names = [b"%d" % n for n in range(6)] + [b"x.tmp"]
    async with world(tmp_path, lake) as mount:
        handles: list[int] = []
        for n in range(150):
            name, step = rng.choice(names), rng.randrange(6)
            try:
                if step <= 1:
                    await mount.write(name, noise(rng.randrange(300_000), n))
                elif step == 2:
                    fh = await mount.files.open(await mount.ino(name), os.O_RDWR)
                    handles.append(fh)
                    await mount.files.write(fh, rng.randrange(400_000), b"x" * 5000)
                elif step == 3:
                    await mount.files.set_size(await mount.ino(name), rng.randrange(500_000), None)
                elif step == 4:
                    await mount.rename(name, rng.choice(names))
                else:
                    await mount.unlink(name)
            except (Absent, NotFound, CrossRoot, StaleVersion):
                pass
            if handles and rng.random() < 0.4:
                await close(mount, handles.pop(rng.randrange(len(handles))))
        for fh in handles:
            await close(mount, fh)
        if b"x.tmp" in await mount.names(b""):
            await mount.unlink(b"x.tmp")
        assert await mount.flush()
        await mount.settled()
        assert mount.service.room.account._files == {}
        assert used(mount) == 0


async def test_what_arrives_while_it_is_kept_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, under_way, go_on, arrived = Lake(), trio.Event(), trio.Event(), threading.Event()

    async def before(op: str, key: bytes) -> None:
        under_way.set()
        await go_on.wait()

    lake.before = before
    copy = Staging._copy

    def slow(staging: Staging, source: int, target: int) -> None:
        assert arrived.wait(PATIENCE_S)
        copy(staging, source, target)

    async with world(tmp_path, lake) as mount:
        ino = await mount.write(b"a", noise(MIB))
        with trio.fail_after(PATIENCE_S):
            await under_way.wait()
            fh = await mount.files.open(ino, os.O_RDWR)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Staging, "_copy", slow)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(mount.files.write, fh, 0, b"new")
                    await trio.testing.wait_all_tasks_blocked(0.05)
                    go_on.set()
                    assert await mount.flush()
                    arrived.set()
            assert len(list(mount.files.staging.files())) == len(mount.files._live)
            assert len(mount.service.room.account._files) == 1
            await close(mount, fh)
            assert await mount.flush()
        await mount.settled()
        assert mount.service.room.account._files == {}
    assert lake.contents() == {b"a": b"new" + noise(MIB)[3:]}


async def test_what_is_not_written_through_this_process_is_counted_at_its_close(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, Lake(), publish=False) as mount:
        fh = await create(mount, b"a")
        with mount.service._staging.path(await mount.ino(b"a")).open("r+b") as file:
            file.write(noise(2 * MIB))
        await mount.files.flush(fh)
        assert used(mount) >= 2 * MIB
        await mount.files.release(fh)


async def test_what_another_writer_has_won_is_not_counted_when_it_is_let_go(tmp_path: Path) -> None:
    lake, under_way, go_on = Lake(), trio.Event(), trio.Event()

    async def before(op: str, key: bytes) -> None:
        under_way.set()
        await go_on.wait()

    lake.before = before
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", noise(MIB))
        fh = await mount.files.open(await mount.ino(b"a"), os.O_RDONLY)
        with trio.fail_after(PATIENCE_S):
            await under_way.wait()
            lake.store(b"a", b"another writer's")
            go_on.set()
            assert await mount.flush()
            await mount.files.release(fh)
        assert mount.service.describe()["conflicts"]
        assert mount.service.room.account._files == {}
        assert used(mount) == 0


async def test_a_root_that_is_frozen_is_not_waited_for(tmp_path: Path) -> None:
    lake = Lake()

    async def before(op: str, key: bytes) -> None:
        raise LakeDenied("write an object", key, "no such permission")

    lake.before = before
    async with world(tmp_path, lake, staging_size=3 * MIB) as mount:
        kept = []
        with pytest.raises(StagingFull, match=r"/ cannot be uploaded: `tierfs status` says why"):  # noqa: PT012
            for n in range(4):
                await mount.write(b"%d" % n, noise(MIB, n))
                kept.append(n)
        assert kept == [0, 1, 2]
        for n in kept:
            assert await mount.read(b"%d" % n) == noise(MIB, n)
        lake.before = None
        await mount.service._publisher.retry([b""])  # type: ignore[union-attr]
        with trio.fail_after(PATIENCE_S):
            await mount.write(b"4", noise(MIB, 4))
            assert await mount.flush()
    assert {b"0": noise(MIB, 0), b"4": noise(MIB, 4)}.items() <= lake.contents().items()


async def test_names_that_are_held_are_not_waited_for(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake, staging_size=3 * MIB) as mount:
        await mount.write(b"a.tmp", noise(3 * MIB))
        with pytest.raises(StagingFull, match="has a temporary name"):
            await create(mount, b"b", b"1" * MIB)
        await mount.rename(b"a.tmp", b"a")
        with trio.fail_after(PATIENCE_S):
            await mount.write(b"c", noise(3 * MIB, 1))
            assert await mount.flush()
    assert lake.contents()[b"c"] == noise(3 * MIB, 1)


async def test_a_link_in_the_lake_is_nothing_to_wait_for(tmp_path: Path) -> None:
    """It stays in the journal, and takes no room."""
    lake = Lake()
    async with world(tmp_path, lake, staging_size=3 * MIB) as mount:
        await mount.files.make_link(*await mount.at(b"link"), b"a", UID, GID)
        assert await mount.flush()
        fh = await create(mount, b"a", noise(3 * MIB))
        with trio.fail_after(PATIENCE_S), pytest.raises(StagingFull, match="is open"):
            await create(mount, b"b", b"1" * MIB)
        await close(mount, fh)


async def test_a_lake_that_does_not_answer_is_waited_for_and_then_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "STALLED_S", 0.3)
    lake = Lake()

    async def before(op: str, key: bytes) -> None:
        raise LakeUnavailable("write an object", key, "no answer")

    lake.before = before
    async with world(tmp_path, lake, staging_size=3 * MIB) as mount:
        await mount.write(b"a", noise(3 * MIB))
        with trio.fail_after(PATIENCE_S), pytest.raises(StagingFull, match="nothing has gone into"):
            await create(mount, b"b", b"1" * MIB)
        lake.before = None
        monkeypatch.setattr(room, "STALLED_S", 60.0)
        with trio.fail_after(PATIENCE_S):
            await mount.write(b"c", noise(MIB, 1))
            assert await mount.flush()
    assert lake.contents()[b"a"] == noise(3 * MIB)


async def test_who_waits_for_room_holds_nothing_that_makes_room(tmp_path: Path) -> None:
    """A file of the lake's is to be written over, which takes a copy, while the budget is full of
    what is on its way."""
    lake, go_on = Lake(), trio.Event()
    lake.store(b"old", noise(2 * MIB, 9))

    async def before(op: str, key: bytes) -> None:
        await go_on.wait()

    lake.before = before
    async with world(tmp_path, lake, staging_size=3 * MIB) as mount:
        # It has attributes of its own, which are on their way, too.
        ino = await mount.ino(b"old")
        await mount.files.set_attributes(ino, {"mode": 0o600}, None)
        await mount.write(b"a", noise(2 * MIB, 1))
        opened: list[int] = []

        async def open_() -> None:
            opened.append(await mount.files.open(ino, os.O_RDWR))

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(open_)
                while not mount.service.room.waiting:
                    await trio.sleep(0.01)
                go_on.set()
        await mount.files.write(opened[0], 0, b"new")
        await close(mount, opened[0])
        with trio.fail_after(PATIENCE_S):
            assert await mount.flush()
    assert lake.contents()[b"old"] == b"new" + noise(2 * MIB, 9)[3:]


async def test_who_writes_on_waits_for_the_room_of_a_copy_while_that_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was closed is kept until the lake has it, and from then on is written over."""
    monkeypatch.setattr("tierfs.writeback.staging.fcntl.ioctl", no_clones)
    lake, go_on = Lake(), trio.Event()

    async def before(op: str, key: bytes) -> None:
        await go_on.wait()

    lake.before = before
    async with world(tmp_path, lake, staging_size=4 * MIB) as mount:
        ino = await mount.write(b"a", noise(3 * MIB))
        fh = await mount.files.open(ino, os.O_RDWR)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mount.files.write, fh, 0, b"new")
                while not mount.service.room.waiting:
                    await trio.sleep(0.01)
                go_on.set()
            assert used(mount) <= 4 * MIB
            await close(mount, fh)
            assert await mount.flush()
        assert mount.service.room.refused == 0
    assert [content for _, content in lake.history] == [
        noise(3 * MIB),
        b"new" + noise(3 * MIB)[3:],
    ]


async def test_df(tmp_path: Path) -> None:
    async with world(tmp_path, Lake(), publish=False, staging_size=8 * MIB) as mount:
        assert mount.service.room.space() == (8 * MIB, 8 * MIB)
        await mount.write(b"a", noise(3 * MIB))
        total, free = mount.service.room.space()
        assert total == 8 * MIB
        assert free == total - used(mount) <= 5 * MIB


# ---- a disk that the cache shares ----------------------------------------------------------------


def small_disk(mount: World, directory: Path, size: int) -> None:
    """From now on the disk has *size* bytes for what is cached and what is written."""
    mount.front._capacity._disk = lambda: DiskSpace(
        size, size - on_disk(directory / "objects") - on_disk(directory / "staging")
    )
    mount.front._capacity.disk_changed()


async def test_what_is_cached_goes_before_a_writer_waits(tmp_path: Path) -> None:
    lake, size = Lake(), 8 * MIB
    async with world(tmp_path, lake) as mount:
        small_disk(mount, tmp_path, size)
        for n in range(12):
            with trio.fail_after(PATIENCE_S):
                await mount.write(b"%d" % n, noise(2 * MIB, n))
                assert await mount.flush()
            await mount.settled()
            assert on_disk(tmp_path / "objects") <= size
            # What arrived last is cached whole, though there was never room for it twice.
            assert mount.front.file_state(await mount.ino(b"%d" % n)).complete
        stats = mount.front.stats()
        assert stats["evicted_files"] > 0
        assert stats["cached_bytes"] > 2 * MIB
        assert mount.service.room.refused == 0
        budget = mount.service.room.budget_bytes
        assert size - MIB <= budget <= size + MIB


async def test_sabotage_a_cache_that_does_not_give_way_leaves_writers_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def rigid(capacity: Capacity, bytes_: int) -> bool:
        return capacity._over_reserve(bytes_) <= 0

    monkeypatch.setattr(Capacity, "give_way", rigid)
    with pytest.raises(ExceptionGroup) as raised:
        await test_what_is_cached_goes_before_a_writer_waits(tmp_path)
    assert raised.group_contains(StagingFull)


async def test_what_was_written_goes_for_nothing(tmp_path: Path) -> None:
    """Writers have filled the disk: readers stream, and what was closed stays."""
    lake, size = Lake(), 6 * MIB
    lake.store(b"old", noise(3 * MIB, 9))
    async with world(tmp_path, lake, publish=False) as mount:
        small_disk(mount, tmp_path, size)
        assert await mount.read(b"old") == noise(3 * MIB, 9)
        with trio.fail_after(PATIENCE_S):
            # Until it is recorded, it does not give way.
            while mount.files.in_use(await mount.ino(b"old")):
                await trio.sleep(0.01)
        await mount.write(b"a", noise(5 * MIB, 1))
        assert await mount.read(b"old") == noise(3 * MIB, 9)
        assert on_disk(tmp_path / "objects") + on_disk(tmp_path / "staging") <= size
        assert await mount.read(b"a") == noise(5 * MIB, 1)


async def test_a_journal_without_room_holds_uploads_up_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        for n in range(5):
            await mount.write(b"%d" % n, b"1" * 100)
        await mount.unlink(b"3")
        await mount.write(b"large", noise(2 * MIB + 5))
    change, rng, refused = Journal.change, random.Random(1), 0

    async def full_now_and_then(journal: Journal, function: Any, *, rows: int = 4) -> Any:
        nonlocal refused
        if rng.random() < 0.4:
            refused += 1
            raise CacheFull("write to an index", "journal", "the disk is full")
        return await change(journal, function, rows=rows)

    async with world(tmp_path, lake) as mount:
        monkeypatch.setattr(Journal, "change", full_now_and_then)
        with trio.fail_after(PATIENCE_S):
            assert await mount.flush()
        monkeypatch.undo()
    assert refused > 3
    assert lake.keys == [b"0", b"1", b"2", b"3", b"4", b"large"]
    assert lake.contents().keys() == {b"0", b"1", b"2", b"4", b"large"}
    assert lake.contents()[b"large"] == noise(2 * MIB + 5)


async def test_what_is_handed_over_by_others_at_once_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, Lake()) as mount:
        change, adopter = mount.files.change, mount.service._adopter

        async def then_adopt(work: Any, **how: Any) -> Any:
            changed = await change(work, **how)
            if not adopting:
                adopting.append(True)
                await adopter.adopt_all()
                adopting.clear()
            return changed

        adopting: list[bool] = []
        monkeypatch.setattr(mount.files, "change", then_adopt)
        await mount.write(b"a", noise(MIB))
        with trio.fail_after(PATIENCE_S):
            assert await mount.flush()
        await mount.settled()
        assert mount.front.stats()["cached_bytes"] >= MIB


async def test_what_is_being_handed_over_can_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, Lake()) as mount:
        going, go_on, adopt = trio.Event(), trio.Event(), mount.front.adopt

        async def slowly(*args: Any) -> bool:
            going.set()
            await go_on.wait()
            return await adopt(*args)

        monkeypatch.setattr(mount.front, "adopt", slowly)
        await mount.write(b"a", noise(MIB))
        with trio.fail_after(PATIENCE_S):
            await going.wait()
            assert mount.service._why_in_vain() == ""
            go_on.set()
            assert await mount.flush()
        assert mount.service._why_in_vain() != ""


async def test_what_can_be_handed_over_while_others_are_is_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, Lake()) as mount:
        adopter, looks = mount.service._adopter, 0
        adopt_all = adopter.adopt_all

        async def closed_meanwhile() -> int:
            nonlocal looks
            left = await adopt_all()
            looks += 1
            if looks == 1:
                mount.service._changed()
            return left

        await trio.testing.wait_all_tasks_blocked()
        monkeypatch.setattr(adopter, "adopt_all", closed_meanwhile)
        mount.service._changed()
        with trio.fail_after(PATIENCE_S):
            while looks < 2:
                await trio.sleep(0.01)


async def test_a_directory_is_handed_over_though_it_was_changed_a_moment_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ADOPT_AGAIN_S", 1e6)
    async with world(tmp_path, Lake()) as mount:
        async with mount.files.hold(HANDING_OVER):
            await mount.mkdir(b"d")
            ino = await mount.ino(b"d")
            with trio.fail_after(PATIENCE_S):
                while not mount.service.describe()["published"]:
                    await trio.sleep(0.01)
            await trio.testing.wait_all_tasks_blocked()
            await mount.write(b"d/x", b"x")
        with trio.fail_after(PATIENCE_S):
            assert await mount.flush()
        assert mount.files.journal.node(ino) is None
        assert await mount.read(b"d/x") == b"x"


async def test_the_cached_copy_of_an_earlier_version_is_not_taken_for_a_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake()
    lake.store(b"a", noise(MIB, 1))
    async with world(tmp_path, lake) as mount:
        assert await mount.read(b"a") == noise(MIB, 1)
        ino = await mount.ino(b"a")
        with trio.fail_after(PATIENCE_S):
            while mount.files.in_use(ino):
                await trio.sleep(0.01)
        with monkeypatch.context() as later:

            async def not_yet(ino: int) -> None:
                pass

            later.setattr(mount.service._adopter, "try_adopt", not_yet)
            await mount.files.set_attributes(ino, {"mode": 0o600}, None)
            assert await mount.flush()
            reached, go_on = trio.Event(), trio.Event()

            async def slowly(op: str, key: bytes) -> None:
                if op == "put":
                    reached.set()
                    await go_on.wait()

            lake.before = slowly
            await mount.write(b"a", noise(MIB, 2))
            await reached.wait()
            await mount.files.set_attributes(ino, {"mode": 0o640}, None)
            go_on.set()
            assert await mount.flush()
        mount.service._changed()
        await mount.settled()
        await mount.files.set_attributes(ino, {"mode": 0o644}, None)
        assert await mount.flush()
        await mount.settled()
        assert await mount.read(b"a") == noise(MIB, 2)


@pytest.mark.parametrize("where", ["taking in", "recording"])
async def test_what_the_cache_could_not_take_is_not_counted_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        index, store, refused = mount.front._index, mount.front._store, 0
        commit, take_in = index.commit, store.take_in

        async def full(batch: Any) -> None:
            nonlocal refused
            if not refused:
                refused += 1
                raise CacheFull("write to an index", "cache", "the disk is full")
            await commit(batch)

        def broken(ino: int, path: Path) -> Any:
            nonlocal refused
            if not refused:
                refused += 1
                failing()
            return take_in(ino, path)

        account, adopter, left = mount.service.room.account, mount.service._adopter, [0]
        again = adopter.troubled

        def troubled() -> None:
            left.append(account.used_bytes)
            again()

        adopter.troubled = troubled
        if where == "recording":
            monkeypatch.setattr(index, "commit", full)
        else:
            monkeypatch.setattr(store, "take_in", broken)
        await mount.write(b"a", noise(MIB))
        with trio.fail_after(PATIENCE_S):
            assert await mount.flush()
        await mount.settled()
        assert (refused, left) == (1, [0, 0])
        assert account._files == {}
        assert used(mount) == 0
        # Nobody has the bytes here: neither is the disk's room counted as the cache's, nor taken.
        assert mount.front.stats()["cached_bytes"] == 0
        assert on_disk(tmp_path / "staging") == on_disk(tmp_path / "objects") == 0
        assert await mount.read(b"a") == noise(MIB)


async def test_a_staging_file_that_could_not_be_removed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, Lake()) as mount:
        staging, refused = mount.files.staging, 0
        remove = staging.remove

        def broken(ino: int, content: int = 0) -> None:
            nonlocal refused
            if not content and not refused:
                refused += 1
                failing()
            remove(ino, content)

        monkeypatch.setattr(staging, "remove", broken)
        await mount.write(b"a", noise(MIB))
        with trio.fail_after(PATIENCE_S):
            assert await mount.flush()
        await mount.settled()
        assert refused == 1
        assert mount.service.room.account._files == {}


# ---- a disk that fails ---------------------------------------------------------------------------


async def test_a_copy_that_finds_no_room_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tierfs.writeback.staging.fcntl.ioctl", no_clones)
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        ino = await mount.write(b"a", noise(2 * MIB))
        fh = await mount.files.open(ino, os.O_RDWR)
        await mount.write(b"between", b"")
        before = on_disk(tmp_path / "staging")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tierfs.writeback.staging.os.copy_file_range", half_a_copy)
            with pytest.raises(StagingFull, match="keep what was closed"):
                await mount.files.write(fh, 0, b"new")
            staging = mount.files.staging
            with pytest.raises(StagingFull, match="keep what was closed"):
                await staging.keep(mount.files._live[ino], 1)
        assert on_disk(tmp_path / "staging") == before == used(mount)
        await mount.files.write(fh, 0, b"new")
        await close(mount, fh)
    async with world(tmp_path, lake) as mount:
        assert await mount.flush()
    assert [content for key, content in lake.history if key == b"a"] == [
        noise(2 * MIB),
        b"new" + noise(2 * MIB)[3:],
    ]


async def test_what_was_closed_outlives_a_directory_that_cannot_be_synced(tmp_path: Path) -> None:
    """Whoever cuts it off is told, and may try again."""
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        ino = await mount.write(b"a", noise(MIB))
        await mount.write(b"between", b"")
        fh = await mount.files.open(ino, os.O_RDWR)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tierfs.writeback.staging.os.fsync", failing)
            for _ in range(2):
                with pytest.raises(CacheError, match="keep what was closed"):
                    await mount.files.set_size(ino, 0, fh)
        assert await mount.read(b"a") == noise(MIB)
        await mount.files.set_size(ino, 0, fh)
        await close(mount, fh)
    async with world(tmp_path, lake) as mount:
        assert await mount.flush()
    assert [content for key, content in lake.history if key == b"a"] == [noise(MIB), b""]


def no_clones(*args: Any) -> None:
    """As FICLONE on most file systems."""
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def half_a_copy(source: int, target: int, *args: Any) -> int:
    """As copy_file_range on a disk that is full half-way."""
    os.pwrite(target, bytes(MIB), 0)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def failing(*args: Any) -> int:
    """As a system call on a disk that is dying."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_dying_disk_is_the_writers_to_hear_of(tmp_path: Path, size: int) -> None:
    async with world(tmp_path, Lake(), publish=False) as mount:
        fh = await create(mount, b"a")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tierfs.writeback.staging.os.pwrite", failing)
            with pytest.raises(CacheError, match=r"Input/output error: .*/staging") as raised:
                await mount.files.write(fh, 0, bytes(size))
            assert not isinstance(raised.value, StagingFull)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tierfs.writeback.staging.os.fsync", failing)
            with pytest.raises(CacheError, match="sync a file"):
                await mount.files.sync(fh, data_only=False)
        await close(mount, fh)


@pytest.mark.parametrize("call", ["fdatasync", "pread"])
async def test_what_cannot_be_read_back_freezes_its_root_and_says_so(
    tmp_path: Path, call: str
) -> None:
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        await mount.write(b"a", b"1" * 1000)
        await mount.write(b"b", b"2" * 1000)
    module = "contents" if call == "fdatasync" else "uploads"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"tierfs.writeback.{module}.os.{call}", failing)
        async with world(tmp_path, lake) as mount:
            assert not await mount.flush()
            (root,) = mount.service.describe()["roots"]
            assert root["failed_path"] == "a"
            assert "Input/output error" in root["failure"]
            assert lake.history == []
    assert lake.contents() == {}
