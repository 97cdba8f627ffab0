"""Handing over what is durable: from the journal to the lake's part of the tree.

A node that is PUBLISHED, that nobody has open, and whose directory is the lake's, becomes an
ordinary entry of the namespace under the same inode number, and its staging file the cached copy,
in place. In this order, so that a process killed anywhere in between does it again, and at worst
fetches the bytes once more:

1. the journal says that the bytes are the lake's;
2. the staging file becomes the cache file, with the records of its blocks, if it is known to hold
   what was uploaded;
3. the namespace learns the name;
4. the journal forgets it.

Symbolic links stay in the journal: the lake's part of the tree has none.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping

import trio

from tierfs.cache.blocks import block_count
from tierfs.errors import NotFound, TierfsError, show
from tierfs.index.records import BlockRecord, Inode, Kind, ObjectRef
from tierfs.namespace import Namespace
from tierfs.writeback.directories import HANDING_OVER, WriteBack
from tierfs.writeback.reading import Reading
from tierfs.writeback.records import Entry, Flag, Node, Op
from tierfs.writeback.union import object_of_node

#: Nodes that are looked at in one go: a millisecond.
LOOK_ROWS = 1_000

_log = logging.getLogger(__name__)


class Adopter:
    """Adopts what the publisher has published."""

    def __init__(self, writeback: WriteBack, namespace: Namespace, front: Reading) -> None:
        self._writeback = writeback
        self._namespace = namespace
        self._front = front
        #: Called when there was trouble with one, which has to be tried again.
        self.troubled: Callable[[], None] = lambda: None
        #: What files were before they were moved in the lake, by inode.
        self._before: dict[int, ObjectRef] = {}
        #: Of files that were uploaded and not adopted yet: content, blocks, checksummed.
        self._blocks: dict[int, tuple[int, Mapping[int, BlockRecord], bool]] = {}

    def moving(self, ino: int) -> None:
        """The object of *ino* is about to get another key."""
        node = self._writeback.journal.node(ino)
        if node is not None and node.flags & Flag.REMOTE and ino not in self._before:
            self._before[ino] = object_of_node(node)

    def sealed(self, entry: Entry, blocks: Mapping[int, BlockRecord], *, checksummed: bool) -> None:
        """The lake has these *blocks* of *entry*'s content. Said before the journal has it, for
        from then on `adopt_all` may come first."""
        if blocks:
            self._blocks[entry.ino] = (entry.content, blocks, checksummed)

    async def settled(self, entry: Entry) -> None:
        """The lake shows *entry*, and nothing later is known of its path."""
        if entry.op in (Op.MOVE, Op.DELETE, Op.REMOVE_DIRECTORY):
            await self._gone(entry.parent, entry.other or entry.path)
        if entry.ino:
            await self.try_adopt(entry.ino)

    async def overtaken(self, entry: Entry) -> None:
        """The lake shows *entry*, but something later is known of its path."""
        if entry.ino in self._blocks and self._blocks[entry.ino][0] == entry.content:
            del self._blocks[entry.ino]
        old, node = self._before.get(entry.ino), self._writeback.journal.node(entry.ino)
        if old is None or node is None or not node.flags & Flag.REMOTE:
            return
        if not self._writeback.in_use(entry.ino):
            ref = object_of_node(node)
            try:
                await self._front.renamed(entry.ino, old, ref)
            except (TierfsError, OSError) as error:
                _log.info("inode %d: its cached copy is not moved yet: %s", entry.ino, error)
                return
            self._before[entry.ino] = ref

    async def _gone(self, parent: int, path: bytes) -> None:
        name = path.rstrip(b"/").rpartition(b"/")[2]
        async with self._writeback.hold(HANDING_OVER, (parent, name)):
            # Of a directory that was renamed the lake's part may still have the old names.
            known = self._namespace.known(parent, name) is not None
            if parent and (known or not self._writeback.union.is_fresh(parent)):
                # The directory may have lost its name, too.
                with contextlib.suppress(NotFound):
                    await self._namespace.vanished(parent, name)
            now = self._path_now(parent, name) or path
            await self._writeback.change(
                lambda work: self._writeback.tree.clear(work, parent, path, now)
            )

    def _path_now(self, parent: int, name: bytes) -> bytes:
        """The path of *name* in the directory *parent*; empty where that has lost its name."""
        try:
            above = self._writeback.union.path_of(parent) if parent else b""
        except NotFound:
            return b""
        return above + b"/" + name if above else name

    async def lost(self, entry: Entry, ino: int) -> None:
        """The lake decides again what is at the paths of *entry*; *ino*, if that is not 0, is no
        more."""
        if ino:
            self._blocks.pop(ino, None)
            self._before.pop(ino, None)
            self._writeback.staging.remove(ino)
        # What was to be moved may be there again.
        for path in filter(None, (entry.path, entry.other)):
            try:
                await self._namespace.refresh(path)
            except TierfsError as error:
                _log.warning("%s: not looked up again: %s", show(path), error)

    async def clear_all(self) -> None:
        """Hand over names that are gone from the lake: what a process that was killed left."""
        for parent, name in self._writeback.journal.read(lambda work: list(work.white_outs())):
            path = self._path_now(parent, name)
            if not path:
                continue
            for gone in (path, path + b"/"):
                if self._is_done(gone):
                    try:
                        await self._gone(parent, gone)
                    except TierfsError as error:
                        _log.warning("%s is not cleared away yet: %s", show(gone), error)

    def _is_done(self, path: bytes) -> bool:
        return self._writeback.journal.read(lambda work: work.is_done(path))

    async def adopt_all(self) -> int:
        """Adopt what can be: at the start, and when what was open no longer is. Returns how much
        could not be yet."""
        left, at = 0, 0
        while True:
            found, last = self._published(at)
            for ino in found:
                await self.try_adopt(ino)
            left += sum(self._writeback.journal.node(ino) is not None for ino in found)
            if last is None:
                return left
            at = last
            await trio.lowlevel.checkpoint()

    def _published(self, after_ino: int) -> tuple[list[int], int | None]:
        """See `Work.flagged`."""
        return self._writeback.journal.read(
            lambda work: work.flagged(Flag.PUBLISHED, after_ino, LOOK_ROWS)
        )

    async def try_adopt(self, ino: int) -> None:
        """Adopt *ino*, and what is in it, if that can be now. Trouble is logged, and costs
        nothing: what stays in the journal is served from there."""
        try:
            if await self._adopt(ino):
                children = self._writeback.journal.children(ino, 0, 1 << 30)
                for child, _, node in children:
                    if node.flags & Flag.PUBLISHED:
                        await self.try_adopt(child)
        except (TierfsError, OSError) as error:
            _log.warning("inode %d stays in the journal for now: %s", ino, error)
            self.troubled()

    def _can_be(self, ino: int, node: Node | None) -> bool:
        return (
            node is not None
            and bool(node.flags & Flag.PUBLISHED)
            and not node.flags & (Flag.UNLINKED | Flag.HELD)
            and node.kind is not Kind.SYMLINK
            and not self._writeback.union.is_fresh(node.parent)
            and not self._writeback.in_use(ino)
        )

    async def _adopt(self, ino: int) -> bool:
        node = self._writeback.journal.node(ino)
        if node is None or not self._can_be(ino, node):
            return False
        async with self._writeback.hold(HANDING_OVER, ino, (node.parent, node.name)):
            held, node = node, self._writeback.journal.node(ino)
            if node is None or (node.parent, node.name) != (held.parent, held.name):
                return False
            if not self._can_be(ino, node):
                return False
            ref = None
            if node.kind is Kind.FILE:
                if node.flags & Flag.REMOTE and node.key != self._writeback.union.path_of(ino):
                    return False  # The lake is still to be told of its name.
                ref = await self._keep(ino, node)
            inode = Inode(
                node.kind, node.mode, node.uid, node.gid, node.size, node.mtime_ns, node.parent
            )
            await self._namespace.adopt(
                node.parent, node.name, ino, inode, ref, complete=bool(node.flags & Flag.FRESH)
            )
            self._writeback.forget_path(ino)
            adopted = await self._writeback.change(
                lambda work: self._writeback.tree.adopt(work, ino, node.lsn)
            )
        self._blocks.pop(ino, None)
        if adopted is not None and adopted.mtime_ns != node.mtime_ns:
            # What is in a directory was changed while it was handed over as it had been.
            await self._namespace.touched(ino)
        return adopted is not None

    async def _keep(self, ino: int, node: Node) -> ObjectRef:
        """The staging file becomes the cached copy."""
        content, blocks, checksummed = self._blocks.get(ino, (0, {}, False))
        ref = object_of_node(node)._replace(has_checksum=checksummed)
        # Whatever follows, the cached copy of what it was is of no use for another change.
        old = self._before.pop(ino, None)
        if node.flags & Flag.REMOTE:
            # One that was left when this was tried before.
            self._writeback.staging.remove(ino)
            if old is not None:
                await self._front.renamed(ino, old, ref)
            return ref
        path = self._writeback.staging.path(ino)
        self._front.rewritten(ino)
        # From here on its bytes are the lake's, whatever becomes of the file.
        await self._writeback.change(lambda work: work.put_node(ino, node.marked(Flag.REMOTE)))
        try:
            if content == node.content and len(blocks) == block_count(node.size):
                # Sealed as they were uploaded. After a restart nobody knows what the file holds: it
                # may have been written to since, through a descriptor that was open.
                await self._front.adopt(ino, ref, node.size, path, blocks)
        finally:
            self._writeback.staging.remove(ino)
        return ref
