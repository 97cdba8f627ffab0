"""The index after kill -9, and with its files damaged behind its back.

Each protection has a twin test that switches it off and must see the damage get through.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.index_checks import cache_findings, names_findings
from tierfs.errors import IndexDamaged
from tierfs.index import Index, damage
from tierfs.index.cache import CacheBatch
from tierfs.index.journal_inodes import InodeAllocator
from tierfs.index.names import NamesBatch
from tierfs.index.records import (
    FIRST_INO,
    ROOT_INO,
    BlockRecord,
    CachedFile,
    Inode,
    Kind,
    ObjectRef,
)
from tierfs.lake.protocol import Version

REPOSITORY = Path(__file__).parents[2]
LAKE = "file:///lake"
ITERATIONS = 20
BATCH = 50
FILE = CachedFile(b"i" * 16, 100, 0, True, True, bytes(8), 0, 0, 0)


def start(function: str, directory: Path, *before: str) -> subprocess.Popen[str]:
    """Run ``function(directory)`` of this module in a process of its own, statements *before*
    it.
    """
    lines = ["import tests.crash.test_index_crash as here", *before]
    lines.append(f"here.{function}({str(directory)!r})")
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def listed(directory: Path) -> set[str]:
    """The names in *directory*."""
    return {path.name for path in directory.iterdir()}


def status(function: str, directory: Path, *before: str) -> int:
    """The exit status of such a process; negative: the signal that ended it."""
    with start(function, directory, *before) as child:
        child.communicate()
    return child.returncode


# What runs in the children.


def write_forever(directory: str) -> None:
    """Take numbers, commit them to names/ and cache/, and say so on stdout: "took" before the
    commit, "kept" after its acknowledgement.
    """

    async def run() -> None:
        index = await Index.open(Path(directory), LAKE)
        while True:
            await index.inodes.ensure(BATCH)
            inos = [index.inodes.next_ino() for _ in range(BATCH)]
            print("took", inos[0], inos[-1], flush=True)
            names, cache = NamesBatch(), CacheBatch()
            for ino in inos:
                inode = Inode(Kind.FILE, 0, -1, -1, 100, ino, ROOT_INO)
                ref = ObjectRef(b"key-%d" % ino, Version(b'"e"'), False, False)
                names.put_entry(ROOT_INO, b"name-%d" % ino, ino, inode, ref, 0)
                cache.put_file(ino, FILE)
                cache.put_blocks(ino, {0: BlockRecord(100, ino, ino)})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(index.names.commit, names)
                nursery.start_soon(index.cache.commit, cache)
            print("kept", inos[0], inos[-1], flush=True)

    trio.run(run)


def write_forever_from_memory(directory: str) -> None:
    """As `write_forever`, but nothing remembers which numbers were handed out."""

    async def in_memory_only(self: InodeAllocator, count: int) -> None:
        self._next, self._end = FIRST_INO, FIRST_INO + count

    InodeAllocator._reserve = in_memory_only  # type: ignore[method-assign]
    write_forever(directory)


def read_all(directory: str) -> None:
    """Open the index and read every entry."""

    async def run() -> None:
        index = await Index.open(Path(directory), LAKE)
        after = 0
        while rows := index.names.children(ROOT_INO, after, 1000):
            index.names.dentries(ROOT_INO, [name for _, name, _ in rows])
            after = rows[-1][0]
        index.names.entries(ROOT_INO, b"", 1 << 20)
        await index.aclose()

    trio.run(run)


# Kill -9.


def parse(output: str) -> Iterator[tuple[str, range]]:
    for line in output.splitlines(keepends=True):
        if line.endswith("\n"):
            what, first, last = line.split()
            yield what, range(int(first), int(last) + 1)


def kill_rounds(directory: Path, writer: str, rounds: int) -> tuple[set[int], list[str]]:
    """Kill *writer* again and again. Returns what was acknowledged, and which numbers came
    twice.
    """
    rng = random.Random(20_240_601)
    kept: set[int] = set()
    taken: set[int] = set()
    twice: list[str] = []
    for _ in range(rounds):
        child = start(writer, directory)
        assert child.stdout is not None
        output = "".join(child.stdout.readline() for _ in range(rng.randrange(1, 120)))
        child.kill()
        rest, _ = child.communicate()
        for what, numbers in parse(output + rest):
            if what == "took":
                if taken & set(numbers):
                    twice.append(f"{numbers} came twice")
                taken |= set(numbers)
            else:
                kept |= set(numbers)
    return kept, twice


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    kept, twice = await trio.to_thread.run_sync(kill_rounds, tmp_path, "write_forever", ITERATIONS)
    assert twice == []
    assert len(kept) > ITERATIONS * BATCH
    index = await Index.open(tmp_path, LAKE)
    for ino in kept:
        inode, ref = index.names.inode(ino), index.names.object(ino)
        assert inode is not None
        assert inode.mtime_ns == ino
        assert ref is not None
        assert ref.key == b"key-%d" % ino
        assert index.cache.block(ino, 0) == BlockRecord(100, ino, ino)
    assert names_findings(index._names) == []
    assert cache_findings(index._cache) == []
    await index.inodes.ensure(1)
    assert index.inodes.next_ino() > max(kept)
    await index.aclose()
    assert listed(tmp_path) == {"lock", "names", "cache", "journal"}


async def test_without_reservations_numbers_come_twice(tmp_path: Path) -> None:
    _, twice = await trio.to_thread.run_sync(kill_rounds, tmp_path, "write_forever_from_memory", 3)
    assert twice


# Damage.


async def build(directory: Path, entries: int = 20_000) -> None:
    """An index with that many entries, closed properly."""
    index = await Index.open(directory, LAKE)
    await index.inodes.ensure(entries)
    names, cache = NamesBatch(), CacheBatch()
    for n in range(entries):
        ino = index.inodes.next_ino()
        inode = Inode(Kind.FILE, 0, -1, -1, 100, 0, ROOT_INO)
        names.put_entry(ROOT_INO, b"needle-%06d" % n, ino, inode, None, 0)
        cache.put_file(ino, FILE)
    await index.names.commit(names)
    await index.cache.commit(cache)
    await index.aclose()


def truncate(data: Path) -> None:
    with data.open("r+b") as file:
        file.truncate(data.stat().st_size // 2)


def zero_pages_with(data: Path, needle: bytes, page_size: int = 4096) -> int:
    """Zero the pages that hold *needle*, old copies included."""
    content = bytearray(data.read_bytes())
    zeroed = 0
    for at in range(2 * page_size, len(content), page_size):
        if needle in content[at : at + page_size]:
            content[at : at + page_size] = bytes(page_size)
            zeroed += 1
    data.write_bytes(content)
    return zeroed


NO_SIZE_CHECK = "here.damage.refuse_truncated = lambda *_: None"
NO_SCAN = "here.damage.UNCLEAN_ENDS_BEFORE_SCAN = 1 << 30"


async def test_a_truncated_index_starts_empty(tmp_path: Path) -> None:
    await build(tmp_path)
    for name in ("names", "cache"):
        truncate(tmp_path / name / damage.DATA_FILE)
    index = await Index.open(tmp_path, LAKE)
    assert index.names.entry_count() == 0
    assert index.cache.totals() == (0, 0, 0)
    await index.inodes.ensure(1)
    assert index.inodes.next_ino() > 20_000
    await index.aclose()
    assert (tmp_path / "names.damaged-1").is_dir()


async def test_without_the_size_check_truncation_ends_the_process(tmp_path: Path) -> None:
    await build(tmp_path)
    truncate(tmp_path / "names" / damage.DATA_FILE)
    assert await trio.to_thread.run_sync(status, "read_all", tmp_path, NO_SIZE_CHECK) < 0


async def test_a_truncated_journal_is_refused(tmp_path: Path) -> None:
    await build(tmp_path, entries=10)
    truncate(tmp_path / "journal" / damage.DATA_FILE)
    for _ in range(2):
        with pytest.raises(IndexDamaged, match="restore it, or remove"):
            await Index.open(tmp_path, LAKE)


@pytest.mark.parametrize("length", [0, 1, 100, 4096, 8191])
async def test_hardly_anything_left(tmp_path: Path, length: int) -> None:
    await build(tmp_path, entries=10)
    with (tmp_path / "names" / damage.DATA_FILE).open("r+b") as file:
        file.truncate(length)
    index = await Index.open(tmp_path, LAKE)
    assert index.names.entry_count() == 0
    await index.aclose()


async def test_garbage_instead_of_meta_pages(tmp_path: Path) -> None:
    await build(tmp_path, entries=10)
    data = tmp_path / "cache" / damage.DATA_FILE
    data.write_bytes(b"\xa5" * 8192 + data.read_bytes()[8192:])
    index = await Index.open(tmp_path, LAKE)
    assert index.cache.totals() == (0, 0, 0)
    await index.aclose()


async def test_zeroed_pages_heal_after_two_deaths(tmp_path: Path) -> None:
    """LMDB asserts on such a page, which ends the process; the third start finds out why."""
    await build(tmp_path)
    assert zero_pages_with(tmp_path / "names" / damage.DATA_FILE, b"needle-010000")
    deaths = 0
    for _ in range(3):
        deaths += await trio.to_thread.run_sync(status, "read_all", tmp_path) != 0
    assert deaths <= 2
    index = await Index.open(tmp_path, LAKE)
    assert index.names.entry_count() == 0
    await index.aclose()
    assert (tmp_path / "names.damaged-1").is_dir()


async def test_without_the_scan_zeroed_pages_never_heal(tmp_path: Path) -> None:
    await build(tmp_path)
    assert zero_pages_with(tmp_path / "names" / damage.DATA_FILE, b"needle-010000")
    ends = [await trio.to_thread.run_sync(status, "read_all", tmp_path, NO_SCAN) for _ in range(4)]
    assert ends == [-signal.SIGABRT] * 4


async def test_the_scan_passes_what_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await build(tmp_path)
    scans = []
    real = damage._scan

    def scan(path: Path, map_size: int, max_databases: int) -> None:
        real(path, map_size, max_databases)
        scans.append(path)

    monkeypatch.setattr(damage, "_scan", scan)
    for name in ("names", "cache", "journal"):
        (tmp_path / name / "unclean").write_text("2")
    index = await Index.open(tmp_path, LAKE)
    assert len(scans) == 3
    assert index.names.entry_count() == 20_000
    await index.aclose()
