"""Reading a directory: entries in the order of their inode numbers, as soon as they are known.

The position of a reader is the inode number of the last entry it took. Numbers are never reused and
new entries have higher ones (E2 in `tierfs.namespace.entries`), so a position is good for ever:
over restarts, over relistings, while pages arrive. An entry that got a new version meanwhile may be
seen twice, once as each inode, as POSIX allows for what changes under a reader.
"""

from __future__ import annotations

import trio

from tierfs.errors import NotADirectory, NotFound
from tierfs.index.names import Names
from tierfs.index.records import Inode, Kind, ListingState
from tierfs.namespace.ahead import Ahead
from tierfs.namespace.attributes import Attributes, Freshness, Presenter
from tierfs.namespace.entries import Entries
from tierfs.namespace.listing import Listings
from tierfs.namespace.run import Run

#: Entries given at a time: as many as a page of a listing has.
BATCH = 1_000


class Reader:
    """Reads directories; stateless but for what it is made of."""

    def __init__(
        self,
        names: Names,
        entries: Entries,
        listings: Listings,
        freshness: Freshness,
        presenter: Presenter,
        ahead: Ahead,
    ) -> None:
        self._names = names
        self._entries = entries
        self._listings = listings
        self._freshness = freshness
        self._presenter = presenter
        self._ahead = ahead

    async def readdir(
        self, directory: int, after_ino: int, limit: int = BATCH
    ) -> list[tuple[int, bytes, Attributes]]:
        """See `Namespace.readdir`."""
        run = self._begin(directory, after_ino)
        while True:
            rows = self._names.children(directory, after_ino, limit)
            if run is None or run.complete:
                await trio.lowlevel.checkpoint()
                return self._show(rows, self._checked_ns(directory, run))
            confirmed = self._confirmed(run, rows)
            if confirmed:
                await trio.lowlevel.checkpoint()
                return self._show(confirmed, run.begun_ns)
            if run.error is not None:
                raise run.error
            await run.progress()

    async def listed(self, directory: int, after_ino: int) -> bool:
        """See `Namespace.listed`."""
        run = self._begin(directory, after_ino)
        if run is not None and not run.has_pages:
            await run.progress()
        await trio.lowlevel.checkpoint()
        if run is not None and not run.complete:
            return False
        checked_ns = self._checked_ns(directory, run)
        return self._freshness.left_s(checked_ns, self._freshness.now_ns()) > 0.0

    def _begin(self, directory: int, after_ino: int) -> Run | None:
        """The listing that a reader at *after_ino* goes by; None: the one that the index has."""
        inode = self._entries.inode(directory)
        if inode is None:
            raise NotFound("read a directory", f"inode {directory}")
        if inode.kind is not Kind.DIRECTORY:
            raise NotADirectory("read a directory", f"inode {directory}")
        run = self._listings.current(directory)
        if run is None and self._must_list(directory, after_ino):
            run = self._listings.start(directory)
        if run is not None and not after_ino:
            self._ahead.reads(directory, inode.parent)
        return run

    def _checked_ns(self, directory: int, run: Run | None) -> int:
        return run.begun_ns if run else self._names.listing(directory).checked_ns

    def _must_list(self, directory: int, after_ino: int) -> bool:
        """A reader that begins wants a fresh listing, one that goes on wants the one it began
        with."""
        listing = self._names.listing(directory)
        if listing.state is not ListingState.COMPLETE or self._listings.failed(directory):
            return True
        if after_ino:
            return False
        return self._freshness.left_s(listing.checked_ns, self._freshness.now_ns()) <= 0.0

    def _confirmed(
        self, run: Run, rows: list[tuple[int, bytes, Inode]]
    ) -> list[tuple[int, bytes, Inode]]:
        """The leading *rows* that the lake is known to have. What comes after one that is not is
        for later, because a reader that passed a position never comes back to it."""
        if not run.resumed:
            for n, row in enumerate(rows):
                if not run.confirms(row[0]):
                    return rows[:n]
            return rows
        now_ns = self._freshness.now_ns()
        dentries = self._names.dentries(run.directory, [name for _, name, _ in rows])
        for n, dentry in enumerate(dentries):
            if dentry is None or not run.begun_ns <= dentry.checked_ns <= now_ns:
                return rows[:n]
        return rows

    def _show(
        self, rows: list[tuple[int, bytes, Inode]], checked_ns: int
    ) -> list[tuple[int, bytes, Attributes]]:
        left_s = self._freshness.left_s(checked_ns, self._freshness.now_ns())
        show = self._presenter.show
        return [(ino, name, show(ino, inode, left_s)) for ino, name, inode in rows]
