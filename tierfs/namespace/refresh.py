"""Making the mount show the lake's present state, whatever the TTL says.

The index is asked what a kernel can know of: names that were looked up, directories that were
listed. Those are asked for anew, and `Entries` announces what changed. What nobody ever saw is left
alone.
"""

from __future__ import annotations

from contextlib import nullcontext

from tierfs.errors import NotFound
from tierfs.index.names import Names
from tierfs.index.records import ROOT_INO, Kind, ListingState
from tierfs.namespace import keys
from tierfs.namespace.absence import Absences
from tierfs.namespace.described import Describer
from tierfs.namespace.entries import Entries
from tierfs.namespace.listing import Listings
from tierfs.namespace.lookup import Lookups

_BATCH = 1_000


class Refresher:
    """Stateless but for what it is made of."""

    def __init__(
        self,
        names: Names,
        entries: Entries,
        listings: Listings,
        lookups: Lookups,
        absences: Absences,
        describer: Describer,
    ) -> None:
        self._names = names
        self._entries = entries
        self._listings = listings
        self._lookups = lookups
        self._absences = absences
        self._describer = describer

    async def refresh(self, target: int | bytes) -> int:
        """See `Namespace.refresh`."""
        path = target if isinstance(target, bytes) else self._entries.path_of(target)
        changes = self._entries.changes
        ino, kind = ROOT_INO, Kind.DIRECTORY
        with self._describer.anew(path):
            for name in keys.components(path):
                found = await self._lookups.lookup(ino, name, force=True)
                ino, kind = found.ino, found.kind
            if kind is Kind.DIRECTORY:
                await self._below(ino)
        return self._entries.changes - changes

    async def _below(self, top: int) -> None:
        """List every directory from *top* down that something is known of. A few positions are
        kept, one for each level."""
        await self._directory(top)
        stack = [(top, 0)]
        while stack:
            directory, after = stack.pop()
            rows = self._names.children(directory, after, _BATCH)
            for n, (ino, _, inode) in enumerate(rows):
                if inode.kind is Kind.DIRECTORY and self._is_seen(ino):
                    try:
                        await self._directory(ino)
                    except NotFound:
                        continue  # It went while its parent was being looked at.
                    stack += [(directory, ino), (ino, 0)]
                    break
                if n == len(rows) - 1:
                    stack.append((directory, ino))

    def _is_seen(self, directory: int) -> bool:
        return self._names.listing(directory).state is not ListingState.NONE or bool(
            self._names.children(directory, 0, 1)
        )

    async def _directory(self, directory: int) -> None:
        """List *directory* anew; if it never was listed, only ask for the few names that were
        looked up."""
        state = self._names.listing(directory).state
        if state is not ListingState.NONE:
            # Only who had all names has denied any beside those that are remembered.
            denied = state is ListingState.COMPLETE
            with self._entries.announcing(directory) if denied else nullcontext():
                await self._listings.run(directory, since_now=True)
            return
        for name in self._absences.names_in(directory):
            await self._ask(directory, name)
        # Only what is there now: an object that is written all the time is a new inode each time.
        inos = self._names.child_inos(directory)
        for ino in inos:
            known = self._names.child_name(directory, ino)
            if known is not None:
                await self._ask(directory, known)

    async def _ask(self, directory: int, name: bytes) -> None:
        try:
            await self._lookups.lookup(directory, name, force=True)
        except NotFound:
            return  # It is gone; that is what was to be found out.
