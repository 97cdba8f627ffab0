"""Bringing one file's bytes to the lake, ahead of its turn where it is large.

A multipart upload shows nothing before it is completed, so the parts of later files go up while
earlier ones wait for their turn. Each part that the lake has is recorded in the journal: after any
death an upload goes on with what is missing. The bytes are read once, and sealed as they are read:
the blocks' checksums make those of the parts and of the object, and are kept, so that the file is a
cached object when it is durable.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TypeAlias

import trio

from tierfs.cache.blocks import block_count, block_extent, combined_crc64nvme, seal
from tierfs.errors import (
    CacheError,
    IntegrityError,
    InvalidRequest,
    NotFound,
    TierfsError,
    show,
)
from tierfs.index.records import BLOCK_SIZE, BlockRecord
from tierfs.lake.pace import Pace
from tierfs.lake.writing import (
    SLOWEST_BYTES_S,
    Condition,
    FileRange,
    Part,
    Storage,
    Upload,
    WritableLake,
    Written,
)
from tierfs.writeback.journal import Journal, Staged, Work

_log = logging.getLogger(__name__)

#: Larger files are uploaded in parts, of this size unless there would be too many.
PART_BYTES = 16 << 20
#: Parts on their way at one time, of all files.
PARTS_AT_ONCE = 16

#: What an object is to carry, by now.
Metadata: TypeAlias = Callable[[], Mapping[str, str]]


@dataclass
class Content:
    """The bytes of one commit point: an open file that nobody changes, and what was found in it."""

    ino: int
    lsn: int
    fd: int
    size: int
    blocks: dict[int, BlockRecord] = field(default_factory=dict)
    #: Threads that read and seal a part of it, and what is set when there are none any more.
    sealing: int = 0
    quiet: trio.Event = field(default_factory=trio.Event)

    @property
    def crc64nvme(self) -> int:
        """Of all of it; every block has been read."""
        return combined_crc64nvme(self.blocks[n] for n in range(block_count(self.size)))

    async def go_on_with(self, fd: int) -> None:
        """Read the same bytes from *fd* from now on: the file may be written to after this. What is
        being sent was sealed before, so that a lake which gets other bytes refuses them."""
        os.dup2(fd, self.fd, inheritable=False)
        if self.sealing:
            self.quiet = trio.Event()
            await self.quiet.wait()

    def close(self) -> None:
        """Close the file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Uploads:
    """Sends content to *lake*, no faster than *pace*, and records in *journal* what arrived."""

    def __init__(self, lake: WritableLake, journal: Journal, *, pace: Pace | None = None) -> None:
        self._lake = lake
        self._journal = journal
        self._pace = pace
        # With a pace that many of them share, each would be slower than a connection may be.
        fit = PARTS_AT_ONCE if pace is None else pace.bytes_s // SLOWEST_BYTES_S
        self._limit = trio.CapacityLimiter(min(max(fit, 1), PARTS_AT_ONCE))
        #: Bytes of content sent, retries not counted.
        self.bytes_sent = 0
        #: Around each request with content, told how much that is.
        self.sending: Callable[[int], AbstractContextManager[None]] = lambda bytes_: nullcontext()

    def part_bytes(self, size: int) -> int:
        """How large the parts of an object of *size* bytes are: a multiple of a block."""
        least = -(-size // self._lake.limits.max_parts)
        return max(PART_BYTES, -(-least // BLOCK_SIZE) * BLOCK_SIZE)

    def is_large(self, size: int) -> bool:
        """Whether it goes up in parts."""
        return size > PART_BYTES

    async def put(
        self, content: Content, key: bytes, metadata: Mapping[str, str], storage: Storage,
        condition: Condition,
    ) -> Written:  # fmt: skip
        """Send it in one request; it is visible when this returns."""
        crc = await self._seal(content, 0, content.size)
        async with self._limit:
            with self.sending(content.size):
                written = await self._lake.put(
                    key,
                    FileRange(content.fd, 0, content.size, self._pace) if content.size else b"",
                    crc,
                    metadata=metadata,
                    storage=storage,
                    condition=condition,
                )
        self.bytes_sent += content.size
        return written

    async def send_parts(
        self, content: Content, key: bytes, metadata: Metadata, storage: Storage
    ) -> None:
        """Send every part that the lake has not; nothing is visible when this returns. *metadata*
        is asked when an upload begins, which is what it is fixed by."""
        found = self._journal.read(lambda work: work.upload(content.lsn))
        if found is None:
            upload, size = await self._begin(content, key, metadata, storage)
        else:
            upload, size = Upload(key, found[1], 0), found[2]
        have = {part.number for part in self._journal.read(lambda w: w.parts(content.lsn))}
        async with trio.open_nursery() as nursery:
            for n, offset in enumerate(range(0, content.size, size), start=1):
                length = min(size, content.size - offset)
                await self._limit.acquire_on_behalf_of((content.lsn, n))
                nursery.start_soon(self._part, content, upload, n, offset, length, n in have)

    async def _begin(
        self, content: Content, key: bytes, metadata: Metadata, storage: Storage
    ) -> tuple[Upload, int]:
        """An upload, and how large its parts are. Whatever happens in between, one that the lake
        has begun is known here, or looked for (`tierfs.writeback.orphans`)."""
        asked_ns, retries = time.time_ns(), self._lake.counters.retries
        await self._journal.change(lambda work: work.put_intent(asked_ns, content.lsn, key))
        # Who changes attributes from here on finds the intention, and tells the lake of them.
        upload = await self._lake.begin_upload(key, metadata=metadata(), storage=storage)
        size = self.part_bytes(content.size)
        # A request that was sent again may have begun two.
        alone = self._lake.counters.retries == retries

        def note(work: Work) -> None:
            work.put_upload(content.lsn, key, upload.upload_id, size)
            if alone:
                work.drop_intent(asked_ns, content.lsn)

        await self._journal.change(note)
        return upload, size

    async def _part(
        self, content: Content, upload: Upload, number: int, offset: int, length: int, have: bool
    ) -> None:
        try:
            crc = await self._seal(content, offset, length)
            if have:
                return
            sent = FileRange(content.fd, offset, length, self._pace)
            with self.sending(length):
                part = await self._lake.put_part(upload, number, sent, crc)
            self.bytes_sent += length
            staged = Staged(number, length, crc, part.etag)

            def note(work: Work) -> None:
                # It may have been dropped meanwhile, and another one begun.
                known = work.upload(content.lsn)
                if known is not None and known[1] == upload.upload_id:
                    work.put_part(content.lsn, staged)

            await self._journal.change(note)
        finally:
            self._limit.release_on_behalf_of((content.lsn, number))

    async def complete(self, content: Content, key: bytes, condition: Condition) -> Written:
        """Make it visible. Raises NotFound if the lake has lost the upload, and IntegrityError if
        it has not the parts that it acknowledged."""
        found = self._journal.read(lambda work: work.upload(content.lsn))
        if found is None:
            raise NotFound("complete an upload", key)
        staged = self._journal.read(lambda work: work.parts(content.lsn))
        parts = [Part(part.number, part.size, part.etag, part.crc64nvme) for part in staged]
        if sum(part.size for part in parts) != content.size:
            raise IntegrityError("complete an upload", key, "parts of it are missing")
        upload, crc = Upload(key, found[1], 0), content.crc64nvme
        try:
            return await self._lake.complete_upload(
                upload, parts, crc, content.size, condition=condition
            )
        except InvalidRequest as error:
            # Asked again, it is refused again: only other parts help.
            raise IntegrityError("complete an upload", key, str(error)) from error

    async def start_over(self, lsn: int) -> None:
        """Forget the upload of *lsn*, here and in the lake."""
        found = self._journal.read(lambda work: work.upload(lsn))
        if found is not None:
            await self._abort(lsn, found[0], found[1])

    async def abort_abandoned(self) -> bool:
        """Forget uploads of what is no longer to be published; trouble leaves them for later, and
        then the answer is False."""
        all_ended = True
        for lsn, key, upload_id in self._journal.read(lambda work: work.abandoned()):
            try:
                await self._abort(lsn, key, upload_id)
            except TierfsError as error:
                _log.info("an upload of %s is not aborted yet: %s", show(key), error)
                all_ended = False
        return all_ended

    async def _abort(self, lsn: int, key: bytes, upload_id: bytes) -> None:
        await self._lake.abort_upload(Upload(key, upload_id, 0))
        await self._journal.change(lambda work: work.drop_parts(lsn))

    async def crc64nvme(self, content: Content) -> int:
        """That of all of it; what was not read yet is read."""
        for offset in range(0, content.size, PART_BYTES):
            length = min(PART_BYTES, content.size - offset)
            numbers = range(offset // BLOCK_SIZE, block_count(offset + length))
            if not all(number in content.blocks for number in numbers):
                await self._seal(content, offset, length)
        return content.crc64nvme

    async def _seal(self, content: Content, offset: int, length: int) -> int:
        """Read and seal the blocks of a part; the crc64nvme of all of them."""

        def work() -> dict[int, BlockRecord]:
            found = {}
            for n in range(offset // BLOCK_SIZE, block_count(offset + length)):
                lo, hi = block_extent(n, content.size)
                data = os.pread(content.fd, hi - lo, lo)
                if len(data) != hi - lo:
                    raise IntegrityError("read what was written", f"inode {content.ino}", "short")
                found[n] = seal(data)
            return found

        content.sealing += 1
        try:
            blocks = await trio.to_thread.run_sync(work)
        except OSError as error:
            raise CacheError(
                "read what was written", f"inode {content.ino}", error.strerror or str(error)
            ) from error
        finally:
            content.sealing -= 1
            if not content.sealing:
                content.quiet.set()
        content.blocks.update(blocks)
        return combined_crc64nvme(blocks[n] for n in sorted(blocks))
