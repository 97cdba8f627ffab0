"""Every file below a directory, listing as needed, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from tierfs.errors import NotFound, TierfsError
from tierfs.index.names import Names
from tierfs.index.records import Kind, ObjectRef
from tierfs.namespace.entries import Entries
from tierfs.namespace.readdir import Reader


class WalkEntry(NamedTuple):
    """One file: its *path* relative to the root, where its bytes are, and how many."""

    path: bytes
    ino: int
    reference: ObjectRef
    size: int


class Walk:
    """A walk of the files below *top*, or of *top* itself if it is one; with *after*, a file below
    it, of those that come after that one. See `Namespace.walk`.

    Files of a directory come as its pages do; directories are entered as they are met. What is kept
    is one position a level, so that a page is read again when the walk comes back up to it.
    """

    def __init__(
        self, names: Names, entries: Entries, reader: Reader, top: int, after: int = 0
    ) -> None:
        self._names = names
        self._entries = entries
        self._reader = reader
        self._top = top
        self._after = after
        self._stack: list[tuple[bytes, int, int]] | None = None

    async def page(self) -> list[WalkEntry]:
        """The next files, some of one directory; none: there are no more."""
        if self._stack is None:
            inode = self._entries.inode(self._top)
            if inode is None:
                raise NotFound("walk", f"inode {self._top}")
            if inode.kind is not Kind.DIRECTORY:
                self._stack = []
                return self._files([(self._top, b"", inode.size)], self._entries.path_of(self._top))
            self._stack = self._positions()
        files: list[WalkEntry] = []
        while self._stack and not files:
            prefix, directory, after = self._stack.pop()
            try:
                rows = await self._reader.readdir(directory, after)
            except NotFound:
                if directory == self._top:
                    raise
                continue  # It was removed from the lake while the walk went on.
            except TierfsError:
                self._stack.append((prefix, directory, after))  # Whoever asks again goes on here.
                raise
            found = []
            for ino, name, attributes in rows:
                after = ino
                if attributes.kind is Kind.DIRECTORY:
                    self._stack += [(prefix, directory, after), (prefix + name + b"/", ino, 0)]
                    break
                if attributes.kind is Kind.FILE:
                    found.append((ino, name, attributes.size))
            else:
                if rows:
                    self._stack.append((prefix, directory, after))
            files = self._files(found, prefix)
        return files

    def _files(self, found: list[tuple[int, bytes, int]], prefix: bytes) -> list[WalkEntry]:
        files = []
        for ino, name, size in found:
            ref = self._names.object(ino)
            if ref is not None:
                files.append(WalkEntry(prefix + name, ino, ref, size))
        return files

    def _positions(self) -> list[tuple[bytes, int, int]]:
        """Where the walk begins: of each directory on the way to *after*, if that is below *top*,
        the prefix of its paths, its inode number, and the last entry passed."""
        found: list[tuple[bytes, int, int]] = []
        ino = self._after
        while ino and ino != self._top:
            inode = self._names.inode(ino)
            if inode is None or ino == inode.parent:
                break
            found.append((self._entries.prefix_of(inode.parent), inode.parent, ino))
            ino = inode.parent
        if ino == self._top and found:
            return found[::-1]
        return [(self._entries.prefix_of(self._top), self._top, 0)]


async def walk(
    names: Names, entries: Entries, reader: Reader, top: int
) -> AsyncIterator[WalkEntry]:
    """All of a `Walk`."""
    files = Walk(names, entries, reader, top)
    while page := await files.page():
        for entry in page:
            yield entry
