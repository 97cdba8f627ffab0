"""What is not worth keeping: served, counted, and neither kept nor in anybody's way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.caching import MIB, Request, Rig, noise, rig
from tierfs.cache.budget import Priority
from tierfs.cache.eviction import Victim
from tierfs.errors import CacheFull
from tierfs.readahead.policy import Incoming

KIB = 1 << 10
DEMAND, AHEAD, WARM_UP, FILL = Priority


class Miser:
    """A policy that keeps what it has, whoever comes, unless it is *bribed* or ordered."""

    def __init__(self, *cached: int) -> None:
        self.cached = list(cached)
        self.bribed = False
        self.asked: list[Incoming | None] = []
        self.jobs: list[int] = []

    def accessed(self, ino: int, job: int = 0) -> Any:
        self.jobs.append(job)

    def choose_victims(
        self,
        bytes_: int,
        most: int,
        in_use: Callable[[int], bool],
        incoming: Incoming | None = None,
    ) -> list[Victim] | None:
        self.asked.append(incoming)
        if incoming is not None and not incoming.warm_up and not self.bribed:
            return None
        return [Victim(ino) for ino in self.cached if not in_use(ino)][:1]


async def fill_up(r: Rig) -> None:
    """Cache 3 MiB as 16, in a cache of 4."""
    r.put(16, noise(3 * MIB, 16))
    await r.fetch(16)
    await r.settle()


async def test_what_is_declined_is_served_and_counted_and_the_next_one_asks_again(
    tmp_path: Path,
) -> None:
    miser = Miser(16)
    async with rig(tmp_path, cache_size=4 * MIB, policy=miser) as r:
        await fill_up(r)
        data = noise(2 * MIB, 17)
        for ino in (17, 18, 19):
            r.put(ino, data)
        for ino in (17, 18):
            assert await r.read(ino) == data
            await r.settle()
        assert miser.asked == [Incoming(17), Incoming(18)]
        stats = r.front.stats()
        assert (stats["declined"], stats["declined_bytes"]) == (2, 4 * MIB)
        assert (stats["cached_files"], stats["evicted_files"]) == (1, 0)
        assert stats["reserved_bytes"] == stats["in_flight"] == stats["buffer_bytes"] == 0
        miser.bribed = True
        assert await r.read(19) == data
        await r.settle()
        assert r.front.file_state(19).complete
        assert not r.front.file_state(16).cached_bytes
        assert r.front.stats()["declined"] == 2


async def test_a_fill_that_is_declined_is_not_sent_for(tmp_path: Path) -> None:
    miser = Miser(16)
    async with rig(tmp_path, cache_size=4 * MIB, policy=miser) as r:
        await fill_up(r)
        r.put(17, noise(2 * MIB, 17))
        r.lake.requests.clear()
        with pytest.raises(CacheFull, match="not worth keeping"):
            await r.fetch(17, priority=FILL)
        assert miser.asked == [Incoming(17, ahead=True)]
        assert r.lake.requests == []
        assert r.front.stats()["declined_bytes"] == 2 * MIB
        # Whoever reads it asks anew.
        assert await r.read(17) == noise(2 * MIB, 17)
        await r.settle()
        assert miser.asked[1:] == [Incoming(17)]
        miser.bribed = True
        assert await r.fetch(17, priority=FILL) == 2 * MIB
        await r.settle()
        assert r.front.file_state(17).complete


async def test_a_fill_that_finds_everything_in_use_is_not_sent_for(tmp_path: Path) -> None:
    async with rig(tmp_path, cache_size=4 * MIB) as r:
        await fill_up(r)
        fh = await r.open(16)
        r.put(17, noise(2 * MIB, 17))
        r.lake.requests.clear()
        with pytest.raises(CacheFull, match="no room"):
            await r.fetch(17, priority=FILL)
        assert r.lake.requests == []
        assert r.front.stats()["declined"] == 0
        await r.front.release(fh)


async def test_a_fill_that_a_reader_joins_comes_for_the_reader(tmp_path: Path) -> None:
    miser = Miser(16)
    async with rig(tmp_path, cache_size=4 * MIB, policy=miser) as r:
        await fill_up(r)
        data = noise(2 * MIB, 17)
        r.put(17, data)
        r.lake.requests.clear()
        read: list[bytes] = []

        async def fill() -> None:
            with pytest.raises(CacheFull, match="not worth keeping"):
                await r.fetch(17, priority=FILL)

        async def reader() -> None:
            read.append(await r.read(17))

        # Somebody else makes room just now.
        async with trio.open_nursery() as nursery, r.front._capacity._evicting:
            nursery.start_soon(fill)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(reader)
            await trio.testing.wait_all_tasks_blocked()
        assert read == [data]
        assert miser.asked == [Incoming(17, ahead=True), Incoming(17)]
        assert len(r.lake.requests) == 1


async def test_no_reader_waits_until_room_is_made(tmp_path: Path) -> None:
    miser = Miser(16)
    miser.bribed = True
    async with rig(tmp_path, cache_size=4 * MIB, policy=miser) as r:
        await fill_up(r)
        data = noise(2 * MIB, 17)
        r.put(17, data)
        # Somebody else makes room, and takes his time.
        async with r.front._capacity._evicting:
            with trio.fail_after(10):
                assert await r.read(17) == data
            await trio.testing.wait_all_tasks_blocked()
            assert r.front.file_state(16).complete
        await r.settle()
        assert r.front.file_state(17).complete
        assert r.account_is_right()


async def test_of_many_to_fill_those_that_are_not_worth_it_are_counted(tmp_path: Path) -> None:
    miser = Miser()
    async with rig(tmp_path, cache_size=4 * MIB, policy=miser) as r:
        await fill_up(r)
        for ino in range(17, 27):
            r.put(ino, noise(200 * KIB, ino))
        r.lake.requests.clear()
        # There is room for five.
        assert await r.front.fill([(ino, *r.refs[ino]) for ino in range(17, 27)]) == 5
        kept = [ino for ino in range(17, 27) if r.front.file_state(ino).complete]
        assert len(kept) == len(r.lake.requests) == 5
        assert r.front.stats()["declined"] == 5
        assert await r.front.fill([(ino, *r.refs[ino]) for ino in kept]) == 0
        assert len(r.lake.requests) == 5
        await r.settle()
        assert r.account_is_right()


async def test_read_ahead_is_for_a_reader(tmp_path: Path) -> None:
    miser = Miser(16)
    async with rig(tmp_path, cache_size=4 * MIB, policy=miser) as r:
        await fill_up(r)
        r.put(17, noise(2 * MIB, 17))
        with pytest.raises(CacheFull, match="not worth keeping"):
            await r.fetch(17, priority=AHEAD)
        assert miser.asked == [Incoming(17)]


async def test_what_is_ordered_is_kept_whoever_reads_it_meanwhile(tmp_path: Path) -> None:
    miser = Miser(16)
    async with rig(tmp_path, cache_size=4 * MIB, policy=miser) as r:
        await fill_up(r)
        data = noise(2 * MIB, 17)
        r.put(17, data)
        async with trio.open_nursery() as nursery, r.front._capacity._evicting:
            nursery.start_soon(r.fetch, 17)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(r.read, 17)
            await trio.testing.wait_all_tasks_blocked()
        assert miser.asked == [Incoming(17, warm_up=True)]
        await r.settle()
        assert r.front.file_state(17).complete


async def test_an_order_that_comes_while_a_reader_waits_is_carried_out(tmp_path: Path) -> None:
    miser = Miser(16)
    async with rig(tmp_path, cache_size=4 * MIB, policy=miser) as r:
        await fill_up(r)
        data = noise(2 * MIB, 17)
        r.put(17, data)
        r.lake.requests.clear()
        gate = trio.Event()

        async def wait(_: Request) -> None:
            await gate.wait()

        r.lake.before = wait
        read: list[bytes] = []

        async def reader() -> None:
            read.append(await r.read(17))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(r.fetch, 17)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        assert read == [data]
        assert miser.asked == [Incoming(17, warm_up=True)]
        await r.settle()
        assert r.front.file_state(17).complete
        assert len(r.lake.requests) == 1
        assert r.account_is_right()


async def test_a_smaller_limit_is_nobodys_to_decline(tmp_path: Path) -> None:
    miser = Miser(16)
    async with rig(tmp_path, cache_size=4 * MIB, policy=miser) as r:
        await fill_up(r)
        await r.front.resize(2 * MIB)
        assert miser.asked == [None]
        assert r.front.stats()["cached_files"] == 0


async def test_what_was_filled_in_time_is_a_hit(tmp_path: Path) -> None:
    data = noise(2 * MIB, 17)
    async with rig(tmp_path) as r:
        r.put(17, data)
        assert await r.fetch(17, priority=FILL) == 2 * MIB
        assert await r.read(17) == data
        stats = r.front.stats()
        assert (stats["hit_bytes"], stats["miss_bytes"]) == (2 * MIB, 0)


@pytest.mark.parametrize("burst", [128 * KIB, MIB, 6 * MIB])
async def test_what_is_fetched_ahead_and_not_kept_comes_once_for_all_who_read_in_order(
    tmp_path: Path, burst: int
) -> None:
    """Each reads so much at a time, and rests while the others do."""
    size = 24 * MIB
    miser = Miser(16)
    async with rig(tmp_path, cache_size=4 * MIB, memory=128 * MIB, policy=miser) as r:
        await fill_up(r)
        fetched = r.front.stats()["bytes_from_lake"]
        handles = {}
        for ino in range(17, 22):
            r.put(ino, noise(size, ino))
            handles[ino] = await r.open(ino)
        for begin in range(0, size, burst):
            for fh in handles.values():
                for at in range(begin, begin + burst, 128 * KIB):
                    await r.front.read(fh, at, 128 * KIB)
                    await trio.testing.wait_all_tasks_blocked()
        await r.settle()
        assert r.front.stats()["bytes_from_lake"] == fetched + len(handles) * size
        assert r.front.stats()["cached_files"] == 1
        assert len(r.front._hot.passing) == len(handles)
        for fh in handles.values():
            await r.front.release(fh)
        await r.settle()
        assert not r.front._hot.passing


async def test_who_comes_to_the_end_of_what_is_cached_in_a_full_cache_asks_for_what_memory_holds(
    tmp_path: Path,
) -> None:
    """Nothing of the object was declined yet, but most of it will be."""
    size, cached = 64 * MIB, 16 * MIB
    async with rig(tmp_path, cache_size=cached + MIB, memory=256 * MIB, policy=Miser()) as r:
        r.put(16, noise(size))
        await r.fetch(16, (0, cached))
        await r.settle()
        window = r.front._hot.window_bytes
        assert 2 * window < r.front._window_bytes
        fh = await r.open(16)
        r.lake.requests.clear()
        for at in range(0, cached, 128 * KIB):
            await r.front.read(fh, at, 128 * KIB)
            await trio.testing.wait_all_tasks_blocked()
        assert 0 < sum(length for _, length in r.lake.ranges()) <= window + MIB
        await r.front.release(fh)


async def test_who_opens_a_file_is_known_by_its_process(tmp_path: Path) -> None:
    miser = Miser()
    async with rig(tmp_path, policy=miser) as r:
        r.put(16, b"data")
        for pid in (0, os.getpid(), os.getpid()):
            await r.front.release(await r.front.open(16, *r.refs[16], pid))
    nobody, one, other = miser.jobs
    assert nobody == 0
    assert one == other != 0
