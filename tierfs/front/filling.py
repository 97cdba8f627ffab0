"""The command to fetch, as the Python front carries it out: blocks into the cache, in order, a few
parts at a time."""

from __future__ import annotations

from collections import deque

from tierfs.cache.budget import Priority
from tierfs.cache.fetch import Fetcher, Flight, again
from tierfs.cache.objects import CachedObject
from tierfs.cache.reader import PART_BYTES, Reader
from tierfs.index.records import BLOCK_SIZE

#: Parts of one object that a fetch keeps in flight: at 90 MB/s each, four fill the standard link.
FETCH_WIDTH = 4


async def fill(
    reader: Reader, fetcher: Fetcher, o: CachedObject, lo: int, hi: int, priority: Priority
) -> int:
    """Have the blocks that ``[lo, hi)`` touches on the cache disk; returns the bytes that had to be
    fetched. The caller is a user of *o*. Raises as `FrontPort.fetch`."""
    fetched = 0
    under_way: deque[Flight] = deque()

    async def land() -> int:
        flight = under_way.popleft()
        await flight.landed.wait()
        if flight.error is not None:
            raise again(flight.error)
        if not flight.kept:
            raise fetcher.not_kept(o, flight)
        return flight.hi - flight.lo

    reader.guard(o)
    while lo < hi:
        part_end = min((lo // BLOCK_SIZE) * BLOCK_SIZE + PART_BYTES, hi)
        under_way.extend(reader.ahead(o, lo, part_end, PART_BYTES, priority))
        while len(under_way) >= FETCH_WIDTH:
            fetched += await land()
            reader.guard(o)
        lo = part_end
    while under_way:
        fetched += await land()
    reader.guard(o)
    return fetched
