"""epoch and its relatives: training reads its samples again and again, with a cache that is too
small."""

from __future__ import annotations

import abc
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench import data, metrics, orders, processes, stalls
from bench.data import small_files
from bench.lab import MIB, Cost, Lab
from bench.loadgen import File, Range, ReadFailedError
from bench.results import Better, Metric
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
#: Of the data set, in the cache; a quick run has the middle one only.
FRACTIONS = (0.2, 0.5, 0.8)
#: No pass takes longer; 1 GiB takes 3 s over the standard link. A subject that reads less than half
#: of the data in half of this time is slow: its passes end after a sixth, and its figures are of
#: what was read.
LIMIT_S = {True: 20.0, False: 48.0}
#: A shorter epoch is measured as often, one after the other, and the one in the middle counts: a
#: second of a machine that others use as well says little.
REPEATS, SHORT_S = 3, 2.0
#: An order of more is not read to its end by the bare client.
CLIENT_SAMPLES = 2000
RANKS = 8
SHARD_BYTES = 64 * MIB
#: Of a member: its header and its content, in records of 512 bytes.
MEMBER_BYTES = 512 + SAMPLE_BYTES

Samples = Sequence[File | Range]


class _Mount(NamedTuple):
    """One cache size of one subject."""

    mounted: Mounted
    daemon: Path
    readers: Path
    #: Of each pass.
    limit_s: float


class _Epochs(Scenario):
    """What all have: mounts with small caches, and passes over the data that are alike for all."""

    readers = 16

    def rounds(self, quick: bool) -> int:
        return 3

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {
            "data_bytes": DATA_BYTES,
            "sample_bytes": SAMPLE_BYTES,
            "readers": self.readers,
            "cache": _fractions(quick),
            "memory_budget_bytes": MEMORY_BYTES,
            "cgroup_bytes": CGROUP_BYTES,
            "both_cgroups_bytes": NODE_BYTES,
            "limit_s": LIMIT_S[quick],
        }

    def prepare(self, lab: Lab) -> None:
        count = DATA_BYTES // SAMPLE_BYTES
        self._data = lab.dataset("epoch", small_files(count, SAMPLE_BYTES))

    def _all(self, number: int, seed: int) -> Samples:
        """What fills the cache before the first round."""
        return orders.epoch(self._data.files, seed, number)

    @abc.abstractmethod
    def _order(self, number: int, seed: int) -> Samples:
        """What is read in epoch *number* (from 0), in that order."""

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        if isinstance(subject, Client):
            yield self._client(lab)
            return
        with ExitStack() as stack:
            mounts = {
                _variant(fraction): self._mount(lab, subject, fraction, stack)
                for fraction in _fractions(lab.quick)
            }
            for variant, mount in mounts.items():
                mounts[variant] = self._fill(lab, mount)

            def measure(n: int) -> dict[Metric, float]:
                figures: dict[Metric, float] = {}
                for variant, mount in mounts.items():
                    figures |= self._middle(lab, mount, n, variant)
                return figures

            yield measure

    def _mount(self, lab: Lab, subject: Subject, fraction: float, stack: ExitStack) -> _Mount:
        name = f"tierfs-bench-{os.getpid()}-{self.name}-{subject.name}-{fraction}"
        node = stack.enter_context(processes.memory_cgroup(name, NODE_BYTES))
        daemon, readers = (
            stack.enter_context(processes.memory_cgroup(who, CGROUP_BYTES, node))
            for who in ("daemon", "readers")
        )
        mounted = lab.mounted(
            subject,
            self._data,
            cache_bytes=int(self._data.bytes * fraction),
            memory_bytes=MEMORY_BYTES,
            cgroup=daemon,
        )
        return _Mount(stack.enter_context(mounted), daemon, readers, LIMIT_S[lab.quick])

    def _fill(self, lab: Lab, mount: _Mount) -> _Mount:
        """Read everything once, as far as there is time; gives the mount with the time that its
        passes may take."""
        samples = self._all(-1, lab.seed)
        half = mount._replace(limit_s=mount.limit_s / 2)
        answer, _ = self._pass(lab, half, samples)
        if answer["files"] < len(samples) / 2:
            return mount._replace(limit_s=mount.limit_s / 6)
        read = {line for line, _, _ in answer["times"]}
        if rest := [sample for line, sample in enumerate(samples) if line not in read]:
            self._pass(lab, half, rest)
        return mount

    def _pass(self, lab: Lab, mount: _Mount, samples: Samples) -> tuple[dict[str, Any], Cost]:
        """Read *samples*; the answer, and what it cost."""
        processes.drop_caches()
        try:
            with lab.cost(mount.mounted) as cost:
                answer = lab.loadgen.small(
                    mount.mounted.directory,
                    self._data.seed,
                    samples,
                    self.readers,
                    times=True,
                    limit_s=mount.limit_s,
                    cgroup=mount.readers,
                )
        except (CannotError, ReadFailedError) as error:
            for group in (mount.daemon, mount.readers):
                if killed := processes.killed_for_memory(group):
                    raise CannotError(
                        f"{error}; {killed} of the processes were killed in the {group.name}'s"
                        f" memory cgroup of {CGROUP_BYTES >> 20} MiB"
                    ) from None
            raise
        return answer, cost

    def _middle(self, lab: Lab, mount: _Mount, n: int, variant: str) -> dict[Metric, float]:
        """The figures of round *n*: of its epoch or, where it is short, of the middle one."""
        rate = metrics.samples_per_s(variant)
        found = [self._epoch(lab, mount, REPEATS * n, variant)]
        count = len(self._order(0, lab.seed))
        if count / found[0][rate] < SHORT_S:
            found += [self._epoch(lab, mount, REPEATS * n + m, variant) for m in range(1, REPEATS)]
        return sorted(found, key=lambda figures: figures[rate])[len(found) // 2]

    def _epoch(self, lab: Lab, mount: _Mount, n: int, variant: str) -> dict[Metric, float]:
        samples = self._order(n, lab.seed)
        lab.server.reset()
        answer, cost = self._pass(lab, mount, samples)
        count = answer["files"]
        figures = {metrics.samples_per_s(variant): count / answer["seconds"]}
        if cost.counted:
            waits = stalls.stalled(self._reads(samples, answer), lab.server.log())
            waited_s = sum(read.end_ns - read.begin_ns for read in waits) / 1e9
            figures |= _fetched(
                variant,
                fetched=cost.lake_bytes / answer["bytes"],
                stalls=len(waits) / count,
                waited=waited_s / (self.readers * answer["seconds"]),
            )
        figures[metrics.latency_us("p99", variant)] = answer["latency_us"]["p99"]
        if cost.counted:
            figures[metrics.cpu_us_per("sample", variant)] = cost.cpu_s / count * 1e6
            figures[metrics.disk(variant)] = mount.mounted.disk_bytes() / 1e6
        return figures | cost.figures(variant)

    def _reads(self, samples: Samples, answer: dict[str, Any]) -> list[Read]:
        reads = []
        for line, begin_ns, taken_ns in answer["times"]:
            sample = samples[line]
            start = sample.offset if isinstance(sample, Range) else 0
            key = self._data.bucket.prefix + sample.path
            reads.append(Read(key, start, start + sample.size, begin_ns, begin_ns + taken_ns))
        return reads

    def _client(self, lab: Lab) -> Measure:
        objects = data.presigned(self._data.bucket, self._data.files)
        by_path = {file.path: (file, url) for file, url in objects}

        def measure(n: int) -> dict[Metric, float]:
            samples = self._order(REPEATS * n, lab.seed)
            # It has no cache, so a quarter of many tells its rate. Of shards, each is fetched once,
            # whole.
            if len(samples) > CLIENT_SAMPLES:
                samples = samples[: len(samples) // 4]
            paths = [sample.path for sample in samples]
            if isinstance(samples[0], Range):
                paths = list(dict.fromkeys(paths))
            wanted = [by_path[path] for path in paths]
            answer = lab.loadgen.get(self._data.seed, wanted, self.readers)
            figures: dict[Metric, float] = {}
            # And its figures are the same for each size of one.
            for variant in map(_variant, _fractions(lab.quick)):
                figures[metrics.samples_per_s(variant)] = len(samples) / answer["seconds"]
                figures |= _fetched(variant, fetched=1, stalls=1, waited=1)
            return figures

        return measure


def _fractions(quick: bool) -> tuple[float, ...]:
    return FRACTIONS[1:2] if quick else FRACTIONS


def _variant(fraction: float) -> str:
    return f"cache {fraction}"


def _fetched(variant: str, *, fetched: float, stalls: float, waited: float) -> dict[Metric, float]:
    """Shares of the bytes read, of the samples, and of the readers' time."""
    return {
        Metric("fetched", "% of bytes read", Better.LOWER, variant, headline=True): 100 * fetched,
        Metric("stalls", "% of samples", Better.LOWER, variant, headline=True): 100 * stalls,
        Metric("stalled", "% of time", Better.LOWER, variant): 100 * waited,
    }


class Epoch(_Epochs):
    """What does a shuffled epoch cost when the cache holds 0.2, 0.5 or 0.8 of the data set?

    Every round is one epoch: each sample once, in a new random order, by 16 readers of one rank.
    The page cache is dropped before each, and the subject and the readers each have a memory
    cgroup, page cache included. A stall is a sample that waited for bytes from the lake, of a
    request of its own or of one under way (`bench.stalls`).
    """

    name = "epoch"
    expected_s = 120.0

    def rounds(self, quick: bool) -> int:
        return 3 if quick else 4

    def _order(self, number: int, seed: int) -> Samples:
        return orders.epoch(self._data.files, seed, number)


class EpochRanks(_Epochs):
    """What does an epoch cost one of 8 ranks, which reads another random eighth each time?

    As `epoch`; before the first round every sample was read once.
    """

    name = "epoch-ranks"
    expected_s = 60.0

    def _order(self, number: int, seed: int) -> Samples:
        return orders.rank(self._data.files, seed, number, 0, RANKS)

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {"ranks": RANKS, **super().sizes(quick)}


class EpochWeighted(_Epochs):
    """What does an epoch of weighted sampling cost: as many draws as there are samples, with
    replacement, by Zipf's law with an exponent of 0.9?

    As `epoch`; before the first round every sample was read once.
    """

    name = "epoch-weighted"
    expected_s = 80.0

    def _order(self, number: int, seed: int) -> Samples:
        return orders.weighted(self._data.files, seed, number)


class EpochShards(_Epochs):
    """What does an epoch over shards cost, which four readers read in a new random order of shards,
    each from beginning to end?

    As `epoch`; a shard has 64 MiB and its members the places that tar gives them, their headers are
    not read. All readers keep their shard open and read one member at a time.
    """

    name = "epoch-shards"
    expected_s = 70.0
    readers = 4

    def prepare(self, lab: Lab) -> None:
        count = DATA_BYTES // SHARD_BYTES
        files = tuple(File(f"shard-{n:04}.tar", SHARD_BYTES) for n in range(count))
        self._data = lab.dataset("epoch-shards", files)
        members = range(SHARD_BYTES // MEMBER_BYTES)
        self._shards = [
            [Range(file.path, member * MEMBER_BYTES + 512, SAMPLE_BYTES) for member in members]
            for file in files
        ]

    def _all(self, number: int, seed: int) -> Samples:
        return self._order(number, seed)

    def _order(self, number: int, seed: int) -> Samples:
        return orders.streams(self._shards, self.readers, seed, number)

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {"shard_bytes": SHARD_BYTES, **super().sizes(quick)}
