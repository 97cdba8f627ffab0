"""What the log of a root says, and what follows when the lake has taken it: `History`, on which the
decisions about names (`tierfs.writeback.tree`) are built. Invariants T1 and T2 are kept here.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tierfs.errors import (
    InvalidRequest,
    NameTooLong,
    NotFound,
    ReadOnly,
)
from tierfs.index.records import Kind, ObjectRef
from tierfs.writeback.journal import Head, Work
from tierfs.writeback.records import Base, Entry, Flag, Node, Op, State
from tierfs.writeback.rules import Rules


def bare(kind: Kind, key: bytes, etag: bytes) -> Node:
    """Of a lake's file, what an entry of the log says about its version."""
    return Node(kind, Flag.NONE, 0, 0, 0, 0, 0, 0, 0, 0, 0, b"", key=key, etag=etag)


def etag_at(node: Node | None, path: bytes) -> bytes:
    """The version that *node* was, or is, at *path* in the lake."""
    return node.etag if node is not None and node.key == path else b""


def elsewhere(node: Node, *, is_lakes: bool) -> Node:
    """*node* under another name, where the lake does not have it yet; *is_lakes*: its content is
    the object under the old one."""
    node = node.unmarked(Flag.PUBLISHED)
    return node if is_lakes else node._replace(key=b"", etag=b"")


#: No machine's.
_NO_BOOT = bytes(8)


class PathUnknown(Exception):
    """The path of the lake's directory *ino* has to be found out first; then try again."""

    def __init__(self, ino: int) -> None:
        super().__init__(ino)
        self.ino = ino


class LakeEntry(NamedTuple):
    """What the lake has under a name, as far as the namespace knows. *ref* is None for a directory;
    *target* is that of a link, where it was asked for (`Decisions._with_target`)."""

    ino: int
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ref: ObjectRef | None
    target: bytes = b""


class Done(NamedTuple):
    """What a change leaves to do on the disk. *superseded*: inode and content that an entry of the
    log no longer brings; *gone*: inode and content of nodes that are no more."""

    lsn: int = 0
    superseded: tuple[tuple[int, int], ...] = ()
    gone: tuple[tuple[int, int], ...] = ()


class Told(NamedTuple):
    """A change that the lake is told of, and that whoever made it waits for."""

    root: bytes
    lsn: int
    path: bytes


class Found(NamedTuple):
    ino: int
    kind: Kind
    node: Node | None
    lake: LakeEntry | None


@dataclass(frozen=True)
class History:
    """The log of one mount, and the paths in it. *lake_paths* has the paths of directories that the
    lake decides; it is filled by others as `PathUnknown` asks for it. *boot* is this boot's id.
    Keys of the lake have at most *most_key_bytes*, and are text if *only_utf8*."""

    rules: Rules
    lake_paths: Mapping[int, bytes]
    boot: bytes
    most_key_bytes: int = 1024
    only_utf8: bool = False

    # Paths.

    def path_of(self, work: Work, ino: int) -> bytes:
        """The path of the directory or file *ino*. Raises NotFound if it lost its name, and
        PathUnknown."""
        parts: list[bytes] = []
        while True:
            node = work.node(ino)
            if node is None:
                break
            if node.flags & Flag.UNLINKED:
                raise NotFound("find a path", f"inode {ino}")
            parts.append(node.name)
            ino = node.parent
        above = self.lake_paths.get(ino)
        if above is None:
            raise PathUnknown(ino)
        return b"/".join([above, *reversed(parts)] if above else reversed(parts))

    def path_in(self, work: Work, parent: int, name: bytes) -> bytes:
        """The path of *name* in *parent*."""
        above = self.path_of(work, parent)
        return above + b"/" + name if above else name

    def require(self, path: bytes, op: str) -> None:
        """Raise ReadOnly unless a rule matches the file *path*."""
        self._root(path, op)

    def _root(self, path: bytes, op: str, *, directory: bool = False) -> bytes:
        root = self.rules.root_of_directory(path) if directory else self.rules.root_of(path)
        if root is None:
            raise ReadOnly(op, path, "no write-back rule matches it")
        self._check_storable(path, op)
        return root

    def _check_storable(self, path: bytes, op: str) -> None:
        """Refuse now what the lake could not take later."""
        # A directory's marker is one byte longer.
        if len(path) >= self.most_key_bytes:
            raise NameTooLong(op, path, "the lake has no keys that long")
        if self.only_utf8:
            try:
                path.decode()
            except UnicodeDecodeError:
                raise InvalidRequest(op, path, "keys of this lake are UTF-8") from None

    # What the log is told.

    def _put(self, work: Work, ino: int, node: Node, path: bytes, root: bytes) -> Done:
        """*node*, which is closed, is to be at *path* in the lake, with its content or, if that is
        0, one that is new."""
        last = work.last_pending(root)
        superseded = self._collapse(work, root, ino)
        node = node.unmarked(Flag.LOST)
        if self.rules.is_held(path):
            lsn = work.take_lsn()
            node = node.marked(Flag.HELD)
        else:
            op = Op.PUT if node.kind is Kind.FILE else Op.LINK
            lsn = self._append(work, op, ino, path, root, node)
            node = node.unmarked(Flag.HELD)
            if superseded and last is not None and last[1].renamed:
                self._came_by_rename(work, lsn)
        work.put_node(ino, node._replace(lsn=lsn, content=node.content or lsn))
        return Done(lsn, superseded)

    def _append(
        self, work: Work, op: Op, ino: int, path: bytes, root: bytes, node: Node | None,
        other: bytes = b"", *, parent: int = 0,
    ) -> int:  # fmt: skip
        """Put an entry at the end of the log, with what the lake is taken to have at *path*."""
        head = work.head(path)
        base, etag = Base.ABSENT, b""
        if head is not None:
            base = Base.OURS
        elif node is not None and node.key == path and node.etag:
            base, etag = Base.VERSION, node.etag
        size = 0 if node is None else node.size
        content = 0 if node is None else node.content
        # Of what was closed during an earlier boot a rename knows no more than that close did (P2).
        flags = Flag.NONE if node is None or op is not Op.PUT else node.flags
        synced, boot = bool(flags & Flag.SYNCED), self.boot
        if flags & Flag.DOUBTFUL:
            boot = _NO_BOOT
        lsn = work.append(
            Entry(
                op, State.PENDING, base, synced, ino, size, time.time_ns(), boot, parent,
                content, root, path, other, etag,
                earlier=0 if head is None else head.last,
                was_present=head is not None and head.present,
                target=node.target if node is not None and op is Op.LINK else b"",
            )
        )  # fmt: skip
        gone = op in (Op.DELETE, Op.REMOVE_DIRECTORY)
        present_etag = head.etag if head is not None else etag
        work.put_head(path, Head(lsn, not gone, present_etag))
        if other:
            before = work.head(other) or Head(0, True, etag_at(node, other))
            gone = op is Op.MOVE
            work.put_head(other, Head(lsn, before.present and not gone, before.etag))
        return lsn

    def _came_by_rename(self, work: Work, *lsns: int) -> None:
        """What the log says at *lsns*, if anything, waits for all before it in any order (O1)."""
        for lsn in lsns:
            entry = work.entry(lsn)
            if entry is not None:
                work.put_entry(lsn, entry._replace(renamed=True))

    def _is_over_older(self, work: Work, root: bytes) -> bool:
        """Whether the last entry of the log, if it was taken back, would leave at its path what the
        lake has there."""
        last = work.last_pending(root)
        if last is None:
            return False
        return last[1].base is Base.VERSION or last[1].was_present

    def _collapse(self, work: Work, root: bytes, ino: int) -> tuple[tuple[int, int], ...]:
        """Take the last entry of the log back, if it is an unseen PUT of *ino* (T1)."""
        last = work.last_pending(root)
        if last is None:
            return ()
        lsn, entry = last
        if entry.ino != ino or entry.op not in (Op.PUT, Op.LINK):
            return ()
        work.drop_entry(lsn)
        head = work.head(entry.path)
        if head is not None and head.last == lsn:
            if entry.base is Base.OURS:
                before = Head(entry.earlier, entry.was_present, head.etag)
                work.put_head(entry.path, before)
            else:
                work.drop_head(entry.path)
        return ((ino, entry.content),)

    def _in_lake(self, work: Work, path: bytes, found: Found) -> bool:
        """Whether the lake has something at *path*, or will have when the log is done."""
        head = work.head(path)
        if head is not None:
            return head.present
        node = found.node
        if node is None:
            return found.lake is not None
        if node.kind is Kind.DIRECTORY:
            return not node.flags & Flag.FRESH
        return bool(node.etag) and node.key == path

    def keep_directory(self, work: Work, path: bytes) -> None:
        """The lake's directory *path* is about to lose what may be its last entry: it becomes an
        object of its own, or it would be gone, too."""
        root = self._root(path, "remove a file", directory=True)
        if work.head(path + b"/") is None:
            self._append(work, Op.MAKE_DIRECTORY, 0, path + b"/", root, None)

    # Who waits for the lake.

    def awaited(self, entries: Iterable[tuple[int, Entry]]) -> Told | None:
        """The last of *entries* of the log whose rule says durability = lake."""
        found = None
        for lsn, entry in entries:
            if self.rules.waits(entry.path):
                found = Told(entry.root, lsn, entry.path)
        return found

    def last_awaited(self, work: Work, ino: int) -> Told | None:
        """The same of the last commit point of *ino*."""
        node = work.node(ino)
        entry = work.entry(node.lsn) if node is not None else None
        return None if node is None or entry is None else self.awaited([(node.lsn, entry)])

    def is_awaited(self, work: Work, ino: int) -> bool:
        """Whether the next commit point of *ino* will be."""
        node = work.node(ino)
        if node is None or node.flags & Flag.UNLINKED:
            return False
        path = self.path_of(work, ino)
        return self.rules.waits(path) and not self.rules.is_held(path)

    # What the lake has taken.

    def begin(self, work: Work, lsn: int) -> Entry | None:
        """The entry *lsn* is about to be visible, and is not taken back any more; None: it was."""
        entry = work.entry(lsn)
        if entry is None:
            return None
        entry = entry._replace(state=State.PUBLISHING)
        work.put_entry(lsn, entry)
        return entry

    def synced(self, work: Work, lsn: int) -> None:
        """What *lsn* is to bring is on the disk: so is the file, if that is its content still."""
        entry = work.entry(lsn)
        if entry is None:
            return
        work.put_entry(lsn, entry._replace(synced=True))
        node = work.node(entry.ino)
        if node is not None and node.content == entry.content and not node.flags & Flag.DOUBTFUL:
            work.put_node(entry.ino, node.marked(Flag.SYNCED))

    def published(self, work: Work, lsn: int, etag: bytes, *, completed: bool = True) -> bool:
        """The lake shows *lsn*, as version *etag* (empty: it is gone). Returns whether nothing else
        is known of its path, so that the lake's word is enough. Not *completed*: what was uploaded
        for it is abandoned, if the lake has it still."""
        entry = work.entry(lsn)
        if entry is None:
            return False
        work.drop_entry(lsn)
        if completed:
            work.drop_parts(lsn)
        if entry.op is Op.MOVE:
            self._tell_head(work, entry.other, b"")
        head = work.head(entry.path)
        settled = self._tell_head(work, entry.path, etag)
        if settled and entry.op is Op.MAKE_DIRECTORY and not entry.ino:
            work.drop_head(entry.path)
        node = work.node(entry.ino) if entry.ino else None
        moves = entry.op in (Op.MOVE, Op.COPY, Op.ATTRIBUTES)
        if node is not None and moves and node.etag and node.key == (entry.other or entry.path):
            # Whatever comes later of it: that is where its bytes are.
            node = node._replace(key=entry.path, etag=etag)
            work.put_node(entry.ino, node)
        if node is None or not settled:
            return settled
        brings_node = entry.op is Op.PUT and entry.content == node.content
        # Else a later change of the path is out of the log before it: the node says what that was.
        if head is None or head.last == lsn or brings_node:
            self._mark_published(work, entry, node, etag)
        return settled

    def _mark_published(self, work: Work, entry: Entry, node: Node, etag: bytes) -> None:
        """*node*, if *entry*'s path is its own still, is version *etag* of the lake's there."""
        if node.flags & Flag.UNLINKED or self.path_of(work, entry.ino) != entry.path.rstrip(b"/"):
            return
        node = node.marked(Flag.PUBLISHED)._replace(key=entry.path, etag=etag)
        work.put_node(entry.ino, node)

    def lose(self, work: Work, lsn: int, in_use: Container[int] = ()) -> int:
        """Another writer's version stays at the path of *lsn*: the lake decides from now on, unless
        it was written to since; of what is *in_use*, when it no longer is (`Flag.LOST`). Returns
        the inode that is no more, or 0."""
        entry = work.entry(lsn)
        if entry is None:
            return 0
        work.drop_entry(lsn)
        self._leave(work, lsn, 0, entry.path)
        if entry.other:
            # What was to be moved shows again.
            self._leave(work, lsn, entry.parent, entry.other)
        node = work.node(entry.ino) if entry.ino else None
        if node is None or not self._is_lost_with(work, lsn, entry, node):
            return 0
        if entry.ino in in_use:
            # What it is next is based on no version, and so in nobody's way.
            node = node.marked(Flag.LOST)._replace(key=b"", etag=b"")
            work.put_node(entry.ino, node)
            return 0
        work.unlink(node.parent, node.name)
        work.drop_node(entry.ino)
        return entry.ino

    def _leave(self, work: Work, lsn: int, parent: int, path: bytes) -> None:
        """What *lsn* would have made of *path* it will not be: if nothing came after that, the lake
        decides; also of the name in *parent*, if that is not 0."""
        head = work.head(path)
        if head is not None and head.last == lsn:
            work.drop_head(path)
        self._uncover(work, parent, path)

    def _is_lost_with(self, work: Work, lsn: int, entry: Entry, node: Node) -> bool:
        """Whether *node* is no more than what *entry*, which is out of the log, was to bring."""
        if node.flags & Flag.UNLINKED:
            return False
        if node.lsn == lsn or node.flags & Flag.REMOTE:
            return True
        if entry.op not in (Op.ATTRIBUTES, Op.MOVE, Op.COPY) or node.flags & Flag.HELD:
            return False
        return all(later.ino != entry.ino for _, later in work.log())

    def _tell_head(self, work: Work, path: bytes, etag: bytes) -> bool:
        head = work.head(path)
        if head is None:
            return True
        work.put_head(path, head._replace(etag=etag))
        return work.entry(head.last) is None

    def adopt(self, work: Work, ino: int, lsn: int) -> Node | None:
        """The lake's part of the tree has *ino* from now on. What it was; None if it changed since
        *lsn*, and stays."""
        node = work.node(ino)
        if node is None or not node.flags & Flag.PUBLISHED or node.lsn != lsn:
            return None
        if node.kind is Kind.DIRECTORY and node.flags & Flag.HELD:
            return None
        path = self.path_of(work, ino)
        work.unlink(node.parent, node.name)
        work.drop_node(ino)
        work.drop_head(path + b"/" if node.kind is Kind.DIRECTORY else path)
        return node

    def clear(self, work: Work, parent: int, path: bytes, now: bytes) -> None:
        """The lake's part of the tree knows that there is nothing at *path*, whose directory is
        *parent*; by a rename of that the name has the path *now*."""
        if not work.is_done(path):
            return
        work.drop_head(path)
        if not work.is_pending(now):
            self._uncover(work, parent, path)

    def _uncover(self, work: Work, parent: int, path: bytes) -> None:
        """Let the lake's part of the tree say what is at *path*, if no change of the log will and
        what was there was taken away. *parent* is its directory, or 0: then nothing is done."""
        name = path.rstrip(b"/").rpartition(b"/")[2]
        if parent and not work.is_pending(path) and work.ino_of(parent, name) == 0:
            work.unlink(parent, name)
