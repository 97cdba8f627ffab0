"""Fetching ahead in an order that was told, over a namespace in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.test_planner import FILES, SIZE, Scene, order, scene, settle
from tierfs.control import planner
from tierfs.errors import InvalidRequest, LakeUnavailable
from tierfs.readahead import plan as plans
from tierfs.readahead.rules import Rule

FIFTH = FILES // 5


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "BATCH_FILES", 8)


async def tell(s: Scene, inos: Sequence[int], *, append: bool = False) -> None:
    s.plans.order(inos, append=append)
    for _ in range(4):
        await settle()


async def test_with_an_order_hardly_a_read_misses_in_a_fifth_of_the_room(tmp_path: Path) -> None:
    async with scene(tmp_path, FIFTH) as s:
        for seed in range(3):
            await tell(s, order(s.inos, seed), append=True)
        assert len(s.front.filled) == FIFTH // 2
        for seed in range(3):
            await s.read(order(s.inos, seed))
        assert s.front.missed < 0.02 * 3 * FILES
        # What is there already is not fetched again.
        assert len(s.front.filled) <= 3 * FILES


async def test_with_an_order_little_more_comes_than_has_to(tmp_path: Path) -> None:
    async with scene(tmp_path, FILES // 2) as s:
        for seed in range(6):
            await tell(s, order(s.inos, seed), append=True)
        for seed in range(6):
            await s.read(order(s.inos, seed))
        fetched = s.front.missed + len(s.front.filled)
        # All of it in the first epoch, and later what the cache does not hold.
        assert fetched < (FILES + 5 * FILES * 0.5) * 1.06


async def test_nothing_goes_that_is_still_to_come_before_it_has_to(tmp_path: Path) -> None:
    async with scene(tmp_path, FIFTH) as s:
        fetched = []
        for seed in range(6):
            before = s.front.missed + len(s.front.filled)
            await tell(s, order(s.inos, seed))
            await s.read(order(s.inos, seed))
            fetched.append(s.front.missed + len(s.front.filled) - before)
        # What one epoch leaves in the cache is read from there in the next one.
        assert sum(fetched[1:]) / 5 < (FILES - FIFTH) * 1.04
        assert s.front.missed < 0.02 * 6 * FILES


async def test_workers_that_read_out_of_order_miss_little_more(tmp_path: Path) -> None:
    async with scene(tmp_path, FIFTH) as s:
        await tell(s, [ino for seed in range(3) for ino in order(s.inos, seed)])
        for seed in range(3):
            inos = order(s.inos, seed)
            for n in range(0, FILES, 16):
                await s.read([inos[n + 4 * k + j] for j in range(4) for k in range(4)])
        assert s.front.missed < 0.02 * 3 * FILES


async def test_a_wrong_order_loses_little(tmp_path: Path) -> None:
    missed, fetched = [], []
    for told in (False, True):
        async with scene(tmp_path / str(told), FILES // 2) as s:
            for seed in range(8):
                if told:
                    await tell(s, order(s.inos, 100 + seed), append=True)
                await s.read(order(s.inos, seed))
            missed.append(s.front.missed / (8 * FILES))
            fetched.append(missed[-1] + len(s.front.filled) / (8 * FILES))
    assert missed[1] < missed[0] + 0.04
    # Paid once: what was fetched ahead in the reads after which it was not believed any more.
    assert fetched[1] < fetched[0] + 0.1


async def test_an_order_that_nobody_follows_is_given_up(tmp_path: Path) -> None:
    async with scene(tmp_path, FIFTH) as s:
        other = await s.namespace.resolve(b"data/other")
        await tell(s, [entry.ino async for entry in s.namespace.walk(other.ino)])
        first = len(s.front.filled)
        assert s.plans.describe()["plan_believed"]
        await s.read(order(s.inos, 1)[:200])
        description = s.plans.describe()
        assert (description["plan_believed"], description["plan_position"]) == (False, 0)
        assert s.front.policy.rule is not Rule.PLAN
        assert set(s.front.filled[first:]) <= set(s.inos)


async def test_what_the_lake_refuses_comes_later_or_not_at_all(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        s.front.error = LakeUnavailable("read", "data", "try later")
        await tell(s, order(s.inos, 1))
        assert (s.front.filled, s.front.policy.ahead.all.waiting) == ([], 0)
        await s.read(order(s.inos, 1)[:40])
        s.front.error = None
        await s.read(order(s.inos, 1)[40:])
        assert s.front.filled


async def test_no_more_than_was_asked_for_is_fetched_ahead(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        inos = order(s.inos, 1)
        s.plans.keep_ahead(30 * SIZE)
        await tell(s, inos)
        assert sorted(s.front.filled) == sorted(inos[:30])
        await s.read(inos[:100])
        assert set(s.front.filled) <= set(inos[:130])
        assert len(s.front.filled) >= 125


async def test_another_order_takes_the_place_of_the_first(tmp_path: Path) -> None:
    async with scene(tmp_path, FIFTH) as s:
        await tell(s, order(s.inos, 1))
        await s.read(order(s.inos, 1)[:50])
        await tell(s, order(s.inos, 2))
        assert s.plans.describe_order() == {
            "entries": FILES,
            "position": 0,
            "hits": 0,
            "unknown": 0,
            "believed": True,
            "followed_share": 1.0,
            "ahead_bytes": FIFTH * SIZE // 8,
        }
        missed = s.front.missed
        await s.read(order(s.inos, 2))
        assert s.front.missed - missed < 0.02 * FILES
        await tell(s, [])
        assert s.plans.describe()["plan_entries"] == 0
        assert not s.plans.describe()["plan_believed"]


async def test_names_that_were_lost_are_passed_over(tmp_path: Path) -> None:
    async with scene(tmp_path, FIFTH) as s:
        inos = order(s.inos, 1)
        mixed = [ino for n, real in enumerate(inos) for ino in (real, 1 << 40 | n)]
        await tell(s, mixed)
        await s.read(inos)
        assert s.front.missed < 0.02 * FILES


async def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "MOST_ENTRIES", 1000)
    async with scene(tmp_path, FIFTH) as s:
        with pytest.raises(InvalidRequest, match="append the rest"):
            await tell(s, [s.inos[0]] * 1001)
