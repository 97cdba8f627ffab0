"""S3 and compatible stores, behind the lake port.

Three ways to the same bucket (`tierfs.lake.s3_clients`): small whole objects come on the loop's own
thread (`tierfs.lake.s3_direct`); ranges, and large whole objects that carry no checksum, through
obstore (`tierfs.lake.s3_bytes`), which is three times cheaper than everything that needs an exactly
spelled key or sight of the headers (`tierfs.lake.s3_signed`). The last two run in worker threads.
What either answers is held to promise L1 before a byte is returned. How requests are made, and made
again, is in `tierfs.lake.s3_requests`; what writes, in `tierfs.lake.s3_writing`.

A version is the ETag alone. Listings do not tell version ids, and a version must be the same
whether a listing or a HEAD found it.
"""

from __future__ import annotations

import trio

from tierfs.errors import InvalidRequest, LakeDenied, LakeMissing, LakeUnavailable, NotFound
from tierfs.lake.protocol import (
    Body,
    Checksum,
    ListPage,
    ObjectInfo,
    Source,
    Version,
    check_listing,
)
from tierfs.lake.retry import Transient
from tierfs.lake.s3_answers import Undecided, check_body, checksum_of, object_of
from tierfs.lake.s3_bytes import spellable
from tierfs.lake.s3_clients import Clients
from tierfs.lake.s3_copying import S3Copying
from tierfs.lake.s3_credentials import NotAtHand, Secret
from tierfs.lake.s3_direct import DIRECT_BYTES, DirectHttp
from tierfs.lake.s3_listing import ListingReader
from tierfs.lake.s3_requests import possible
from tierfs.lake.s3_signed import Answer, bucket_target, key_target


class S3Lake(S3Copying):
    """A bucket, or the keys below a prefix of it. Made by `open`."""

    # The port

    async def head(self, key: bytes, *, checksum: bool = False) -> ObjectInfo:
        """See `Lake.head`. The checksum is always asked for: it costs nothing."""
        full = self._root + key
        if not key or not possible(full):
            raise NotFound("no such object", key)

        def once(client: Clients) -> ObjectInfo:
            self.counters.head_requests += 1
            target = key_target(client.http.endpoint, full)
            mode = {"x-amz-checksum-mode": "ENABLED"}
            answer = self._send(client, "HEAD", target, "look up an object", full, headers=mode)
            return object_of(answer, key, full)

        return await self._ask_in_thread("look up an object", full, once)

    async def list_page(
        self,
        prefix: bytes,
        *,
        token: bytes | None = None,
        max_keys: int = 1000,
        recursive: bool = False,
        start_after: bytes = b"",
    ) -> ListPage:
        """See `Lake.list_page`."""
        check_listing(prefix, token, start_after)
        full = self._root + prefix
        if full and not possible(full):
            return ListPage()
        if start_after and not possible(self._root + start_after):
            raise InvalidRequest("a listing starts after what could be a key", start_after)
        query = [
            ("list-type", "2"),
            ("encoding-type", "url"),
            ("max-keys", str(max(1, min(max_keys, 1000)))),
            ("prefix", full.decode("utf-8")),
        ]
        if not recursive:
            query.append(("delimiter", "/"))
        if token is not None:
            query.append(("continuation-token", token.decode("utf-8")))
        if start_after:
            query.append(("start-after", (self._root + start_after).decode("utf-8")))

        def once(client: Clients) -> ListPage:
            self.counters.list_requests += 1
            reader = ListingReader(self._root)
            target = bucket_target(client.http.endpoint)
            self._send(client, "GET", target, "list", full, query=query, sink=reader.feed)
            return reader.finish(token)

        return await self._ask_in_thread("list", full, once)

    async def get(self, key: bytes, version: Version, offset: int, length: int) -> Body:
        """See `Lake.get`."""
        if length <= 0 or offset < 0:
            raise InvalidRequest("a range must hold bytes", key)
        full = self._root + key
        cheap = not self._encrypted and spellable(full)

        def once(client: Clients) -> Body:
            self.counters.get_requests += 1
            if cheap:
                try:
                    return client.bytes.get(full, version.etag, offset, length)
                except Undecided:
                    self.counters.get_requests += 1
            return self._signed_get(client, full, version, offset, length, ranged=True)[0]

        body = await self._ask_in_thread("read", full, once)
        self.counters.bytes_read += len(body)
        return body

    async def get_whole(
        self, key: bytes, version: Version, size: int, *, checksum: bool = True
    ) -> tuple[Body, Checksum | None]:
        """See `Lake.get_whole`."""
        full = self._root + key
        cheap = not checksum and not self._encrypted and spellable(full)

        def cheaply(client: Clients) -> tuple[Body, Checksum | None]:
            if cheap:
                self.counters.get_requests += 1
                try:
                    return client.bytes.get_whole(full, version.etag, size), None
                except Undecided:
                    pass
            return signed(client)

        def signed(client: Clients) -> tuple[Body, Checksum | None]:
            self.counters.get_requests += 1
            return self._signed_get(client, full, version, 0, size, ranged=False)

        async def once(client: Clients) -> tuple[Body, Checksum | None]:
            if client.direct is None or size > DIRECT_BYTES:
                return await self._in_thread(cheaply, client)
            self.counters.get_requests += 1
            try:
                return await self._direct_get(client, client.direct, full, version, size)
            except Undecided:
                return await self._in_thread(signed, client)

        body, found = await self._ask("read", full, once)
        self.counters.bytes_read += len(body)
        return body, found if checksum else None

    async def source(self) -> Source | None:
        """See `Lake.source`: None where a proxy is in between."""
        self._replaced = trio.Event()

        async def once(client: Clients) -> Source | None:
            if client.direct is None:
                return None
            secret = await self._secret()
            endpoint = client.http.endpoint
            return Source(
                scheme=endpoint.scheme,
                host=endpoint.host,
                port=endpoint.port,
                path=key_target(endpoint, self._root),
                region=endpoint.region,
                access_key=secret.access_key if secret is not None else "",
                secret_key=secret.secret_key if secret is not None else "",
                token=(secret.token or "") if secret is not None else "",
                headers=tuple(self._extra.items()),
                ca_bundle=client.ca_bundle or "",
                connections=self._options.max_connections,
                stall_s=client.stall_s,
            )

        # Not as a request to the lake: it asks nobody there, and must not wait for those that do.
        client = self._client
        if client is None:
            raise InvalidRequest("the lake is closed", self._bucket)
        try:
            return await once(client)
        except Transient as error:
            raise LakeUnavailable("find credentials", self._bucket, error.reason) from None

    async def source_changed(self) -> None:
        """See `Lake.source_changed`: other credentials were looked up, or another region."""
        await self._replaced.wait()

    async def _secret(self) -> Secret | None:
        try:
            return self._who.secret_at_hand()
        except NotAtHand:
            return await self._in_thread(self._who.secret)

    async def _direct_get(
        self, client: Clients, direct: DirectHttp, full: bytes, version: Version, size: int
    ) -> tuple[Body, Checksum | None]:
        headers = {**self._extra, **_versioned(version)}

        def want(answer: Answer) -> int:
            check_body(answer, full, version.etag, 0, size, ranged=False)
            return size

        secret = await self._secret()
        target = key_target(client.http.endpoint, full)
        answer = await direct.get(target, headers, secret, want)
        self._checked(client, answer, "read", full, headers)
        return answer.body, checksum_of(answer, full)

    def _signed_get(
        self,
        client: Clients,
        full: bytes,
        version: Version,
        offset: int,
        length: int,
        *,
        ranged: bool,
    ) -> tuple[Body, Checksum | None]:
        headers = _versioned(version)
        if ranged:
            headers["Range"] = f"bytes={offset}-{offset + length - 1}"

        def want(answer: Answer) -> int:
            check_body(answer, full, version.etag, offset, length, ranged=ranged)
            return length

        target = key_target(client.http.endpoint, full)
        answer = self._send(client, "GET", target, "read", full, headers=headers, want=want)
        return answer.body, None if ranged else checksum_of(answer, full)

    async def check(self, *, allow_empty: bool = False) -> None:
        """See `Lake.check`: one LIST, and a GET of one byte of the first object it shows."""
        try:
            page = await self.list_page(b"", max_keys=2, recursive=True)
        except LakeUnavailable as error:
            remedy = "check the endpoint, DNS, proxies (HTTPS_PROXY) and the firewall"
            hint = f"{error.op}: {error.hint}; {remedy}"
            raise LakeUnavailable("the lake gives no answer", str(self.identity), hint) from None
        if not page.objects:
            if allow_empty or not self._root:
                return
            hint = "check the URL; to mount a prefix with nothing in it yet, allow an empty prefix"
            raise LakeMissing("there is nothing under this prefix", str(self.identity), hint)
        for found in page.objects:
            if found.size and not found.archived:
                try:
                    await self.get(found.key, found.version, 0, 1)
                except LakeDenied as error:
                    hint = f"it can be listed, not read; {error.hint}"
                    raise LakeDenied("read an object", self._root + found.key, hint) from None
                return


def _versioned(version: Version) -> dict[str, str]:
    """The headers of a GET of *version* that asks for the object's checksum."""
    return {"If-Match": version.etag.decode("utf-8"), "x-amz-checksum-mode": "ENABLED"}
