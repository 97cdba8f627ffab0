"""What a front asks of write-back directories: names to the journal, bytes to staging.

Every method is one request of the kernel's. Names are decided by `tierfs.writeback.tree` in the
journal's writing thread, bytes are `tierfs.writeback.staging`'s; here is what ties the two:
handles, and who has to wait for whom.

Invariants:

D1. What a method that returns has changed is in the journal, synced.
D2. Whoever changes a name holds it (`tierfs.writeback.holds`), as does who hands it over to the
    lake's part of the tree: a name is never between the two for anybody who asks. Whoever takes it
    from a file holds that, too, as does who opens it: what is open then is known to be.
D3. A `Live` is changed, cut off or frozen under its lock only. What it holds since its last commit
    point is content of that lsn until `changed` is set.
D4. Where the rule of what is changed says durability = lake, the method returns when the lake has
    it, and all before it in its root (P5); it holds nothing while it waits.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tierfs.errors import (
    CrossRoot,
    InvalidRequest,
    NotEmpty,
    NotFound,
    ReadOnly,
)
from tierfs.index.records import ROOT_INO, Kind
from tierfs.namespace import Attributes
from tierfs.writeback.decisions import new_node
from tierfs.writeback.files import Files
from tierfs.writeback.history import Done, LakeEntry
from tierfs.writeback.journal import Work
from tierfs.writeback.records import Flag, Node

RENAME_NOREPLACE = 1
#: So many objects are moved for the sake of one rename, at most.
MOST_MOVED = 100_000
#: Held by who hands something over to the lake's part of the tree, and who must not see that.
HANDING_OVER = "handing over"
_IN_LAKE = Flag.PUBLISHED | Flag.REMOTE


class WriteBack(Files):
    """The write-back directories of one mount: `Files`, their names and their attributes."""

    # ---- names ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _hold_names(
        self, *names: tuple[int, bytes], also: Sequence[object] = ()
    ) -> AsyncIterator[None]:
        """Hold *names*, what the journal has there, and *also* (D2)."""
        while True:
            there = {ino for name in names if (ino := self.journal.ino_of(*name))}
            async with self._holds.hold(*names, *there, *also):
                if all((self.journal.ino_of(*name) or 0) in {0, *there} for name in names):
                    yield
                    return

    async def unlink(self, parent: int, name: bytes) -> None:
        """Remove a file or a symbolic link."""
        await self._keep_directory(parent)
        async with self._hold_names((parent, name)):
            lake = await self._lake_entry(parent, name)
            done, told = await self.tell(
                lambda work: self.tree.unlink(work, parent, name, lake, self._live), made=0
            )
            await self._touch(parent)
        self._tidy(done)
        await self.arrive(told)

    async def _keep_directory(self, ino: int) -> None:
        """A directory of the lake's is about to lose an entry, perhaps its last one."""
        if ino == ROOT_INO or self.journal.node(ino) is not None or self._namespace.is_own(ino):
            return
        if await self._keeps_others(ino):
            return
        path = self._namespace.path_of(ino)
        if self.tree.rules.root_of_directory(path) is not None:
            await self.change(lambda work: self.tree.keep_directory(work, path))

    async def _keeps_others(self, ino: int) -> bool:
        """Whether the lake has more than one entry of the directory *ino*, or is about to."""
        after, count = 0, 0
        while rows := await self.union.readdir(ino, after, 16):
            after = rows[-1][0]
            for child, _, _ in rows:
                node = self.journal.node(child)
                # What is open, was never closed, or has a temporary name is here alone.
                count += node is None or bool(node.flags & _IN_LAKE) or self._is_logged(node)
                if count > 1:
                    return True
        return False

    def _is_logged(self, node: Node) -> bool:
        return self.journal.read(lambda work: work.entry(node.lsn) is not None)

    async def make_directory(
        self, parent: int, name: bytes, mode: int, uid: int, gid: int
    ) -> Attributes:
        """Make a directory."""
        node = new_node(Kind.DIRECTORY, mode, uid, gid).marked(Flag.FRESH)
        return await self._make(parent, name, node)

    async def make_link(
        self, parent: int, name: bytes, target: bytes, uid: int, gid: int
    ) -> Attributes:
        """Make a symbolic link."""
        node = new_node(Kind.SYMLINK, 0o777, uid, gid)
        return await self._make(parent, name, node._replace(target=target, size=len(target)))

    async def _make(self, parent: int, name: bytes, node: Node) -> Attributes:
        async with self._holds.hold((parent, name)):
            lake = await self._lake_entry(parent, name)
            ino = await self._new_ino()
            _, told = await self.tell(
                lambda work: self.tree.make(work, parent, name, lake, ino, node), made=ino
            )
            await self._touch(parent)
        await self.arrive(told)
        return self.union.show(ino, node)

    async def remove_directory(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        await self._keep_directory(parent)
        async with self._holds.hold((parent, name)):
            lake = await self._lake_entry(parent, name)
            found = await self.union.lookup(parent, name)
            if found.kind is Kind.DIRECTORY and await self.union.readdir(found.ino, 0, 1):
                raise NotEmpty("remove a directory", name)
            _, told = await self.tell(
                lambda work: self.tree.remove_directory(work, parent, name, lake), made=0
            )
            await self._touch(parent)
            self.union.depart(found)
        await self.arrive(told)

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None:
        """Rename a file or directory, over what is there unless RENAME_NOREPLACE."""
        if flags & ~RENAME_NOREPLACE:
            raise InvalidRequest("rename", name, "only RENAME_NOREPLACE is supported")
        while not await self._rename(parent, name, new_parent, new_name, flags):
            pass

    async def _rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> bool:
        """As `rename`; False: what was found has changed meanwhile, try again."""
        await self._keep_directory(parent)
        moved = await self.union.lookup(parent, name)
        directory = moved.kind is Kind.DIRECTORY
        # Nothing is handed over to the lake's part of the tree while that is looked at.
        also = [HANDING_OVER] if directory else []
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(
                self._hold_names((parent, name), (new_parent, new_name), also=also)
            )
            now = await self.union.lookup(parent, name)
            if (now.ino, now.kind) != (moved.ino, moved.kind):
                return False
            absorbed: list[tuple[int, bytes, LakeEntry]] = []
            if directory:
                absorbed = await self._in_lake_below(parent, name, moved.ino)
            # What is closed now must not be written to before the rename is decided: its content is
            # the log's from then on.
            for live in list(self._live.values()):
                await stack.enter_async_context(live.lock)
            here = await self._lake_entry(parent, name)
            source = (parent, name, None if here is None else await self._with_target(here))
            target = (new_parent, new_name, await self._lake_entry(new_parent, new_name))
            over = await self._at(new_parent, new_name)
            empty = over is None or not await self._has_entries(over)
            unfinished = frozenset(
                ino for ino, live in self._live.items() if self._has_changed(live)
            )

            def rename(work: Work) -> Done:
                for entry in absorbed:
                    self.tree.absorb(work, *entry)
                return self.tree.rename(
                    work, source, target, replace=not flags & RENAME_NOREPLACE,
                    in_use=self._live, unfinished=unfinished, target_empty=empty,
                )  # fmt: skip

            done, told = await self.tell(rename, made=0, rows=4 + 8 * len(absorbed))
            await self._touch(parent, new_parent)
        self._tidy(done)
        if over is not None and over.kind is Kind.DIRECTORY and over.ino != moved.ino:
            self.union.depart(over)
        await self.arrive(told)
        return True

    async def _in_lake_below(
        self, parent: int, name: bytes, ino: int
    ) -> list[tuple[int, bytes, LakeEntry]]:
        """A directory and all in it of which the journal knows nothing, parents first: directory,
        name, and what it is."""
        found: list[tuple[int, bytes, LakeEntry]] = []
        own = await self._lake_entry(parent, name)
        if own is not None:
            found.append((parent, name, own))
        directories = [ino]
        while directories:
            directory = directories.pop()
            if self.union.is_fresh(directory):
                rows = self.journal.children(directory, 0, 1 << 30)
                directories += [child for child, _, node in rows if node.kind is Kind.DIRECTORY]
                continue
            after = 0
            while page := await self.union.readdir(directory, after):
                after = page[-1][0]
                for child, child_name, attributes in page:
                    if attributes.kind is Kind.DIRECTORY:
                        directories.append(child)
                    if self.journal.ino_of(directory, child_name) is None:
                        lake = await self._with_target(self._as_lake_entry(attributes))
                        found.append((directory, child_name, lake))
                if len(found) > MOST_MOVED:
                    raise CrossRoot(
                        "rename a directory", name,
                        f"more than {MOST_MOVED:,} of its files are in the lake; move them",
                    )  # fmt: skip
        return found

    async def _at(self, parent: int, name: bytes) -> Attributes | None:
        try:
            return await self.union.lookup(parent, name)
        except NotFound:
            return None

    async def _has_entries(self, found: Attributes) -> bool:
        return found.kind is Kind.DIRECTORY and bool(await self.union.readdir(found.ino, 0, 1))

    # ---- attributes -----------------------------------------------------------------------------

    async def set_size(self, ino: int, size: int, fh: int | None) -> None:
        """Cut a file off, or lengthen it; where it is not open, that is a commit point."""
        if fh is not None and fh in self._handles:
            await self._truncate(self._written(fh), size)
            return
        opened = await self.open(ino, os.O_RDWR | (os.O_TRUNC if size == 0 else 0))
        try:
            if size:
                await self._truncate(self._written(opened), size)
            await self.flush(opened)
        finally:
            await self.release(opened)

    async def set_attributes(
        self, ino: int, new: Mapping[str, int], times_ns: tuple[int, int] | None
    ) -> None:
        """Other permission bits or owners (*new*, by their names in `Node`); other times (atime,
        mtime)."""
        async with self._holds.hold(ino):
            changes: dict[str, Any] = dict(new)
            if times_ns is not None:
                changes["mtime_ns"] = times_ns[1]
            if self.union.has_departed(ino):
                # Only who has it open will see them.
                self.union.depart(self.union.attributes(ino)._replace(**changes))
                return
            if self.journal.node(ino) is None:
                await self._take_attributes_over(ino)
            changes["ctime_ns"] = time.time_ns()
            if times_ns is not None:
                self._set_times(ino, times_ns)
            _, told = await self.tell(lambda work: self.tree.change_attributes(work, ino, changes))
        await self.arrive(told)

    def xattr(self, ino: int, name: bytes) -> bytes | None:
        """An extended attribute of the user's, or None."""
        return self.journal.read(lambda work: work.xattr(ino, name))

    def xattrs(self, ino: int) -> list[bytes]:
        """The names of a file's extended attributes."""
        return self.journal.read(lambda work: work.xattrs(ino))

    async def set_xattr(self, ino: int, name: bytes, value: bytes | None) -> None:
        """Set an extended attribute, or remove it (None)."""
        lake_path = None
        if self.journal.node(ino) is None:
            lake_path = self._namespace.path_of(ino)
        await self.decide(
            lambda work: self.tree.set_xattr(work, ino, lake_path, name, value), made=0
        )

    def _set_times(self, ino: int, times_ns: tuple[int, int]) -> None:
        live = self._live.get(ino)
        if live is not None:
            os.utime(live.fd, ns=times_ns)
            return
        try:
            os.utime(self.staging.path(ino), ns=times_ns)
        except FileNotFoundError:
            return  # A directory, a link, a file of the lake.

    async def _take_attributes_over(self, ino: int) -> None:
        """What the lake decides so far becomes a node, its bytes staying where they are."""
        lake = await self._with_target(self._as_lake_entry(self.union.attributes(ino)))
        if ino == ROOT_INO:
            raise ReadOnly("change attributes", "", "the mount's own directory has its options'")
        parent = self._namespace.parent(ino)
        if parent is None:
            raise NotFound("change attributes", f"inode {ino}")
        name = self._namespace.path_of(ino).rpartition(b"/")[2]
        remote = lake.kind is Kind.FILE
        await self.change(lambda work: self.tree.take_over(work, parent, name, lake, remote=remote))
