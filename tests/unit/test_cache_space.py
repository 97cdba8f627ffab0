"""Capacity and the health of the cache disk."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

from tierfs.cache.budget import Priority
from tierfs.cache.space import Capacity, Claim, DiskSpace, Health, NotWorthKeeping
from tierfs.errors import CacheFull

MIB = 1 << 20
GIB = 1 << 30
CLAIM = Claim(16, Priority.DEMAND)


class Disk:
    """A disk and its evictable bytes, of which *precious* go for nobody's claim."""

    def __init__(self, free_bytes: int = 100 * GIB, evictable: int = 0, precious: int = 0) -> None:
        self.space = DiskSpace(100 * GIB, free_bytes)
        self.evictable = evictable
        self.precious = precious
        self.asked: list[int] = []
        self.claims: list[Claim | None] = []

    def capacity(self, limit: int | None, min_free: float = 0.1, used: int = 0) -> Capacity:
        capacity = Capacity(limit, min_free, used, disk=lambda: self.space, evict=self.evict)
        self._capacity = capacity
        return capacity

    async def evict(self, bytes_: int, claim: Claim | None) -> bool:
        self.asked.append(bytes_)
        self.claims.append(claim)
        await trio.lowlevel.checkpoint()
        stays = 0 if claim is None else self.precious
        freed = min(bytes_, max(0, self.evictable - stays))
        self.evictable -= freed
        self.space = self.space._replace(free_bytes=self.space.free_bytes + freed)
        self._capacity.freed(freed)
        return freed == bytes_ or self.evictable == 0


async def test_used_and_reserved_stay_under_the_limit() -> None:
    capacity = Disk().capacity(10 * MIB)
    first = await capacity.reserve(6 * MIB, CLAIM)
    assert capacity.try_reserve(5 * MIB) is None
    capacity.spend(first, 2 * MIB)
    capacity.release(first)
    assert (capacity.used_bytes, capacity.reserved_bytes) == (2 * MIB, 0)
    assert capacity.try_reserve(8 * MIB) is not None


async def test_reserving_evicts_what_is_missing() -> None:
    disk = Disk(evictable=5 * MIB)
    capacity = disk.capacity(10 * MIB, used=9 * MIB)
    await capacity.reserve(4 * MIB, CLAIM)
    assert disk.asked == [3 * MIB]
    assert capacity.used_bytes + capacity.reserved_bytes <= 10 * MIB


async def test_room_that_another_takes_first_is_made_again() -> None:
    disk = Disk(evictable=5 * MIB)
    capacity = disk.capacity(10 * MIB, used=10 * MIB)
    evict = disk.evict

    async def evict_for_another(bytes_: int, claim: Claim | None) -> bool:
        worth_it = await evict(bytes_, claim)
        if len(disk.asked) == 1:
            assert capacity.try_reserve(bytes_) is not None
        return worth_it

    capacity._evict = evict_for_another
    await capacity.reserve(MIB, CLAIM)
    assert disk.asked == [MIB, MIB]
    # What is freed and taken for ever is no reason to go on when nothing is freed any more.
    with pytest.raises(CacheFull):
        await capacity.reserve(4 * MIB, CLAIM)


@pytest.mark.mockclock
async def test_nothing_to_evict_is_said_at_once_and_not_tried_all_the_time() -> None:
    disk = Disk()
    capacity = disk.capacity(10 * MIB, used=10 * MIB)
    for _ in range(3):
        with pytest.raises(CacheFull):
            await capacity.reserve(MIB, CLAIM)
    assert len(disk.asked) == 1
    await trio.sleep(2)
    with pytest.raises(CacheFull):
        await capacity.reserve(MIB, CLAIM)
    assert len(disk.asked) == 2


async def test_what_is_not_worth_keeping_is_no_reason_to_rest() -> None:
    disk = Disk(evictable=10 * MIB, precious=9 * MIB)
    capacity = disk.capacity(10 * MIB, used=10 * MIB)
    for _ in range(3):
        with pytest.raises(NotWorthKeeping):
            await capacity.reserve(2 * MIB, CLAIM)
    assert len(disk.asked) == 3
    assert capacity.reserved_bytes == 0
    # What went before that was found out is room for something smaller.
    await capacity.reserve(MIB, CLAIM)
    assert len(disk.asked) == 3


@pytest.mark.mockclock
async def test_what_others_write_to_the_disk_costs_even_what_is_precious() -> None:
    disk = Disk(free_bytes=11 * GIB, evictable=8 * MIB, precious=8 * MIB)
    capacity = disk.capacity(None, used=8 * MIB)
    disk.space = disk.space._replace(free_bytes=10 * GIB - 3 * MIB)
    with pytest.raises(NotWorthKeeping):
        await capacity.reserve(MIB, CLAIM)
    assert (disk.asked[0], disk.claims) == (3 * MIB, [None, CLAIM])
    assert capacity.used_bytes == 5 * MIB


async def test_more_than_the_limit_never_fits_and_evicts_nothing() -> None:
    disk = Disk(evictable=10 * MIB)
    with pytest.raises(CacheFull):
        await disk.capacity(10 * MIB, used=10 * MIB).reserve(11 * MIB, CLAIM)
    assert disk.asked == []


@pytest.mark.mockclock
async def test_a_share_of_the_disk_stays_free_for_others() -> None:
    disk = Disk(free_bytes=10 * GIB + 3 * MIB)
    capacity = disk.capacity(None)
    await capacity.reserve(2 * MIB, CLAIM)
    with pytest.raises(CacheFull):
        await capacity.reserve(2 * MIB, CLAIM)
    disk.space = disk.space._replace(free_bytes=50 * GIB)
    await trio.sleep(5)
    await capacity.reserve(2 * MIB, CLAIM)


async def test_several_that_wait_for_room_evict_once_each_at_most() -> None:
    disk = Disk(evictable=64 * MIB)
    capacity = disk.capacity(64 * MIB, used=64 * MIB)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(capacity.reserve, MIB, CLAIM)
    assert capacity.reserved_bytes == 8 * MIB
    assert capacity.used_bytes + capacity.reserved_bytes <= 64 * MIB


async def test_a_smaller_limit_evicts_down_to_it() -> None:
    disk = Disk(evictable=8 * MIB)
    capacity = disk.capacity(10 * MIB, used=8 * MIB)
    await capacity.resize(3 * MIB)
    assert capacity.used_bytes == 3 * MIB
    assert disk.claims == [None]


# ---- what is written shares the disk -------------------------------------------------------------


async def test_what_is_cached_gives_way_to_what_is_written_whatever_it_is_worth() -> None:
    disk = Disk(free_bytes=10 * GIB + MIB, evictable=20 * MIB, precious=20 * MIB)
    capacity = disk.capacity(30 * MIB, used=20 * MIB)
    assert capacity.left_to_write() == 21 * MIB
    assert await capacity.give_way(MIB)
    assert disk.asked == []
    assert await capacity.give_way(5 * MIB)
    assert disk.claims == [None]
    assert 4 * MIB <= disk.asked[0] <= 5 * MIB
    assert not await capacity.give_way(22 * MIB)


@pytest.mark.mockclock
async def test_what_is_in_use_does_not_give_way_and_is_not_asked_all_the_time() -> None:
    disk = Disk(free_bytes=10 * GIB)
    capacity = disk.capacity(30 * MIB, used=20 * MIB)
    for _ in range(3):
        assert not await capacity.give_way(MIB)
    assert len(disk.asked) == 1
    await trio.sleep(2)
    assert not await capacity.give_way(MIB)
    assert len(disk.asked) == 2


async def test_what_was_written_since_the_disk_was_asked_is_missing_from_it() -> None:
    capacity = Disk(free_bytes=10 * GIB + 3 * MIB).capacity(None)
    assert capacity.try_reserve(0) is not None
    capacity.taken(2 * MIB)
    assert capacity.try_reserve(2 * MIB) is None
    capacity.taken(-MIB)
    assert capacity.try_reserve(2 * MIB) is not None


async def test_a_written_file_that_becomes_a_cached_one_needs_no_second_place() -> None:
    capacity = Disk(free_bytes=10 * GIB).capacity(10 * MIB)
    with pytest.raises(CacheFull):
        await capacity.reserve(4 * MIB, CLAIM)
    reservation = await capacity.reserve(4 * MIB, CLAIM, written=True)
    assert capacity.left_to_write() == 0
    capacity.spend(reservation, 3 * MIB)
    capacity.release(reservation)
    assert (capacity.used_bytes, capacity.reserved_bytes) == (3 * MIB, 0)
    assert capacity.left_to_write() == 3 * MIB
    # The limit holds for it as for everything else.
    with pytest.raises(CacheFull):
        await capacity.reserve(8 * MIB, CLAIM, written=True)


@pytest.mark.mockclock
async def test_a_full_disk_is_tried_again_sooner_than_a_failing_one() -> None:
    health = Health()
    assert not health.streaming
    health.failed("write", OSError(errno.ENOSPC, "full"))
    assert health.streaming
    await trio.sleep(Health.FULL_S)
    assert not health.streaming
    health.failed("write", OSError(errno.EIO, "broken"))
    await trio.sleep(Health.FULL_S)
    assert health.streaming
    await trio.sleep(Health.FAILING_S)
    assert not health.streaming
    assert health.reason
    health.worked()
    assert not health.reason


@pytest.mark.mockclock
async def test_a_disk_that_hangs_is_not_even_read() -> None:
    health = Health()
    health.failed("read", OSError(errno.EIO, "broken"))
    assert not health.hanging
    health.failed("read", OSError(errno.ETIMEDOUT, "no answer"))
    assert health.hanging
    await trio.sleep(Health.FAILING_S)
    assert not health.hanging
