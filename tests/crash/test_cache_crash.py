"""kill -9 in the middle of filling and evicting: what is recorded is right, and is not fetched
again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import trio

from tests.caching import MIB, Refs, WatchedLake, noise, ref_of, rig
from tierfs.cache.blocks import block_extent, intact
from tierfs.cache.store import Store
from tierfs.index.index import open_index
from tierfs.lake.protocol import ChecksumKind

ROUNDS = 8
LIMIT = 24 * MIB
SIZES = {16 + n: size for n, size in enumerate([110_000] * 60 + [3 * MIB + 7, 9 * MIB, MIB] * 4)}


def lake_and_refs() -> tuple[WatchedLake, Refs]:
    """The same lake in every process."""
    lake = WatchedLake()
    refs: Refs = {}
    for ino, size in SIZES.items():
        info = lake.store(b"object-%d" % ino, noise(size, ino), ChecksumKind.CRC64NVME)
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
                    assert await r.read(ino, at, MIB) == noise(SIZES[ino], ino)[at : at + MIB]
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
                assert data[lo:hi] == noise(SIZES[ino], ino)[lo:hi]
    return recorded


async def read_everything(directory: Path, recorded: dict[int, set[int]]) -> None:
    """Read all objects; no byte of a recorded block may come from the lake."""
    lake, refs = lake_and_refs()
    async with rig(directory, lake, refs=refs) as r:
        on_disk = {int(p.name, 16) for p in (directory / "objects").rglob("*") if p.is_file()}
        assert on_disk <= set(recorded)
        for ino in recorded:
            lake.requests.clear()
            assert await r.read(ino) == noise(SIZES[ino], ino)
            for offset, length in lake.ranges():
                touched = range(offset // MIB, (offset + length - 1) // MIB + 1)
                assert recorded[ino].isdisjoint(touched)
        assert r.front.stats()["bad_blocks"] == 0


def test_a_kill_at_any_moment_keeps_every_recorded_block(tmp_path: Path) -> None:
    rng = random.Random(11)
    directory = tmp_path / "cache"
    kept = 0
    for round_ in range(ROUNDS):
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.test_cache_crash", str(directory), str(round_)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
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


if __name__ == "__main__":
    trio.run(fill_for_ever, Path(sys.argv[1]), int(sys.argv[2]))
