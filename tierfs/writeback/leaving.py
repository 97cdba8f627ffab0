"""The end of a mount that writes: who waits for it, and for how long.

However a mount ends (``tierfs umount``, umount(8), a signal to the keeper), `Leaving.end` comes
last, when nobody can write any more. ``tierfs umount`` comes before it: it asks to `leave`, and is
told how far the uploads are while the mount is still there; then it unmounts, and is told of the
rest. Both have one deadline. It may ask for what is not in the lake to be thrown away instead,
which is done at the end. Who asks and goes away again, because the mount is in use, has asked
for nothing.

umount(2) ends the session only where no other mount namespace (of a container, of a service) has a
copy of the mount. So whoever unmounted is told whether the end has begun (``ending``).

::

    leave: drain --ready--> (umount(2)) ............... the last word
                               `- the kernel ends the session: end: drain -'
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import trio

_log = logging.getLogger(__name__)

#: How often whoever waits is told how far it is, in seconds; less often, down to the second number,
#: where that would take more than this share of the loop's time: it grows with what is left.
TELL_S, TELL_LAST_S, TELL_SHARE = 0.5, 5.0, 0.1
#: How long the end waits for them to take the last word.
LAST_WORD_S = 2.0

Told: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
#: Waits until all is in the lake, and calls what it is given now and then.
Drain: TypeAlias = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
#: Throws away what is not there, and says what that was.
Discard: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Describe: TypeAlias = Callable[[], dict[str, Any]]


class Telling:
    """Tells somebody what *describe* says, as often as is good for both."""

    def __init__(self, told: Told, describe: Describe) -> None:
        self._told = told
        self._describe = describe
        self._next_s = -math.inf

    @property
    def pause_s(self) -> float:
        """How long to wait before it is told again."""
        return max(self._next_s - trio.current_time(), 0.0)

    async def __call__(self) -> None:
        """Tell, unless that was done a moment ago."""
        if not self.pause_s:
            await self.now()

    async def now(self, **more: Any) -> dict[str, Any]:
        """Tell, and *more* with it; what was told."""
        started_s = time.perf_counter()
        found = {**self._describe(), **more}
        took_s = time.perf_counter() - started_s
        pause_s = min(max(TELL_S, took_s / TELL_SHARE), TELL_LAST_S)
        self._next_s = trio.current_time() + pause_s
        await self._told(found)
        return found


class _Waiting:
    """Somebody who unmounts."""

    def __init__(self, deadline_s: float, *, discard: bool) -> None:
        self.deadline_s = deadline_s
        self.discard = discard
        #: What was thrown away.
        self.discarded: dict[str, Any] = {}
        self.ended = trio.Event()
        self.gone = trio.Event()


class Leaving:
    """The end of one mount, which waits for the lake for up to *flush_s*."""

    def __init__(self, flush_s: float) -> None:
        self._flush_s = flush_s
        self._waiting: list[_Waiting] = []
        self._scope = trio.CancelScope()
        self._ending = False

    async def leave(
        self, drain: Drain, describe: Describe, *, wait: bool, discard: bool, told: Told
    ) -> dict[str, Any]:
        """Wait for the lake with *drain*, as long as may be, or not at all; then tell that it is
        time to unmount (``ready``), and go on telling until the end. With *discard* the end throws
        away what is not in the lake, and tells what that was (``discarded``). Returns what was told
        last."""
        flush_s = self._flush_s if wait and not discard else 0.0
        waiting = _Waiting(trio.current_time() + flush_s, discard=discard)
        self._waiting.append(waiting)
        telling = Telling(told, lambda: {**describe(), "ending": self._ending})
        try:
            with trio.CancelScope(deadline=waiting.deadline_s):
                await drain(telling)
            await telling.now(ready=True)
            while not waiting.ended.is_set():
                with trio.move_on_after(telling.pause_s):
                    await waiting.ended.wait()
                await telling()
            return await telling.now(**waiting.discarded)
        finally:
            self._waiting.remove(waiting)
            waiting.gone.set()

    async def end(self, drain: Drain, describe: Describe, discard: Discard) -> None:
        """Wait for the lake with *drain* until the deadline, or until there is a `hurry`; or
        *discard* what is not there, if that was asked for."""
        self._ending = True
        deadlines_s = [waiting.deadline_s for waiting in self._waiting]
        now_s = trio.current_time()
        self._scope.deadline = min(deadlines_s, default=now_s + self._flush_s)
        left = describe()
        if left["unflushed_changes"] and self._scope.deadline > now_s:
            _log.info(
                "the mount is gone; %d files (%d bytes) are going into the lake, for at most %g s",
                left["unflushed_files"],
                left["unflushed_bytes"],
                self._scope.deadline - now_s,
            )
        with self._scope:
            await drain(_nobody)
        if any(waiting.discard for waiting in self._waiting):
            discarded = {"discarded": await discard()}
            for waiting in self._waiting:
                waiting.discarded = discarded
        for waiting in self._waiting:
            waiting.ended.set()
        with trio.move_on_after(LAST_WORD_S):
            for waiting in list(self._waiting):
                await waiting.gone.wait()

    def hurry(self) -> None:
        """Nobody waits for the lake any longer."""
        self._scope.cancel()


async def _nobody() -> None:
    """Nobody is told."""
