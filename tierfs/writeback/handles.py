"""Open files of write-back directories: read, written, and closed, which is a commit point.

Bytes are `tierfs.writeback.staging`'s, commit points `tierfs.writeback.tree`'s; here is what ties
the two. Invariants D1..D4 in `tierfs.writeback.directories`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

import trio

from tierfs.cache.blocks import identity_of
from tierfs.errors import CacheError, InvalidRequest, NotFound, StaleVersion
from tierfs.index.records import Kind
from tierfs.lake.protocol import Version
from tierfs.writeback.decisions import Parts
from tierfs.writeback.history import Done, Told
from tierfs.writeback.journal import Work
from tierfs.writeback.lending import Lending
from tierfs.writeback.records import Flag, Op, State
from tierfs.writeback.staging import Live

_log = logging.getLogger(__name__)

#: What is being moved in the lake is looked for so often, with pauses that grow by so much.
MOVED_ATTEMPTS, MOVED_PAUSE_S = 6, 0.05
#: Held, with an inode number, by who finds out where its object is.
WHERE_IT_IS = "where it is"


class Handle:
    """An open file: a staging file (*live*), or the front's handle *front_fh* on a file of the
    lake's, until somebody writes to that."""

    __slots__ = ("front_fh", "ino", "live", "writer")

    def __init__(
        self, ino: int, live: Live | None, *, writer: bool = False, front_fh: int = 0
    ) -> None:
        self.ino = ino
        self.live = live
        self.writer = writer
        self.front_fh = front_fh


class Handles(Lending):
    """`Lending`, and what is open. *committed* is called with an inode at each commit point, and
    when it was first written to since the last one (wall-clock nanoseconds)."""

    #: Whether writes come here, so that what was closed is kept before it is written over.
    sees_writes = True

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._front = parts.front
        self._head = parts.head
        self._handles: dict[int, Handle] = {}
        #: Handles of the front's by inode.
        self._reading: dict[int, set[int]] = {}
        #: Odd, as no number is that a request of the kernel's has.
        self._next_fh = 1
        self.committed: Callable[[int, int], None] = lambda ino, first_write_ns: None

    # ---- what others ask ------------------------------------------------------------------------

    def in_use(self, ino: int) -> bool:
        """Whether *ino* is open, or bytes of it are still on their way into the cache."""
        return ino in self._live or self._front.opened(ino) is not None

    def state_of(self, ino: int) -> bytes | None:
        """Where a file's bytes are, for its extended attribute: ``open`` (written to since its last
        close), ``held`` (a temporary name), ``closed`` (on its way into the lake) or ``uploaded``;
        None where that is the front's to say."""
        node = self.journal.node(ino)
        if node is None or node.kind is not Kind.FILE:
            return None
        live = self._live.get(ino)
        if not node.lsn or (live is not None and self._has_changed(live)):
            return None if node.flags & Flag.REMOTE else b"open"
        if node.flags & Flag.PUBLISHED:
            return b"uploaded"
        return b"held" if node.flags & Flag.HELD else b"closed"

    async def uploaded_version(self, ino: int, *, with_id: bool) -> Version | None:
        """The version of a file that is in the lake and not handed over yet (`state_of`), or None;
        *with_id* asks the lake, because the journal has ETags alone. Raises as `Lake.head`."""
        node = self.journal.node(ino)
        if node is None or self.state_of(ino) != b"uploaded":
            return None
        if not with_id:
            return Version(node.etag)
        try:
            found = await self._head(node.key)
        except NotFound:
            return None
        return found.version if found.version.etag == node.etag else None

    def being_written(self) -> list[int]:
        """Inodes that somebody has open for writing, and has written to since the last close."""
        return [ino for ino, live in self._live.items() if live.writers and live.changed]

    @property
    def open_handles(self) -> int:
        """How many handles there are (a gauge)."""
        return len(self._handles)

    # ---- handles --------------------------------------------------------------------------------

    def _add_handle(self, live: Live, *, writer: bool, fh: int = 0) -> int:
        live.handles += 1
        live.writers += writer
        if live.writers and not live.awaited and live.idle.is_set():
            live.idle = trio.Event()
        return self._new_fh(Handle(live.ino, live, writer=writer), fh)

    def _new_fh(self, handle: Handle, fh: int = 0) -> int:
        if not fh:
            fh = self._next_fh
            self._next_fh += 2
        self._handles[fh] = handle
        return fh

    def _handle(self, fh: int) -> Handle:
        handle = self._handles.get(fh)
        if handle is None:
            raise InvalidRequest("use a handle", f"handle {fh}")
        return handle

    def _written(self, fh: int) -> Live:
        live = self._handle(fh).live
        if live is None:
            raise InvalidRequest("write to a file", f"handle {fh}", "it is open for reading")
        return live

    async def release(self, fh: int) -> None:
        """The last descriptor of a handle was closed; an unknown one is a no-op."""
        handle = self._handles.get(fh)
        if handle is None:
            return
        async with self._holds.hold(handle.ino):
            await self._drop_handle(fh)

    async def _drop_handle(self, fh: int) -> None:
        handle = self._handles.pop(fh)
        live = handle.live
        if live is None:
            readers = self._reading[handle.ino]
            readers.discard(fh)
            if not readers:
                del self._reading[handle.ino]
            await self._front.release(handle.front_fh)
            return
        self._closed(live, writer=handle.writer)
        try:
            if handle.writer and self._has_changed(live):
                # Written through a mapping after its close, or never closed by who was killed.
                await self._commit(live)
        finally:
            self._leave(live)
        if live.handles == 0:
            if not self._is_settled(live.ino):
                await self._forget(live.ino)
            self.changed()

    def release_at_once(self, fh: int) -> Callable[[], Awaitable[None]] | None:
        """As `release`, as far as that need not wait; what is left to be done, if anything is. If
        nobody holds the file, that comes before whatever begins after this."""
        handle = self._handles.get(fh)
        if handle is None:
            return None
        ino, live = handle.ino, handle.live
        if live is None or self._holds.is_held(ino):
            return partial(self.release, fh)
        last = live.handles == 1
        changed = handle.writer and self._has_changed(live)
        if changed or (last and not self._is_settled(ino)):
            self._holds.take_at_once(ino)
            return partial(self._release_held, fh, ino)
        del self._handles[fh]
        self._closed(live, writer=handle.writer)
        self._leave(live)
        if last:
            self.changed()
        return None

    async def _release_held(self, fh: int, ino: int) -> None:
        try:
            await self._drop_handle(fh)
        finally:
            self._holds.give(ino)

    def _closed(self, live: Live, *, writer: bool) -> None:
        live.writers -= writer
        if not live.writers:
            live.idle.set()

    def _leave(self, live: Live) -> None:
        live.handles -= 1
        if live.handles == 0:
            del self._live[live.ino]
            self.staging.let_go(live)

    def _is_settled(self, ino: int) -> bool:
        """Whether there is nothing to `_forget` of *ino*, which nobody has open any more. Who makes
        something of it because it is open holds it until that is committed (D2)."""
        node = self.journal.node(ino)
        return node is not None and not node.is_passing and not node.is_copy

    async def _forget(self, ino: int) -> None:
        """Nobody has *ino* open any more."""
        self._tidy(await self.change(lambda work: self.tree.forget(work, ino)))

    def _tidy(self, done: Done) -> None:
        """Delete what nothing refers to any more, and put aside what only the log refers to."""
        for ino, content in done.superseded:
            if content and not self._is_wanted(ino, content):
                self.staging.remove(ino, content)
        for ino, content in done.gone:
            frozen = self.staging.frozen_path(ino, content).exists()
            if self._is_wanted(ino, content) and not frozen:
                self.staging.put_aside(ino, content)
            else:
                self.staging.remove(ino)

    # ---- reading and writing --------------------------------------------------------------------

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        """Up to *size* bytes at *offset*."""
        handle = self._handle(fh)
        while handle.live is None:
            front_fh = handle.front_fh
            try:
                return cast(bytes, await self._front.read(front_fh, offset, size))
            except (StaleVersion, InvalidRequest):
                if not await self._reopen(fh, front_fh):
                    raise
        return await self.staging.read(handle.live, offset, size)

    async def _reopen(self, fh: int, front_fh: int) -> bool:
        """The object that *fh* reads, as *front_fh*, may have been moved since it was opened: open
        it where it is now, for all who read it. False: it is where it was. Raises StaleVersion if
        bytes are on their way from there for too long; the next read tries again."""
        handle = self._handle(fh)
        async with self._holds.hold((WHERE_IT_IS, handle.ino)):
            for attempt in range(1, MOVED_ATTEMPTS + 1):
                if handle.front_fh != front_fh or handle.live is not None:
                    return True  # Another reader was first.
                found, opened = self.union.object_of(handle.ino), self._front.opened(handle.ino)
                if found is None:
                    return False
                if not (front_fh and opened and identity_of(found[0]) == identity_of(opened[0])):
                    break
                if not self._is_moving(handle.ino):
                    return False
                # The lake has done it, and the journal hears of that in a moment.
                await trio.sleep(MOVED_PAUSE_S * attempt)
            else:
                return False
            readers = list(self._reading.get(handle.ino, ()))
            for reader in readers:
                await self._front.release(self._handles[reader].front_fh)
                self._handles[reader].front_fh = 0
            for reader in readers:
                await self._open_again(reader, handle.ino)
            return True

    def _is_moving(self, ino: int) -> bool:
        """Whether the lake is being told to give the object of *ino* another key, or version."""
        moves = (Op.MOVE, Op.COPY, Op.ATTRIBUTES)

        def look(work: Work) -> bool:
            return any(
                entry.ino == ino and entry.op in moves and entry.state is State.PUBLISHING
                for _, entry in work.log()
            )

        return self.journal.read(look)

    async def _open_again(self, fh: int, ino: int) -> None:
        for attempt in range(MOVED_ATTEMPTS):
            if fh not in self._reading.get(ino, ()):
                return  # Closed, or written to, meanwhile.
            found = self.union.object_of(ino)
            if found is None:
                raise StaleVersion("read", f"inode {ino}", "it is gone")
            try:
                front_fh = await self._front.open(ino, *found)
                break
            except StaleVersion:
                if attempt == MOVED_ATTEMPTS - 1:
                    raise
                await trio.sleep(MOVED_PAUSE_S * attempt)
        if fh in self._reading.get(ino, ()):
            self._handles[fh].front_fh = front_fh
        else:
            await self._front.release(front_fh)

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        """Write *data* at *offset*."""
        live = self._written(fh)
        await self.staging.room.wait(len(data), live.ino, copied=lambda: self._to_copy(live))
        async with live.lock:
            await self._before_change(live, empty=False)
            self._mark_changed(live)
            return await self.staging.write(live, offset, data)

    @staticmethod
    def _mark_changed(live: Live) -> None:
        if not live.changed:
            live.first_write_ns = time.time_ns()
        live.changed, live.synced = True, False
        live.writes += 1

    async def _before_change(self, live: Live, *, empty: bool) -> None:
        """Closed content that is still to be published is kept (T3). Under the lock."""
        if live.changed:
            return
        node = self.journal.node(live.ino)
        if node is not None and self._is_wanted(live.ino, node.content):
            await self.staging.freeze(live, node.content, empty=empty)
            # The lake may have got it meanwhile.
            self.discard_content(live.ino, node.content)

    def _to_copy(self, live: Live) -> int:
        """How much `_before_change` would write."""
        if live.changed or not (size := self.staging.copied_by_writing(live.ino)):
            return 0
        node = self.journal.node(live.ino)
        return size if node is not None and self._is_wanted(live.ino, node.content) else 0

    async def _truncate(self, live: Live, size: int) -> None:
        if size:
            await self.staging.room.wait(0, live.ino, copied=lambda: self._to_copy(live))
        async with live.lock:
            await self._before_change(live, empty=size == 0)
            self._mark_changed(live)
            await self.staging.truncate(live, size)

    # ---- commit points --------------------------------------------------------------------------

    async def flush(self, fh: int) -> None:
        """A descriptor was closed: a commit point, if anything was written."""
        handle = self._handle(fh)
        if handle.writer and handle.live is not None:
            await self._arrive(handle.live, await self._commit(handle.live))
            # What was not written through `write` was not held up yet.
            await self.staging.room.keep_pace(self.staging.measure(handle.live))

    async def sync(self, fh: int, *, data_only: bool) -> None:
        """What was written is on the disk when this returns (the name is: D1); and in the lake,
        where the rule says so."""
        live = self._handle(fh).live
        if live is None:
            return
        writes = live.writes
        await self.staging.sync(live, data_only=data_only)
        if live.writes == writes:
            live.synced = True
        if self.tree.rules.any_waits:
            await self._arrive(live, await self._commit(live, if_awaited=True))

    async def _commit(self, live: Live, *, if_awaited: bool = False) -> Told | None:
        """What of it is to be waited for; with *if_awaited* it is a commit point only then."""
        async with live.lock:
            if not self._has_changed(live):
                return self.journal.read(lambda work: self.tree.last_awaited(work, live.ino))
            status = os.fstat(live.fd)
            synced = self._is_synced(live, status)

            def close(work: Work) -> Done | None:
                if if_awaited and not self.tree.is_awaited(work, live.ino):
                    return None
                return self.tree.close(
                    work, live.ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
                    synced=synced,
                )  # fmt: skip

            done, told = await self.tell(close)
            if done is None:
                return None
            live.changed = False
            try:
                await self._committed(live, status)
            except (CacheError, OSError) as error:
                # Closed it is all the same, and whoever closed it is told nothing else.
                _log.warning(
                    "what was closed of inode %d is not kept from who has it open still: %s",
                    live.ino, error,
                )  # fmt: skip
            finally:
                self.committed(live.ino, live.first_write_ns)
                self._tidy(done)
                self.changed()
        return told

    def _is_synced(self, live: Live, status: os.stat_result) -> bool:
        """Whether what *status* is of is known to be on the disk."""
        return live.synced

    async def _committed(self, live: Live, status: os.stat_result) -> None:
        """What *live* is, by *status*, is content of a commit point. Under its lock."""

    async def _arrive(self, live: Live, told: Told | None) -> None:
        """`arrive`, of a commit point: it is not kept back for others who write on."""
        if told is None:
            return
        live.awaited += 1
        live.idle.set()
        try:
            await self.arrive(told)
        finally:
            live.awaited -= 1
            if live.writers and not live.awaited:
                live.idle = trio.Event()
