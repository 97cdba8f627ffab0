"""Open directories of the pyfuse3 front.

READDIR arrives in pieces of a few kilobytes, each naming the offset where it wants to go on. The
offset is the inode number of the last entry it was given, so that a stream survives restarts and
changes; the handle keeps the entries already read from the index so that the next piece costs no
second read. It keeps them for `KEPT_S` only: each goes to the kernel with the time for which it may
be believed, counted from when it was read, and a reader may take hours between two pieces.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from tierfs.namespace import Attributes

#: Seconds by which an entry may be believed longer than it should be.
KEPT_S = 1.0

Entry = tuple[int, bytes, Attributes]


class DirectoryHandle:
    """One open directory: a cursor over its entries in inode order."""

    __slots__ = ("_entries", "_loaded_s", "_position", "_resume_at", "ino")

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self._entries: list[Entry] = []
        self._loaded_s = 0.0
        self._position = 0
        # The offset that continues at _position; anything else is a seek.
        self._resume_at = 0

    async def next_entry(
        self, offset: int, load: Callable[[int, int], Awaitable[list[Entry]]]
    ) -> Entry | None:
        """The first entry after *offset*, or None at the end. *load* is ``Namespace.readdir``."""
        if offset != self._resume_at:
            self._entries = []
            self._position = 0
            self._resume_at = offset
        now_s = trio.current_time()
        if self._position >= len(self._entries) or now_s - self._loaded_s > KEPT_S:
            self._entries = await load(self.ino, offset)
            self._loaded_s = trio.current_time()
            self._position = 0
            if not self._entries:
                return None
        return self._entries[self._position]

    def accept(self, entry: Entry) -> None:
        """The kernel took *entry*: the cursor moves past it."""
        self._position += 1
        self._resume_at = entry[0]


class HandleTable:
    """Directory handles by number. Numbers are never used twice in one mount."""

    def __init__(self) -> None:
        self._handles: dict[int, DirectoryHandle] = {}
        self._next = 1

    def add(self, handle: DirectoryHandle) -> int:
        number = self._next
        self._next += 1
        self._handles[number] = handle
        return number

    def get(self, number: int) -> DirectoryHandle | None:
        return self._handles.get(number)

    def remove(self, number: int) -> None:
        """Forget a handle; of an unknown one this is nothing."""
        self._handles.pop(number, None)

    def __len__(self) -> int:
        return len(self._handles)
