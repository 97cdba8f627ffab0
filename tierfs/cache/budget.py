"""The memory budget: bytes that requests to the lake may hold, and who goes first.

A ticket stands for the buffer of one request, from before it is sent until its bytes are on the
cache disk or dropped. Rules:

- DEMAND goes before READ_AHEAD, READ_AHEAD before WARM_UP, WARM_UP before FILL; first come, first
  served within each.
- All but DEMAND may fill a share of the budget only, and bring the requests up to a share of their
  number, so that demand finds room and connections.
- Nothing overtakes a waiting ticket of a higher priority, even if it would fit.
- A ticket larger than the budget is let through when it is alone. The budget is never an error.
"""

from __future__ import annotations

import enum
import math
from collections import deque

import trio


class Priority(enum.IntEnum):
    """Who waits for the bytes. Smaller goes first."""

    DEMAND = 0
    READ_AHEAD = 1
    #: A user ordered it, so it is kept whatever it is worth.
    WARM_UP = 2
    #: Nobody waits, and nobody ordered it: it is expected to be read.
    FILL = 3


#: The part of the budget that each priority may fill, all that is held counted.
SHARES = (1.0, 0.75, 0.5, 0.4)

#: The part of the requests in flight up to which each priority may add to them. Demand is never
#: held back by their number: the lake's own limit on connections is behind it.
REQUEST_SHARES = (math.inf, 0.85, 0.75, 0.5)
#: The part that FILL may make up by itself. It is small, because each of its requests takes a
#: millisecond of the loop that answers readers, too; and it is not a part of what demand leaves,
#: because demand is what it is ahead of. Sixteen readers of small cold files: 525 files a second
#: with fills only where fewer than 16 requests were in flight, 670 so; a bare client 590.
FILL_SHARE = 0.25

#: What a request costs at least: its connection, headers and task are not free.
LEAST_TICKET_BYTES = 64 << 10


class Ticket:
    """One request's claim. Only `Budget` changes it."""

    __slots__ = ("bytes", "granted", "priority")

    def __init__(self, bytes_: int, priority: Priority) -> None:
        self.bytes = bytes_
        self.priority = priority
        self.granted = trio.Event()


class Budget:
    """Hands out *total_bytes* to about *max_requests*. All calls on one trio thread."""

    def __init__(self, total_bytes: int, max_requests: int = 64) -> None:
        self.total_bytes = max(1, total_bytes)
        self.max_requests = max_requests
        self.used_bytes = 0
        self.holders = 0
        #: Those of them that are fills still.
        self._fills = 0
        self._queues: tuple[deque[Ticket], ...] = tuple(deque() for _ in Priority)

    @property
    def waiting(self) -> int:
        """Tickets that are not granted yet."""
        return sum(map(len, self._queues))

    def ticket(self, bytes_: int, priority: Priority) -> Ticket:
        """Join the queue; the ticket may be granted at once. It must be released whatever
        happens."""
        ticket = Ticket(max(bytes_, LEAST_TICKET_BYTES), priority)
        self._queues[priority].append(ticket)
        self._grant()
        return ticket

    async def wait(self, ticket: Ticket) -> None:
        """Wait until *ticket* is granted. A cancelled waiter still has to release it."""
        if not ticket.granted.is_set():
            await ticket.granted.wait()

    def promote(self, ticket: Ticket, priority: Priority) -> None:
        """Someone more urgent waits for the same bytes: move a waiting ticket up."""
        if priority >= ticket.priority:
            return
        if not ticket.granted.is_set():
            self._queues[ticket.priority].remove(ticket)
            self._queues[priority].append(ticket)
        elif ticket.priority is Priority.FILL:
            self._fills -= 1
        ticket.priority = priority
        self._grant()

    def release(self, ticket: Ticket) -> None:
        """Give the bytes back, or leave the queue. Once for each ticket."""
        if ticket.granted.is_set():
            self.used_bytes -= ticket.bytes
            self.holders -= 1
            self._fills -= ticket.priority is Priority.FILL
        else:
            self._queues[ticket.priority].remove(ticket)
        self._grant()

    def _fits(self, ticket: Ticket) -> bool:
        if ticket.priority is Priority.FILL and self._fills >= self.max_requests * FILL_SHARE:
            return False
        return (
            self.used_bytes + ticket.bytes <= self.total_bytes * SHARES[ticket.priority]
            and self.holders < self.max_requests * REQUEST_SHARES[ticket.priority]
        )

    def _grant(self) -> None:
        for queue in self._queues:
            while queue:
                ticket = queue[0]
                if self.holders and not self._fits(ticket):
                    return
                queue.popleft()
                self.used_bytes += ticket.bytes
                self.holders += 1
                self._fills += ticket.priority is Priority.FILL
                ticket.granted.set()
