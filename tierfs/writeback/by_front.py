"""What write-back has of a native front: it reads the lake's files, and fills the disk that both
share."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

import trio

from tierfs.cache.blocks import Buffer, block_count, combined_crc64nvme
from tierfs.cache.space import DiskSpace, disk_space_of
from tierfs.errors import InvalidRequest, NotFound, PreconditionFailed, StaleVersion, TierfsError
from tierfs.front.native import NativeFront
from tierfs.index.records import BlockRecord, ObjectRef
from tierfs.index.schema import pack_block
from tierfs.lake.protocol import Lake
from tierfs.namespace import Namespace

_log = logging.getLogger(__name__)

#: How long the disk's own word on its free space is believed.
SPACE_S = 1.0


class SharedDisk:
    """The account of a disk whose cache a native front fills (`tierfs.writeback.room.Disk`):
    *directory* says which, *min_free* is the share of it that stays free."""

    def __init__(self, front: NativeFront, directory: Path, min_free: float) -> None:
        self._front = front
        self._directory = directory
        self._min_free = min_free
        self._space = DiskSpace(0, 0)
        self._read_s = -math.inf

    def left_to_write(self) -> int:
        """See `Disk.left_to_write`."""
        return max(0, self._free() + self._front.cached_bytes())

    async def give_way(self, bytes_: int) -> bool:
        """See `Disk.give_way`."""
        missing = bytes_ - self._free()
        while missing > 0 and (freed := await self._front.evict_some(missing)):
            missing -= freed
            self._read_s = -math.inf
        return self._free() >= bytes_

    def taken(self, bytes_: int) -> None:
        """See `Disk.taken`."""
        total_bytes, free_bytes = self._space
        self._space = DiskSpace(total_bytes, free_bytes - bytes_)

    def _free(self) -> int:
        """What is free beside the share that stays so; negative: that much is missing."""
        now_s = time.monotonic()
        if now_s - self._read_s > SPACE_S:
            self._space, self._read_s = disk_space_of(os.fsencode(self._directory)), now_s
        return self._space.free_bytes - int(self._space.total_bytes * self._min_free)


class ByFront:
    """`Reading` of a mount whose native front reads by itself; for what is copied to be written to
    the lake is asked here."""

    def __init__(
        self, front: NativeFront, namespace: Namespace, lake: Lake, disk: SharedDisk
    ) -> None:
        self.capacity = disk
        self._front = front
        self._namespace = namespace
        self._lake = lake
        self._open: dict[int, ObjectRef] = {}
        self._next = 1

    def opened(self, ino: int) -> tuple[ObjectRef, int] | None:
        """See `Reading.opened`."""
        return self._namespace.object_known(ino) if self._front.is_used(ino) else None

    async def open(self, ino: int, ref: ObjectRef, size: int, pid: int = 0) -> int:
        """See `Reading.open`."""
        fh, self._next = self._next, self._next + 1
        self._open[fh] = ref
        return fh

    async def read(self, fh: int, offset: int, size: int) -> Buffer:
        """See `Reading.read`."""
        ref = self._open.get(fh)
        if ref is None:
            raise InvalidRequest("read", f"handle {fh}")
        try:
            return await self._lake.get(ref.key, ref.version, offset, size)
        except (NotFound, PreconditionFailed) as error:
            raise StaleVersion("read", ref.key, "it changed in the lake") from error

    async def release(self, fh: int) -> None:
        """See `Reading.release`."""
        self._open.pop(fh, None)

    def rewritten(self, ino: int) -> None:
        """See `Reading.rewritten`: its copy is that of another number."""

    async def renamed(self, ino: int, old: ObjectRef, ref: ObjectRef) -> None:
        """See `Reading.renamed`."""
        await self._front.renamed(ino, old, ref)

    async def adopt(
        self, ino: int, ref: ObjectRef, size: int, path: Path, blocks: Mapping[int, BlockRecord]
    ) -> bool:
        """See `Reading.adopt`. The front makes it one, and says so."""
        numbers = range(block_count(size))
        records = b"".join(pack_block(blocks[number]) for number in numbers)
        beside = path.with_name(path.name + ".blocks")
        try:
            await trio.to_thread.run_sync(beside.write_bytes, records)
            crc = combined_crc64nvme(blocks[number] for number in numbers)
            await self._front.adopt(ino, ref, size, crc)
        except (TierfsError, OSError) as error:
            _log.info("inode %d is not kept: %s", ino, error)
            return False
        finally:
            beside.unlink(missing_ok=True)
        return True
