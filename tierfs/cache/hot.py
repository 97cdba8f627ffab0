"""A few blocks that are known to be right, in memory, least recently used out.

The kernel may ask for a block in eight pieces of 128 KiB, and C1 verifies whole blocks: without
this a 1 MiB block would be read and hashed eight times. What was fetched and is not kept on disk
lives here until the reader has had it; what is fetched ahead of a reader is of use only if it is
here still when the reader comes to it. So those who read objects in order that pass by here share
the memory (`HotBlocks.window_bytes`), and what they have read goes first (`HotBlocks.spend`).
"""

from __future__ import annotations

from collections import OrderedDict

from tierfs.cache.blocks import Buffer


class HotBlocks:
    """Blocks by (ino, block number), at most *capacity_bytes* of them. Plain calls, one thread."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        #: Objects in use, of several blocks, whose blocks are not kept on disk at the moment.
        self.passing: set[int] = set()
        self._blocks: OrderedDict[tuple[int, int], Buffer] = OrderedDict()

    @property
    def window_bytes(self) -> int:
        """How far ahead of a reader of such an object may be fetched."""
        # What is not read yet fills a third: beside it come reads at random, and other files.
        return self.capacity_bytes // (3 * max(1, len(self.passing)))

    def get(self, ino: int, n: int) -> Buffer | None:
        """The whole block, or None."""
        data = self._blocks.get((ino, n))
        if data is not None:
            self._blocks.move_to_end((ino, n))
        return data

    def put(self, ino: int, n: int, data: Buffer) -> None:
        """Keep a verified block; the caller must not change *data* afterwards."""
        if len(data) > self.capacity_bytes:
            return
        self.drop(ino, n)
        self._blocks[ino, n] = data
        self.used_bytes += len(data)
        while self.used_bytes > self.capacity_bytes:
            _, oldest = self._blocks.popitem(last=False)
            self.used_bytes -= len(oldest)

    def spend(self, ino: int, n: int) -> None:
        """A reader has had the end of a block: it goes before all that nobody has read yet."""
        if (ino, n) in self._blocks:
            self._blocks.move_to_end((ino, n), last=False)

    def drop(self, ino: int, n: int) -> None:
        """Forget one block, if it is here."""
        data = self._blocks.pop((ino, n), None)
        if data is not None:
            self.used_bytes -= len(data)

    def forget(self, ino: int) -> None:
        """Forget every block of *ino*."""
        for key in [key for key in self._blocks if key[0] == ino]:
            self.drop(*key)
