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
    Result,
    against,
    contenders,
    cpu_s,
    drop_caches,
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
        cpu = 0.0
        with contenders(work, lake) as subjects:
            rates: dict[str, list[float]] = {subject.name: [] for subject in subjects}
            for subject in subjects[1:]:
                read_seq(subject.directory / "big")  # fills the cache
            time.sleep(2)
            daemon = subjects[1].pids()
            for _ in range(ROUNDS):
                for subject in subjects:
                    drop_caches()
                    before = cpu_s(daemon)
                    rates[subject.name].append(read_seq(subject.directory / "big"))
                    if subject.name == "tierfs":
                        cpu += cpu_s(daemon) - before
    (row,) = against("warm sequential read >= 0.3 of local", rates, "local", 0.3)
    row.details = {f"{name} MB/s": spread(values) for name, values in rates.items()}
    row.details["daemon CPU s/GiB"] = f"{cpu / ROUNDS:.2f}"
    return [row, *against("warm sequential read >= rclone", rates, "rclone", 1)]
