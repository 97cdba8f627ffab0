"""What both fronts show of an inode, and how they refuse: domain functions, without FUSE.

`tierfs.fs.operations` calls them for pyfuse3, `tierfs.control.upcalls` for a native front. Errors
are `TierfsError`s; `tierfs.fs.errno` has their numbers.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable
from typing import NamedTuple, Protocol

from tierfs.errors import NoAttribute, NotFound, ReadOnly, StaleVersion, show
from tierfs.front.port import FrontPort
from tierfs.fs.attributes import XATTR_NAMES, file_xattr
from tierfs.index.records import Kind, ObjectRef
from tierfs.namespace import Attributes

log = logging.getLogger(__name__)

KIND_BITS = {
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.FILE: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
}


class Opened(NamedTuple):
    """What an inode is open as. *reference* is None where only the size is known any more."""

    reference: ObjectRef | None
    size: int


class Names(Protocol):
    """The tree that a front shows: `Namespace`, or with write-back what is made of it."""

    def lookup_cached(self, parent: int, name: bytes) -> Attributes | None: ...
    async def lookup(self, parent: int, name: bytes) -> Attributes: ...
    def attributes(self, ino: int) -> Attributes: ...
    def detached_attributes(self, ino: int, size: int) -> Attributes: ...
    def path_of(self, ino: int) -> bytes: ...
    def entry_count(self) -> int: ...
    def object_cached(self, ino: int) -> tuple[ObjectRef, int] | None: ...
    async def open_object(self, ino: int) -> tuple[ObjectRef, int]: ...
    async def readdir(
        self, ino: int, after_ino: int, limit: int = ...
    ) -> list[tuple[int, bytes, Attributes]]: ...
    async def listed(self, ino: int, after_ino: int) -> bool: ...
    async def read_link(self, ino: int) -> bytes: ...


class View:
    """One mount's. *opened* says what an inode is open as, or None; *why_read_only* why a change is
    refused."""

    def __init__(
        self,
        namespace: Names,
        front: FrontPort,
        opened: Callable[[int], Opened | None],
        *,
        why_read_only: str = "this mount shows the lake read-only",
    ) -> None:
        self._namespace = namespace
        self._front = front
        self._opened = opened
        self._why_read_only = why_read_only
        self._read_only_said = False

    def attributes(self, ino: int) -> Attributes:
        """The attributes of *ino*, also of one that lost its name while it is open. Raises
        StaleVersion. Never waits."""
        try:
            return self._namespace.attributes(ino)
        except (NotFound, StaleVersion):
            opened = self._opened(ino)
            if opened is None:
                raise StaleVersion(
                    "stat", f"inode {ino}", "the path names a newer version"
                ) from None
            return self._namespace.detached_attributes(ino, opened.size)

    async def xattr(self, ino: int, name: bytes, uid: int) -> bytes:
        """The extended attribute *name* for a caller with *uid*. Raises NoAttribute (also for
        ``security.capability``, which the kernel asks for before it runs a file), and as
        `Namespace.open_object`."""
        if name not in XATTR_NAMES:
            raise NoAttribute("getxattr", name)
        opened = self._opened(ino)
        reference = opened.reference if opened is not None else None
        if reference is None:
            reference, _ = await self._namespace.open_object(ino)
        value = file_xattr(name, reference, self._front.file_state(ino), uid)
        if value is None:
            raise NoAttribute("getxattr", name)
        return value

    def refuse_change(self, ino: int, op: str) -> None:
        """Raise ReadOnly for *op* on *ino*, or in it; the first time a mount, say so in the log."""
        if not self._read_only_said:
            self._read_only_said = True
            try:
                path = show(self._namespace.path_of(ino))
            except NotFound:
                path = f"inode {ino}"  # Open still, but without a name by now.
            log.warning(
                "/%s: %s: refused with EROFS, because %s; "
                "write to another file system (said once a mount)",
                path,
                op,
                self._why_read_only,
            )
        raise ReadOnly(op, "", self._why_read_only)
