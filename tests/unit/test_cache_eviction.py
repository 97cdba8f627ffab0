"""Eviction by extents below the port: what leaves the disk, and what is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.caching import MIB, Rig, noise, rig
from tierfs.cache.eviction import Victim
from tierfs.cache.store import Store
from tierfs.index.records import EXTENT_SIZE, overhead_bytes

FIRST = (0, EXTENT_SIZE)
SECOND = (EXTENT_SIZE, 2 * EXTENT_SIZE)


async def half(r: Rig, data: bytes) -> None:
    """Have all but the last MiB of *data* cached as 16."""
    r.put(16, data)
    await r.fetch(16, (0, len(data) - MIB))
    await r.settle()


async def test_the_last_extent_of_a_file_leaves_nothing_behind(tmp_path: Path) -> None:
    data = noise(17 * MIB + 5)
    async with rig(tmp_path) as r:
        r.put(16, data)
        await r.fetch(16, (MIB, len(data)))
        await r.settle()
        last = (2 * EXTENT_SIZE, 3 * EXTENT_SIZE)
        assert await r.front.evict(16, [last]) == MIB + 5
        assert r.bytes_on_disk(16) == 15 * MIB
        assert r.cache_file(16).stat().st_size == len(data)
        assert r.account_is_right()
        assert await r.read(16) == data


async def test_only_blocks_that_lie_within_the_extents_leave(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await half(r, noise(20 * MIB))
        assert await r.front.evict(16, [(MIB // 2, 3 * MIB + 1)]) == 2 * MIB
        assert set(r.front._index.blocks(16)) == {0, *range(3, 19)}


async def test_victims_of_both_kinds_leave_together(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await half(r, noise(20 * MIB))
        for ino in (17, 18):
            r.put(ino, noise(MIB, ino))
            await r.fetch(ino)
        await r.settle()
        victims = [Victim(17), Victim(16, (FIRST, SECOND)), Victim(99), Victim(99, (FIRST,))]
        assert await r.front._evictor.evict(victims) == 17 * MIB + overhead_bytes(MIB)
        assert r.front.stats()["evicted_files"] == 1
        assert r.front.stats()["evicted_extents"] == 2
        assert r.front.stats()["cached_bytes"] == 4 * MIB
        assert r.account_is_right()


async def test_an_evicted_extent_is_not_in_memory_either(tmp_path: Path) -> None:
    data = noise(20 * MIB)
    async with rig(tmp_path) as r:
        await half(r, data)
        assert await r.read(16, 5, 10) == data[5:15]
        assert r.front.stats()["hot_bytes"] == MIB
        await r.front.evict(16, [FIRST])
        assert r.front.stats()["hot_bytes"] == 0


async def die_before_the_holes(r: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evict the first extent as far as a process comes that is killed after its records went."""

    async def killed(*_: object) -> None:
        return

    with monkeypatch.context() as patch:
        patch.setattr(Store, "punch", killed)
        await r.front.evict(16, [FIRST])


async def test_what_a_kill_left_goes_with_the_next_extent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise(30 * MIB)
    async with rig(tmp_path) as r:
        await half(r, data)
        await die_before_the_holes(r, monkeypatch)
        assert r.bytes_on_disk(16) == 29 * MIB
        await r.front.evict(16, [SECOND])
        assert r.bytes_on_disk(16) == 13 * MIB
        assert await r.read(16) == data
        assert r.front.stats()["bad_blocks"] == 0


async def test_what_a_kill_left_is_overwritten_by_the_next_fill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise(30 * MIB)
    async with rig(tmp_path) as r:
        await half(r, data)
        await die_before_the_holes(r, monkeypatch)
        with r.cache_file(16).open("r+b") as file:
            file.write(bytes(MIB))
        assert await r.read(16) == data
        await r.settle()
        assert r.front.file_state(16).complete
        assert r.bytes_on_disk(16) == 30 * MIB
        assert r.front.stats()["bad_blocks"] == 0
        assert r.account_is_right()


async def test_a_cache_file_that_is_gone_has_no_extents_to_free(tmp_path: Path) -> None:
    data = noise(30 * MIB)
    async with rig(tmp_path) as r:
        await half(r, data)
        r.cache_file(16).unlink()
        assert await r.front.evict(16, [FIRST]) == EXTENT_SIZE
        assert not r.cache_file(16).exists()
        assert await r.read(16) == data
        await r.settle()
        assert r.account_is_right()
