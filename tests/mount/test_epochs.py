"""Reading more than the cache holds: what is kept, what is not, and how often each byte comes."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.mount.mounting import Mount, wait_until

KIB, MIB = 1 << 10, 1 << 20
Make = Callable[..., Mount]
Content = Callable[[int, int], bytes]

pytestmark = pytest.mark.parametrize("front", ["native"], indirect=True)

FILES, SIZE = 320, 256 * KIB


def read(path: Path) -> bytes:
    """A whole file, from the mount and not from the kernel's page cache, by one open."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


def fetched_by(made: Mount, work: Callable[[], None]) -> int:
    """The bytes that come from the lake for *work*."""

    def idle() -> bool:
        cache = made.status()["cache"]
        return bool(cache["in_flight"] == cache["open_handles"] == 0)

    before = int(made.status()["cache"]["bytes_from_lake"])
    work()
    wait_until(idle, "what was fetched to be kept or not")
    return int(made.status()["cache"]["bytes_from_lake"]) - before


def demanded_bytes(made: Mount) -> int:
    """What the one job waited for, in all its epochs."""
    (job,) = made.status()["reading"]["jobs"]
    epochs = [*job["past_epochs"], job]
    assert all(each["demanded_bytes"] == each["stalls"] * SIZE for each in epochs)
    return sum(each["demanded_bytes"] for each in epochs)


@pytest.mark.parametrize("options", [["--no-fill"], []], ids=["no fill", "fill"])
def test_a_shuffled_epoch_fetches_what_the_cache_does_not_hold_and_no_more(
    mount: Make, lake: Path, content: Content, options: list[str]
) -> None:
    (lake / "train").mkdir()
    names = [f"{n:03}" for n in range(FILES)]
    for n, name in enumerate(names):
        (lake / "train" / name).write_bytes(content(n, SIZE))

    # Half of it fits. With the least recently used out, 85 % would come again in each epoch. What
    # is not kept is in memory for a while, which is to be no second cache.
    size = f"{FILES * SIZE // 2 // MIB}M"
    with mount("--cache-size", size, "--memory", "32M", *options) as made:

        def epoch(order: Sequence[str]) -> None:
            for name in order:
                assert read(made.directory / "train" / name) == (lake / "train" / name).read_bytes()

        assert fetched_by(made, partial(epoch, names)) == FILES * SIZE
        for seed in (1, 2):
            order = random.Random(seed).sample(names, FILES)
            share = fetched_by(made, partial(epoch, order)) / (FILES * SIZE)
            assert 0.45 < share < 0.57
        if "--no-fill" in options:
            # Whoever opens a file again soon has it from memory.
            assert fetched_by(made, partial(epoch, [*names[:2], *names[-2:]] * 2)) <= 4 * SIZE
        # What came while it was looked for was not waited for, and the last reads are told later.
        waited_for = demanded_bytes(made) / made.status()["cache"]["bytes_from_lake"]
        assert 0.95 < waited_for <= 1 if "--no-fill" in options else 0 < waited_for < 1
        cache = made.status()["cache"]
        assert cache["declined"] > 0
        assert cache["declined_bytes"] == cache["declined"] * SIZE
        if "--no-fill" in options:
            # What stays is not exchanged for what comes.
            assert cache["declined"] > FILES
            assert cache["evicted_bytes"] < 0.1 * FILES * SIZE
        assert cache["used_bytes"] <= FILES * SIZE // 2
        assert (cache["bad_blocks"], cache["disk_errors"]) == (0, 0)


def test_what_is_not_kept_comes_once_though_it_is_read_ahead(
    mount: Make, lake: Path, content: Content
) -> None:
    for n in range(20):
        (lake / f"{n:02}").write_bytes(content(n, MIB))
    shard = content(99, 128 * MIB)
    (lake / "shard").write_bytes(shard)
    with mount("--cache-size", "16M") as made:
        for n in range(20):
            assert read(made.directory / f"{n:02}") == content(n, MIB)

        def read_shard() -> None:
            with (made.directory / "shard").open("rb", buffering=0) as file:
                for lo in range(0, len(shard), MIB):
                    assert file.read(MIB) == shard[lo : lo + MIB]
                    if lo == len(shard) // 2:
                        wait_until(
                            lambda: made.status()["cache"]["hot_bytes"] > 0,
                            "what is to be read next to wait in memory",
                        )

        assert fetched_by(made, read_shard) < 1.1 * len(shard)
        assert made.status()["cache"]["declined"] > 0
