"""The order in which files will be read, where somebody has told it (``tierfs plan``).

A plan is a list of inode numbers, one for each read to come. Reads move its *position*: it is
behind the furthest entry that a read was matched with. Several workers read out of order, so a read
is matched with the first entry of its file that is to come within the window: up to `slack` entries
before the position, and as many after it. What is passed over by more than that is dropped::

    dropped | still to come, passed over |  ahead, in the window  | to come        | end
            |<--------- slack ---------->|<------- slack -------->|
            floor                     position                                     entries

The order may be wrong, or old, or nobody may go by it: what follows from it is what is fetched and
what is kept, never what is read. So a plan is *believed* only while at least `BELIEVED` of the last
`WATCHED` reads were within the window (a file read again at once counts neither way). In a random
order that is a quarter of them. Where reads go on somewhere else in the order, as those of a job do
that begins in the middle of an epoch, the position jumps there after `JUMP` more of them than of
others.

Invariants:

P1. An entry holds its inode number until it is read or dropped, and then 0. Entries at or after the
    position hold theirs.
P2. Of each inode that has entries, the page of its number says which is the last one; each entry
    links to the next one of its inode, and the last one to the first. What a page says counts only
    if the entry it names holds that inode number, so it need not be taken back.

Pure: no I/O, no clock. Memory is 12 bytes for each entry from the floor on, in pieces of `PIECE`,
and 4 bytes for each inode number, in pages of `PAGE`: an epoch of a million files takes 17 MB. A
read costs some 2 us, `next_use` 0.7 us. Nothing is kept over a restart.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable

#: Most entries that the window goes back and ahead: 16 workers with two batches of 128 files each.
SLACK = 4096
#: In an order of fewer files that is an eighth of them, so that a wrong order shows; but at least:
LEAST_SLACK = 16
_SLACK_SHARE = 8
#: Of the last so many reads, the share from which on a plan is believed.
WATCHED = 256
BELIEVED = 0.5
#: Reads that go on elsewhere in the order, before the position does.
JUMP = 32
#: Reads looked back at for one of the same file.
_AGAIN = 64
#: There are no more entries than this at a time: 400 MB.
MOST_ENTRIES = 1 << 25
#: Entries looked at after a read, whether they are before the floor and can be forgotten.
_SWEEP = 64

PIECE = 16384
_PIECE_SHIFT = PIECE.bit_length() - 1
_PIECE_MASK = PIECE - 1
PAGE = 4096
_SHIFT = PAGE.bit_length() - 1
_MASK = PAGE - 1
#: Positions are kept in 4 bytes: what is missing follows from there being fewer than so many.
_WORD = 0xFFFFFFFF


class Plan:
    """See the module. Positions count the entries since the last `clear`."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all of it."""
        self._inos: dict[int, array[int]] = {}
        self._links: dict[int, array[int]] = {}
        self._last: dict[int, array[int]] = {}
        #: The first position that is still in memory, and the first not swept yet.
        self._base = self._swept = 0
        self._floor = 0
        #: Entries in all, and the position among them.
        self.entries = self.position = 0
        #: Reads that were matched.
        self.hits = 0
        #: How far the window goes, from how many different files were to come at most.
        self.slack = LEAST_SLACK
        self._files = 0
        self._watched = bytearray(b"\1" * WATCHED)
        self._reads = 0
        self._within = WATCHED
        self._recent: deque[int] = deque(maxlen=_AGAIN)
        self._elsewhere = self._votes = 0

    # ---- what is to come -----------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many more entries there may be now."""
        return MOST_ENTRIES - (self.entries - self._base)

    def append(self, inos: Iterable[int]) -> None:
        """*inos* (1 or more each) are read after what is known so far. Together no more than there
        is `room` for."""
        for ino in inos:
            at = self.entries
            if not at & _PIECE_MASK:
                self._inos[at >> _PIECE_SHIFT] = array("Q", bytes(8 * PIECE))
                self._links[at >> _PIECE_SHIFT] = array("I", bytes(4 * PIECE))
            page = self._last.get(ino >> _SHIFT)
            if page is None:
                page = self._last[ino >> _SHIFT] = array("I", bytes(4 * PAGE))
            last = self._last_of(ino)
            if last < 0:
                self._link(at, at)
                self._files += 1
            else:
                self._link(at, self._links[last >> _PIECE_SHIFT][last & _PIECE_MASK])
                self._link(last, at)
            self._inos[at >> _PIECE_SHIFT][at & _PIECE_MASK] = ino
            page[ino & _MASK] = at & _WORD
            self.entries = at + 1
        self.slack = max(self.slack, min(SLACK, self._files // _SLACK_SHARE))

    def next_use(self, ino: int) -> int | None:
        """The position at which *ino* is read next; None: it is not known to be read again. Before
        the `position` if it was passed over and may still come."""
        first = self._first_of(ino)
        return None if first < 0 else first

    def upcoming(self, start: int, most: int) -> list[tuple[int, int]]:
        """The next at most *most* ``(position, inode number)``, from *start* on or, if that is
        later, from the position."""
        at = max(start, self.position)
        end = min(at + most, self.entries)
        inos = self._inos
        return [(n, inos[n >> _PIECE_SHIFT][n & _PIECE_MASK]) for n in range(at, end)]

    @property
    def trust(self) -> float:
        """The share of the last reads that were within the window."""
        return self._within / WATCHED

    @property
    def believed(self) -> bool:
        """Whether reads go by this order. Until they are known not to, they do."""
        return self.trust >= BELIEVED

    @property
    def in_charge(self) -> bool:
        """Whether it says anything, and is believed."""
        return self.position < self.entries and self.believed

    # ---- what is read --------------------------------------------------------------------------

    def accessed(self, ino: int) -> bool:
        """*ino* is read; whether that was within the window."""
        first = self._first_of(ino)
        if 0 <= first < self.position + self.slack:
            self._take(first)
            self.hits += 1
            self._recent.append(ino)
            self._votes = max(0, self._votes - 1)
            self._note(1)
            if first >= self.position:
                self._move(first + 1)
            return True
        if ino not in self._recent:
            self._note(0)
            if first >= 0:
                self._vote(first)
        return False

    def _note(self, within: int) -> None:
        at = self._reads % WATCHED
        self._within += within - self._watched[at]
        self._watched[at] = within
        self._reads += 1

    def _vote(self, first: int) -> None:
        """A read is far ahead, at *first*: of more than `JUMP` that are near each other there, the
        furthest is the position."""
        if abs(first - self._elsewhere) < self.slack:
            self._elsewhere = max(self._elsewhere, first)
            self._votes += 1
        elif self._votes:
            self._votes -= 1
        else:
            self._elsewhere, self._votes = first, 1
        if self._votes >= JUMP:
            self._votes = 0
            self._move(self._elsewhere + 1)

    def _move(self, position: int) -> None:
        self.position = max(self.position, position)
        self._floor = max(self._floor, self.position - self.slack)
        for at in range(self._swept, min(self._swept + _SWEEP, self._floor)):
            ino = self._inos[at >> _PIECE_SHIFT][at & _PIECE_MASK]
            if ino:
                self._first_of(ino)  # Which drops it.
            self._swept = at + 1
            if not self._swept & _PIECE_MASK:
                del self._inos[at >> _PIECE_SHIFT], self._links[at >> _PIECE_SHIFT]
                self._base = self._swept

    # ---- entries -------------------------------------------------------------------------------

    def _link(self, at: int, to: int) -> None:
        self._links[at >> _PIECE_SHIFT][at & _PIECE_MASK] = to & _WORD

    def _last_of(self, ino: int) -> int:
        """The last entry of *ino*; -1: there is none."""
        page = self._last.get(ino >> _SHIFT)
        if page is None:
            return -1
        at = self._base + ((page[ino & _MASK] - self._base) & _WORD)
        if at >= self.entries or self._inos[at >> _PIECE_SHIFT][at & _PIECE_MASK] != ino:
            return -1
        return at

    def _first_of(self, ino: int) -> int:
        """The first entry of *ino* that is not to be dropped; -1: there is none."""
        while (last := self._last_of(ino)) >= 0:
            to = self._links[last >> _PIECE_SHIFT][last & _PIECE_MASK]
            first = self._base + ((to - self._base) & _WORD)
            if first >= self._floor:
                return first
            self._take(first)
        return -1

    def _take(self, first: int) -> None:
        """The first entry of its inode is no longer to come."""
        inos = self._inos[first >> _PIECE_SHIFT]
        last = self._last_of(inos[first & _PIECE_MASK])
        if first == last:
            self._files -= 1
        else:
            self._link(last, self._links[first >> _PIECE_SHIFT][first & _PIECE_MASK])
        inos[first & _PIECE_MASK] = 0
