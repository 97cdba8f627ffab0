"""Retries with full jitter and one deadline over all attempts (promise L2 of
`tierfs.lake.protocol`).

An attempt ends in one of four ways: a value; `Transient` (try again until the deadline);
``LakeProtocolError`` or `OtherVersion` (the server lied: it may have been an accident, so a bounded
number of times again); anything else, which is final.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from tierfs.errors import LakeProtocolError, LakeUnavailable, PreconditionFailed
from tierfs.lake.limiter import AdaptiveLimiter
from tierfs.lake.protocol import LakeCounters

T = TypeVar("T")

# https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ ("full jitter").
_FIRST_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 5.0
#: A server that lies so often in a row does not do so by accident.
_MOST_LIES = 4


class Transient(Exception):
    """One attempt failed in a way that another may not. Never leaves the lake."""

    def __init__(self, reason: str, *, slow_down: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.slow_down = slow_down


class OtherVersion(PreconditionFailed):
    """A condition on one version was answered with another one. A server that knows no conditions
    says so of an object that has changed, and will say it again."""


class Retrier:
    """Runs attempts under a limiter and a deadline; counts what it did."""

    def __init__(
        self,
        limiter: AdaptiveLimiter,
        counters: LakeCounters,
        deadline_s: float,
        rng: random.Random,
    ) -> None:
        self._limiter = limiter
        self._counters = counters
        self._deadline_s = deadline_s
        self._rng = rng

    async def run(
        self,
        op: str,
        subject: bytes | str,
        attempt: Callable[[], Awaitable[T]],
        *,
        extra_s: float = 0.0,
    ) -> T:
        """The value of the first attempt that succeeds.

        Raises LakeUnavailable when the deadline passes, and what the attempt raised if it is final.
        The time spent waiting for a slot counts. *extra_s* is added to the deadline, for what is
        known to take its time.
        """
        allowed_s = self._deadline_s + extra_s
        deadline = trio.current_time() + allowed_s
        reason = f"no answer within {allowed_s:g} s"
        failures = lies = 0
        with trio.CancelScope(deadline=deadline):
            while True:
                try:
                    async with self._limiter.slot():
                        value = await attempt()
                except Transient as error:
                    reason = error.reason
                    if error.slow_down:
                        self._counters.slow_downs += 1
                        self._limiter.slow_down()
                except (LakeProtocolError, OtherVersion):
                    lies += 1
                    if lies >= _MOST_LIES:
                        raise
                else:
                    self._limiter.succeeded()
                    return value
                failures += 1
                delay = self._delay(failures)
                if trio.current_time() + delay >= deadline:
                    break
                await trio.sleep(delay)
                self._counters.retries += 1
        raise LakeUnavailable(op, subject, reason)

    def _delay(self, failures: int) -> float:
        ceiling = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(failures, 16))
        return self._rng.uniform(0.0, ceiling)
