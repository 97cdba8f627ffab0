"""A lake that misbehaves as told, around any other; ships for tests and drills.

Two families of faults. *Honest* ones are what a real lake raises after its own retries: what is
above must cope. *Lies* break promise L1 on purpose, returning wrong bytes as if they were right:
what is above must find them out by its checksums.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import trio

from tierfs.errors import (
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
    Lake,
    LakeCounters,
    LakeIdentity,
    ListPage,
    ObjectInfo,
    Version,
)

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
    SLOW = "answers after a delay"
    STALL = "never answers; only cancellation ends it"
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
}


class CallKind(enum.Enum):
    """The calls of the port."""

    HEAD = "head"
    LIST = "list"
    GET = "get"
    GET_WHOLE = "get_whole"


READS = frozenset({CallKind.GET, CallKind.GET_WHOLE})


@dataclass(frozen=True, slots=True)
class Call:
    """One call as it came in. *key* is the prefix of a listing."""

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

    def __init__(self, inner: Lake, *faults: Fault, seed: int = 0) -> None:
        self._inner = inner
        self._faults = list(faults)
        self._rng = random.Random(seed)
        self.identity: LakeIdentity = inner.identity
        self.counters: LakeCounters = inner.counters
        self.ordered = inner.ordered
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
            if fault.kind in _ON_BYTES and call.length == 0:
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
        call = Call(CallKind.LIST, prefix)
        await self._before(self._choose(call), call)
        return await self._inner.list_page(
            prefix,
            token=token,
            max_keys=max_keys,
            recursive=recursive,
            start_after=start_after,
        )

    async def get(self, key: bytes, version: Version, offset: int, length: int) -> Body:
        """See `Lake.get`."""
        call = Call(CallKind.GET, key, offset, length)
        fault = self._choose(call)
        await self._before(fault, call)
        return self._lie(fault, call, await self._inner.get(key, version, offset, length))

    async def get_whole(
        self, key: bytes, version: Version, size: int, *, checksum: bool = True
    ) -> tuple[Body, Checksum | None]:
        """See `Lake.get_whole`."""
        call = Call(CallKind.GET_WHOLE, key, 0, size)
        fault = self._choose(call)
        await self._before(fault, call)
        body, found = await self._inner.get_whole(key, version, size, checksum=checksum)
        if fault is not None and fault.kind is FaultKind.BAD_CHECKSUM:
            found = _wrong(found)
        return self._lie(fault, call, body), found

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
