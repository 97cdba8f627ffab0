"""How much longer does a read that misses take while files are fetched ahead of a training job?

A job reads its first epoch, of which the rest is fetched ahead as fast as the link or the machine
can. Beside it somebody reads other files now and then, each for the first time, in processes that
read too few to be taken for a job: nothing is fetched ahead of them. The same alone is what it is
compared with, with the LRU rule, which fetches nothing ahead.

They have listed the directories before, so that each read is of bytes alone. How long that took is
told, too.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bench.bars.harness import Result, Tierfs
from bench.data import Dataset, small_files
from bench.lab import Lab
from bench.lakesim import STANDARD_LINK, Request, lakesim
from bench.loadgen import File, Loadgen
from bench.machine import Cpus
from bench.workspace import workspace
from tierfs.readahead.jobs import BUSY_READS

#: What the job reads, and how many at a time.
JOB_FILES, JOB_READERS = 24_000, 4
SIZE = 110_000
#: What else is read: so many by each process, so many a second.
OTHER_FILES, EACH, RATE = 1500, 24, 40.0
ROUNDS = 5
#: The second 99th percentile over the first one.
MOST = 1.3
#: Of the interval: the 99th percentile is one of few values.
RESAMPLES, CONFIDENCE = 400, 0.95


@dataclass
class Side:
    """What one of the two found, in all rounds."""

    latencies_ms: list[float] = field(default_factory=list)
    listings_ms: list[float] = field(default_factory=list)
    reads: int = 0
    busy: list[float] = field(default_factory=list)
    link: list[float] = field(default_factory=list)

    @property
    def words(self) -> str:
        p50, p99 = (_percentile(self.latencies_ms, share) for share in (0.5, 0.99))
        return (
            f"p50 {p50:.1f} ms, p99 {p99:.1f} ms of {len(self.latencies_ms)} reads (of"
            f" {self.reads}) that missed;"
            f" listing before {statistics.median(self.listings_ms):.0f} ms;"
            f" link {statistics.fmean(self.link):.0%} full,"
            f" processors {statistics.fmean(self.busy):.0%} busy"
        )


def run() -> list[Result]:
    job = tuple(File(f"job/{file.path}", SIZE) for file in small_files(JOB_FILES, SIZE))
    other = tuple(File(f"other/{file.path}", SIZE) for file in small_files(OTHER_FILES, SIZE))
    alone, beside = Side(), Side()
    with workspace() as work, lakesim(seed=1) as server:
        lab = Lab(work, server, Loadgen(), "standard", False, 1)
        lab.create_bucket()
        dataset = lab.dataset("demand", job + other)
        for n in range(ROUNDS):
            choose = random.Random(n)
            others = choose.sample(other, len(other))
            order = choose.sample(job, len(job))
            count = measure(lab, dataset, beside, others, order)
            measure(lab, dataset, alone, others[:count])
    low, middle, high = _ratio(alone.latencies_ms, beside.latencies_ms)
    return [
        Result(
            f"p99 of a read that misses, while files are fetched ahead <= {MOST} x that without",
            f"{middle:.2f} x ({low:.2f}..{high:.2f})",
            middle <= MOST,
            {"without": alone.words, "while files are fetched ahead": beside.words},
        )
    ]


def measure(
    lab: Lab, dataset: Dataset, side: Side, others: Sequence[File], job: Sequence[File] = ()
) -> int:
    """One round, with a fresh mount: read *others* until *job*, if there is one, has been read;
    returns how many that were."""
    answers: list[tuple[Sequence[File], dict[str, Any]]] = []
    rule = "adaptive" if job else "lru"
    os.sync()  # What was made and removed before is not to be written to the disk meanwhile.
    with _mounted(lab, dataset, rule) as subject, ThreadPoolExecutor(1) as pool:
        read = partial(lab.loadgen.small, subject.directory, dataset.seed)
        running = pool.submit(read, job, JOB_READERS) if job else None
        while running and not running.done() and not _is_a_job(subject):
            time.sleep(0.2)
        listed = time.monotonic()
        for directory in sorted({(subject.directory / file.path).parent for file in others}):
            os.listdir(directory)
        side.listings_ms.append((time.monotonic() - listed) * 1e3)
        lab.server.reset()
        cpus, begin = Cpus(), time.monotonic()
        count = 0
        while count < len(others) and not (running and running.done()):
            some = others[count : count + EACH]
            # So many readers that nobody waits for one.
            answers.append((some, read(some, EACH, times=True, rate=RATE)))
            count += len(some)
        side.busy.append(cpus.busy_share)
        rate = lab.server.stats().bytes_out / (time.monotonic() - begin)
        side.link.append(rate / 1e6 / STANDARD_LINK.download_total_mb_s)
        if running:
            running.result()
        requests = lab.server.log()
    side.reads += count
    for some, answer in answers:
        side.latencies_ms += _misses(dataset, some, answer, requests)
    return count


def _is_a_job(subject: Tierfs) -> bool:
    """Whether somebody reads in earnest, whose reads are told from those of others."""
    return any(job["read"] > 2 * BUSY_READS for job in subject.status()["reading"]["jobs"])


@contextmanager
def _mounted(lab: Lab, dataset: Dataset, policy: str) -> Iterator[Tierfs]:
    bucket = dataset.bucket
    cache = lab.work / "demand-cache"
    subject = Tierfs(
        lab.work,
        f"s3://{bucket.name}/{bucket.prefix}",
        *("--endpoint", bucket.endpoint, "--cache-size", "8G", "--policy", policy),
        cache=cache,
        env=bucket.environment(),
    )
    try:
        yield subject
    finally:
        subject.stop()
        shutil.rmtree(cache)


def _misses(
    dataset: Dataset, files: Sequence[File], answer: dict[str, Any], requests: Sequence[Request]
) -> Iterator[float]:
    """How long those reads took for which somebody asked the lake after they had begun."""
    asked_ns = {one.key: one.arrived_ns for one in requests if one.operation == "GetObject"}
    for line, begin_ns, taken_ns in answer["times"]:
        at_ns = asked_ns.get(dataset.bucket.prefix + files[line].path, 0)
        if begin_ns <= at_ns <= begin_ns + taken_ns:
            yield taken_ns / 1e6


def _percentile(values: Sequence[float], share: float) -> float:
    """By nearest rank."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def _ratio(alone: Sequence[float], beside: Sequence[float]) -> tuple[float, float, float]:
    """The ratio of their 99th percentiles, between the ends of its interval (bootstrap)."""
    choose = random.Random(1)
    ratios = sorted(
        _percentile(choose.choices(beside, k=len(beside)), 0.99)
        / _percentile(choose.choices(alone, k=len(alone)), 0.99)
        for _ in range(RESAMPLES)
    )
    outside = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    middle = _percentile(beside, 0.99) / _percentile(alone, 0.99)
    return ratios[outside], middle, ratios[-1 - outside]
