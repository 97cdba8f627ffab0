"""What every front must do. A test module takes `FrontConformance` in and says how to make a
rig."""

from __future__ import annotations

import abc
import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.caching import MIB, Request, Rig, noise
from tierfs.cache.budget import Priority
from tierfs.errors import CacheFull, InvalidRequest, LakeUnavailable, StaleVersion
from tierfs.index.records import EXTENT_SIZE, overhead_bytes

SMALL = 110_000


class FrontConformance(abc.ABC):
    """The port and the handles of a front, over a `tests.caching.WatchedLake`."""

    @abc.abstractmethod
    def rig(self, directory: Path, **options: Any) -> contextlib.AbstractAsyncContextManager[Rig]:
        """A started front; *options* as those of `PythonFront`."""

    async def test_reads_are_short_only_at_the_end(self, tmp_path: Path) -> None:
        data = noise(3 * MIB + 5)
        async with self.rig(tmp_path) as r:
            r.put(16, data)
            fh = await r.open(16)
            assert await r.front.read(fh, 0, 10) == data[:10]
            assert await r.front.read(fh, MIB - 3, 7) == data[MIB - 3 : MIB + 4]
            assert await r.front.read(fh, 3 * MIB, 4096) == data[3 * MIB :]
            assert await r.front.read(fh, len(data), 10) == b""
            assert await r.front.read(fh, 10 * MIB, 10) == b""
            assert await r.front.read(fh, 0, 100 * MIB) == data
            await r.front.release(fh)

    async def test_an_empty_object_is_empty_without_a_request(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as r:
            r.put(16, b"")
            assert await r.read(16, 0, 4096) == b""
            assert await r.fetch(16) == 0
            assert r.lake.requests == []

    async def test_a_small_object_takes_one_request_ever(self, tmp_path: Path) -> None:
        data = noise(SMALL)
        async with self.rig(tmp_path) as r:
            r.put(16, data)
            assert await r.read(16, 5, 10) == data[5:15]
            assert await r.read(16) == data
            await r.settle()
            assert [request.op for request in r.lake.requests] == ["get_whole"]
            refs, lake = r.refs, r.lake
        async with self.rig(tmp_path, lake=lake, refs=refs) as r:
            assert await r.read(16) == data
            assert len(lake.requests) == 1

    async def test_handles_are_never_reused_and_unknown_ones_release_quietly(
        self, tmp_path: Path
    ) -> None:
        async with self.rig(tmp_path) as r:
            r.put(16, b"data")
            first = await r.open(16)
            await r.front.release(first)
            assert await r.open(16) != first
            await r.front.release(first)
            with pytest.raises(InvalidRequest):
                await r.front.read(first, 0, 1)

    async def test_opened_tells_the_version_while_it_is_open(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as r:
            r.put(16, b"data")
            assert r.front.opened(16) is None
            fh = await r.open(16)
            assert r.front.opened(16) == r.refs[16]
            await r.front.release(fh)
            await r.settle()
            assert r.front.opened(16) is None

    async def test_a_copy_of_another_version_is_not_served_and_counted_no_more(
        self, tmp_path: Path
    ) -> None:
        async with self.rig(tmp_path) as r:
            for size in (5000, 100, 3 * MIB + 1, 7):
                data = noise(size, size)
                r.put(16, data)
                assert await r.read(16) == data
                await r.settle()
                assert r.account_is_right()
            assert r.front.stats()["cached_files"] == 1

    async def test_one_inode_is_not_two_versions(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as r:
            r.put(16, b"old")
            await r.open(16)
            r.put(16, b"new", key=b"object-16")
            with pytest.raises(StaleVersion):
                await r.open(16)

    async def test_fetch_brings_everything_once(self, tmp_path: Path) -> None:
        data = noise(20 * MIB + 1)
        async with self.rig(tmp_path) as r:
            r.put(16, data)
            assert await r.fetch(16) == len(data)
            requests = len(r.lake.ranges())
            assert requests == r.front.requests_to_fetch(len(data)) == 3
            assert await r.fetch(16) == 0
            assert await r.read(16) == data
            assert len(r.lake.ranges()) == requests
            assert r.front.file_state(16).complete
            assert r.front.file_state(16).cached_bytes == len(data)

    async def test_fetch_of_an_extent_brings_its_blocks(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as r:
            r.put(16, noise(8 * MIB))
            assert await r.fetch(16, (MIB + 5, 3 * MIB)) == 2 * MIB
            assert r.lake.ranges() == [(MIB, 2 * MIB)]
            assert r.front.file_state(16).cached_bytes == 2 * MIB
            assert not r.front.file_state(16).complete

    @pytest.mark.parametrize("split", [4096, 24 * 4096, MIB // 2, MIB - 4096])
    async def test_a_block_that_two_readers_begin_between_them_comes_once(
        self, tmp_path: Path, split: int
    ) -> None:
        # The kernel may send the second piece of a read that it has split among two first.
        data = noise(4 * MIB)
        async with self.rig(tmp_path) as r:
            r.put(16, data)
            both = trio.Event()

            async def wait_for_both(_: Request) -> None:
                if len(r.lake.requests) == 2:
                    both.set()
                await both.wait()

            r.lake.before = wait_for_both
            got: dict[int, bytes] = {}

            async def read(fh: int, lo: int, hi: int) -> None:
                got[lo] = bytes(await r.front.read(fh, lo, hi - lo))

            one, two = await r.open(16), await r.open(16)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, two, split, MIB)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(read, one, 0, max(split, 64 << 10))
            assert got[split] == data[split:MIB]
            assert got[0] == data[: max(split, 64 << 10)]
            first_block = [(offset, length) for offset, length in r.lake.ranges() if offset < MIB]
            assert sorted(first_block) == [(0, split), (split, MIB - split)]
            await r.settle()
            asked = len(r.lake.ranges())
            assert await r.front.read(one, 0, MIB) == data[:MIB]
            assert len(r.lake.ranges()) == asked
            await r.front.release(one)
            await r.front.release(two)

    async def test_a_file_that_several_handles_read_in_turn_is_read_ahead(
        self, tmp_path: Path
    ) -> None:
        # So the kernel asks for the pages of a file that several processes read at a time.
        data = noise(24 * MIB)
        async with self.rig(tmp_path) as r:
            r.put(16, data)
            handles = [await r.open(16) for _ in range(5)]
            for n in range(6):
                got = await r.front.read(handles[n * 3 % 5], n * MIB, MIB)
                assert got == data[n * MIB :][:MIB]
            await r.settle()
            assert r.front.file_state(16).cached_bytes >= 8 * MIB
            assert sum(length for _, length in r.lake.ranges()) == (
                r.front.file_state(16).cached_bytes
            )
            for fh in handles:
                await r.front.release(fh)

    async def test_a_piece_that_does_not_come_is_asked_for_again(self, tmp_path: Path) -> None:
        data = noise(4 * MIB)
        split = 300_000
        async with self.rig(tmp_path) as r:
            r.put(16, data)
            begun = trio.Event()

            async def fail_the_piece(request: Request) -> None:
                if request.offset == split:
                    await begun.wait()
                    raise LakeUnavailable("read from the lake", request.key, "reset")
                begun.set()

            async def fails(fh: int) -> None:
                with pytest.raises(LakeUnavailable):
                    await r.front.read(fh, split, MIB - split)

            r.lake.before = fail_the_piece
            one, two = await r.open(16), await r.open(16)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fails, two)
                await trio.testing.wait_all_tasks_blocked()
                assert await r.front.read(one, 0, split) == data[:split]
            first_block = [(offset, length) for offset, length in r.lake.ranges() if offset < MIB]
            assert first_block == [(split, MIB - split), (0, split), (0, MIB)]
            await r.front.release(one)
            await r.front.release(two)

    async def test_evict_frees_what_is_not_in_use(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as r:
            r.put(16, noise(SMALL))
            assert await r.front.evict(16) == 0
            await r.read(16)
            await r.settle()
            assert await r.front.evict(16) >= SMALL
            assert r.front.file_state(16).cached_bytes == 0
            assert not r.cache_file(16).exists()
            assert r.front.stats()["cached_files"] == 0

    async def test_evicting_an_open_file_waits_for_its_last_release(self, tmp_path: Path) -> None:
        data = noise(SMALL)
        async with self.rig(tmp_path) as r:
            r.put(16, data)
            fh = await r.open(16)
            await r.front.read(fh, 0, SMALL)
            await r.settle()
            assert await r.front.evict(16) == 0
            assert await r.front.read(fh, 0, SMALL) == data
            await r.front.release(fh)
            await r.settle()
            assert r.front.stats()["cached_files"] == 0

    async def test_extents_leave_an_incomplete_file_and_the_rest_stays(
        self, tmp_path: Path
    ) -> None:
        data = noise(40 * MIB + 5)
        async with self.rig(tmp_path) as r:
            r.put(16, data)
            await r.fetch(16, (3 * MIB, 33 * MIB))
            await r.settle()
            extents = [(0, EXTENT_SIZE), (2 * EXTENT_SIZE, 3 * EXTENT_SIZE)]
            assert await r.front.evict(16, extents) == 13 * MIB
            assert await r.front.evict(16, extents) == 0
            assert r.front.file_state(16).cached_bytes == 17 * MIB
            assert r.front.stats()["cached_bytes"] == 17 * MIB
            assert 17 * MIB <= r.bytes_on_disk(16) <= r.front.stats()["used_bytes"]
            r.lake.requests.clear()
            for lo, hi in ((8 * MIB, 16 * MIB), (24 * MIB, 33 * MIB)):
                assert await r.read(16, lo, hi - lo) == data[lo:hi]
            assert r.lake.requests == []
            assert await r.read(16) == data
            await r.settle()
            assert r.front.file_state(16).complete
            stats = r.front.stats()
            assert stats["evicted_files"] == stats["bad_blocks"] == 0
            assert stats["evicted_extents"] == 2
            assert stats["evicted_bytes"] == 13 * MIB

    async def test_extents_never_leave_a_whole_file(self, tmp_path: Path) -> None:
        data = noise(20 * MIB)
        async with self.rig(tmp_path) as r:
            r.put(16, data)
            await r.fetch(16)
            await r.settle()
            assert await r.front.evict(16, [(0, EXTENT_SIZE)]) == 0
            assert r.front.file_state(16).complete
            assert r.cache_file(16).read_bytes() == data

    async def test_extents_never_leave_a_file_in_use(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as r:
            r.put(16, noise(40 * MIB))
            await r.fetch(16, (0, 20 * MIB))
            fh = await r.open(16)
            await r.settle()
            assert await r.front.evict(16, [(0, EXTENT_SIZE)]) == 0
            await r.front.release(fh)
            r.front.pin(16)
            assert await r.front.evict(16, [(0, EXTENT_SIZE)]) == 0
            r.front.unpin(16)
            await r.settle()
            assert r.front.file_state(16).cached_bytes == 20 * MIB

    async def test_a_file_of_which_nothing_would_stay_goes_whole(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as r:
            r.put(16, noise(40 * MIB))
            await r.fetch(16, (9 * MIB, 12 * MIB))
            await r.settle()
            assert await r.front.evict(16, [(EXTENT_SIZE, 2 * EXTENT_SIZE)]) > 3 * MIB
            assert not r.cache_file(16).exists()
            assert r.front.stats()["evicted_files"] == 1
            assert r.front.stats()["used_bytes"] == 0

    async def test_room_costs_an_incomplete_file_no_more_than_is_needed(
        self, tmp_path: Path
    ) -> None:
        data = noise(60 * MIB)
        async with self.rig(tmp_path, cache_size=50 * MIB) as r:
            r.put(16, data)
            r.put(17, noise(12 * MIB))
            await r.fetch(16, (0, 40 * MIB))
            await r.settle()
            await r.fetch(17)
            await r.settle()
            assert r.front.file_state(16).cached_bytes == 32 * MIB
            assert r.front.stats()["used_bytes"] <= 50 * MIB
            r.lake.requests.clear()
            assert await r.read(16, 8 * MIB, 32 * MIB) == data[8 * MIB : 40 * MIB]
            assert r.lake.requests == []

    async def test_evict_all_leaves_pinned_and_open_files(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as r:
            for ino in range(16, 21):
                r.put(ino, noise(SMALL, ino))
                await r.read(ino)
            await r.settle()
            r.front.pin(16)
            fh = await r.open(17)
            assert (await r.front.evict_all())[0] == 3
            r.front.unpin(16)
            await r.front.release(fh)
            assert (await r.front.evict_all())[0] == 2

    async def test_the_limit_holds_and_what_is_ordered_is_kept(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path, cache_size=2 * MIB) as r:
            for ino in range(16, 80):
                r.put(ino, noise(SMALL, ino))
                assert await r.fetch(ino) == SMALL
                await r.settle()
                assert r.front.file_state(ino).complete
                assert r.front.stats()["used_bytes"] <= 2 * MIB
            assert r.front.stats()["evicted_files"] > 40
            assert r.front.stats()["cached_files"] > 10
            assert r.front.stats()["declined"] == 0

    async def test_what_is_read_once_takes_nothings_place(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path, cache_size=2 * MIB) as r:
            for ino in range(16, 80):
                data = noise(SMALL, ino)
                r.put(ino, data)
                assert await r.read(ino) == data
                await r.settle()
                assert r.front.stats()["used_bytes"] <= 2 * MIB
            stats = r.front.stats()
            assert stats["evicted_files"] == 0
            assert stats["cached_files"] == 64 - stats["declined"] > 10
            assert stats["declined_bytes"] == stats["declined"] * SMALL
            assert len(r.lake.requests) == 64

    async def test_a_cache_of_half_the_data_fetches_half_of_it_in_each_shuffled_epoch(
        self, tmp_path: Path
    ) -> None:
        files, size = 120, 30_000
        data = {ino: noise(size, ino) for ino in range(16, 16 + files)}
        async with self.rig(tmp_path, cache_size=files // 2 * (size + overhead_bytes(size))) as r:
            for ino, content in data.items():
                r.put(ino, content)
            fetched = []
            for epoch in range(4):
                r.lake.requests.clear()
                for ino in random.Random(epoch).sample(sorted(data), files):
                    assert await r.read(ino) == data[ino]
                    await r.settle()
                fetched.append(len(r.lake.requests))
            # A cache that kept what was read last would fetch five sixths.
            assert fetched[0] == files
            assert all(0.45 * files <= requests <= 0.6 * files for requests in fetched[1:])

    async def test_resize_evicts_down(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as r:
            for ino in range(16, 36):
                r.put(ino, noise(SMALL, ino))
                await r.read(ino)
            await r.settle()
            await r.front.resize(MIB)
            assert r.front.stats()["cached_bytes"] <= MIB
            assert r.front.stats()["cached_files"] > 0

    async def test_what_cannot_be_kept_is_read_all_the_same_but_not_warmed_up(
        self, tmp_path: Path
    ) -> None:
        data = noise(3 * MIB)
        async with self.rig(tmp_path, cache_size=MIB) as r:
            r.put(16, data)
            assert await r.read(16) == data
            with pytest.raises(CacheFull):
                await r.fetch(16)

    async def test_an_invalidated_file_goes_with_its_last_handle(self, tmp_path: Path) -> None:
        data = noise(SMALL)
        async with self.rig(tmp_path) as r:
            r.put(16, data)
            fh = await r.open(16)
            await r.front.read(fh, 0, SMALL)
            await r.settle()
            await r.front.invalidate(16)
            # All of the old version is here: the handle goes on.
            assert await r.front.read(fh, 0, SMALL) == data
            await r.front.release(fh)
            await r.settle()
            assert r.front.stats()["cached_files"] == 0

    async def test_hits_are_reads_without_a_byte_from_the_lake(self, tmp_path: Path) -> None:
        data = noise(4 * MIB)
        async with self.rig(tmp_path) as r:
            r.put(16, data)
            for expected in ((0, 4 * MIB), (4 * MIB, 4 * MIB)):
                fh = await r.open(16)
                for offset in range(0, len(data), 128 << 10):
                    await r.front.read(fh, offset, 128 << 10)
                    await r.settle()
                await r.front.release(fh)
                stats = r.front.stats()
                assert (stats["hit_bytes"], stats["miss_bytes"]) == expected
            assert stats["bytes_from_lake"] == 4 * MIB

    async def test_gauges_return_to_zero(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as r:
            for ino in range(16, 20):
                r.put(ino, noise(2 * MIB, ino))
                await r.read(ino)
            await r.settle()
            stats = r.front.stats()
            for gauge in ("open_handles", "in_flight", "buffer_bytes", "reserved_bytes"):
                assert stats[gauge] == 0, gauge

    async def test_accesses_come_back_in_order(self, tmp_path: Path) -> None:
        seen: list[int] = []
        async with self.rig(tmp_path) as r:
            r.front.tell_accesses(lambda ino, _: seen.append(ino), lambda *stall: None)
            for ino in (18, 16, 17, 16):
                r.put(ino, b"data")
                await r.read(ino)
            await r.fetch(17)
        assert seen == [18, 16, 17, 16]

    async def test_it_is_told_who_waited_for_the_lake(self, tmp_path: Path) -> None:
        stalls: list[tuple[int, int, int]] = []
        async with self.rig(tmp_path) as r:
            r.front.tell_accesses(lambda ino, job: None, lambda *stall: stalls.append(stall))
            r.put(16, bytes(5000))
            await r.read(16)
            await r.read(16)
            await r.settle()
        ((_, waited_ns, bytes_),) = stalls
        assert waited_ns > 0
        assert bytes_ == 5000

    async def test_files_are_filled_behind_everybody_and_missing_ones_left_out(
        self, tmp_path: Path
    ) -> None:
        async with self.rig(tmp_path) as r:
            for ino in range(16, 26):
                r.put(ino, noise(SMALL, ino))
            r.lake.remove(b"object-16")
            assert await r.front.fill([(ino, *r.refs[ino]) for ino in range(16, 26)]) == 0
            states = [r.front.file_state(ino).complete for ino in range(16, 26)]
            assert states == [False] + [True] * 9
            r.lake.requests.clear()
            for ino in range(17, 26):
                assert await r.read(ino) == noise(SMALL, ino)
            assert r.lake.requests == []

    async def test_priorities_are_accepted(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as r:
            for ino, priority in enumerate(Priority, 16):
                r.put(ino, noise(SMALL, ino))
                assert await r.front.fetch(ino, *r.refs[ino], None, priority) == SMALL
