"""How many small files a second are created, written and closed, and how fast do they reach the
lake?

Sixteen writers, 4 KiB a file, in sixteen write-back directories (the kernel has one file at a time
made in each) with a journal that is synced before each answer, in each round on a file system that
has just been made. The rates at which the lake gets them, in either order, are of the first
`DRAIN_S` seconds: one change after the other takes a round trip each.
"""

from __future__ import annotations

import time
from collections import defaultdict

from bench import data
from bench.bars.harness import Result, Tierfs, front_names, median, spread
from bench.lab import Lab
from bench.lakesim import lakesim
from bench.loadgen import File, Loadgen
from bench.workspace import fresh_disk
from tierfs.writeback.rule import BY_MARKERS, STRICT

WRITERS, SIZE = 16, 4096
#: Files a second, and files in a round: some two seconds of them.
BARS = {"native": 3000, "python": 800}
FILES = {"native": 6000, "python": 1600}
ROUNDS = 3
DRAIN_S = 10.0
DISK_BYTES = 4 << 30


def run() -> list[Result]:
    results = []
    for front in front_names():
        created: list[float] = []
        drained: dict[str, list[float]] = defaultdict(list)
        latencies: list[float] = []
        for n in range(ROUNDS):
            for order in (STRICT, BY_MARKERS):
                rate, p99_us, arrived = _round(front, order, n)
                created.append(rate)
                latencies.append(p99_us)
                drained[order].append(arrived)
        details = {
            f"to the lake, order {order}": f"{spread(drained[order])}/s" for order in drained
        }
        details["p99 of one"] = f"{spread([us / 1e3 for us in latencies], '{:.1f}')} ms"
        results.append(
            Result(
                f"{front}: create + 4 KiB + close by {WRITERS} writers >= {BARS[front]}/s",
                f"{spread(created)}/s",
                median(created) >= BARS[front],
                details,
            )
        )
    return results


def _round(front: str, order: str, turn: int) -> tuple[float, float, float]:
    """Files created a second, the 99th percentile of one in us, and files that came to the lake a
    second."""
    with fresh_disk(DISK_BYTES) as work, lakesim(seed=1 + turn) as server:
        lab = Lab(work, server, Loadgen(), "standard", False, 1)
        lab.create_bucket()
        bucket = lab.bucket("small/")
        data.put(bucket, [File("there", 1)], b"x")
        subject = Tierfs(
            work,
            f"s3://{bucket.name}/{bucket.prefix}",
            *("--endpoint", bucket.endpoint, "--front", front),
            *("--write-back", f"w/**,order={order}"),
            env=bucket.environment(),
        )
        try:
            files = [File(f"w/{n % WRITERS:02}/{n:06}", SIZE) for n in range(FILES[front])]
            begin = time.monotonic()
            answer = lab.loadgen.create(subject.directory, lab.seed, files, WRITERS)
            time.sleep(max(0.0, begin + answer["seconds"] + DRAIN_S - time.monotonic()))
            arrived = sum(
                key.startswith(f"{bucket.prefix}w/") and not key.endswith("/")
                for key in server.sizes(bucket.name, bucket.prefix)
            )
            arrived_per_s = arrived / (time.monotonic() - begin)
        finally:
            subject.command("umount", str(subject.directory), "--discard-unflushed", "--yes")
    return answer["files"] / answer["seconds"], answer["latency_us"]["p99"], arrived_per_s
