"""The files of a page of a listing that compiled code has read, without an object for each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tierfs.index.names_batch import PageRows
from tierfs.index.records import Dentry, Inode, Kind, ObjectRef
from tierfs.lake.protocol import ObjectInfo

if TYPE_CHECKING:
    from tierfs._listing import Page


class PackedFiles:
    """The objects of *page*, all of them files of the directory with *prefix*, by name in byte
    order; *objects* are the same, as they are looked at."""

    __slots__ = ("_objects", "_page", "_prefix")

    def __init__(self, page: Page, objects: Sequence[ObjectInfo], prefix: bytes) -> None:
        self._page = page
        self._objects = objects
        self._prefix = prefix

    def __len__(self) -> int:
        return len(self._page)

    def names(self) -> list[bytes]:
        """All names, in order."""
        return self._page.names(len(self._prefix))

    def find(self, name: bytes) -> int | None:
        """Which of them is *name*."""
        return self._page.find(self._prefix + name)

    def overlaps(self, other: PackedFiles) -> bool:
        """Whether they may have a name in common."""
        if not len(self) or not len(other):
            return False
        (first, last), (others_first, others_last) = self._page.ends(), other._page.ends()
        return first <= others_last and others_first <= last

    def info(self, n: int) -> ObjectInfo:
        """Number *n*."""
        return self._objects[n]

    def named(self) -> dict[bytes, ObjectInfo]:
        """All of them, by name."""
        return dict(zip(self.names(), self._objects, strict=True))

    def open(self, last: bytes) -> list[int]:
        """Those that a directory may hide which comes after the key *last*."""
        return self._page.open(last)

    def rows(self, parent: int, ino: int, checked_ns: int, without: list[int]) -> PageRows:
        """The rows of all but *without* (ascending), as new files with numbers from *ino* on."""
        return self._page.rows(len(self._prefix), parent, ino, checked_ns, without)


class NewFiles(NamedTuple):
    """*files* but for those of *without*, as new entries of *parent*: inode numbers from *ino*
    on."""

    files: PackedFiles
    parent: int
    ino: int
    checked_ns: int
    without: list[int]

    def __len__(self) -> int:
        return len(self.files) - len(self.without)

    def known(self, name: bytes) -> tuple[Dentry, Inode, ObjectRef] | None:
        """What *name* is, if it is one of them."""
        n = self.files.find(name)
        if n is None:
            return None
        before = bisect_left(self.without, n)
        if before < len(self.without) and self.without[before] == n:
            return None
        info = self.files.info(n)
        dentry = Dentry(self.ino + n - before, Kind.FILE, self.checked_ns)
        return dentry, inode_of(info, self.parent), ref_of(info)


def inode_of(info: ObjectInfo, parent: int) -> Inode:
    """The record of the file *info* in *parent*, as a listing describes it."""
    return Inode(Kind.FILE, 0, -1, -1, info.size, info.mtime_ns, parent)


def ref_of(info: ObjectInfo) -> ObjectRef:
    """Where the bytes of *info* are."""
    return ObjectRef(info.key, info.version, info.archived, info.has_checksum)
