"""An order of reads that is told to a mount: by hand, and by the program that reads."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.mount.mounting import Mount, wait_until
from tierfs.order import PlannedSampler

KIB, MIB = 1 << 10, 1 << 20
FILES, SIZE = 160, 256 * KIB
Make = Callable[..., Mount]
Content = Callable[[int, int], bytes]


def fill(lake: Path, content: Content) -> list[str]:
    (lake / "train").mkdir()
    for n in range(FILES):
        (lake / "train" / f"{n:03}").write_bytes(content(n, SIZE))
    return [f"train/{n:03}" for n in range(FILES)]


def read(
    made: Mount,
    lake: Path,
    names: Sequence[str],
    ready: Callable[[Mount, Sequence[str]], bool],
    at_once: int = 8,
) -> None:
    """Read at the speed of a trainer: the next *at_once* of *names* when they are *ready*."""
    for n in range(0, len(names), at_once):
        batch = names[n : n + at_once]
        wait_until(lambda batch=batch: ready(made, batch), "what is fetched ahead")
        for name in batch:
            with (made.directory / name).open("rb", buffering=0) as file:
                assert file.read() == (lake / name).read_bytes()


def fetched(made: Mount, names: Sequence[str]) -> bool:
    """Whether all of them are in the cache: the order is followed."""
    states = (os.getxattr(made.directory / name, "user.tierfs.state") for name in names)
    return all(state == b"cached" for state in states)


def idle(made: Mount, names: Sequence[str]) -> bool:
    """Whether nothing is fetched."""
    return bool(made.status()["cache"]["in_flight"] == 0)


def plan(made: Mount, *arguments: str | Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        made.command("plan", made.directory, *arguments, "--json").stdout
    )
    return answer


def test_an_order_that_is_told_is_fetched_ahead_and_hardly_a_read_misses(
    mount: Make, lake: Path, content: Content, tmp_path: Path
) -> None:
    names = fill(lake, content)
    orders = [random.Random(seed).sample(names, FILES) for seed in range(2)]
    file = tmp_path / "order"
    with mount("--cache-size", f"{FILES * SIZE // 4 // MIB}M") as made:
        file.write_text("".join(f"{name}\n" for name in [*orders[0], "train/nothing"]))
        assert plan(made, file)["entries"] == FILES
        file.write_text("".join(f"{made.directory}/{name}\t0\t100\n" for name in orders[1]))
        told = plan(made, file, "--append")
        assert (told["entries"], told["unknown"], told["believed"]) == (2 * FILES, 1, True)
        wait_until(
            lambda: made.status()["reading"]["ahead_files"] >= FILES // 10, "the first files"
        )
        for order in orders:
            # No more than an eighth of the cache, which is how far ahead it goes at least.
            read(made, lake, order, fetched, at_once=4)
        # A native front tells of the last reads a moment later.
        wait_until(lambda: plan(made)["hits"] == 2 * FILES, "all reads to be known")
        status = made.status()
        assert status["reading"]["plan_position"] == 2 * FILES
        assert status["reading"]["ahead_used"] > 0.9 * 1.7 * FILES
        assert status["cache"]["used_bytes"] <= FILES * SIZE // 4
        # Of the second epoch what the cache holds at the end of the first comes no second time.
        assert status["cache"]["bytes_from_lake"] < 1.9 * FILES * SIZE


def test_a_wrong_order_changes_no_byte_and_is_given_up(
    mount: Make, lake: Path, content: Content, tmp_path: Path
) -> None:
    names = fill(lake, content)
    file = tmp_path / "order"
    file.write_text("".join(f"{name}\n" for name in random.Random(1).sample(names, FILES)))
    with mount("--cache-size", f"{FILES * SIZE // 4 // MIB}M") as made:
        assert plan(made, file)["believed"]
        for seed in range(2, 5):
            read(made, lake, random.Random(seed).sample(names, FILES), idle)
        assert not plan(made)["believed"]
        assert plan(made, "--clear")["entries"] == 0


def test_a_sampler_tells_its_order_in_each_epoch(mount: Make, lake: Path, content: Content) -> None:
    names = fill(lake, content)
    with mount("--cache-size", f"{FILES * SIZE // 4 // MIB}M") as made:

        class Shuffled:
            def __iter__(self) -> Iterator[int]:
                return iter(random.sample(range(FILES), FILES))

            def __len__(self) -> int:
                return FILES

        sampler = PlannedSampler(
            Shuffled(),
            lambda n: made.directory / names[n],
            made.directory,
            runtime_dir=made.runtime,
        )
        for epoch in (1, 2):
            indices = iter(sampler)
            first = next(indices)
            assert plan(made)["entries"] == epoch * FILES
            read(made, lake, [names[n] for n in (first, *indices)], fetched)
        wait_until(lambda: plan(made)["position"] == 2 * FILES, "all reads to be known")
        assert plan(made)["unknown"] == 0
        status = made.status()["reading"]
        assert status["ahead_used"] > 0.9 * 1.5 * FILES
