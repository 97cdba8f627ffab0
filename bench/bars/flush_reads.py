"""What does training that reads from the cache lose while a checkpoint is being sent to the lake?

Epochs of samples that are all cached, page cache dropped, by four readers: unpaced, as fast as they
can, and at a rate that leaves the machine half idle, as a training job does that computes; each
alone, and while a checkpoint that was written a moment before is on its way. Server, readers and
subject share the processors, so the share that they are busy says what an unpaced reader can lose.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict

from bench import processes
from bench.bars.harness import MIB, Result, Tierfs, front_names, median, spread
from bench.data import Dataset, small_files
from bench.lab import Lab
from bench.lakesim import lakesim
from bench.loadgen import File, Loadgen
from bench.machine import Cpus
from bench.workspace import workspace

FILES, SIZE, READERS = 1000, 110_000, 4
CHECKPOINT = tuple(File(f"checkpoint/shard-{n}.bin", 256 * MIB) for n in range(12))
ROUNDS = 3
#: Of the rate alone.
LEAST = 0.95
#: Of the unpaced rate.
PACE = 0.5
LIMIT_S = 300.0


def run() -> list[Result]:
    results = []
    for front in front_names():
        with workspace() as work, lakesim(seed=1) as server:
            lab = Lab(work, server, Loadgen(), "standard", False, 1)
            lab.create_bucket()
            dataset = lab.dataset("flush", small_files(FILES, SIZE))
            results.append(_measured(lab, front, dataset))
    return results


def _measured(lab: Lab, front: str, dataset: Dataset) -> Result:
    bucket = dataset.bucket
    subject = Tierfs(
        lab.work,
        f"s3://{bucket.name}/{bucket.prefix}",
        *("--endpoint", bucket.endpoint, "--front", front, "--cache-size", "8G"),
        *("--metadata-ttl", "10m", "--write-back", "checkpoint/**"),
        env=bucket.environment(),
    )
    kept: dict[str, list[float]] = defaultdict(list)
    busy: list[float] = []
    try:
        _epoch(lab, subject, dataset, 0)
        rate = PACE * median([_epoch(lab, subject, dataset, n) for n in range(1, 4)])
        for n in range(ROUNDS):
            for name, pace in (("unpaced", None), ("paced", rate)):
                alone = _epoch(lab, subject, dataset, 10 + n, pace)
                lab.loadgen.save(subject.directory, n, "torch-save", CHECKPOINT)
                cpus = Cpus()
                beside = _epoch(lab, subject, dataset, 20 + n, pace)
                busy.append(cpus.busy_share)
                if not subject.status()["writing"]["unflushed_bytes"]:
                    raise RuntimeError("the checkpoint was in the lake before the epoch was over")
                kept[name].append(beside / alone)
                _wait_until_flushed(subject)
    finally:
        subject.stop()
    return Result(
        f"{front}: a warm epoch beside a flush, paced, in that alone >= {LEAST}",
        spread(kept["paced"], "{:.2f}"),
        median(kept["paced"]) >= LEAST,
        {
            "unpaced": spread(kept["unpaced"], "{:.2f}"),
            "samples/s, paced": f"{rate:.0f}",
            "processors busy": spread(busy, "{:.2f}"),
        },
    )


def _epoch(
    lab: Lab, subject: Tierfs, dataset: Dataset, number: int, rate: float | None = None
) -> float:
    """Samples a second."""
    order = random.Random(number).sample(dataset.files, FILES)
    processes.drop_caches()
    answer = lab.loadgen.small(subject.directory, dataset.seed, order, READERS, rate=rate)
    return float(answer["files"] / answer["seconds"])


def _wait_until_flushed(subject: Tierfs) -> None:
    deadline = time.monotonic() + LIMIT_S
    while subject.status()["writing"]["unflushed_bytes"]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in the lake after {LIMIT_S:g} s")
        time.sleep(0.2)
