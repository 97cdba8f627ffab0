"""Room on the cache disk: a hard limit, a share of the disk that stays free, and trouble with the
disk.

Bytes are reserved before they are written (C5). A reservation turns into used bytes block by block
(`Capacity.spend`) and what is left of it is given back. What is not worth the eviction of anything
gets no reservation, and is not kept (`NotWorthKeeping`). Each cached file is counted with
its `overhead_bytes` more than its blocks, so that the limit holds for ``du`` too.

Where files are written, too (`tierfs.writeback.room`), this is the one account of their disk. What
is written comes before what is cached: `Capacity.give_way` evicts for it, whatever that costs. A
written file that becomes a cached one has its bytes on the disk already (*written*): only the limit
has to have room for them.
"""

from __future__ import annotations

import errno
import logging
import math
import os
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio

from tierfs.cache.budget import Priority
from tierfs.errors import CacheFull

#: How old the disk's own account may be. Others write to that disk too.
STATVFS_INTERVAL_S = 2.0
#: After an eviction that found no room, the next attempt waits this long: everything is in use.
RETRY_S = 1.0

_log = logging.getLogger(__name__)


class DiskSpace(NamedTuple):
    """What statvfs says, in bytes; *free_bytes* is what we may still use."""

    total_bytes: int
    free_bytes: int


class Health:
    """Whether the cache disk takes blocks. While it does not, reads stream from the lake (C8)."""

    #: Seconds until the disk is tried again: a full one may have room soon, a failing one rarely
    #: heals.
    FULL_S = 5.0
    FAILING_S = 30.0

    def __init__(self) -> None:
        self.errors = 0
        self.reason = ""
        self._until_s = -math.inf
        self._hanging_until_s = -math.inf

    @property
    def streaming(self) -> bool:
        """True while blocks are not to be written."""
        return bool(self.reason) and trio.current_time() < self._until_s

    @property
    def hanging(self) -> bool:
        """True while the disk is not even to be read: it did not answer a moment ago."""
        return trio.current_time() < self._hanging_until_s

    def failed(self, op: str, error: BaseException) -> None:
        """Note that *op* on the cache disk or its index failed, and stream for a while."""
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        was = self.reason
        self.errors += 1
        self.reason = f"{op}: {error}"
        self._until_s = trio.current_time() + (self.FULL_S if full else self.FAILING_S)
        if isinstance(error, OSError) and error.errno == errno.ETIMEDOUT:
            self._hanging_until_s = self._until_s
        if not was:
            _log.warning(
                "the cache takes no new blocks, reads stream from the lake: %s", self.reason
            )

    def worked(self) -> None:
        """A block was written: the trouble, if there was any, is over."""
        if self.reason:
            _log.warning("the cache takes blocks again")
            self.reason = ""


class NotWorthKeeping(CacheFull):
    """There would be room, but what would have to go for it is worth more."""


class Claim(NamedTuple):
    """What room is wanted for: a file, with the urgency of whoever waits for it."""

    ino: int
    priority: Priority


#: Evicts about so many bytes of what is not in use, for the sake of a claim or, without one,
#: whatever that costs; calls `Capacity.freed` as it goes. Returns False if it has not gone on
#: because what is left is worth more than what is to come.
Evict = Callable[[int, Claim | None], Awaitable[bool]]


class Reservation:
    """Bytes that a fetch may write, or that were *written* before. `Capacity.release` gives back
    what was not spent."""

    __slots__ = ("bytes", "written")

    def __init__(self, bytes_: int, *, written: bool = False) -> None:
        self.bytes = bytes_
        self.written = written


class Capacity:
    """The account. *evict* makes room, *disk* asks the file system."""

    def __init__(
        self,
        limit_bytes: int | None,
        min_free: float,
        used_bytes: int,
        *,
        disk: Callable[[], DiskSpace],
        evict: Evict,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = used_bytes
        self.reserved_bytes = 0
        #: The part of that which is on the disk already.
        self._written_bytes = 0
        self._min_free = min_free
        self._disk = disk
        self._evict = evict
        self._evicting = trio.Lock()
        self._space = DiskSpace(0, 0)
        self._space_read_s = -math.inf
        self._hopeless_until_s = -math.inf
        #: Since the mount.
        self._freed_bytes = 0

    def try_reserve(self, bytes_: int, *, written: bool = False) -> Reservation | None:
        """Reserve without evicting anything, or None."""
        if self._missing(bytes_, written=written) > 0:
            return None
        self.reserved_bytes += bytes_
        self._written_bytes += bytes_ if written else 0
        return Reservation(bytes_, written=written)

    def has_room(self, bytes_: int) -> bool:
        """Whether there is room for *bytes_* without an eviction."""
        return self._missing(bytes_) <= 0

    async def reserve(self, bytes_: int, claim: Claim, *, written: bool = False) -> Reservation:
        """Reserve, evicting if need be; *written*: for what is on the disk already. Raises
        NotWorthKeeping if what would have to go is worth more, and another CacheFull if there is
        nothing (more) to evict."""
        reservation = self.try_reserve(bytes_, written=written)
        if reservation is not None:
            return reservation
        if trio.current_time() < self._hopeless_until_s or self._too_large(bytes_):
            raise CacheFull("make room in the cache", hint="what is cached is in use")
        await self._evicting.acquire()
        try:
            await self._shrink()
            worth_it = True
            # Others may have made room meanwhile, or taken what was made here.
            while (reservation := self.try_reserve(bytes_, written=written)) is None and worth_it:
                freed_bytes = self._freed_bytes
                worth_it = await self._evict(self._missing(bytes_, written=written), claim)
                self.disk_changed()
                if self._freed_bytes == freed_bytes:
                    reservation = self.try_reserve(bytes_, written=written)
                    break
        finally:
            self._evicting.release()
        if reservation is None and not worth_it:
            # Nothing to wait for: what comes next may be worth more.
            raise NotWorthKeeping("make room in the cache", hint="what is cached is worth more")
        if reservation is None:
            self._hopeless_until_s = trio.current_time() + RETRY_S
            raise CacheFull("make room in the cache", hint="what is cached is in use")
        return reservation

    def spend(self, reservation: Reservation, bytes_: int) -> None:
        """*bytes_* of the reservation were written and recorded."""
        self._unreserve(reservation, bytes_)
        self.used_bytes += bytes_
        if not reservation.written:
            self.taken(bytes_)

    def release(self, reservation: Reservation) -> None:
        """Give back what was not spent."""
        self._unreserve(reservation, reservation.bytes)

    def _unreserve(self, reservation: Reservation, bytes_: int) -> None:
        reservation.bytes -= bytes_
        self.reserved_bytes -= bytes_
        self._written_bytes -= bytes_ if reservation.written else 0

    def taken(self, bytes_: int) -> None:
        """The disk has *bytes_* less; negative: more. It says so itself when it is asked again."""
        total_bytes, free_bytes = self._space
        self._space = DiskSpace(total_bytes, free_bytes - bytes_)

    def freed(self, bytes_: int) -> None:
        """*bytes_* that were used are no longer."""
        self.used_bytes -= bytes_
        self._freed_bytes += bytes_
        self._hopeless_until_s = -math.inf

    async def resize(self, limit_bytes: int | None) -> None:
        """Set the limit, and evict down to it as far as what is in use allows."""
        self.limit_bytes = limit_bytes
        await self._evicting.acquire()
        try:
            await self._shrink()
        finally:
            self._evicting.release()

    async def _shrink(self) -> None:
        """Evict what is too much already, because the limit has changed or others have written to
        the disk: that is for nobody's sake, so it does not matter what it is worth."""
        too_much = self._missing(0)
        if too_much > 0:
            await self._evict(too_much, None)
            self.disk_changed()

    def left_to_write(self) -> int:
        """How much could be written beside the share that stays free, if all that is cached, and
        is to be, went; not negative."""
        cached = self.used_bytes + self.reserved_bytes - self._written_bytes
        return max(0, cached - self._over_reserve(0))

    async def give_way(self, bytes_: int) -> bool:
        """Whether *bytes_* may be written now, beside the share that stays free: what is cached and
        not in use goes for them if it must."""
        missing = self._over_reserve(bytes_)
        if missing <= 0:
            return True
        if trio.current_time() < self._hopeless_until_s:
            return False
        await self._evicting.acquire()
        try:
            missing = self._over_reserve(bytes_)
            if missing > 0:
                await self._evict(missing, None)
                self.disk_changed()
                missing = self._over_reserve(bytes_)
        finally:
            self._evicting.release()
        if missing > 0:
            self._hopeless_until_s = trio.current_time() + RETRY_S
        return missing <= 0

    def disk_changed(self) -> None:
        """Ask the file system again at the next occasion."""
        self._space_read_s = -math.inf

    def _missing(self, bytes_: int, *, written: bool = False) -> int:
        """How much has to go before *bytes_* more fit; not positive if they fit now."""
        missing = 0 if written else self._over_reserve(bytes_)
        if self.limit_bytes is not None:
            missing = max(
                missing, self.used_bytes + self.reserved_bytes + bytes_ - self.limit_bytes
            )
        return missing

    def _over_reserve(self, bytes_: int) -> int:
        now = trio.current_time()
        if now - self._space_read_s >= STATVFS_INTERVAL_S:
            self._space = self._disk()
            self._space_read_s = now
        keep = int(self._space.total_bytes * self._min_free)
        coming = self.reserved_bytes - self._written_bytes + bytes_
        return keep + coming - self._space.free_bytes

    def _too_large(self, bytes_: int) -> bool:
        return self.limit_bytes is not None and bytes_ > self.limit_bytes


def disk_space_of(path: bytes) -> DiskSpace:
    """statvfs of *path*. A disk that cannot be asked has no room."""
    try:
        result = os.statvfs(path)
    except OSError:
        return DiskSpace(0, 0)
    return DiskSpace(result.f_blocks * result.f_frsize, result.f_bavail * result.f_frsize)
