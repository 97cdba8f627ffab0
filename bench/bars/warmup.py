"""How much faster does ``tierfs warmup`` fill a cache than reading does, behind the standard
link?"""

from __future__ import annotations

import time

from bench.bars.harness import (
    Result,
    Tierfs,
    make_small_files,
    median,
    read_files,
    spread,
)
from bench.workspace import workspace

COUNT, SIZE, READERS, ROUNDS = 4000, 110 * 1000, 4, 3


def run() -> list[Result]:
    plain: list[float] = []
    warm: list[float] = []
    with workspace() as work:
        lake = work / "lake"
        names = make_small_files(lake, COUNT, SIZE)
        for round_number in range(ROUNDS):
            for rates, kind in ((plain, "plain"), (warm, "warm")):
                subject = Tierfs(
                    work,
                    f"file://{lake}",
                    "--cache-size",
                    "4G",
                    "--link",
                    "standard",
                    cache=work / f"cache-{kind}-{round_number}",
                )
                try:
                    if kind == "plain":
                        # A quarter of the files tells the rate, which the link's latency sets.
                        part = names[::4]
                        rates.append(len(part) / read_files(subject.directory, part, READERS, work))
                    else:
                        begin = time.perf_counter()
                        subject.command("warmup", str(subject.directory))
                        rates.append(COUNT / (time.perf_counter() - begin))
                    assert subject.status()["cache"]["cached_files"] >= len(names) // 4
                finally:
                    subject.stop()
    ratios = [w / p for w, p in zip(warm, plain, strict=True)]
    return [
        Result(
            "warmup of 4,000 small files >= 5x what 4 plain readers get",
            f"{spread(ratios, '{:.1f}')} x",
            median(ratios) >= 5,
            {"plain files/s": spread(plain), "warmup files/s": spread(warm)},
        )
    ]
