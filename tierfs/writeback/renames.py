"""What a rename does to the journal, of a file and of a directory with all that is in it.

As the rest of `tierfs.writeback.tree`, whose diagram says what the log then holds. A directory
shows in the lake file by file: first copies of all that is there already, in the order in which
they were closed, as far as that is known, so that what was written last, a marker, is there last;
then the old ones go.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from tierfs.errors import (
    AlreadyExists,
    CrossRoot,
    InvalidRequest,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
)
from tierfs.index.records import Kind
from tierfs.writeback.history import (
    Done,
    Found,
    LakeEntry,
    elsewhere,
)
from tierfs.writeback.journal import Head, Work
from tierfs.writeback.records import Flag, Node, Op
from tierfs.writeback.rules import is_marker
from tierfs.writeback.tree import Names


class Tree(Names):
    """All decisions of one mount: `Names`, and renames."""

    def rename(
        self,
        work: Work,
        source: tuple[int, bytes, LakeEntry | None],
        target: tuple[int, bytes, LakeEntry | None],
        *,
        replace: bool,
        in_use: Container[int],
        unfinished: Container[int],
        target_empty: bool = True,
    ) -> Done:
        """The first name becomes the second. *in_use*: inodes that are open; *unfinished*: those
        that were written to since they were closed last; *target_empty*: the lake shows nothing in
        a directory that the target is."""
        old_path, new_path = self.path_in(work, *source[:2]), self.path_in(work, *target[:2])
        found, over = self._find(work, *source), self._find(work, *target)
        if found is None:
            raise NotFound("rename", old_path)
        directory = found.kind is Kind.DIRECTORY
        root = self._root(old_path, "rename", directory=directory)
        if self._root(new_path, "rename", directory=directory) != root:
            raise CrossRoot("rename", new_path, "it has another write-back root")
        if over is not None and over.ino == found.ino:
            return Done()
        way = Done()
        if over is not None:
            if not replace:
                raise AlreadyExists("rename", new_path)
            way = self._make_way(work, over, new_path, root, directory, in_use, target_empty)
        if directory:
            done = self._rename_directory(work, found, source, target, root, unfinished)
        else:
            if found.node is None:
                assert found.lake is not None
                node = self.take_over(work, *source[:2], found.lake, remote=True)
                found = Found(found.ino, found.kind, node, None)
            done = self._rename_file(work, found, source, target, root, unfinished)
        self._touch(work, source[0], target[0])
        return Done(done.lsn, way.superseded + done.superseded, way.gone)

    def _remember(self, work: Work, path: bytes, over: Found) -> None:
        """What the lake has at *path* is what its next entry has to find there."""
        etag = b""
        if over.lake is not None and over.lake.ref is not None:
            etag = over.lake.ref.version.etag
        elif over.node is not None and over.node.key == path:
            etag = over.node.etag
        if etag and work.head(path) is None:
            work.put_head(path, Head(0, True, etag))

    def _make_way(
        self, work: Work, over: Found, path: bytes, root: bytes, directory: bool,
        in_use: Container[int], target_empty: bool,
    ) -> Done:  # fmt: skip
        if directory != (over.kind is Kind.DIRECTORY):
            if directory:
                raise NotADirectory("rename", path)
            raise IsADirectory("rename", path)
        if not directory:
            done = self._displace(work, over, root, in_use)
            self._remember(work, path, over)
            return done
        if not target_empty or next(work.children(over.ino), None) is not None:
            raise NotEmpty("rename", path)
        if over.node is not None:
            work.unlink(over.node.parent, over.node.name)
            work.drop_node(over.ino)
        work.drop_xattrs(over.ino)
        return Done()

    def _rename_file(
        self, work: Work, found: Found,
        source: tuple[int, bytes, LakeEntry | None], target: tuple[int, bytes, LakeEntry | None],
        root: bytes, unfinished: Container[int],
    ) -> Done:  # fmt: skip
        node = found.node
        assert node is not None
        old_path, new_path = self.path_in(work, *source[:2]), self.path_in(work, *target[:2])
        is_lakes, held = _is_lakes(found.ino, node, unfinished), self.rules.is_held(new_path)
        moved = elsewhere(node._replace(parent=target[0], name=target[1]), is_lakes=is_lakes)
        if held and is_lakes:
            raise CrossRoot("rename", new_path, "it is in the lake, where no temporary name is")
        finished = _is_finished(found.ino, node, unfinished)
        # Nothing that the lake has at the old name, of before, may be beside what comes to the new.
        over = not held and self._is_over_older(work, root)
        superseded = self._collapse(work, root, found.ino) if finished and not over else ()
        in_lake = self._in_lake(work, old_path, found)
        work.unlink(source[0], source[1])
        work.link(target[0], target[1], found.ino)
        given_up = self.is_given_up(work, old_path, found.ino, node)
        if finished and in_lake and not held and not superseded and not given_up:
            lsn = self._append(
                work, Op.MOVE, found.ino, new_path, root, node, old_path, parent=source[0]
            )
            work.put_node(found.ino, moved)
            work.white_out(source[0], source[1])
            return Done(lsn)
        done = Done()
        if finished:
            done = self._put(work, found.ino, moved, new_path, root)
            self._came_by_rename(work, done.lsn)
        else:
            # Open still: its place in the history is its close.
            work.put_node(found.ino, moved)
        if in_lake:
            gone = self._append(work, Op.DELETE, 0, old_path, root, node, parent=source[0])
            self._came_by_rename(work, gone)
        if in_lake or work.is_pending(old_path):
            work.white_out(source[0], source[1])
        return Done(done.lsn, superseded + done.superseded)

    def _rename_directory(
        self, work: Work, found: Found,
        source: tuple[int, bytes, LakeEntry | None], target: tuple[int, bytes, LakeEntry | None],
        root: bytes, unfinished: Container[int],
    ) -> Done:  # fmt: skip
        """The directory shows in the lake file by file, as `_in_order` says."""
        node = found.node
        old_path, new_path = self.path_in(work, *source[:2]), self.path_in(work, *target[:2])
        if node is None:
            raise NotFound("rename a directory", old_path, "it was handed over meanwhile")
        if (new_path + b"/").startswith(old_path + b"/"):
            raise InvalidRequest("rename a directory", new_path, "it cannot go into itself")
        everything = [(found.ino, node, old_path), *self._below(work, found.ino, old_path)]
        everything = self._in_order(work, everything, unfinished)
        work.unlink(source[0], source[1])
        work.link(target[0], target[1], found.ino)
        work.put_node(found.ino, node._replace(parent=target[0], name=target[1]))
        lsns: list[int] = []
        superseded: tuple[tuple[int, int], ...] = ()
        left: list[tuple[bytes, Node]] = []
        for ino, thing, path in everything:
            renamed = new_path + path[len(old_path) :]
            self._check_storable(renamed, "rename")
            done, leaves = self._carry(work, ino, thing, path, renamed, root, unfinished)
            superseded += done.superseded
            if work.entry(done.lsn) is not None:  # What is held has an lsn, and no entry.
                lsns.append(done.lsn)
            if leaves:
                left.append((path, thing))
        # The directory before all in it, and what was closed last behind all of it (O1, O2).
        self._came_by_rename(work, *lsns[:1], *lsns[-1:])
        for path, thing in left:
            self._came_by_rename(work, self._append(work, Op.DELETE, 0, path, root, thing))
        for ino, thing, path in reversed(everything):
            marked = self._in_lake(work, path + b"/", Found(ino, thing.kind, thing, None))
            if thing.kind is Kind.DIRECTORY and marked:
                parent = source[0] if path == old_path else 0
                self._append(work, Op.REMOVE_DIRECTORY, 0, path + b"/", root, None, parent=parent)
        if work.is_pending(old_path):
            work.white_out(source[0], source[1])
        return Done(lsns[-1] if lsns else 0, superseded)

    def _in_order(
        self, work: Work, everything: list[tuple[int, Node, bytes]], unfinished: Container[int]
    ) -> list[tuple[int, Node, bytes]]:
        """Directories as they were found, from above; then files as they were closed, what marks
        the others last."""
        directories = [item for item in everything if item[1].kind is Kind.DIRECTORY]
        files = [item for item in everything if item[1].kind is not Kind.DIRECTORY]

        def last_lsn(item: tuple[int, Node, bytes]) -> int:
            # A marker may have got its name, by a MOVE, long after its close.
            head = work.head(item[2]) if is_marker(item[2]) else None
            return max(item[1].lsn, 0 if head is None else head.last)

        def age(item: tuple[int, Node, bytes]) -> tuple[bool, int]:
            return is_marker(item[2]), item[1].mtime_ns

        # Of what was handed over once nobody knows any more when it was closed.
        finished = [node for ino, node, _ in files if _is_finished(ino, node, unfinished)]
        known = all(node.lsn for node in finished)
        return directories + (sorted(files, key=last_lsn) if known else sorted(files, key=age))

    def absorb(self, work: Work, parent: int, name: bytes, lake: LakeEntry) -> None:
        """What the lake has under *name* becomes a node, if the journal knows nothing of the name:
        a directory above is about to be renamed."""
        if work.ino_of(parent, name) is None:
            self.take_over(work, parent, name, lake, remote=lake.kind is Kind.FILE)

    def _carry(
        self, work: Work, ino: int, node: Node, old_path: bytes, new_path: bytes, root: bytes,
        unfinished: Container[int],
    ) -> tuple[Done, bool]:  # fmt: skip
        """Tell the lake of one thing in a directory that was renamed. True: it is still at its old
        path there, too."""
        held = self.rules.is_held(new_path)
        is_lakes = _is_lakes(ino, node, unfinished)
        before, node = node, elsewhere(node, is_lakes=is_lakes)
        if node.kind is Kind.DIRECTORY:
            # The parent and name of the topmost one were changed just now.
            node = (work.node(ino) or node).unmarked(Flag.PUBLISHED).marked(Flag.FRESH)
            if held:
                work.put_node(ino, node.marked(Flag.HELD))
                return Done(), False
            lsn = self._append(work, Op.MAKE_DIRECTORY, ino, new_path + b"/", root, None)
            work.put_node(ino, node.unmarked(Flag.HELD)._replace(lsn=lsn))
            return Done(lsn), False
        in_lake = self._in_lake(work, old_path, Found(ino, node.kind, before, None))
        if not _is_finished(ino, before, unfinished):
            work.put_node(ino, node)
            return Done(), in_lake
        if in_lake and not held and not self.is_given_up(work, old_path, ino, before):
            lsn = self._append(work, Op.COPY, ino, new_path, root, before, old_path)
            work.put_node(ino, node)
            return Done(lsn), True
        if held and is_lakes:
            raise CrossRoot("rename", new_path, "it is in the lake, where no temporary name is")
        return self._put(work, ino, node, new_path, root), in_lake

    def _below(self, work: Work, ino: int, path: bytes) -> Iterator[tuple[int, Node, bytes]]:
        for child, name in list(work.children(ino)):
            node = work.node(child)
            if node is None:
                continue
            yield child, node, path + b"/" + name
            if node.kind is Kind.DIRECTORY:
                yield from self._below(work, child, path + b"/" + name)


def _is_lakes(ino: int, node: Node, unfinished: Container[int]) -> bool:
    """Whether the content of the file *ino* is an object of the lake's: its bytes are there, or
    were copied here to be written to, which nobody has done."""
    copied = bool(node.etag) and not node.lsn and ino not in unfinished
    return copied or bool(node.flags & Flag.REMOTE)


def _is_finished(ino: int, node: Node, unfinished: Container[int]) -> bool:
    """Whether the file *ino* is content that was closed; else its place in the history is its
    close."""
    return ino not in unfinished and (bool(node.lsn) or _is_lakes(ino, node, unfinished))
