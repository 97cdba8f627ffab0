"""Files of write-back directories: opened, read, written, closed.

Bytes are `tierfs.writeback.staging`'s, commit points `tierfs.writeback.tree`'s; here is what ties
the two: handles, and who has to wait for whom. Invariants D1..D4 in `tierfs.writeback.directories`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import NamedTuple, TypeVar, cast

import trio

from tierfs.cache.blocks import identity_of
from tierfs.cache.space import FILE_BYTES
from tierfs.errors import (
    AlreadyExists,
    CacheError,
    InvalidRequest,
    IsADirectory,
    NotFound,
    StaleVersion,
    TierfsError,
)
from tierfs.index.journal_inodes import InodeAllocator
from tierfs.index.records import Kind, ObjectRef
from tierfs.lake.protocol import ObjectInfo, Version
from tierfs.namespace import Attributes, Namespace
from tierfs.writeback.conflicts import Lost
from tierfs.writeback.history import Done, LakeEntry, PathUnknown, Told
from tierfs.writeback.holds import Holds
from tierfs.writeback.journal import Journal, Work
from tierfs.writeback.reading import Reading
from tierfs.writeback.records import Entry, Flag, Node
from tierfs.writeback.renames import Tree
from tierfs.writeback.staging import Live, Staging
from tierfs.writeback.union import Union
from tierfs.writeback.uploads import Content

T = TypeVar("T")

_log = logging.getLogger(__name__)

_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND
#: A lake's file that is written to without being cut off is copied in such pieces.
_COPY_BYTES = 4 << 20
_COPY_ATTEMPTS, _COPY_PAUSE_S = 6, 0.05


class Asked(NamedTuple):
    """A request of the kernel's, which may be asked again when a process dies: the mount (16
    bytes), and its number there."""

    mount: bytes
    unique: int


#: The request that a task acts on, where it may be asked again.
asked: ContextVar[Asked | None] = ContextVar("asked", default=None)


class _Handle:
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


class Files:
    """The files of one mount's write-back directories; `tierfs.writeback.directories.WriteBack` has
    their names. *changed* is called after each commit point; *head* asks the lake about a key."""

    #: Whether writes come here, so that what was closed is kept before it is written over.
    sees_writes = True

    def __init__(
        self,
        tree: Tree,
        lake_paths: dict[int, bytes],
        journal: Journal,
        staging: Staging,
        namespace: Namespace,
        inodes: InodeAllocator,
        front: Reading,
        head: Callable[[bytes], Awaitable[ObjectInfo]],
    ) -> None:
        self.tree = tree
        self.journal = journal
        self.staging = staging
        self.union = Union(namespace, journal, self.status_of)
        self._lake_paths = lake_paths
        self._namespace = namespace
        self._inodes = inodes
        self._front = front
        self._head = head
        self._live: dict[int, Live] = {}
        self._handles: dict[int, _Handle] = {}
        #: Handles of the front's by inode.
        self._reading: dict[int, set[int]] = {}
        #: Odd, as no number is that a request of the kernel's has.
        self._next_fh = 1
        self._holds = Holds()
        #: Waits until the lake has something: `arrive`.
        self.in_lake: Callable[[Told], Awaitable[None]] | None = None
        #: Called after each commit point, and when what was in use no longer is.
        self.changed: Callable[[], None] = lambda: None
        #: Called with an inode at each commit point, and when it was first written to since the
        #: last one (wall-clock nanoseconds).
        self.committed: Callable[[int, int], None] = lambda ino, first_write_ns: None

    # ---- what others ask ------------------------------------------------------------------------

    def status_of(self, ino: int) -> os.stat_result | None:
        """The fstat of a node that is in use, or None."""
        live = self._live.get(ino)
        return None if live is None else os.fstat(live.fd)

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

    def hold(self, *keys: object) -> AbstractAsyncContextManager[None]:
        """See `Holds.hold`: an inode number, or a directory's and a name."""
        return self._holds.hold(*keys)

    async def change(self, function: Callable[[Work], T], *, rows: int = 4) -> T:
        """`Journal.change`, with the paths of the lake's directories found as they are needed."""
        while True:
            try:
                return await self.journal.change(function, rows=rows)
            except PathUnknown as unknown:
                self._lake_paths[unknown.ino] = self._namespace.path_of(unknown.ino)

    async def decide(self, function: Callable[[Work], T], *, made: int, rows: int = 4) -> T:
        """`change`, for the one change that a request comes to, and that made the inode *made* (0:
        none): with it is recorded that the request was done, so that it is not done twice."""
        request = asked.get()
        if request is None:
            return await self.change(function, rows=rows)

        def both(work: Work) -> T:
            result = function(work)
            work.put_reply(*request, made)
            return result

        return await self.change(both, rows=rows + 1)

    async def tell(
        self, function: Callable[[Work], T], *, made: int | None = None, rows: int = 4
    ) -> tuple[T, Told | None]:
        """`change`, or with *made* `decide`, and what of it whoever asked waits for: that is
        `arrive`'s."""
        if not self.tree.rules.any_waits:
            return await self._change(function, made, rows), None

        def told(work: Work) -> tuple[T, Told | None]:
            before = work.next_lsn() - 1
            value = function(work)
            return value, self.tree.awaited(work.log(before))

        return await self._change(told, made, rows)

    async def _change(self, function: Callable[[Work], T], made: int | None, rows: int) -> T:
        if made is None:
            return await self.change(function, rows=rows)
        return await self.decide(function, made=made, rows=rows)

    async def arrive(self, told: Told | None) -> None:
        """Something was changed. Where its rule says so (*told*), wait until the lake has it, and
        all before it in its root; under no hold and no lock, which the lake's side may need. Raises
        LakeUnavailable if the root goes no further. Whatever ends this, what was changed stays."""
        self.changed()
        if told is not None and self.in_lake is not None:
            await self.in_lake(told)

    async def arrive_again(self, directory: int) -> None:
        """`arrive`, of a change in *directory* that an earlier process decided. Which one that was
        nobody knows any more: it is all that its root has."""
        try:
            path = self.union.path_of(directory)
        except NotFound:
            path = b""  # It is gone since.

        def look(work: Work) -> list[Told]:
            by_root: dict[bytes, list[tuple[int, Entry]]] = {}
            for lsn, entry in work.log():
                if not path or not entry.root or (path + b"/").startswith(entry.root + b"/"):
                    by_root.setdefault(entry.root, []).append((lsn, entry))
            return [told for log in by_root.values() if (told := self.tree.awaited(log))]

        for told in self.journal.read(look):
            await self.arrive(told)

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

    def forget_path(self, ino: int) -> None:
        """The directory *ino* may have another path in the lake's part of the tree by now."""
        self._lake_paths.pop(ino, None)

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

    @contextlib.asynccontextmanager
    async def parted(self, ino: int) -> AsyncIterator[None]:
        """Hold *ino*, whose old name may be the lake's to decide after this. A file that has its
        bytes here is known by its new name alone: under the old one it would show them."""
        async with self._holds.hold(ino):
            node, parent = self.journal.node(ino), self._namespace.parent(ino)
            if node is not None and parent is not None and not node.flags & Flag.REMOTE:
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

    # ---- files ----------------------------------------------------------------------------------

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, uid: int, gid: int, *, fh: int = 0
    ) -> tuple[Attributes, int]:
        """A new file, open; or, without O_EXCL, the one that is there by now. The handle is *fh*,
        if that is not 0."""
        await self.staging.room.wait(FILE_BYTES)
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
        writes = bool(flags & _WRITE_FLAGS)
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
            await self.staging.room.wait(self.union.attributes(ino).size, ino)

    async def _open_in_lake(self, ino: int, pid: int) -> int:
        # Who has it open already has it by its old key, if it was moved since: the same bytes.
        found = self._front.opened(ino) or self.union.object_cached(ino)
        if found is None:
            found = await self.union.open_object(ino)
        front_fh = await self._front.open(ino, *found, pid)
        fh = self._new_fh(_Handle(ino, None, front_fh=front_fh))
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
                await self._copy_in_for_sure(live, ref, size)
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

    async def _copy_in_for_sure(self, live: Live, ref: ObjectRef, size: int) -> None:
        """`_copy_in`, from where the object is by now: a rename may be moving it in the lake."""
        for attempt in range(_COPY_ATTEMPTS):
            try:
                await self._copy_in(live, ref, size)
                return
            except StaleVersion:
                if attempt == _COPY_ATTEMPTS - 1:
                    raise
                await trio.sleep(_COPY_PAUSE_S * attempt)
                ref, size = self.union.object_of(live.ino) or (ref, size)

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

    # ---- handles --------------------------------------------------------------------------------

    def _add_handle(self, live: Live, *, writer: bool, fh: int = 0) -> int:
        live.handles += 1
        live.writers += writer
        if live.writers and not live.awaited and live.idle.is_set():
            live.idle = trio.Event()
        return self._new_fh(_Handle(live.ino, live, writer=writer), fh)

    def _new_fh(self, handle: _Handle, fh: int = 0) -> int:
        if not fh:
            fh = self._next_fh
            self._next_fh += 2
        self._handles[fh] = handle
        return fh

    def _handle(self, fh: int) -> _Handle:
        handle = self._handles.get(fh)
        if handle is None:
            raise InvalidRequest("use a handle", f"handle {fh}")
        return handle

    def _written(self, fh: int) -> Live:
        live = self._handle(fh).live
        if live is None:
            raise InvalidRequest("write to a file", f"handle {fh}", "it is open for reading")
        return live

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
        async with self._holds.hold(("where it is", handle.ino)):
            if handle.front_fh != front_fh or handle.live is not None:
                return True  # Another reader was first.
            found, opened = self.union.object_of(handle.ino), self._front.opened(handle.ino)
            if found is None:
                return False
            if front_fh and opened is not None and identity_of(found[0]) == identity_of(opened[0]):
                return False
            readers = list(self._reading.get(handle.ino, ()))
            for reader in readers:
                await self._front.release(self._handles[reader].front_fh)
                self._handles[reader].front_fh = 0
            for reader in readers:
                await self._open_again(reader, handle.ino)
            return True

    async def _open_again(self, fh: int, ino: int) -> None:
        for attempt in range(_COPY_ATTEMPTS):
            found = self.union.object_of(ino)
            if found is None:
                raise StaleVersion("read", f"inode {ino}", "it is gone")
            try:
                front_fh = await self._front.open(ino, *found)
                break
            except StaleVersion:
                if attempt == _COPY_ATTEMPTS - 1:
                    raise
                await trio.sleep(_COPY_PAUSE_S * attempt)
        if fh in self._reading.get(ino, ()):
            self._handles[fh].front_fh = front_fh
        else:
            # Closed, or written to, meanwhile.
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

    def _is_wanted(self, ino: int, content: int) -> bool:
        return self.journal.read(lambda work: work.is_wanted(ino, content))

    async def _truncate(self, live: Live, size: int) -> None:
        if size:
            await self.staging.room.wait(0, live.ino, copied=lambda: self._to_copy(live))
        async with live.lock:
            await self._before_change(live, empty=size == 0)
            self._mark_changed(live)
            await self.staging.truncate(live, size)

    async def flush(self, fh: int) -> None:
        """A descriptor was closed: a commit point, if anything was written."""
        handle = self._handle(fh)
        if handle.writer and handle.live is not None:
            await self._arrive(handle.live, await self._commit(handle.live))
            # What was not written through `write` was not held up yet.
            await self.staging.room.keep_pace(self.staging.measure(handle.live))

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

    def _has_changed(self, live: Live) -> bool:
        """Whether *live* was written to since its last commit point."""
        return live.changed

    def _is_synced(self, live: Live, status: os.stat_result) -> bool:
        """Whether what *status* is of is known to be on the disk."""
        return live.synced

    async def _committed(self, live: Live, status: os.stat_result) -> None:
        """What *live* is, by *status*, is content of a commit point. Under its lock."""

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
        live.writers -= handle.writer
        if not live.writers:
            live.idle.set()
        try:
            if handle.writer and self._has_changed(live):
                # Written through a mapping after its close, or never closed by who was killed.
                await self._commit(live)
        finally:
            live.handles -= 1
            if live.handles == 0:
                del self._live[live.ino]
                self.staging.let_go(live)
        if live.handles == 0:
            self._tidy(await self.change(lambda work: self.tree.forget(work, live.ino)))
            self.changed()

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

    # ---- the lake's part ------------------------------------------------------------------------

    async def _lake_entry(self, parent: int, name: bytes) -> LakeEntry | None:
        """What the lake has under *name*, where the journal does not decide."""
        if self.journal.ino_of(parent, name) is not None:
            return None
        found = await self.union.in_lake(parent, name)
        return None if found is None else self._as_lake_entry(found)

    def _as_lake_entry(self, found: Attributes) -> LakeEntry:
        known = self.union.object_of(found.ino)
        return LakeEntry(
            found.ino, found.kind, found.mode, found.uid, found.gid, found.size, found.mtime_ns,
            None if known is None else known[0],
        )  # fmt: skip

    async def _touch(self, *directories: int) -> None:
        """Entries of *directories* have changed: what the journal knows of them says so already
        (`Tree`), and of those that were handed over the lake's part of the tree does."""
        for ino in directories:
            if self.journal.node(ino) is None:
                with contextlib.suppress(TierfsError):  # Only a time is at stake.
                    await self._namespace.touched(ino)

    async def _new_ino(self) -> int:
        await self._inodes.ensure(1)
        return self._inodes.next_ino()


def new_node(kind: Kind, mode: int, uid: int, gid: int) -> Node:
    now_ns = time.time_ns()
    return Node(kind, Flag.NONE, mode & 0o7777, uid, gid, 0, now_ns, now_ns, 0, 0, 0, b"")
