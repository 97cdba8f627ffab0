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
