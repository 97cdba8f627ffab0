"""Locks by what they are about: an inode number, a directory's and a name, or a word."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Holds:
    """Locks by what they are about; those that nobody holds take no room."""

    def __init__(self) -> None:
        self._locks: dict[object, tuple[trio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, *keys: object) -> AsyncIterator[None]:
        """Hold all *keys*, in an order that is the same for everybody."""
        ordered = sorted(set(keys), key=repr)
        taken: list[trio.Lock] = []
        for key in ordered:
            lock, users = self._locks.get(key, (trio.Lock(), 0))
            self._locks[key] = (lock, users + 1)
        try:
            for key in ordered:
                lock = self._locks[key][0]
                await lock.acquire()
                taken.append(lock)
            yield
        finally:
            for lock in taken:
                lock.release()
            for key in ordered:
                lock, users = self._locks[key]
                if users == 1:
                    del self._locks[key]
                else:
                    self._locks[key] = (lock, users - 1)
