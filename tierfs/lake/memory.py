"""A lake in memory: the fake for tests of what is above, held to the conformance suite like the
others."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import trio

from tierfs.errors import (
    IntegrityError,
    InvalidRequest,
    LakeArchived,
    LakeMissing,
    LakeProtocolError,
    NotFound,
    PreconditionFailed,
)
from tierfs.lake.content import Outgoing, crc64nvme_of, joined_crc64nvme
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
from tierfs.lake.writing import (
    ALWAYS,
    AS_USUAL,
    NO_METADATA,
    S3_LIMITS,
    Condition,
    Content,
    FileRange,
    Part,
    Storage,
    Upload,
    Written,
    check_copy,
    check_delete,
    check_metadata,
    check_number,
    check_parts,
)


@dataclass(slots=True)
class _Uploading:
    upload: Upload
    metadata: dict[str, str]
    storage: Storage
    parts: dict[int, tuple[Part, bytes]] = field(default_factory=dict)


class MemoryLake:
    """Objects in a dictionary. ``store`` and ``remove`` change it behind whoever mounted it.

    *checksums*: objects that are stored like that have a full-object CRC-32. Those that are put
    have a CRC-64/NVME, as with S3.
    """

    limits = S3_LIMITS

    def __init__(self, name: str = "memory", *, checksums: bool = False) -> None:
        self._objects: dict[bytes, tuple[ObjectInfo, bytes]] = {}
        self._keys: list[bytes] = []
        self._serial = itertools.count(1)
        self._uploads: dict[bytes, _Uploading] = {}
        #: How objects that were put are kept.
        self.storage: dict[bytes, Storage] = {}
        self._checksums = checksums
        self.counters = LakeCounters()
        self.ordered = True
        self.identity = LakeIdentity("memory", "", name, "")

    def store(
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
        checksum = Checksum(ChecksumKind.CRC32, zlib.crc32(body)) if self._checksums else None
        return self._keep(
            ObjectInfo(
                key,
                len(body),
                mtime_ns,
                Version(_etag(body)),
                archived,
                self._checksums,
                checksum,
                {},
            ),
            body,
        )

    def _keep(self, info: ObjectInfo, body: bytes) -> ObjectInfo:
        if info.key not in self._objects:
            bisect.insort(self._keys, info.key)
        self._objects[info.key] = (info, body)
        return info

    def remove(self, key: bytes) -> None:
        """Remove *key*, if it is there."""
        self.storage.pop(key, None)
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
        objects: list[ObjectInfo] = []
        page = ListPage(objects)
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
                objects.append(replace(self._objects[key][0], metadata=None))
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

    # The writing half

    async def put(
        self,
        key: bytes,
        content: Content,
        crc64nvme: int,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        content_type: str = "",
        storage: Storage = AS_USUAL,
        condition: Condition = ALWAYS,
    ) -> Written:
        """See `WritableLake.put`."""
        check_metadata(metadata)
        await trio.lowlevel.checkpoint()
        self.counters.put_requests += 1
        body = self._received(key, content, crc64nvme)
        self._check(key, condition)
        return self._written(key, body, _etag(body), crc64nvme, metadata, storage)

    async def begin_upload(
        self,
        key: bytes,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        content_type: str = "",
        storage: Storage = AS_USUAL,
    ) -> Upload:
        """See `WritableLake.begin_upload`."""
        check_metadata(metadata)
        if not key:
            raise InvalidRequest("a key cannot be empty")
        await trio.lowlevel.checkpoint()
        self.counters.put_requests += 1
        upload = Upload(key, b"upload-%d" % next(self._serial), time.time_ns())
        self._uploads[upload.upload_id] = _Uploading(upload, dict(metadata), storage)
        return upload

    async def put_part(
        self, upload: Upload, number: int, content: FileRange, crc64nvme: int
    ) -> Part:
        """See `WritableLake.put_part`."""
        check_number(number, self.limits)
        await trio.lowlevel.checkpoint()
        self.counters.put_requests += 1
        body = self._received(upload.key, content, crc64nvme)
        part = Part(number, len(body), _etag(body), crc64nvme)
        self._uploading(upload).parts[number] = (part, body)
        return part

    async def complete_upload(
        self,
        upload: Upload,
        parts: Sequence[Part],
        crc64nvme: int,
        size: int,
        *,
        condition: Condition = ALWAYS,
    ) -> Written:
        """See `WritableLake.complete_upload`. Parts may be as small as a test likes."""
        check_parts(parts, size)
        await trio.lowlevel.checkpoint()
        self.counters.put_requests += 1
        uploading = self._uploading(upload)
        bodies = []
        for part in parts:
            found = uploading.parts.get(part.number)
            if found is None or found[0].etag != part.etag:
                raise InvalidRequest("no such part, or another one", upload.key)
            bodies.append(found[1])
        if joined_crc64nvme((p.crc64nvme, p.size) for p in parts) != crc64nvme:
            raise IntegrityError("the object has another checksum", upload.key)
        self._check(upload.key, condition)
        del self._uploads[upload.upload_id]
        body = b"".join(bodies)
        etag = _etag(b"".join(part.etag for part in parts), len(parts))
        return self._written(
            upload.key, body, etag, crc64nvme, uploading.metadata, uploading.storage
        )

    async def abort_upload(self, upload: Upload) -> None:
        """See `WritableLake.abort_upload`."""
        await trio.lowlevel.checkpoint()
        self.counters.delete_requests += 1
        self._uploads.pop(upload.upload_id, None)

    async def list_uploads(self, prefix: bytes) -> list[Upload]:
        """See `WritableLake.list_uploads`."""
        await trio.lowlevel.checkpoint()
        self.counters.list_requests += 1
        found = [entry.upload for entry in self._uploads.values()]
        return sorted(
            (upload for upload in found if upload.key.startswith(prefix)), key=lambda u: u.key
        )

    async def list_parts(self, upload: Upload) -> list[Part]:
        """See `WritableLake.list_parts`."""
        await trio.lowlevel.checkpoint()
        self.counters.list_requests += 1
        parts = self._uploading(upload).parts
        return [parts[number][0] for number in sorted(parts)]

    async def delete(self, key: bytes, *, condition: Condition = ALWAYS) -> None:
        """See `WritableLake.delete`."""
        check_delete(key, condition)
        await trio.lowlevel.checkpoint()
        self.counters.delete_requests += 1
        if key in self._objects:
            self._check(key, condition)
            self.remove(key)

    async def copy(
        self,
        source: bytes,
        version: Version,
        target: bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        storage: Storage = AS_USUAL,
        condition: Condition = ALWAYS,
    ) -> Written:
        """See `WritableLake.copy`."""
        check_copy(source, target, metadata)
        await trio.lowlevel.checkpoint()
        self.counters.put_requests += 1
        info, body = self._objects.get(source, (None, b""))
        if info is None or info.version != version:
            raise PreconditionFailed("the object has changed", source)
        self._check(target, condition)
        kept = (info.metadata or {}) if metadata is None else metadata
        if not storage.tags:
            storage = replace(storage, tags=self.storage.get(source, AS_USUAL).tags)
        return self._written(target, body, _etag(body), crc64nvme_of(body), kept, storage)

    def _received(self, key: bytes, content: Content, crc64nvme: int) -> bytes:
        with Outgoing(content) as outgoing:
            body = outgoing.whole()
        if crc64nvme_of(body) != crc64nvme:
            raise IntegrityError("the content has another checksum", key)
        self.counters.bytes_written += len(body)
        return body

    def _check(self, key: bytes, condition: Condition) -> None:
        found = self._objects.get(key)
        if condition.absent and found is not None:
            raise PreconditionFailed("there is an object", key)
        if condition.version is not None and (
            found is None or found[0].version != condition.version
        ):
            raise PreconditionFailed("the object has changed", key)

    def _uploading(self, upload: Upload) -> _Uploading:
        found = self._uploads.get(upload.upload_id)
        if found is None or found.upload.key != upload.key:
            raise NotFound("no such upload", upload.key)
        return found

    def _written(
        self,
        key: bytes,
        body: bytes,
        etag: bytes,
        crc: int,
        metadata: Mapping[str, str],
        storage: Storage,
    ) -> Written:
        if not key:
            raise InvalidRequest("a key cannot be empty")
        checksum = Checksum(ChecksumKind.CRC64NVME, crc)
        now_ns = time.time_ns()
        info = ObjectInfo(
            key, len(body), now_ns, Version(etag), False, True, checksum, dict(metadata)
        )
        self._keep(info, body)
        self.storage[key] = storage
        return Written(info.version, checksum, now_ns)

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


def _etag(body: bytes, parts: int = 0) -> bytes:
    """As with S3, the same bytes have the same ETag, if they were stored in the same parts."""
    digest = hashlib.md5(body, usedforsecurity=False).hexdigest()
    return f'"{digest}-{parts}"'.encode() if parts else f'"{digest}"'.encode()
