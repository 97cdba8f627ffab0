"""Jobs: whose reads are whose. One that reads a data set in an order of its own has epochs of its
own; two together look like noise.

A job is named by a number that stands for its processes (`tierfs.readahead.processes`). Its epochs
outlive it, for who goes on with the data under another name::

    a name   -- the only epochs are free --> its reads count there; its own after BUSY_READS
             -- otherwise ----------------> its reads wait: a look around is nobody's epoch
                                            -- BUSY_READS of them --> the free epochs that know
                                                                      most of them, or new ones if
                                                                      there is room, with these
    epochs   -- the last of their names has ended, or has not read for long --> free
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from struct import Struct

from tierfs.readahead.epochs import NEVER, Epochs
from tierfs.readahead.processes import ANYBODY, NOBODY

#: Jobs with epochs of their own, and the memory that these may take: 7 bytes for each object that a
#: job has read.
MOST_JOBS = 8
MOST_BYTES = 200 << 20
#: Reads after which a name is a job's.
BUSY_READS = 256
#: Names that are none, or not yet, whose reads are remembered.
MOST_NAMES = 256
#: A job with less of the reads than this has stopped.
_IDLE_SHARE = 0.02
#: The shares are of some so many reads.
_SHARE_READS = 8192
#: And are computed anew each so many.
_SHARES_EACH = 64
#: Whether the jobs are alive is asked again after so many reads of names that are none.
_LOOK_READS = 64
#: Before each job's epochs, in what is kept over a restart: its share, and how many bytes follow.
_JOB = Struct("<dQ")


class _Job:
    __slots__ = ("epochs", "name", "reads", "share")

    def __init__(self, share: float) -> None:
        self.epochs = Epochs()
        self.share = share
        #: Since the shares were computed.
        self.reads = 0
        #: Whose it is; 0: free.
        self.name = 0


class Jobs:
    """What all jobs together have read. *alive* says of a name whether its processes are there."""

    def __init__(self, alive: Callable[[int], bool] = lambda name: True) -> None:
        self._alive = alive
        self._jobs = [_Job(1.0)]
        self._by_name: dict[int, _Job] = {}
        #: Since the start; jobs that took too much memory, too.
        self.reads = self.forgotten = 0
        self._shares_at = _SHARES_EACH
        #: What names that have no job have read, the last one to read last.
        self._waiting: OrderedDict[int, list[int]] = OrderedDict()
        self._strays = 0

    @property
    def all(self) -> list[Epochs]:
        """Of each job, those of the busiest first."""
        ranked = sorted(self._jobs, key=lambda job: job.share, reverse=True)
        return [job.epochs for job in ranked]

    def epochs_of(self, name: int) -> Epochs | None:
        """Where a read by *name* counts, as far as is known."""
        if name == NOBODY:
            return None
        job = self._jobs[0] if name == ANYBODY else self._by_name.get(name, self._vacant())
        return None if job is None else job.epochs

    def share_of(self, epochs: Epochs) -> float:
        """The share of the reads that are those of *epochs*' job, 0 to 1."""
        return next((job.share for job in self._jobs if job.epochs is epochs), 0.0)

    @property
    def known(self) -> int:
        """Different objects ever read, as far as known."""
        return max(job.epochs.known for job in self._jobs)

    @property
    def epoch_reads(self) -> int:
        """Reads of all jobs, about, in which each of them reads all that it knows."""
        return sum(job.epochs.known for job in self._jobs)

    @property
    def several(self) -> bool:
        """Whether more than one has epochs of its own."""
        return len(self._jobs) > 1

    def read(self, ino: int, name: int = 0) -> tuple[Epochs | None, bool]:
        """The job called *name* (ANYBODY: the first one, whoever it is; NOBODY: none) reads *ino*:
        its epochs, if it has any, and whether one begins."""
        self.reads += 1
        if name == NOBODY:
            return None, False
        job = self._by_name.get(name)
        if job is None:
            job = self._find(ino, name)
            if job is None:
                return None, False
        job.reads += 1
        if self.reads >= self._shares_at:
            self._update_shares()
        return job.epochs, job.epochs.read(ino)

    def _update_shares(self) -> None:
        self._shares_at = self.reads + _SHARES_EACH
        reads = sum(job.reads for job in self._jobs)
        for job in self._jobs:
            job.share += (job.reads / reads - job.share) * reads / _SHARE_READS
        self._keep_small()
        for job in self._jobs:
            job.reads = 0

    def _keep_small(self) -> None:
        """They grow with what they read: while that is too much, who read least is forgotten."""
        while len(self._jobs) > 1:
            if sum(job.epochs.memory_bytes for job in self._jobs) <= MOST_BYTES:
                return
            idlest = min(self._jobs, key=lambda job: (job.reads, job.share))
            self._jobs.remove(idlest)
            self._by_name.pop(idlest.name, None)
            self.forgotten += 1

    def _find(self, ino: int, name: int) -> _Job | None:
        """Where a read of *ino* by a name without a job counts, if it does."""
        if name == ANYBODY:
            return self._jobs[0]
        self._strays += 1
        if self._strays % _LOOK_READS == 1:
            self._free_the_dead()
        reads = self._waiting.pop(name, [])
        at_once = self._vacant()
        if len(reads) + 1 >= BUSY_READS:
            job = self._free_for(reads) or self._make_room()
            if job is not None:
                self._name(job, name)
                if at_once is None:
                    for earlier in reads:
                        job.epochs.read(earlier)
                return job
            del reads[0]
        reads.append(ino)
        self._waiting[name] = reads
        if len(self._waiting) > MOST_NAMES:
            self._waiting.popitem(last=False)
        return at_once

    def _vacant(self) -> _Job | None:
        """Whose place a name without a job takes at once. Where there were several it is not known
        yet which."""
        return self._jobs[0] if not self.several and not self._jobs[0].name else None

    def _free_for(self, reads: Sequence[int]) -> _Job | None:
        """Of the jobs whose epochs are free the one that has read most of *reads*, the busiest of
        those that have read as many."""
        free = [job for job in self._jobs if not job.name]
        return max(free, key=lambda job: sum(map(job.epochs.was_read, reads)), default=None)

    def _free_the_dead(self) -> None:
        for name, job in list(self._by_name.items()):
            if not self._alive(name):
                del self._by_name[name]
                job.name = 0
        # The busiest is who is gone on with.
        self._jobs.sort(key=lambda job: job.share, reverse=True)

    def _make_room(self) -> _Job | None:
        """Epochs for one more, if there may be any."""
        idlest = min(self._jobs, key=lambda job: job.share)
        if idlest.share < _IDLE_SHARE:
            return idlest
        sizes = [job.epochs.memory_bytes for job in self._jobs]
        if len(sizes) == MOST_JOBS or sum(sizes) + max(sizes) > MOST_BYTES:
            return None
        job = _Job(2 * _IDLE_SHARE)
        self._jobs.append(job)
        return job

    def _name(self, job: _Job, name: int) -> None:
        self._by_name.pop(job.name, None)
        job.name = name
        self._by_name[name] = job

    # ---- over a restart ------------------------------------------------------------------------

    def dump(self) -> bytes:
        """All that was read, for `load`, the busiest one's first."""
        parts: list[bytes] = []
        for job in sorted(self._jobs, key=lambda job: job.share, reverse=True):
            packed = job.epochs.dump()
            parts += (_JOB.pack(job.share, len(packed)), packed)
        return b"".join(parts)

    def load(self, data: bytes) -> None:
        """Go on with what `dump` wrote, all of it free. Raises ValueError, with nothing changed,
        where it is not that."""
        jobs: list[_Job] = []
        at = 0
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

    def is_spent(self, ino: int) -> bool:
        """Whether none of them is still to read *ino* in its epoch."""
        due = False
        for job in self._jobs:
            due = due or job.epochs.is_due(ino)
        return not due

    def density(self, ino: int) -> float:
        """Reads to be expected of *ino* for each epoch that it is kept."""
        if len(self._jobs) == 1:
            return self._jobs[0].epochs.density(ino)
        density = 0.0
        for job in self._jobs:
            density += job.share * job.epochs.density(ino)
        return density

    def count(self, ino: int) -> int:
        """How often *ino* was read, the last reads weighing most."""
        if len(self._jobs) == 1:
            return self._jobs[0].epochs.count(ino)
        return sum(job.epochs.count(ino) for job in self._jobs)

    def age(self, ino: int) -> float:
        """Reads since the last one of *ino*, about; `NEVER` if nobody has read it."""
        if len(self._jobs) == 1:
            return self._jobs[0].epochs.age(ino)
        least: float = NEVER
        for job in self._jobs:
            age = job.epochs.age(ino)
            if age < NEVER:
                least = min(least, age / max(job.share, 1e-6))
        return least
