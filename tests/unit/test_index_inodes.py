"""Inode numbers are handed out once: over restarts, rebuilds and many tasks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio

from tierfs.errors import InvalidRequest
from tierfs.index import Index, journal_inodes
from tierfs.index.environments import Environment
from tierfs.index.journal_inodes import RANGE, InodeAllocator
from tierfs.index.names import NamesBatch
from tierfs.index.records import FIRST_INO, ROOT_INO, Inode, Kind

LAKE = "file:///lake"


async def test_the_first_is_the_first(tmp_path: Path) -> None:
    index = await Index.open(tmp_path, LAKE)
    with pytest.raises(InvalidRequest):
        index.inodes.next_ino()
    await index.inodes.ensure(3)
    assert [index.inodes.next_ino() for _ in range(3)] == [FIRST_INO, FIRST_INO + 1, FIRST_INO + 2]
    assert index.inodes.available == RANGE - 3
    await index.aclose()


async def test_none_comes_twice_over_restarts(tmp_path: Path) -> None:
    seen: set[int] = set()
    for n in range(4):
        index = await Index.open(tmp_path, LAKE)
        await index.inodes.ensure(100)
        numbers = [index.inodes.next_ino() for _ in range(100)]
        assert not seen & set(numbers)
        seen.update(numbers)
        await index.aclose()
        if n == 1:
            shutil.rmtree(tmp_path / "names")  # A rebuild.


async def test_ranges_continue_without_a_hole(tmp_path: Path) -> None:
    index = await Index.open(tmp_path, LAKE)
    numbers = []
    for _ in range(5):
        await index.inodes.ensure(RANGE // 2 + 1)
        numbers += [index.inodes.next_ino() for _ in range(RANGE // 2 + 1)]
    assert numbers == list(range(FIRST_INO, FIRST_INO + len(numbers)))
    await index.inodes.ensure(3 * RANGE)
    assert index.inodes.available >= 3 * RANGE
    before = index.inodes.available
    await index.inodes.reserve()
    assert index.inodes.available == before + RANGE
    await index.aclose()


async def test_many_tasks_share_the_ranges(tmp_path: Path) -> None:
    index = await Index.open(tmp_path, LAKE)
    seen: list[int] = []

    async def take() -> None:
        for _ in range(20):
            await index.inodes.ensure(1000)
            seen.extend([index.inodes.next_ino() for _ in range(1000)])

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(take)
    assert len(set(seen)) == len(seen) == 200_000
    await index.aclose()


async def test_a_lost_journal_does_not_give_known_numbers_again(tmp_path: Path) -> None:
    index = await Index.open(tmp_path, LAKE)
    batch = NamesBatch()
    batch.put_entry(ROOT_INO, b"f", 5000, Inode(Kind.FILE, 0, -1, -1, 0, 0, ROOT_INO), None, 0)
    await index.names.commit(batch)
    await index.aclose()
    shutil.rmtree(tmp_path / "journal")
    index = await Index.open(tmp_path, LAKE)
    await index.inodes.ensure(1)
    assert index.inodes.next_ino() == 5001
    await index.aclose()


async def test_numbers_handed_out_before_they_are_reserved_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of this module sees the reuse when reservations are not kept."""

    async def in_memory_only(self: InodeAllocator, count: int) -> None:
        self._next, self._end = FIRST_INO, FIRST_INO + count

    monkeypatch.setattr(InodeAllocator, "_reserve", in_memory_only)
    with pytest.raises(AssertionError):
        await test_none_comes_twice_over_restarts(tmp_path)


async def test_a_failed_reservation_hands_out_nothing(tmp_path: Path) -> None:
    env = Environment(
        tmp_path / "journal", name="journal", databases=journal_inodes.DATABASES, lake=LAKE
    )
    inodes = InodeAllocator(env)
    await env.aclose()
    with pytest.raises(InvalidRequest):
        await inodes.ensure(1)
    assert inodes.available == 0
