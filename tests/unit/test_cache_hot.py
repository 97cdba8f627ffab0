"""The small memory of verified blocks."""

from __future__ import annotations

from tierfs.cache.hot import HotBlocks


def test_the_least_recently_used_block_goes_first() -> None:
    hot = HotBlocks(30)
    for n in range(3):
        hot.put(1, n, bytes(10))
    assert hot.get(1, 0) is not None
    hot.put(1, 3, bytes(10))
    assert [n for n in range(4) if hot.get(1, n) is not None] == [0, 2, 3]
    assert hot.used_bytes == 30


def test_a_block_put_twice_counts_once_and_one_too_large_not_at_all() -> None:
    hot = HotBlocks(30)
    hot.put(1, 0, bytes(10))
    hot.put(1, 0, bytes(20))
    hot.put(2, 0, bytes(31))
    assert hot.used_bytes == 20
    assert hot.get(2, 0) is None


def test_forgetting_an_object_leaves_the_others() -> None:
    hot = HotBlocks(100)
    hot.put(1, 0, bytes(10))
    hot.put(1, 1, bytes(10))
    hot.put(2, 0, bytes(10))
    hot.forget(1)
    assert hot.used_bytes == 10
    assert hot.get(2, 0) is not None
