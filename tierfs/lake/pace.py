"""How fast bodies go out, all of them together: a schedule that every piece is entered in.

A piece may go when those entered before it would have gone at the rate; what was not used for a
while can be caught up on for `BURST_S` and no longer. So the link is used evenly, by whoever sends,
and no whole part goes out at once. Nothing but bodies is held up.

Thread-safe; waits in the caller's thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: What may be caught up on, in seconds.
BURST_S = 0.1
#: No wait is longer without a look at whether the call goes on.
_LOOK_S = 0.25
#: Pieces are so much of a second at most, within the bounds that follow.
_PIECE_S = 0.125
_LEAST_PIECE, _MOST_PIECE = 4 << 10, 128 << 10


class Pace:
    """*bytes_s* bytes a second, at most."""

    def __init__(
        self,
        bytes_s: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.bytes_s = bytes_s
        #: How large the pieces of a body are to be.
        self.piece_bytes = min(max(int(bytes_s * _PIECE_S), _LEAST_PIECE), _MOST_PIECE)
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        #: When what was entered is gone.
        self._free = clock()

    def wait(self, length: int, check: Callable[[], None]) -> None:
        """Return when *length* bytes may go. *check* is called before and between waits, and ends
        them by what it raises."""
        with self._lock:
            at = max(self._free, self._clock() - BURST_S)
            self._free = at + length / self.bytes_s
        while True:
            check()
            left_s = at - self._clock()
            if left_s <= 0:
                return
            self._sleep(min(left_s, _LOOK_S))
