"""Jobs: whose reads are whose. One that reads a data set in an order of its own has epochs of its
own; two together look like noise.

A job is named by a number that stands for its processes (`tierfs.readahead.processes`), and has
`Epochs` of its own once it has shown that it reads, and that somebody else does, too. Until then
its reads count as those of whoever was first. So a look around is nobody's epoch, and one job alone
is the first whatever its name: it may end, and go on under another.
"""

from __future__ import annotations

from collections import OrderedDict
from struct import Struct

from tierfs.readahead.epochs import Epochs

#: Jobs with epochs of their own, and the memory that these may take: 7 bytes for each object that a
#: job has read.
MOST_JOBS = 8
MOST_BYTES = 200 << 20
#: Reads after which a job is taken for one.
BUSY_READS = 256
#: Names remembered of those who are none, or not yet.
_NAMES = 256
#: A job with less of the reads than this has stopped, and its epochs go to the next one.
_IDLE_SHARE = 0.02
#: The shares are of some so many reads.
_SHARE_READS = 8192
#: Before each job's epochs, in what is kept over a restart: its share, and how many bytes follow.
_JOB = Struct("<dQ")


class _Job:
    __slots__ = ("epochs", "share")

    def __init__(self, share: float) -> None:
        self.epochs = Epochs()
        self.share = share


class Jobs:
    """What all jobs together have read."""

    def __init__(self) -> None:
        self._jobs = [_Job(1.0)]
        self._by_name: OrderedDict[int, _Job] = OrderedDict()
        #: Since the start.
        self.reads = 0
        #: Reads of names that have no job.
        self._reads: OrderedDict[int, int] = OrderedDict()

    @property
    def all(self) -> list[Epochs]:
        """Of each job, those of the busiest first."""
        ranked = sorted(self._jobs, key=lambda job: job.share, reverse=True)
        return [job.epochs for job in ranked]

    @property
    def known(self) -> int:
        """Different objects ever read, as far as known."""
        return max(job.epochs.known for job in self._jobs)

    def read(self, ino: int, name: int = 0) -> tuple[Epochs, bool]:
        """The job called *name* (0: whoever) reads *ino*: its epochs, and whether one begins."""
        self.reads += 1
        job = self._job(name)
        if len(self._jobs) > 1:
            for one in self._jobs:
                one.share += ((one is job) - one.share) / _SHARE_READS
        return job.epochs, job.epochs.read(ino)

    def _job(self, name: int) -> _Job:
        job = self._by_name.get(name)
        if job is not None:
            return job
        first = self._jobs[0]
        reads = self._reads.pop(name, 0) + 1
        if name and reads >= BUSY_READS:
            job = self._by_name[name] = self._place(first)
            if len(self._by_name) > _NAMES:
                self._by_name.popitem(last=False)
            return job
        self._reads[name] = reads
        if len(self._reads) > _NAMES:
            self._reads.popitem(last=False)
        return first

    def _place(self, first: _Job) -> _Job:
        """The job of somebody who is busy."""
        taken = set(map(id, self._by_name.values()))
        if id(first) not in taken:
            return first
        idlest = min(self._jobs, key=lambda job: job.share)
        if idlest.share < _IDLE_SHARE:
            return idlest
        sizes = [job.epochs.memory_bytes for job in self._jobs]
        if len(sizes) == MOST_JOBS or sum(sizes) + max(sizes) > MOST_BYTES:
            return first
        job = _Job(0.0)
        self._jobs.append(job)
        return job

    # ---- over a restart ------------------------------------------------------------------------

    def dump(self) -> bytes:
        """What all have read, for `load`; whoever comes first goes on with the busiest one's."""
        parts: list[bytes] = []
        for job in sorted(self._jobs, key=lambda job: job.share, reverse=True):
            packed = job.epochs.dump()
            parts += (_JOB.pack(job.share, len(packed)), packed)
        return b"".join(parts)

    def load(self, data: bytes) -> None:
        """Go on with what `dump` wrote. Raises ValueError, with nothing changed, where it is not
        that."""
        jobs, at = [], 0
        while at < len(data):
            if len(data) - at < _JOB.size:
                raise ValueError("it is cut off")
            share, length = _JOB.unpack_from(data, at)
            at += _JOB.size
            job = _Job(share)
            job.epochs = Epochs.load(data[at : at + length])
            jobs.append(job)
            at += length
        if not 1 <= len(jobs) <= MOST_JOBS:
            raise ValueError(f"{len(jobs)} jobs")
        self._jobs = jobs

    # ---- what an object is worth to all of them ------------------------------------------------

    def density(self, ino: int) -> float:
        """Reads to be expected of *ino* for each epoch that it is kept."""
        if len(self._jobs) == 1:
            return self._jobs[0].epochs.density(ino)
        return sum(job.share * job.epochs.density(ino) for job in self._jobs)

    def count(self, ino: int) -> int:
        """How often *ino* was read, the last reads weighing most."""
        return sum(job.epochs.count(ino) for job in self._jobs)

    def was_read(self, ino: int) -> bool:
        """Whether anybody has."""
        return any(job.epochs.was_read(ino) for job in self._jobs)

    def age(self, ino: int) -> float:
        """Reads since the last one of *ino*, about."""
        if len(self._jobs) == 1:
            return self._jobs[0].epochs.age(ino)
        return min(job.epochs.age(ino) / max(job.share, 1e-6) for job in self._jobs)
