"""What was fetched before anybody read it, for whom, and what became of it: a byte for each
inode."""

from __future__ import annotations

from dataclasses import dataclass

_PAGE = 4096
_SHIFT = _PAGE.bit_length() - 1
_MASK = _PAGE - 1
#: Those for whom something is fetched are told apart up to so many; the last one is all others.
MOST_OWNERS = 254
#: Not an owner: a warm-up, by which somebody has asked for it.
_WARM = 255


@dataclass(slots=True)
class Account:
    """Files that were fetched ahead for one job: those that wait, and those that do no more, by
    why; and the bytes fetched in all."""

    waiting: int = 0
    used: int = 0
    wasted: int = 0
    bytes: int = 0

    @property
    def files(self) -> int:
        """How many were fetched ahead."""
        return self.waiting + self.used + self.wasted

    @property
    def waiting_bytes(self) -> int:
        """About how many bytes wait: files count as equally large."""
        return self.bytes * self.waiting // self.files if self.files else 0


class Ahead:
    """Files that were fetched ahead. Each is *waiting* until it is read (then it was of use, to
    whomever) or evicted (then it was wasted). An *owner* is a number from 1 on. Those that a
    warm-up asked for are *warm* until they are read or evicted, whoever else fetched them, and in
    nobody's account. Memory: a byte for each inode number, in pages of 4096."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._accounts: dict[int, Account] = {}
        #: How many files are warm.
        self.warm = 0

    def __contains__(self, ino: int) -> bool:
        return bool(self._owner_of(ino))

    def is_warm(self, ino: int) -> bool:
        """Whether a warm-up asked for *ino*, and it was not read since."""
        return self._owner_of(ino) == _WARM

    def _owner_of(self, ino: int) -> int:
        page = self._pages.get(ino >> _SHIFT)
        return 0 if page is None else page[ino & _MASK]

    def _set(self, ino: int, owner: int) -> None:
        page = self._pages.get(ino >> _SHIFT)
        if page is None:
            page = self._pages[ino >> _SHIFT] = bytearray(_PAGE)
        page[ino & _MASK] = owner

    def of(self, owner: int) -> Account:
        """The account of *owner*."""
        return self._accounts.setdefault(min(owner, MOST_OWNERS), Account())

    @property
    def all(self) -> Account:
        """That of all together."""
        found = Account()
        for each in self._accounts.values():
            found.waiting += each.waiting
            found.used += each.used
            found.wasted += each.wasted
            found.bytes += each.bytes
        return found

    def sent_for(self, ino: int, size: int, owner: int = 1) -> None:
        """*ino*, of *size* bytes, is fetched for *owner* and was not asked for."""
        if ino in self:
            return
        self._set(ino, min(owner, MOST_OWNERS))
        account = self.of(owner)
        account.waiting += 1
        account.bytes += size

    def warm_up(self, ino: int, size: int) -> None:
        """A warm-up asks for *ino*, of *size* bytes, whether it is cached or not."""
        self.not_kept(ino, size)
        self._set(ino, _WARM)
        self.warm += 1

    def read(self, ino: int) -> bool:
        """*ino* is read; whether it waited for that."""
        if not self._pages:
            return False
        account = self._take(ino)
        if account is None:
            return False
        account.used += 1
        return True

    def evicted(self, ino: int) -> None:
        """*ino* leaves the cache."""
        account = self._take(ino)
        if account is not None:
            account.wasted += 1

    def not_kept(self, ino: int, size: int) -> None:
        """It did not come, after all, or was told to go; of no use if somebody has read it
        meanwhile."""
        account = self._take(ino)
        if account is not None:
            account.bytes -= size

    def clear(self) -> None:
        """All that waits was told to go."""
        for account in self._accounts.values():
            account.bytes -= account.waiting_bytes
            account.waiting = 0
        self._pages.clear()
        self.warm = 0

    def _take(self, ino: int) -> Account | None:
        """It waits no more: whose it was, if it waited for an owner's sake."""
        owner = self._owner_of(ino)
        if not owner:
            return None
        self._pages[ino >> _SHIFT][ino & _MASK] = 0
        if owner == _WARM:
            self.warm -= 1
            return None
        account = self._accounts[owner]
        account.waiting -= 1
        return account
