"""How files of write-back directories come to be open: new ones, those that were written here, and
those of the lake's, which are copied to be written to.

Invariants D1..D4 in `tierfs.writeback.directories`.
"""

from __future__ import annotations

import contextlib
import os

import trio

from tierfs.errors import (
    AlreadyExists,
    CacheError,
    IsADirectory,
    NotFound,
    StaleVersion,
    TierfsError,
)
from tierfs.index.records import Kind, ObjectRef, overhead_bytes
from tierfs.namespace import Attributes
from tierfs.writeback.decisions import new_node
from tierfs.writeback.handles import (
    MOVED_ATTEMPTS,
    MOVED_PAUSE_S,
    WHERE_IT_IS,
    Handle,
    Handles,
)
from tierfs.writeback.history import LakeEntry
from tierfs.writeback.journal import Work
from tierfs.writeback.records import Flag, Node
from tierfs.writeback.staging import Live

WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND
#: A lake's file that is written to without being cut off is copied in such pieces.
_COPY_BYTES = 4 << 20


class Files(Handles):
    """The files of one mount's write-back directories; `tierfs.writeback.directories.WriteBack` has
    their names."""

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, uid: int, gid: int, *, fh: int = 0
    ) -> tuple[Attributes, int]:
        """A new file, open; or, without O_EXCL, the one that is there by now. The handle is *fh*,
        if that is not 0."""
        await self.staging.room.wait(overhead_bytes(1))
        async with self._holds.hold((parent, name)):
            try:
                return await self._create(parent, name, mode, uid, gid, fh)
            except AlreadyExists:
                if flags & os.O_EXCL:
                    raise
            found = await self.union.lookup(parent, name)
        fh = await self.open(found.ino, flags | os.O_WRONLY, fh=fh)
        return self.union.attributes(found.ino), fh

    async def _create(
        self, parent: int, name: bytes, mode: int, uid: int, gid: int, fh: int
    ) -> tuple[Attributes, int]:
        lake = await self._lake_entry(parent, name)
        ino = await self._new_ino()
        node = new_node(Kind.FILE, mode, uid, gid)
        fd = await self.staging.create(ino)
        try:
            await self.decide(
                lambda work: self.tree.create(work, parent, name, lake, ino, node), made=ino
            )
        except BaseException:
            os.close(fd)
            self.staging.remove(ino)
            raise
        live = self._live[ino] = Live(ino, fd, changed=True)
        fh = self._add_handle(live, writer=True, fh=fh)
        await self._touch(parent)
        return self.union.show(ino, node), fh

    async def open(self, ino: int, flags: int, pid: int = 0, *, fh: int = 0) -> int:
        """A handle on *ino*, for a process: *fh*, if that is not 0."""
        writes = bool(flags & WRITE_FLAGS)
        if writes:
            await self._room_to_open(ino, flags)
        async with self._holds.hold(ino):
            live = self._live.get(ino)
            if live is None:
                live = await self._bring(ino, writes=writes, empty=bool(flags & os.O_TRUNC))
                if live is None:
                    return await self._open_in_lake(ino, pid)
                self._live[ino] = live
                await self._take_readers(live)
            try:
                if writes:
                    await self._before_writing(live, empty=bool(flags & os.O_TRUNC))
            except BaseException:
                if live.handles == 0:
                    del self._live[ino]
                    self.staging.let_go(live)
                raise
            fh = self._add_handle(live, writer=writes, fh=fh)
            try:
                if flags & os.O_TRUNC:
                    await self._truncate(live, 0)
            except BaseException:
                await self._drop_handle(fh)
                raise
            return fh

    async def _room_to_open(self, ino: int, flags: int) -> None:
        """Wait for the room that a copy takes: of what was closed, or of a file of the lake's
        (R1: not later)."""
        empty = bool(flags & os.O_TRUNC)
        node = self.journal.node(ino)
        if node is None or node.flags & Flag.REMOTE:
            # Refused where no rule matches, before anything has to give way for it.
            with contextlib.suppress(NotFound):  # It has lost its name, as is found out below.
                self.tree.require(self.union.path_of(ino), "open for writing")
        await self.staging.room.wait(0, ino, copied=lambda: self._to_copy_first(ino, empty=empty))
        if empty:
            return  # That gives room back, if anything.
        node = self.journal.node(ino)
        if ino in self._live or (node is not None and not node.flags & Flag.REMOTE):
            await self.staging.room.hold_up()
        else:
            try:
                size = self.union.attributes(ino).size
            except NotFound:
                raise StaleVersion("open for writing", f"inode {ino}", "it is gone") from None
            await self.staging.room.wait(size, ino)

    async def _open_in_lake(self, ino: int, pid: int) -> int:
        # Who has it open already has it by its old key, if it was moved since: the same bytes.
        async with self._holds.hold((WHERE_IT_IS, ino)):
            found = self._front.opened(ino) or self.union.object_cached(ino)
            if found is None:
                found = await self.union.open_object(ino)
            front_fh = await self._front.open(ino, *found, pid)
            fh = self._new_fh(Handle(ino, None, front_fh=front_fh))
            self._reading.setdefault(ino, set()).add(fh)
            return fh

    async def _take_readers(self, live: Live) -> None:
        """Whoever has the lake's version open reads what is written from now on."""
        for fh in self._reading.pop(live.ino, ()):
            handle = self._handles[fh]
            handle.live = live
            live.handles += 1
            await self._front.release(handle.front_fh)

    async def _bring(self, ino: int, *, writes: bool, empty: bool) -> Live | None:
        """The staging file of *ino* as it is to be used from now on, or None."""
        node = self.journal.node(ino)
        if node is not None and node.kind is not Kind.FILE:
            raise IsADirectory("open a file", f"inode {ino}")
        if node is not None and not node.flags & Flag.REMOTE:
            try:
                return Live(ino, self.staging.open(ino), changed=not node.lsn)
            except OSError as error:
                raise CacheError(
                    "open what was written", str(self.staging.path(ino)), error.strerror or ""
                ) from error
        if not writes:
            return None
        return await self._take_over(ino, node, empty=empty)

    async def _take_over(self, ino: int, node: Node | None, *, empty: bool) -> Live:
        """The lake's file *ino* is going to be written to."""
        ref, size = await self.union.open_object(ino)
        attributes = self.union.attributes(ino)
        parent, name = self._place_of(ino, node, ref)
        # Refused where no rule matches, or where it was taken over, before anything is copied.
        await self.change(lambda work: self._check_place(work, ino, parent, name))
        number = await self._number_of_copy(ino)
        lake = self._as_lake_entry(attributes)._replace(ino=number, size=size, ref=ref)

        def taken(work: Work) -> None:
            # Anything may have happened to the name while it was copied.
            self._check_place(work, ino, parent, name)
            self._taken(work, ino, parent, name, lake)

        self.staging.remove(number)
        fd = await self.staging.create(number)
        live = Live(number, fd, changed=False)
        try:
            if not empty:
                await self._copy_in_for_sure(live, ino, ref, size)
                os.utime(fd, ns=(attributes.mtime_ns, attributes.mtime_ns))
            await self.change(taken)
            self._front.rewritten(ino)
        except BaseException:
            os.close(fd)
            self.staging.remove(number)
            raise
        return live

    async def _number_of_copy(self, ino: int) -> int:
        """The inode number of the lake's file *ino* once it may be written to."""
        return ino

    def expect_copied(self) -> list[int]:
        """The lake's files that an earlier process of this mount has made ready to be written to,
        for somebody who may be about to come."""
        return []

    async def _before_writing(self, live: Live, *, empty: bool) -> None:
        """Somebody is about to get a handle through which *live* can be written; *empty*: it is cut
        off with that."""

    def _to_copy_first(self, ino: int, *, empty: bool) -> int:
        """How much `_before_writing` would write."""
        return 0

    def _check_place(self, work: Work, ino: int, parent: int, name: bytes) -> None:
        """The lake's file *ino* may be written to, and the journal has nothing else there."""
        path = self.tree.path_in(work, parent, name)
        self.tree.require(path, "open for writing")
        if work.ino_of(parent, name) not in (None, ino):
            raise StaleVersion("open for writing", path, "the path names another file by now")

    def _taken(self, work: Work, ino: int, parent: int, name: bytes, lake: LakeEntry) -> None:
        """The lake's file *ino* is *lake* from now on, and can be written to."""
        node = self.tree.take_over(work, parent, name, lake, remote=False)
        if node.flags & Flag.REMOTE:
            work.put_node(lake.ino, node.unmarked(Flag.REMOTE))

    def _place_of(self, ino: int, node: Node | None, ref: ObjectRef) -> tuple[int, bytes]:
        if node is not None:
            return node.parent, node.name
        parent = self._namespace.parent(ino)
        if parent is None:
            raise StaleVersion("open for writing", ref.key, "the path names a newer version")
        return parent, ref.key.rpartition(b"/")[2]

    async def _copy_in_for_sure(self, live: Live, ino: int, ref: ObjectRef, size: int) -> None:
        """`_copy_in`, from where the object of *ino* is by now: a rename may be moving it in the
        lake."""
        for attempt in range(MOVED_ATTEMPTS):
            try:
                await self._copy_in(live, ref, size)
                return
            except StaleVersion:
                if attempt == MOVED_ATTEMPTS - 1:
                    # Its bytes are gone, however fresh what is known of it: the path is looked up
                    # again now, and is to name what is there.
                    with contextlib.suppress(TierfsError):
                        await self._namespace.refresh(ino)
                    raise
                await trio.sleep(MOVED_PAUSE_S * attempt)
                ref, size = self.union.object_of(ino) or (ref, size)

    async def _copy_in(self, live: Live, ref: ObjectRef, size: int) -> None:
        fh = await self._front.open(live.ino, ref, size)
        try:
            at = 0
            while at < size:
                data = bytes(await self._front.read(fh, at, min(_COPY_BYTES, size - at)))
                if not data:
                    raise CacheError("copy a file for writing", ref.key, "it ends early")
                await self.staging.write(live, at, data)
                at += len(data)
        finally:
            await self._front.release(fh)
