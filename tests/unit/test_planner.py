"""Fetching ahead of jobs, over a namespace in memory and a front that keeps books."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
import trio

from tests.namespaces import World
from tierfs.cache.eviction import Victim
from tierfs.control import planner
from tierfs.control.data_set import DataSet
from tierfs.control.planner import Planner
from tierfs.errors import LakeUnavailable
from tierfs.front.port import FileState, FrontPort
from tierfs.index.records import CachedFile, Extent, ObjectRef
from tierfs.namespace import Namespace
from tierfs.readahead import course, jobs
from tierfs.readahead.course import START_READS
from tierfs.readahead.policy import AdaptivePolicy, Incoming

SIZE = 4096
FILES = 400
FIRST_FILES = 16


class Front:
    """What is cached, of *capacity* files, and what was fetched ahead."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.cached: dict[int, CachedFile] = {}
        self.filled: list[int] = []
        self.missed = 0
        self.policy = AdaptivePolicy(self, rng=random.Random(1))
        self.error: Exception | None = None
        #: Called when files were filled, before that is told.
        self.after_fill: Callable[[list[int]], Awaitable[None]] | None = None

    # As a source of samples.

    def totals(self) -> tuple[int, int]:
        return len(self.cached), len(self.cached) * SIZE

    def file(self, ino: int) -> CachedFile | None:
        return self.cached.get(ino)

    def first_extents(self, ino: int, bytes_: int, most: int) -> list[Extent]:
        raise AssertionError("no file is incomplete here")

    def sample_files(self, rng: random.Random, n: int) -> list[tuple[int, CachedFile]]:
        inos = rng.sample(sorted(self.cached), min(n, len(self.cached)))
        return [(ino, self.cached[ino]) for ino in inos]

    # As a front.

    def keep(self, ino: int, *, ahead: bool) -> bool:
        if len(self.cached) >= self.capacity:
            victims = self.policy.choose_victims(SIZE, 64, lambda _: False, Incoming(ino, ahead))
            for victim in victims or ():
                assert isinstance(victim, Victim)
                del self.cached[victim.ino]
            if not victims:
                return False
        self.cached[ino] = CachedFile(b"", SIZE, SIZE, True, True, bytes(8), SIZE, 0, 0)
        return True

    def read(self, ino: int) -> bool:
        """A job reads *ino*; whether it was in the cache."""
        hit = ino in self.cached
        self.missed += not hit
        if not hit:
            self.keep(ino, ahead=False)
        return hit

    def file_state(self, ino: int) -> FileState:
        cached = SIZE if ino in self.cached else 0
        return FileState(cached, bool(cached), None)

    def cached_bytes(self) -> int:
        return len(self.cached) * SIZE

    @property
    def limit_bytes(self) -> int:
        return self.capacity * SIZE

    def stats(self) -> dict[str, int]:
        return {"cached_files": len(self.cached), "limit_bytes": self.limit_bytes}

    async def fill(self, files: Sequence[tuple[int, ObjectRef, int]]) -> int:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        kept = [ino for ino, _, _ in files if self.keep(ino, ahead=True)]
        self.filled += kept
        if self.after_fill is not None:
            await self.after_fill(kept)
        return len(files) - len(kept)


class Scene:
    """A data set of `FILES` in directories of 100, and somebody who reads it."""

    def __init__(self, namespace: Namespace, front: Front, plans: Planner) -> None:
        self.namespace = namespace
        self.front = front
        self.plans = plans
        self.inos: list[int] = []

    async def read(self, inos: Sequence[int], job: int = 0) -> None:
        for ino in inos:
            self.plans.accessed(ino, job)
            self.front.read(ino)
            await settle()


async def settle() -> None:
    for _ in range(8):
        await trio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def scene(directory: Path, capacity: int = 10 * FILES) -> AsyncIterator[Scene]:
    world = World(directory)
    for n in range(FILES):
        world.lake.store(b"data/train/%02d/%04d" % (n // 100, n), bytes(SIZE))
        world.lake.store(b"data/other/%04d" % n, bytes(SIZE))
    async with world.mount() as namespace, trio.open_nursery() as nursery:
        front = Front(capacity)
        plans = Planner(namespace, cast("FrontPort", front), front.policy)
        nursery.start_soon(plans.run)
        made = Scene(namespace, front, plans)
        top = await namespace.resolve(b"data/train")
        made.inos = [entry.ino async for entry in namespace.walk(top.ino)]
        yield made
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def small_beginnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few of these small files are as much as what proves nothing may be."""
    monkeypatch.setattr(course, "FIRST_BYTES", FIRST_FILES * SIZE)
    monkeypatch.setattr(course, "FIRST_BYTES_IN_ORDER", FIRST_FILES // 2 * SIZE)
    monkeypatch.setattr(planner, "BATCH_FILES", 8)


def order(inos: Sequence[int], seed: int) -> list[int]:
    shuffled = list(inos)
    random.Random(seed).shuffle(shuffled)
    return shuffled


async def test_a_first_epoch_is_fetched_ahead_of_its_reader(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        await s.read(order(s.inos, 1))
        assert set(s.front.filled) <= set(s.inos)
        assert s.front.missed < FILES / 2
        assert s.front.policy.ahead.all.used > FILES / 2


async def test_a_look_around_fetches_little(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        await s.read(s.inos[: START_READS - 4])
        assert s.front.filled == []
        await s.read(s.inos[START_READS - 4 : START_READS + 20])
        assert s.front.policy.ahead.all.waiting <= FIRST_FILES + 2


async def test_a_look_around_after_a_job_has_ended_fetches_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a job has proved is not for who comes after it."""
    monkeypatch.setattr(jobs, "BUSY_READS", 64)
    alive = {1}
    async with scene(tmp_path) as s:
        monkeypatch.setattr(s.front.policy.jobs, "_alive", alive.__contains__)
        other = await s.namespace.resolve(b"data/other")
        outside = [entry.ino async for entry in s.namespace.walk(other.ino)]
        await s.read(order(s.inos, 1), job=1)
        alive.clear()
        filled = len(s.front.filled)
        await s.read(order(outside, 2)[: START_READS + 20], job=2)
        assert 0 < len(s.front.filled) - filled <= FIRST_FILES + 4


async def test_names_that_take_turns_each_prove_themselves(tmp_path: Path) -> None:
    """Ranks of which it is not known yet that they are one job."""
    async with scene(tmp_path) as s:
        for n, ino in enumerate(order(s.inos, 1)[: 4 * START_READS + 4]):
            await s.read([ino], job=1 + n % 4)
        assert len(s.front.filled) >= FIRST_FILES


async def test_epochs_in_a_cache_that_holds_all_fetch_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        await s.read(order(s.inos, 1))
        filled = len(s.front.filled)
        await s.read(order(s.inos, 2))
        await s.read(order(s.inos, 3))
        assert (len(s.front.filled), s.front.missed < FILES / 2) == (filled, True)


async def test_epochs_in_half_the_room_miss_less_than_without(tmp_path: Path) -> None:
    async with scene(tmp_path, FILES // 2) as s:
        for seed in range(4):
            await s.read(order(s.inos, seed))
        s.front.missed, filled = 0, len(s.front.filled)
        for seed in range(4, 8):
            await s.read(order(s.inos, seed))
        fetched = s.front.missed + len(s.front.filled) - filled
        # Half of it has to come in each epoch, and not much more does.
        assert fetched < 4 * FILES * 0.56
        # Of that as much as can be comes before it is asked for: 1 - c + c ln c is 0.153.
        assert s.front.missed < 4 * FILES * 0.24


async def test_a_rank_that_reads_an_eighth_is_not_fetched_ahead_of(tmp_path: Path) -> None:
    async with scene(tmp_path, FILES // 2) as s:
        for seed in range(20):
            await s.read(order(s.inos, seed)[: FILES // 8])
        filled = len(s.front.filled)
        for seed in range(20, 30):
            await s.read(order(s.inos, seed)[: FILES // 8])
        assert len(s.front.filled) == filled


async def test_trouble_with_the_lake_ends_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        s.front.error = LakeUnavailable("read", "data", "try later")
        await s.read(order(s.inos, 1))
        assert s.front.filled == []
        assert s.front.policy.ahead.all.waiting == 0
        s.front.error = None
        await s.read(order(s.inos, 2))


async def test_what_was_read_and_left_before_its_batch_is_over_is_no_reason_to_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[DataSet] = []
    monkeypatch.setattr(DataSet, "pause", lambda data_set: pauses.append(data_set))
    async with scene(tmp_path) as s:

        async def read_all(inos: list[int]) -> None:
            for ino in inos:
                s.plans.accessed(ino, 0)
                del s.front.cached[ino]

        s.front.after_fill = read_all
        await s.read(order(s.inos, 1)[:100])
        assert len(s.front.filled) > FIRST_FILES
        assert not pauses
        s.front.error = LakeUnavailable("read", "data", "try later")
        await s.read(order(s.inos, 1)[100:])
        assert pauses


async def test_only_the_data_set_is_fetched(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        other = await s.namespace.resolve(b"data/other")
        outside = [entry.ino async for entry in s.namespace.walk(other.ino)]
        mixed = order(s.inos, 1)
        for n in range(20, FILES, 40):
            mixed.insert(n, outside[n])
        await s.read(mixed)
        assert s.front.filled
        assert not set(s.front.filled) & set(outside)


async def test_several_jobs_are_fetched_ahead_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever waits to be read for one is not in the other's way, and each has its turn."""
    monkeypatch.setattr(jobs, "BUSY_READS", 8)
    async with scene(tmp_path) as s:
        other = await s.namespace.resolve(b"data/other")
        outside = [entry.ino async for entry in s.namespace.walk(other.ino)]
        one, two = order(s.inos, 1), order(outside, 2)
        await s.read(one[:100], job=1)
        for n in range(200):
            await s.read(one[100 + n : 101 + n], job=1)
            await s.read(two[n : n + 1], job=2)
        assert set(s.front.filled) & set(s.inos)
        assert set(s.front.filled) & set(outside)
        told = {each["data_set"]: each for each in s.plans.describe()["jobs"]}
        assert set(told) == {"data/train", "data/other"}
        for each in told.values():
            assert each["ahead_used"] > 0
        assert sum(each["ahead_files"] for each in told.values()) == len(s.front.filled)


async def test_what_was_of_past_epochs_is_told(tmp_path: Path) -> None:
    async with scene(tmp_path, FILES // 2) as s:
        for seed in range(4):
            await s.read(order(s.inos, seed))
        (job,) = s.plans.describe()["jobs"]
        assert job["epoch"] == 4
        assert job["least_miss_share"] == pytest.approx(0.5, abs=0.02)
        assert [each["reads"] for each in job["past_epochs"]] == pytest.approx(
            [FILES] * 3, abs=FILES // 10
        )
        first, *later = job["past_epochs"]
        assert first["least_miss_share"] is None or first["least_miss_share"] <= 0.5
        for each in later:
            assert 0.1 < each["miss_share"] < 0.5
            assert each["ahead_used"] > 0


async def test_who_waited_for_the_lake_is_told_of_each_epoch(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        await s.read(order(s.inos, 1))
        s.plans.stalled(0, 20_000_000, SIZE)
        s.plans.stalled(0, 1_500_000_000, 2 * SIZE)
        told = {"stalls": 2, "stalled_s": 1.5, "demanded_bytes": 3 * SIZE}
        (job,) = s.plans.describe()["jobs"]
        assert told.items() <= job.items()
        await s.read(order(s.inos, 2)[:100])
        (job,) = s.plans.describe()["jobs"]
        assert told.items() <= job["past_epochs"][-1].items()
        assert (job["stalls"], job["stalled_s"], job["demanded_bytes"]) == (0, 0, 0)


async def test_trouble_that_nobody_expects_is_waited_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "UNEXPECTED_S", 0.05)
    async with scene(tmp_path) as s:
        s.front.error = RuntimeError("out of luck")
        await s.read(order(s.inos, 1)[:100])
        assert not s.front.filled
        s.front.error = None
        await trio.sleep(0.1)
        await s.read(order(s.inos, 1)[100:])
        assert s.front.filled


async def test_the_first_bet_is_not_one_large_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "FIRST_BYTES", SIZE - 1)
    monkeypatch.setattr(course, "FIRST_BYTES_IN_ORDER", SIZE - 1)
    async with scene(tmp_path) as s:
        await s.read(order(s.inos, 1)[:200])
        assert s.front.filled == []
