"""What each change of a name or a file does to the journal: the decisions, one function each.

All run in the journal's writing thread, on a `Work`, so what they find is what they change. The
lake's part of the tree is not in the journal: whoever calls says what the lake has under the names
in question (`LakeEntry`), which counts only where the journal knows nothing of a name.

A file's content becomes history at its *commit points* (`close`, and `rename` of what is closed),
each with an lsn. What the log then holds::

    close            PUT path               nothing, while the name is held or the file unlinked
    rename a b       MOVE a -> b            PUT b, if a was held, or its PUT is still the last word
                                            and the lake has nothing older there; and PUT b, DELETE
                                            a, if that PUT was given up
    rename of a directory: MAKE_DIRECTORY and COPY for all in it, then DELETE and REMOVE_DIRECTORY
    unlink           DELETE path            nothing, if the lake has not heard of it and never will
    mkdir, rmdir     MAKE_, REMOVE_DIRECTORY
    symlink          LINK path
    chmod, utimes    ATTRIBUTES path        nothing, while the PUT that will carry them is pending,
                                            and no upload in parts was asked for with the old ones;
                                            nor where that PUT was given up

Invariants:

T1. What the log of a root says, done in order, takes the lake through states that the root has
    had. An entry is taken out of it unpublished only if it is the last one, so that the lake misses
    no state between two that it shows (a *collapse*).
T2. A name that is held is in no entry of the log.
T3. Closed content is not changed: whoever writes on freezes it first
    (`tierfs.writeback.staging`).
"""

from __future__ import annotations

import time
from collections.abc import Container, Mapping
from typing import Any

from tierfs.errors import (
    AlreadyExists,
    IsADirectory,
    NoAttribute,
    NotADirectory,
    NotEmpty,
    NotFound,
    StagingFull,
    StaleVersion,
)
from tierfs.index.records import Kind
from tierfs.writeback.giving_up import GivingUp
from tierfs.writeback.history import Done, Found, LakeEntry, bare
from tierfs.writeback.journal import Work
from tierfs.writeback.records import Flag, Node, Op, State

#: Names and values of all extended attributes of an inode. One list of names, or one value, goes
#: to a native front in one message (`tierfs.control.wire.LONGEST`), as to the kernel. ext4 has
#: 4 KiB for them, and ENOSPC.
XATTRS_BYTES = 60 << 10


class Names(GivingUp):
    """The decisions about single names and files; `tierfs.writeback.renames.Tree` has all."""

    def _find(self, work: Work, parent: int, name: bytes, lake: LakeEntry | None) -> Found | None:
        ino = work.ino_of(parent, name)
        if ino is None:
            return None if lake is None else Found(lake.ino, lake.kind, None, lake)
        if ino == 0:
            return None
        node = work.node(ino)
        return None if node is None else Found(ino, node.kind, node, None)

    def _touch(self, work: Work, *directories: int) -> None:
        """Entries of *directories* have changed. Of a directory of the lake's nobody knows when."""
        for ino in set(directories):
            node = work.node(ino)
            if node is not None:
                now_ns = time.time_ns()
                work.put_node(ino, node._replace(mtime_ns=now_ns, ctime_ns=now_ns))

    # Files.

    def create(
        self,
        work: Work,
        parent: int,
        name: bytes,
        lake: LakeEntry | None,
        ino: int,
        node: Node,
    ) -> None:
        """A new file *ino* under *name*, open for writing. Raises AlreadyExists."""
        path = self.path_in(work, parent, name)
        self._root(path, "create a file")
        if self._find(work, parent, name, lake) is not None:
            raise AlreadyExists("create a file", path)
        work.put_node(ino, node._replace(parent=parent, name=name))
        work.link(parent, name, ino)
        self._touch(work, parent)

    def take_over(
        self, work: Work, parent: int, name: bytes, lake: LakeEntry, *, remote: bool
    ) -> Node:
        """The lake's file becomes a node, under the same number, to be written to; with *remote*
        its bytes stay the lake's. If it is one already, that is the answer."""
        path = self.path_in(work, parent, name)
        self._root(path, "write to a file", directory=lake.kind is Kind.DIRECTORY)
        known = work.ino_of(parent, name)
        if known is not None:
            node = work.node(lake.ino) if known == lake.ino else None
            if node is None:
                raise NotFound("write to a file", path, "it was replaced meanwhile")
            return node
        node = Node(
            lake.kind,
            Flag.REMOTE if remote else Flag.NONE,
            lake.mode,
            lake.uid,
            lake.gid,
            lake.size,
            lake.mtime_ns,
            lake.mtime_ns,
            0,
            0,
            parent,
            name,
            lake.target,
            key=lake.ref.key if lake.ref is not None else b"",
            etag=lake.ref.version.etag if lake.ref is not None else b"",
        )
        work.put_node(lake.ino, node)
        work.link(parent, name, lake.ino)
        return node

    def close(
        self, work: Work, ino: int, size: int, mtime_ns: int, ctime_ns: int, *, synced: bool
    ) -> Done:
        """The content of *ino* is what it is now: a commit point. *synced*: it is on the disk."""
        node = work.node(ino)
        if node is None:
            raise NotFound("close a file", f"inode {ino}")
        node = node.unmarked(Flag.REMOTE | Flag.PUBLISHED | Flag.SYNCED | Flag.DOUBTFUL)
        node = node._replace(size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns)
        if synced:
            node = node.marked(Flag.SYNCED)
        if node.flags & Flag.UNLINKED:
            lsn = work.take_lsn()
            work.put_node(ino, node._replace(lsn=lsn, content=lsn))
            return Done()
        path = self.path_of(work, ino)
        root = self._root(path, "close a file")
        return self._put(work, ino, node._replace(content=0), path, root)

    def unlink(
        self, work: Work, parent: int, name: bytes, lake: LakeEntry | None, in_use: Container[int]
    ) -> Done:
        """*name* goes; what is *in_use* stays until it is no more."""
        path = self.path_in(work, parent, name)
        root = self._root(path, "remove a file")
        found = self._find(work, parent, name, lake)
        if found is None:
            raise NotFound("remove a file", path)
        if found.kind is Kind.DIRECTORY:
            raise IsADirectory("remove a file", path)
        done = self._displace(work, found, root, in_use)
        self._remove_from_lake(work, Op.DELETE, parent, name, path, root, found)
        self._touch(work, parent)
        return done

    def _remove_from_lake(
        self, work: Work, op: Op, parent: int, name: bytes, path: bytes, root: bytes, found: Found
    ) -> None:
        """*name* is absent now; tell the lake, if it has heard of it or will."""
        node = found.node
        lost = node is not None and bool(node.flags & Flag.LOST)
        if lost or self._in_lake(work, path, found):
            if node is None and found.lake is not None and found.lake.ref is not None:
                ref = found.lake.ref
                node = bare(found.kind, ref.key, ref.version.etag)
            self._append(work, op, 0, path, root, node, parent=parent)
            work.white_out(parent, name)
        elif work.is_pending(path):
            work.white_out(parent, name)
        else:
            work.unlink(parent, name)

    def _displace(self, work: Work, found: Found, root: bytes, in_use: Container[int]) -> Done:
        """The file *found* loses its name."""
        node = found.node
        if node is None:
            work.drop_xattrs(found.ino)
            return Done()
        superseded = self._collapse(work, root, found.ino)
        work.unlink(node.parent, node.name)
        if found.ino in in_use:
            work.put_node(found.ino, node.marked(Flag.UNLINKED))
            return Done(0, superseded)
        work.drop_node(found.ino)
        work.drop_xattrs(found.ino)
        return Done(0, superseded, ((found.ino, node.content),))

    def forget(self, work: Work, ino: int, *, known: bool = False) -> Done:
        """The last handle of *ino* is closed: if it had no name, or lost its place, it is gone; if
        it is the lake's and was not written to, it is the lake's alone again (*known*: see
        `give_back`)."""
        node = work.node(ino)
        if node is None:
            return Done()
        if node.flags & Flag.UNLINKED:
            work.drop_node(ino)
            work.drop_xattrs(ino)
            return Done(0, (), ((ino, node.content),))
        if node.flags & Flag.LOST:
            work.unlink(node.parent, node.name)
            work.drop_node(ino)
            return Done(0, (), ((ino, node.content),))
        if node.is_copy:
            give_back(work, ino, node, known=known)
            return Done(0, (), ((ino, 0),))
        return Done()

    # Directories and links.

    def make(
        self, work: Work, parent: int, name: bytes, lake: LakeEntry | None, ino: int, node: Node
    ) -> None:
        """A new directory or symbolic link. Raises AlreadyExists."""
        directory = node.kind is Kind.DIRECTORY
        path = self.path_in(work, parent, name)
        op = "make a directory" if directory else "make a symbolic link"
        root = self._root(path, op, directory=directory)
        if self._find(work, parent, name, lake) is not None:
            raise AlreadyExists(op, path)
        node = node._replace(parent=parent, name=name)
        work.link(parent, name, ino)
        if not directory:
            self._put(work, ino, node, path, root)
        elif self.rules.is_held(path):
            work.put_node(ino, node.marked(Flag.HELD)._replace(lsn=work.take_lsn()))
        else:
            lsn = self._append(work, Op.MAKE_DIRECTORY, ino, path + b"/", root, None)
            work.put_node(ino, node._replace(lsn=lsn))
        self._touch(work, parent)

    def remove_directory(
        self, work: Work, parent: int, name: bytes, lake: LakeEntry | None
    ) -> None:
        """The directory *name*, of which the lake shows no entries, goes. Raises NotEmpty."""
        path = self.path_in(work, parent, name)
        root = self._root(path, "remove a directory", directory=True)
        found = self._find(work, parent, name, lake)
        if found is None:
            raise NotFound("remove a directory", path)
        if found.kind is not Kind.DIRECTORY:
            raise NotADirectory("remove a directory", path)
        if next(work.children(found.ino), None) is not None:
            raise NotEmpty("remove a directory", path)
        self._drop_directory(work, parent, name, path, root, found)
        self._touch(work, parent)

    def _drop_directory(
        self, work: Work, parent: int, name: bytes, path: bytes, root: bytes, found: Found
    ) -> None:
        work.unlink(parent, name)
        work.drop_xattrs(found.ino)
        if found.node is not None:
            work.drop_node(found.ino)
        self._remove_from_lake(work, Op.REMOVE_DIRECTORY, parent, name, path + b"/", root, found)

    # Attributes.

    def change_attributes(self, work: Work, ino: int, changes: Mapping[str, Any]) -> Done:
        """Attributes of *ino*, by their names in `Node`, are others now. A PUT that the lake has
        heard nothing of carries them; where there is none, they are an entry of their own."""
        node = work.node(ino)
        if node is None:
            raise NotFound("change attributes", f"inode {ino}")
        node = node._replace(**changes)
        work.put_node(ino, node)
        directory = node.kind is Kind.DIRECTORY
        # Of a file that the lake has there is an ETag, though it may be open for writing.
        known = directory or node.lsn or node.etag or node.flags & Flag.REMOTE
        if node.flags & (Flag.UNLINKED | Flag.HELD) or not known:
            return Done()
        entry = work.entry(node.lsn) if node.lsn else None
        if entry is not None and entry.state is State.PENDING and not work.is_begun(node.lsn):
            return Done()
        path = self.path_of(work, ino)
        if not directory and (
            not self._in_lake(work, path, Found(ino, node.kind, node, None))
            or self.is_given_up(work, path, ino, node)
        ):
            # Renamed while it is being written, or given up: its next PUT will carry them (G2).
            return Done()
        root = self._root(path, "change attributes", directory=directory)
        op = Op.MAKE_DIRECTORY if directory else Op.ATTRIBUTES
        lsn = self._append(work, op, ino, path + b"/" if directory else path, root, node)
        work.put_node(ino, node.unmarked(Flag.PUBLISHED))
        return Done(lsn)

    def set_xattr(
        self, work: Work, ino: int, lake_path: bytes | None, name: bytes, value: bytes | None
    ) -> None:
        """Set, or with None remove, an extended attribute of *ino*, which the lake's part of the
        tree has at *lake_path* if the journal knows nothing of it. They stay on this node. Raises
        StagingFull where an inode would have more than XATTRS_BYTES of them."""
        path = self.path_of(work, ino) if lake_path is None else lake_path
        self._root(path, "change an extended attribute", directory=True)
        if value is not None:
            others = (other for other in work.xattrs(ino) if other != name)
            taken = sum(len(other) + 1 + len(work.xattr(ino, other) or b"") for other in others)
            if taken + len(name) + 1 + len(value) > XATTRS_BYTES:
                raise StagingFull(
                    "set an extended attribute", path, f"a file has {XATTRS_BYTES} bytes for them"
                )
            work.put_xattr(ino, name, value)
        elif not work.drop_xattr(ino, name):
            raise NoAttribute("remove an extended attribute", name)


def give_back(work: Work, ino: int, node: Node, *, known: bool) -> None:
    """The lake's file *ino* was open for writing, and what was written, if anything, is no
    content of it: it is the lake's again, with the attributes that it has. *known*: under this
    number, which it keeps, though the lake's part of the tree may have another for it."""
    told = node.flags & Flag.PUBLISHED
    if told or any(entry.ino == ino for _, entry in work.log()):
        work.put_node(ino, node.marked(Flag.REMOTE))
    elif known:
        # As one that was written: it is handed over.
        work.put_node(ino, node.marked(Flag.REMOTE | Flag.PUBLISHED))
    else:
        work.unlink(node.parent, node.name)
        work.drop_node(ino)


def renumber(work: Work, old: int, new: int) -> None:
    """What is the file *old*, whose bytes are the lake's, is *new* from now on; also for the
    log. Raises StaleVersion where its bytes are not the lake's any more."""
    node = work.node(old)
    if node is not None and not node.flags & Flag.REMOTE:
        raise StaleVersion("open for writing", f"inode {old}", "it is written to by now")
    if node is not None:
        work.drop_node(old)
        work.put_node(new, node)
        work.link(node.parent, node.name, new)
    for lsn, entry in [(lsn, entry) for lsn, entry in work.log() if entry.ino == old]:
        work.put_entry(lsn, entry._replace(ino=new))
    for name in work.xattrs(old):
        value = work.xattr(old, name)
        work.put_xattr(new, name, b"" if value is None else value)
    work.drop_xattrs(old)
