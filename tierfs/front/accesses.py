"""Accesses on their way from the front to whoever decides: in batches, so that none costs much.

An access is an open run of a file, by a job. The eviction policy hears of each at once and the
listener (a planner) in batches; the index, where this process writes it, hears when each file was
last used, which is all that eviction needs over a restart.
"""

from __future__ import annotations

import trio

from tierfs.front.port import Access, AccessListener
from tierfs.index.cache import CacheBatch, CacheIndex
from tierfs.readahead.policy import EvictionPolicy
from tierfs.readahead.processes import JobNames

#: Accesses are reported, and last uses written to the index, this often, or when so many have come.
REPORT_INTERVAL_S = 5.0
REPORT_AT = 4096


class AccessLog:
    """What was accessed since the last report. Bounded by `REPORT_AT`. *index* is None where
    another process writes to it when files were used."""

    def __init__(
        self,
        index: CacheIndex | None,
        policy: EvictionPolicy,
        listener: AccessListener | None,
        names: JobNames | None = None,
    ) -> None:
        self._index = index
        self._policy = policy
        self._listener = listener
        self._names = names or JobNames()
        self._accesses: list[Access] = []

    def add(self, ino: int, at_ns: int, pid: int) -> None:
        """An access of *ino* begins, at *at_ns* since the Unix epoch, by a thread or process (0: it
        is not known). Does not wait."""
        job = self._names.job_of(pid)
        self._policy.accessed(ino, job)
        self._accesses.append(Access(ino, at_ns, job))
        if len(self._accesses) >= REPORT_AT:
            self.report()

    def report(self) -> None:
        """Tell the listener of accesses, and the index of last uses. Does not wait."""
        accesses, self._accesses = self._accesses, []
        if not accesses:
            return
        if self._listener is not None:
            self._listener(accesses)
        if self._index is not None:
            batch = CacheBatch()
            # Of several accesses of a file the last one counts.
            for ino, at_ns in {access.ino: access.at_ns for access in accesses}.items():
                batch.touch(ino, at_ns // 1_000_000_000)
            self._index.commit_soon(batch)

    async def run(self) -> None:
        """Report every `REPORT_INTERVAL_S`, until cancelled."""
        while True:
            await trio.sleep(REPORT_INTERVAL_S)
            self.report()
