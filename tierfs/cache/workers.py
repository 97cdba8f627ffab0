"""Threads that wait for the cache disk, so that the trio thread need not.

Like ``trio.to_thread.run_sync`` with ``abandon_on_cancel``, at a third of its cost: a read that
misses the page cache took 220 us of CPU with it and takes 140 us so, because there are no context
variables, no limiter task and no thread cache between the two sides. What is given up on stays with
its thread, and nothing that it may still do concerns anyone: a job brings its own descriptor.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import outcome
import trio

T = TypeVar("T")


async def with_own(
    fd: int, fn: Callable[[int], T], run: Callable[[Callable[[], T]], Awaitable[T]]
) -> T:
    """*run* ``fn`` in a worker on a duplicate of *fd*, which whoever pops it from *own* closes: the
    worker, or this task if the worker never came to run."""
    own = [os.dup(fd)]

    def work() -> T:
        mine = own.pop()
        try:
            return fn(mine)
        finally:
            os.close(mine)

    try:
        return await run(work)
    finally:
        with contextlib.suppress(IndexError):
            os.close(own.pop())


class _Job:
    __slots__ = ("fn", "result", "task")

    def __init__(self, fn: Callable[[], object], task: trio.lowlevel.Task) -> None:
        self.fn = fn
        #: Who waits; None once it was rescheduled, or gave up.
        self.task: trio.lowlevel.Task | None = task
        self.result: outcome.Maybe[Any] | None = None


class Workers:
    """At most *most* threads, started as they are needed. All calls on one trio thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = 0
        #: Submitted and not reported back; a job that hangs counts for ever, as does its thread.
        self._unfinished = 0

    async def run(self, fn: Callable[[], T]) -> T:
        """The result of ``fn()`` in a thread. Cancelling leaves a job behind that has begun; one
        that has not begun is never run."""
        job = _Job(fn, trio.lowlevel.current_task())
        token = trio.lowlevel.current_trio_token()
        self._unfinished += 1
        if self._unfinished > self._threads and self._threads < self._most:
            self._threads += 1
            threading.Thread(
                target=self._work, args=(token,), name="tierfs-cache-disk", daemon=True
            ).start()
        self._jobs.put(job)

        def give_up(_: object) -> trio.lowlevel.Abort:
            job.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        return cast(T, await trio.lowlevel.wait_task_rescheduled(give_up))

    def close(self) -> None:
        """Let the threads end when they have nothing to do."""
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = 0

    def _work(self, token: trio.lowlevel.TrioToken) -> None:
        while (job := self._jobs.get()) is not None:
            if job.task is not None:
                job.result = outcome.capture(job.fn)
            try:
                token.run_sync_soon(self._deliver, job)
            except trio.RunFinishedError:
                return

    def _deliver(self, job: _Job) -> None:
        self._unfinished -= 1
        if job.task is not None and job.result is not None:
            task, job.task = job.task, None
            trio.lowlevel.reschedule(task, job.result)
