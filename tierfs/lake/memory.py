"""A lake in memory: the fake for tests of what is above, held to the conformance suite like the
others."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import zlib

import trio

from tierfs.errors import (
    InvalidRequest,
    LakeArchived,
    LakeMissing,
    LakeProtocolError,
    NotFound,
    PreconditionFailed,
)
from tierfs.lake.protocol import (
    Checksum,
    ChecksumKind,
    LakeCounters,
    LakeIdentity,
    ListPage,
    ObjectInfo,
    Version,
    check_listing,
)


class MemoryLake:
    """Objects in a dictionary. ``put`` and ``delete`` change it behind whoever mounted it.

    *checksums*: objects have a full-object CRC-32.
    """

    def __init__(self, name: str = "memory", *, checksums: bool = False) -> None:
        self._objects: dict[bytes, tuple[ObjectInfo, bytes]] = {}
        self._keys: list[bytes] = []
        self._serial = itertools.count(1)
        self._checksums = checksums
        self.counters = LakeCounters()
        self.ordered = True
        self.identity = LakeIdentity("memory", "", name, "")

    def put(
        self,
        key: bytes,
        body: bytes,
        *,
        mtime_ns: int = 1_700_000_000_000_000_000,
        archived: bool = False,
    ) -> ObjectInfo:
        """Store *body* as a new version of *key*."""
        if not key:
            raise InvalidRequest("a key cannot be empty")
        # As with S3, the same bytes have the same ETag.
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'.encode()
        checksum = Checksum(ChecksumKind.CRC32, zlib.crc32(body)) if self._checksums else None
        info = ObjectInfo(
            key, len(body), mtime_ns, Version(etag), archived, self._checksums, checksum
        )
        if key not in self._objects:
            bisect.insort(self._keys, key)
        self._objects[key] = (info, body)
        return info

    def delete(self, key: bytes) -> None:
        """Remove *key*, if it is there."""
        if self._objects.pop(key, None) is not None:
            self._keys.remove(key)

    async def head(self, key: bytes, *, checksum: bool = False) -> ObjectInfo:
        """See `Lake.head`."""
        await trio.lowlevel.checkpoint()
        self.counters.head_requests += 1
        found = self._objects.get(key)
        if found is None:
            raise NotFound("no such object", key)
        return found[0]

    async def list_page(
        self,
        prefix: bytes,
        *,
        token: bytes | None = None,
        max_keys: int = 1000,
        recursive: bool = False,
        start_after: bytes = b"",
    ) -> ListPage:
        """See `Lake.list_page`. Entries come in key order; a token is where to go on."""
        check_listing(prefix, token, start_after)
        await trio.lowlevel.checkpoint()
        self.counters.list_requests += 1
        page = ListPage()
        if start_after:
            at = bisect.bisect_right(self._keys, start_after)
        else:
            at = bisect.bisect_left(self._keys, prefix if token is None else token)
        while at < len(self._keys) and self._keys[at].startswith(prefix):
            key = self._keys[at]
            if len(page.objects) + len(page.prefixes) >= max(1, max_keys):
                return ListPage(page.objects, page.prefixes, key)
            name, slash, _ = key[len(prefix) :].partition(b"/")
            if slash and not recursive:
                folded = prefix + name + slash
                page.prefixes.append(folded)
                # The byte after "/" is "0": the first key that is not below the prefix.
                at = bisect.bisect_left(self._keys, folded[:-1] + b"0", at)
            else:
                page.objects.append(self._objects[key][0])
                at += 1
        return page

    async def get(self, key: bytes, version: Version, offset: int, length: int) -> bytes:
        """See `Lake.get`."""
        if length <= 0 or offset < 0:
            raise InvalidRequest("a range must hold bytes", key)
        _, body = await self._read(key, version)
        if offset + length > len(body):
            raise LakeProtocolError("a range lies beyond the object's end", key)
        self.counters.bytes_read += length
        return body[offset : offset + length]

    async def get_whole(
        self, key: bytes, version: Version, size: int, *, checksum: bool = True
    ) -> tuple[bytes, Checksum | None]:
        """See `Lake.get_whole`."""
        info, body = await self._read(key, version)
        if len(body) != size:
            raise LakeProtocolError("an answer has another length than asked for", key)
        self.counters.bytes_read += size
        return body, info.checksum if checksum else None

    async def _read(self, key: bytes, version: Version) -> tuple[ObjectInfo, bytes]:
        await trio.lowlevel.checkpoint()
        self.counters.get_requests += 1
        found = self._objects.get(key)
        if found is None or found[0].version != version:
            raise PreconditionFailed("the object has changed", key)
        if found[0].archived:
            raise LakeArchived("the object is archived", key, "restore it first")
        return found

    async def source(self) -> None:
        """See `Lake.source`: none, the objects are in this process."""

    async def source_changed(self) -> None:
        """See `Lake.source_changed`: never."""
        await trio.sleep_forever()

    async def check(self, *, allow_empty: bool = False) -> None:
        """See `Lake.check`."""
        await trio.lowlevel.checkpoint()
        if not self._objects and not allow_empty:
            raise LakeMissing("there is nothing in this lake", str(self.identity))

    async def aclose(self) -> None:
        """See `Lake.aclose`."""
        await trio.lowlevel.checkpoint()
