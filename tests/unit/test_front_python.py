"""The Python front: the conformance suite, and what reads cost and cause at the lake."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.caching import MIB, Request, Rig, noise, rig
from tests.front_conformance import FrontConformance
from tierfs.cache.budget import Priority
from tierfs.errors import LakeArchived, StaleVersion
from tierfs.lake.protocol import ChecksumKind

KIB = 1 << 10


class TestPythonFront(FrontConformance):
    """The suite."""

    def rig(self, directory: Path, **options: Any) -> contextlib.AbstractAsyncContextManager[Rig]:
        return rig(directory, **options)


async def test_random_reads_fetch_exactly_what_they_ask_for(tmp_path: Path) -> None:
    data = noise(64 * MIB)
    rng = random.Random(3)
    async with rig(tmp_path) as r:
        r.put(16, data)
        fh = await r.open(16)
        asked = 0
        for n in rng.sample(range(1, 64), 40):
            offset = n * MIB + rng.randrange(MIB // 2)
            assert await r.front.read(fh, offset, 4 * KIB) == data[offset : offset + 4 * KIB]
            asked += 4 * KIB
        await r.settle()
        assert r.front.stats()["bytes_from_lake"] == asked
        assert r.front.stats()["cached_bytes"] == 0


async def test_a_read_of_whole_blocks_keeps_them(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.put(16, noise(8 * MIB))
        await r.read(16, 2 * MIB - 10, 2 * MIB + 20)
        await r.settle()
        assert r.lake.ranges() == [(2 * MIB - 10, 2 * MIB + 20)]
        assert r.front.stats()["cached_bytes"] == 2 * MIB


async def test_a_block_that_densifies_is_fetched_whole(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.put(16, noise(8 * MIB))
        fh = await r.open(16)
        # Backwards, so that no stream is seen.
        for n in range(15, -1, -1):
            await r.front.read(fh, 4 * MIB + n * 64 * KIB, 64 * KIB)
        await r.settle()
        assert (4 * MIB, MIB) in r.lake.ranges()
        assert len(r.lake.ranges()) == 4
        assert r.front.stats()["cached_bytes"] == MIB


async def test_a_sequential_read_takes_few_large_requests(tmp_path: Path) -> None:
    data = noise(96 * MIB)
    async with rig(tmp_path, memory=1 << 30) as r:
        r.put(16, data)
        fh = await r.open(16)
        for offset in range(0, len(data), 128 * KIB):
            assert await r.front.read(fh, offset, 128 * KIB) == data[offset : offset + 128 * KIB]
        await r.settle()
        assert sum(length for _, length in r.lake.ranges()) == len(data)
        assert len(r.lake.ranges()) < 80
        assert max(length for _, length in r.lake.ranges()) >= 2 * MIB


async def test_readers_of_one_block_share_a_request(tmp_path: Path) -> None:
    data = noise(MIB)
    async with rig(tmp_path) as r:
        r.put(16, data)
        results: list[bytes] = []

        async def reader() -> None:
            results.append(await r.read(16))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(reader)
        assert results == [data] * 10
        assert len(r.lake.requests) == 1


async def test_a_cancelled_reader_takes_nothing_from_the_others(tmp_path: Path) -> None:
    data = noise(MIB)
    async with rig(tmp_path) as r:
        r.put(16, data)
        gate = trio.Event()

        async def wait(_: Request) -> None:
            await gate.wait()

        r.lake.before = wait
        results: list[bytes] = []

        async def reader(scope: trio.CancelScope) -> None:
            with scope:
                results.append(await r.read(16))

        first, second = trio.CancelScope(), trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader, first)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(reader, second)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        assert results == [data]
        assert len(r.lake.requests) == 1


async def test_memory_bounds_what_is_in_flight(tmp_path: Path) -> None:
    async with rig(tmp_path, memory=16 * MIB) as r:
        for ino in range(16, 48):
            r.put(ino, noise(MIB, ino))
        limit = r.front.stats()["buffer_limit_bytes"]
        most = 0

        async def watch(_: Request) -> None:
            nonlocal most
            await trio.lowlevel.checkpoint()
            most = max(most, r.front.stats()["buffer_bytes"])

        r.lake.before = watch
        async with trio.open_nursery() as nursery:
            for ino in range(16, 48):
                nursery.start_soon(r.read, ino)
        assert 0 < most <= limit
        assert len(r.lake.requests) == 32


async def test_a_reader_overtakes_a_warm_up(tmp_path: Path) -> None:
    async with rig(tmp_path, memory=16 * MIB) as r:
        for ino in range(16, 48):
            r.put(ino, noise(MIB, ino))
        gate = trio.Event()

        async def wait(request: Request) -> None:
            if request.key != b"object-47":
                await gate.wait()

        r.lake.before = wait
        async with trio.open_nursery() as nursery:
            for ino in range(16, 46):
                nursery.start_soon(r.fetch, ino)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(5):
                await r.read(47)
            # And a block that a warm-up queues for is moved up by its reader.
            waiting = [ino for ino in range(16, 46) if not asked(r, ino)]
            nursery.start_soon(r.read, waiting[-1])
            await trio.testing.wait_all_tasks_blocked()
            assert asked(r, waiting[-1])
            gate.set()


def asked(r: Rig, ino: int) -> bool:
    """Whether a request for the object was sent."""
    return any(request.key == b"object-%d" % ino for request in r.lake.requests)


async def test_a_changed_object_is_stale_and_never_a_mixture(tmp_path: Path) -> None:
    old, new = noise(4 * MIB, 1), noise(4 * MIB, 2)
    async with rig(tmp_path) as r:
        r.put(16, old)
        fh = await r.open(16)
        assert await r.front.read(fh, 2 * MIB, MIB) == old[2 * MIB : 3 * MIB]
        r.lake.store_with(b"object-16", new, ChecksumKind.CRC64NVME)
        for offset in (0, 2 * MIB):
            with pytest.raises(StaleVersion):
                await r.front.read(fh, offset, MIB)
        await r.front.release(fh)
        await r.settle()
        assert r.front.stats()["cached_bytes"] == 0


async def test_a_complete_copy_outlives_its_object(tmp_path: Path) -> None:
    old = noise(4 * MIB, 1)
    async with rig(tmp_path) as r:
        r.put(16, old)
        await r.fetch(16)
        await r.settle()
        fh = await r.open(16)
        r.lake.store_with(b"object-16", b"new", ChecksumKind.CRC64NVME)
        for offset in range(0, 4 * MIB, MIB):
            assert await r.front.read(fh, offset, MIB) == old[offset : offset + MIB]


async def test_an_archived_object_is_an_error_not_a_hang(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        info = r.lake.store(b"object-16", b"data", archived=True)
        r.put(16, b"data")
        r.lake._objects[b"object-16"] = (info, b"data")
        with pytest.raises(LakeArchived):
            await r.read(16)


async def test_the_whole_is_compared_once_without_reading_it_again(tmp_path: Path) -> None:
    data = noise(20 * MIB + 7)
    for ino, kind in enumerate(ChecksumKind, 16):
        async with rig(tmp_path / kind.name) as r:
            r.put(ino, data, checksum=kind)
            await r.fetch(ino)
            await r.settle()
            file = r.front._index.file(ino)
            assert file is not None
            assert file.complete
            assert file.checksum_ok == (kind is not ChecksumKind.NONE)
            assert file.verified_boot != bytes(8)
            assert file.verified_ctime_ns == r.cache_file(ino).stat().st_ctime_ns
            heads = [request for request in r.lake.requests if request.op == "head"]
            assert len(heads) == (kind is not ChecksumKind.NONE)


async def test_a_block_that_the_comparison_finds_bad_gives_its_room_back(tmp_path: Path) -> None:
    data = noise(9 * MIB + 7)
    async with rig(tmp_path) as r:
        r.put(16, data, checksum=ChecksumKind.CRC32C)

        async def damage(request: Request) -> None:
            if request.op == "head":
                with r.cache_file(16).open("r+b") as file:
                    file.seek(3 * MIB)
                    file.write(b"damaged")

        r.lake.before = damage
        await r.fetch(16)
        await r.settle()
        file = r.front._index.file(16)
        assert file is not None
        assert file.present_bytes < len(data)
        assert r.front._capacity.used_bytes == file.present_bytes + file.overhead_bytes
        r.lake.before = None
        assert await r.read(16) == data


async def test_read_ahead_does_not_outlive_the_front(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.put(16, noise(16 * MIB))

        async def never(request: Request) -> None:
            if request.offset:
                await trio.sleep_forever()

        r.lake.before = never
        fh = await r.open(16)
        await r.front.read(fh, 0, 512 * KIB)
        await r.front.read(fh, 512 * KIB, 512 * KIB)
        assert r.front.stats()["in_flight"] >= 1
    assert r.front._fetcher.in_flight == 0


async def test_an_end_keeps_what_was_read_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However soon it comes: readers are answered before the cache has their bytes."""
    monkeypatch.setattr("tierfs.front.python.KEEP_S", 120.0)  # However slow the disk is.
    async with rig(tmp_path) as r:
        for ino in range(16, 48):
            r.put(ino, noise(10_000))

        async with trio.open_nursery() as readers:
            for ino in r.refs:
                readers.start_soon(r.read, ino)
    fetched = len(r.lake.requests)
    async with rig(tmp_path, r.lake, refs=r.refs) as r:
        for ino in r.refs:
            assert await r.read(ino) == noise(10_000)
        assert r.account_is_right()
    assert len(r.lake.requests) == fetched


async def test_a_failed_fetch_of_one_file_leaves_the_front_usable(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.put(16, b"data")

        async def broken(_: Request) -> None:
            raise RuntimeError("not an error that anyone planned")

        r.lake.before = broken
        with pytest.raises(RuntimeError):
            await r.front.fetch(16, *r.refs[16], None, Priority.WARM_UP)
        r.lake.before = None
        assert await r.read(16) == b"data"
