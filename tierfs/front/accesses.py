"""Accesses on their way from the front to whoever decides what is kept, and what is fetched next.

An access is an open run of a file, by a job. Whoever decides hears of each at once; the index,
where this process writes it, hears in batches when each file was last used, which is what is known
of files that nobody has read since the start.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from tierfs.index.cache import CacheBatch, CacheIndex
from tierfs.readahead.processes import JobNames

#: Last uses are written to the index this often, or when so many have come.
REPORT_INTERVAL_S = 5.0
REPORT_AT = 4096

#: Told of an access as (inode number, job).
OnAccess = Callable[[int, int], object]
#: Told of an open or a read that waited for the lake as (job, nanoseconds, bytes waited for).
OnStall = Callable[[int, int, int], object]


class AccessLog:
    """Tells *told* of accesses, and *index* of last uses; None where another process writes when
    files were used. Bounded by `REPORT_AT`."""

    def __init__(
        self, index: CacheIndex | None, told: OnAccess, names: JobNames | None = None
    ) -> None:
        self.told = told
        self.told_stalls: OnStall = lambda job, waited_ns, bytes_: None
        self._index = index
        self._names = names or JobNames()
        #: By inode number, in seconds since the Unix epoch.
        self._last_used: dict[int, int] = {}

    def add(self, ino: int, at_ns: int, pid: int) -> None:
        """An access of *ino* begins, at *at_ns* since the Unix epoch, by a thread or process (0: it
        is not known). Does not wait."""
        self.told(ino, self._names.job_of(pid))
        if self._index is not None:
            self._last_used[ino] = at_ns // 1_000_000_000
            if len(self._last_used) >= REPORT_AT:
                self.report()

    def stalled(self, pid: int, waited_ns: int, bytes_: int) -> None:
        """An open or a read by *pid* has waited for so many bytes from the lake."""
        self.told_stalls(self._names.job_of(pid), waited_ns, bytes_)

    def report(self) -> None:
        """Tell the index of last uses. Does not wait."""
        used, self._last_used = self._last_used, {}
        if used and self._index is not None:
            batch = CacheBatch()
            for ino, last_used_s in used.items():
                batch.touch(ino, last_used_s)
            self._index.commit_soon(batch)

    async def run(self) -> None:
        """Report every `REPORT_INTERVAL_S`, until cancelled."""
        while True:
            await trio.sleep(REPORT_INTERVAL_S)
            self.report()
