"""Room for what is written: who waits for it, and who is told that there is none."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import trio
import trio.testing

from tierfs.errors import StagingFull
from tierfs.writeback.room import IN_VAIN_S, STALLED_S, Room

MIB = 1 << 20


class Disk:
    """A disk with *free_bytes*, and nothing cached."""

    def __init__(self, free_bytes: int = 1 << 40) -> None:
        self.free_bytes = free_bytes

    def left_to_write(self) -> int:
        return self.free_bytes

    async def give_way(self, bytes_: int) -> bool:
        await trio.lowlevel.checkpoint()
        return bytes_ <= self.free_bytes

    def taken(self, bytes_: int) -> None:
        self.free_bytes -= bytes_


def a_room(size: int | None = 10 * MIB, disk: Disk | None = None, *, why: str = "") -> Room:
    made = Room(disk or Disk(), size)
    made.in_vain = lambda: why
    return made


async def waits(made: Room, bytes_: int, ino: int = 0) -> bool:
    """Whether somebody who wants to write *bytes_* has to wait."""
    with trio.move_on_after(0.001):
        await made.wait(bytes_, ino)
        return False
    return True


# ---- who waits -----------------------------------------------------------------------------------


@pytest.mark.mockclock
async def test_who_finds_it_full_goes_on_when_something_has_left() -> None:
    made = a_room()
    made.account.set(16, 0, 10 * MIB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.wait, 2 * MIB)
        await trio.testing.wait_all_tasks_blocked()
        assert made.describe()["waiting_writers"] == 1
        made.account.set(16, 0, 9 * MIB)
        await trio.testing.wait_all_tasks_blocked()
        assert made.describe()["waiting_writers"] == 1
        made.account.gone(16, 0, handed_over=True)
    assert made.describe()["waiting_writers"] == 0


@pytest.mark.mockclock
async def test_as_long_as_the_lake_takes_something_nobody_is_refused() -> None:
    made = a_room()
    made.account.set(16, 0, 10 * MIB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.wait, MIB)
        for _ in range(4):
            with made.sending(1):
                await trio.sleep(STALLED_S - 1)
        made.account.gone(16, 0, handed_over=True)


@pytest.mark.mockclock
async def test_a_lake_that_takes_nothing_is_not_waited_for_for_hours() -> None:
    made = a_room()
    made.account.set(16, 0, 10 * MIB)
    begun_s = trio.current_time()
    with pytest.raises(StagingFull, match="nothing has gone into the lake for 60 s"):
        await made.wait(MIB)
    waited_s = trio.current_time() - begun_s
    assert STALLED_S <= waited_s < STALLED_S + 2
    # The next one is told at once,
    with pytest.raises(StagingFull):
        await made.wait(MIB)
    assert trio.current_time() - begun_s == waited_s
    # until it takes something again.
    made.went_on()
    assert await waits(made, MIB)


@pytest.mark.mockclock
async def test_a_silence_of_which_nobody_waited_does_not_count() -> None:
    made = a_room()
    made.account.set(16, 0, MIB)
    made.went_on()
    await trio.sleep(10 * STALLED_S)
    made.account.set(16, 0, 10 * MIB)
    assert await waits(made, MIB)


@pytest.mark.mockclock
async def test_who_cannot_be_helped_by_waiting_is_told_soon() -> None:
    made = a_room(why="all of it is open")
    made.account.set(16, 0, 10 * MIB)
    begun_s = trio.current_time()
    with pytest.raises(StagingFull, match=r"10\.0 MiB of 10\.0 MiB used; all of it is open"):
        await made.wait(MIB)
    assert IN_VAIN_S <= trio.current_time() - begun_s < IN_VAIN_S + 2
    assert made.describe()["refused_writes"] == 1
    # The next one is told at once,
    begun_s = trio.current_time()
    with pytest.raises(StagingFull):
        await made.wait(MIB)
    assert trio.current_time() == begun_s
    # and somebody who wants nothing changes nothing about that,
    await made.wait(0)
    with pytest.raises(StagingFull):
        await made.wait(MIB)
    assert trio.current_time() == begun_s
    # until something was closed.
    made.in_vain = lambda: ""
    made.look_again()
    assert await waits(made, MIB)


@pytest.mark.mockclock
async def test_what_is_in_use_for_a_moment_is_no_reason_to_refuse_anybody() -> None:
    disk = Disk(0)
    made = a_room(None, disk, why="all of it is open")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.wait, MIB)
        await trio.sleep(IN_VAIN_S - 1)
        disk.free_bytes = MIB


@pytest.mark.mockclock
async def test_a_moment_in_vain_does_not_count_another_time() -> None:
    made = a_room(why="all of it is open")
    made.account.set(16, 0, 10 * MIB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.wait, MIB)
        await trio.sleep(1)
        made.account.set(16, 0, 9 * MIB)
    await trio.sleep(3600)
    made.account.set(16, 0, 10 * MIB)
    begun_s = trio.current_time()
    with pytest.raises(StagingFull):
        await made.wait(MIB)
    assert trio.current_time() - begun_s >= IN_VAIN_S


@pytest.mark.mockclock
async def test_a_refusal_does_not_count_when_all_of_it_has_gone_since() -> None:
    made = a_room(why="all of it is open")
    made.account.set(16, 0, 10 * MIB)
    with pytest.raises(StagingFull):
        await made.wait(MIB)
    made.account.gone(16, 0, handed_over=True)
    await trio.sleep(3600)
    made.account.set(17, 0, 10 * MIB)
    assert await waits(made, MIB)


@pytest.mark.mockclock
async def test_small_writers_who_are_let_through_do_not_keep_a_large_one_waiting() -> None:
    """What is deleted, and written anew, is no progress."""
    made = a_room()
    made.account.set(16, 0, 9 * MIB)
    begun_s = trio.current_time()

    async def small() -> None:
        while True:
            await made.wait(MIB // 2, 17)
            made.account.set(17, 0, MIB // 2)
            await trio.sleep(1)
            made.account.gone(17, 0, handed_over=False)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(small)
        with trio.move_on_after(3 * STALLED_S), pytest.raises(StagingFull):
            await made.wait(2 * MIB)
        nursery.cancel_scope.cancel()
    assert STALLED_S <= trio.current_time() - begun_s < STALLED_S + 3


@pytest.mark.mockclock
async def test_what_has_not_to_be_copied_any_more_is_not_waited_for() -> None:
    made, copied = a_room(), 8 * MIB
    made.account.set(16, 0, 8 * MIB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(made.wait, MIB, 16, copied=lambda: copied))
        await trio.sleep(10)
        assert made.describe()["waiting_writers"] == 1
        copied = 0
    assert made.describe()["refused_writes"] == 0


@pytest.mark.mockclock
async def test_to_open_a_file_is_never_refused() -> None:
    made = a_room(why="all of it is open")
    made.account.set(16, 0, 10 * MIB)
    await made.hold_up()


@pytest.mark.mockclock
async def test_a_file_that_is_larger_than_the_budget_has_what_the_disk_has() -> None:
    disk = Disk(20 * MIB)
    made = a_room(disk=disk, why="all of it is open")
    made.account.set(16, 0, 10 * MIB)
    assert not await waits(made, MIB, 16)
    with pytest.raises(StagingFull):
        await made.wait(MIB, 17)
    made.account.set(16, 0, 20 * MIB)
    with pytest.raises(StagingFull):
        await made.wait(MIB, 16)


@pytest.mark.mockclock
async def test_writers_are_slowed_down_before_they_wait() -> None:
    made = a_room(100 * MIB)
    for _ in range(20):
        with made.sending(16 * MIB):
            await trio.sleep(0.5)
    made.account.set(16, 0, 59 * MIB)
    begun_s = trio.current_time()
    await made.wait(MIB)
    assert trio.current_time() == begun_s
    took: list[float] = []
    for used in (61, 70, 80, 90, 99):
        made.account.set(16, 0, used * MIB)
        made.went_on()
        begun_s = trio.current_time()
        await made.wait(MIB)
        took.append(trio.current_time() - begun_s)
    assert 0 < took[0] < took[1] < took[2] < took[3] <= took[4]
    assert took[2] == pytest.approx(1 / 32, rel=0.1)
    # Who is slowed down goes on as soon as there is room.
    async with trio.open_nursery() as nursery:
        begun_s = trio.current_time()
        nursery.start_soon(made.wait, MIB)
        await trio.testing.wait_all_tasks_blocked()
        made.account.set(16, 0, 0)
    assert trio.current_time() == begun_s
    # Where nothing moves there is nothing to keep pace with.
    made.account.set(16, 0, 99 * MIB)
    await trio.sleep(STALLED_S + 1)
    begun_s = trio.current_time()
    await made.wait(MIB)
    assert trio.current_time() == begun_s


@pytest.mark.mockclock
async def test_each_turn_for_the_worse_is_said_once_and_the_end_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = a_room()
    made.on_its_way = lambda: "/w"
    with caplog.at_level(logging.INFO, "tierfs"):
        made.account.set(16, 0, 10 * MIB)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(made.wait, MIB)
            await trio.sleep(5)
            made.account.set(16, 0, 5 * MIB)
        made.account.set(17, 0, MIB)
        made.account.gone(17, 0, handed_over=False)
    first, last = [record.getMessage() for record in caplog.records]
    assert "writers wait for uploads to make room: 10.0 MiB of 10.0 MiB used" in first
    assert "on its way: /w" in first
    assert "there is room again for what is written" in last


async def test_the_account_goes_up_and_down_and_leaves_nothing() -> None:
    disk = Disk(100)
    account = a_room(disk=disk).account
    assert account.set(16, 0, 10) == 10
    assert account.set(16, 0, 15) == 5
    account.moved(16, 7)
    account.set(16, 0, 20)
    assert (account.used_bytes, account.of(16), disk.free_bytes) == (35, 20, 65)
    account.gone(16, 7, handed_over=False)
    assert (account.used_bytes, disk.free_bytes) == (20, 80)
    # The cache has it now: the disk has no more of it.
    account.gone(16, 0, handed_over=True)
    account.gone(16, 0, handed_over=True)
    assert (account.used_bytes, disk.free_bytes) == (0, 80)
