"""How many requests may be in flight: additive increase, multiplicative decrease.

A store that answers 503 SlowDown or 429 wants fewer requests, not the same ones again a moment
later. So each such answer halves the limit (once per burst: answers to requests sent before the cut
say nothing new), and each success raises it by one part in *limit*, which is one per round of
requests. It is TCP's congestion avoidance (RFC 5681) with requests for segments.

Invariants:

A1. ``in_flight`` is the number of slots held. It exceeds ``int(limit)`` only after a cut, and then
    no slot is given until it is below.
A2. Slots are given in the order in which they were asked for.
A3. A cancelled waiter never holds a slot.
"""

from __future__ import annotations

import trio

#: Seconds after a cut during which further complaints are put down to the same burst.
_BURST_S = 1.0


class AdaptiveLimiter:
    """A semaphore whose size follows what the store can take. For use from one trio loop."""

    def __init__(self, maximum: int) -> None:
        self._maximum = float(max(1, maximum))
        self._limit = self._maximum
        self._in_flight = 0
        self._last_cut = float("-inf")
        self._waiting = trio.lowlevel.ParkingLot()

    @property
    def limit(self) -> float:
        """How many requests may be in flight now; its integer part counts."""
        return self._limit

    @property
    def in_flight(self) -> int:
        """Slots held."""
        return self._in_flight

    def slot(self) -> _Slot:
        """``async with``: wait for a slot and hold it. Always sees a cancellation, and lets others
        run only if it has to wait: whoever has a slot waits for the lake next."""
        return _Slot(self)

    async def _acquire(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not len(self._waiting) and self._in_flight < int(self._limit):
            self._in_flight += 1
        else:
            # _admit counts the slot for whom it wakes, so nobody can overtake (A2); a cancelled
            # park was never woken (A3).
            await self._waiting.park()

    def _release(self) -> None:
        self._in_flight -= 1
        self._admit()

    def _admit(self) -> None:
        while len(self._waiting) and self._in_flight < int(self._limit):
            self._in_flight += 1
            self._waiting.unpark(count=1)

    def succeeded(self) -> None:
        """A request was answered as it should be."""
        if self._limit < self._maximum:
            self._limit = min(self._maximum, self._limit + 1.0 / self._limit)
            self._admit()

    def slow_down(self) -> None:
        """The store asked for fewer requests."""
        now = trio.current_time()
        if now - self._last_cut < _BURST_S:
            return
        self._last_cut = now
        # Half of what was really in flight: a limit far above the demand would not cut anything.
        self._limit = max(1.0, min(self._limit, float(max(1, self._in_flight))) / 2.0)


class _Slot:
    __slots__ = ("_limiter",)

    def __init__(self, limiter: AdaptiveLimiter) -> None:
        self._limiter = limiter

    async def __aenter__(self) -> None:
        await self._limiter._acquire()

    async def __aexit__(self, *_: object) -> None:
        self._limiter._release()
