"""Epochs: what one job has read since it began to read everything anew.

Training reads a data set once in each epoch, in an order that nobody else knows. What can be known
is which objects it has read in this epoch, and how large a part of the last one's comes again. From
that follows what a cached object is worth: its *class*, and the class's *density*, the reads to be
expected of it for each epoch that it is kept.

Nobody says when an epoch ends. It shows by objects being read that were already read in it: the sum
of how much more of these there are than usual (CUSUM: Page, Biometrika 41, 1954) goes over a limit
within some twelve reads. What is read again soon (a file opened twice, jobs in lock-step, a hot
file beside the data) says nothing about epochs, and is set apart by how few reads lie between.

All of it is a state machine over inode numbers: no clock, no I/O, no random numbers. Memory is 7
bytes for each inode number, in pages of `PAGE` numbers of which at least one was read; a read
costs 1 to 2 us (``python -m bench policy --cost``).
"""

from __future__ import annotations

import enum
import zlib
from array import array
from collections import deque
from struct import Struct
from struct import error as StructError

#: Bytes for each inode number of a page.
_BYTES = 7
#: Inode numbers to a page. A listing gives numbers in a row to the files of a directory.
PAGE = 4096
_SHIFT = PAGE.bit_length() - 1
_MASK = PAGE - 1

#: How far the sum may go: some twelve reads of a new epoch when none of the last is read twice.
CUSUM_LIMIT = 6.0
#: Reads that may turn out to have been the first of an epoch.
MOST_SUSPECTS = 256
#: Fewer objects are no epoch: what is read again might be by chance.
LEAST_OBJECTS = 32
#: Reads after which an epoch is over whatever it looks like, in objects, and at least.
LONGEST_IN_OBJECTS = 8
LONGEST_READS = 4096
#: Shares of never seen objects among the last some 128 reads, from and to which it jumps when
#: another data set is read.
KNOWN_DATA, NEW_DATA = 0.1, 0.6
_NEW_WEIGHT = 1 / 128
#: From so many soon re-reads on an object is hot: never read "enough" in an epoch.
HOT = 2
_HOTTEST = 3
#: What a hot object is worth, at least, in reads for each epoch.
HOT_DENSITY = 4.0
#: Densities are computed anew each so many reads.
_DENSITY_READS = 16
#: Stamps are one byte.
_LAST_STAMP = 255
_CLOCK = 0xFFFFFFFF
#: The age of what was never read, in reads: more than any other.
NEVER = 1 << 40
#: Counts of reads are halved after so many reads for each known object, so that the last ones
#: weigh most and a byte is enough.
_AGING = 8
_MOST_READS = 255
_HALVES = bytes(n // 2 for n in range(256))
#: What is kept over a restart: the counters, then of each page its number and, compressed, stamps,
#: soon re-reads and counts. Clocks begin anew, which makes all earlier reads long ago.
_COUNTERS = Struct("<IIQQQQQQQQdddd")
_PAGE_HEAD = Struct("<QI")


class Class(enum.IntEnum):
    """What an object is to a job now."""

    #: Read in this epoch.
    READ = 0
    #: Read in the last epoch, not yet in this one.
    DUE = 1
    #: Last read before that.
    STALE = 2
    #: Never read.
    NEVER = 3


class _Page:
    """Of `PAGE` inode numbers: the epoch of the last read (0: none), the job's clock at it, soon
    re-reads, and reads."""

    __slots__ = ("clocks", "counts", "hot", "stamps")

    def __init__(self) -> None:
        self.stamps = bytearray(PAGE)
        self.clocks = array("I", bytes(4 * PAGE))
        self.hot = bytearray(PAGE)
        self.counts = bytearray(PAGE)


class Epochs:
    """The epochs of one job."""

    def __init__(self) -> None:
        self._pages: dict[int, _Page] = {}
        #: Of this epoch; the first is 2, so that 1 is always an earlier one.
        self._epoch = 2
        #: Epochs that have begun; 0 while the first one lasts.
        self.ended = 0
        #: Ticks with each read that is no soon re-read.
        self._clock = 0
        self._near = 0
        self._reads = 0
        self._all_reads = 0
        #: When the counts are halved next.
        self._age_at = PAGE
        #: Different objects ever read.
        self.known = 0
        #: Objects that this epoch has read, that the last one had read in all, and that it left to
        #: this one of those (due) and of earlier ones (stale), with how many of each were read.
        self.read_now = self.read_before = 0
        self.due = self.due_read = 0
        self.stale = self.stale_read = 0
        #: Which part of the due, and of the stale, an epoch reads.
        self.due_share, self.stale_share = 0.5, 0.1
        self._usual = 0.0
        self._sum = 0.0
        #: What was read while the sum was over 0, and whether it had been read in the epoch: if one
        #: is found to have begun, it began with these.
        self._suspects: deque[tuple[int, bool]] = deque(maxlen=MOST_SUSPECTS)
        self._new = 1.0
        self._was_known = False
        self._densities = (0.0, 0.0, 0.0, 0.0)
        #: From so many reads on they are to be computed anew.
        self._densities_until = 0

    # ---- what is read --------------------------------------------------------------------------

    def read(self, ino: int) -> bool:
        """*ino* is read. Whether a new epoch began with that."""
        page = self._pages.get(ino >> _SHIFT)
        if page is None:
            page = self._pages[ino >> _SHIFT] = _Page()
        at = ino & _MASK
        stamps, hot, counts = page.stamps, page.hot, page.counts
        stamp = stamps[at]
        clock = self._clock
        near = False
        if not stamp:
            self.known += 1
            self._near = max(self.read_before >> 2, self.known >> 4)
            self._age_at += _AGING
            self._new += (1.0 - self._new) * _NEW_WEIGHT
        else:
            self._new -= self._new * _NEW_WEIGHT
            near = (clock - page.clocks[at]) & _CLOCK < self._near
        if not near:
            if hot[at]:
                hot[at] >>= 1
            self._clock = clock = clock + 1
        elif hot[at] < _HOTTEST:
            hot[at] += 1
        page.clocks[at] = clock & _CLOCK
        if counts[at] < _MOST_READS:
            counts[at] += 1
        self._reads += 1
        self._all_reads = reads = self._all_reads + 1
        if self._new < KNOWN_DATA:
            self._was_known = True
        epoch = self._epoch
        began = not near and self.read_now >= LEAST_OBJECTS and self._begins(ino, stamp == epoch)
        if began:
            self._next_epoch()
            epoch = self._epoch
            stamp = stamps[at]
        if stamp != epoch:
            self.read_now += 1
            if stamp == epoch - 1:
                self.due_read += 1
            elif stamp:
                self.stale_read += 1
            stamps[at] = epoch
        if reads > self._age_at:
            self._age()
        return began

    def _begins(self, ino: int, again: bool) -> bool:
        usual = self._usual
        slack = 0.5 * (1.0 - usual) * min(max(self.due_share, 0.15), 1.0)
        self._sum = max(0.0, self._sum + again - usual - slack)
        self._usual = usual + (again - usual) / max(1024.0, self.read_before * 0.5)
        if self._sum > CUSUM_LIMIT:
            return True
        if self._sum > 0.0:
            self._suspects.append((ino, again))
        else:
            self._suspects.clear()
        if self._reads > LONGEST_READS and self._reads > LONGEST_IN_OBJECTS * self.read_now:
            return True
        if self._was_known and self._new > NEW_DATA:
            self._was_known = False
            return True
        return False

    def _next_epoch(self) -> None:
        if self.due >= LEAST_OBJECTS:
            share = _share(self.due_read / self.due)
            near = abs(share - self.due_share) < 0.2
            self.due_share = share if near else 0.5 * (self.due_share + share)
        if self.stale >= LEAST_OBJECTS:
            self.stale_share = _share(self.stale_read / self.stale)
        elif not self.stale:
            self.stale_share = min(self.stale_share, 0.1)
        self.stale += self.due - self.due_read - self.stale_read
        self.due = self.read_before = self.read_now
        self.read_now = self.due_read = self.stale_read = 0
        self._sum = 0.0
        self._reads = 0
        self._densities_until = 0
        self._near = max(self.read_before >> 2, self.known >> 4)
        self.ended += 1
        self._epoch += 1
        if self._epoch > _LAST_STAMP:
            self._rename_epochs()
        for ino, again in self._suspects:
            stamps = self._pages[ino >> _SHIFT].stamps
            if stamps[ino & _MASK] == self._epoch - 1:
                stamps[ino & _MASK] = self._epoch
                self.read_now += 1
                if again:
                    self.due_read += 1
                else:
                    self.due -= 1
        self._suspects.clear()

    def _rename_epochs(self) -> None:
        """Only this, the last and "an earlier" epoch need a number."""
        names = bytes([0] + [1] * (_LAST_STAMP - 1) + [2])
        for page in self._pages.values():
            page.stamps[:] = page.stamps.translate(names)
        self._epoch = 3

    def _age(self) -> None:
        self._age_at = self._all_reads + _AGING * self.known + PAGE
        for page in self._pages.values():
            page.counts[:] = page.counts.translate(_HALVES)

    # ---- what an object is worth ---------------------------------------------------------------

    def class_of(self, ino: int) -> Class:
        """What *ino* is to this job now."""
        page = self._pages.get(ino >> _SHIFT)
        stamp = page.stamps[ino & _MASK] if page is not None else 0
        if not stamp:
            return Class.NEVER
        behind = self._epoch - stamp
        return Class.READ if behind == 0 else Class.DUE if behind == 1 else Class.STALE

    def is_due(self, ino: int) -> bool:
        """Whether *ino* is `Class.DUE`."""
        page = self._pages.get(ino >> _SHIFT)
        return page is not None and page.stamps[ino & _MASK] == self._epoch - 1

    def density(self, ino: int) -> float:
        """Reads to be expected of *ino* for each epoch that it is kept."""
        if self._all_reads >= self._densities_until:
            self._densities = self._compute_densities()
            self._densities_until = self._all_reads + _DENSITY_READS
        page = self._pages.get(ino >> _SHIFT)
        if page is None:
            return self._densities[Class.NEVER]
        at = ino & _MASK
        stamp = page.stamps[at]
        if page.hot[at] >= HOT:
            return max(HOT_DENSITY, self._densities[Class.DUE])
        if not stamp:
            return self._densities[Class.NEVER]
        return self._densities[min(self._epoch - stamp, 2)]

    def was_read(self, ino: int) -> bool:
        """Whether *ino* ever was."""
        page = self._pages.get(ino >> _SHIFT)
        return page is not None and page.stamps[ino & _MASK] != 0

    def age(self, ino: int) -> int:
        """Reads since the last one of *ino*; `NEVER` of one never read."""
        page = self._pages.get(ino >> _SHIFT)
        if page is None or not page.stamps[ino & _MASK]:
            return NEVER
        return (self._clock - page.clocks[ino & _MASK]) & _CLOCK

    def count(self, ino: int) -> int:
        """How often *ino* was read, the last reads weighing most."""
        page = self._pages.get(ino >> _SHIFT)
        return 0 if page is None else page.counts[ino & _MASK]

    @property
    def memory_bytes(self) -> int:
        """What it takes, of memory, as good as all of it."""
        return len(self._pages) * PAGE * _BYTES

    @property
    def progress(self) -> float:
        """Which part of an epoch as long as the last one is over; 0 in the first."""
        return min(0.99, self.read_now / self.read_before) if self.read_before else 0.0

    def chance(self, share: float) -> float:
        """The probability that one of which an epoch reads *share*, and this one has not yet, is
        read before it ends."""
        progress = self.progress
        return share * (1.0 - progress) / (1.0 - share * progress)

    def share_of_due(self) -> float:
        """Which part of the due this epoch reads, after what it has shown so far."""
        return _posterior(self.due_share, self.due, self.due_read, self.progress)

    def _compute_densities(self) -> tuple[float, float, float, float]:
        left = 1.0 - self.progress
        stale = _posterior(self.stale_share, self.stale, self.stale_read, self.progress)
        q_due, q_stale = self.chance(self.share_of_due()), self.chance(stale)
        return (
            self.due_share / (left + 1.0 - self.due_share / 2),
            q_due / (left * (1.0 - q_due / 2)),
            q_stale / (left * (1.0 - q_stale / 2)),
            0.0 if self.read_before else 0.5,
        )

    # ---- over a restart ------------------------------------------------------------------------

    def dump(self) -> bytes:
        """All of it, for `load`: about a byte for each inode number read, often less."""
        counters = _COUNTERS.pack(
            self._epoch,
            self.ended,
            self.known,
            self._reads,
            self.read_now,
            self.read_before,
            self.due,
            self.due_read,
            self.stale,
            self.stale_read,
            self.due_share,
            self.stale_share,
            self._usual,
            self._new,
        )
        parts = [counters]
        for number, page in self._pages.items():
            packed = zlib.compress(page.stamps + page.hot + page.counts, 1)
            parts += (_PAGE_HEAD.pack(number, len(packed)), packed)
        return b"".join(parts)

    @classmethod
    def load(cls, data: bytes) -> Epochs:
        """What `dump` wrote. Raises ValueError where it is not that."""
        epochs = cls()
        try:
            (
                epochs._epoch,
                epochs.ended,
                epochs.known,
                epochs._reads,
                epochs.read_now,
                epochs.read_before,
                epochs.due,
                epochs.due_read,
                epochs.stale,
                epochs.stale_read,
                epochs.due_share,
                epochs.stale_share,
                epochs._usual,
                epochs._new,
            ) = _COUNTERS.unpack_from(data)
            at = _COUNTERS.size
            while at < len(data):
                number, length = _PAGE_HEAD.unpack_from(data, at)
                at += _PAGE_HEAD.size
                plain = zlib.decompress(data[at : at + length])
                at += length
                if len(plain) != 3 * PAGE:
                    raise ValueError(f"a page of {len(plain)} bytes")
                page = epochs._pages[number] = _Page()
                page.stamps[:], page.hot[:] = plain[:PAGE], plain[PAGE : 2 * PAGE]
                page.counts[:] = plain[2 * PAGE :]
        except (StructError, zlib.error) as error:
            raise ValueError(str(error)) from None
        epochs._near = max(epochs.read_before >> 2, epochs.known >> 4)
        epochs._age_at += _AGING * epochs.known
        epochs._clock = epochs._near
        return epochs


def _share(share: float) -> float:
    return min(max(share, 0.001), 0.999)


def _posterior(share: float, objects: int, read: int, progress: float) -> float:
    """*share*, corrected by *read* of *objects* at *progress*; it weighs as much as a tenth."""
    weight = 0.1 * objects + 16
    return _share((share * weight + read) / (weight + objects * progress))
