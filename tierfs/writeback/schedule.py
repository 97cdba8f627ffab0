"""Which entries of a root's log may be shown next: what each of them waits for.

In strict order each waits for all before it. In markers order there are two sorts:

* *New files*, a PUT where the lake has nothing, and new directories. They wait for nothing, and
  nothing behind them but markers waits for them.
* *Markers*: all else. What replaces, removes or renames something, what got its name by a rename,
  links, other attributes, and files of names that say that what was written before is whole
  (`tierfs.writeback.rules.MARKERS`).

Invariants, at every moment of what is in flight or done:

O1. A marker is begun when nothing before it is in the log any more. So the lake never shows a
    marker without all that precedes it.
O2. A new file is begun before a marker that precedes it only if that is about other paths: neither
    the same, nor one above it, nor one below it. So the changes of one path keep their order, a
    file never meets a directory of its name that is still to go, and what came by a rename of a
    directory is not there before the directory, which waits for all before the rename.
O3. In strict order only the first entry is begun.

A directory need not be there for a file in it: the lake has none, or makes it. What is new where
the log already has an entry for the same path is not new (`History._append` bases it on that).

Nothing of this is journalled. It is made from the log, which only grows at its end; whoever begins
an entry looks whether it is still there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from tierfs.writeback.journal import Work
from tierfs.writeback.records import Base, Entry, Op
from tierfs.writeback.rules import is_marker
from tierfs.writeback.uploads import PARTS_AT_ONCE

#: Entries in flight, of one root: as many as there are requests with content at one time.
AT_ONCE = PARTS_AT_ONCE
#: How far ahead of the first entry that is not done it is looked for what may begin, in entries.
WINDOW = 256


def is_new(entry: Entry) -> bool:
    """Whether *entry* is a new file or directory, not a marker."""
    return (
        entry.op in (Op.PUT, Op.MAKE_DIRECTORY)
        and entry.base is Base.ABSENT
        and not entry.renamed
        and not is_marker(entry.path)
    )


class _Waiting(NamedTuple):
    is_marker: bool
    paths: tuple[bytes, ...]


class Schedule:
    """The log of one root, as far as it is looked at; *strict*, or in markers order. *is_large*
    says of a size in bytes whether a file of it goes up in parts."""

    def __init__(self, root: bytes, *, strict: bool, is_large: Callable[[int], bool]) -> None:
        self._root = root
        self._strict = strict
        self._is_large = is_large
        self._waiting: dict[int, _Waiting] = {}
        #: Those of them that are files which go up in parts.
        self._large: dict[int, None] = {}
        self._begun: set[int] = set()
        self._looked_to = 0

    def fill(self, work: Work) -> None:
        """Look at what the log has by now."""
        if len(self._waiting) >= WINDOW:
            return
        for lsn, entry in work.log(self._looked_to):
            self._looked_to = lsn
            if entry.root == self._root:
                self._waiting[lsn] = self._sorted(entry)
                if entry.op is Op.PUT and self._is_large(entry.size):
                    self._large[lsn] = None
                if len(self._waiting) >= WINDOW:
                    return

    def _sorted(self, entry: Entry) -> _Waiting:
        paths = tuple(path.rstrip(b"/") for path in (entry.path, entry.other) if path)
        return _Waiting(self._strict or not is_new(entry), paths)

    def next(self) -> list[int]:
        """What may begin now, in order; `begin` is called for each."""
        found: list[int] = []
        ahead = _Ahead()
        for lsn, waiting in self._waiting.items():
            if len(self._begun) + len(found) >= AT_ONCE:
                break
            may = ahead.is_nothing if waiting.is_marker else not ahead.touches(waiting.paths)
            if may and lsn not in self._begun:
                found.append(lsn)
            if waiting.is_marker and self._strict:
                break
            ahead.add(waiting)
        return found

    def begin(self, lsn: int) -> None:
        """*lsn* is in flight."""
        self._begun.add(lsn)

    def has_begun(self, lsn: int) -> bool:
        """Whether something up to *lsn* is in flight."""
        return any(begun <= lsn for begun in self._begun)

    def stop(self, lsn: int) -> None:
        """*lsn* is not in flight any more, and not done."""
        self._begun.discard(lsn)

    def done(self, lsn: int) -> None:
        """*lsn* is out of the log: the lake has it, or it was taken back."""
        self._begun.discard(lsn)
        self._waiting.pop(lsn, None)
        self._large.pop(lsn, None)

    def large(self) -> Iterator[int]:
        """The files that go up in parts and are not begun, in order."""
        return (lsn for lsn in self._large if lsn not in self._begun)


class _Ahead:
    """What is before an entry and not done."""

    def __init__(self) -> None:
        self.is_nothing = True
        self._paths: set[bytes] = set()
        self._above: set[bytes] = set()

    def add(self, waiting: _Waiting) -> None:
        self.is_nothing = False
        if waiting.is_marker:
            for path in waiting.paths:
                self._paths.add(path)
                self._above.update(_above(path))

    def touches(self, paths: tuple[bytes, ...]) -> bool:
        """Whether one of the markers is about one of *paths*, or what is above or below it."""
        return any(
            path in self._paths
            or path in self._above
            or any(above in self._paths for above in _above(path))
            for path in paths
        )


def _above(path: bytes) -> Iterator[bytes]:
    at = path.find(b"/")
    while at >= 0:
        yield path[:at]
        at = path.find(b"/", at + 1)
