"""How pyfuse3 waits for its next request: without a trip through the scheduler when one is there.

pyfuse3 takes its event loop from the module attribute ``pyfuse3.trio`` (that is how
`pyfuse3.asyncio` puts asyncio there). `install` puts its own there: trio's functions, but for
three.

* Before a task sleeps on ``/dev/fuse`` it asks poll(2) whether a request waits already. With
  several readers one usually does, and poll costs 1 us where arming epoll, sleeping and being woken
  costs 30.
* The lock that keeps two tasks from waiting at once is not handed to the next task in the queue,
  which would make every request change tasks; whoever comes first takes it, and that is the task
  that has just answered.
* A task that finds no request where one was announced goes on instead of ending the loop (R2).

Measured with four readers of small warm files: 272 us of CPU a file with trio's own, see
``python -m bench run warm-small`` for this one.

What keeps it right:

R1. Between a positive poll and pyfuse3's read of the request there is no checkpoint, so no other
    task of ours can take the request.
R2. The kernel can: it takes back a request that nobody has read yet when the process that waits for
    it is killed. So the descriptor does not block, lest one ``kill -9`` of a reader stop the loop
    in read(2) until somebody else asks for something; and a worker that finds nothing to read,
    which is an error to pyfuse3, goes on.
R3. After `BURST` requests in a row a task lets the others run.
R4. When the kernel has ended the connection nobody waits for an answer any more: *on_end* is
    called, so that requests in flight need not be waited for.
"""

from __future__ import annotations

import contextlib
import os
import select
import types
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

import pyfuse3
import trio

#: Requests that one task may answer in a row before every other task has had its turn.
BURST = 32

_ENDED = select.POLLERR | select.POLLHUP | select.POLLNVAL


class _Turn:
    """A lock without hand-over, with as much of trio.Lock's surface as pyfuse3 uses."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[trio.lowlevel.Task] = deque()

    async def __aenter__(self) -> None:
        while self._taken:
            task = trio.lowlevel.current_task()
            self._waiting.append(task)

            def abort(_: object, task: trio.lowlevel.Task = task) -> trio.lowlevel.Abort:
                self._waiting.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        self._taken = True

    async def __aexit__(self, *_: object) -> None:
        self._taken = False
        if self._waiting:
            # It runs when this task next waits for something, and takes its turn if nobody has it
            # then.
            trio.lowlevel.reschedule(self._waiting.popleft())


class _Waiter:
    """``wait_readable`` for the one descriptor that pyfuse3 waits on."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._poll = select.poll()
        self._fd = -1
        self._in_a_row = 0

    async def wait_readable(self, fd: int) -> None:
        """Return when *fd* can be read; raises trio.ClosedResourceError."""
        if fd != self._fd:
            self._fd = fd
            self._poll.register(fd, select.POLLIN)
        # Cancellation must reach a task that never sleeps.
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            # Asked again after a sleep: what woke us may have been taken back meanwhile (R2).
            if self._in_a_row < BURST and (events := self._poll.poll(0)):
                self._in_a_row += 1
                if events[0][1] & _ENDED:
                    self._on_end()
                return
            self._in_a_row = 0
            await trio.lowlevel.wait_readable(fd)


class _Nursery:
    """As much of a nursery as pyfuse3 uses: it starts workers that go on when there was nothing to
    read (R2)."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start_soon(
        self, worker: Callable[..., Awaitable[None]], *args: object, name: str | None = None
    ) -> None:
        self._nursery.start_soon(_persist, worker, args, name=name)


async def _persist(worker: Callable[..., Awaitable[None]], args: tuple[object, ...]) -> None:
    while True:
        try:
            await worker(*args)
        except BlockingIOError:
            continue
        return


@contextlib.asynccontextmanager
async def _open_nursery() -> AsyncIterator[_Nursery]:
    async with trio.open_nursery() as nursery:
        yield _Nursery(nursery)


def install(fd: int, on_end: Callable[[], None]) -> None:
    """Make pyfuse3 wait this way for requests on *fd* from its next ``main()`` on.

    *on_end* is called, perhaps more than once, when the kernel has ended the connection.
    """
    os.set_blocking(fd, False)
    lowlevel = types.SimpleNamespace(
        wait_readable=_Waiter(on_end).wait_readable,
        current_task=trio.lowlevel.current_task,
        current_trio_token=trio.lowlevel.current_trio_token,
        notify_closing=trio.lowlevel.notify_closing,
    )
    pyfuse3.trio = types.SimpleNamespace(  # type: ignore[attr-defined]
        Lock=_Turn,
        lowlevel=lowlevel,
        open_nursery=_open_nursery,
        ClosedResourceError=trio.ClosedResourceError,
        from_thread=trio.from_thread,
    )
