"""What was fetched before anybody asked for it, and what became of it: one bit for each inode."""

from __future__ import annotations

_PAGE = 4096
_SHIFT = _PAGE.bit_length() - 1
_MASK = _PAGE - 1


class Ahead:
    """Files that were fetched ahead. Each is *waiting* until it is read (then it was of use) or
    evicted (then it was wasted). Memory: one bit for each inode number, in pages of 4096."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        #: Files that wait, and those that do no more, by why; and the bytes fetched in all.
        self.waiting = self.used = self.wasted = 0
        self.bytes = 0

    def __contains__(self, ino: int) -> bool:
        page = self._pages.get(ino >> _SHIFT)
        return page is not None and bool(page[(ino & _MASK) >> 3] >> (ino & 7) & 1)

    def sent_for(self, ino: int, size: int) -> None:
        """*ino*, of *size* bytes, is fetched and was not asked for."""
        if ino in self:
            return
        page = self._pages.get(ino >> _SHIFT)
        if page is None:
            page = self._pages[ino >> _SHIFT] = bytearray(_PAGE >> 3)
        page[(ino & _MASK) >> 3] |= 1 << (ino & 7)
        self.waiting += 1
        self.bytes += size

    def read(self, ino: int) -> bool:
        """*ino* is read; whether it waited for that."""
        if not self._pages or not self._take(ino):
            return False
        self.used += 1
        return True

    def evicted(self, ino: int) -> None:
        """*ino* leaves the cache."""
        if self._take(ino):
            self.wasted += 1

    def not_kept(self, ino: int, size: int) -> None:
        """It did not come, after all; of no use if somebody has read it meanwhile."""
        if self._take(ino):
            self.bytes -= size

    def _take(self, ino: int) -> bool:
        if ino not in self:
            return False
        self._pages[ino >> _SHIFT][(ino & _MASK) >> 3] &= ~(1 << (ino & 7)) & 0xFF
        self.waiting -= 1
        return True

    @property
    def files(self) -> int:
        """How many were fetched ahead."""
        return self.waiting + self.used + self.wasted

    @property
    def waiting_bytes(self) -> int:
        """About how many bytes wait: files count as equally large."""
        return self.bytes * self.waiting // self.files if self.files else 0
