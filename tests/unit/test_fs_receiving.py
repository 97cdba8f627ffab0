"""How pyfuse3 is made to wait: requests that are taken back, workers that go on, connections that
end."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

import pytest
import trio
import trio.testing

pytest.importorskip("pyfuse3")

from tierfs.fs import receiving


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(fd)


def never() -> None:
    raise AssertionError("the connection has not ended")


@pytest.mark.parametrize("asleep", [False, True])
async def test_a_request_wakes_a_worker(pipe: tuple[int, int], asleep: bool) -> None:
    reading, writing = pipe
    waiter = receiving._Waiter(never)
    if not asleep:
        os.write(writing, b"x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter.wait_readable, reading)
        await trio.testing.wait_all_tasks_blocked()
        os.write(writing, b"x")


async def test_a_request_that_is_taken_back_leaves_the_worker_asleep(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = pipe
    wait_readable = trio.lowlevel.wait_readable
    wakes = 0

    async def wait_and_lose(fd: int) -> None:
        nonlocal wakes
        await wait_readable(fd)
        wakes += 1
        if wakes == 1:
            os.read(fd, 1)  # The kernel takes it back: whoever waited for it was killed.

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_and_lose)
    waiter = receiving._Waiter(never)
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiter.wait_readable, reading)
            await trio.testing.wait_all_tasks_blocked()
            os.write(writing, b"x")
            while wakes == 0:
                await trio.sleep(0.001)
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks, "it went to read what is not there, and would block"
            os.write(writing, b"y")
        assert os.read(reading, 10) == b"y"
        return
    raise AssertionError("the worker did not wake for the next request")


async def test_a_worker_that_finds_nothing_to_read_goes_on() -> None:
    turns: list[int] = []

    async def worker(start: int) -> None:
        turns.append(start)
        await trio.lowlevel.checkpoint()
        if len(turns) < 3:
            raise OSError(errno.EAGAIN, "fuse_session_receive_buf failed")

    async with receiving._open_nursery() as nursery:
        nursery.start_soon(worker, 7, name="pyfuse-01")
    assert turns == [7, 7, 7]


async def test_other_errors_of_a_worker_end_the_loop() -> None:
    async def worker() -> None:
        raise OSError(errno.EIO, "fuse_session_receive_buf failed")

    with pytest.raises(ExceptionGroup) as caught:
        async with receiving._open_nursery() as nursery:
            nursery.start_soon(worker)
    assert caught.group_contains(OSError)


async def test_the_end_of_the_connection_is_told(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    told: list[bool] = []
    waiter = receiving._Waiter(lambda: told.append(True))
    os.close(writing)
    await waiter.wait_readable(reading)
    assert told == [True]


async def test_a_burst_lets_others_run_and_cancellation_in(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.write(writing, b"x")
    waiter = receiving._Waiter(never)
    others = 0

    async def another() -> None:
        nonlocal others
        while True:
            await trio.lowlevel.checkpoint()
            others += 1

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(another)
            await trio.lowlevel.checkpoint()
            before = others
            for _ in range(4 * receiving.BURST):
                await waiter.wait_readable(reading)
            assert others > before
            nursery.cancel_scope.cancel()
            with pytest.raises(trio.Cancelled):
                await waiter.wait_readable(reading)
