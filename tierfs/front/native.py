"""The filler behind a native front: the cache is filled here, and served over there.

A native front reads the index and the cache files by itself. What is not whole it asks for
(`NativeFront.read_for`), and of what it serves without asking it tells afterwards: which files are
in use, and which it has verified. The commands of the port are those of `PythonFront`; a file that
the native front has in use is in use here, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tierfs.cache.blocks import Buffer
from tierfs.front.python import PythonFront
from tierfs.index.cache import CacheBatch
from tierfs.index.records import Extent, ObjectRef


class _Held:
    """An object that is open for the native front: our handle, and how many of its OPENs we
    answered."""

    __slots__ = ("count", "fh")

    def __init__(self, fh: int) -> None:
        self.fh = fh
        self.count = 0


class NativeFront(PythonFront):
    """See the module. The front's own counters arrive in `front_stats`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: dict[int, _Held] = {}
        self._used: set[int] = set()
        self._doomed_in_use: set[int] = set()
        #: What the native front counted last, by name.
        self.front_stats: dict[str, int] = {}

    # ---- what a native front asks --------------------------------------------------------------

    async def open_for(self, ino: int, ref: ObjectRef, size: int) -> None:
        """Keep an object ready for `read_for`, until `close_for` was told of as many. Raises as
        `open`."""
        (await self._hold(ino, ref, size)).count += 1

    async def read_for(self, ino: int, ref: ObjectRef, size: int, offset: int, n: int) -> Buffer:
        """Up to *n* bytes at *offset*, as `read`. An object that is not open (an earlier control
        plane had it) is opened."""
        held = self._held.get(ino) or await self._hold(ino, ref, size)
        return await self.read(held.fh, offset, n)

    def note_for(self, ino: int, offset: int, size: int) -> None:
        """The front answered a read of an object that is being filled: read-ahead goes by all of
        them."""
        held = self._held.get(ino)
        if held is not None:
            self.note(held.fh, offset, size)

    async def _hold(self, ino: int, ref: ObjectRef, size: int) -> _Held:
        fh = await self.open(ino, ref, size)
        held = self._held.get(ino)
        if held is None:
            held = self._held[ino] = _Held(fh)
        else:
            await self.release(fh)
        return held

    async def close_for(self, ino: int, count: int) -> None:
        """*count* of the OPENs are over. Does not wait."""
        held = self._held.get(ino)
        if held is None:
            return
        held.count -= count
        if held.count <= 0:
            del self._held[ino]
            await self.release(held.fh)

    # ---- what a native front tells -------------------------------------------------------------

    async def begin_session(self) -> None:
        """Another native front, or the same one anew: what is in use it will tell."""
        for held in self._held.values():
            await self.release(held.fh)
        self._held.clear()
        for ino in list(self._used):
            self.not_used(ino)

    def used(self, ino: int) -> None:
        """The native front has *ino* open, until `not_used`. Twice is once."""
        if ino not in self._used:
            self._used.add(ino)
            self.pin(ino)

    def not_used(self, ino: int) -> None:
        """The last handle of *ino* over there is closed."""
        if ino in self._used:
            self._used.remove(ino)
            self.unpin(ino)
            if ino in self._doomed_in_use:
                self._doomed_in_use.remove(ino)
                self._doomed(ino)

    def accessed(self, ino: int, at_ns: int) -> None:
        """An open run of *ino* began over there."""
        self._accesses.add(ino, at_ns)

    def verified(self, ino: int, size: int, ctime_ns: int) -> None:
        """The native front compared every block of a whole file, which had *size* and *ctime_ns*
        before and after."""
        stamp = (self._completion.boot, size, ctime_ns)
        o = self._table.get(ino)
        if o is not None:
            if o.complete:
                o.verified = stamp
                self._table.recorder.mark(o)
            return
        file = self._index.file(ino)
        if file is None or not file.complete or file.size != size:
            return
        batch = CacheBatch()
        boot, size, ctime_ns = stamp
        batch.put_file(
            ino,
            file._replace(verified_boot=boot, verified_size=size, verified_ctime_ns=ctime_ns),
        )
        self._index.commit_soon(batch)

    # ---- the port ------------------------------------------------------------------------------

    async def evict(self, ino: int, extents: Sequence[Extent] | None = None) -> int:
        """See `FrontPort.evict`."""
        if ino in self._used and extents is None:
            self._doomed_in_use.add(ino)
        return await super().evict(ino, extents)

    async def invalidate(self, ino: int) -> None:
        """See `FrontPort.invalidate`: what the native front serves without asking is whole, and
        goes on."""
        if ino in self._used:
            self._doomed_in_use.add(ino)
        await super().invalidate(ino)

    def stats(self) -> dict[str, Any]:
        """See `FrontPort.stats`."""
        stats = super().stats()
        front = self.front_stats
        stats["hits"] += front.get("hits", 0) + front.get("opens_passed_through", 0)
        stats["hit_bytes"] += front.get("hit_bytes", 0)
        return stats
