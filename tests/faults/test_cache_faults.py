"""A cache disk and a lake that misbehave: readers get the right bytes or a clear error, nothing
else."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.caching import MIB, Request, Rig, noise, rig
from tierfs.cache import reader as reader_module
from tierfs.cache import store as store_module
from tierfs.cache.store import Store
from tierfs.errors import (
    IndexDamaged,
    IntegrityError,
    LakeProtocolError,
    LakeUnavailable,
    StaleVersion,
)
from tierfs.index.cache import CacheBatch, CacheIndex
from tierfs.index.records import EXTENT_SIZE, Extent
from tierfs.lake.faulty import CallKind, Fault, FaultKind, FaultyLake
from tierfs.lake.protocol import ChecksumKind, Version

SIZE = 4 * MIB + 1000
#: More than the first read of a file brings.
LONG = 16 * MIB


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Damage a cache file behind the cache's back."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def truncate(path: Path) -> None:
    os.truncate(path, MIB + 10)


def zero(path: Path) -> None:
    overwrite(path, MIB, bytes(MIB))


def flip(path: Path) -> None:
    data = path.read_bytes()
    overwrite(path, 3 * MIB + 77, bytes([data[3 * MIB + 77] ^ 1]))


def swap_blocks(path: Path) -> None:
    data = path.read_bytes()
    overwrite(path, 0, data[2 * MIB : 3 * MIB])
    overwrite(path, 2 * MIB, data[:MIB])


def remove(path: Path) -> None:
    path.unlink()


DAMAGES = [truncate, zero, flip, swap_blocks, remove]


async def fill(r: Rig) -> dict[int, bytes]:
    """Two cached objects."""
    objects = {16: noise(SIZE, 1), 17: noise(SIZE, 2)}
    for ino, data in objects.items():
        r.put(ino, data)
        await r.fetch(ino)
    await r.settle()
    return objects


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reopen", [False, True])
async def test_damage_on_disk_never_reaches_a_reader(
    tmp_path: Path, damage: Any, reopen: bool
) -> None:
    async with rig(tmp_path) as r:
        objects = await fill(r)
        lake, refs = r.lake, r.refs
        if not reopen:
            damage(r.cache_file(16))
            assert await r.read(16) == objects[16]
            await r.settle()
            assert r.cache_file(16).read_bytes() == objects[16]
        path = r.cache_file(16)
    if reopen:
        damage(path)
        lake.requests.clear()
        async with rig(tmp_path, lake, refs=refs) as r:
            assert await r.read(16) == objects[16]
            assert await r.read(17) == objects[17]
            await r.settle()
            assert r.front.stats()["bad_blocks"] > 0 or damage is remove
            assert 0 < sum(length for _, length in lake.ranges()) <= SIZE
            lake.requests.clear()
            assert await r.read(16) == objects[16]
            assert lake.requests == []


async def test_two_cache_files_swapped(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        objects = await fill(r)
        a, b = r.cache_file(16), r.cache_file(17)
        a.rename(tmp_path / "aside")
        b.rename(a)
        (tmp_path / "aside").rename(b)
        for ino, data in objects.items():
            assert await r.read(ino) == data


async def test_sabotage_without_verification_damage_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "intact", lambda record, data: True)
    for damage in (zero, flip, swap_blocks):
        async with rig(tmp_path / damage.__name__) as r:
            objects = await fill(r)
            damage(r.cache_file(16))
            assert await r.read(16) != objects[16]


async def test_damage_is_counted_and_said_once_with_the_path(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig(tmp_path, path_of=lambda ino: b"train/some\nfile") as r:
        objects = await fill(r)
        overwrite(r.cache_file(16), 0, bytes(3 * MIB))
        with caplog.at_level(logging.WARNING, "tierfs"):
            assert await r.read(16) == objects[16]
        assert r.front.stats()["bad_blocks"] == 3
        assert len(caplog.records) == 1
        assert "train/some\\nfile" in caplog.text


async def test_a_changed_version_is_never_mixed_in(tmp_path: Path) -> None:
    old, new = noise(LONG, 1), noise(LONG, 2)
    async with rig(tmp_path) as r:
        r.put(16, old)
        fh = await r.open(16)
        got = [await r.front.read(fh, 0, MIB)]
        r.lake.store_with(b"object-16", new, ChecksumKind.CRC64NVME)

        async def go_on() -> None:
            for offset in range(MIB, LONG, MIB):
                got.append(await r.front.read(fh, offset, MIB))

        with pytest.raises(StaleVersion):
            await go_on()
        assert old.startswith(b"".join(got))


async def test_sabotage_without_if_match_versions_are_mixed(tmp_path: Path) -> None:
    old, new = noise(LONG, 1), noise(LONG, 2)
    async with rig(tmp_path) as r:
        r.put(16, old, checksum=ChecksumKind.NONE)
        inner = r.lake.get

        async def sloppy(key: bytes, version: Version, offset: int, length: int) -> bytes:
            return await inner(key, r.lake._objects[key][0].version, offset, length)

        r.lake.get = sloppy  # type: ignore[method-assign]
        fh = await r.open(16)
        got = [await r.front.read(fh, 0, MIB)]
        r.lake.store_with(b"object-16", new, ChecksumKind.NONE)
        for offset in range(MIB, LONG, MIB):
            got.append(await r.front.read(fh, offset, MIB))
        assert b"".join(got) not in (old, new)


@pytest.mark.parametrize("kind", [FaultKind.FLIPPED, FaultKind.OTHER_BYTES])
async def test_a_lie_about_a_small_object_is_found_at_once(tmp_path: Path, kind: FaultKind) -> None:
    data = noise(110_000)
    async with rig(tmp_path, around=lambda lake: FaultyLake(lake, Fault(kind, budget=1))) as r:
        r.put(16, data)
        assert await r.read(16) == data
        assert r.front.stats()["checksum_failures"] == 1
    lying = tmp_path / "lying"
    async with rig(lying, around=lambda lake: FaultyLake(lake, Fault(kind))) as r:
        r.put(16, data)
        with pytest.raises(IntegrityError):
            await r.read(16)
        await r.settle()
        assert r.front.stats()["cached_bytes"] == 0


async def test_sabotage_without_the_objects_checksum_a_lie_is_read(tmp_path: Path) -> None:
    data = noise(110_000)
    async with rig(tmp_path, around=lambda lake: FaultyLake(lake, Fault(FaultKind.FLIPPED))) as r:
        r.put(16, data, checksum=ChecksumKind.NONE)
        assert await r.read(16) != data


@pytest.mark.parametrize("kind", [ChecksumKind.CRC64NVME, ChecksumKind.CRC32C])
async def test_a_lie_in_a_range_is_found_when_the_object_is_whole(
    tmp_path: Path, kind: ChecksumKind
) -> None:
    data = noise(20 * MIB)
    once = Fault(FaultKind.FLIPPED, budget=1)
    async with rig(tmp_path, around=lambda lake: FaultyLake(lake, once)) as r:
        r.put(16, data, checksum=kind)
        await r.fetch(16)
        await r.settle()
        assert r.front.stats()["checksum_failures"] == 1
        assert r.front.stats()["cached_bytes"] == 0
        assert await r.read(16) == data
        await r.settle()
        assert r.front.file_state(16).complete


async def test_a_lake_that_keeps_lying_is_an_error_and_not_a_loop(tmp_path: Path) -> None:
    async with rig(tmp_path, around=lambda lake: FaultyLake(lake, Fault(FaultKind.FLIPPED))) as r:
        r.put(16, noise(20 * MIB))
        fh = await r.open(16)

        async def insist() -> None:
            for _ in range(5):
                await r.fetch(16)
                await r.settle()

        with pytest.raises(IntegrityError):
            await insist()
        with pytest.raises(IntegrityError):
            await r.front.read(fh, 0, MIB)
        assert len(r.lake.ranges()) == 6


async def test_an_answer_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    short = Fault(FaultKind.SHORT)
    async with rig(tmp_path, around=lambda lake: FaultyLake(lake, short)) as r:
        r.put(16, noise(SIZE))
        with pytest.raises(LakeProtocolError):
            await r.read(16)


async def test_a_failure_reaches_all_who_wait_and_the_next_tries_again(tmp_path: Path) -> None:
    data = noise(110_000)
    once = Fault(FaultKind.UNAVAILABLE, budget=1)
    async with rig(tmp_path, around=lambda lake: FaultyLake(lake, once)) as r:
        r.put(16, data)
        failed = 0

        async def reader() -> None:
            nonlocal failed
            try:
                await r.read(16)
            except LakeUnavailable:
                failed += 1

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(reader)
        assert failed == 5
        assert await r.read(16) == data


async def test_a_comparison_that_cannot_be_made_is_made_at_a_later_open(tmp_path: Path) -> None:
    denied = Fault(FaultKind.DENIED, calls=frozenset({CallKind.HEAD}), budget=1)
    data = noise(20 * MIB)
    async with rig(tmp_path, around=lambda lake: FaultyLake(lake, denied)) as r:
        r.put(16, data)
        await r.fetch(16)
        await r.settle()
        assert not r.front._index.file(16).complete  # type: ignore[union-attr]
        assert await r.read(16) == data
        await r.settle()
        assert r.front._index.file(16).checksum_ok  # type: ignore[union-attr]


class Disk:
    """Makes calls of `Store` fail with an errno, as long as it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write_errno = self.read_errno = 0
        create, write = Store.create, Store.write_blocks
        read, now = Store.read, Store.read_now

        async def create_file(store: Store, *args: Any) -> Any:
            self._fail(self.write_errno)
            return await create(store, *args)

        async def write_blocks(store: Store, *args: Any) -> Any:
            self._fail(self.write_errno)
            return await write(store, *args)

        async def read_slowly(store: Store, *args: Any) -> Any:
            self._fail(self.read_errno)
            return await read(store, *args)

        def read_now(store: Store, *args: Any) -> Any:
            self._fail(self.read_errno)
            return now(store, *args)

        monkeypatch.setattr(Store, "create", create_file)
        monkeypatch.setattr(Store, "write_blocks", write_blocks)
        monkeypatch.setattr(Store, "read", read_slowly)
        monkeypatch.setattr(Store, "read_now", read_now)

    @staticmethod
    def _fail(number: int) -> None:
        if number:
            raise OSError(number, os.strerror(number))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def read_in_pieces(r: Rig, ino: int) -> bytes:
    """As the kernel reads: 128 KiB at a time, on one handle."""
    fh = await r.open(ino)
    size = r.refs[ino][1]
    pieces = [await r.front.read(fh, at, 128 << 10) for at in range(0, size, 128 << 10)]
    await r.front.release(fh)
    return b"".join(pieces)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.ETIMEDOUT])
async def test_a_disk_that_takes_no_blocks_is_streamed_past(
    tmp_path: Path, disk: Disk, number: int
) -> None:
    disk.write_errno = number
    data = noise(SIZE)
    async with rig(tmp_path) as r:
        r.put(16, data)
        assert await read_in_pieces(r, 16) == data
        await r.settle()
        assert r.front.stats()["streaming"]
        r.front._hot.forget(16)
        assert await read_in_pieces(r, 16) == data
        stats = r.front.stats()
        assert stats["streaming_reason"]
        assert stats["cached_bytes"] == 0
        # Streaming does not fetch a block for each piece of it.
        assert stats["bytes_from_lake"] <= 3 * SIZE


async def test_a_disk_that_recovers_is_used_again(tmp_path: Path, disk: Disk) -> None:
    data = noise(110_000)
    async with rig(tmp_path) as r:
        for ino in (16, 17):
            r.put(ino, data)
        disk.write_errno = errno.EIO
        assert await r.read(16) == data
        await r.settle()
        disk.write_errno = 0
        r.front._health._until_s = trio.current_time()
        assert await r.read(17) == data
        await r.settle()
        assert not r.front.stats()["streaming"]
        assert r.front.stats()["cached_bytes"] == len(data)


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT])
async def test_a_disk_that_cannot_be_read_is_read_past(
    tmp_path: Path, disk: Disk, number: int
) -> None:
    async with rig(tmp_path) as r:
        objects = await fill(r)
        disk.read_errno = number
        for ino, data in objects.items():
            assert await read_in_pieces(r, ino) == data
        assert r.front.stats()["bytes_from_lake"] <= 4 * SIZE


async def test_an_index_that_fails_is_read_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise OSError(errno.EIO, "the index's disk is gone")

    async def broken_commit(*_: Any) -> None:
        broken()

    data = noise(SIZE)
    async with rig(tmp_path) as r:
        r.put(16, data)
        with monkeypatch.context() as patch:
            patch.setattr(CacheIndex, "commit", broken_commit)
            assert await read_in_pieces(r, 16) == data
            await r.settle()
            patch.setattr(CacheIndex, "file", broken)
            patch.setattr(CacheIndex, "block", broken)
            assert await read_in_pieces(r, 16) == data
            await r.settle()
        assert r.front.stats()["cached_bytes"] == 0


async def test_a_cache_file_outlives_too_many_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_many(*_: Any) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    async with rig(tmp_path) as r:
        objects = await fill(r)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "open", too_many)
            assert await r.read(16) == objects[16]
            await r.settle()
        r.lake.requests.clear()
        assert await r.read(16) == objects[16]
        assert r.lake.requests == []


async def test_another_object_under_the_same_inode_is_not_served(tmp_path: Path) -> None:
    new = noise(SIZE, 9)
    async with rig(tmp_path) as r:
        await fill(r)
        r.put(16, new)
        assert await r.read(16) == new


def files_below(directory: Path, pattern: str) -> list[Path]:
    """All plain files under the directories that match."""
    return [p for top in directory.glob(pattern) for p in top.rglob("*") if p.is_file()]


async def test_an_index_that_starts_empty_leaves_no_files_behind(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        objects = await fill(r)
        lake, refs = r.lake, r.refs
        batch = CacheBatch()
        for ino in objects:
            batch.drop_file(ino)
        await r.front._index.commit(batch)
    async with rig(tmp_path, lake, refs=refs) as r:
        await r.front._store.sweep()
        assert files_below(tmp_path, "objects*") == []
        assert await r.read(16) == objects[16]


async def test_a_request_that_stalls_does_not_stop_other_reads(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        for ino in (16, 17):
            r.put(ino, noise(1000, ino))

        async def stall(request: Request) -> None:
            if request.key == b"object-16":
                await trio.sleep_forever()

        r.lake.before = stall
        with trio.move_on_after(0.05) as scope:
            await r.read(16)
        assert scope.cancelled_caught
        assert await r.read(17) == noise(1000, 17)


def broken(*_: Any) -> Any:
    raise IndexDamaged("use an index", "cache", "it is damaged")


async def test_an_index_that_fails_at_eviction_is_streamed_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path, cache_size=3 * MIB) as r:
        for ino in (16, 17):
            r.put(ino, noise(2 * MIB, ino))
        assert await r.read(16) == noise(2 * MIB, 16)
        await r.settle()
        monkeypatch.setattr(r.front._policy, "choose_victims", broken)
        assert await r.read(17) == noise(2 * MIB, 17)
        await r.settle()
        assert "choose what to evict" in r.front.stats()["streaming_reason"]


async def test_an_index_that_fails_when_a_stale_copy_goes_does_not_end_the_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path) as r:
        for ino in (16, 17):
            r.put(ino, noise(MIB, ino))
        assert await r.read(16) == noise(MIB, 16)
        await r.settle()
        fh = await r.open(16)
        await r.front.invalidate(16)
        with monkeypatch.context() as patch:
            patch.setattr(CacheIndex, "file", broken)
            await r.front.release(fh)
            await r.settle()
        assert await r.read(17) == noise(MIB, 17)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
async def test_want_of_descriptors_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    data = noise(MIB)

    async def fail(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    async with rig(tmp_path) as r:
        r.put(16, data)
        assert await r.read(16) == data
        await r.settle()
        r.front._hot.forget(16)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "read_now", lambda *_: None)
            patch.setattr(Store, "read", fail)
            assert await r.read(16) == data
        await r.settle()
        stats = r.front.stats()
        assert stats["bad_blocks"] == 0
        assert stats["cached_bytes"] == MIB
        r.front._hot.forget(16)
        r.lake.requests.clear()
        assert await r.read(16) == data
        assert r.lake.requests == []


class Punching:
    """Makes punching a hole fail with an errno."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.tried = 0
        self._number = number
        monkeypatch.setattr(store_module, "punch_hole", self._punch)

    def _punch(self, fd: int, lo: int, hi: int) -> None:
        self.tried += 1
        raise OSError(self._number, os.strerror(self._number))


async def half_filled(r: Rig, *inos: int) -> None:
    """Incomplete copies of objects of 20 MiB: 18 MiB each."""
    for ino in inos:
        r.put(ino, noise(20 * MIB, ino))
        await r.fetch(ino, (0, 18 * MIB))
    await r.settle()


async def test_where_holes_cannot_be_punched_files_go_whole_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    punching = Punching(monkeypatch, errno.EOPNOTSUPP)
    async with rig(tmp_path) as r:
        await half_filled(r, 16, 17)
        with caplog.at_level(logging.WARNING, "tierfs"):
            for ino in (16, 17):
                assert await r.front.evict(ino, [(0, EXTENT_SIZE)]) >= 18 * MIB
                assert not r.cache_file(ino).exists()
        assert len(caplog.records) == punching.tried == 1
        stats = r.front.stats()
        assert stats["used_bytes"] == stats["cached_files"] == stats["evicted_extents"] == 0
        assert stats["evicted_files"] == 2
        assert stats["evicted_bytes"] == 36 * MIB
        assert not stats["streaming"]
        assert await r.read(16) == noise(20 * MIB, 16)


async def test_a_file_whose_extents_cannot_be_freed_goes_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path) as r:
        await half_filled(r, 16, 17)
        with monkeypatch.context() as patch:
            Punching(patch, errno.EIO)
            assert await r.front.evict(16, [(0, EXTENT_SIZE)]) >= 18 * MIB
        assert not r.cache_file(16).exists()
        assert "free a part" in r.front.stats()["streaming_reason"]
        assert r.account_is_right()
        # Another file may be luckier.
        assert await r.front.evict(17, [(0, EXTENT_SIZE)]) == EXTENT_SIZE
        assert r.account_is_right()


async def test_what_can_be_neither_freed_nor_removed_stays_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(*_: Any) -> Any:
        raise OSError(errno.ETIMEDOUT, "the cache disk does not answer")

    async def refuses(*_: Any) -> list[int]:
        return []

    async with rig(tmp_path) as r:
        await half_filled(r, 16, 17)
        used = r.front.stats()["used_bytes"]
        with monkeypatch.context() as patch:
            patch.setattr(Store, "punch", hangs)
            assert await r.front.evict(16, [(0, EXTENT_SIZE)]) == 0
            patch.setattr(Store, "unlink", refuses)
            assert await r.front.evict(17) == 0
        assert r.front.stats()["used_bytes"] == used
        assert r.front.stats()["evicted_bytes"] == 0
        assert await r.front.evict(16) + await r.front.evict(17) == used
        assert r.front.stats()["used_bytes"] == 0
        assert r.front.stats()["evicted_bytes"] == 36 * MIB


async def test_a_punch_that_was_given_up_on_does_not_come_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[Any] = []
    punched: list[Extent] = []

    async def never(_: Store, work: Any) -> Any:
        late.append(work)
        raise OSError(errno.ETIMEDOUT, "the cache disk does not answer")

    async with rig(tmp_path) as r:
        await half_filled(r, 16)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "_in_thread", never)
            assert await r.front.evict(16, [(0, EXTENT_SIZE)]) == 0
        monkeypatch.setattr(store_module, "punch_hole", lambda _, *at: punched.append(at))
        for work in late:
            work()
        assert (len(late), punched) == (1, [])


async def test_records_that_cannot_be_dropped_keep_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path) as r:
        await half_filled(r, 16)
        with monkeypatch.context() as patch:
            patch.setattr(CacheIndex, "commit", fail_to_commit)
            assert await r.front.evict(16, [(0, EXTENT_SIZE)]) == 0
        assert r.front.file_state(16).cached_bytes == 18 * MIB
        assert r.bytes_on_disk(16) >= 18 * MIB
        assert r.account_is_right()


async def fail_to_commit(*_: Any) -> None:
    """A commit of an index whose disk is full."""
    raise OSError(errno.ENOSPC, "no room for the index")


async def test_blocks_that_could_not_be_recorded_are_not_counted_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path) as r:
        await half_filled(r, 16)
        fh = await r.open(16)
        with monkeypatch.context() as patch:
            patch.setattr(CacheIndex, "commit", fail_to_commit)
            await r.fetch(16)
            await r.settle()
        await r.front.release(fh)
        await r.settle()
        assert r.front.file_state(16).cached_bytes == 18 * MIB
        assert r.account_is_right()
        r.front._health._until_s = trio.current_time()
        assert await r.read(16) == noise(20 * MIB, 16)
        await r.settle()
        assert r.account_is_right()
        assert r.front.file_state(16).complete


async def test_a_bad_block_whose_record_could_not_be_dropped_is_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise(20 * MIB, 16)
    async with rig(tmp_path) as r:
        await half_filled(r, 16)
        overwrite(r.cache_file(16), 0, bytes(MIB))
        # Nor is the block kept again.
        r.front._health.failed("write a cache file", OSError(errno.EIO, "broken"))
        with monkeypatch.context() as patch:
            patch.setattr(CacheIndex, "commit", fail_to_commit)
            assert await r.read(16, 0, MIB) == data[:MIB]
            await r.settle()
        assert r.account_is_right()
        assert await r.read(16) == data
        await r.settle()
        assert r.account_is_right()


async def test_a_copy_that_could_not_be_forgotten_is_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path) as r:
        await half_filled(r, 16)
        fh = await r.open(16)
        o = r.front._table.get(16)
        assert o is not None
        with monkeypatch.context() as patch:
            patch.setattr(CacheIndex, "commit", fail_to_commit)
            r.front._table.discard(o)
            await r.settle()
        assert o.purge
        # Filled again within this use, nothing of the old life is left in the index.
        r.front._health._until_s = trio.current_time()
        await r.fetch(16, (2 * MIB, 3 * MIB))
        await r.settle()
        assert set(r.front._index.blocks(16)) == {2}
        with monkeypatch.context() as patch:
            patch.setattr(CacheIndex, "commit", fail_to_commit)
            r.front._table.discard(o)
            await r.settle()
            await r.front.release(fh)
            await r.settle()
        assert r.account_is_right()
