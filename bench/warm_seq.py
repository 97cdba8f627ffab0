"""How fast is a warm sequential read of 1 GiB in 1 MiB reads, against the same file on local disk?

The page cache is dropped before each read, so that what is measured is the way from NVMe to the
reader.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from bench.harness import (
    MIB,
    Rclone,
    Result,
    Subject,
    Tierfs,
    cpu_s,
    drop_caches,
    median,
    rclone_binary,
    spread,
    workspace,
)

SIZE = 1 << 30
ROUNDS = 7


def read_seq(path: Path) -> float:
    """MB/s of one pass."""
    buffer = bytearray(MIB)
    begin = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    total = 0
    while got := os.readv(fd, [buffer]):
        total += got
    os.close(fd)
    assert total == SIZE
    return total / (time.perf_counter() - begin) / 1e6


def run() -> list[Result]:
    with workspace() as work:
        lake = work / "lake"
        lake.mkdir()
        piece = random.Random(1).randbytes(MIB)
        with open(lake / "big", "wb") as out:
            for n in range(SIZE // MIB):
                out.write(n.to_bytes(8, "big") + piece[8:])
        subjects: list[Subject] = [
            Subject(lake),
            Tierfs(work, f"file://{lake}", "--cache-size", "4G"),
        ]
        binary = rclone_binary()
        if binary:
            subjects.append(Rclone(work, lake, binary))
        rates: dict[str, list[float]] = {s.name: [] for s in subjects}
        try:
            for subject in subjects[1:]:
                read_seq(subject.directory / "big")  # fills the cache
            time.sleep(2)
            daemon = subjects[1].pids()
            cpu = 0.0
            for _ in range(ROUNDS):
                for subject in subjects:
                    drop_caches()
                    before = cpu_s(daemon)
                    rates[subject.name].append(read_seq(subject.directory / "big"))
                    if subject.name == "tierfs":
                        cpu += cpu_s(daemon) - before
        finally:
            for subject in subjects[1:]:
                subject.stop()
    ratios = [t / base for t, base in zip(rates["tierfs"], rates["local"], strict=True)]
    details = {name: spread(values) for name, values in rates.items()}
    details["daemon CPU s/GiB"] = f"{cpu / ROUNDS:.2f}"
    rows = [
        Result(
            "warm sequential read >= 0.3 of local",
            f"{spread(ratios, '{:.2f}')} of local, {median(rates['tierfs']):.0f} MB/s",
            median(ratios) >= 0.3,
            details,
        )
    ]
    if "rclone" in rates:
        against = [t / r for t, r in zip(rates["tierfs"], rates["rclone"], strict=True)]
        rows.append(
            Result(
                "warm sequential read >= rclone",
                f"{spread(against, '{:.2f}')} of rclone",
                median(against) >= 1,
            )
        )
    return rows
