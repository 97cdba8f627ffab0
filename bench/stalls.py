"""Which reads waited for the lake: the reader's times beside the log of the server.

A threshold would not tell: with 16 readers on two cores a read from a cache may take longer than
one from a near lake. So a read counts as stalled if, when it began, bytes of it had yet to arrive
from the lake: by a request of its own, or by one that was under way already, as a read-ahead or
another reader's. How long it waited is the reader's own measurement, from open to the last byte.

Reads that wait for names (HEAD, LIST) and for nothing else do not count.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.lakesim import Request

_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass(frozen=True)
class Read:
    """Bytes *start* to *end* of an object, read within the time from *begin_ns* to *end_ns* (since
    1970, the clock of this machine)."""

    key: str
    start: int
    end: int
    begin_ns: int
    end_ns: int


@dataclass(frozen=True)
class _Arrival:
    """Bytes *start* to *end* of an object on their way."""

    start: int
    end: int
    asked_ns: int
    first_ns: int
    last_ns: int

    def kept_waiting(self, read: Read) -> bool:
        last_byte = min(read.end, self.end)
        if last_byte <= max(read.start, self.start) or self.asked_ns > read.end_ns:
            return False
        # A long answer is read while it comes: its bytes arrive evenly between its first and its
        # last piece.
        share = (last_byte - self.start) / (self.end - self.start)
        return read.begin_ns < self.first_ns + share * (self.last_ns - self.first_ns)


def stalled(reads: Sequence[Read], requests: Iterable[Request]) -> list[Read]:
    """Those of *reads* that waited for an answer to one of *requests*."""
    arrivals: dict[str, list[_Arrival]] = defaultdict(list)
    for request in requests:
        if request.method != "GET" or request.first_sent_ns is None:
            continue
        assert request.last_sent_ns is not None
        found = _RANGE.match(request.range or "bytes=0-")
        # The last n bytes of an object, which nobody needs to read samples.
        start = int(found[1]) if found else 0
        arrival = _Arrival(
            start,
            start + request.bytes_out,
            request.arrived_ns,
            request.first_sent_ns,
            request.last_sent_ns,
        )
        arrivals[request.key].append(arrival)
    return [
        read
        for read in reads
        if any(arrival.kept_waiting(read) for arrival in arrivals.get(read.key, ()))
    ]
