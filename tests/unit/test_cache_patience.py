"""Waiting for the page cache: who is woken when, and when waiting is given up."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.caching import noise
from tierfs.cache import patience as patience_module
from tierfs.cache.patience import REST, TICKS, VAIN, Patience, TimerFd
from tierfs.cache.store import PATIENT_BYTES, Store


class Bell:
    """A timer that rings when the test says so."""

    def __init__(self) -> None:
        self.armed = False
        self.closed = False
        self._rung = trio.Event()

    def arm(self) -> None:
        self.armed = True

    async def ring(self) -> None:
        await self._rung.wait()
        self._rung = trio.Event()

    def close(self) -> None:
        self.closed = True

    async def strike(self) -> None:
        """One tick, and everything that follows from it."""
        assert self.armed
        self.armed = False
        self._rung.set()
        await trio.testing.wait_all_tasks_blocked()


class Attempts:
    """An attempt that succeeds the *needed*-th time."""

    def __init__(self, needed: int) -> None:
        self.needed = needed
        self.made = 0
        self.outcome: bool | None = None

    def __call__(self) -> bool:
        self.made += 1
        return self.made >= self.needed

    async def wait(self, patience: Patience) -> None:
        self.outcome = await patience.until(self)


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Patience, Bell, trio.Nursery]]:
    bell = Bell()
    patience = Patience(lambda: bell)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(patience.run)
        await trio.testing.wait_all_tasks_blocked()
        yield patience, bell, nursery
        nursery.cancel_scope.cancel()
    assert bell.closed


async def wait_for(patience: Patience, nursery: trio.Nursery, *all_: Attempts) -> None:
    for attempts in all_:
        nursery.start_soon(attempts.wait, patience)
    await trio.testing.wait_all_tasks_blocked()


async def test_everyone_is_tried_at_each_tick_until_it_comes() -> None:
    async with running() as (patience, bell, nursery):
        early, late = Attempts(1), Attempts(3)
        await wait_for(patience, nursery, early, late)
        assert (early.made, late.made) == (0, 0)
        await bell.strike()
        assert (early.outcome, late.outcome) == (True, None)
        await bell.strike()
        await bell.strike()
        assert late.outcome is True
        assert early.made == 1
        # The timer runs only while somebody waits.
        assert not bell.armed


async def test_what_does_not_come_is_given_up_after_so_many_ticks() -> None:
    async with running() as (patience, bell, nursery):
        never = Attempts(TICKS + 1)
        await wait_for(patience, nursery, never)
        for _ in range(TICKS):
            assert never.outcome is None
            await bell.strike()
        assert never.outcome is False
        assert never.made == TICKS


async def test_what_an_attempt_raises_is_its_own_readers() -> None:
    async with running() as (patience, bell, nursery):
        other = Attempts(1)
        caught: list[OSError] = []

        def fail() -> bool:
            raise OSError(errno.EIO, "bad disk")

        async def wait() -> None:
            with pytest.raises(OSError, match="bad disk") as info:
                await patience.until(fail)
            caught.append(info.value)

        nursery.start_soon(wait)
        await wait_for(patience, nursery, other)
        await bell.strike()
        assert caught
        assert other.outcome is True


async def test_a_cancelled_wait_is_tried_no_more() -> None:
    async with running() as (patience, bell, nursery):
        gone, here = Attempts(2), Attempts(2)
        with trio.CancelScope() as scope:
            nursery.start_soon(here.wait, patience)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await gone.wait(patience)
        await bell.strike()
        await bell.strike()
        assert (gone.made, here.outcome) == (0, True)


async def test_vain_waits_in_a_row_end_waiting_for_a_while() -> None:
    async with running() as (patience, bell, nursery):
        for _ in range(VAIN):
            never = Attempts(TICKS + 1)
            await wait_for(patience, nursery, never)
            for _ in range(TICKS):
                await bell.strike()
            assert never.outcome is False
        for _ in range(REST):
            assert not await patience.until(lambda: True)
        again = Attempts(1)
        await wait_for(patience, nursery, again)
        await bell.strike()
        assert again.outcome is True


async def test_one_that_comes_makes_earlier_vain_waits_forgotten() -> None:
    async with running() as (patience, bell, nursery):
        for needed in [TICKS + 1] * (VAIN - 1) + [1] + [TICKS + 1] * (VAIN - 1) + [1]:
            attempts = Attempts(needed)
            await wait_for(patience, nursery, attempts)
            while attempts.outcome is None:
                await bell.strike()
        assert attempts.outcome is True


async def test_nobody_waits_before_or_after_it_runs() -> None:
    patience = Patience(Bell)
    assert not await patience.until(lambda: True)
    waiting = Attempts(1)
    async with trio.open_nursery() as outer, trio.open_nursery() as inner:
        inner.start_soon(patience.run)
        await trio.testing.wait_all_tasks_blocked()
        await wait_for(patience, outer, waiting)
        inner.cancel_scope.cancel()
    assert waiting.outcome is False
    assert not await patience.until(lambda: True)


async def test_without_a_timer_nobody_waits() -> None:
    def refuse() -> TimerFd:
        raise OSError(errno.ENOSYS, "none")

    patience = Patience(refuse)
    await patience.run()
    assert not await patience.until(lambda: True)


async def test_the_kernels_timer_rings_once_for_each_arming() -> None:
    timer = TimerFd(1e-6)
    for _ in range(2):
        timer.arm()
        with trio.fail_after(5):
            await timer.ring()
        with pytest.raises(BlockingIOError):
            os.read(timer._fd, 8)
    timer.close()


@pytest.fixture
def page_cache(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int | OSError]], None]:
    """Makes the next reads without waiting give so many bytes, or fail; then all there is."""

    def script(steps: list[int | OSError]) -> None:
        preadv = os.preadv

        def scripted(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
            if not steps:
                return preadv(fd, buffers, offset)
            step = steps.pop(0)
            if isinstance(step, OSError):
                raise step
            return preadv(fd, [buffers[0][:step]], offset)

        monkeypatch.setattr(os, "preadv", scripted)

    return script


@asynccontextmanager
async def stored(
    tmp_path: Path, data: bytes, bell: Bell
) -> AsyncIterator[tuple[Store, int, trio.Nursery]]:
    store = Store(tmp_path)
    store._in_memory = False
    store.patience = Patience(lambda: bell)
    fd, _ = await store.create(16, [(0, 0, data)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.patience.run)
        await trio.testing.wait_all_tasks_blocked()
        yield store, fd, nursery
        nursery.cancel_scope.cancel()
    os.close(fd)
    store.close()


async def test_a_read_takes_what_comes_piece_by_piece_and_survives_its_descriptor(
    tmp_path: Path, page_cache: Callable[[list[int | OSError]], None]
) -> None:
    data, bell = noise(110_000), Bell()
    got: list[bytes] = []
    async with stored(tmp_path, data, bell) as (store, fd, nursery):
        page_cache([BlockingIOError(errno.EAGAIN, ""), 4096, BlockingIOError(errno.EAGAIN, "")])
        mine = os.dup(fd)

        async def read() -> None:
            got.append(bytes(await store.read(mine, 0, len(data))))

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        os.close(mine)
        for _ in range(3):
            assert not got
            await bell.strike()
        assert got == [data]


async def test_a_read_that_waited_in_vain_goes_to_a_thread(
    tmp_path: Path, page_cache: Callable[[list[int | OSError]], None]
) -> None:
    data, bell = noise(110_000), Bell()
    async with stored(tmp_path, data, bell) as (store, fd, nursery):
        page_cache([BlockingIOError(errno.EAGAIN, "")] * (TICKS + 1))
        got: list[bytes] = []

        async def read() -> None:
            got.append(bytes(await store.read(fd, 0, len(data))))

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(TICKS):
            await bell.strike()
        with trio.fail_after(5):
            await store._workers.run(lambda: None)
            await trio.testing.wait_all_tasks_blocked()
            while not got:
                await trio.lowlevel.checkpoint()
        assert got == [data]


async def test_a_long_read_takes_a_thread_at_once(
    tmp_path: Path, page_cache: Callable[[list[int | OSError]], None]
) -> None:
    data, bell = noise(PATIENT_BYTES + 1), Bell()
    async with stored(tmp_path, data, bell) as (store, fd, _):
        page_cache([AssertionError("tried")])  # type: ignore[list-item]
        assert bytes(await store.read(fd, 0, len(data))) == data
    assert patience_module.TICK_S * TICKS < 0.01
