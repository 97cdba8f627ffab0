"""The commands to fetch and to fill, as the Python front carries them out: blocks into the cache,
those of an object in order and a few parts at a time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import trio

from tierfs.cache.budget import Priority
from tierfs.cache.fetch import Fetcher, Flight, again
from tierfs.cache.objects import CachedObject
from tierfs.cache.reader import PART_BYTES, Reader
from tierfs.cache.space import NotWorthKeeping
from tierfs.errors import TierfsError
from tierfs.index.records import BLOCK_SIZE, Extent, ObjectRef

#: Parts of one object that a fetch keeps in flight: at 90 MB/s each, four fill the standard link.
FETCH_WIDTH = 4

_log = logging.getLogger(__name__)

#: `FrontPort.fetch`.
Fetch = Callable[[int, ObjectRef, int, Extent | None, Priority], Awaitable[int]]


async def bring(
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


async def fill(fetch: Fetch, files: Sequence[tuple[int, ObjectRef, int]]) -> int:
    """See `FrontPort.fill`. All are asked for at once: the budget says when each is sent for."""
    declined = 0

    async def one(ino: int, ref: ObjectRef, size: int) -> None:
        nonlocal declined
        try:
            await fetch(ino, ref, size, None, Priority.FILL)
        except NotWorthKeeping:
            declined += 1
        except TierfsError as error:
            _log.debug("not fetched ahead: %s", error)

    async with trio.open_nursery() as nursery:
        for ino, ref, size in files:
            nursery.start_soon(one, ino, ref, size)
    return declined
