"""Every file below a directory, listing as needed, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from tierfs.errors import NotFound
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


async def walk(
    names: Names, entries: Entries, reader: Reader, top: int, after: int = 0
) -> AsyncIterator[WalkEntry]:
    """The files below *top*, or *top* itself if it is one; with *after*, a file below it, those
    that come after that one. See `Namespace.walk`.

    Files of a directory come as its pages do; directories are entered as they are met. What is kept
    is one position a level, so that a batch is read again when the walk comes back up to it.
    """
    inode = entries.inode(top)
    if inode is None:
        raise NotFound("walk", f"inode {top}")
    path = entries.path_of(top)
    if inode.kind is not Kind.DIRECTORY:
        ref = names.object(top)
        if ref is not None:
            yield WalkEntry(path, top, ref, inode.size)
        return
    stack = _positions(names, entries, top, after)
    while stack:
        prefix, directory, after = stack.pop()
        try:
            rows = await reader.readdir(directory, after)
        except NotFound:
            if directory == top:
                raise
            continue  # It was removed from the lake while the walk went on.
        for ino, name, attributes in rows:
            after = ino
            if attributes.kind is Kind.DIRECTORY:
                stack += [(prefix, directory, after), (prefix + name + b"/", ino, 0)]
                break
            ref = names.object(ino)
            if ref is not None:
                yield WalkEntry(prefix + name, ino, ref, attributes.size)
        else:
            if rows:
                stack.append((prefix, directory, after))


def _positions(
    names: Names, entries: Entries, top: int, after: int
) -> list[tuple[bytes, int, int]]:
    """Where a walk of *top* goes on behind *after*, or begins if that is not below it: of each
    directory on the way the prefix of its paths, its inode number, and the last entry passed."""
    found: list[tuple[bytes, int, int]] = []
    ino = after
    while ino and ino != top:
        inode = names.inode(ino)
        if inode is None or ino == inode.parent:
            break
        found.append((entries.prefix_of(inode.parent), inode.parent, ino))
        ino = inode.parent
    return found[::-1] if ino == top and found else [(entries.prefix_of(top), top, 0)]
