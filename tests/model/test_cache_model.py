"""The cache against reference bytes: any order of reads, evictions, faults, damage and restarts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.caching import MIB, Refs, Rig, WatchedLake, noise, rig
from tierfs.errors import CacheFull, LakeUnavailable
from tierfs.index.records import EXTENT_SIZE
from tierfs.lake.faulty import Fault, FaultKind, FaultyLake

#: Sizes around the edges of blocks, of what is fetched in one request, and of extents.
SIZES = (0, 1, 110_000, MIB, MIB + 1, 3 * MIB - 1, 9 * MIB + 5, 20 * MIB + 7)
OBJECTS = {16 + n: noise(size, n) for n, size in enumerate(SIZES)}
INOS = sorted(OBJECTS)
#: Those of several extents.
LARGE = INOS[-2:]

READ = st.tuples(
    st.just("read"), st.sampled_from(INOS), st.integers(0, 10 * MIB), st.integers(1, 3 * MIB)
)
STEPS = st.one_of(
    READ,
    READ,
    st.tuples(st.just("stream"), st.sampled_from(INOS), st.integers(0, 4 * MIB), st.just(0)),
    st.tuples(st.just("together"), st.sampled_from(INOS), st.integers(0, 4 * MIB), st.just(0)),
    st.tuples(st.just("fetch"), st.sampled_from(INOS), st.just(0), st.just(0)),
    st.tuples(st.just("evict"), st.sampled_from(INOS), st.just(0), st.just(0)),
    st.tuples(st.just("damage"), st.sampled_from(INOS), st.integers(0, 9 * MIB), st.integers(1, 9)),
    st.tuples(st.just("fail"), st.just(16), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("settle"), st.just(16), st.just(0), st.just(0)),
    st.tuples(st.just("restart"), st.just(16), st.just(0), st.just(0)),
)

#: Leaves incomplete files of several extents, and evicts some of these. (`one_of` has no weights.)
LARGE_STEPS = st.sampled_from(["part"] * 5 + ["extents"] * 3 + ["any"] * 3).flatmap(
    {
        "part": st.tuples(
            st.just("part"), st.sampled_from(LARGE), st.integers(0, 9), st.integers(6, 14)
        ),
        "extents": st.tuples(
            st.just("extents"), st.sampled_from(LARGE), st.integers(0, 2), st.integers(1, 2)
        ),
        "any": STEPS,
    }.__getitem__
)


class Machine:
    """Applies steps to a front and checks what comes back."""

    def __init__(self, directory: Path, limit: int | None) -> None:
        self.directory = directory
        self.limit = limit
        self.lake = WatchedLake()
        self.faulty = FaultyLake(self.lake)
        self.refs: Refs = {}
        self.damaged = False
        self.evicted_extents = 0

    async def run(self, steps: list[tuple[str, int, int, int]]) -> None:
        """All *steps*, across restarts."""
        rest = list(steps)
        while True:
            async with rig(
                self.directory,
                self.lake,
                around=lambda _: self.faulty,
                refs=self.refs,
                cache_size=self.limit,
                memory=16 * MIB,
            ) as r:
                for ino, data in OBJECTS.items():
                    if ino not in r.refs:
                        r.put(ino, data)
                self.refs = r.refs
                restart = False
                while rest and not restart:
                    what, *args = rest.pop(0)
                    restart = what == "restart"
                    if not restart:
                        await getattr(self, what)(r, *args)
                    self.check(r)
                self.evicted_extents += r.front.stats()["evicted_extents"]
                if not rest:
                    await self.end(r)
                    return

    def check(self, r: Rig) -> None:
        """What holds at every moment."""
        capacity = r.front._capacity
        assert capacity.used_bytes >= 0
        assert capacity.reserved_bytes >= 0
        if self.limit is not None:
            assert capacity.used_bytes + capacity.reserved_bytes <= self.limit

    async def end(self, r: Rig) -> None:
        """At rest: the account agrees with the index, every file is recorded, everything is
        right."""
        self.faulty.heal()
        for ino, data in OBJECTS.items():
            assert await r.read(ino) == data
        await r.settle()
        stats = r.front.stats()
        assert r.account_is_right()
        # Only what a step has damaged is ever found to be bad: no record speaks of a hole.
        assert self.damaged or not stats["bad_blocks"]
        assert stats["in_flight"] == stats["buffer_bytes"] == stats["reserved_bytes"] == 0
        recorded = {ino for ino, _ in r.front._index.scan_files(0, 100)}
        on_disk = {int(p.name, 16) for p in (self.directory / "objects").rglob("*") if p.is_file()}
        assert on_disk <= recorded

    async def read(self, r: Rig, ino: int, offset: int, size: int) -> None:
        try:
            assert await r.read(ino, offset, size) == OBJECTS[ino][offset : offset + size]
        except LakeUnavailable:
            assert self.faulty.injected

    async def stream(self, r: Rig, ino: int, offset: int, _: int) -> None:
        data = OBJECTS[ino]
        fh = await r.open(ino)
        try:
            for at in range(offset, min(len(data), offset + 4 * MIB), 128 << 10):
                assert await r.front.read(fh, at, 128 << 10) == data[at : at + (128 << 10)]
        except LakeUnavailable:
            assert self.faulty.injected
        finally:
            await r.front.release(fh)

    async def together(self, r: Rig, ino: int, offset: int, _: int) -> None:
        async with trio.open_nursery() as nursery:
            for n in range(3):
                nursery.start_soon(self.read, r, ino, offset + n * 700_000, MIB)
            nursery.start_soon(self.extents, r, ino, offset // EXTENT_SIZE, 1)
            nursery.start_soon(self.evict, r, ino, 0, 0)

    async def fetch(self, r: Rig, ino: int, *_: int) -> None:
        try:
            await r.fetch(ino)
        except LakeUnavailable:
            assert self.faulty.injected
        except CacheFull:
            assert self.limit is not None

    async def part(self, r: Rig, ino: int, first: int, count: int) -> None:
        try:
            await r.fetch(ino, (first * MIB, (first + count) * MIB))
        except LakeUnavailable:
            assert self.faulty.injected
        except CacheFull:
            assert self.limit is not None
        await r.settle()

    async def extents(self, r: Rig, ino: int, first: int, count: int) -> None:
        extents = [(n * EXTENT_SIZE, (n + 1) * EXTENT_SIZE) for n in range(first, first + count)]
        await r.front.evict(ino, extents)

    async def evict(self, r: Rig, ino: int, *_: int) -> None:
        await r.front.evict(ino)

    async def damage(self, r: Rig, ino: int, offset: int, length: int) -> None:
        path = r.cache_file(ino)
        if path.exists() and OBJECTS[ino]:
            self.damaged = True
            with path.open("r+b") as file:
                file.seek(offset % len(OBJECTS[ino]))
                file.write(bytes(length))

    async def fail(self, r: Rig, _: int, budget: int, __: int) -> None:
        self.faulty.add(Fault(FaultKind.UNAVAILABLE, budget=budget))

    async def settle(self, r: Rig, *_: Any) -> None:
        await r.settle()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(
    steps=st.lists(STEPS, max_size=25),
    limit=st.sampled_from([None, 4 * MIB, 12 * MIB]),
)
def test_whatever_happens_the_bytes_are_right(
    steps: list[tuple[str, int, int, int]], limit: int | None
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        trio.run(Machine(Path(directory), limit).run, steps)


def test_extents_leave_incomplete_files_and_the_bytes_stay_right() -> None:
    evicted_extents = 0

    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=True,
    )
    @given(
        steps=st.lists(LARGE_STEPS, min_size=5, max_size=25),
        limit=st.sampled_from([None, 12 * MIB, 20 * MIB]),
    )
    def run(steps: list[tuple[str, int, int, int]], limit: int | None) -> None:
        nonlocal evicted_extents
        with tempfile.TemporaryDirectory() as directory:
            machine = Machine(Path(directory), limit)
            trio.run(machine.run, steps)
            evicted_extents += machine.evicted_extents

    run()
    # Or the steps have not tried what this is about.
    assert evicted_extents >= 10
