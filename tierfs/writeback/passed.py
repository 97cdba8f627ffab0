"""Write-back directories where the kernel reads and writes the files by itself: a native front
passes staging files through, and what is seen here of a file is that it is opened, closed and
synced.

What differs from `WriteBack`, of which this is the other half:

D4. Writes are not seen. So what was closed is kept before anybody gets a handle to write with
    (`_before_writing`), and what a close found is compared with what the last one did.
D5. A file that is open goes on with the staging file that it has, which is its backing file: what
    is kept of it is a copy, and a publisher that reads it goes on with that.
D6. An inode passes through to one file for as long as it is open. So a file of the lake's gets
    another number when it is opened for writing, as if it was renamed over: whoever has it open
    reads on what it was.
D7. Handles outlive this process. They are known by the request that opened them (*fh* is its
    number), and the front says which there are (`restore`, `reconcile`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Collection, Iterable

import trio

from tierfs.errors import StaleVersion, TierfsError
from tierfs.index.records import Kind
from tierfs.writeback.decisions import Parts
from tierfs.writeback.directories import WriteBack
from tierfs.writeback.files import WRITE_FLAGS
from tierfs.writeback.history import LakeEntry
from tierfs.writeback.journal import Work
from tierfs.writeback.reading import OpenHandle
from tierfs.writeback.records import Flag
from tierfs.writeback.staging import Live
from tierfs.writeback.tree import renumber
from tierfs.writeback.uploads import Content

_log = logging.getLogger(__name__)

#: From Linux 6.13 on a change after a look has another time than one before it.
_FINE_TIMES = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 13)
#: Elsewhere a file that changed so shortly before it was looked at may change again without showing
#: it: the clock of a file system ticks every 10 ms or less.
RACY_NS = 20_000_000
#: How long what was copied to be written to waits for whoever wanted that.
TAKEN_S = 10.0


class Renumbered(StaleVersion):
    """A file of the lake's has another number, by which it can be written to: the kernel looks its
    path up again."""


class PassedThrough(WriteBack):
    """`WriteBack` behind a native front. `expire` runs beside it."""

    sees_writes = False

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.union.in_use_ttl_s = 0.0
        #: What was copied to be written to, and since when it waits for whoever wanted that.
        self._copied: dict[int, float] = {}
        #: The number that a file of the lake's is about to get.
        self._copying: dict[int, int] = {}
        #: Contents that a publisher reads, by inode and number.
        self._lent: list[tuple[tuple[int, int], Content]] = []

    async def open(self, ino: int, flags: int, pid: int = 0, *, fh: int = 0) -> int:
        """As `WriteBack.open`; 0: it is the lake's, for the front to open. Raises Renumbered
        where it was the lake's, and has another number now: the kernel looks the path up again,
        once. So where *ino* has become old meanwhile, what is at its path now is made ready to be
        written to, too."""
        if fh in self._handles:
            return fh  # Asked again.
        if ino in self._copied:
            # Somebody has come for it, however long they wait for room now.
            self._copied[ino] = math.inf
        place = self._place_known(ino) if flags & WRITE_FLAGS else None
        try:
            return await super().open(ino, flags, pid, fh=fh)
        except StaleVersion as stale:
            if place is not None and not isinstance(stale, Renumbered):
                await self._make_ready(ino, *place, flags)
            raise
        finally:
            if ino in self._copied:
                self._copied[ino] = time.monotonic()

    def _place_known(self, ino: int) -> tuple[int, bytes] | None:
        """The directory and the name of *ino*, if it is a file of the lake's that has one."""
        found = self.union.object_of(ino)
        with contextlib.suppress(StaleVersion):
            return found and self._place_of(ino, self.journal.node(ino), found[0])
        return None

    async def _make_ready(self, old: int, parent: int, name: bytes, flags: int) -> None:
        """Have what is at this place, and is not *old*, under a number by which it can be written
        to."""
        # What stands in the way is said to whoever comes for it.
        with contextlib.suppress(TierfsError):
            found = await self._at(parent, name)
            if found is None or found.ino == old or found.kind is not Kind.FILE:
                return
            await self._room_to_open(found.ino, flags)
            async with self._holds.hold(found.ino):
                node = self.journal.node(found.ino)
                if node is None or node.flags & Flag.REMOTE:  # Nobody else has seen to it.
                    await self._bring(found.ino, writes=True, empty=bool(flags & os.O_TRUNC))

    async def _open_in_lake(self, ino: int, pid: int) -> int:
        return 0

    async def _bring(self, ino: int, *, writes: bool, empty: bool) -> Live | None:
        try:
            live = await super()._bring(ino, writes=writes, empty=empty)
        except BaseException:
            self._copied.pop(self._copying.get(ino, 0), None)
            raise
        finally:
            self._copying.pop(ino, None)
        if live is None:
            return None
        if live.ino != ino:
            os.close(live.fd)
            self._copied[live.ino] = time.monotonic()
            raise Renumbered("open for writing", f"inode {ino}", "it has another number now")
        node = self.journal.node(ino)
        # What was copied to be written to, and was not yet, is no content of ours.
        live.changed = live.changed and not (node is not None and node.is_copy)
        self._look(live)
        self._copied.pop(ino, None)
        return live

    async def _number_of_copy(self, ino: int) -> int:
        number = await self._new_ino()
        # Before anybody else knows of it.
        self._copied[number] = math.inf
        self._copying[ino] = number
        return number

    def _check_place(self, work: Work, ino: int, parent: int, name: bytes) -> None:
        # Who asks may have looked *ino* up before it got another number, under which it may have
        # been written to since (D6).
        super()._check_place(work, ino, parent, name)
        known = self._namespace.known(parent, name)
        if work.ino_of(parent, name) is None and known is not None and known.ino != ino:
            raise StaleVersion("open for writing", name, "the path names a newer version")

    def _taken(self, work: Work, ino: int, parent: int, name: bytes, lake: LakeEntry) -> None:
        renumber(work, ino, lake.ino)
        super()._taken(work, ino, parent, name, lake)

    async def expire(self) -> None:
        """Give what was copied to be written to back to the lake, where nobody came for it."""
        while True:
            await trio.sleep(TAKEN_S)
            late_s = time.monotonic() - TAKEN_S
            for ino in [ino for ino, since_s in self._copied.items() if since_s < late_s]:
                async with self._holds.hold(ino):
                    if self._copied.pop(ino, None) is not None and ino not in self._live:
                        await self._forget(ino)
                        self.changed()

    async def _forget(self, ino: int) -> None:
        # The kernel knows the name under this number.
        self._tidy(await self.change(lambda work: self.tree.forget(work, ino, known=True)))

    def expect_copied(self) -> list[int]:
        """See `WriteBack.expect_copied`: whoever was told that a file has another number may not
        have come before the process that had said so died. Under that number it is as it was
        copied: what is open is in use, and a close that follows a change is a commit point, which
        waits to be one."""
        copied = [
            ino
            for ino, node in self.journal.read(lambda work: list(work.nodes()))
            if node.kind is Kind.FILE and node.is_copy and not node.is_passing
        ]
        self._copied |= dict.fromkeys(copied, time.monotonic())
        return copied

    def in_use(self, ino: int) -> bool:
        """See `Handles.in_use`; also what was copied for somebody who is about to come."""
        return ino in self._copied or super().in_use(ino)

    # ---- what was written -----------------------------------------------------------------------

    def _look(self, live: Live) -> None:
        """Remember what the file is like: as at its last commit point."""
        live.seen = _seen(os.fstat(live.fd))

    def _has_changed(self, live: Live) -> bool:
        return live.changed or live.seen is None or _state(os.fstat(live.fd)) != live.seen

    def _is_synced(self, live: Live, status: os.stat_result) -> bool:
        return live.seen_synced == _state(status)

    async def _committed(self, live: Live, status: os.stat_result) -> None:
        live.seen = _seen(status)
        node = self.journal.node(live.ino)
        for content in self.journal.read(lambda work: list(work.contents_wanted(live.ino))):
            # Closed before, with a descriptor left through which it was written on.
            over = node is None or content != node.content
            if over and not self.staging.frozen_path(live.ino, content).exists():
                await self._keep(live, content)
                self.discard_content(live.ino, content)  # As below.
        if live.writers > 1:
            # Another handle may be written through from here on, unseen.
            await self._before_change(live, empty=False)

    async def _before_writing(self, live: Live, *, empty: bool) -> None:
        async with live.lock:
            await self._before_change(live, empty=empty)

    async def _before_change(self, live: Live, *, empty: bool) -> None:
        node = self.journal.node(live.ino)
        if node is None or live.kept == node.content or not self._is_wanted(live.ino, node.content):
            return
        # It is kept already where it was by an earlier process, or for a publisher that reads it: a
        # copy of what is there by now would take its place.
        if not self.staging.frozen_path(live.ino, node.content).exists():
            await self._keep(live, node.content, empty=empty)
            self.discard_content(live.ino, node.content)  # The lake may have got it meanwhile.
        live.kept = node.content

    def _to_copy_first(self, ino: int, *, empty: bool) -> int:
        live, node = self._live.get(ino), self.journal.node(ino)
        # What is open is kept in a copy, whatever becomes of it (D5).
        if node is None or (live is None and empty) or (live and live.kept == node.content):
            return 0
        wanted = self._is_wanted(ino, node.content)
        return self.staging.copied_by_writing(ino) if wanted else 0

    async def _keep(self, live: Live, content: int, *, empty: bool = False) -> None:
        if live.handles == 0:
            status = os.fstat(live.fd)
            await self.staging.freeze(live, content, empty=empty)
            os.utime(live.fd, ns=(status.st_atime_ns, status.st_mtime_ns))
            self._look(live)
            return
        await self.staging.keep(live, content)
        kept = self.staging.frozen_path(live.ino, content)
        for which, lent in list(self._lent):
            if which == (live.ino, content) and lent.fd >= 0:
                fd = os.open(kept, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    await lent.go_on_with(fd)
                finally:
                    os.close(fd)

    async def open_content(self, ino: int, content: int) -> int:
        """As `WriteBack.open_content`. What somebody may still write to is kept first, as it is
        now."""
        live = self._live.get(ino)
        if live is not None and live.writers:
            async with live.lock:
                if not self.staging.frozen_path(ino, content).exists():
                    await self._keep(live, content)
        return await super().open_content(ino, content)

    def lend(self, number: int, content: Content) -> None:
        """See `WriteBack.lend`."""
        self._lent = [(which, lent) for which, lent in self._lent if lent.fd >= 0]
        self._lent.append(((content.ino, number), content))

    # ---- what the front says --------------------------------------------------------------------

    async def flush_file(self, ino: int) -> None:
        """A descriptor of *ino* that can be written through was closed: a commit point."""
        live = self._live.get(ino)
        if live is None:
            await self._flush_unknown(ino)
            return
        await self._arrive(live, await self._commit(live))
        # Nothing of what was written was held up yet.
        await self.staging.room.keep_pace(self.staging.measure(live))

    async def _flush_unknown(self, ino: int) -> None:
        """A descriptor of a handle that nobody has told of was closed: what was written through it
        counts all the same."""
        async with self._holds.hold(ino):
            live = self._take_up(ino)
            if live is None:
                return
            _log.warning("inode %d is closed, which nobody was known to have open", ino)
            live.changed = True
            fh = self._add_handle(live, writer=True)
            try:
                told = await self._commit(live)
            finally:
                await self._drop_handle(fh)
        await self.arrive(told)

    async def sync_file(self, ino: int, *, data_only: bool) -> None:
        """What was written to *ino* is on the disk when this returns."""
        live = self._live.get(ino)
        if live is not None:
            status = os.fstat(live.fd)
            await self.staging.sync(live, data_only=data_only)
            live.seen_synced = _seen(status)
            if self.tree.rules.any_waits:
                await self._arrive(live, await self._commit(live, if_awaited=True))

    async def set_size(self, ino: int, size: int, fh: int | None) -> None:
        """As `WriteBack.set_size`; *fh*: through a descriptor, whichever that is."""
        live = self._live.get(ino)
        if fh is not None and live is not None and live.writers:
            await self._truncate(live, size)
            return
        await super().set_size(ino, size, None)

    async def restore(self, handles: Iterable[OpenHandle]) -> None:
        """Take up *handles*, which an earlier process gave out."""
        for ino, unique, writes in handles:
            node = self.journal.node(ino)
            live = None if unique in self._handles else self._take_up(ino)
            if node is None or live is None:
                continue
            # What was written under the last process nobody here has seen.
            live.changed = live.changed or writes or not node.lsn
            self._add_handle(live, writer=writes, fh=unique)

    def _take_up(self, ino: int) -> Live | None:
        """The staging file of *ino*, which somebody has open since an earlier process; None where
        it is none."""
        live = self._live.get(ino)
        node = self.journal.node(ino)
        if live is None and node is not None and node.kind is Kind.FILE:
            if node.flags & Flag.REMOTE:
                return None
            live = self._live[ino] = Live(ino, self.staging.open(ino), changed=False)
            self._look(live)
        return live

    async def reconcile(self, handles: Collection[int], under_way: Collection[int]) -> None:
        """Close what is not among *handles*, all that the front has; *under_way* are requests that
        may still become some."""
        for fh in list(self._handles):
            if fh % 2 == 0 and fh not in handles and fh not in under_way:
                await self.release(fh)


def _seen(status: os.stat_result) -> tuple[int, int, int] | None:
    """What a file that is looked at now is like; None: a change right after this may not show."""
    racy = not _FINE_TIMES and time.time_ns() - status.st_mtime_ns < RACY_NS
    return None if racy else _state(status)


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
