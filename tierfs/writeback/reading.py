"""What write-back asks of whoever reads the lake's files on this mount: `tierfs.front.python` has
it, and `tierfs.writeback.by_front` where a native front reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from tierfs.cache.blocks import Buffer
from tierfs.index.records import BlockRecord, ObjectRef
from tierfs.writeback.room import Disk


class OpenHandle(NamedTuple):
    """A handle of a staging file that a native front has, known by the number (*unique*) of the
    request that opened it. *ino* 0: a request that is not answered yet."""

    ino: int
    unique: int
    writes: bool


class Reading(Protocol):
    """Reads the lake's files, and keeps copies of them."""

    @property
    def capacity(self) -> Disk:
        """The account of the disk that it keeps copies on, which what is written shares."""

    def opened(self, ino: int) -> tuple[ObjectRef, int] | None:
        """The version and size that *ino* is open as, or None."""

    async def open(self, ino: int, ref: ObjectRef, size: int, pid: int = 0) -> int:
        """A handle on one version of an object, for a thread or process (0: not known)."""

    async def read(self, fh: int, offset: int, size: int) -> Buffer:
        """Up to *size* bytes at *offset*. Raises StaleVersion, and what the lake raises."""

    async def release(self, fh: int) -> None:
        """Close a handle."""

    def rewritten(self, ino: int) -> None:
        """*ino* is written to: what is in memory of it is of what it was."""

    async def renamed(self, ino: int, old: ObjectRef, ref: ObjectRef) -> None:
        """The object *old* is *ref* now, with the same bytes: so is its cached copy."""

    async def adopt(
        self, ino: int, ref: ObjectRef, size: int, path: Path, blocks: Mapping[int, BlockRecord]
    ) -> bool:
        """The file at *path*, all of whose *blocks* were compared with what the lake has, becomes
        the cached copy, if there is room."""
