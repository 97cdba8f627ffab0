"""FaultyLake does what it is told, and nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from tierfs.errors import (
    IntegrityError,
    LakeArchived,
    LakeDenied,
    LakeProtocolError,
    LakeUnavailable,
    NotFound,
    PreconditionFailed,
)
from tierfs.lake.content import crc64nvme_of
from tierfs.lake.faulty import READS, WRITES, Call, CallKind, Fault, FaultKind, FaultyLake
from tierfs.lake.memory import MemoryLake
from tierfs.lake.protocol import Version

BODY = bytes(range(100))


@pytest.fixture
def memory() -> MemoryLake:
    made = MemoryLake(checksums=True)
    made.store(b"f", BODY)
    made.store(b"g", BODY)
    return made


async def version_of(lake: MemoryLake, key: bytes) -> Version:
    return (await lake.head(key)).version


@pytest.mark.parametrize(
    ("kind", "raised"),
    [
        (FaultKind.UNAVAILABLE, LakeUnavailable),
        (FaultKind.DENIED, LakeDenied),
        (FaultKind.ARCHIVED, LakeArchived),
        (FaultKind.CHANGED, PreconditionFailed),
        (FaultKind.TRUNCATED, LakeProtocolError),
    ],
)
async def test_honest_faults(memory: MemoryLake, kind: FaultKind, raised: type[Exception]) -> None:
    lake = FaultyLake(memory, Fault(kind, budget=1))
    version = await version_of(memory, b"f")
    with pytest.raises(raised):
        await lake.get(b"f", version, 0, 10)
    assert await lake.get(b"f", version, 0, 10) == BODY[:10]
    assert list(lake.injected) == [(kind, Call(CallKind.GET, b"f", 0, 10))]


@pytest.mark.parametrize("kind", [FaultKind.FLIPPED, FaultKind.SHORT, FaultKind.OTHER_BYTES])
async def test_lies_are_lies(memory: MemoryLake, kind: FaultKind) -> None:
    lake = FaultyLake(memory, Fault(kind))
    version = await version_of(memory, b"f")
    assert await lake.get(b"f", version, 10, 20) != BODY[10:30]
    body, checksum = await lake.get_whole(b"f", version, 100)
    assert checksum is not None
    assert zlib.crc32(body) != checksum.value


async def test_a_wrong_checksum(memory: MemoryLake) -> None:
    lake = FaultyLake(memory, Fault(FaultKind.BAD_CHECKSUM, calls=READS | {CallKind.HEAD}))
    version = await version_of(memory, b"f")
    body, checksum = await lake.get_whole(b"f", version, 100)
    assert body == BODY
    assert checksum is not None
    assert checksum.value != zlib.crc32(BODY)
    assert (await lake.head(b"f", checksum=True)).checksum == checksum


async def test_another_versions_bytes(memory: MemoryLake) -> None:
    lake = FaultyLake(memory, Fault(FaultKind.OTHER_BYTES, other=b"old content"))
    version = await version_of(memory, b"f")
    assert await lake.get(b"f", version, 4, 7) == b"content"
    assert await lake.get(b"f", version, 90, 3) == b"\0\0\0"


async def test_which_calls_and_keys(memory: MemoryLake) -> None:
    fault = Fault(
        FaultKind.UNAVAILABLE,
        calls=frozenset({CallKind.LIST, CallKind.GET}),
        where=lambda key: key in (b"g", b""),
        skip=1,
    )
    lake = FaultyLake(memory, fault)
    version = await version_of(memory, b"f")
    await lake.get(b"f", version, 0, 1)
    await lake.head(b"g")
    await lake.get(b"g", version, 0, 1)
    for _ in range(2):
        with pytest.raises(LakeUnavailable):
            await lake.get(b"g", version, 0, 1)
        with pytest.raises(LakeUnavailable):
            await lake.list_page(b"")
    lake.heal()
    await lake.list_page(b"")
    assert len(lake.calls) == 8
    lake.add(Fault(FaultKind.DENIED))
    with pytest.raises(LakeDenied):
        await lake.get_whole(b"f", version, 100)


async def test_a_seed_repeats(memory: MemoryLake) -> None:
    version = await version_of(memory, b"f")
    runs = []
    for _ in range(2):
        lake = FaultyLake(memory, Fault(FaultKind.FLIPPED, probability=0.5), seed=3)
        runs.append([await lake.get(b"f", version, 0, 50) for _ in range(20)])
    assert runs[0] == runs[1]
    wrong = sum(body != BODY[:50] for body in runs[0])
    assert 0 < wrong < 20


@pytest.mark.mockclock
async def test_slow_and_stalled(memory: MemoryLake) -> None:
    version = await version_of(memory, b"f")
    lake = FaultyLake(
        memory, Fault(FaultKind.SLOW, delay_s=30, budget=1), Fault(FaultKind.STALL, budget=1)
    )
    started = trio.current_time()
    assert await lake.get(b"f", version, 0, 3) == BODY[:3]
    assert trio.current_time() - started >= 30
    with trio.move_on_after(1000) as scope:
        await lake.get(b"f", version, 0, 3)
    assert scope.cancelled_caught


async def test_a_lost_answer_is_of_a_call_that_took_effect(memory: MemoryLake) -> None:
    lake = FaultyLake(memory, Fault(FaultKind.LOST_ANSWER, calls=WRITES))
    crc = crc64nvme_of(BODY)
    with pytest.raises(LakeUnavailable):
        await lake.put(b"new", BODY, crc)
    with pytest.raises(LakeUnavailable):
        await lake.delete(b"f")
    version = await version_of(memory, b"new")
    with pytest.raises(LakeUnavailable):
        await lake.copy(b"new", version, b"copy")
    assert await lake.get(b"copy", version, 0, 100) == BODY
    with pytest.raises(NotFound):
        await lake.head(b"f")


async def test_writes_that_fail_have_no_effect(memory: MemoryLake) -> None:
    for kind, raised in (
        (FaultKind.UNAVAILABLE, LakeUnavailable),
        (FaultKind.DENIED, LakeDenied),
        (FaultKind.CHANGED, PreconditionFailed),
        (FaultKind.MISMATCH, IntegrityError),
    ):
        lake = FaultyLake(memory, Fault(kind, calls=WRITES))
        calls: list[Callable[[], Awaitable[object]]] = [
            partial(lake.put, b"new", BODY, crc64nvme_of(BODY)),
            partial(lake.begin_upload, b"new"),
            partial(lake.delete, b"f"),
        ]
        for call in calls:
            with pytest.raises(raised):
                await call()
        assert [call.kind for call in lake.calls] == [
            CallKind.PUT,
            CallKind.BEGIN,
            CallKind.DELETE,
        ]
        assert lake.calls[0].length == len(BODY)
        assert await lake.list_uploads(b"") == []
        assert [entry.key for entry in (await lake.list_page(b"")).objects] == [b"f", b"g"]
