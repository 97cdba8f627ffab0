"""Requests to a bucket: attempts, retries, another region, new credentials.

What reading (`tierfs.lake.s3`) and writing (`tierfs.lake.s3_writing`) are made of.

Invariants:

S1. ``_client`` is replaced whole (another region, renewed credentials) and never changed: a thread
    that works with the old one finishes with the old one.
S2. A cancelled call abandons its thread. The thread reads its answer to the end or closes the
    connection; it never gives a half-read connection back (promise L4). What it sends it stops
    sending (B2 in `tierfs.lake.content`).
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Self, TypeVar

import trio

from tierfs.errors import InvalidRequest, LakeProtocolError
from tierfs.lake.content import Outgoing
from tierfs.lake.limiter import AdaptiveLimiter
from tierfs.lake.protocol import LakeCounters, LakeIdentity
from tierfs.lake.retry import Retrier
from tierfs.lake.s3_answers import OtherRegion, Renewable, error_code, to_error
from tierfs.lake.s3_clients import Clients, make_clients
from tierfs.lake.s3_credentials import Identity
from tierfs.lake.s3_options import S3Options, extra_headers
from tierfs.lake.s3_signed import Answer
from tierfs.lake.url import LakeUrl

T = TypeVar("T")

#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
_LONGEST_KEY = 1024
#: Directory buckets (S3 Express One Zone) do not list in order and know no ``start-after``:
#: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
_DIRECTORY_BUCKET = "--x-s3"
_READS = frozenset({"GET", "HEAD"})


class S3Requests:
    """A bucket, or the keys below a prefix of it, that can be asked. Made by `open`."""

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
    ) -> Self:
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

    async def _ask_in_thread(
        self, op: str, subject: bytes, once: Callable[[Clients], T], *, extra_s: float = 0.0
    ) -> T:
        return await self._ask(
            op, subject, lambda client: self._in_thread(once, client), extra_s=extra_s
        )

    async def _ask(
        self,
        op: str,
        subject: bytes,
        once: Callable[[Clients], Awaitable[T]],
        *,
        extra_s: float = 0.0,
    ) -> T:
        """Run *once* with retries, one change of region and one renewal of credentials. *extra_s*
        is for what takes its time beyond the deadline."""
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

        return await self._retrier.run(op, subject, attempt, extra_s=extra_s)

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
        body: Outgoing | None = None,
        patience_s: float | None = None,
    ) -> Answer:
        """One signed request in this thread; an answer from 300 up is raised as what it means."""
        all_headers = {**self._extra, **(headers or {})}
        secret = self._who.secret()
        answer = client.http.send(
            method,
            target,
            query or [],
            all_headers,
            secret,
            want=want,
            sink=sink,
            body=body,
            patience_s=patience_s,
        )
        if method == "HEAD" and answer.status in (400, 401, 403):
            # A HEAD's error has no body. The same question as a GET of one byte tells the code.
            detailed = client.http.send(
                "GET", target, [], {**all_headers, "Range": "bytes=0-0"}, secret
            )
            if detailed.status >= 300 and error_code(detailed) != "InvalidObjectState":
                answer = detailed
        return self._checked(client, answer, op, key, all_headers, writes=method not in _READS)

    def _checked(
        self,
        client: Clients,
        answer: Answer,
        op: str,
        key: bytes,
        headers: Mapping[str, str],
        *,
        writes: bool = False,
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
            writes=writes,
        )

    async def aclose(self) -> None:
        """See `Lake.aclose`. Does not wait for abandoned threads; they close what they hold."""
        client, self._client = self._client, None
        for old in [*self._retired, *([client] if client is not None else [])]:
            if old.direct is not None:
                old.direct.close()
            await trio.to_thread.run_sync(old.http.close)
        self._retired.clear()


def possible(key: bytes) -> bool:
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
