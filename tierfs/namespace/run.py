"""What one listing has seen so far. `tierfs.namespace.listing` drives it, `readdir` reads by it."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import NamedTuple

import trio

from tierfs.errors import TierfsError
from tierfs.lake.protocol import ObjectInfo


class Point(NamedTuple):
    """Where a listing can be gone on with: the token of the next page, and what came before it."""

    token: bytes | None
    pages: int
    entries: int


class Run:
    """One listing of one directory: what it has seen so far, and how it ended."""

    def __init__(self, directory: int, begun_ns: int, *, first: bool, before: array[int]) -> None:
        self.directory = directory
        #: When it began. What it confirms, it confirms from then on.
        self.begun_ns = begun_ns
        #: The directory was never listed whole.
        self.first = first
        #: It goes on where an earlier one stopped; *before* is not known.
        self.resumed = False
        self.token: bytes | None = None
        self.pages = 0
        self.entries = 0
        #: The run has ended; *error* says how (None: the listing is complete).
        self.ended = False
        self.error: TierfsError | None = None
        #: Objects of which it is not known yet whether a directory of the same name hides them,
        #: each with the point to go on from so as to see it again.
        self.held: dict[bytes, tuple[ObjectInfo, Point]] = {}
        self._before = before
        self._seen = bytearray(len(before))
        self._progress = trio.Event()

    def mark(self, ino: int) -> None:
        """Entry *ino* is in the listing."""
        at = bisect_left(self._before, ino)
        if at < len(self._before) and self._before[at] == ino:
            self._seen[at] = 1

    def confirms(self, ino: int) -> bool:
        """Whether entry *ino* is in what was listed so far, or came to be since the beginning."""
        at = bisect_left(self._before, ino)
        return at == len(self._before) or self._before[at] != ino or self._seen[at] == 1

    @property
    def since_ns(self) -> int:
        """What was confirmed after this was confirmed since the listing began. What the earlier
        part of one that goes on put may be as old as its beginning; what was there before any other
        may be, too, if the clock did not move."""
        return self.begun_ns - 1 if self.resumed else self.begun_ns

    @property
    def point(self) -> Point:
        """Where the listing stands."""
        return Point(self.token, self.pages, self.entries)

    def unseen(self, after: int) -> tuple[int, int] | None:
        """The first entry from position *after* on that the listing did not have: (position,
        ino)."""
        at = self._seen.find(0, after)
        return None if at < 0 else (at, self._before[at])

    def advance(self) -> None:
        """Wake the readers: a page was committed, or the run has ended."""
        self._progress.set()
        self._progress = trio.Event()

    async def progress(self) -> None:
        """Wait for the next page, or the end."""
        await self._progress.wait()
