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


def test_what_was_read_to_its_end_goes_before_what_nobody_has_read() -> None:
    hot = HotBlocks(30)
    for n in range(3):
        hot.put(1, n, bytes(10))
    hot.spend(1, 2)
    hot.spend(1, 7)
    hot.put(1, 3, bytes(10))
    assert [n for n in range(4) if hot.get(1, n) is not None] == [0, 1, 3]


def test_those_who_pass_by_share_the_memory() -> None:
    hot = HotBlocks(300)
    assert hot.window_bytes == 100
    hot.passing.update((16, 17, 18, 19))
    assert hot.window_bytes == 25


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
