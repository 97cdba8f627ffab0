"""Names that the lake said it does not have, remembered for a while and in bounded memory."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence

from tierfs.errors import NotFound

#: Absences remembered. One takes about 200 bytes, so this is 3 MiB; dropping one costs a request.
LIMIT = 16_384


class Absent(NotFound):
    """The lake has no such name. *ttl_s* is for how many seconds a caller may keep that answer."""

    def __init__(self, op: str, subject: str | bytes, ttl_s: float) -> None:
        super().__init__(op, subject)
        self.ttl_s = ttl_s


class Absences:
    """(directory, name) -> when the lake said that it is not there. The oldest give way to new
    ones.

    Besides answering look-ups this keeps a listing from bringing back what was seen to vanish while
    it ran (N5), and tells which names a kernel may hold as absent when they appear.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._seen: OrderedDict[tuple[int, bytes], int] = OrderedDict()
        self._limit = limit
        #: How many of each directory.
        self._in: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._seen)

    def get(self, parent: int, name: bytes) -> int | None:
        """When *name* was seen to be absent from *parent*, or None."""
        return self._seen.get((parent, name))

    def put(self, parent: int, name: bytes, checked_ns: int) -> None:
        """Remember that *name* was absent from *parent* at *checked_ns*."""
        if (parent, name) not in self._seen:
            self._in[parent] += 1
        self._seen[parent, name] = checked_ns
        self._seen.move_to_end((parent, name))
        if len(self._seen) > self._limit:
            (oldest, _), _ = self._seen.popitem(last=False)
            self._forget(oldest)

    def names_in(self, parent: int) -> list[bytes]:
        """The names remembered as absent from *parent*; looks through all of them."""
        return [name for directory, name in self._seen if directory == parent]

    def discard(self, parent: int, name: bytes) -> bool:
        """*name* is there: forget its absence. True if there was one to forget."""
        if self._seen.pop((parent, name), None) is None:
            return False
        self._forget(parent)
        return True

    def any_of(self, parent: int, names: Sequence[bytes]) -> bool:
        """Whether one of *names* is remembered as absent from *parent*."""
        return parent in self._in and any((parent, name) in self._seen for name in names)

    def _forget(self, parent: int) -> None:
        self._in[parent] -= 1
        if not self._in[parent]:
            del self._in[parent]
