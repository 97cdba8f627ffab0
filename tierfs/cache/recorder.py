"""Brings the index to what the objects in use say, in groups.

State, not operations: an object that changed is marked, and when the recorder comes round it
writes what the object is then. It waits GATHER_S before each round, so that a fill of small files
makes one commit of many: nobody but a fetch that has answered its readers waits for it. While a
group commits, the records in it stay readable in `CachedObject.recording`.

Order within one object: the old copy is dropped, then the file is recorded, then its blocks. The
index applies commits in the order in which they were made.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from tierfs.cache.objects import CachedObject
from tierfs.cache.space import Health
from tierfs.index.cache import CacheBatch, CacheIndex

#: How long marks are gathered for a commit. CPU of the index's thread for a cold small file with 4
#: and with 16 readers: 300 and 230 us without it, 265 and 100 with 5 ms, 130 and 50 with this.
GATHER_S = 0.02
#: Block records in one commit, so that a group stays a matter of milliseconds.
MAX_GROUP = 4096


class _Announcement:
    """That a record of a file is committed, or the error that kept it from being."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: Exception | None = None


class Recorder:
    """One for each front. *settled* is called for each object whose changes are all committed."""

    def __init__(
        self, index: CacheIndex, health: Health, settled: Callable[[CachedObject], None]
    ) -> None:
        self._index = index
        self._health = health
        self._settled = settled
        self._dirty: dict[int, CachedObject] = {}
        self._committing: dict[int, CachedObject] = {}
        self._announcements: dict[int, _Announcement] = {}
        self._wake: trio.MemorySendChannel[None]
        self._woken: trio.MemoryReceiveChannel[None]
        self._wake, self._woken = trio.open_memory_channel(1)
        self._turn = trio.Lock()

    def mark(self, o: CachedObject) -> None:
        """*o* changed; the index will follow soon."""
        self._dirty[o.ino] = o
        self._call()

    def _call(self) -> None:
        try:
            self._wake.send_nowait(None)
        except trio.WouldBlock:
            return

    def pending(self, o: CachedObject) -> bool:
        """Whether *o* has changes that are not committed."""
        return o.ino in self._dirty or o.ino in self._committing

    @property
    def busy(self) -> bool:
        """Whether anything is not committed."""
        return bool(self._dirty or self._committing)

    async def run(self) -> None:
        """Commit until cancelled."""
        async for _ in self._woken:
            await trio.sleep(GATHER_S)
            await self._turn.acquire()
            try:
                await self._round()
            finally:
                self._turn.release()
            if self._dirty:
                self._call()

    async def drain(self) -> None:
        """Commit everything that is marked now or becomes so meanwhile."""
        await self._turn.acquire()
        try:
            while self._dirty:
                await self._round()
        finally:
            self._turn.release()

    async def announce(self, o: CachedObject) -> None:
        """Have a record of *o*'s file committed, so that the file may be created (C3).

        Raises whatever the index raises.
        """
        announcement = self._announcements.get(o.ino)
        if announcement is None:
            announcement = self._announcements[o.ino] = _Announcement()
            self.mark(o)
        await announcement.done.wait()
        if announcement.error is not None:
            raise announcement.error

    async def _round(self) -> None:
        group: dict[int, CachedObject] = {}
        room = MAX_GROUP
        for ino, o in list(self._dirty.items()):
            if room <= 0:
                break
            del self._dirty[ino]
            group[ino] = o
            room -= 1 + len(o.fresh)
        batch = CacheBatch()
        purged = [o for o in group.values() if o.purge]
        asked = {n: self._announcements.pop(n) for n in group if n in self._announcements}
        for o in group.values():
            _write(o, batch, announce=o.ino in asked)
        self._committing = group
        try:
            # Whoever is being shut down still sees what was handed over committed.
            with trio.CancelScope(shield=True):
                await self._index.commit(batch)
        except Exception as error:
            # The index cannot take it (its disk is full or failing): what it does not know will be
            # fetched again after a restart, and until then the objects in use know better.
            self._health.failed("record blocks", error)
            for o in group.values():
                o.unrecorded = True
            for o in purged:
                o.purge = True
            for announcement in asked.values():
                announcement.error = error
        else:
            for ino in asked:
                group[ino].announced = True
        finally:
            self._committing = {}
            for o in group.values():
                o.recording = {}
            for announcement in asked.values():
                announcement.done.set()
        for o in group.values():
            if o.ino not in self._dirty:
                self._settled(o)


def _write(o: CachedObject, batch: CacheBatch, *, announce: bool) -> None:
    """Put what is due of *o* into *batch*; with *announce* its file, too, which may not exist
    yet."""
    o.recording, o.fresh = o.fresh, {}
    if o.purge:
        # The file may still be there, so its record stays, empty (C3).
        batch.drop_file(o.ino)
    if announce or o.announced or o.purge:
        o.purge = False
        batch.put_file(o.ino, o.file_record())
    put = {n: record for n, record in o.recording.items() if record is not None}
    drop = [n for n, record in o.recording.items() if record is None]
    if put:
        batch.put_blocks(o.ino, put)
    if drop:
        batch.drop_blocks(o.ino, drop)
