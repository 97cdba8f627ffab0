"""Inode numbers, handed out once and never again.

``journal/reservations`` holds the first number that was never reserved. A range is reserved durably
before its first number is handed out, so whatever happens afterwards (kill -9, a rebuild of
``names/``, a power cut) only skips numbers: 65,536 a start, of 2^64.

Invariant I10: no number is handed out twice in the life of a ``journal/``, nor one that ``names/``
or ``cache/`` had a record of when the index was opened.
"""

from __future__ import annotations

import trio

from tierfs.errors import InvalidRequest
from tierfs.index import schema
from tierfs.index.environments import Environment
from tierfs.index.records import FIRST_INO
from tierfs.index.writer import Transaction

DATABASES = ("reservations",)

#: Numbers in one reservation. A listing takes 1,000 a page, so a synced commit is rare.
RANGE = 65_536


class InodeAllocator:
    """Hands out the inode numbers of one index. *floor*: numbers below it are known to be taken."""

    def __init__(self, env: Environment, *, floor: int = FIRST_INO) -> None:
        self._env = env
        self._database = env.database("reservations")
        self._floor = max(floor, FIRST_INO)
        self._next = 0
        self._end = 0
        self._lock = trio.Lock()

    @property
    def available(self) -> int:
        """How many numbers `next_ino` can hand out now."""
        return self._end - self._next

    async def reserve(self) -> None:
        """Reserve at least one more range; waits until that is on the disk."""
        async with self._lock:
            await self._reserve(RANGE)

    async def ensure(self, n: int) -> None:
        """Make *n* numbers available to the caller, until its next checkpoint: other tasks take
        from the same range. Always a checkpoint; rarely waits for the disk.
        """
        async with self._lock:
            if self.available < n:
                await self._reserve(-(-n // RANGE) * RANGE)

    def next_ino(self, n: int = 1) -> int:
        """A number that was never handed out: the first of *n* in a row. Raises InvalidRequest when
        `ensure` was not called.
        """
        ino = self._next
        if ino + n > self._end:
            raise InvalidRequest(
                "take an inode number", "", "none is reserved: ensure() comes first"
            )
        self._next = ino + n
        return ino

    async def _reserve(self, count: int) -> None:
        def write(txn: Transaction) -> int:
            value = txn.get(schema.INODES_KEY, db=self._database)
            start = max(self._floor, 0 if value is None else schema.U64.unpack(value)[0])
            txn.put(schema.INODES_KEY, schema.U64.pack(start + count), db=self._database)
            return start

        start = await self._env.write(write)
        if start != self._end:
            # Not the continuation of what is left: that is given up.
            self._next = start
        self._end = start + count
