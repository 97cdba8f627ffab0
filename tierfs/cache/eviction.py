"""Eviction: files that are not in use leave whole, incomplete ones by extents if so asked.

What is in the index is what is there; so records go first, and bytes after them (C10)::

    evict() -+- whole: the blocks dropped --> the file unlinked --> its record dropped
             |               ^
             |               | where holes cannot be punched, and where nothing would stay
             |               |
             +- extents: their blocks dropped --> holes punched --> the rest stays, and is served

A kill between any two arrows leaves neither records of bytes that are gone nor a file without a
record (C3). It may leave bytes without records, which nobody counts and nobody reads: at most what
one call of `evict` was told to evict by extents. No start looks for them. They are overwritten when
their blocks are fetched again, and leave with the file or with the next extent evicted beside
them: the whole gap in the records around an extent is punched, so that a file evicted from its
beginning, as `tierfs.readahead.policy` does, has given all of it back when the next extent goes.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import trio

from tierfs.cache.blocks import block_count, whole_blocks
from tierfs.cache.hot import HotBlocks
from tierfs.cache.space import Capacity, Health
from tierfs.cache.store import Store
from tierfs.cache.table import ObjectTable
from tierfs.index.cache import CacheBatch, CacheIndex
from tierfs.index.records import BLOCK_SIZE, EXTENT_SIZE, CachedFile, Extent

#: How many records one step of `evict_all` looks at.
EVICT_PAGE = 512


class Victim(NamedTuple):
    """What to evict: a whole file, or those blocks of an incomplete one that lie within *extents*,
    which are multiples of EXTENT_SIZE long and apart."""

    ino: int
    extents: tuple[Extent, ...] | None = None


class _Part(NamedTuple):
    """An incomplete file, and its blocks that are to go: number -> length."""

    file: CachedFile
    blocks: dict[int, int]

    @property
    def bytes(self) -> int:
        return sum(self.blocks.values())

    @property
    def extents(self) -> int:
        return len({n * BLOCK_SIZE // EXTENT_SIZE for n in self.blocks})


class Evictor:
    """Evicts what is not in use (C6). Counters are of what has left the disk."""

    def __init__(
        self,
        index: CacheIndex,
        table: ObjectTable,
        store: Store,
        hot: HotBlocks,
        capacity: Capacity,
        health: Health,
    ) -> None:
        self._index = index
        self._table = table
        self._store = store
        self._hot = hot
        self._capacity = capacity
        self._health = health
        #: Bytes of files that lost their records and are, for all we know, still on the disk, so
        #: still counted. Those of a file that cannot be removed stay until it can.
        self._lingering: dict[int, int] = {}
        self.evicted_files = 0
        self.evicted_extents = 0
        self.evicted_bytes = 0

    async def evict_one(self, ino: int, extents: Sequence[Extent] | None = None) -> int:
        """Evict *ino*, or *extents* of it. If it is in use, it goes when its last user leaves, but
        no extents do. Returns the bytes freed by now."""
        o = self._table.get(ino)
        if o is not None:
            o.doomed = o.doomed or extents is None
            return 0
        return await self.evict([Victim(ino, None if extents is None else tuple(extents))])

    async def evict_all(self) -> tuple[int, int]:
        """Evict every file that is not in use. Returns (files, bytes)."""
        before = self.evicted_files
        freed = after = 0
        while page := self._index.scan_files(after, EVICT_PAGE):
            freed += await self.evict([Victim(ino) for ino, _ in page])
            after = page[-1][0]
        return self.evicted_files - before, freed

    async def evict(self, victims: Sequence[Victim]) -> int:
        """Evict those of *victims*, distinct files, that are not in use. Returns the bytes freed.

        A whole file is never punched: extents of one stay. An incomplete file goes whole where
        nothing else of it is cached, and where its extents cannot be freed.
        """
        try:
            whole, parts = self._look_up(victims)
        except Exception as error:
            # This may be a task of its own, whose end by an error would be that of the mount.
            self._health.failed("look into the cache index", error)
            return 0
        if not whole and not parts:
            return 0
        # Once begun it is finished, so that the account stays right.
        with self._table.leaving([*whole, *parts]), trio.CancelScope(shield=True):
            freed, refused = await self._evict_parts(parts)
            freed += await self._evict_whole({**whole, **refused})
        return freed

    def _look_up(self, victims: Sequence[Victim]) -> tuple[dict[int, CachedFile], dict[int, _Part]]:
        whole: dict[int, CachedFile] = {}
        parts: dict[int, _Part] = {}
        for ino, extents in victims:
            if self._table.in_use(ino) or (file := self._index.file(ino)) is None:
                continue
            if extents is None:
                whole[ino] = file
                continue
            if file.present_bytes == file.size:
                continue  # It became whole since the victim was chosen.
            blocks: dict[int, int] = {}
            for lo, hi in extents:
                blocks.update(self._index.lengths(ino, whole_blocks(lo, hi, file.size)))
            part = _Part(file, blocks)
            if part.bytes == file.present_bytes or not self._store.punches:
                whole[ino] = file
            elif blocks:
                parts[ino] = part
        return whole, parts

    async def _evict_parts(self, parts: Mapping[int, _Part]) -> tuple[int, dict[int, CachedFile]]:
        """The bytes freed, and the files that cannot be punched, without the blocks dropped."""
        freed = 0
        refused: dict[int, CachedFile] = {}
        if not parts:
            return freed, refused
        try:
            await self._forget(parts)
        except Exception as error:
            self._health.failed("evict", error)
            return freed, refused
        for ino, part in parts.items():
            try:
                await self._store.punch(ino, self._gaps(ino, part))
            except Exception as error:
                if self._store.punches:
                    self._health.failed("free a part of a cache file", error)
                if isinstance(error, OSError) and error.errno != errno.ETIMEDOUT:
                    left = part.file.present_bytes - part.bytes
                    refused[ino] = part.file._replace(present_bytes=left)
            else:
                self.evicted_extents += part.extents
                freed += self._gone(ino, part.bytes)
        return freed, refused

    async def _forget(self, parts: Mapping[int, _Part]) -> None:
        """Drop the records of what is to leave (C10)."""
        batch = CacheBatch()
        for ino, part in parts.items():
            batch.drop_blocks(ino, part.blocks)
        await self._index.commit(batch)
        for ino, part in parts.items():
            self._lingering[ino] = self._lingering.get(ino, 0) + part.bytes
            for n in part.blocks:
                self._hot.drop(ino, n)

    def _gaps(self, ino: int, part: _Part) -> list[Extent]:
        """The gaps around the blocks that were dropped, as byte ranges, each once."""
        gaps: list[Extent] = []
        end = 0
        for n in sorted(part.blocks):
            if n >= end:
                gap = self._index.gap(ino, n, block_count(part.file.size))
                gaps.append((gap.start * BLOCK_SIZE, gap.stop * BLOCK_SIZE))
                end = gap.stop
        return gaps

    async def _evict_whole(self, files: Mapping[int, CachedFile]) -> int:
        """The bytes freed. A file that cannot be unlinked stays recorded, and counted."""
        freed = 0
        if not files:
            return freed
        try:
            await self._empty(files)
            gone = await self._store.unlink(list(files))
            for ino in gone:
                self._hot.forget(ino)
                self.evicted_files += 1
                freed += self._gone(ino, self._lingering.get(ino, 0))
            await self._drop_files(gone)
        except Exception as error:
            self._health.failed("evict", error)
            return freed
        overhead = sum(files[ino].overhead_bytes for ino in gone)
        self._capacity.freed(overhead)
        return freed + overhead

    async def _empty(self, files: Mapping[int, CachedFile]) -> None:
        batch = CacheBatch()
        for ino, file in files.items():
            batch.drop_file(ino)
            batch.put_file(ino, file._replace(present_bytes=0, complete=False))
        await self._index.commit(batch)
        for ino, file in files.items():
            self._lingering[ino] = self._lingering.get(ino, 0) + file.present_bytes

    async def _drop_files(self, inos: Sequence[int]) -> None:
        batch = CacheBatch()
        for ino in inos:
            batch.drop_file(ino)
        await self._index.commit(batch)

    def _gone(self, ino: int, bytes_: int) -> int:
        """*bytes_* without records have left the disk."""
        lingering = self._lingering.pop(ino, 0) - bytes_
        if lingering:
            self._lingering[ino] = lingering
        self.evicted_bytes += bytes_
        self._capacity.freed(bytes_)
        return bytes_
