"""How fast writers may go while what they write goes into the lake more slowly.

Up to `SOFT_SHARE` of the budget nobody is slowed down: a checkpoint that fits is written at the
disk's speed. From there on all writers together are held to a multiple of the uploads' speed, which
falls without a step: five times that at two thirds of the budget, the same speed at four fifths, an
eighth of it just before the end. So a steady writer comes to rest at four fifths, where it is as
fast as the uploads, and does not run from one full stop into the next.

Uploads of small files are slow for their size, and say nothing of how fast a large one would go
that is still being written: so they count as `LEAST_BYTES_S` at least. Writers who are still too
fast then find the budget full, and small files leave it in small steps anyway.
"""

from __future__ import annotations

import math

#: The part of the budget that is filled at full speed.
SOFT_SHARE = 0.6
#: No request takes longer than this in its turn, nor waits longer for it: what is still too fast
#: then finds the budget full.
MOST_S, LONGEST_QUEUE_S = 5.0, 30.0
#: At the slowest, writers have this part of the uploads' speed.
LEAST_SHARE = 1 / 8
#: Slower uploads are no reason to slow anybody down further.
LEAST_BYTES_S = 16 << 20
#: Uploads are timed over so long.
WINDOW_S = 0.5


def pace_s(bytes_: int, used_bytes: int, budget_bytes: int, uploads_bytes_s: float) -> float:
    """How many seconds all writers together are to take for *bytes_* more, where *used_bytes* of
    *budget_bytes* are used and uploads go at *uploads_bytes_s* (0: that is not known, and then
    there is nothing to keep pace with)."""
    if uploads_bytes_s <= 0 or budget_bytes <= 0:
        return 0.0
    # How far the way from the soft mark to the end has been gone.
    gone = (used_bytes / budget_bytes - SOFT_SHARE) / (1 - SOFT_SHARE)
    if gone <= 0:
        return 0.0
    share = max(LEAST_SHARE, (1 - gone) / gone)
    return min(MOST_S, bytes_ / (share * max(uploads_bytes_s, LEAST_BYTES_S)))


class Meter:
    """The speed of uploads while there are any: who has nothing to send is not slow. Times are
    `trio.current_time`'s."""

    def __init__(self) -> None:
        #: A mean in which what is longer ago counts less; 0 before there is one.
        self.bytes_s = 0.0
        self._under_way = 0
        self._since_s = 0.0
        self._bytes, self._busy_s = 0, 0.0

    def begun(self, now_s: float) -> None:
        """A request with content is sent."""
        if self._under_way == 0:
            self._since_s = now_s
        self._under_way += 1

    def ended(self, bytes_: int, now_s: float) -> None:
        """It is over, and has brought *bytes_* into the lake."""
        self._under_way -= 1
        self._busy_s += now_s - self._since_s
        self._since_s = now_s
        self._bytes += bytes_
        if self._busy_s >= WINDOW_S:
            speed = self._bytes / self._busy_s
            self.bytes_s = speed if self.bytes_s == 0 else (self.bytes_s + speed) / 2
            self._bytes, self._busy_s = 0, 0.0


class Queue:
    """Whoever is slowed down takes their turn one after the other, so that many writers are no
    faster than one."""

    def __init__(self) -> None:
        self._until_s = -math.inf

    def wait_s(self, pace: float, now_s: float) -> float:
        """How long to wait now, for what is to take *pace* seconds in its turn."""
        if pace <= 0:
            return 0.0
        self._until_s = min(max(self._until_s, now_s) + pace, now_s + LONGEST_QUEUE_S)
        return self._until_s - now_s
