"""kill -9 in the middle of filling and evicting: what is recorded is right, and is not fetched
again; what is on the disk and not recorded is given back."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.caching import MIB, Refs, WatchedLake, noise, ref_of, rig
from tierfs.cache.blocks import block_extent, intact
from tierfs.cache.store import Store
from tierfs.index.index import open_index
from tierfs.index.records import EXTENT_SIZE, overhead_bytes
from tierfs.lake.protocol import ChecksumKind

ROUNDS = 8
LIMIT = 24 * MIB
SIZES = {16 + n: size for n, size in enumerate([110_000] * 60 + [3 * MIB + 7, 9 * MIB, MIB] * 4)}
#: The object that loses extents.
LARGE = 1000
SIZES[LARGE] = 20 * MIB
FIRST, SECOND = (0, EXTENT_SIZE), (EXTENT_SIZE, 2 * EXTENT_SIZE)

content_of = functools.cache(lambda ino: noise(SIZES[ino], ino))


def lake_and_refs() -> tuple[WatchedLake, Refs]:
    """The same lake in every process."""
    lake = WatchedLake()
    refs: Refs = {}
    for ino, size in SIZES.items():
        info = lake.store_with(b"object-%d" % ino, content_of(ino), ChecksumKind.CRC64NVME)
        refs[ino] = (ref_of(info), size)
    return lake, refs


async def fill_for_ever(directory: Path, seed: int) -> None:
    """The child: read, fetch and evict at random until killed."""
    rng = random.Random(seed)
    lake, refs = lake_and_refs()
    async with rig(directory, lake, refs=refs, cache_size=LIMIT) as r:

        async def worker() -> None:
            while True:
                ino = rng.choice(sorted(SIZES))
                if rng.random() < 0.8:
                    at = rng.randrange(SIZES[ino])
                    assert await r.read(ino, at, MIB) == content_of(ino)[at : at + MIB]
                elif rng.random() < 0.5:
                    await r.front.evict(LARGE, [rng.choice([FIRST, SECOND])])
                    await r.fetch(LARGE, (0, 12 * MIB))
                else:
                    await r.front.evict(ino)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(worker)
            print("filling", flush=True)


def content(path: bytes) -> bytes:
    """All of a file."""
    return Path(os.fsdecode(path)).read_bytes()


async def recorded_blocks(directory: Path) -> dict[int, set[int]]:
    """What the index holds after a kill; each block is compared with the file and the lake."""
    recorded: dict[int, set[int]] = {}
    store = Store(directory)
    async with open_index(directory, "lake") as index:
        for ino, _ in index.cache.scan_files(0, 1000):
            blocks = index.cache.blocks(ino)
            recorded[ino] = set(blocks)
            data = content(store.path(ino)) if blocks else b""
            for n, record in blocks.items():
                lo, hi = block_extent(n, SIZES[ino])
                assert intact(record, data[lo:hi])
                assert data[lo:hi] == content_of(ino)[lo:hi]
    return recorded


async def read_everything(directory: Path, recorded: dict[int, set[int]]) -> None:
    """Read all objects; no byte of a recorded block may come from the lake."""
    lake, refs = lake_and_refs()
    async with rig(directory, lake, refs=refs) as r:
        on_disk = {int(p.name, 16) for p in (directory / "objects").rglob("*") if p.is_file()}
        assert on_disk <= set(recorded)
        for ino in recorded:
            lake.requests.clear()
            assert await r.read(ino) == content_of(ino)
            for offset, length in lake.ranges():
                touched = range(offset // MIB, (offset + length - 1) // MIB + 1)
                assert recorded[ino].isdisjoint(touched)
        await r.settle()
        assert r.front.stats()["bad_blocks"] == 0


def start_child(what: str, directory: Path, seed: int = 0) -> subprocess.Popen[bytes]:
    """This module in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.crash.test_cache_crash", what, str(directory), str(seed)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )


def test_a_kill_at_any_moment_keeps_every_recorded_block(tmp_path: Path) -> None:
    rng = random.Random(11)
    directory = tmp_path / "cache"
    kept = 0
    for round_ in range(ROUNDS):
        child = start_child("fill", directory, round_)
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"filling\n"
            # How far the child gets in this time is the point: any moment will do.
            child_lives_s = rng.uniform(0.01, 0.4)
            try:
                child.wait(child_lives_s)
            except subprocess.TimeoutExpired:
                os.kill(child.pid, signal.SIGKILL)
        finally:
            child.kill()
            status = child.wait()
            if child.stdout is not None:
                child.stdout.close()
        assert status == -signal.SIGKILL
        recorded = trio.run(recorded_blocks, directory)
        kept += sum(map(len, recorded.values()))
        if round_ == ROUNDS - 1:
            trio.run(read_everything, directory, recorded)
    assert kept > 0


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def evict_and_be_killed(directory: Path, *, bytes_first: bool) -> None:
    """The child: evict an extent and be killed between its records and its bytes; with
    *bytes_first* in the forbidden order (C10)."""

    async def punch(*_: object) -> None:
        kill_this_process()

    lake, refs = lake_and_refs()
    async with rig(directory, lake, refs=refs) as r:
        await r.fetch(LARGE, (0, 18 * MIB))
        await r.settle()
        store, evictor = r.front._store, r.front._evictor

        async def forget(_: object) -> None:
            await store.punch(LARGE, [FIRST])
            kill_this_process()

        with pytest.MonkeyPatch.context() as patch:
            if bytes_first:
                patch.setattr(evictor, "_forget", forget)
            else:
                patch.setattr(store, "punch", punch)
            await r.front.evict(LARGE, [FIRST])


def kill_in_an_eviction(directory: Path, what: str) -> None:
    with start_child(what, directory) as child:
        assert child.wait() == -signal.SIGKILL


def test_a_kill_between_records_and_bytes_costs_neither_bytes_nor_room(tmp_path: Path) -> None:
    kill_in_an_eviction(tmp_path, "records-first")
    recorded = trio.run(recorded_blocks, tmp_path)
    assert recorded == {LARGE: set(range(8, 18))}

    async def evict_the_next() -> None:
        lake, refs = lake_and_refs()
        async with rig(tmp_path, lake, refs=refs) as r:
            # What the kill left is there, and counted by nobody,
            assert r.front.stats()["used_bytes"] == 10 * MIB + overhead_bytes(MIB)
            assert r.bytes_on_disk(LARGE) >= 18 * MIB
            # until the next extent takes it along.
            assert await r.front.evict(LARGE, [SECOND]) == 8 * MIB
            assert r.front.stats()["used_bytes"] == 2 * MIB + overhead_bytes(MIB)
            assert r.bytes_on_disk(LARGE) <= 2 * MIB + 4096

    trio.run(evict_the_next)
    trio.run(read_everything, tmp_path, {LARGE: {16, 17}})


def test_what_a_kill_between_records_and_bytes_left_is_overwritten(tmp_path: Path) -> None:
    kill_in_an_eviction(tmp_path, "records-first")
    trio.run(read_everything, tmp_path, trio.run(recorded_blocks, tmp_path))
    assert trio.run(recorded_blocks, tmp_path) == {LARGE: set(range(20))}


def test_sabotage_with_bytes_before_records_a_kill_leaves_records_of_holes(tmp_path: Path) -> None:
    kill_in_an_eviction(tmp_path, "bytes-first")

    async def read() -> None:
        lake, refs = lake_and_refs()
        async with rig(tmp_path, lake, refs=refs) as r:
            assert await r.read(LARGE) == content_of(LARGE)
            assert r.front.stats()["bad_blocks"] == 8

    with pytest.raises(AssertionError):
        trio.run(recorded_blocks, tmp_path)
    trio.run(read)


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        trio.run(fill_for_ever, Path(sys.argv[2]), int(sys.argv[3]))
    else:
        bytes_first = sys.argv[1] == "bytes-first"
        trio.run(functools.partial(evict_and_be_killed, Path(sys.argv[2]), bytes_first=bytes_first))
