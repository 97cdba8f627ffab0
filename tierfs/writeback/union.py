"""The tree that a mount with write-back shows: the journal first, then the lake.

`Union` answers what `Namespace` answers. Under a name that the journal knows, it alone speaks, for
what it has and for what it says is absent; what it does not know is the lake's. A directory of
which the lake knows nothing yet (FRESH) is not asked for there.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable

import trio

from tierfs.errors import InvalidRequest, NameTooLong, NotADirectory, StaleVersion
from tierfs.index.records import Kind, ObjectRef
from tierfs.lake.protocol import Version
from tierfs.namespace import Absent, Attributes, Namespace
from tierfs.namespace.keys import MAX_NAME_BYTES
from tierfs.writeback.journal import Journal
from tierfs.writeback.records import Flag, Node

#: How long a kernel may believe what the journal says: its changes go through that kernel, but what
#: is in the lake changes elsewhere.
TTL_S = 1.0
#: Removed directories that are remembered.
DEPARTED_LIMIT = 1_024
BATCH = 1_000


class Union:
    """See the module. *opened* gives the fstat of a node that is in use, or None."""

    def __init__(
        self,
        namespace: Namespace,
        journal: Journal,
        opened: Callable[[int], os.stat_result | None],
    ) -> None:
        self._lake = namespace
        self._journal = journal
        self._opened = opened
        #: How long a kernel may believe what it was told of a file that is in use.
        self.in_use_ttl_s = TTL_S
        #: Directories that were removed not long ago: they may be open.
        self._departed: OrderedDict[int, Attributes] = OrderedDict()

    # Names.

    def lookup_cached(self, parent: int, name: bytes) -> Attributes | None:
        """See `Namespace.lookup_cached`."""
        found = self._journal.named(parent, name)
        if found is None:
            if self.is_fresh(parent):
                return None
            attributes = self._lake.lookup_cached(parent, name)
            return None if attributes is None else self._named(attributes)
        return None if isinstance(found, int) else self.show(*found)

    async def lookup(self, parent: int, name: bytes) -> Attributes:
        """See `Namespace.lookup`."""
        if len(name) > MAX_NAME_BYTES:
            raise NameTooLong("look up", name)
        found = self._journal.named(parent, name)
        if found is None and not self.is_fresh(parent):
            attributes = await self._lake.lookup(parent, name)
            # It may have been written, or removed, while the lake was asked.
            found = self._journal.named(parent, name)
            if found is None:
                return self._named(attributes)
        await trio.lowlevel.checkpoint()
        if found is None or isinstance(found, int):
            raise Absent("look up", name, 0.0)
        return self.show(*found)

    async def in_lake(self, parent: int, name: bytes) -> Attributes | None:
        """What the lake has under *name*, whatever the journal says of it."""
        if self.is_fresh(parent):
            return None
        try:
            return self._lake.lookup_cached(parent, name) or await self._lake.lookup(parent, name)
        except Absent:
            return None

    def object_of(self, ino: int) -> tuple[ObjectRef, int] | None:
        """The object that *ino* is, from what is known alone; None for a staging file."""
        node = self._journal.node(ino)
        if node is None:
            return self._lake.object_known(ino)
        return (object_of_node(node), node.size) if node.flags & Flag.REMOTE else None

    def is_fresh(self, parent: int) -> bool:
        """Whether the lake knows nothing of a directory that the journal does not."""
        node = self._journal.node(parent)
        return node is not None and bool(node.flags & Flag.FRESH)

    async def readdir(
        self, ino: int, after_ino: int, limit: int = BATCH
    ) -> list[tuple[int, bytes, Attributes]]:
        """See `Namespace.readdir`. Both parts are in the order of inode numbers, which are from one
        source."""
        node = self._journal.node(ino)
        if node is not None and node.kind is not Kind.DIRECTORY:
            raise NotADirectory("read a directory", f"inode {ino}")
        fresh = node is not None and bool(node.flags & Flag.FRESH)
        await trio.lowlevel.checkpoint()
        while True:
            ours = self._journal.children(ino, after_ino, limit)
            page = [] if fresh else await self._lake.readdir(ino, after_ino, limit)
            # Each part is known up to here, and what comes after that is for the next batch.
            ends = [ours[-1][0]] if len(ours) == limit else []
            ends += [page[-1][0]] if page else []
            end = min(ends, default=None)
            names = {name for _, name, _ in ours}
            rows = [(child, name, self.show(child, found)) for child, name, found in ours]
            # What is taken over, or handed over, meanwhile is in one of them, or in both; what the
            # lake knows under another number has been shown, or will be, under ours.
            known = self._journal.known(ino, [name for _, name, _ in page])
            rows += [
                (child, name, self._named(found))
                for child, name, found in page
                if name not in names and known.get(name, child) == child
            ]
            rows = [row for row in rows if end is None or row[0] <= end]
            if rows or end is None:
                return sorted(rows, key=lambda row: row[0])
            after_ino = end

    async def listed(self, ino: int, after_ino: int) -> bool:
        """See `Namespace.listed`; of what the journal knows of, the index has not all."""
        if self._journal.node(ino) is not None or self._journal.children(ino, 0, 1):
            await trio.lowlevel.checkpoint()
            return False
        return await self._lake.listed(ino, after_ino)

    # Attributes.

    def attributes(self, ino: int) -> Attributes:
        """See `Namespace.attributes`."""
        node = self._journal.node(ino)
        if node is not None:
            return self.show(ino, node)
        return self._departed.get(ino) or self._lake.attributes(ino)

    def has_departed(self, ino: int) -> bool:
        """Whether *ino* is a directory that was removed."""
        return ino in self._departed and self._journal.node(ino) is None

    def depart(self, directory: Attributes) -> None:
        """A directory has lost its name, and is *directory*; whoever has it open may still ask, and
        change that."""
        self._departed[directory.ino] = directory
        if len(self._departed) > DEPARTED_LIMIT:
            self._departed.popitem(last=False)

    def _named(self, found: Attributes) -> Attributes:
        """*found* has a name: a removal that was given up has not taken it."""
        self._departed.pop(found.ino, None)
        return found

    def detached_attributes(self, ino: int, size: int) -> Attributes:
        """See `Namespace.detached_attributes`."""
        return self._lake.detached_attributes(ino, size)

    def show(self, ino: int, node: Node) -> Attributes:
        """What a caller is told of a node: of one in use, what its file says."""
        size, mtime_ns, ttl_s = node.size, node.mtime_ns, TTL_S
        if node.kind is Kind.FILE:
            status = self._opened(ino)
            if status is not None:
                size, mtime_ns, ttl_s = status.st_size, status.st_mtime_ns, self.in_use_ttl_s
        elif node.kind is Kind.SYMLINK:
            size = len(node.target)
        return Attributes(ino, node.kind, node.mode, node.uid, node.gid, size, mtime_ns, ttl_s)

    def path_of(self, ino: int) -> bytes:
        """See `Namespace.path_of`."""
        parts: list[bytes] = []
        while (node := self._journal.node(ino)) is not None:
            parts.append(node.name)
            ino = node.parent
        above = self._lake.path_of(ino)
        return b"/".join([above, *reversed(parts)] if above else reversed(parts))

    async def read_link(self, ino: int) -> bytes:
        """See `Namespace.read_link`."""
        node = self._journal.node(ino)
        if node is None:
            return await self._lake.read_link(ino)
        await trio.lowlevel.checkpoint()
        if node.kind is not Kind.SYMLINK:
            raise InvalidRequest("read a link", f"inode {ino}", "it is none")
        return node.target

    # Objects.

    def object_cached(self, ino: int) -> tuple[ObjectRef, int] | None:
        """See `Namespace.object_cached`; only for what is no staging file."""
        if self._journal.node(ino) is None:
            return self._lake.object_cached(ino)
        return self.object_of(ino)

    async def open_object(self, ino: int) -> tuple[ObjectRef, int]:
        """See `Namespace.open_object`."""
        if self._journal.node(ino) is None:
            return await self._lake.open_object(ino)
        await trio.lowlevel.checkpoint()
        found = self.object_cached(ino)
        if found is None:
            raise StaleVersion("open", f"inode {ino}", "it is being written")
        return found

    def entry_count(self) -> int:
        """See `Namespace.entry_count`."""
        return self._lake.entry_count()


def object_of_node(node: Node) -> ObjectRef:
    """The object that a node which is in the lake is."""
    return ObjectRef(node.key, Version(node.etag), archived=False, has_checksum=False)
