"""Wall-clock time as a port, so that TTLs and timestamps are tested without sleeping.

Durations inside the running process use ``trio.current_time()`` (tests:
``trio.testing.MockClock``); what is stored on disk needs wall-clock time, and takes it from here.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where wall-clock time comes from."""

    def now_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        return time.time_ns()


class ManualClock:
    """A clock that moves only when told; ships for tests and simulations."""

    def __init__(self, now_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        return self._now_ns

    def advance(self, seconds: float) -> None:
        """Move the clock by *seconds* (negative: a clock that jumps back)."""
        self._now_ns += round(seconds * 1_000_000_000)
