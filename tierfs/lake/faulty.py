"""A lake that misbehaves as told, around any other; ships for tests and drills.

Two families of faults. *Honest* ones are what a real lake raises after its own retries: what is
above must cope. *Lies* break promise L1 on purpose, returning wrong bytes as if they were right:
what is above must find them out by its checksums.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import trio

from tierfs.errors import (
    IntegrityError,
    LakeArchived,
    LakeDenied,
    LakeProtocolError,
    LakeUnavailable,
    PreconditionFailed,
    TierfsError,
)
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

#: How many calls are remembered.
_LOG_LENGTH = 100_000


class FaultKind(enum.Enum):
    """What goes wrong."""

    # Honest: raised, or late.
    UNAVAILABLE = "retries ran out"
    DENIED = "credentials refused"
    ARCHIVED = "in an archive tier"
    CHANGED = "another version is there now"
    TRUNCATED = "the body kept ending early"
    MISMATCH = "what came has another checksum than was announced"
    SLOW = "answers after a delay"
    STALL = "never answers; only cancellation ends it"
    LOST_ANSWER = "takes effect, and then the retries run out"
    # Lies: returned.
    FLIPPED = "one bit of the bytes is wrong"
    SHORT = "the last byte is missing"
    OTHER_BYTES = "the bytes of something else"
    BAD_CHECKSUM = "the checksum is wrong, where there is one"


#: Kinds that only an answer with bytes can have.
_ON_BYTES = frozenset({FaultKind.FLIPPED, FaultKind.SHORT, FaultKind.OTHER_BYTES})
_RAISED: dict[FaultKind, Callable[[bytes], TierfsError]] = {
    FaultKind.UNAVAILABLE: lambda key: LakeUnavailable("read", key, "injected"),
    FaultKind.DENIED: lambda key: LakeDenied("read", key, "injected"),
    FaultKind.ARCHIVED: lambda key: LakeArchived("the object is archived", key, "injected"),
    FaultKind.CHANGED: lambda key: PreconditionFailed("the object has changed", key, "injected"),
    FaultKind.TRUNCATED: lambda key: LakeProtocolError("the body is short", key, "injected"),
    FaultKind.MISMATCH: lambda key: IntegrityError("another checksum", key, "injected"),
}


class CallKind(enum.Enum):
    """The calls of the port."""

    HEAD = "head"
    LIST = "list"
    GET = "get"
    GET_WHOLE = "get_whole"
    PUT = "put"
    BEGIN = "begin_upload"
    PART = "put_part"
    COMPLETE = "complete_upload"
    ABORT = "abort_upload"
    UPLOADS = "list_uploads"
    PARTS = "list_parts"
    DELETE = "delete"
    COPY = "copy"


READS = frozenset({CallKind.GET, CallKind.GET_WHOLE})
WRITES = frozenset(
    {
        CallKind.PUT,
        CallKind.BEGIN,
        CallKind.PART,
        CallKind.COMPLETE,
        CallKind.ABORT,
        CallKind.DELETE,
        CallKind.COPY,
    }
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call as it came in. *key* is the prefix of a listing, and the target of a copy; *offset*
    and *length* are those of the object's bytes, *length* alone that of what is written. For a part
    *offset* is its number."""

    kind: CallKind
    key: bytes
    offset: int = 0
    length: int = 0


@dataclass(slots=True)
class Fault:
    """What goes wrong, and when: on calls of *calls* whose key satisfies *where*, after *skip* of
    them, with *probability*, at most *budget* times (None: always)."""

    kind: FaultKind
    calls: frozenset[CallKind] = READS
    where: Callable[[bytes], bool] = lambda _key: True
    skip: int = 0
    probability: float = 1.0
    budget: int | None = None
    delay_s: float = 1.0
    #: OTHER_BYTES: the whole content of the something else; shorter than the range: zeros follow.
    other: bytes = b""


class FaultyLake:
    """*inner* with *faults*; the first that applies to a call happens."""

    def __init__(self, inner: WritableLake, *faults: Fault, seed: int = 0) -> None:
        self._inner = inner
        self._faults = list(faults)
        self._rng = random.Random(seed)
        self.identity: LakeIdentity = inner.identity
        self.counters: LakeCounters = inner.counters
        self.ordered = inner.ordered
        self.limits: WriteLimits = inner.limits
        #: Every call, faulty or not, oldest first; what was fetched twice can be seen here.
        self.calls: deque[Call] = deque(maxlen=_LOG_LENGTH)
        #: What went wrong, in order.
        self.injected: deque[tuple[FaultKind, Call]] = deque(maxlen=_LOG_LENGTH)

    def add(self, *faults: Fault) -> None:
        """Faults from now on, after those that are there."""
        self._faults.extend(faults)

    def heal(self) -> None:
        """No more faults."""
        self._faults.clear()

    def _choose(self, call: Call) -> Fault | None:
        self.calls.append(call)
        for fault in self._faults:
            if call.kind not in fault.calls or not fault.where(call.key):
                continue
            if fault.kind in _ON_BYTES and (call.kind not in READS or call.length == 0):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            if fault.budget == 0 or self._rng.random() >= fault.probability:
                continue
            if fault.budget is not None:
                fault.budget -= 1
            self.injected.append((fault.kind, call))
            return fault
        return None

    async def _before(self, fault: Fault | None, call: Call) -> None:
        if fault is None:
            return
        if fault.kind is FaultKind.STALL:
            await trio.sleep_forever()
        if fault.kind is FaultKind.SLOW:
            await trio.sleep(fault.delay_s)
        make = _RAISED.get(fault.kind)
        if make is not None:
            await trio.lowlevel.checkpoint()
            raise make(call.key)

    async def _around(self, call: Call, make: Callable[[], Awaitable[T]]) -> T:
        """A call whose answer is not falsified, with what goes wrong before and after it."""
        fault = self._choose(call)
        await self._before(fault, call)
        value = await make()
        self._after(fault, call)
        return value

    def _after(self, fault: Fault | None, call: Call) -> None:
        if fault is not None and fault.kind is FaultKind.LOST_ANSWER:
            raise LakeUnavailable(call.kind.value, call.key, "injected: the answer was lost")

    def _lie(self, fault: Fault | None, call: Call, body: Body) -> Body:
        if fault is None or fault.kind not in _ON_BYTES:
            return body
        if fault.kind is FaultKind.SHORT:
            return body[:-1]
        if fault.kind is FaultKind.OTHER_BYTES:
            piece = fault.other[call.offset : call.offset + call.length]
            return piece.ljust(call.length, b"\0")
        flipped = bytearray(body)
        flipped[self._rng.randrange(len(body))] ^= 1 << self._rng.randrange(8)
        return bytes(flipped)

    async def head(self, key: bytes, *, checksum: bool = False) -> ObjectInfo:
        """See `Lake.head`."""
        call = Call(CallKind.HEAD, key)
        fault = self._choose(call)
        await self._before(fault, call)
        found = await self._inner.head(key, checksum=checksum)
        self._after(fault, call)
        if fault is not None and fault.kind is FaultKind.BAD_CHECKSUM:
            return replace(found, checksum=_wrong(found.checksum))
        return found

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
        return await self._around(
            Call(CallKind.LIST, prefix),
            lambda: self._inner.list_page(
                prefix,
                token=token,
                max_keys=max_keys,
                recursive=recursive,
                start_after=start_after,
            ),
        )

    async def get(self, key: bytes, version: Version, offset: int, length: int) -> Body:
        """See `Lake.get`."""
        call = Call(CallKind.GET, key, offset, length)
        fault = self._choose(call)
        await self._before(fault, call)
        body = await self._inner.get(key, version, offset, length)
        self._after(fault, call)
        return self._lie(fault, call, body)

    async def get_whole(
        self, key: bytes, version: Version, size: int, *, checksum: bool = True
    ) -> tuple[Body, Checksum | None]:
        """See `Lake.get_whole`."""
        call = Call(CallKind.GET_WHOLE, key, 0, size)
        fault = self._choose(call)
        await self._before(fault, call)
        body, found = await self._inner.get_whole(key, version, size, checksum=checksum)
        self._after(fault, call)
        if fault is not None and fault.kind is FaultKind.BAD_CHECKSUM:
            found = _wrong(found)
        return self._lie(fault, call, body), found

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
        return await self._around(
            Call(CallKind.PUT, key, 0, length_of(content)),
            lambda: self._inner.put(
                key,
                content,
                crc64nvme,
                metadata=metadata,
                content_type=content_type,
                storage=storage,
                condition=condition,
            ),
        )

    async def begin_upload(
        self,
        key: bytes,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        content_type: str = "",
        storage: Storage = AS_USUAL,
    ) -> Upload:
        """See `WritableLake.begin_upload`."""
        return await self._around(
            Call(CallKind.BEGIN, key),
            lambda: self._inner.begin_upload(
                key, metadata=metadata, content_type=content_type, storage=storage
            ),
        )

    async def put_part(
        self, upload: Upload, number: int, content: FileRange, crc64nvme: int
    ) -> Part:
        """See `WritableLake.put_part`."""
        return await self._around(
            Call(CallKind.PART, upload.key, number, content.length),
            lambda: self._inner.put_part(upload, number, content, crc64nvme),
        )

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
        return await self._around(
            Call(CallKind.COMPLETE, upload.key, 0, size),
            lambda: self._inner.complete_upload(
                upload, parts, crc64nvme, size, condition=condition
            ),
        )

    async def abort_upload(self, upload: Upload) -> None:
        """See `WritableLake.abort_upload`."""
        await self._around(
            Call(CallKind.ABORT, upload.key), lambda: self._inner.abort_upload(upload)
        )

    async def list_uploads(self, prefix: bytes) -> list[Upload]:
        """See `WritableLake.list_uploads`."""
        return await self._around(
            Call(CallKind.UPLOADS, prefix), lambda: self._inner.list_uploads(prefix)
        )

    async def list_parts(self, upload: Upload) -> list[Part]:
        """See `WritableLake.list_parts`."""
        return await self._around(
            Call(CallKind.PARTS, upload.key), lambda: self._inner.list_parts(upload)
        )

    async def delete(self, key: bytes, *, condition: Condition = ALWAYS) -> None:
        """See `WritableLake.delete`."""
        await self._around(
            Call(CallKind.DELETE, key), lambda: self._inner.delete(key, condition=condition)
        )

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
        return await self._around(
            Call(CallKind.COPY, target),
            lambda: self._inner.copy(
                source, version, target, metadata=metadata, storage=storage, condition=condition
            ),
        )

    async def source(self) -> None:
        """See `Lake.source`: faults are to meet every read."""

    async def source_changed(self) -> None:
        """See `Lake.source_changed`: never."""
        await trio.sleep_forever()

    async def check(self, *, allow_empty: bool = False) -> None:
        """See `Lake.check`."""
        await self._inner.check(allow_empty=allow_empty)

    async def aclose(self) -> None:
        """See `Lake.aclose`."""
        await self._inner.aclose()


def _wrong(checksum: Checksum | None) -> Checksum | None:
    """Another checksum of the same kind; there is none to falsify where there was none."""
    return None if checksum is None else replace(checksum, value=checksum.value ^ 1)
