"""The modelled link, held to its own claim on a virtual clock."""

from __future__ import annotations

import random
import statistics

import pytest
import trio
import trio.testing

from tierfs.errors import ConfigError, NotFound
from tierfs.lake.content import crc64nvme_of
from tierfs.lake.link import STANDARD, LinkModel, ModelledLake, SharedLink, parse_link
from tierfs.lake.memory import MemoryLake


def test_spellings() -> None:
    assert parse_link("none") is None
    assert parse_link("standard") == STANDARD
    assert parse_link("20,100,90,400") == STANDARD
    for text in ("", "20", "20,100,90", "a,b,c,d", "20,10,90,400", "20,100,0,400", "1,2,3,inf"):
        with pytest.raises(ConfigError):
            parse_link(text)


def test_the_first_byte_is_as_late_as_claimed() -> None:
    memory = MemoryLake()
    info = memory.store(b"f", b"x")
    times = []

    async def ask() -> None:
        lake = ModelledLake(memory, STANDARD, rng=random.Random(1))
        for _ in range(3000):
            started = trio.current_time()
            await lake.get(b"f", info.version, 0, 1)
            times.append(trio.current_time() - started)

    trio.run(ask, clock=trio.testing.MockClock(autojump_threshold=0))
    cuts = statistics.quantiles(times, n=100)
    assert cuts[49] == pytest.approx(0.020, rel=0.05)
    assert cuts[98] == pytest.approx(0.100, rel=0.20)


@pytest.mark.mockclock
@pytest.mark.parametrize(("connections", "mb_per_s"), [(1, 90), (3, 270), (8, 400), (32, 400)])
async def test_bandwidth_is_as_claimed(connections: int, mb_per_s: int) -> None:
    link = SharedLink(STANDARD)
    length = 10_000_000

    async def one() -> None:
        for _ in range(4):
            await link.transfer(length)

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(one)
    took = trio.current_time() - started
    assert connections * 4 * length / took / 1e6 == pytest.approx(mb_per_s, rel=0.01)


@pytest.mark.mockclock
async def test_the_link_is_shared_fairly() -> None:
    """A short transfer that joins a long one gets half of the link, and the long one the rest."""
    link = SharedLink(LinkModel(0.001, 0.001, 100.0, 100.0))
    ends: dict[str, float] = {}
    started = trio.current_time()

    async def one(name: str, after: float, length: int) -> None:
        await trio.sleep(after)
        await link.transfer(length)
        ends[name] = trio.current_time() - started

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, "long", 0, 1000)
        nursery.start_soon(one, "short", 2, 100)
    # Alone until 2 s (200 bytes), then 50 bytes/s each until the short one has its 100 at 4 s.
    assert ends["short"] == pytest.approx(4.0, abs=0.01)
    assert ends["long"] == pytest.approx(11.0, abs=0.01)


@pytest.mark.mockclock
async def test_a_cancelled_transfer_gives_its_share_back() -> None:
    link = SharedLink(LinkModel(0.001, 0.001, 100.0, 100.0))
    ends: list[float] = []
    started = trio.current_time()

    async def patient() -> None:
        await link.transfer(300)
        ends.append(trio.current_time() - started)

    async def hasty() -> None:
        with trio.move_on_after(2):
            await link.transfer(200)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(patient)
        nursery.start_soon(hasty)
    assert ends == [pytest.approx(4.0, abs=0.01)]


@pytest.mark.mockclock
async def test_errors_travel_as_far_as_answers() -> None:
    lake = ModelledLake(MemoryLake(), LinkModel(1.0, 1.0, 1e6, 1e6))
    started = trio.current_time()
    with pytest.raises(NotFound):
        await lake.head(b"missing")
    assert trio.current_time() - started == pytest.approx(1.0, abs=0.01)


@pytest.mark.mockclock
async def test_counters_are_the_inner_lakes() -> None:
    memory = MemoryLake()
    info = memory.store(b"f", b"0123456789")
    lake = ModelledLake(memory, STANDARD)
    await lake.get(b"f", info.version, 0, 10)
    assert lake.counters is memory.counters
    assert (memory.counters.get_requests, memory.counters.bytes_read) == (1, 10)
    assert lake.identity == memory.identity


@pytest.mark.mockclock
async def test_what_is_written_crosses_the_link_too() -> None:
    """A megabyte at 1 MB/s takes a second beside the first byte's time; reads do not slow it."""
    memory = MemoryLake()
    info = memory.store(b"f", bytes(1_000_000))
    lake = ModelledLake(memory, LinkModel(0.01, 0.01, 1e6, 1e6))
    body = bytes(1_000_000)
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lake.put, b"new", body, crc64nvme_of(body))
        nursery.start_soon(lake.get, b"f", info.version, 0, 1_000_000)
    assert trio.current_time() - started == pytest.approx(1.01, rel=0.02)
    assert (await lake.head(b"new")).size == 1_000_000
    with trio.move_on_after(0.5):
        await lake.put(b"cancelled", body, crc64nvme_of(body))
    with pytest.raises(NotFound):
        await lake.head(b"cancelled")
