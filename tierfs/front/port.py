"""The front port: what the control plane asks of whichever front fills the cache and serves reads.

Two fronts have one meaning: `tierfs.front.python` in this process, and a native one that is told
over a socket (`tierfs.front.native`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from tierfs.cache.budget import Priority
from tierfs.front.accesses import OnAccess, OnStall
from tierfs.index.records import Extent, ObjectRef
from tierfs.lake.protocol import LakeCounters


class FileState(NamedTuple):
    """What the cache holds of one file: bytes present, whether that is all of it, and where."""

    cached_bytes: int
    complete: bool
    path: str | None


class FrontPort(Protocol):
    """Commands to a front. All may be called concurrently from one trio loop."""

    def tell_accesses(self, told: OnAccess, stalls: OnStall) -> None:
        """From now on tell *told* of each access, instead of the policy, and *stalls* of each open
        and read that has waited for the lake."""

    async def fetch(
        self,
        ino: int,
        ref: ObjectRef,
        size: int,
        extent: tuple[int, int] | None,
        priority: Priority,
    ) -> int:
        """Bring the object, or the blocks that ``[lo, hi)`` touches, into the cache; returns the
        bytes that had to be fetched, after they are on the cache disk.

        Raises CacheFull when they cannot be kept or, with `Priority.FILL`, are not worth it, in
        which case they may not even be fetched; StaleVersion, IntegrityError, and what the lake
        raises.
        """

    async def fill(self, files: Sequence[tuple[int, ObjectRef, int]]) -> int:
        """Bring files (inode number, object, size), which nobody waits for, into the cache, behind
        everything that anybody waits for, and wait until that is over; returns how many were not
        worth what would have had to go. What the lake refuses is left out."""

    async def evict(self, ino: int, extents: Sequence[Extent] | None = None) -> int:
        """Evict a file and return the bytes freed; 0 if nothing was cached, or if it is in use, in
        which case it goes when its last user leaves. Pinned files stay.

        With *extents*, multiples of EXTENT_SIZE, only these leave an incomplete file, and none
        leave a whole one or one in use.
        """

    async def evict_all(self) -> tuple[int, int]:
        """Evict every file that is not in use or pinned. Returns (files, bytes)."""

    def pin(self, ino: int) -> None:
        """Never evict *ino* until it was unpinned as often. Not remembered over a restart."""

    def unpin(self, ino: int) -> None:
        """Take one pin back."""

    async def invalidate(self, ino: int) -> None:
        """The lake has another version: handles that are open on *ino* go on only if all of it is
        cached, and the copy goes when the last of them is released."""

    def cached_bytes(self) -> int:
        """What the cache takes of the disk, of its limit."""

    @property
    def limit_bytes(self) -> int | None:
        """The cache's limit (None: the disk's free reserve alone)."""

    async def resize(self, limit_bytes: int | None) -> None:
        """Set the cache's limit (None: the disk's free reserve alone), and evict down to it."""

    def file_state(self, ino: int) -> FileState:
        """What is cached of *ino*."""

    def requests_to_fetch(self, size: int) -> int:
        """How many GETs bring an object of *size* bytes."""

    def lake_counters(self) -> LakeCounters:
        """What it asked of the lake by itself, past `Lake`, whose counters know nothing of it."""

    def stats(self) -> dict[str, Any]:
        """Counters since the start, and gauges; names as in `tierfs.metrics`."""
