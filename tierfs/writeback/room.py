"""Room for what is written and not in the lake yet: its account, its budget, and who waits for it.

The disk is the cache's, too, and what is written comes first: cached files go for it before anybody
waits (`tierfs.cache.space.Capacity.give_way`). What is in the lake and has been handed over is a
cached file like others, and no longer counted here. Nothing that was acknowledged ever goes.

::

    a write ---- fits ----> kept in step with the uploads (`tierfs.writeback.pace`) ---> written
       |  ^
       |  | something left, or a second has passed
       v  |
     full ----- nothing has gone into the lake for STALLED_S, or nothing
                that there is could go, for IN_VAIN_S ----------------------> StagingFull

Invariants:

R1. Nobody waits here while holding a name, an inode or a file: what makes room may need it.
R2. What is counted of a staging file is what it was counted as when it goes: the account has no
    drift (`Account`).
R3. The budget may be exceeded by what is being written at one moment, and by one file that is
    larger than it is; the share of the disk that stays free, only by the former.
R4. How long it has been full, or waiting has looked vain, is one time of want's: from the first who
    finds it full, until one is let through and nobody waits. A refusal does not end it: the next
    one is told at once. Only what the lake takes is progress, not what is deleted here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import trio

from tierfs.errors import StagingFull
from tierfs.units import human_size
from tierfs.writeback.pace import SOFT_SHARE, Meter, Queue, pace_s

_log = logging.getLogger(__name__)

#: So long writers wait for a lake that takes nothing at all. Longer than a failover, and shorter
#: than what a job's own watchdog takes for a hang.
STALLED_S = 60.0
#: So long waiting has to look vain before that is believed: what is open may be closed, and what is
#: cached and being read can go in a moment.
IN_VAIN_S = 5.0
#: How often those who wait look again without being told.
LOOK_AGAIN_S = 1.0


class _State(IntEnum):
    """What has been said of the writers."""

    FREE = 0
    SLOWED = 1
    WAITING = 2
    REFUSED = 3


class Disk(Protocol):
    """The account of the disk; `tierfs.cache.space.Capacity` is one."""

    def left_to_write(self) -> int:
        """How much could be written if all that is cached went."""

    def give_way(self, bytes_: int) -> Awaitable[bool]:
        """Evict until *bytes_* may be written; whether they may."""

    def taken(self, bytes_: int) -> None:
        """The disk has *bytes_* less; negative: more."""


class Unbounded:
    """A `Disk` for who writes nothing."""

    def left_to_write(self) -> int:
        """See `Disk.left_to_write`."""
        return 1 << 62

    async def give_way(self, bytes_: int) -> bool:
        """See `Disk.give_way`."""
        return True

    def taken(self, bytes_: int) -> None:
        """See `Disk.taken`."""


class Space(NamedTuple):
    """What `df` shows, in bytes."""

    total_bytes: int
    free_bytes: int


class Account:
    """What each staging file takes on the disk, by inode and content (0: the present one). Some
    200 bytes of memory for each, so that what a file system does behind our back (reservations
    that it gives up, blocks for its own tables) never leaves a rest (R2)."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._files: dict[tuple[int, int], int] = {}
        self.used_bytes = 0
        #: Called when there is less of it.
        self.less: Callable[[], None] = lambda: None

    def set(self, ino: int, content: int, bytes_: int) -> int:
        """A file takes *bytes_* now; returns how much more that is."""
        more = bytes_ - self._files.get((ino, content), 0)
        self._files[ino, content] = bytes_
        if more:
            self._change(more)
        return more

    def known(self, ino: int, content: int, bytes_: int) -> None:
        """A file was there at the start: the disk has counted it."""
        self.used_bytes += bytes_ - self._files.get((ino, content), 0)
        self._files[ino, content] = bytes_

    def of(self, ino: int) -> int:
        """What the present content of *ino* takes."""
        return self._files.get((ino, 0), 0)

    def moved(self, ino: int, content: int) -> None:
        """The present content of *ino* was put aside as *content*."""
        bytes_ = self._files.pop((ino, 0), None)
        if bytes_ is not None:
            self._files[ino, content] = bytes_

    def gone(self, ino: int, content: int, *, handed_over: bool) -> None:
        """A file is no more or, *handed_over*, is the cache's now."""
        bytes_ = self._files.pop((ino, content), 0)
        if handed_over:
            self._disk.taken(bytes_)
        self._change(-bytes_)

    def _change(self, more: int) -> None:
        self.used_bytes += more
        self._disk.taken(more)
        if more < 0:
            self.less()


class Room:
    """See the module. *size_bytes* bounds what is written besides the disk (None: only that does).
    *in_vain* says why no upload could make room, or nothing if one could; *on_its_way* names the
    roots that there are to wait for."""

    def __init__(self, disk: Disk, size_bytes: int | None = None) -> None:
        self.account = Account(disk)
        self.account.less = self._news_of_room
        self.in_vain: Callable[[], str] = lambda: "nothing is being uploaded"
        self.on_its_way: Callable[[], str] = lambda: ""
        self._disk = disk
        self._size_bytes = size_bytes
        self._meter = Meter()
        self._queue = Queue()
        self._news, self._relief = trio.Event(), trio.Event()
        #: Writers who wait now, and how often one was refused.
        self.waiting = self.refused = 0
        self._said = _State.FREE
        self._progress_s = self._full_since_s = -math.inf
        self._why, self._why_until_s = "", -math.inf
        self._vain_since_s = math.inf
        #: Writers who found it full, and were neither let through nor refused since.
        self._in_want = 0

    # ---- what there is --------------------------------------------------------------------------

    @property
    def budget_bytes(self) -> int:
        """How much may be used in all; it changes with what others have on the disk."""
        disk = self.account.used_bytes + self._disk.left_to_write()
        return disk if self._size_bytes is None else min(self._size_bytes, disk)

    def space(self) -> Space:
        """What `df` is to show."""
        budget = self.budget_bytes
        return Space(budget, max(0, budget - self.account.used_bytes))

    def describe(self) -> dict[str, Any]:
        """What `status` says of it."""
        return {
            "budget_bytes": self.budget_bytes,
            "used_bytes": self.account.used_bytes,
            "waiting_writers": self.waiting,
            "refused_writes": self.refused,
        }

    # ---- what happens ---------------------------------------------------------------------------

    @contextmanager
    def sending(self, bytes_: int) -> Iterator[None]:
        """*bytes_* are sent to the lake in the body, all of them unless it raises."""
        self._meter.begun(trio.current_time())
        sent = 0
        try:
            yield
            sent = bytes_
            self.went_on()
        finally:
            self._meter.ended(sent, trio.current_time())

    def went_on(self) -> None:
        """The lake has, or shows, something more."""
        self._progress_s = trio.current_time()

    def look_again(self) -> None:
        """What was in vain may not be any more."""
        self._why_until_s = -math.inf
        self._wake()

    def _news_of_room(self) -> None:
        if self._said and self.account.used_bytes < SOFT_SHARE * self.budget_bytes:
            self._said = _State.FREE
            self._want_may_be_over()
            self._relief.set()
            _log.warning("there is room again for what is written: %s", self._full())
        self._wake()

    def _wake(self) -> None:
        if self.waiting:
            news, self._news = self._news, trio.Event()
            news.set()

    # ---- who waits ------------------------------------------------------------------------------

    async def wait(
        self, bytes_: int, ino: int = 0, *, copied: Callable[[], int] = lambda: 0
    ) -> None:
        """Wait until *bytes_* more may be written, to *ino* (0: a new file), and what has to be
        *copied* first, which may become less meanwhile. Raises StagingFull when waiting does not
        help."""
        in_want = refused = False
        wanted = 0
        try:
            while True:
                wanted = bytes_ + copied()
                fits = self._fits(wanted, bytes_, ino)
                if not wanted or (fits and await self._disk.give_way(wanted)):
                    break
                if not in_want:
                    in_want = True
                    self._in_want += 1
                await self._wait_for_news(wanted, of_disk=fits)
        except StagingFull:
            refused = True
            raise
        finally:
            self._in_want -= in_want
            if not refused and (wanted or in_want):
                self._want_may_be_over()
        await self.keep_pace(wanted)

    async def hold_up(self) -> None:
        """As `wait`, for what needs hardly any room by itself: it is let go on in the end."""
        try:
            await self.wait(1)
        except StagingFull:
            return

    async def keep_pace(self, bytes_: int) -> None:
        """Take as long as *bytes_* should, now or a moment ago."""
        budget = self.budget_bytes
        if self.account.used_bytes + bytes_ <= SOFT_SHARE * budget:
            return
        now_s = trio.current_time()
        if now_s - self._progress_s > STALLED_S:
            return  # There is nothing to keep pace with.
        pace = pace_s(bytes_, self.account.used_bytes, budget, self._meter.bytes_s)
        if pace > 0:
            self._say(_State.SLOWED, "writers are slowed down to the speed of the uploads")
            with trio.move_on_after(self._queue.wait_s(pace, now_s)):
                await self._relief.wait()

    def _want_may_be_over(self) -> None:
        if not self._in_want:
            self._full_since_s = -math.inf

    def _fits(self, wanted: int, bytes_: int, ino: int) -> bool:
        size = self._size_bytes
        if size is None or self.account.used_bytes + wanted <= size:
            return True
        # No waiting would make it fit, but for the copy, which may not be needed in the end.
        return bool(ino) and self.account.of(ino) + bytes_ > size

    async def _wait_for_news(self, bytes_: int, *, of_disk: bool) -> None:
        now_s = trio.current_time()
        if self._full_since_s == -math.inf:
            self._full_since_s = now_s
            # What was in vain another time says nothing of this one.
            self._vain_since_s, self._why_until_s = math.inf, -math.inf
        why = self._in_vain(now_s)
        if why and of_disk and self._disk.left_to_write() >= bytes_:
            why = "what is cached is in use, and " + why
        if not why and now_s - max(self._progress_s, self._full_since_s) >= STALLED_S:
            why = f"nothing has gone into the lake for {STALLED_S:g} s"
        if why:
            self.refused += 1
            self._say(_State.REFUSED, f"writers get ENOSPC, because {why}")
            raise StagingFull(
                "find room for what is written", human_size(bytes_), f"{self._full()}; {why}"
            )
        self._say(_State.WAITING, "writers wait for uploads to make room")
        self.waiting += 1
        news = self._news
        try:
            with trio.move_on_after(LOOK_AGAIN_S):
                await news.wait()
        finally:
            self.waiting -= 1

    def _in_vain(self, now_s: float) -> str:
        if now_s >= self._why_until_s:
            self._why, self._why_until_s = self.in_vain(), now_s + LOOK_AGAIN_S
            if not self._why:
                self._vain_since_s = math.inf
            elif self._vain_since_s == math.inf:
                self._vain_since_s = now_s
        return self._why if now_s - self._vain_since_s >= IN_VAIN_S else ""

    def _full(self) -> str:
        return f"{human_size(self.account.used_bytes)} of {human_size(self.budget_bytes)} used"

    def _say(self, state: _State, text: str) -> None:
        """One line when it comes to that; the next one when it gets worse, or all is well again."""
        if state <= self._said:
            return
        if self._said is _State.FREE:
            self._relief = trio.Event()
        self._said = state
        _log.warning(
            "%s: %s, on its way: %s. A faster link to the lake makes room sooner, a larger disk or"
            " staging_size more of it",
            text,
            self._full(),
            self.on_its_way() or "nothing",
        )
