"""Locks by what they are about: an inode number, a directory's and a name, or a word.

Taking what nobody holds takes no turn of the loop, as it does with `trio.Lock`: a change of a small
file takes several, and a turn each would be a good part of what it costs. So there is no checkpoint
either. What is let go of is given to who has waited longest.
"""

from __future__ import annotations

import abc
from contextlib import AbstractAsyncContextManager
from types import TracebackType

import trio


class Holds:
    """Locks by what they are about; those that nobody holds take no room."""

    def __init__(self) -> None:
        #: What is held, and who waits for it, if anybody does.
        self._held: dict[object, trio.lowlevel.ParkingLot | None] = {}

    def hold(self, *keys: object) -> AbstractAsyncContextManager[None]:
        """Hold all *keys*, in an order that is the same for everybody."""
        return _Hold(self, keys if len(keys) == 1 else sorted(set(keys), key=repr))

    def is_held(self, key: object) -> bool:
        """Whether somebody holds *key*."""
        return key in self._held

    def take_at_once(self, key: object) -> bool:
        """Hold *key* from now on, if nobody does; whether that is so."""
        if key in self._held:
            return False
        self._held[key] = None
        return True

    async def take(self, key: object) -> None:
        """Hold *key* from now on."""
        if self.take_at_once(key):
            return
        lot = self._held[key]
        if lot is None:
            lot = self._held[key] = trio.lowlevel.ParkingLot()
        await lot.park()

    def give(self, key: object) -> None:
        """Let go of *key*, for who has waited longest."""
        lot = self._held[key]
        if lot:
            lot.unpark()
        else:
            del self._held[key]


class _LetsGo(AbstractAsyncContextManager[None]):
    """What lets go of what it has, however its body ends."""

    __slots__ = ()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._let_go()

    @abc.abstractmethod
    def _let_go(self) -> None: ...


class _Hold(_LetsGo):
    __slots__ = ("_holds", "_keys", "_taken")

    def __init__(self, holds: Holds, keys: list[object] | tuple[object, ...]) -> None:
        self._holds = holds
        self._keys = keys
        self._taken = 0

    async def __aenter__(self) -> None:
        try:
            for key in self._keys:
                await self._holds.take(key)
                self._taken += 1
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        for key in self._keys[: self._taken]:
            self._holds.give(key)
        self._taken = 0


class Lock(_LetsGo):
    """One lock, as those of `Holds`."""

    __slots__ = ("_holds",)

    def __init__(self) -> None:
        self._holds = Holds()

    async def __aenter__(self) -> None:
        await self._holds.take(None)

    def _let_go(self) -> None:
        self._holds.give(None)
