"""Waiting a moment for pages that the disk is already bringing, without a thread.

A read that misses the page cache by a few hundred microseconds, because its read-ahead was asked
for when the file was opened, would pay more for the way to a worker thread and back (a futex, the
fight for the interpreter lock, trio's wake-up pipe) than the disk takes. So it is tried again at
each tick of a fine timer: one timer for all who wait, which runs only while somebody does.

Invariants:

P1. An attempt never blocks, and a read makes at most `TICKS` of them: a slow disk costs it two
    milliseconds, a hung one never stops the loop. What did not come goes to a worker thread.
P2. Where waiting does not pay (a slow disk, a file system that cannot read without waiting) it is
    given up for a while: after `VAIN` vain waits in a row the next `REST` reads do not wait.
P3. The timer is armed whenever somebody waits, so nobody is forgotten.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
from collections.abc import Callable
from typing import Protocol, cast

import outcome
import trio

#: Seconds between two attempts. trio's own clock wakes at whole milliseconds only.
TICK_S = 200e-6
#: Attempts before a read is left to a worker thread.
TICKS = 10
#: After so many vain waits in a row ...
VAIN = 8
#: ... so many reads do not wait.
REST = 256

_CLOCK_MONOTONIC = 1
_NS = 1_000_000_000

_log = logging.getLogger(__name__)


class Timer(Protocol):
    """Rings once, one tick after it was armed. `ring` waits for that; one task at a time."""

    def arm(self) -> None: ...
    async def ring(self) -> None: ...
    def close(self) -> None: ...


class _TimeSpec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("it_interval", _TimeSpec), ("it_value", _TimeSpec))


class TimerFd:
    """timerfd_create(2), which Python has from 3.13 on only. Raises OSError where there is none."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        # PyDLL keeps the interpreter lock: these calls take less time than giving it away would.
        libc = ctypes.PyDLL(None, use_errno=True)
        try:
            create, self._settime = libc.timerfd_create, libc.timerfd_settime
        except AttributeError:
            raise OSError(errno.ENOSYS, "no timerfd_create here") from None
        self._fd: int = create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        seconds, nanoseconds = divmod(round(tick_s * _NS), _NS)
        self._spec = _TimerSpec(_TimeSpec(0, 0), _TimeSpec(seconds, nanoseconds))

    def arm(self) -> None:
        """Ring one tick from now."""
        self._settime(self._fd, 0, ctypes.byref(self._spec), None)

    async def ring(self) -> None:
        """Wait until it rings."""
        await trio.lowlevel.wait_readable(self._fd)
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


class _Waiting:
    __slots__ = ("attempt", "left", "task")

    def __init__(self, attempt: Callable[[], bool], task: trio.lowlevel.Task) -> None:
        self.attempt = attempt
        self.left = TICKS
        self.task = task


class Patience:
    """Those who wait. *make_timer* is called when `run` starts; without `run` nobody waits."""

    def __init__(self, make_timer: Callable[[], Timer] = TimerFd) -> None:
        self._make_timer = make_timer
        self._timer: Timer | None = None
        self._waiting: list[_Waiting] = []
        self._vain = 0
        self._rest = 0

    async def run(self) -> None:
        """Ring for those who wait, until cancelled. Returns at once where there is no timer."""
        try:
            timer = self._make_timer()
        except OSError as error:
            _log.info("no timer for waiting on the cache disk: %s", error)
            return
        self._timer = timer
        try:
            while True:
                await timer.ring()
                self._tick()
                if self._waiting:
                    timer.arm()
        finally:
            self._timer = None
            timer.close()
            while self._waiting:
                trio.lowlevel.reschedule(self._waiting.pop().task, outcome.Value(False))

    async def until(self, attempt: Callable[[], bool]) -> bool:
        """Whether *attempt* gave True at one of the next ticks; what it raises is raised here.

        *attempt* must not block, and is not called after this returned or was cancelled.
        """
        if self._timer is None:
            return False
        if self._rest:
            self._rest -= 1
            return False
        if not self._waiting:
            self._timer.arm()
        waiting = _Waiting(attempt, trio.lowlevel.current_task())
        self._waiting.append(waiting)

        def give_up(_: object) -> trio.lowlevel.Abort:
            self._waiting.remove(waiting)
            return trio.lowlevel.Abort.SUCCEEDED

        came = cast(bool, await trio.lowlevel.wait_task_rescheduled(give_up))
        self._vain = 0 if came else self._vain + 1
        if self._vain >= VAIN:
            self._vain, self._rest = 0, REST
        return came

    def _tick(self) -> None:
        still = []
        for waiting in self._waiting:
            waiting.left -= 1
            result = outcome.capture(waiting.attempt)
            if waiting.left and isinstance(result, outcome.Value) and not result.value:
                still.append(waiting)
            else:
                trio.lowlevel.reschedule(waiting.task, result)
        self._waiting = still
