"""The writing half of S3, behind `tierfs.lake.writing`.

Every request goes through `tierfs.lake.s3_signed`, in worker threads, with the retries, regions and
credentials of `tierfs.lake.s3_requests`.

A body that the store refuses for its checksum is sent once more: it may have been damaged on the
way. The second refusal is IntegrityError (promise L7): the content has changed since its checksum
was made, or something between here and there damages it every time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from tierfs.errors import (
    IntegrityError,
    InvalidRequest,
    LakeProtocolError,
    NotFound,
)
from tierfs.lake.content import Outgoing
from tierfs.lake.s3_answers import Conflict, Gone, Mismatched
from tierfs.lake.s3_clients import Clients
from tierfs.lake.s3_requests import S3Requests, possible
from tierfs.lake.s3_signed import Answer, bucket_target, key_target
from tierfs.lake.s3_written import (
    CHECKSUM_HEADER,
    Query,
    begun,
    completed,
    completion,
    conditional,
    described,
    embedded_error,
    named,
    part_of,
    parts_page,
    put_of,
    spelled,
    stored,
    uploads_page,
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
    check_delete,
    check_number,
    check_parts,
)

T = TypeVar("T")

#: Completing an upload and copying an object may take "several minutes" (API reference,
#: CompleteMultipartUpload), in which S3 shows by spaces that it is alive. Other servers may not.
WORK_S = 300.0
_ALIVE_S = 60.0
#: How often a body is sent again that the store refused for its checksum.
_MOST_MISMATCHES = 1


class S3Writing(S3Requests):
    """What `tierfs.lake.s3.S3Lake` has of `WritableLake`, but for `tierfs.lake.s3_copying`."""

    limits = S3_LIMITS

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
        op, full = "store an object", self._full(key)
        headers = {
            **described(metadata, content_type),
            **stored(storage),
            **conditional(condition),
            CHECKSUM_HEADER: spelled(crc64nvme),
        }
        with Outgoing(content) as body:

            def once(client: Clients) -> Written:
                answer = self._send_to(client, "PUT", op, full, headers=headers, body=body)
                return put_of(answer, crc64nvme, full)

            written = await self._write(op, full, once, extra_s=body.least_s)
            self.counters.bytes_written += body.length
            return written

    async def begin_upload(
        self,
        key: bytes,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        content_type: str = "",
        storage: Storage = AS_USUAL,
    ) -> Upload:
        """See `WritableLake.begin_upload`. A retry may leave another upload behind, as any crash
        does."""
        return await self._begin(key, {**described(metadata, content_type), **stored(storage)})

    async def _begin(self, key: bytes, description: Mapping[str, str]) -> Upload:
        """`begin_upload`, with the headers that describe the object."""
        op, full = "begin an upload", self._full(key)
        query = [("uploads", "")]
        headers = {
            **description,
            "x-amz-checksum-algorithm": "CRC64NVME",
            "x-amz-checksum-type": "FULL_OBJECT",
        }

        def once(client: Clients) -> Upload:
            answer = self._send_to(client, "POST", op, full, query=query, headers=headers)
            return Upload(key, begun(answer, full), time.time_ns())

        return await self._write(op, full, once)

    async def put_part(
        self, upload: Upload, number: int, content: FileRange, crc64nvme: int
    ) -> Part:
        """See `WritableLake.put_part`."""
        op, full = "store a part", self._full(upload.key)
        check_number(number, self.limits)
        query = [("partNumber", str(number)), *named(upload)]
        headers = {CHECKSUM_HEADER: spelled(crc64nvme)}
        with Outgoing(content) as body:

            def once(client: Clients) -> Part:
                answer = self._send_to(
                    client, "PUT", op, full, query=query, headers=headers, body=body
                )
                return part_of(answer, number, body.length, crc64nvme, full)

            part = await self._write(op, full, once, extra_s=body.least_s)
            self.counters.bytes_written += body.length
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
        """See `WritableLake.complete_upload`.

        Where another write of the key got in between (409), the upload is of no use any more: it is
        to be begun anew (API reference, CompleteMultipartUpload, If-None-Match).
        """
        return await self._complete(upload, parts, crc64nvme, size, condition)

    async def _complete(
        self,
        upload: Upload,
        parts: Sequence[Part],
        crc64nvme: int | None,
        size: int,
        condition: Condition,
    ) -> Written:
        """`complete_upload`; without a checksum the store is told none."""
        op, full = "complete an upload", self._full(upload.key)
        check_parts(parts, size)
        query = named(upload)
        headers = {**conditional(condition), "x-amz-mp-object-size": str(size)}
        if crc64nvme is not None:
            headers |= {
                CHECKSUM_HEADER: spelled(crc64nvme),
                "x-amz-checksum-type": "FULL_OBJECT",
            }
        with Outgoing(completion(parts)) as body:

            def once(client: Clients) -> Written:
                try:
                    answer = self._work(client, "POST", op, full, query, headers, body)
                except Conflict as error:
                    raise NotFound(op, full, error.reason) from None
                return completed(answer, crc64nvme, full)

            return await self._write(op, full, once, extra_s=WORK_S)

    async def abort_upload(self, upload: Upload) -> None:
        """See `WritableLake.abort_upload`."""
        op, full = "drop an upload", self._full(upload.key)

        def once(client: Clients) -> None:
            self._send_to(client, "DELETE", op, full, query=named(upload))

        with contextlib.suppress(NotFound):
            await self._write(op, full, once)

    async def list_uploads(self, prefix: bytes) -> list[Upload]:
        """See `WritableLake.list_uploads`."""
        full = self._root + prefix
        if not possible(full):
            return []
        query = [
            ("uploads", ""),
            ("prefix", full.decode("utf-8")),
            ("encoding-type", "url"),
            ("max-uploads", "1000"),
        ]

        def page(client: Clients, marker: Query) -> tuple[list[Upload], Query]:
            target = bucket_target(client.http.endpoint)
            asked = [*query, *marker]
            answer = self._send(client, "GET", target, "list uploads", full, query=asked)
            return uploads_page(answer, self._root)

        return await self._pages("list uploads", full, page)

    async def list_parts(self, upload: Upload) -> list[Part]:
        """See `WritableLake.list_parts`."""
        full = self._full(upload.key)

        def page(client: Clients, marker: Query) -> tuple[list[Part], Query]:
            target = key_target(client.http.endpoint, full)
            asked = [("max-parts", "1000"), *named(upload), *marker]
            answer = self._send(client, "GET", target, "list parts", full, query=asked)
            return parts_page(answer, full)

        return await self._pages("list parts", full, page)

    async def delete(self, key: bytes, *, condition: Condition = ALWAYS) -> None:
        """See `WritableLake.delete`."""
        check_delete(key, condition)
        op, full = "delete an object", self._root + key
        if not key or not possible(full):
            return

        def once(client: Clients) -> None:
            # Where there is nothing, stores that are asked for a version say so.
            with contextlib.suppress(Gone, NotFound):
                self._send_to(client, "DELETE", op, full, headers=conditional(condition))

        await self._write(op, full, once)

    # Requests

    async def _write(
        self,
        op: str,
        full: bytes,
        once: Callable[[Clients], T],
        *,
        extra_s: float = 0.0,
    ) -> T:
        """Run *once* in threads, with retries; once more only where its body did not match."""
        mismatches = 0

        def counted(client: Clients) -> T:
            nonlocal mismatches
            try:
                return once(client)
            except Mismatched as error:
                mismatches += 1
                if mismatches > _MOST_MISMATCHES:
                    raise IntegrityError(op, full, error.reason) from None
                raise

        return await self._ask_in_thread(op, full, counted, extra_s=extra_s)

    def _send_to(
        self,
        client: Clients,
        method: str,
        op: str,
        full: bytes,
        *,
        query: Query | None = None,
        headers: dict[str, str] | None = None,
        body: Outgoing | None = None,
        patience_s: float | None = None,
    ) -> Answer:
        if method == "DELETE":
            self.counters.delete_requests += 1
        else:
            self.counters.put_requests += 1
        return self._send(
            client,
            method,
            key_target(client.http.endpoint, full),
            op,
            full,
            query=query,
            headers=headers,
            body=body,
            patience_s=patience_s,
        )

    def _work(
        self,
        client: Clients,
        method: str,
        op: str,
        full: bytes,
        query: Query,
        headers: dict[str, str],
        body: Outgoing | None,
    ) -> Answer:
        """A request that the store answers with 200 before it has done what was asked for."""
        answer = self._send_to(
            client,
            method,
            op,
            full,
            query=query,
            headers=headers,
            body=body,
            patience_s=_ALIVE_S,
        )
        failed = embedded_error(answer)
        if failed is not None:
            self._checked(client, failed, op, full, headers, writes=True)
        return answer

    async def _pages(
        self, op: str, full: bytes, page: Callable[[Clients, Query], tuple[list[T], Query]]
    ) -> list[T]:
        found: list[T] = []
        marker: Query = []
        while True:
            asked = marker

            def once(client: Clients, asked: Query = asked) -> tuple[list[T], Query]:
                self.counters.list_requests += 1
                return page(client, asked)

            entries, marker = await self._ask_in_thread(op, full, once)
            found += entries
            if not marker:
                return found
            if marker == asked:
                raise LakeProtocolError("a listing does not go on", full)

    def _full(self, key: bytes) -> bytes:
        full = self._root + key
        if not key or not possible(full):
            raise InvalidRequest("S3 cannot hold this key", key)
        return full
