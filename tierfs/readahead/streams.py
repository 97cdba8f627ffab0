"""Which reads belong together: stream detection for one object in use. Pure; knows no clock and no
lake.

One object may carry several streams at once (mapped weights read by several threads, a loader that
walks two columns of a table), so a read is matched against many recent positions, not against the
last one alone. They are those of the object and not of one handle: when several processes read one
file at a time, the kernel asks for each page once, through whichever handle touches it first, and
the reads of each handle look random. A read that matches no position is *random*: exactly what it
asked for is fetched.

A stream's life::

    new --(read)--> random --(a read where it ended)--> sequential, window 1 MiB
    sequential --(read on)--> window of twice what was read in order, up to `max_window_bytes`;
                              eight times for a stream from the object's beginning: most readers
                              of that read all of it, and each doubling costs a round trip
    any --(least recently matched, table full)--> forgotten

Reads at random have a table of their own, so that many of them do not push out a stream.

A read at offset 0 counts as sequential already if it is of `FIRST_READ_BYTES` or more: nearly every
reader of a whole file begins so (the kernel's read-ahead makes its first request larger than what
it read), and waiting for the second read would cost a round trip on each cold file. A smaller one
looks at a header, and may be followed by anything.
"""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakValueDictionary

MIB = 1 << 20

#: The shortest read at offset 0 that is taken for the beginning of a stream.
FIRST_READ_BYTES = 64 << 10

#: How many streams an object may carry, and how many positions of random reads are remembered.
#: Mapped weights are read by a handful of threads; a node has eight ranks or so.
MAX_STREAMS = 32
#: A stream's first window, and the smallest part fetched for it.
FIRST_WINDOW_BYTES = MIB
#: The window of a stream, in what was read of it in order; and of one that began at offset 0.
GROWTH, GROWTH_OF_WHOLE = 2, 8
#: How far ahead a long stream reads. Five parts in flight fill the standard link (90 MB/s each,
#: 400 MB/s in all); what is more covers the part whose first byte comes late (100 ms of 400 MB/s).
MAX_WINDOW_BYTES = 64 * MIB
#: The largest part. Parts of 8 MiB that share the link come all at about the same time, and leave
#: it idle while the next ones are asked for.
MAX_PART_BYTES = 4 * MIB
#: Reads may arrive out of order or skip a little (the kernel sends several at once).
MAX_SLACK_BYTES = MIB


class Advice(NamedTuple):
    """What to do about one read. The extent ``[ahead_lo, ahead_hi)`` is to be asked for now, in
    parts of *part_bytes*; it is empty if there is nothing to ask for."""

    sequential: bool
    ahead_lo: int
    ahead_hi: int
    part_bytes: int


RANDOM = Advice(False, 0, 0, 0)


class _Stream:
    __slots__ = ("asked", "growth", "next", "run", "window")

    def __init__(self, end: int, length: int, growth: int) -> None:
        #: The window, in what was read in order.
        self.growth = growth
        #: Where the next read is expected.
        self.next = end
        #: Bytes read in order so far.
        self.run = length
        #: How far ahead to ask, in bytes; 0: seen once.
        self.window = 0
        #: Read-ahead was asked for up to here.
        self.asked = end


class StreamDetector:
    """The streams of one object of *size* bytes."""

    def __init__(self, size: int, *, max_window_bytes: int = MAX_WINDOW_BYTES) -> None:
        self._size = size
        self.keep_within(max_window_bytes)
        # Most recently matched last, in both.
        self._streams: list[_Stream] = []
        self._random: list[_Stream] = []

    def keep_within(self, max_window_bytes: int) -> None:
        """Read no further ahead than this, from now on."""
        self._max_window = max(FIRST_WINDOW_BYTES, max_window_bytes)

    def note(self, offset: int, length: int) -> Advice:
        """Take in one read of *length* bytes (> 0) at *offset*, and say what it is."""
        end = offset + length
        stream = self._match(offset)
        if stream is None:
            stream = _Stream(end, length, GROWTH if offset > 0 else GROWTH_OF_WHOLE)
            if offset > 0 or length < FIRST_READ_BYTES:
                _push(self._random, stream)
                return RANDOM
            _push(self._streams, stream)
        elif end > stream.next:
            stream.run += end - max(offset, stream.next)
            stream.next = end
        window = max(FIRST_WINDOW_BYTES, stream.growth * stream.run)
        stream.window = min(window, self._max_window)
        return self._ahead(stream)

    def _match(self, offset: int) -> _Stream | None:
        """The stream that a read at *offset* goes on with, the most recent one of the table."""
        for i in range(len(self._streams) - 1, -1, -1):
            stream = self._streams[i]
            # What is read densely in a small place is not a stream: tolerance grows with the run.
            slack = min(MAX_SLACK_BYTES, stream.run)
            if stream.next - slack <= offset <= stream.next + slack:
                if i != len(self._streams) - 1:
                    self._streams.append(self._streams.pop(i))
                return stream
        for i in range(len(self._random) - 1, -1, -1):
            if self._random[i].next == offset:
                stream = self._random.pop(i)
                _push(self._streams, stream)
                return stream
        return None

    def _ahead(self, stream: _Stream) -> Advice:
        # Sixteen parts in flight, each a power of two.
        sixteenth = 1 << ((stream.window - 1).bit_length() - 4)
        part = min(MAX_PART_BYTES, max(FIRST_WINDOW_BYTES, sixteenth))
        lo = max(stream.asked, stream.next)
        hi = min(stream.next + stream.window, self._size)
        # Ask in whole parts, so that requests stay large; a short tail goes with the last of them.
        if hi < self._size:
            hi = max(lo, hi - (hi - lo) % part) if stream.asked > stream.next else hi
            if hi > lo and self._size - hi < part:
                hi = self._size
        if hi <= lo:
            return Advice(True, 0, 0, part)
        stream.asked = hi
        return Advice(True, lo, hi, part)


def _push(table: list[_Stream], stream: _Stream) -> None:
    table.append(stream)
    if len(table) > MAX_STREAMS:
        del table[0]


class OpenStreams:
    """The detectors of all open objects, each for as long as a handle keeps it."""

    def __init__(self, max_window_bytes: int) -> None:
        self._max_window = max_window_bytes
        self._detectors: WeakValueDictionary[int, StreamDetector] = WeakValueDictionary()

    def of(self, ino: int, size: int) -> StreamDetector:
        """The one detector of the open object *ino*."""
        detector = self._detectors.get(ino)
        if detector is None:
            detector = StreamDetector(size, max_window_bytes=self._max_window)
            self._detectors[ino] = detector
        return detector
