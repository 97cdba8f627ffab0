"""A cache smaller than what is read: what leaves it, and what stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.mount.mounting import Mount, tierfs, wait_until
from tierfs.index.records import overhead_bytes

MIB = 1 << 20
Make = Callable[..., Mount]
Content = Callable[[int, int], bytes]


def read(path: Path, lo: int, hi: int) -> bytes:
    """``[lo, hi)`` of a file, through a descriptor of its own."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        file.seek(lo)
        pieces = []
        while lo < hi:
            pieces.append(file.read(min(hi - lo, MIB)))
            lo += len(pieces[-1])
        return b"".join(pieces)


def cached_bytes(path: Path) -> int:
    return int(os.getxattr(path, "user.tierfs.cached_bytes"))


def idle(made: Mount) -> bool:
    """Nothing is on its way, and all that came is recorded."""
    cache = made.status()["cache"]
    # All files are of whole pages here.
    overhead = overhead_bytes(MIB) * cache["cached_files"]
    recorded = cache["cached_bytes"] + overhead == cache["used_bytes"]
    return bool(recorded and not cache["in_flight"] and not cache["open_handles"])


def test_room_takes_some_extents_of_a_half_read_file_and_the_rest_is_still_served(
    mount: Make, lake: Path, content: Content
) -> None:
    shard = content(1, 48 * MIB)
    (lake / "shard").write_bytes(shard)
    (lake / "next").write_bytes(content(2, 12 * MIB))
    with mount("--cache-size", "40M") as made:
        path = made.directory / "shard"
        assert read(path, 0, 32 * MIB) == shard[: 32 * MIB]
        wait_until(lambda: idle(made), "the shard to be let go of")
        had = cached_bytes(path)
        assert 32 * MIB <= had < 40 * MIB
        cache_file = Path(os.fsdecode(os.getxattr(path, "user.tierfs.cache_path")))

        # Reading ahead in the shard met the limit, after which eviction rests for a second.
        warm_up = ("warmup", made.directory / "next", "--runtime-dir", made.runtime)
        wait_until(lambda: tierfs(*warm_up).returncode == 0, "the next file to be cached")
        assert os.getxattr(made.directory / "next", "user.tierfs.state") == b"cached"
        kept = cached_bytes(path)
        assert 8 * MIB <= had - kept <= 16 * MIB
        assert cache_file.stat().st_blocks * 512 <= kept + 4096
        cache = made.status()["cache"]
        assert cache["evicted_files"] == 0
        assert cache["evicted_extents"] == -(-(had - kept) // (8 * MIB))
        assert cache["used_bytes"] <= 40 * MIB

        before = made.lake_gets()
        # Not to the end of what was read: what was on its way when the limit was met came in any
        # order, and found room or not.
        for lo in range(16 * MIB, 24 * MIB, MIB):
            # In pieces apart, so that nothing behind them is read ahead.
            assert read(path, lo, lo + MIB // 8) == shard[lo : lo + MIB // 8]
        assert made.lake_gets() == before
        # What has left comes again, and is right.
        assert read(path, 0, 8 * MIB) == shard[: 8 * MIB]
        assert made.lake_gets() > before
        assert made.status()["cache"]["bad_blocks"] == 0


def test_what_is_warmed_up_into_a_full_cache_takes_the_place_of_older_files(
    mount: Make, lake: Path, content: Content
) -> None:
    for kind in ("old", "new"):
        (lake / kind).mkdir()
        for n in range(20):
            (lake / kind / f"{n:02}").write_bytes(content(n, MIB))
    with mount("--cache-size", "30M") as made:

        def cached(kind: str) -> int:
            paths = [made.directory / kind / f"{n:02}" for n in range(20)]
            return sum(os.getxattr(path, "user.tierfs.state") == b"cached" for path in paths)

        for n in range(20):
            assert (made.directory / "old" / f"{n:02}").read_bytes() == content(n, MIB)
        wait_until(lambda: cached("old") == 20 and idle(made), "the old files to be cached")
        # Last uses are told apart by the second.
        time.sleep(1.1)
        done = tierfs("warmup", made.directory / "new", "--runtime-dir", made.runtime)
        assert done.returncode == 0, done.stderr
        assert cached("new") == 20
        assert 5 <= cached("old") <= 10


def test_a_warm_up_of_more_than_the_cache_holds_keeps_what_fits_and_says_so(
    mount: Make, lake: Path, content: Content
) -> None:
    for kind, count in (("old", 20), ("new", 60)):
        (lake / kind).mkdir()
        for n in range(count):
            (lake / kind / f"{n:02}").write_bytes(content(n, MIB))
    with mount("--cache-size", "30M") as made:

        def state(n: int) -> bytes:
            return os.getxattr(made.directory / "new" / f"{n:02}", "user.tierfs.state")

        for n in range(20):
            assert (made.directory / "old" / f"{n:02}").read_bytes() == content(n, MIB)
        wait_until(lambda: idle(made), "the old files to be cached")
        assert (made.directory / "new" / "40").read_bytes() == content(40, MIB)
        wait_until(lambda: idle(made) and state(40) == b"cached", "one of the new ones, too")
        for _ in range(2):
            done = tierfs("warmup", made.directory / "new", "--runtime-dir", made.runtime)
            assert done.returncode == 1, done.stdout
            assert "--cache-size" in done.stdout
            wait_until(lambda: idle(made), "what was under way")
            kept = {n for n in range(60) if state(n) == b"cached"}
            assert len(kept) >= 25
        for n in kept:
            assert (made.directory / "new" / f"{n:02}").read_bytes() == content(n, MIB)
