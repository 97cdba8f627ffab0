"""Help for tests of the cache and the front: a front over a real index and a lake in memory."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import trio
import trio.testing

from tierfs.cache.blocks import checksum_of
from tierfs.cache.budget import Priority
from tierfs.front.python import PythonFront
from tierfs.index.index import open_index
from tierfs.index.records import BLOCK_SIZE, ObjectRef
from tierfs.lake.memory import MemoryLake
from tierfs.lake.protocol import Checksum, ChecksumKind, Lake, ObjectInfo, Version

MIB = BLOCK_SIZE

Refs = dict[int, tuple[ObjectRef, int]]


def noise(size: int, seed: int = 0) -> bytes:
    """Reproducible bytes that differ from block to block."""
    return random.Random(seed).randbytes(size)


def ref_of(info: ObjectInfo) -> ObjectRef:
    """How the namespace would refer to an object that a listing described."""
    return ObjectRef(info.key, info.version, info.archived, info.has_checksum)


class Request(NamedTuple):
    """One GET or HEAD that came."""

    op: str
    key: bytes
    offset: int
    length: int


class WatchedLake(MemoryLake):
    """A lake in memory that lists its requests, keeps the kind of checksum that a test wants, and
    runs *before* in front of each request, where a test can wait, fail or change the objects."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.before: Callable[[Request], Awaitable[None]] | None = None

    def store_with(self, key: bytes, data: bytes, kind: ChecksumKind) -> ObjectInfo:
        """`store`, with a checksum of this kind, or none."""
        info = self.store(key, data)
        checksum = None if kind is ChecksumKind.NONE else Checksum(kind, checksum_of(kind, data))
        info = replace(info, has_checksum=checksum is not None, checksum=checksum)
        self._objects[key] = (info, data)
        return info

    async def head(self, key: bytes, *, checksum: bool = False) -> ObjectInfo:
        await self._came(Request("head", key, 0, 0))
        return await super().head(key, checksum=checksum)

    async def get(self, key: bytes, version: Version, offset: int, length: int) -> bytes:
        await self._came(Request("get", key, offset, length))
        return await super().get(key, version, offset, length)

    async def get_whole(
        self, key: bytes, version: Version, size: int, *, checksum: bool = True
    ) -> tuple[bytes, Checksum | None]:
        await self._came(Request("get_whole", key, 0, size))
        return await super().get_whole(key, version, size, checksum=checksum)

    async def _came(self, request: Request) -> None:
        self.requests.append(request)
        if self.before is not None:
            await self.before(request)

    def ranges(self) -> list[tuple[int, int]]:
        """The byte ranges of all GETs, as (offset, length)."""
        return [(r.offset, r.length) for r in self.requests if r.op != "head"]


class Rig:
    """A front, its lake and its directory; objects get inode numbers as they are put."""

    def __init__(self, front: PythonFront, lake: WatchedLake, directory: Path) -> None:
        self.front = front
        self.lake = lake
        self.directory = directory
        self.refs: Refs = {}

    def put(
        self,
        ino: int,
        data: bytes,
        *,
        key: bytes | None = None,
        checksum: ChecksumKind = ChecksumKind.CRC64NVME,
    ) -> None:
        """Store *data* in the lake and know it as *ino*."""
        info = self.lake.store_with(key or b"object-%d" % ino, data, checksum)
        self.refs[ino] = (ref_of(info), info.size)

    async def open(self, ino: int) -> int:
        """Open an object that was put."""
        return await self.front.open(ino, *self.refs[ino])

    async def read(self, ino: int, offset: int = 0, size: int | None = None) -> bytes:
        """Open, read, release."""
        fh = await self.open(ino)
        try:
            wanted = self.refs[ino][1] if size is None else size
            return bytes(await self.front.read(fh, offset, wanted))
        finally:
            await self.front.release(fh)

    async def fetch(
        self,
        ino: int,
        extent: tuple[int, int] | None = None,
        priority: Priority = Priority.WARM_UP,
    ) -> int:
        """Warm up an object that was put."""
        return await self.front.fetch(ino, *self.refs[ino], extent, priority)

    async def settle(self) -> None:
        """Wait until nothing is in flight and everything is recorded."""
        front = self.front
        while True:
            await trio.testing.wait_all_tasks_blocked(0.0005)
            await front._table.recorder.drain()
            busy = front._fetcher.in_flight or front._completion.running or front._table._leaving
            if not busy and not front._table.recorder.busy:
                await trio.testing.wait_all_tasks_blocked()
                if not front._table._leaving:
                    return

    def account_is_right(self) -> bool:
        """Whether what is counted as used is what the index knows of."""
        return bool(self.front.stats()["used_bytes"] == self.front._index.totals().disk_bytes)

    def bytes_on_disk(self, ino: int) -> int:
        """What ``du`` says of the cached copy of *ino*; blocks of the file system, in bytes."""
        return self.cache_file(ino).stat().st_blocks * 512

    def cache_file(self, ino: int) -> Path:
        """Where the cached copy of *ino* lies."""
        return Path(self.front._store.path(ino).decode())


@contextlib.asynccontextmanager
async def rig(
    directory: Path,
    lake: WatchedLake | None = None,
    *,
    around: Callable[[WatchedLake], Lake] = lambda lake: lake,
    refs: Refs | None = None,
    **options: Any,
) -> AsyncIterator[Rig]:
    """A started front over *directory*; leaving it closes everything as a clean unmount does."""
    options.setdefault("cache_size", None)
    options.setdefault("min_free", 0.0)
    options.setdefault("memory", 64 << 20)
    lake = WatchedLake() if lake is None else lake
    async with open_index(directory, "lake") as index, trio.open_nursery() as nursery:
        front = PythonFront(index.cache, around(lake), directory, nursery, **options)
        await front.start()
        made = Rig(front, lake, directory)
        if refs is not None:
            made.refs = refs
        try:
            yield made
        finally:
            with trio.CancelScope(shield=True):
                await front.aclose()
            nursery.cancel_scope.cancel()
