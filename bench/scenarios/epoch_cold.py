"""epoch-cold: the first epoch of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import data, metrics, orders, processes
from bench.connections import CONNECTIONS, fastest
from bench.data import small_files
from bench.lab import LINKS, Lab
from bench.machine import Cpus
from bench.results import Better, Metric
from bench.scenarios.base import Measure, Scenario
from bench.subjects.base import Subject
from bench.subjects.client import Client

SIZE = 110_000
READERS = 4
#: A subject that takes longer ends early. Who fetches nothing ahead is as fast at the end as at the
#: beginning; who does is faster, so this must be enough for all of it.
LIMIT_S = {True: 20.0, False: 30.0}
#: Fewer than there are readers are no match for them.
COUNTS = CONNECTIONS[: CONNECTIONS.index(READERS) + 1]


class EpochCold(Scenario):
    """How fast do 4 readers get through the first epoch, in random order, when the cache is empty
    and has room for everything?

    Each round has a fresh mount; nothing is listed before. The bare client takes the number of
    connections that is fastest for it. How busy the machine is says whether the link or the
    processors are the limit: readers, subject and server share them.
    """

    name = "epoch-cold"
    expected_s = 120.0
    patience_s = 60.0

    def rounds(self, quick: bool) -> int:
        return 3

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {
            "samples": self._count(quick),
            "sample_bytes": SIZE,
            "readers": READERS,
            "client": COUNTS,
            "limit_s": LIMIT_S[quick],
        }

    def _count(self, quick: bool) -> int:
        return 6000 if quick else 20_000

    def prepare(self, lab: Lab) -> None:
        self._data = lab.dataset("epoch-cold", small_files(self._count(lab.quick), SIZE))

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        if isinstance(subject, Client):
            yield self._client(lab)
            return
        dataset = self._data

        def measure(n: int) -> dict[Metric, float]:
            samples = orders.epoch(dataset.files, lab.seed, n)
            processes.drop_caches()
            with lab.mounted(subject, dataset, cache_bytes=4 * dataset.bytes) as mounted:
                with lab.cost(mounted) as cost:
                    cpus = Cpus()
                    answer = lab.loadgen.small(
                        mounted.directory,
                        dataset.seed,
                        samples,
                        READERS,
                        limit_s=LIMIT_S[lab.quick],
                    )
                    busy = cpus.busy_share
                count = answer["files"]
                figures = _rates(lab, count, answer["seconds"], busy)
                figures[metrics.latency_us("p99")] = answer["latency_us"]["p99"]
                if cost.counted:
                    figures[metrics.cpu_us_per("sample")] = cost.cpu_s / count * 1e6
            return figures | cost.figures()

        yield measure

    def _client(self, lab: Lab) -> Measure:
        objects = data.presigned(self._data.bucket, orders.epoch(self._data.files, lab.seed, 0))

        def measured(connections: int, count: int) -> dict[Metric, float]:
            cpus = Cpus()
            answer = lab.loadgen.get(self._data.seed, objects[:count], connections)
            return _rates(lab, count, answer["seconds"], cpus.busy_share)

        def sample_s(connections: int) -> float:
            few = min(len(objects), connections * 100)
            return 1 / measured(connections, few)[metrics.samples_per_s()]

        best = fastest(sample_s, COUNTS)
        return lambda n: measured(best, len(objects))


def _rates(lab: Lab, count: int, seconds: float, busy: float) -> dict[Metric, float]:
    """Samples a second, and what of the link and of the machine that took."""
    figures = {metrics.samples_per_s(): count / seconds}
    if link_mb_s := LINKS[lab.link].download_total_mb_s:
        of_the_link = Metric("of the link", "%", Better.HIGHER)
        figures[of_the_link] = 100 * count * SIZE / seconds / 1e6 / link_mb_s
    figures[metrics.machine_cpu()] = 100 * busy
    return figures
