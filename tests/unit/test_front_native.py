"""The native front as the control plane sees it; the front itself is a list of what it was told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.caching import MIB, rig
from tierfs.cache.budget import Priority
from tierfs.cache.eviction import EVICT_PAGE, Victim
from tierfs.front.native import FETCH_BYTES, NativeFront
from tierfs.front.port import FrontPort
from tierfs.index.cache import CacheBatch, CacheIndex
from tierfs.index.index import open_index
from tierfs.index.records import BlockRecord, CachedFile, ObjectRef
from tierfs.lake.protocol import LakeCounters, Version
from tierfs.readahead.policy import AdaptivePolicy, Incoming
from tierfs.readahead.rules import Rule

REF = ObjectRef(b"a", Version(b'"1"'), False, False)


class Told:
    """The front: evicts what it is told at once, and writes the index as it does."""

    def __init__(self, index: CacheIndex) -> None:
        self._index = index
        self.fetched: list[tuple[int, int, int, Priority]] = []
        self.evictions: list[list[Victim]] = []
        self.invalidated: list[int] = []
        self.filled: list[list[int]] = []

    async def fetch(self, ino: int, lo: int, hi: int, priority: Priority) -> int:
        self.fetched.append((ino, lo, hi, priority))
        return hi - lo

    async def evict(self, victims: Sequence[Victim]) -> tuple[int, int]:
        self.evictions.append(list(victims))
        batch = CacheBatch()
        for ino, extents in victims:
            if extents is None:
                batch.drop_file(ino)
        await self._index.commit(batch)
        return len(victims), 10 * len(victims)

    async def fill(self, inos: Sequence[int]) -> int:
        self.filled.append(list(inos))
        return 1

    async def invalidate(self, ino: int) -> None:
        self.invalidated.append(ino)

    async def adopt(self, ino: int, size: int, identity: bytes, crc64nvme: int) -> None:
        raise AssertionError("nothing is adopted here")

    async def renamed(self, ino: int, old: bytes, new: bytes) -> None:
        raise AssertionError("nothing is renamed here")

    async def resize(self, limit_bytes: int | None) -> None:
        raise AssertionError("nothing is resized here")


class Scene:
    def __init__(self, front: NativeFront, told: Told, index: CacheIndex) -> None:
        self.front = front
        self.told = told
        self.index = index

    async def record(self, *inos: int, size: int = 10, blocks: int = 1) -> None:
        """Files of which the first *blocks* are cached."""
        batch = CacheBatch()
        for ino in inos:
            batch.put_file(ino, CachedFile(bytes(16), size, 0, False, False, bytes(8), 0, 0, ino))
            lengths = (min(MIB, size - n * MIB) for n in range(blocks))
            batch.put_blocks(ino, {n: BlockRecord(k, 0, 0) for n, k in enumerate(lengths)})
        await self.index.commit(batch)


@asynccontextmanager
async def scene(directory: Path, rules: Sequence[Rule] = tuple(Rule)) -> AsyncIterator[Scene]:
    async with open_index(directory, "lake") as index, trio.open_nursery() as nursery:
        told = Told(index.cache)
        front = NativeFront(
            index.cache,
            directory,
            nursery,
            told,
            cache_size=1000,
            policy=AdaptivePolicy(index.cache, rules=rules),
        )
        await front.start()
        yield Scene(front, told, index.cache)
        await front.aclose()
        nursery.cancel_scope.cancel()


async def test_a_fetch_is_of_whole_blocks(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        size = 4 * MIB + 7
        for extent, asked in (
            (None, (0, size)),
            ((MIB + 5, 3 * MIB), (MIB, 3 * MIB)),
            ((MIB, 3 * MIB + 1), (MIB, 4 * MIB)),
            ((4 * MIB + 1, 9 * MIB), (4 * MIB, size)),
        ):
            got = await s.front.fetch(16, REF, size, extent, Priority.READ_AHEAD)
            assert got == asked[1] - asked[0]
            assert s.told.fetched[-1] == (16, *asked, Priority.READ_AHEAD)
        count = len(s.told.fetched)
        assert await s.front.fetch(16, REF, 0, None, Priority.WARM_UP) == 0
        assert await s.front.fetch(16, REF, size, (9 * MIB, 10 * MIB), Priority.WARM_UP) == 0
        assert len(s.told.fetched) == count


async def test_pinned_files_are_never_named(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        await s.record(16, 17)
        s.front.pin(16)
        assert await s.front.evict(16) == 0
        assert await s.front.evict(16, [(0, 8 * MIB)]) == 0
        assert await s.front.evict_all() == (1, 10)
        assert s.front.choose_victims(1 << 40, 64) == []
        assert s.told.evictions == [[Victim(17)]]
        s.front.unpin(16)
        assert await s.front.evict(16) == 10
        assert s.told.evictions[1:] == [[Victim(16)]]


async def test_what_is_not_cached_takes_no_command(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        assert await s.front.evict(16) == 0
        assert s.told.evictions == []
        # The front has it open: it is to go later, whatever is recorded by now.
        s.front.used(16)
        await s.front.evict(16)
        assert s.told.evictions == [[Victim(16)]]
        s.front.not_used(16)
        await s.front.evict(16)
        assert len(s.told.evictions) == 1


async def test_evicting_everything_goes_by_pages_and_leaves_what_is_used(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        count = 2 * EVICT_PAGE + 3
        await s.record(*range(16, 16 + count))
        s.front.used(20)
        assert await s.front.evict_all() == (count - 1, 10 * (count - 1))
        assert [len(victims) for victims in s.told.evictions] == [EVICT_PAGE - 1, EVICT_PAGE, 3]
        assert s.index.totals()[0] == 1


async def test_many_extents_go_by_pages(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        await s.record(16, size=9 * MIB)
        extents = [(n * 8 * MIB, (n + 1) * 8 * MIB) for n in range(EVICT_PAGE + 1)]
        assert await s.front.evict(16, extents) == 20
        assert [len(one.extents or ()) for [one] in s.told.evictions] == [EVICT_PAGE, 1]
        assert await s.front.evict(16, []) == 0
        assert len(s.told.evictions) == 2


async def test_a_used_file_is_no_victim_until_its_session_ends(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        await s.record(16)
        s.front.used(16)
        s.front.used(16)
        assert s.front.choose_victims(1, 64) == []
        assert await s.front.evict_all() == (0, 0)
        assert s.told.evictions == []
        s.front.begin_session()
        assert s.front.choose_victims(1, 64) == [Victim(16)]


async def test_the_state_of_a_file_is_what_the_index_says(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        assert s.front.file_state(16) == (0, False, None)
        await s.record(0x12345, size=2 * MIB + 1, blocks=2)
        where = str(tmp_path / "objects" / "01" / "23" / "0000000000012345")
        assert s.front.file_state(0x12345) == (2 * MIB, False, where)
        await s.record(0x12345, size=2 * MIB + 1, blocks=3)
        assert s.front.file_state(0x12345) == (2 * MIB + 1, True, where)


async def test_nothing_is_written_to_the_index(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        await s.record(16)
        commits = s.index._env.writer.commits
        s.front.accessed(16, 5)
        s.front.used(16)
        s.front.not_used(16)
        await s.front.invalidate(16)
        await s.front.aclose()
        await s.record(17)  # What was queued would be committed by now.
        assert s.index._env.writer.commits == commits + 1
        assert s.told.invalidated == [16]
        file = s.index.file(16)
        assert file is not None
        assert file.last_used_s == 16


async def test_a_file_that_was_accessed_stays_longest(tmp_path: Path) -> None:
    async with scene(tmp_path, rules=[Rule.LRU]) as s:
        await s.record(16, 17, 18)
        s.front.accessed(16, 5)
        await s.front.aclose()  # Reported, but the index may not say so yet.
        chosen = s.front.choose_victims(1 << 40, 64)
        assert [victim.ino for victim in chosen or ()] == [17, 18, 16]


async def test_nothing_goes_for_what_was_just_read(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        await s.record(16, 17, 18)
        s.front.accessed(19, 5)
        assert s.front.choose_victims(1, 64, Incoming(19)) is None
        assert s.front.choose_victims(1, 64, Incoming(19, ahead=True)) is None
        # Room as such has to be made, and the file may be what goes first.
        await s.record(19)
        assert s.front.choose_victims(1, 64) == [Victim(19)]


async def test_whose_access_it_is_is_told(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        told: list[tuple[int, ...]] = []
        s.front._accesses.add = lambda *one: told.append(one)  # type: ignore[method-assign]
        s.front.accessed(16, 5, 4242)
        assert told == [(16, 5, 4242)]


async def test_accesses_are_heard_in_their_order(tmp_path: Path) -> None:
    heard: list[int] = []
    async with scene(tmp_path) as s:
        s.front.tell_accesses(lambda ino, _: heard.append(ino), lambda *stall: None)
        for ino in (18, 16, 18):
            s.front.accessed(ino, 5, 0)
    assert heard == [18, 16, 18]


async def test_what_is_fetched_ahead_is_nobodys_victim(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        await s.record(16, 17)
        victims: list[list[Victim] | None] = []
        fill = s.told.fill

        async def watched(inos: Sequence[int]) -> int:
            victims.append(s.front.choose_victims(MIB, 64))
            return await fill(inos)

        s.told.fill = watched  # type: ignore[method-assign]
        assert await s.front.fill([(16, REF, 10), (18, REF, 10)]) == 1
        assert s.told.filled == [[16, 18]]
        assert victims == [[Victim(17)]]
        victims.append(s.front.choose_victims(MIB, 64))
        assert sorted(victims[1] or ()) == [Victim(16), Victim(17)]


async def test_the_stats_are_those_of_the_other_front(tmp_path: Path) -> None:
    async with scene(tmp_path / "native") as s, rig(tmp_path / "python") as r:
        await s.record(16)
        stats = s.front.stats()
        assert stats.keys() == r.front.stats().keys()
        assert {name: type(value) for name, value in stats.items() if value is not None} == {
            **{name: type(value) for name, value in r.front.stats().items() if value is not None},
            "limit_bytes": int,
        }
        assert (stats["cached_files"], stats["cached_bytes"]) == (1, 10)
        assert stats["limit_bytes"] == 1000
        assert stats["hits"] == stats["open_handles"] == 0  # No front has said anything.
        assert s.front.lake_counters() == r.front.lake_counters() == LakeCounters()
        ports: list[FrontPort] = [s.front, r.front]
        assert [port.requests_to_fetch(20 * MIB) for port in ports] == [3, 3]


async def test_a_fetch_comes_in_pieces_and_is_nobodys_victim(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        await s.record(16, size=1000 * MIB)
        victims: list[list[Victim] | None] = []
        fetch = s.told.fetch

        async def watched(ino: int, lo: int, hi: int, priority: Priority) -> int:
            victims.append(s.front.choose_victims(MIB, 64))
            return await fetch(ino, lo, hi, priority)

        s.told.fetch = watched  # type: ignore[method-assign]
        size = 2 * FETCH_BYTES + MIB
        assert await s.front.fetch(16, REF, size, None, Priority.WARM_UP) == size
        assert [(lo, hi) for _, lo, hi, _ in s.told.fetched] == [
            (0, FETCH_BYTES),
            (FETCH_BYTES, 2 * FETCH_BYTES),
            (2 * FETCH_BYTES, size),
        ]
        assert victims == [[], [], []]
        assert [victim.ino for victim in s.front.choose_victims(MIB, 64) or ()] == [16]


async def test_counters_go_on_over_the_fronts_of_a_mount(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        s.front.heard({"misses": "5", "used_bytes": "100", "lake_get_requests": "7"})
        s.front.heard({"misses": "6", "used_bytes": "90", "lake_get_requests": "8"})
        s.front.heard({"misses": "1", "used_bytes": "80", "lake_get_requests": "0"})
        stats = s.front.stats()
        assert (stats["misses"], stats["used_bytes"]) == (7, 80)
        assert s.front.lake_counters().get_requests == 8


async def test_an_open_that_passes_through_is_a_hit(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        s.front.heard({"hits": "3", "opens_passed_through": "10"})
        assert s.front.stats()["hits"] == 13
