"""The threads that wait for the cache disk, and a disk that never answers."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.caching import MIB, noise
from tierfs.cache import store as store_module
from tierfs.cache.store import Store
from tierfs.cache.workers import Workers


def open_descriptors() -> int:
    """How many this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_results_and_errors_come_back() -> None:
    workers = Workers(2)
    assert await workers.run(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 // 0)
    workers.close()


async def test_more_jobs_than_threads_are_all_done() -> None:
    workers = Workers(3)
    done: list[int] = []

    async def one(n: int) -> None:
        done.append(await workers.run(lambda: n))

    async with trio.open_nursery() as nursery:
        for n in range(50):
            nursery.start_soon(one, n)
    assert sorted(done) == list(range(50))
    assert workers._threads <= 3
    workers.close()


async def test_a_job_given_up_before_it_began_never_runs() -> None:
    workers = Workers(1)
    gate = threading.Event()
    ran: list[str] = []

    async def first() -> None:
        await workers.run(gate.wait)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.001):
            await workers.run(lambda: ran.append("given up"))
        gate.set()
    await workers.run(lambda: ran.append("after"))
    assert ran == ["after"]
    workers.close()


async def test_what_is_run_together_shares_a_thread_and_each_has_its_own_result() -> None:
    workers = Workers(4)
    threads: list[int] = []
    results: dict[int, object] = {}

    def job(n: int) -> int:
        threads.append(threading.get_ident())
        return 6 // n

    async def one(n: int) -> None:
        try:
            results[n] = await workers.run_together(lambda: job(n))
        except ZeroDivisionError as error:
            results[n] = type(error)

    for _ in range(3):
        async with trio.open_nursery() as nursery:
            for n in range(4):
                nursery.start_soon(one, n)
        assert results == {0: ZeroDivisionError, 1: 6, 2: 3, 3: 2}
        assert len(threads) == 4
        assert len(set(threads)) == 1
        threads.clear()
    workers.close()


async def test_who_gives_up_takes_nothing_from_those_it_was_run_together_with() -> None:
    workers = Workers(1)
    gate = threading.Event()
    ran: list[int] = []
    first, second = trio.CancelScope(), trio.CancelScope()

    async def hold() -> None:
        await workers.run(gate.wait)

    async def one(n: int, scope: trio.CancelScope) -> None:
        with scope:
            await workers.run_together(lambda: ran.append(n))
            ran.append(-n)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await trio.testing.wait_all_tasks_blocked()
        for n, scope in enumerate((first, second, trio.CancelScope(), trio.CancelScope()), 1):
            nursery.start_soon(one, n, scope)
        # One before its turn has come, and one when they were sent.
        first.cancel()
        await trio.testing.wait_all_tasks_blocked()
        second.cancel()
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert sorted(ran[:2]) == [3, 4]
    assert sorted(ran[2:]) == [-4, -3]
    workers.close()


async def test_a_disk_that_never_answers_is_given_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    pread = os.pread

    def hang(fd: int, length: int, offset: int) -> bytes:
        gate.wait()
        return pread(fd, length, offset)

    def not_here(*_: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "not in the page cache")

    store = Store(tmp_path)
    data = noise(MIB)
    fd, _ = await store.create(16, [(0, 0, data)])
    monkeypatch.setattr(store_module, "PATIENCE_S", 2.0)  # For the thread to have begun.
    monkeypatch.setattr(os, "pread", hang)
    monkeypatch.setattr(os, "preadv", not_here)
    monkeypatch.setattr(store, "_in_memory", False)
    open_before = open_descriptors()
    with pytest.raises(OSError, match="does not answer") as caught:
        await store.read(fd, 0, MIB)
    assert caught.value.errno == errno.ETIMEDOUT
    # The thread that hangs keeps a descriptor of its own, so closing ours harms nobody.
    assert open_descriptors() == open_before + 1
    os.close(fd)
    gate.set()
    monkeypatch.undo()
    await store._workers.run(lambda: None)
    store.close()


async def test_a_file_whose_maker_has_left_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    pwrite = os.pwrite

    def hang(fd: int, data: bytes, offset: int) -> int:
        gate.wait()
        return pwrite(fd, data, offset)

    store = Store(tmp_path)
    fd, records = await store.create(15, [(0, 0, b"x")])
    assert list(records) == [0]
    os.close(fd)
    monkeypatch.setattr(store_module, "PATIENCE_S", 0.01)
    monkeypatch.setattr(os, "pwrite", hang)
    open_before = open_descriptors()
    with pytest.raises(OSError, match="does not answer"):
        await store.create(16, [(0, 0, b"x")])
    with trio.move_on_after(0.001):
        await store.create(17, [(0, 0, b"x")])
    gate.set()
    with trio.fail_after(5):
        while open_descriptors() != open_before:
            await trio.sleep(0.01)
    store.close()
