"""What the scenarios have in common in which training reads its samples again and again: caches of
several sizes, jobs that go on from epoch to epoch, and what is counted."""

from __future__ import annotations

import abc
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from bench import data, metrics, orders, processes, ratios, stalls
from bench.data import small_files
from bench.lab import MIB, Cost, Lab
from bench.lakesim import Link
from bench.loadgen import File, Range, Reader, ReadFailedError
from bench.results import Better, Metric, Run
from bench.scenarios.base import Measure, Scenario
from bench.stalls import Read
from bench.subjects.base import CannotError, Mounted, Subject
from bench.subjects.client import Client

DATA_BYTES = 1 << 30
SAMPLE_BYTES = 256 << 10
#: What nobody may exceed, so that no hidden cache flatters anyone: the subject's own budget, the
#: cgroup of its processes and that of the readers, and both cgroups together. The data set is five
#: times as large.
MEMORY_BYTES = 64 * MIB
CGROUP_BYTES = 128 * MIB
NODE_BYTES = MEMORY_BYTES + CGROUP_BYTES
#: Of the data set, in the cache.
FRACTIONS = (0.2, 0.5, 0.8)
#: No pass takes longer; 1 GiB takes 3 s over the standard link. A subject that reads less than half
#: of the data in half of this time is slow: its passes end after a sixth, and its figures are of
#: what was read.
LIMIT_S = {True: 20.0, False: 24.0}
#: In `TELLING` the rate of the fastest tierfs over a peer's from which on that is left out of the
#: other scenarios: it would take most of their time to say the same again.
FAR_OFF, TELLING = 2.0, "epoch"
#: A shorter epoch is measured as often, one after the other, and the one in the middle counts: a
#: second of a machine that others use as well says little.
REPEATS, SHORT_S = 3, 2.0

Samples = Sequence[File | Range]


class Node(NamedTuple):
    """One cache size of one subject, and the jobs that read from it."""

    mounted: Mounted
    fraction: float
    daemon: Path
    readers: Path
    jobs: Sequence[Reader]
    #: Of each pass.
    limit_s: float


class Epochs(Scenario):
    """Mounts with caches of their own, and passes over the data that are alike for all."""

    #: How many samples each job reads at a time.
    jobs: tuple[int, ...] = (16,)
    #: Whether samples are parts of files.
    ranges = False
    #: Samples that are begun in a second; None: as fast as they can be.
    rate: float | None = None
    #: Epochs after the first one that are not measured: until the cache holds what it will.
    settling = 1
    repeats = REPEATS
    #: Of each pass, by whether the run is quick.
    limit_s: ClassVar[dict[bool, float]] = LIMIT_S

    def rounds(self, quick: bool) -> int:
        return 3

    def fractions(self, quick: bool) -> tuple[float, ...]:
        """The sizes of the cache, in that of the data set: half of it, unless the size itself is
        the question."""
        return FRACTIONS[1:2]

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {
            "data_bytes": DATA_BYTES,
            "sample_bytes": SAMPLE_BYTES,
            "readers": self.jobs[0] if len(self.jobs) == 1 else self.jobs,
            "cache": self.fractions(quick),
            "memory_budget_bytes": MEMORY_BYTES,
            "cgroup_bytes": CGROUP_BYTES,
            "both_cgroups_bytes": NODE_BYTES,
            "limit_s": self.limit_s[quick],
        }

    def prepare(self, lab: Lab) -> None:
        count = DATA_BYTES // SAMPLE_BYTES
        self._data = lab.dataset("epoch", small_files(count, SAMPLE_BYTES))

    def leaves_out(self, record: Run, subject: Subject) -> str:
        rate = metrics.samples_per_s(f"cache {FRACTIONS[1]}")
        found = record.find(TELLING, subject.name, rate)
        if self.name == TELLING or found is None or not ratios.is_peer(subject.name):
            return ""
        ours = [
            series.median
            for name in record.subjects(TELLING)
            if ratios.is_ours(name) and (series := record.find(TELLING, name, rate)) is not None
        ]
        if not ours or max(ours) < FAR_OFF * found.median:
            return ""
        return (
            f"in {TELLING}, {rate.variant}, it read {found.median:.0f} samples/s where tierfs read"
            f" {max(ours):.0f}; run this scenario alone to see it here"
        )

    # ---- what differs --------------------------------------------------------------------------

    def _all(self, number: int, seed: int) -> Samples:
        """What fills the cache before anything else."""
        return orders.epoch(self._data.files, seed, number)

    @abc.abstractmethod
    def _orders(self, number: int, seed: int) -> Sequence[Samples]:
        """What each job reads in epoch *number* (from 0, those before settle), in that order."""

    def _least(self, fraction: float, samples: Samples, seed: int) -> float:
        """Which share of the bytes of *samples* has to be fetched by who does not know the order
        before, of a cache of that size."""
        return 1 - fraction

    def _variant(self, fraction: float) -> str:
        return f"cache {fraction}"

    def _link(self, fraction: float) -> Link | None:
        """The link of the epochs that are measured; None: that of the run."""
        return None

    def _announce(self, node: Node, each: Sequence[Samples]) -> None:
        """Say before an epoch what will be read in it, where that is the question."""

    # ---- sessions ------------------------------------------------------------------------------

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        if isinstance(subject, Client):
            yield self._client(lab)
            return
        with ExitStack() as stack:
            nodes = [
                self._node(lab, subject, fraction, stack) for fraction in self.fractions(lab.quick)
            ]
            nodes = [self._settle(lab, node) for node in nodes]

            def measure(n: int) -> dict[Metric, float]:
                figures: dict[Metric, float] = {}
                for node in nodes:
                    figures |= self._middle(lab, node, n)
                return figures

            yield measure

    def _node(self, lab: Lab, subject: Subject, fraction: float, stack: ExitStack) -> Node:
        name = f"tierfs-bench-{os.getpid()}-{self.name}-{subject.name}-{fraction}"
        node = stack.enter_context(processes.memory_cgroup(name, NODE_BYTES))
        daemon, readers = (
            stack.enter_context(processes.memory_cgroup(who, CGROUP_BYTES, node))
            for who in ("daemon", "readers")
        )
        mounted = stack.enter_context(
            lab.mounted(
                subject,
                self._data,
                cache_bytes=int(self._data.bytes * fraction),
                memory_bytes=MEMORY_BYTES,
                cgroup=daemon,
            )
        )
        jobs = [
            stack.enter_context(
                lab.loadgen.reader(
                    mounted.directory, self._data.seed, count, ranges=self.ranges, cgroup=readers
                )
            )
            for count in self.jobs
        ]
        return Node(mounted, fraction, daemon, readers, jobs, self.limit_s[lab.quick])

    def _settle(self, lab: Lab, node: Node) -> Node:
        """Read everything once, as far as there is time, and then as it will be measured; gives the
        node with the time that its passes may take."""
        samples = self._all(-1 - self.settling, lab.seed)
        half = node._replace(limit_s=node.limit_s / 2)
        (answer,), _ = self._pass(lab, half, [samples])
        if answer["files"] < len(samples) / 2:
            return node._replace(limit_s=node.limit_s / 6)
        read = {line for line, _, _ in answer["times"]}
        if rest := [sample for line, sample in enumerate(samples) if line not in read]:
            self._pass(lab, half, [rest])
        for number in range(-self.settling, 0):
            self._epoch(lab, node, number)
        return node

    def _middle(self, lab: Lab, node: Node, n: int) -> dict[Metric, float]:
        """The figures of round *n*: of its epoch or, where it is short, of the middle one."""
        rate = metrics.samples_per_s(self._variant(node.fraction))
        found = [self._epoch(lab, node, self.repeats * n)]
        count = sum(map(len, self._orders(0, lab.seed)))
        if count / found[0][rate] < SHORT_S:
            numbers = range(self.repeats * n + 1, self.repeats * (n + 1))
            found += [self._epoch(lab, node, number) for number in numbers]
        return sorted(found, key=lambda figures: figures[rate])[len(found) // 2]

    # ---- one epoch -----------------------------------------------------------------------------

    def _epoch(self, lab: Lab, node: Node, number: int) -> dict[Metric, float]:
        """The figures of epoch *number*."""
        each = self._orders(number, lab.seed)
        link = self._link(node.fraction)
        with lab.with_link(link) if link else nullcontext():
            lab.server.reset()
            self._announce(node, each)
            answers, cost = self._pass(lab, node, each, self.rate)
            lake = lab.server.stats()
        count = sum(answer["files"] for answer in answers)
        read_bytes = sum(answer["bytes"] for answer in answers)
        seconds = max(answer["seconds"] for answer in answers)
        variant = self._variant(node.fraction)
        figures = {metrics.samples_per_s(variant): count / seconds}
        if cost.counted:
            reads = [
                read
                for samples, answer in zip(each, answers, strict=True)
                for read in self._reads(samples, answer)
            ]
            waits = stalls.stalled(reads, lab.server.log())
            waited_s = sum(read.end_ns - read.begin_ns for read in waits) / 1e9
            fetched = lake.bytes_out / read_bytes
            figures |= _fetched(
                variant,
                fetched=fetched,
                stalls=len(waits) / count,
                waited=waited_s / (sum(self.jobs) * seconds),
            )
            samples = [sample for samples in each for sample in samples]
            if (least := self._least(node.fraction, samples, lab.seed)) > 0:
                figures[_over_the_bound(variant)] = fetched / least
        p99 = max(answer["latency_us"]["p99"] for answer in answers)
        figures[metrics.latency_us("p99", variant)] = p99
        if cost.counted:
            figures[metrics.cpu_us_per("sample", variant)] = cost.cpu_s / count * 1e6
            figures[metrics.disk(variant)] = node.mounted.disk_bytes() / 1e6
        return figures | cost.figures(variant)

    def _pass(
        self, lab: Lab, node: Node, each: Sequence[Samples], rate: float | None = None
    ) -> tuple[list[dict[str, Any]], Cost]:
        """Each job reads its samples, all at once; the answers, and what it cost with what is still
        fetched when they are done."""
        processes.drop_caches()
        pool = ThreadPoolExecutor(len(each))
        try:
            with lab.cost(node.mounted) as cost:
                begun = [
                    pool.submit(job.read, samples, limit_s=node.limit_s, rate=rate)
                    for job, samples in zip(node.jobs, each, strict=False)
                ]
                answers = [one.result() for one in begun]
                lab.server.wait_until_quiet()
        except (CannotError, ReadFailedError) as error:
            for group in (node.daemon, node.readers):
                if killed := processes.killed_for_memory(group):
                    raise CannotError(
                        f"{error}; {killed} of the processes were killed in the {group.name}'s"
                        f" memory cgroup of {CGROUP_BYTES >> 20} MiB"
                    ) from None
            raise
        finally:
            pool.shutdown(wait=False)
        return answers, cost

    def _reads(self, samples: Samples, answer: dict[str, Any]) -> Iterator[Read]:
        for line, begin_ns, taken_ns in answer["times"]:
            sample = samples[line]
            start = sample.offset if isinstance(sample, Range) else 0
            key = self._data.bucket.prefix + sample.path
            yield Read(key, start, start + sample.size, begin_ns, begin_ns + taken_ns)

    def _client(self, lab: Lab) -> Measure:
        objects = data.presigned(self._data.bucket, self._data.files)
        by_path = {file.path: (file, url) for file, url in objects}

        def measure(n: int) -> dict[Metric, float]:
            each = self._orders(self.repeats * n, lab.seed)
            samples = [sample for samples in each for sample in samples]
            # It has no cache, so a quarter of an epoch tells its rate. Of shards, each is fetched
            # once, whole.
            samples = samples[: len(self._all(0, lab.seed)) // 4]
            paths = [sample.path for sample in samples]
            if self.ranges:
                paths = list(dict.fromkeys(paths))
            wanted = [by_path[path] for path in paths]
            answer = lab.loadgen.get(self._data.seed, wanted, sum(self.jobs))
            figures: dict[Metric, float] = {}
            # And its figures are the same for each size of one.
            for variant in map(self._variant, self.fractions(lab.quick)):
                figures[metrics.samples_per_s(variant)] = len(samples) / answer["seconds"]
                figures |= _fetched(variant, fetched=1, stalls=1, waited=1)
            return figures

        return measure


def _fetched(variant: str, *, fetched: float, stalls: float, waited: float) -> dict[Metric, float]:
    """Shares of the bytes read, of the samples, and of the readers' time."""
    return {
        Metric("fetched", "% of bytes read", Better.LOWER, variant, headline=True): 100 * fetched,
        Metric("stalls", "% of samples", Better.LOWER, variant, headline=True): 100 * stalls,
        Metric("stalled", "% of time", Better.LOWER, variant): 100 * waited,
    }


def _over_the_bound(variant: str) -> Metric:
    """What was fetched, in what nobody can do without (`Epochs._least`)."""
    return Metric("fetched over the bound", "times", Better.LOWER, variant)
