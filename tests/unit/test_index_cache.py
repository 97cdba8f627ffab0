"""The cache environment: files, blocks, totals that always add up, random samples."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.index_checks import cache_findings
from tierfs.index.cache import DATABASES, CacheBatch, CacheIndex
from tierfs.index.environments import Environment
from tierfs.index.records import BLOCK_SIZE, EXTENT_SIZE, BlockRecord, CachedFile

FILE = CachedFile(b"i" * 16, 3 * BLOCK_SIZE, 0, False, False, bytes(8), 0, 0, 5)
OVERHEAD = FILE.overhead_bytes
BLOCK = BlockRecord(BLOCK_SIZE, 1, 2)


@pytest.fixture
def env(tmp_path: Path) -> Iterator[Environment]:
    env = Environment(tmp_path / "cache", name="cache", databases=DATABASES, lake="file:///lake")
    yield env
    env.close()


@pytest.fixture
def cache(env: Environment) -> CacheIndex:
    return CacheIndex(env)


async def fill(cache: CacheIndex, inos: list[int]) -> None:
    batch = CacheBatch()
    for ino in inos:
        batch.put_file(ino, FILE)
        batch.put_blocks(ino, {0: BLOCK, 2: BLOCK._replace(length=10)})
    await cache.commit(batch)


async def test_a_file_and_its_blocks(cache: CacheIndex, env: Environment) -> None:
    assert cache.file(20) is None
    assert cache.block(20, 0) is None
    assert cache.blocks(20) == {}
    assert cache.totals() == (0, 0, 0)
    await fill(cache, [20, 21])
    held = BLOCK_SIZE + 10
    assert cache.file(20) == FILE._replace(present_bytes=held)
    assert cache.block(20, 2) == BLOCK._replace(length=10)
    assert cache.block(20, 1) is None
    assert cache.blocks(20) == {0: BLOCK, 2: BLOCK._replace(length=10)}
    assert cache.totals() == (2, 2 * held, 2 * OVERHEAD)
    assert cache.last_ino() == 21
    assert cache_findings(env) == []


async def test_present_bytes_are_the_indexes_own(cache: CacheIndex, env: Environment) -> None:
    """I7: whatever a caller believes."""
    await fill(cache, [20])
    batch = CacheBatch()
    batch.put_file(20, FILE._replace(present_bytes=12345, complete=True))
    batch.put_blocks(20, {0: BLOCK, 1: BLOCK})
    await cache.commit(batch)
    file = cache.file(20)
    assert file == FILE._replace(present_bytes=2 * BLOCK_SIZE + 10, complete=True)
    assert cache_findings(env) == []


async def test_dropping(cache: CacheIndex, env: Environment) -> None:
    await fill(cache, [20, 21, 22])
    batch = CacheBatch()
    batch.drop_blocks(20, [0, 0, 1, 7])
    batch.drop_file(21)
    batch.drop_file(99)
    await cache.commit(batch)
    assert cache.blocks(20) == {2: BLOCK._replace(length=10)}
    assert cache.file(21) is None
    assert cache.blocks(21) == {}
    assert cache.totals() == (2, BLOCK_SIZE + 20, 2 * OVERHEAD)
    assert cache_findings(env) == []


async def test_late_blocks_do_not_undo_a_drop(cache: CacheIndex, env: Environment) -> None:
    await fill(cache, [20])
    batch = CacheBatch()
    batch.drop_file(20)
    batch.put_blocks(20, {1: BLOCK})
    batch.touch(20, 99)
    await cache.commit(batch)
    assert cache.blocks(20) == {}
    assert cache.totals() == (0, 0, 0)
    batch = CacheBatch()
    batch.put_file(20, FILE)
    await cache.commit(batch)
    assert cache.totals() == (1, 0, OVERHEAD)
    assert cache_findings(env) == []


async def test_a_file_of_another_size_has_another_overhead(
    cache: CacheIndex, env: Environment
) -> None:
    sizes = {20: 1, 21: 4096, 22: 4097}
    for added in (0, 2):
        batch = CacheBatch()
        for ino, size in sizes.items():
            batch.put_file(ino, FILE._replace(size=size + added))
        await cache.commit(batch)
        assert cache.totals().disk_bytes == sum(
            -(size + added) % 4096 + 512 for size in sizes.values()
        )
        assert cache_findings(env) == []


async def test_touch_only_moves_forward(cache: CacheIndex) -> None:
    await fill(cache, [20])
    for last_used_s, expected in ((3, 5), (9, 9), (8, 9)):
        batch = CacheBatch()
        batch.touch(20, last_used_s)
        await cache.commit(batch)
        file = cache.file(20)
        assert file is not None
        assert file.last_used_s == expected


async def test_commit_soon_is_seen_before_a_later_commit(cache: CacheIndex) -> None:
    batch = CacheBatch()
    batch.put_file(20, FILE)
    cache.commit_soon(batch)
    cache.commit_soon(CacheBatch())
    await cache.commit(CacheBatch())
    await fill(cache, [21])
    assert cache.file(20) == FILE


async def test_totals_that_are_not_kept_are_found(
    cache: CacheIndex, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CacheIndex._change_blocks

    def forgetful(self: CacheIndex, *arguments: object) -> int:
        real(self, *arguments)  # type: ignore[arg-type]
        return 0

    monkeypatch.setattr(CacheIndex, "_change_blocks", forgetful)
    await fill(cache, [20])
    assert any(finding.startswith("I7") for finding in cache_findings(env))


async def test_scan_goes_through_all(cache: CacheIndex) -> None:
    inos = [*range(20, 45), 2**63]
    await fill(cache, inos)
    seen: list[int] = []
    while rows := cache.scan_files(seen[-1] if seen else 0, 10):
        seen += [ino for ino, _ in rows]
    assert seen == inos


async def test_samples_are_different_and_nearly_uniform(cache: CacheIndex) -> None:
    # Three clusters with wide gaps between them: a bare probe would nearly always meet their ends.
    inos = [base + n for base in (100, 10**6, 10**12) for n in range(100)]
    await fill(cache, inos)
    rng = random.Random(1)
    met: Counter[int] = Counter()
    for _ in range(500):
        sample = cache.sample_files(rng, 8)
        chosen = [ino for ino, _ in sample]
        assert len(set(chosen)) == len(chosen)
        assert set(chosen) <= set(inos)
        met.update(chosen)
    assert all(file == FILE._replace(present_bytes=BLOCK_SIZE + 10) for _, file in sample)
    assert cache.sample_files(rng, 300) == cache.scan_files(0, 300)
    assert cache.sample_files(rng, 0) == []


async def test_samples_of_a_dense_range_meet_every_file(cache: CacheIndex) -> None:
    await fill(cache, list(range(1000, 1200)))
    rng = random.Random(2)
    met: Counter[int] = Counter()
    for _ in range(1000):
        met.update(ino for ino, _ in cache.sample_files(rng, 8))
    assert len(met) == 200
    assert max(met.values()) < 3 * 8000 / 200


async def test_no_files_no_samples(cache: CacheIndex) -> None:
    assert cache.sample_files(random.Random(1), 5) == []


async def sparse(cache: CacheIndex, ino: int, *numbers: int) -> None:
    batch = CacheBatch()
    batch.put_file(ino, FILE)
    batch.put_blocks(ino, dict.fromkeys(numbers, BLOCK))
    await cache.commit(batch)


async def test_lengths_of_some_blocks(cache: CacheIndex) -> None:
    await fill(cache, [19, 20, 21])
    assert cache.lengths(20, range(3)) == {0: BLOCK_SIZE, 2: 10}
    assert cache.lengths(20, range(1, 3)) == {2: 10}
    assert cache.lengths(20, range(2)) == {0: BLOCK_SIZE}
    assert cache.lengths(20, range(3, 9)) == cache.lengths(22, range(9)) == {}


async def test_the_first_extents_that_hold_anything(cache: CacheIndex) -> None:
    await sparse(cache, 19, 0)
    await sparse(cache, 20, 9, 10, 23, 24, 25, 80)
    await sparse(cache, 21, 0)
    extents = [(n * EXTENT_SIZE, (n + 1) * EXTENT_SIZE) for n in (1, 2, 3, 10)]
    for bytes_, most, expected in (
        (1, 9, 1),
        (2 * BLOCK_SIZE, 9, 1),
        (2 * BLOCK_SIZE + 1, 9, 2),
        (1 << 60, 3, 3),
        (1 << 60, 9, 4),
    ):
        assert cache.first_extents(20, bytes_, most) == extents[:expected]
    assert cache.first_extents(22, 1, 9) == []


async def test_the_gap_around_a_block(cache: CacheIndex) -> None:
    for ino in (19, 20, 21):
        await sparse(cache, ino, 3, 4, 9)
    for ino in (19, 20, 21):
        assert cache.gap(ino, 0, 40) == cache.gap(ino, 2, 40) == range(3)
        assert cache.gap(ino, 7, 40) == range(5, 9)
        assert cache.gap(ino, 10, 40) == cache.gap(ino, 39, 40) == range(10, 40)
        assert cache.gap(ino, 8, 9) == range(5, 9)
    assert cache.gap(18, 5, 40) == cache.gap(22, 5, 40) == range(40)
    assert cache.gap(20, 5, 7) == range(5, 7)
