"""Is anything lost or wrong when everything is killed, 100 times, in the middle of a fill?

Each round: readers fill the cache from a lake of mixed files; keeper and control plane get SIGKILL
at a random moment; a copy of the index (``cache/``) taken then says which blocks it holds as
verified; after the remount exactly those blocks are read, and the lake must not be asked for any of
them.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import trio

from bench import processes
from bench.bars.harness import MIB, Result, Tierfs
from bench.workspace import workspace
from tierfs.index import Index
from tierfs.index.records import BLOCK_SIZE

ROUNDS, FILES, READERS = 100, 160, 4
_libc = ctypes.CDLL(None, use_errno=True)

LOAD = """
import os, random, sys
root, seed, names = sys.argv[1], int(sys.argv[2]), sys.stdin.read().split("\\n")
choose = random.Random(seed)
while True:
    name = choose.choice(names)
    fd = os.open(f"{root}/{name}", os.O_RDONLY)
    size = os.fstat(fd).st_size
    offset = choose.randrange(size) if choose.random() < 0.3 else 0
    while data := os.pread(fd, 1 << 20, offset):
        offset += len(data)
    os.close(fd)
"""


#: A ``sitecustomize`` for the control plane: each read of the local lake becomes a line in a file.
FETCH_LOG = """
import os
from tierfs.lake.local import LocalLake

_read = LocalLake._read


async def _logged(self, key, version, offset, length, *, whole):
    with open(os.environ["TIERFS_FETCH_LOG"], "a") as log:
        log.write(f"{offset} {length} {key.decode()}\\n")
    return await _read(self, key, version, offset, length, whole=whole)


if "TIERFS_FETCH_LOG" in os.environ:
    LocalLake._read = _logged
"""


def make_lake(root: Path) -> dict[str, bytes]:
    """Files of 1 byte to 6 MiB, seeded; returns name -> content."""
    generator = random.Random(7)
    files = {}
    for n in range(FILES):
        size = generator.choice([1, 5000, 110_000, MIB, 2 * MIB + 17, 6 * MIB])
        name = f"d{n % 8}/f{n:04}"
        files[name] = generator.randbytes(size)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(files[name])
    return files


def held_blocks(directory: Path, lake: str) -> dict[str, list[int]]:
    """What an index holds as verified: path -> block numbers. *directory* is a copy, opened
    here."""

    async def read() -> dict[str, list[int]]:
        index = await Index.open(directory, lake)
        try:
            held: dict[str, list[int]] = {}
            after = 0
            while rows := index.cache.scan_files(after, 1000):
                for ino, _ in rows:
                    reference = index.names.object(ino)
                    blocks = sorted(index.cache.blocks(ino))
                    if reference is not None and blocks:
                        held[reference.key.decode()] = blocks
                after = rows[-1][0]
            return held
        finally:
            await index.aclose()

    return trio.run(read)


def fetched_blocks(log: Path) -> set[tuple[str, int]]:
    """(path, block) of all that a fetch log says was read from the lake."""
    blocks = set()
    for line in log.read_text().splitlines() if log.exists() else []:
        offset, length, name = line.split(" ", 2)
        first, end = int(offset) // BLOCK_SIZE, int(offset) + int(length)
        blocks |= {(name, n) for n in range(first, -(-end // BLOCK_SIZE))}
    return blocks


def run() -> list[Result]:
    wrong = fetched_again = checked = fetched = 0
    choose = random.Random(11)
    with workspace() as work:
        lake = work / "lake"
        lake.mkdir()
        hook = work / "hook"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(FETCH_LOG)
        log = work / "fetched"
        env = {"PYTHONPATH": f"{hook}:{Path.cwd()}", "TIERFS_FETCH_LOG": str(log)}
        files = make_lake(lake)
        url = f"file://{lake}"
        options = ("--cache-size", "4G", "--metadata-ttl", "inf", "--link", "5,20,200,400")
        for n in range(ROUNDS):
            if n % 8 == 0:
                shutil.rmtree(work / "tierfs-cache", ignore_errors=True)
            log.unlink(missing_ok=True)
            subject = Tierfs(work, url, *options, env=env)
            pids = subject.status()["pids"]
            load(subject, sorted(files), choose.uniform(0.02, 0.8), list(pids.values()), n)
            fetched += len(fetched_blocks(log))
            log.unlink(missing_ok=True)
            (lake_directory,) = (work / "tierfs-cache").iterdir()
            copy = work / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(lake_directory, copy, ignore=shutil.ignore_patterns("objects", "lock"))
            held = held_blocks(copy, url)
            subject = Tierfs(work, url, *options, env=env)
            try:
                for name, blocks in held.items():
                    fd = os.open(subject.directory / name, os.O_RDONLY)
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
                    for block in blocks:
                        want = files[name][block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE]
                        got = os.pread(fd, len(want), block * BLOCK_SIZE)
                        wrong += got != want
                        checked += 1
                    os.close(fd)
                asked = fetched_blocks(log)
                fetched_again += sum((name, n) in asked for name in held for n in held[name])
            finally:
                subject.stop()
            if sys.stderr.isatty():
                print(f"\r{n + 1}/{ROUNDS}", end="", file=sys.stderr)
    return [
        Result(
            "100 x kill -9 under load: no wrong byte, no held block fetched again",
            f"{ROUNDS} kills, {checked} held blocks: {wrong} wrong, {fetched_again} fetched again",
            wrong == 0 and fetched_again == 0 and checked > 0 and fetched > 0,
            {"blocks fetched under load": fetched},
        )
    ]


def load(subject: Tierfs, names: list[str], seconds: float, pids: list[int], seed: int) -> None:
    """Read at random for *seconds*, kill every process of the mount, and take the mount away."""
    readers = []
    for n in range(READERS):
        reader = subprocess.Popen(
            [sys.executable, "-c", LOAD, str(subject.directory), str(seed * READERS + n)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert reader.stdin is not None
        reader.stdin.write("\n".join(names))
        reader.stdin.close()
        readers.append(reader)
    time.sleep(0.1 + seconds)
    # The control plane first or the keeper first, in turn: each order is a different death.
    for pid in pids if seed % 2 else reversed(pids):
        os.kill(pid, signal.SIGKILL)
    processes.wait_for_end(pids)
    for reader in readers:
        reader.kill()
        reader.wait()
    _libc.umount2(os.fsencode(subject.directory), 2)
