"""What a caller is told of an inode, and for how long it may believe it."""

from __future__ import annotations

import math
from typing import NamedTuple

from tierfs.clock import Clock
from tierfs.index.records import Inode, Kind

_NS = 1_000_000_000


class Attributes(NamedTuple):
    """The answer of a look-up. *mode* holds permission bits only; *ttl_s* is how many seconds a
    caller (the kernel) may keep this before it asks again: >= 0, and ``inf`` on an immutable
    lake."""

    ino: int
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ttl_s: float


class Presenter:
    """Turns records into `Attributes` with the mount's own owner and permissions where a record has
    none.

    Directories are 0755 and files 0644, less *umask*. A directory is no object in the lake, so it
    has no time of its own: it shows *directory_mtime_ns*, the same for all and over remounts.
    """

    def __init__(self, uid: int, gid: int, umask: int, directory_mtime_ns: int) -> None:
        self._uid = uid
        self._gid = gid
        self._modes = {
            Kind.DIRECTORY: 0o755 & ~umask,
            Kind.FILE: 0o644 & ~umask,
            Kind.SYMLINK: 0o777,
        }
        self.directory_mtime_ns = directory_mtime_ns

    def show(self, ino: int, inode: Inode, ttl_s: float) -> Attributes:
        """The attributes of *ino* whose record is *inode*."""
        kind, mode, uid, gid, size, mtime_ns, _ = inode
        return Attributes(
            ino,
            kind,
            mode or self._modes[kind],
            self._uid if uid < 0 else uid,
            self._gid if gid < 0 else gid,
            size,
            mtime_ns or (self.directory_mtime_ns if kind is Kind.DIRECTORY else 0),
            ttl_s,
        )


class Freshness:
    """How long what the lake said is believed. *ttl_s* is for what exists, *negative_ttl_s* for
    what does not; both may be ``inf``.

    Times come from a wall clock, because they are compared over remounts. A time in the future
    means that the clock was set back: such a record is stale, or it would be fresh for as long as
    the clock was wrong.
    """

    def __init__(self, clock: Clock, ttl_s: float, negative_ttl_s: float) -> None:
        self._clock = clock
        self.ttl_s = ttl_s
        self.negative_ttl_s = negative_ttl_s
        self.forever = math.isinf(ttl_s)

    def now_ns(self) -> int:
        """Wall-clock time, in nanoseconds."""
        return self._clock.now_ns()

    def left_s(self, checked_ns: int, now_ns: int) -> float:
        """Seconds for which something seen at *checked_ns* is still believed; 0.0: it is stale."""
        if self.forever:
            return math.inf
        age_ns = now_ns - checked_ns
        if age_ns < 0:
            return 0.0
        left_s = self.ttl_s - age_ns / _NS
        return left_s if left_s > 0.0 else 0.0

    def negative_left_s(self, checked_ns: int, now_ns: int) -> float:
        """As `left_s`, for an absence."""
        age_ns = now_ns - checked_ns
        if age_ns < 0:
            return 0.0
        left_s = self.negative_ttl_s - age_ns / _NS
        return left_s if left_s > 0.0 else 0.0


def is_newer(checked_ns: int, seen_ns: int, now_ns: int) -> bool:
    """Whether what was learnt at *checked_ns* outweighs an answer asked for at *seen_ns* (a future
    time outweighs nothing)."""
    return seen_ns < checked_ns <= now_ns
