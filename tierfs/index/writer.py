r"""The one thread that writes an LMDB environment, and commits in groups.

A commit costs an fsync, whatever is in it; so everything that callers queued while the last commit
ran joins the next one. `Environment` owns one `Writer`; nothing else begins a write transaction.

::

    write()      any task \                                 one transaction, one fsync
                           > queue --> _run() takes a group --> _commit_group() --> _report()
    write_soon() anywhere /  bounded                                | a function raised    ^
                                                                    v                      |
                                                                _commit_each() ------------+
                                                                one transaction for each

Invariants:

I14. A function's effects are committed all or not at all, and exactly once; a caller that sees no
     error sees them committed (synced, where the environment syncs).
I15. A function that raises takes no other down: the group is given up and each function gets a
     transaction of its own. So a function may be *called* more than once, and must have no effect
     outside its transaction.
I16. Functions take effect in the order in which they were queued.
I17. The queue is bounded: `write` waits for room, `write_soon` refuses, says so in the log and is
     counted.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import lmdb
import trio

from tierfs.errors import CacheError, InvalidRequest

T = TypeVar("T")
Transaction: TypeAlias = "lmdb.Transaction[bytes]"

#: Rows that one transaction may touch. LMDB keeps the pages it changed in memory until the commit;
#: 20,000 rows of a listing are about 5 MB of them.
GROUP_ROWS = 20_000
#: Functions that may wait in the queue, for each way in.
QUEUE_LIMIT = 16_384

_log = logging.getLogger(__name__)


class _Job:
    """One queued function and what became of it. *done* is None for `write_soon`."""

    __slots__ = ("done", "error", "function", "rows", "value")

    def __init__(
        self, function: Callable[[Transaction], Any], rows: int, done: trio.Event | None
    ) -> None:
        self.function = function
        self.rows = rows
        self.done = done
        self.value: Any = None
        self.error: BaseException | None = None


class Writer:
    """The writing thread of *env*, which it does not close. *name* is for the log; *committed* is
    called in that thread when a group is done and whoever waited for it has been told."""

    def __init__(
        self,
        env: lmdb.Environment,
        name: str,
        *,
        translate: Callable[[lmdb.Error], BaseException],
        committed: Callable[[], None] | None = None,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self._env = env
        self._name = name
        self._translate = translate
        self._committed = committed
        self._queue: deque[_Job] = deque()
        self._soon_limit = queue_limit
        self._soon_queued = 0
        self._changed = threading.Condition()
        self._closing = False
        self._room = trio.Semaphore(queue_limit)
        self._token: trio.lowlevel.TrioToken | None = None
        self.commits = 0
        self.refused = 0
        self._thread = threading.Thread(target=self._run, name=f"tierfs-{name}", daemon=True)
        self._thread.start()

    async def write(self, function: Callable[[Transaction], T], *, rows: int = 1) -> T:
        """Call *function* with a transaction in the writing thread; wait for the commit; its
        result.

        *rows* is about how many rows it touches, for the size of the group. What it raises is
        raised here, with nothing committed. A cancelled wait leaves it open whether it will be
        committed.
        """
        done = trio.Event()
        job = _Job(function, rows, done)
        async with self._room:
            self._token = trio.lowlevel.current_trio_token()
            with self._changed:
                if self._closing:
                    raise InvalidRequest("write to an index", self._name, "it is closed")
                self._queue.append(job)
                self._changed.notify()
            await done.wait()
        if job.error is not None:
            raise job.error
        return cast("T", job.value)

    def write_soon(self, function: Callable[[Transaction], object], *, rows: int = 1) -> None:
        """Queue *function* and do not wait, from any thread. Its errors go to the log.

        When the queue is full (the disk has stalled) or closed, it is dropped with a warning and
        counted in *refused*: use it only for what can be lost.
        """
        with self._changed:
            if not self._closing and self._soon_queued < self._soon_limit:
                self._soon_queued += 1
                self._queue.append(_Job(function, rows, None))
                self._changed.notify()
                return
            self.refused += 1
            refused = self.refused
        # A stalled disk refuses thousands: powers of two keep the log readable.
        if refused & (refused - 1) == 0:
            _log.warning(
                "index %s: %d updates were dropped, its queue is full", self._name, refused
            )

    async def aclose(self) -> None:
        """Commit all that is queued, then end the thread. Nothing is accepted any more.
        Idempotent.
        """
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self.close)

    def close(self) -> None:
        """As `aclose`, blocking; for threads."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    # The writing thread from here on.

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return
                group = [self._queue.popleft()]
                rows = group[0].rows
                while self._queue and rows + self._queue[0].rows <= GROUP_ROWS:
                    rows += self._queue[0].rows
                    group.append(self._queue.popleft())
                self._soon_queued -= sum(job.done is None for job in group)
            if not self._commit_group(group):
                self._commit_each(group)
            self._report(group)
            if self._committed is not None:
                self._committed()

    def _commit_group(self, group: list[_Job]) -> bool:
        """All of *group* in one transaction; False if that failed and nothing was committed."""
        try:
            with self._env.begin(write=True) as txn:
                for job in group:
                    job.value = job.function(txn)
        except BaseException as error:
            if len(group) > 1:
                return False
            self._fail(group[0], error)
            return True
        self.commits += 1
        return True

    def _commit_each(self, group: list[_Job]) -> None:
        for job in group:
            self._commit_group([job])

    def _fail(self, job: _Job, error: BaseException) -> None:
        job.error = error
        if isinstance(error, lmdb.Error):
            # What goes wrong in here (a disk that is gone cannot even be asked how full it is) must
            # not end this thread: every later caller would wait for ever.
            try:
                job.error = self._translate(error)
            except Exception as another:
                job.error = CacheError("use an index", self._name, f"{error}; {another}")
        if job.error is not error:
            job.error.__cause__ = error

    def _report(self, group: list[_Job]) -> None:
        """Wake the callers of *group*, with one message to trio's thread for all of them."""
        waiting = [job.done for job in group if job.done is not None]
        for job in group:
            if job.done is None and job.error is not None:
                _log.error("index %s: an update failed", self._name, exc_info=job.error)
        if waiting and self._token is not None:
            try:
                self._token.run_sync_soon(_wake, waiting)
            except trio.RunFinishedError:
                _log.debug("index %s: the loop ended before its writes", self._name)


def _wake(waiting: list[trio.Event]) -> None:
    for done in waiting:
        done.set()
