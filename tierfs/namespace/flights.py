"""One question at a time: callers that ask the same thing wait for the first one's answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable

import trio

from tierfs.errors import TierfsError


class _Flight:
    __slots__ = ("done", "error", "finished")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.finished = False
        self.error: TierfsError | None = None


class SingleFlight:
    """Runs one call for each key at a time. It holds no more keys than there are callers."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def run(self, key: Hashable, call: Callable[[], Awaitable[None]]) -> None:
        """Wait until *call*, ours or that of whoever came first with *key*, has ended; raise what
        it raised. When the first caller is cancelled, one of those waiting calls in its place."""
        while (flight := self._flights.get(key)) is not None:
            await flight.done.wait()
            if flight.finished:
                if flight.error is not None:
                    raise flight.error
                return
        flight = self._flights[key] = _Flight()
        try:
            await call()
            flight.finished = True
        except TierfsError as error:
            flight.error = error
            flight.finished = True
            raise
        finally:
            del self._flights[key]
            flight.done.set()
