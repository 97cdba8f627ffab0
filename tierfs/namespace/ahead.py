"""Directories are listed ahead of who reads a tree, as find(1) and `ls -R` do: one directory after
the other, each of which takes a round trip to the lake.

Who has read two neighbours, in the order in which their parent shows them, is taken for one who
will read the rest. The next ones are then looked into: their first page is listed, which is all of
most, eight at a time; as many as went before, up to `MOST_AHEAD`. So what nobody comes for in the
end costs as many requests as were asked for, and no more than `MOST_AHEAD` for each parent.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import NamedTuple

import trio

from tierfs.index.names import Names
from tierfs.index.records import Kind
from tierfs.namespace.listing import Listings

_log = logging.getLogger(__name__)

#: Directories that are listed before anybody has asked for them.
MOST_AHEAD = 32
#: Of all readers together, at a time: an eighth of the connections that there are by default.
AT_A_TIME = 8
#: Rows of the parent that are looked at for each directory: others may be between them.
ROWS_EACH = 4
#: Parents whose directories are read, or were.
WALKS = 64


class _Walk(NamedTuple):
    """A reader is at *at*; what is after that, up to *ahead*, is listed, or about to be. *width* is
    how many that were."""

    at: int
    ahead: int
    width: int


class Ahead:
    """Told of each directory that a reader begins with and that had to be listed. *spawn* is where
    the listings are waited for."""

    def __init__(self, names: Names, listings: Listings, spawn: trio.Nursery) -> None:
        self._names = names
        self._listings = listings
        self._spawn = spawn
        self._seats = trio.Semaphore(AT_A_TIME, max_value=AT_A_TIME)
        self._walks: OrderedDict[int, _Walk] = OrderedDict()

    def reads(self, directory: int, parent: int) -> None:
        """Somebody begins to read *directory*, an entry of *parent*. Never waits."""
        if directory == parent:
            return  # The root is nobody's neighbour.
        walk = self._walks.pop(parent, None)
        if walk is None or not walk.at <= directory:
            walk = _Walk(directory, directory, 1)
        elif directory <= walk.ahead:
            walk = walk._replace(at=directory)  # It is being listed.
        elif [directory] == self._next(parent, walk.ahead, 1):
            width = min(2 * walk.width, MOST_AHEAD)
            following = self._next(parent, directory, width)
            self._spawn.start_soon(self._look_into, following)
            walk = _Walk(directory, max(following, default=directory), width)
        else:
            walk = _Walk(directory, directory, 1)
        self._walks[parent] = walk
        if len(self._walks) > WALKS:
            self._walks.popitem(last=False)

    def _next(self, parent: int, after_ino: int, count: int) -> list[int]:
        """The next directories of *parent*, up to *count*."""
        rows = self._names.children(parent, after_ino, ROWS_EACH * count)
        found = [ino for ino, _, inode in rows if inode.kind is Kind.DIRECTORY]
        return found[:count]

    async def _look_into(self, directories: list[int]) -> None:
        for directory in directories:
            await self._seats.acquire()
            self._spawn.start_soon(self._look_into_one, directory)

    async def _look_into_one(self, directory: int) -> None:
        try:
            await self._listings.look_into(directory)
        except Exception:
            # Who comes for it finds out.
            _log.info("inode %d was not listed ahead", directory, exc_info=True)
        finally:
            self._seats.release()
