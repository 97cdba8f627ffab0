"""A network link in front of any lake, so that a local one answers like a remote one.

The model, for benchmarks, demonstrations and tests: the first byte comes after a lognormal time;
then every transfer gets the same share of the link, ``min(per connection, total / transfers)``.
What the inner lake took is part of it, not added to it. Both directions have the link's rates, and
neither takes from the other; what is written crosses first, and its answer's first byte comes after
that.

Fair sharing is kept as one number: the *service* that each transfer in progress has had since the
beginning. It grows at the share's rate, the same for all; a transfer of *n* bytes that begins at
service *s* ends at *s + n*. So only the transfer that ends next needs a timer, and a change costs
O(log n).

Invariants:

K1. ``_service`` is exact as of ``_as_of``; ``_settle`` brings it to now before the number of
    transfers changes.
K2. Only the first of ``_heap`` has a finite deadline: the moment when its service is reached if
    nothing changes.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import trio

from tierfs.errors import ConfigError
from tierfs.lake.protocol import (
    Body,
    Checksum,
    LakeCounters,
    LakeIdentity,
    ListPage,
    ObjectInfo,
    Version,
)
from tierfs.lake.writing import (
    ALWAYS,
    AS_USUAL,
    NO_METADATA,
    Condition,
    Content,
    FileRange,
    Part,
    Storage,
    Upload,
    WritableLake,
    WriteLimits,
    Written,
    length_of,
)

T = TypeVar("T")

#: The 99th percentile of the standard normal distribution.
_Z99 = 2.3263478740408408
#: What one entry takes in a listing's XML (323 measured for keys of 38 bytes).
_LISTED_ENTRY_BYTES = 300
_MB = 1e6


@dataclass(frozen=True, slots=True)
class LinkModel:
    """First byte: median and 99th percentile in seconds. Bandwidth in bytes per second."""

    median_s: float
    p99_s: float
    connection_bytes_s: float
    total_bytes_s: float


#: The standard link of the benchmarks.
STANDARD = LinkModel(0.020, 0.100, 90 * _MB, 400 * _MB)


def parse_link(text: str) -> LinkModel | None:
    """``none``, ``standard``, or ``FIRST_BYTE_MS,P99_MS,MBPS_PER_CONNECTION,MBPS_TOTAL`` (MB = 10^6
    bytes). Raises ConfigError.
    """
    if text == "none":
        return None
    if text == "standard":
        return STANDARD
    hint = "use none, standard or FIRST_BYTE_MS,P99_MS,MBPS_PER_CONNECTION,MBPS_TOTAL"
    try:
        median, p99, connection, total = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError("not a link model", text, hint) from None
    numbers = (median, p99, connection, total)
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        raise ConfigError("a link model's numbers must be positive", text, hint)
    if p99 < median:
        raise ConfigError("a 99th percentile below the median", text, hint)
    return LinkModel(median / 1e3, p99 / 1e3, connection * _MB, total * _MB)


class SharedLink:
    """Transfers that share one link fairly. For use from one trio loop."""

    def __init__(self, model: LinkModel) -> None:
        self._model = model
        self._service = 0.0
        self._as_of = 0.0
        self._tie = itertools.count()
        self._heap: list[tuple[float, int, trio.CancelScope]] = []

    async def transfer(self, length: int) -> None:
        """Return when *length* bytes have crossed the link. Always a checkpoint."""
        if length <= 0:
            await trio.lowlevel.checkpoint()
            return
        self._settle()
        scope = trio.CancelScope()
        entry = (self._service + length, next(self._tie), scope)
        heapq.heappush(self._heap, entry)
        self._arm()
        try:
            with scope:
                await trio.sleep_forever()
        finally:
            self._settle()
            self._heap.remove(entry)
            heapq.heapify(self._heap)
            self._arm()

    def _rate(self) -> float:
        model = self._model
        return min(model.connection_bytes_s, model.total_bytes_s / max(1, len(self._heap)))

    def _settle(self) -> None:
        now = trio.current_time()
        if self._heap:
            self._service += (now - self._as_of) * self._rate()
        else:
            self._service = 0.0  # Nobody remembers it; near zero it is most exact.
        self._as_of = now

    def _arm(self) -> None:
        for _, _, scope in self._heap[1:3]:
            scope.deadline = math.inf  # Only one of these can have been the first before.
        if self._heap:
            end, _, scope = self._heap[0]
            scope.deadline = self._as_of + max(0.0, end - self._service) / self._rate()


class ModelledLake:
    """*inner*, as far away as *model* says. Identity and counters are the inner's."""

    def __init__(
        self, inner: WritableLake, model: LinkModel, *, rng: random.Random | None = None
    ) -> None:
        self._inner = inner
        self._model = model
        self._rng = rng or random.Random()
        self._link = SharedLink(model)
        self._uplink = SharedLink(model)
        self._sigma = math.log(model.p99_s / model.median_s) / _Z99
        self.identity: LakeIdentity = inner.identity
        self.counters: LakeCounters = inner.counters
        self.ordered = inner.ordered
        self.limits: WriteLimits = inner.limits

    async def _first_byte(self, call: Awaitable[T]) -> T:
        """*call*'s value (or exception: errors travel too), not before the first byte's time."""
        wait_s = self._rng.lognormvariate(math.log(self._model.median_s), self._sigma)
        at = trio.current_time() + wait_s
        try:
            return await call
        finally:
            # A cancelled call does not wait here: its scope is cancelled still.
            await trio.sleep_until(at)

    async def head(self, key: bytes, *, checksum: bool = False) -> ObjectInfo:
        """See `Lake.head`."""
        return await self._first_byte(self._inner.head(key, checksum=checksum))

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
        call = self._inner.list_page(
            prefix,
            token=token,
            max_keys=max_keys,
            recursive=recursive,
            start_after=start_after,
        )
        page = await self._first_byte(call)
        entries = len(page.objects) + len(page.prefixes)
        await self._link.transfer(entries * _LISTED_ENTRY_BYTES)
        return page

    async def get(self, key: bytes, version: Version, offset: int, length: int) -> Body:
        """See `Lake.get`."""
        body = await self._first_byte(self._inner.get(key, version, offset, length))
        await self._link.transfer(len(body))
        return body

    async def get_whole(
        self, key: bytes, version: Version, size: int, *, checksum: bool = True
    ) -> tuple[Body, Checksum | None]:
        """See `Lake.get_whole`."""
        call = self._inner.get_whole(key, version, size, checksum=checksum)
        body, found = await self._first_byte(call)
        await self._link.transfer(len(body))
        return body, found

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
        await self._uplink.transfer(length_of(content))
        call = self._inner.put(
            key,
            content,
            crc64nvme,
            metadata=metadata,
            content_type=content_type,
            storage=storage,
            condition=condition,
        )
        return await self._first_byte(call)

    async def begin_upload(
        self,
        key: bytes,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        content_type: str = "",
        storage: Storage = AS_USUAL,
    ) -> Upload:
        """See `WritableLake.begin_upload`."""
        call = self._inner.begin_upload(
            key, metadata=metadata, content_type=content_type, storage=storage
        )
        return await self._first_byte(call)

    async def put_part(
        self, upload: Upload, number: int, content: FileRange, crc64nvme: int
    ) -> Part:
        """See `WritableLake.put_part`."""
        await self._uplink.transfer(content.length)
        return await self._first_byte(self._inner.put_part(upload, number, content, crc64nvme))

    async def complete_upload(
        self,
        upload: Upload,
        parts: Sequence[Part],
        crc64nvme: int,
        size: int,
        *,
        condition: Condition = ALWAYS,
    ) -> Written:
        """See `WritableLake.complete_upload`."""
        call = self._inner.complete_upload(upload, parts, crc64nvme, size, condition=condition)
        return await self._first_byte(call)

    async def abort_upload(self, upload: Upload) -> None:
        """See `WritableLake.abort_upload`."""
        await self._first_byte(self._inner.abort_upload(upload))

    async def list_uploads(self, prefix: bytes) -> list[Upload]:
        """See `WritableLake.list_uploads`."""
        return await self._first_byte(self._inner.list_uploads(prefix))

    async def list_parts(self, upload: Upload) -> list[Part]:
        """See `WritableLake.list_parts`."""
        return await self._first_byte(self._inner.list_parts(upload))

    async def delete(self, key: bytes, *, condition: Condition = ALWAYS) -> None:
        """See `WritableLake.delete`."""
        await self._first_byte(self._inner.delete(key, condition=condition))

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
        call = self._inner.copy(
            source, version, target, metadata=metadata, storage=storage, condition=condition
        )
        return await self._first_byte(call)

    async def source(self) -> None:
        """See `Lake.source`: reads are to cross the link."""

    async def source_changed(self) -> None:
        """See `Lake.source_changed`: never."""
        await trio.sleep_forever()

    async def check(self, *, allow_empty: bool = False) -> None:
        """See `Lake.check`."""
        await self._inner.check(allow_empty=allow_empty)

    async def aclose(self) -> None:
        """See `Lake.aclose`."""
        await self._inner.aclose()
