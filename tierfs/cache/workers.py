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
        #: Each list is one thread's.
        self._jobs: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        #: What is about to be one of these lists.
        self._together: list[_Job] = []
        self._threads = 0
        #: Lists submitted and not reported back; one that hangs counts for ever, with its thread.
        self._unfinished = 0

    async def run(self, fn: Callable[[], T]) -> T:
        """The result of ``fn()`` in a thread. Cancelling leaves a job behind that has begun; one
        that has not begun is never run."""
        job = _Job(fn, trio.lowlevel.current_task())
        self._send([job])
        return cast(T, await self._result(job))

    async def run_together(self, fn: Callable[[], T]) -> T:
        """As `run`, with whatever is run together in the same turn of the loop: one after the other
        in one thread, and all are told at the end of the last. For what takes less time than the
        way to a thread and back, 500 us of CPU where the loop is busy."""
        job = _Job(fn, trio.lowlevel.current_task())
        self._together.append(job)
        if len(self._together) == 1:
            # Whoever was woken with this task comes first.
            await trio.lowlevel.cancel_shielded_checkpoint()
            jobs, self._together = self._together, []
            self._send(jobs)
        return cast(T, await self._result(job))

    def _send(self, jobs: list[_Job]) -> None:
        token = trio.lowlevel.current_trio_token()
        self._unfinished += 1
        if self._unfinished > self._threads and self._threads < self._most:
            self._threads += 1
            threading.Thread(
                target=self._work, args=(token,), name="tierfs-cache-disk", daemon=True
            ).start()
        self._jobs.put(jobs)

    async def _result(self, job: _Job) -> Any:
        def give_up(_: object) -> trio.lowlevel.Abort:
            job.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(give_up)

    def close(self) -> None:
        """Let the threads end when they have nothing to do."""
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = 0

    def _work(self, token: trio.lowlevel.TrioToken) -> None:
        while (jobs := self._jobs.get()) is not None:
            for job in jobs:
                if job.task is not None:
                    job.result = outcome.capture(job.fn)
            try:
                token.run_sync_soon(self._deliver, jobs)
            except trio.RunFinishedError:
                return

    def _deliver(self, jobs: list[_Job]) -> None:
        self._unfinished -= 1
        for job in jobs:
            if job.task is not None and job.result is not None:
                task, job.task = job.task, None
                trio.lowlevel.reschedule(task, job.result)
