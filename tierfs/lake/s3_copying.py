"""Copies within S3, behind `WritableLake.copy`.

One request copies up to 5 GiB. What is larger is an upload whose parts are copied from the source,
each of them only from the version that is meant; it shows nothing before it is completed, and the
target's condition is looked at in that moment. So a copy of either kind takes effect whole or not
at all (promise L5), and a copy onto itself only where nobody else has written meanwhile.

A copy in parts that fails, or is cancelled, drops its upload. One whose process dies leaves it to a
lifecycle rule, as uploads that nobody knows of are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import trio

from tierfs.errors import (
    IntegrityError,
    LakeProtocolError,
    LakeUnavailable,
    NotFound,
    PreconditionFailed,
    TierfsError,
    first_of,
)
from tierfs.lake.content import joined_crc64nvme
from tierfs.lake.protocol import Checksum, ChecksumKind, Version
from tierfs.lake.s3_answers import checksum_of
from tierfs.lake.s3_clients import Clients
from tierfs.lake.s3_signed import key_target
from tierfs.lake.s3_writing import WORK_S, S3Writing
from tierfs.lake.s3_written import (
    conditional,
    copied,
    copied_part,
    described,
    named,
    stored,
)
from tierfs.lake.writing import (
    ALWAYS,
    AS_USUAL,
    Condition,
    Part,
    Storage,
    Upload,
    Written,
    check_copy,
)

#: What describes an object beside its metadata and is lost when a copy replaces that.
_DESCRIPTION = (
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
)
_CUSTOMER_KEY = "x-amz-server-side-encryption-customer-"
_SOURCE_CUSTOMER_KEY = "x-amz-copy-source-server-side-encryption-customer-"
#: Parts of a copy: so large, unless there would be too many, and so many at one time, because each
#: request is copied at a speed of its own.
COPY_PART_BYTES = 512 << 20
_PARTS_AT_ONCE = 8
#: How long it is tried to drop an upload that came to nothing.
_ABORT_S = 10.0


@dataclass(frozen=True, slots=True)
class _Source:
    key: bytes
    version: Version
    size: int
    checksum: Checksum | None
    description: Mapping[str, str]


class S3Copying(S3Writing):
    """`WritableLake.copy` of `tierfs.lake.s3.S3Lake`."""

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
        """See `WritableLake.copy`. Without a *storage* the copy is in the bucket's default class.
        New metadata replaces nothing else of what describes the object, which takes a HEAD first.
        (A copy in parts has only the tags that *storage* gives it.)"""
        check_copy(source, target, metadata)
        op, full = "copy an object", self._full(target)
        from_key = self._full(source)
        headers = {
            **conditional(condition),
            **stored(storage),
            **self._of_source(from_key, version),
            "x-amz-checksum-algorithm": "CRC64NVME",
        }
        if storage.tags:
            headers["x-amz-tagging-directive"] = "REPLACE"
        if metadata is not None:
            found = await self._look_at(from_key, version)
            headers |= {**found.description, **described(metadata, "")}
            headers["x-amz-metadata-directive"] = "REPLACE"
            if found.size > self.limits.single_put_bytes:
                if source == target and condition == ALWAYS:
                    condition = Condition(version=version)
                described_as = {**found.description, **described(metadata, ""), **stored(storage)}
                return await self._copy_in_parts(found, target, described_as, condition)

        def once(client: Clients) -> Written:
            try:
                answer = self._work(client, "PUT", op, full, [], headers, None)
            except NotFound:
                raise _gone(from_key) from None
            return copied(answer, full)

        return await self._write(op, full, once, extra_s=WORK_S)

    def _of_source(self, full: bytes, version: Version) -> dict[str, str]:
        return {
            "x-amz-copy-source": quote(f"{self._bucket}/", safe="/") + quote(full, safe="/~"),
            "x-amz-copy-source-if-match": version.etag.decode("utf-8"),
            **{
                _SOURCE_CUSTOMER_KEY + name[len(_CUSTOMER_KEY) :]: value
                for name, value in self._extra.items()
                if name.startswith(_CUSTOMER_KEY)
            },
        }

    async def _look_at(self, full: bytes, version: Version) -> _Source:
        op = "look up an object"
        headers = {
            "If-Match": version.etag.decode("utf-8"),
            "x-amz-checksum-mode": "ENABLED",
        }

        def once(client: Clients) -> _Source:
            self.counters.head_requests += 1
            target = key_target(client.http.endpoint, full)
            try:
                answer = self._send(client, "HEAD", target, op, full, headers=headers)
            except NotFound:
                raise _gone(full) from None
            found = {name: answer.headers.get(name) for name in _DESCRIPTION}
            try:
                size = int(answer.headers.get("content-length", "0"))
            except ValueError:
                raise LakeProtocolError("a length is malformed", full) from None
            description = {name: value for name, value in found.items() if value is not None}
            return _Source(full, version, size, checksum_of(answer, full), description)

        return await self._write(op, full, once)

    async def _copy_in_parts(
        self, source: _Source, target: bytes, description: Mapping[str, str], condition: Condition
    ) -> Written:
        upload = await self._begin(target, description)
        written = None
        try:
            parts = await self._copy_parts(source, upload)
            crc = _checked(parts, source, target)
            written = await self._complete(upload, parts, crc, source.size, condition)
            return written
        except NotFound:
            # Somebody has dropped the upload, or it was completed and the answer lost.
            raise LakeUnavailable("copy an object", target, "its upload is gone") from None
        finally:
            if written is None:
                with trio.CancelScope(shield=True), trio.move_on_after(_ABORT_S):
                    await self._drop(upload)

    async def _drop(self, upload: Upload) -> None:
        try:
            await self.abort_upload(upload)
        except TierfsError:
            return  # It is left to a lifecycle rule.

    async def _copy_parts(self, source: _Source, upload: Upload) -> list[Part]:
        size = min(COPY_PART_BYTES, self.limits.single_put_bytes)
        size = max(size, -(-source.size // self.limits.max_parts))
        limit = trio.CapacityLimiter(_PARTS_AT_ONCE)
        found: dict[int, Part] = {}

        async def one(number: int, offset: int) -> None:
            length = min(size, source.size - offset)
            async with limit:
                found[number] = await self._copy_part(source, upload, number, offset, length)

        try:
            async with trio.open_nursery() as nursery:
                for number, offset in enumerate(range(0, source.size, size), start=1):
                    nursery.start_soon(one, number, offset)
        except* TierfsError as group:
            raise first_of(group) from None
        return [found[number] for number in sorted(found)]

    async def _copy_part(
        self, source: _Source, upload: Upload, number: int, offset: int, length: int
    ) -> Part:
        op, full = "copy a part", self._full(upload.key)
        query = [("partNumber", str(number)), *named(upload)]
        headers = {
            **self._of_source(source.key, source.version),
            "x-amz-copy-source-range": f"bytes={offset}-{offset + length - 1}",
        }

        def once(client: Clients) -> Part:
            answer = self._work(client, "PUT", op, full, query, headers, None)
            return copied_part(answer, number, length, full)

        return await self._write(op, full, once, extra_s=WORK_S)


def _gone(full: bytes) -> PreconditionFailed:
    return PreconditionFailed("the object has changed", full, "it is gone")


def _checked(parts: Sequence[Part], source: _Source, target: bytes) -> int | None:
    """The checksum of all *parts*, where the store has told theirs. Raises IntegrityError if it is
    not the source's."""
    if not all(part.crc64nvme for part in parts):
        return None
    found = joined_crc64nvme((part.crc64nvme, part.size) for part in parts)
    known = source.checksum
    if known is not None and known.kind is ChecksumKind.CRC64NVME and known.value != found:
        raise IntegrityError("a copy has another checksum", target)
    return found
