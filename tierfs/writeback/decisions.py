"""What every request of a front's to write-back directories comes to: a decision of the journal's,
made once, remembered for whoever asks again, and waited for where its rule says so.

Invariants D1..D4 in `tierfs.writeback.directories`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Container
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import NamedTuple, TypeVar

from tierfs.errors import NotFound, TierfsError
from tierfs.index.journal_inodes import InodeAllocator
from tierfs.index.records import Kind
from tierfs.lake.protocol import ObjectInfo
from tierfs.namespace import Attributes, Namespace
from tierfs.writeback.history import LakeEntry, PathUnknown, Told
from tierfs.writeback.holds import Holds
from tierfs.writeback.journal import Journal, Work
from tierfs.writeback.reading import Reading
from tierfs.writeback.records import Entry, Flag, Node
from tierfs.writeback.renames import Tree
from tierfs.writeback.staging import Live, Staging
from tierfs.writeback.union import Union

T = TypeVar("T")


class Asked(NamedTuple):
    """A request of the kernel's, which may be asked again when a process dies: the mount (16
    bytes), and its number there."""

    mount: bytes
    unique: int


#: The request that a task acts on, where it may be asked again.
asked: ContextVar[Asked | None] = ContextVar("asked", default=None)


class Parts(NamedTuple):
    """What write-back directories are made of. *lake_paths* are those of the lake's directories, as
    *tree* needs them; *front* reads the lake's files, and *head* asks the lake about a key."""

    tree: Tree
    lake_paths: dict[int, bytes]
    journal: Journal
    staging: Staging
    namespace: Namespace
    inodes: InodeAllocator
    front: Reading
    head: Callable[[bytes], Awaitable[ObjectInfo]]


class Decisions:
    """The journal, asked and told. *changed* is called after each commit point."""

    def __init__(self, parts: Parts) -> None:
        self.tree = parts.tree
        self.journal = parts.journal
        self.staging = parts.staging
        self.union = Union(parts.namespace, parts.journal, self.status_of)
        self._lake_paths = parts.lake_paths
        self._namespace = parts.namespace
        self._inodes = parts.inodes
        #: The staging files that somebody has open, by inode.
        self._live: dict[int, Live] = {}
        self._holds = Holds()
        #: Waits until the lake has something: `arrive`.
        self.in_lake: Callable[[Told], Awaitable[None]] | None = None
        #: The numbers of requests that are acted on, and may be asked again.
        self.waiting: Container[int] = ()
        #: Called after each commit point, and when what was in use no longer is.
        self.changed: Callable[[], None] = lambda: None

    def status_of(self, ino: int) -> os.stat_result | None:
        """The fstat of a node that is in use, or None."""
        live = self._live.get(ino)
        return None if live is None else os.fstat(live.fd)

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
            work.put_reply(*request, made, waiting=self.waiting)
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

    def forget_path(self, ino: int) -> None:
        """The directory *ino* may have another path in the lake's part of the tree by now."""
        self._lake_paths.pop(ino, None)

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

    async def _with_target(self, lake: LakeEntry) -> LakeEntry:
        """*lake*, which is to become a node: of a link that has the target."""
        if lake.kind is not Kind.SYMLINK:
            return lake
        return lake._replace(target=await self._namespace.read_link(lake.ino))

    async def _touch(self, *directories: int) -> None:
        """Entries of *directories* have changed: what the journal knows of them says so already
        (`Tree`), and of those that were handed over the lake's part of the tree does."""
        for ino in directories:
            if self.journal.node(ino) is None:
                with contextlib.suppress(TierfsError):  # Only a time is at stake.
                    await self._namespace.touched(ino)

    async def _new_ino(self) -> int:
        if not self._inodes.available:
            await self._inodes.ensure(1)
        return self._inodes.next_ino()


def new_node(kind: Kind, mode: int, uid: int, gid: int) -> Node:
    now_ns = time.time_ns()
    return Node(kind, Flag.NONE, mode & 0o7777, uid, gid, 0, now_ns, now_ns, 0, 0, 0, b"")
