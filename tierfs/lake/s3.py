"""S3 and compatible stores, behind the lake port.

Three ways to the same bucket (`tierfs.lake.s3_clients`): small whole objects come on the loop's own
thread (`tierfs.lake.s3_direct`); ranges, and large whole objects that carry no checksum, through
obstore (`tierfs.lake.s3_bytes`), which is three times cheaper than everything that needs an exactly
spelled key or sight of the headers (`tierfs.lake.s3_signed`). The last two run in worker threads.
What either answers is held to promise L1 before a byte is returned.

A version is the ETag alone. Listings do not tell version ids, and a version must be the same
whether a listing or a HEAD found it.

Invariants:

S1. ``_client`` is replaced whole (another region, renewed credentials) and never changed: a thread
    that works with the old one finishes with the old one.
S2. A cancelled call abandons its thread. The thread reads its answer to the end or closes the
    connection; it never gives a half-read connection back (promise L4).
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import trio

from tierfs.errors import (
    InvalidRequest,
    LakeDenied,
    LakeMissing,
    LakeProtocolError,
    LakeUnavailable,
    NotFound,
)
from tierfs.lake.limiter import AdaptiveLimiter
from tierfs.lake.protocol import (
    Body,
    Checksum,
    LakeCounters,
    LakeIdentity,
    ListPage,
    ObjectInfo,
    Source,
    Version,
    check_listing,
)
from tierfs.lake.retry import Retrier, Transient
from tierfs.lake.s3_answers import (
    OtherRegion,
    Renewable,
    Undecided,
    check_body,
    checksum_of,
    error_code,
    object_of,
    to_error,
)
from tierfs.lake.s3_bytes import spellable
from tierfs.lake.s3_clients import Clients, make_clients
from tierfs.lake.s3_credentials import Identity, NotAtHand, Secret
from tierfs.lake.s3_direct import DIRECT_BYTES, DirectHttp
from tierfs.lake.s3_listing import ListingParser
from tierfs.lake.s3_options import S3Options, extra_headers
from tierfs.lake.s3_signed import Answer, bucket_target, key_target
from tierfs.lake.url import LakeUrl

T = TypeVar("T")

#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
_LONGEST_KEY = 1024
#: Directory buckets (S3 Express One Zone) do not list in order and know no ``start-after``:
#: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
_DIRECTORY_BUCKET = "--x-s3"


class S3Lake:
    """A bucket, or the keys below a prefix of it. Made by `open`."""

    def __init__(
        self,
        url: LakeUrl,
        options: S3Options,
        identity: Identity,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._bucket = url.bucket
        self._root = url.root + b"/" if url.root else b""
        self._options = options
        self._who = identity
        self._extra = extra_headers(options)
        self._encrypted = options.sse_c_key_file is not None
        self._client: Clients | None = None
        self._client_lock = trio.Lock()
        self._retired: list[Clients] = []
        #: Set when `_client` was replaced since `source` looked at it.
        self._replaced = trio.Event()
        # Abandoned threads keep their token until their answer ends, so there are more than slots.
        self._threads = trio.CapacityLimiter(4 * options.max_connections + 4)
        self.counters = LakeCounters()
        self.ordered = not url.bucket.endswith(_DIRECTORY_BUCKET)
        self.limiter = AdaptiveLimiter(options.max_connections)
        self._retrier = Retrier(
            self.limiter, self.counters, options.request_timeout, rng or random.Random()
        )
        self.identity = LakeIdentity("s3", "", url.bucket, _text(url.root))

    @classmethod
    async def open(
        cls, url: LakeUrl, options: S3Options, *, rng: random.Random | None = None
    ) -> S3Lake:
        """Find credentials and the endpoint. Asks identity services, not the bucket.

        Raises ConfigError, LakeDenied, LakeUnavailable.
        """
        lake = cls(url, options, Identity(options), rng=rng)
        await lake._retrier.run("open the lake", url.bucket, lake._connect)
        return lake

    async def _connect(self) -> None:
        client = await self._in_thread(self._make_client, None)
        self._client = client
        endpoint = client.http.endpoint
        origin = endpoint.origin if endpoint.custom else ""
        self.identity = LakeIdentity("s3", origin, self._bucket, self.identity.prefix)

    def _make_client(self, region: str | None) -> Clients:
        return make_clients(self._bucket, self._options, self._who, region)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await trio.to_thread.run_sync(
            function, *arguments, abandon_on_cancel=True, limiter=self._threads
        )

    # Attempts

    async def _ask_in_thread(self, op: str, subject: bytes, once: Callable[[Clients], T]) -> T:
        return await self._ask(op, subject, lambda client: self._in_thread(once, client))

    async def _ask(self, op: str, subject: bytes, once: Callable[[Clients], Awaitable[T]]) -> T:
        """Run *once* with retries, one change of region and one renewal of credentials."""
        moved = renewed = False

        async def attempt() -> T:
            nonlocal moved, renewed
            while True:
                client = self._client
                if client is None:
                    raise InvalidRequest("the lake is closed", subject)
                try:
                    return await once(client)
                except OtherRegion as other:
                    if moved:
                        raise LakeProtocolError(
                            "the bucket's region is not where it says it is", self._bucket
                        ) from None
                    moved = True
                    await self._replace(client, other.region)
                except Renewable as refusal:
                    if renewed or not await self._renew(client):
                        raise refusal.final from None
                    renewed = True

        return await self._retrier.run(op, subject, attempt)

    async def _renew(self, client: Clients) -> bool:
        if not await self._in_thread(self._who.renew, client.generation):
            return False
        await self._replace(client, client.http.endpoint.region)
        return True

    async def _replace(self, old: Clients, region: str) -> None:
        async with self._client_lock:
            if self._client is not old:
                return  # Another call that met the same answer was first.
            self._client = await self._in_thread(self._make_client, region)
            self._retired.append(old)
            self._replaced.set()
            if old.direct is not None:
                old.direct.close()

    def _send(
        self,
        client: Clients,
        method: str,
        target: str,
        op: str,
        key: bytes,
        *,
        query: list[tuple[str, str]] | None = None,
        headers: dict[str, str] | None = None,
        want: Callable[[Answer], int | None] | None = None,
        sink: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """One signed request in this thread; an answer from 300 up is raised as what it means."""
        all_headers = {**self._extra, **(headers or {})}
        secret = self._who.secret()
        answer = client.http.send(
            method, target, query or [], all_headers, secret, want=want, sink=sink
        )
        if method == "HEAD" and answer.status in (400, 401, 403):
            # A HEAD's error has no body. The same question as a GET of one byte tells the code.
            detailed = client.http.send(
                "GET", target, [], {**all_headers, "Range": "bytes=0-0"}, secret
            )
            if detailed.status >= 300 and error_code(detailed) != "InvalidObjectState":
                answer = detailed
        return self._checked(client, answer, op, key, all_headers)

    def _checked(
        self, client: Clients, answer: Answer, op: str, key: bytes, headers: Mapping[str, str]
    ) -> Answer:
        if answer.status < 300:
            return answer
        raise to_error(
            answer,
            op,
            key,
            bucket=self._bucket,
            region=client.http.endpoint.region,
            versioned="If-Match" in headers,
        )

    # The port

    async def head(self, key: bytes, *, checksum: bool = False) -> ObjectInfo:
        """See `Lake.head`. The checksum is always asked for: it costs nothing."""
        full = self._root + key
        if not key or not _possible(full):
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
        if full and not _possible(full):
            return ListPage()
        if start_after and not _possible(self._root + start_after):
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
            parser = ListingParser(self._root)
            target = bucket_target(client.http.endpoint)
            self._send(client, "GET", target, "list", full, query=query, sink=parser.feed)
            return parser.finish(token)

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

    async def aclose(self) -> None:
        """See `Lake.aclose`. Does not wait for abandoned threads; they close what they hold."""
        client, self._client = self._client, None
        for old in [*self._retired, *([client] if client is not None else [])]:
            if old.direct is not None:
                old.direct.close()
            await trio.to_thread.run_sync(old.http.close)
        self._retired.clear()


def _versioned(version: Version) -> dict[str, str]:
    """The headers of a GET of *version* that asks for the object's checksum."""
    return {"If-Match": version.etag.decode("utf-8"), "x-amz-checksum-mode": "ENABLED"}


def _possible(key: bytes) -> bool:
    """Whether S3 can hold *key* at all: UTF-8 of at most 1,024 bytes."""
    if len(key) > _LONGEST_KEY:
        return False
    try:
        key.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _text(root: bytes) -> str:
    return root.decode("utf-8", "surrogateescape")
