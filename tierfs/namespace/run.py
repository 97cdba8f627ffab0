"""What one listing has seen so far. `tierfs.namespace.listing` drives it, `readdir` reads by it."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import NamedTuple

import trio

from tierfs.errors import TierfsError
from tierfs.index.records import Listing, ListingState
from tierfs.lake.protocol import ObjectInfo
from tierfs.namespace.split import Scale


class Point(NamedTuple):
    """Where a chain can be gone on with: the token of the next page, and what came before it."""

    token: bytes | None
    pages: int
    entries: int


class Held(NamedTuple):
    """An object of which it is not known yet whether a directory of the same name hides it: asked
    for at *asked_ns*, and seen again by whoever goes on from *point*."""

    info: ObjectInfo
    asked_ns: int
    point: Point


class Chain:
    """One range of a directory's keys, listed page by page: those after *after*, up to and with
    *end* (None: to the end of the directory)."""

    __slots__ = (
        "again",
        "at",
        "done",
        "end",
        "entries",
        "held",
        "pages",
        "probed",
        "reach",
        "scale",
        "token",
    )

    def __init__(self, after: bytes, end: bytes | None, reach: int = 0) -> None:
        self.end = end
        #: The greatest key of its last page; what is not after it was given.
        self.at = after
        #: Of the next page, and of the last one (None: it came without).
        self.token: bytes | None = None
        self.again: bytes | None = None
        self.pages = 0
        self.entries = 0
        #: All of the range was given.
        self.done = False
        self.held: dict[bytes, Held] = {}
        #: How its last page's names are laid out, and how many pages ahead a split may be tried.
        self.scale: Scale | None = None
        self.reach = reach
        #: A split of it is being tried.
        self.probed = False

    @property
    def point(self) -> Point:
        """Where it stands."""
        return Point(self.token, self.pages, self.entries)


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
        #: It ends with its first page, unless somebody comes who needs all of it.
        self.peeks = False
        #: The run has ended; *error* says how (None: the listing is complete).
        self.ended = False
        self.error: TierfsError | None = None
        #: The ranges in their order. They do not overlap; where none is, nothing is.
        self.chains = [Chain(b"", None)]
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

    def unseen(self, after: int) -> tuple[int, int] | None:
        """The first entry from position *after* on that the listing did not have: (position,
        ino)."""
        at = self._seen.find(0, after)
        return None if at < 0 else (at, self._before[at])

    # Ranges.

    def resume(self, listing: Listing) -> None:
        """Go on with the partial *listing*."""
        self.resumed = True
        chain = self.chains[0]
        chain.token, chain.pages, chain.entries = listing.token, listing.pages, listing.entries

    @property
    def has_pages(self) -> bool:
        """Something was given."""
        return any(chain.pages for chain in self.chains)

    @property
    def complete(self) -> bool:
        """It has ended, and the index has all of it."""
        return self.ended and self.error is None

    @property
    def listed(self) -> bool:
        """Every range was given."""
        return all(chain.done for chain in self.chains)

    def passed(self, key: bytes) -> bool:
        """Whether *key* would have been given by now. Between two ranges, and after the last one,
        there was seen to be nothing."""
        for chain in self.chains:
            if chain.end is None or key <= chain.end:
                return chain.done or key <= chain.at
        return True

    def begin_again(self) -> None:
        """List everything once more. What was confirmed stays confirmed."""
        self.chains = [Chain(b"", None)]

    def split(self, chain: Chain, at: bytes, reach: int) -> Chain:
        """Cut *chain* off at *at*, which it has not come to; the rest is the new chain's."""
        rest = Chain(at, chain.end, reach)
        chain.end = at
        self.chains.insert(self.chains.index(chain) + 1, rest)
        return rest

    def join(self) -> None:
        """Make neighbouring ranges that are done with one range, so that there are never many."""
        joined = self.chains[:1]
        for chain in self.chains[1:]:
            last = joined[-1]
            if last.done and chain.done and not last.held and not chain.held:
                last.end, last.at, last.again = chain.end, chain.at, chain.again or last.again
                last.pages += chain.pages
                last.entries += chain.entries
            else:
                joined.append(chain)
        self.chains = joined

    def record(self, state: ListingState) -> Listing:
        """What is to be known of this listing later on: how far it came without a gap.

        What is held is in no table, so a partial one goes on from before the oldest of it. A range
        without a token yet is come to from the last page of the one before.
        """
        token, pages, entries = None, 0, 0
        before: bytes | None = None
        for chain in self.chains:
            point = chain.point
            if chain.held:
                point = next(iter(chain.held.values())).point
            pages += point.pages
            entries += point.entries
            if chain.held or not chain.done:
                token = point.token or before
                break
            before = chain.again or before
        return Listing(state, self.begun_ns, pages, entries, token)

    # Readers.

    def advance(self) -> None:
        """Wake the readers: a page was committed, or the run has ended."""
        self._progress.set()
        self._progress = trio.Event()

    async def progress(self) -> None:
        """Wait for the next page, or the end."""
        await self._progress.wait()
