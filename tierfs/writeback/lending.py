"""What the publisher asks of the files that are written here: their contents, which nobody changes
as long as it needs them, and what becomes of a change that is given up.

Invariants D1..D4 in `tierfs.writeback.directories`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

import trio

from tierfs.errors import CacheError, NotFound
from tierfs.writeback.conflicts import Lost
from tierfs.writeback.decisions import Decisions
from tierfs.writeback.journal import Work
from tierfs.writeback.records import Flag
from tierfs.writeback.staging import Live
from tierfs.writeback.uploads import Content


class Lending(Decisions):
    """`Decisions`, and the contents of what was closed."""

    async def open_content(self, ino: int, content: int) -> int:
        """A descriptor of a content of *ino*, which nobody changes any more. Raises CacheError if
        it is not there."""
        live = self._live.get(ino)
        if live is None:
            return self._open_content(ino, content)
        async with live.lock:
            return self._open_content(ino, content)

    def _open_content(self, ino: int, content: int) -> int:
        path = self.staging.content(ino, content)
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise CacheError("read what was written", str(path), error.strerror or "") from error

    def lend(self, number: int, content: Content) -> None:
        """*content*, the content *number* of its inode, is read from a descriptor that
        `open_content` gave."""

    def discard_content(self, ino: int, content: int) -> None:
        """An entry of the log that brought a content of *ino* is done with: what only that needed
        can go."""
        if not content or self._is_wanted(ino, content):
            # Without one it is a change of the lake's file, and what is here was written since.
            return
        self.staging.remove(ino, content)
        gone = self.journal.node(ino) is None and ino not in self._live
        if gone and not self.journal.read(lambda work: list(work.contents_wanted(ino))):
            self.staging.remove(ino)

    def _is_wanted(self, ino: int, content: int) -> bool:
        return self.journal.read(lambda work: work.is_wanted(ino, content))

    def _has_changed(self, live: Live) -> bool:
        """Whether *live* was written to since its last commit point."""
        return live.changed

    @contextlib.asynccontextmanager
    async def parted(self, ino: int, *, copied: bool = False) -> AsyncIterator[None]:
        """Hold *ino*, whose old name may be the lake's to decide after this. A file that has its
        bytes here is known by its new name alone: under the old one it would show them. So is one
        of which the lake has a copy under the new name (*copied*): there are two files then."""
        async with self._holds.hold(ino):
            node, parent = self.journal.node(ino), self._namespace.parent(ino)
            here = node is not None and (copied or not node.flags & Flag.REMOTE)
            if node is not None and parent is not None and here:
                # The lake's part of the tree may have lost the name meanwhile.
                with contextlib.suppress(NotFound):
                    name = self._namespace.path_of(ino).rpartition(b"/")[2]
                    if (parent, name) != (node.parent, node.name):
                        await self._namespace.vanished(parent, name)
            yield

    async def lose(self, lsn: int, ino: int, *, kept: bool) -> Lost | None:
        """Give up *lsn*, a change of *ino* (`Conflicts`). None, with nothing done: what it was to
        bring has to be *kept* first."""

        def lose(work: Work) -> Lost | None:
            path = self.tree.goes_on(work, lsn)
            if not kept and not path and self.tree.has_to_be_kept(work, lsn):
                return None
            return Lost(self.tree.lose(work, lsn, self._live), path)

        async with self.parted(ino):
            return await self.change(lose)

    async def leave_source(self, lsn: int, ino: int) -> bool:
        """See `Conflicts.leave_source`, of a change of *ino*."""

        async def leave(*, is_here: bool) -> bool:
            return await self.change(
                lambda work: self.tree.leave_source(work, lsn, is_here=is_here)
            )

        async with self.parted(ino):
            live = self._live.get(ino)
            if live is None:
                return await leave(is_here=True)
            async with live.lock:
                return await leave(is_here=not self._has_changed(live))

    async def wait_for_writers(self, ino: int, most_s: float) -> None:
        """Wait until nobody has *ino* open for writing, but at most *most_s*, and not if somebody
        waits for the lake to have it."""
        with trio.move_on_after(most_s):
            while (live := self._live.get(ino)) and live.writers and not live.awaited:
                await live.idle.wait()
