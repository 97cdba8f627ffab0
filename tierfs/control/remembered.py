"""What jobs have read, over a restart: an epoch goes on where it was.

It is kept in ``names/``, written when the mount ends and from time to time before, so that a
process that is killed costs the reads of the last minutes: what was read in them counts as not yet
read in this epoch, which costs some bytes, never wrong ones. What cannot be read is forgotten.
"""

from __future__ import annotations

import logging

import trio

from tierfs.errors import TierfsError
from tierfs.index.names import Names
from tierfs.readahead.jobs import Jobs

log = logging.getLogger(__name__)

#: Where it is in ``names/``; the number is that of the format.
_KEY = b"readahead/jobs/1"
#: Seconds between two times of writing it: at least, and for each thousand objects known. A million
#: objects are some megabytes, and some 50 ms of work.
SAVE_S = 60.0
_SAVE_S_PER_THOUSAND = 0.3


class Remembered:
    """Keeps *jobs* in *names*."""

    def __init__(self, names: Names, jobs: Jobs) -> None:
        self._names = names
        self._jobs = jobs
        self._saved_reads = 0

    def recall(self) -> None:
        """Go on with what was kept, if anything was."""
        data = self._names.state_get(_KEY)
        if data is None:
            return
        try:
            self._jobs.load(data)
        except ValueError as error:
            log.warning("what was read before this mount is not known: %s", error)

    async def run(self) -> None:
        """Keep it from time to time, until cancelled."""
        while True:
            await trio.sleep(max(SAVE_S, self._jobs.known / 1000 * _SAVE_S_PER_THOUSAND))
            await self.save()

    async def save(self) -> None:
        """Keep it now, if anything was read since the last time."""
        if self._jobs.reads == self._saved_reads:
            return
        self._saved_reads = self._jobs.reads
        try:
            await self._names.state_put(_KEY, self._jobs.dump())
        except TierfsError as error:
            log.warning("what was read cannot be kept for the next mount: %s", error)
