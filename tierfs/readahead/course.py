"""How far ahead of a job to fetch: as far as what was fetched before has shown itself useful.

Who reads a data set in an order that nobody knows reads each unread file with the same probability,
so whichever are fetched ahead are not wasted, and from one request at a time the job comes to as
many as the link carries. Who only looks around (``file *``, a thumbnailer, a job that dies at its
start) reads like that, too, for some files. So the first files fetched ahead are few, and they must
prove themselves: whenever `HITS` of them have been read, twice as many bytes may wait to be read. A
look around at 100 of a million files hits none of the first 48 MiB. Nor does a job, for long, whose
data set is large: but the more files it has read in no order, the less that is a look around. From
`LOOK_READS` on each file that it reads has `PER_READ` more wait for it.

Files read in the order of their directory are hit as soon as they are fetched ahead, which proves
nothing about the rest: there, half as much may wait as was of use before.

::

    reads < START_READS --> FIRST_BYTES may wait -- HITS files read --> twice as many -- ... --> all
                                  ^              -- LOOK_READS --> more with each read      |
                                  `------------- an epoch ends, most wasted ----------------'
"""

from __future__ import annotations

from collections import deque

#: Different files read before any is fetched ahead.
START_READS = 32
#: Bytes that may wait to be read before any were of use; and where files come in order. With the
#: small files of which somebody reads the beginning, and that are fetched whole, a look around at
#: 100 files comes to less than 64 MiB.
FIRST_BYTES = 48 << 20
FIRST_BYTES_IN_ORDER = 32 << 20
#: Files of those fetched ahead that must be read before more may wait.
HITS = 4
_MOST_DOUBLINGS = 32
#: Files read in no order after which it is hardly a look around; how many more may wait for each
#: one that is read after those.
LOOK_READS = 128
PER_READ = 32
#: A read is in order if one of so many before it was of one of so many inode numbers before its
#: own: of a stream among others, or of what several readers take in turn.
_RECENT = 16
_BEHIND = 2
#: Of the last some 32 reads, the share from which on they are in order.
_IN_ORDER = 0.6
_ORDER_WEIGHT = 1 / 32
#: After a fetch that was not worth keeping, no more for so many reads.
PAUSE_READS = 16


class Course:
    """What is known of one job's reading that decides how far ahead of it to fetch. Pure: no I/O,
    no clock."""

    def __init__(self) -> None:
        self.reads = 0
        #: Of these, those before it last had to prove itself anew.
        self._reads_before = 0
        self._recent: deque[int] = deque(maxlen=_RECENT)
        self._order = 0.0
        self._hits = 0
        self._doublings = 0
        #: Files fetched ahead that were read, in this epoch.
        self.used = 0
        self._paused_until = 0

    @property
    def in_order(self) -> bool:
        """Whether files are read in the order of their directories."""
        return self._order > _IN_ORDER

    def read(self, ino: int, ahead: bool) -> None:
        """The job reads *ino*, which had been fetched *ahead* of that."""
        self.reads += 1
        follows = False
        for earlier in self._recent:
            if 0 < ino - earlier <= _BEHIND:
                follows = True
                break
        self._order += (follows - self._order) * _ORDER_WEIGHT
        self._recent.append(ino)
        if ahead:
            self.used += 1
            self._hits += 1
            if self._hits >= HITS and not self.in_order:
                self._hits = 0
                self._doublings = min(self._doublings + 1, _MOST_DOUBLINGS)

    def epoch_began(self, wasted: int) -> None:
        """The job begins its files anew; in the last epoch so many files fetched ahead were
        *wasted*: they left the cache unread."""
        if wasted > self.used:
            self._doublings = 0
            self._reads_before = self.reads
        self.used = 0
        self._paused_until = 0

    def pause(self) -> None:
        """What was fetched was not worth keeping."""
        self._paused_until = self.reads + PAUSE_READS

    @property
    def paused(self) -> bool:
        """Whether nothing is to be fetched ahead at the moment."""
        return self.reads < max(START_READS, self._paused_until)

    def allowed_bytes(self, mean_bytes: int) -> int:
        """How many bytes may wait to be read; *mean_bytes*: of a file fetched ahead."""
        if self.in_order:
            return FIRST_BYTES_IN_ORDER + self.used * mean_bytes // 2
        earned = max(0, self.reads - self._reads_before - LOOK_READS) * PER_READ * mean_bytes
        return max(FIRST_BYTES << self._doublings, FIRST_BYTES + earned)
