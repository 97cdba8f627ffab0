"""How pyfuse3 waits for its next request: without a trip through the scheduler when one is there.

pyfuse3 takes its event loop from the module attribute ``pyfuse3.trio`` (that is how
`pyfuse3.asyncio` puts asyncio there). `install` puts `Loop` there: trio's own functions, but for
two.

* Before a task sleeps on ``/dev/fuse`` it asks poll(2) whether a request waits already. With
  several
  readers one usually does, and poll costs 1 us where arming epoll, sleeping and being woken costs
  30.
* The lock that keeps two tasks from waiting at once is not handed to the next task in the queue,
  which
  would make every request change tasks; whoever comes first takes it, and that is the task that has
  just answered.

Measured with four readers of small warm files: 272 us of CPU a file with trio's own, see
``python -m bench warm_small`` for this one.

What keeps it right: between a positive poll and pyfuse3's read of the request there is no
checkpoint, so no other task can take the request and leave this one blocked in read(2). After
`BURST` requests in a row the task lets the others run.
"""

from __future__ import annotations

import select
import types
from collections import deque

import pyfuse3
import trio

#: Requests that one task may answer in a row before every other task has had its turn.
BURST = 32


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

    def __init__(self) -> None:
        self._poll = select.poll()
        self._fd = -1
        self._in_a_row = 0

    async def wait_readable(self, fd: int) -> None:
        """Return when *fd* can be read without blocking; raises trio.ClosedResourceError."""
        if fd != self._fd:
            self._fd = fd
            self._poll.register(fd, select.POLLIN)
        if self._in_a_row < BURST and self._poll.poll(0):
            self._in_a_row += 1
            # Cancellation must reach a task that never sleeps.
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        self._in_a_row = 0
        await trio.lowlevel.wait_readable(fd)


def install() -> None:
    """Make pyfuse3 wait this way from its next ``main()`` on."""
    lowlevel = types.SimpleNamespace(
        wait_readable=_Waiter().wait_readable,
        current_task=trio.lowlevel.current_task,
        current_trio_token=trio.lowlevel.current_trio_token,
        notify_closing=trio.lowlevel.notify_closing,
    )
    pyfuse3.trio = types.SimpleNamespace(  # type: ignore[attr-defined]
        Lock=_Turn,
        lowlevel=lowlevel,
        open_nursery=trio.open_nursery,
        ClosedResourceError=trio.ClosedResourceError,
        from_thread=trio.from_thread,
    )
