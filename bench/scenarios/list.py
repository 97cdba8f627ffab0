"""list: the tree of a data set, listed for the first and the second time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import metrics, processes
from bench.lab import Lab
from bench.results import Better, Metric
from bench.scenarios.base import Attempts, Measure, Scenario
from bench.subjects.base import CannotError, Subject

PER_DIRECTORY = 1000
#: Nobody waits longer for a listing; a subject that takes more cannot do it.
DEADLINE_S = {True: 12.0, False: 100.0}
#: A larger tree than this is listed in the first round alone: it takes minutes.
OFTEN = 100_000
#: The second listing takes a moment; the one in the middle of so many counts.
SECOND_WALKS = 3


class List(Scenario):
    """How fast is a tree of 100,000 files in 100 directories (and of 1,000,000) listed the first
    and the second time, and what does a key cost?

    Each pass has a fresh mount; the larger tree is listed in the first round only. The
    walk reads directories as find(1) does, without stat.
    """

    name = "list"
    expected_s = 100.0
    patience_s = 60.0

    def rounds(self, quick: bool) -> int:
        return 3 if quick else 5

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {
            "keys": self._counts(quick),
            "keys per directory": PER_DIRECTORY,
            "deadline s": DEADLINE_S[quick],
        }

    def _counts(self, quick: bool) -> list[int]:
        return [100_000] if quick else [100_000, 1_000_000]

    def prepare(self, lab: Lab) -> None:
        self._data = {
            f"{count // 1000:,}k keys": lab.empty_files(f"list-{count}", count, PER_DIRECTORY)
            for count in self._counts(lab.quick)
        }

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        attempts = Attempts(self._data)

        def measure(n: int) -> dict[Metric, float]:
            figures: dict[Metric, float] = {}
            for variant in attempts.left:
                if n == 0 or len(self._data[variant].files) <= OFTEN:
                    with attempts.trying(variant):
                        figures |= self._listed(lab, subject, variant)
            return attempts.result(figures)

        yield measure

    def _listed(self, lab: Lab, subject: Subject, variant: str) -> dict[Metric, float]:
        dataset, deadline_s = self._data[variant], DEADLINE_S[lab.quick]
        processes.drop_caches()
        with lab.mounted(subject, dataset, cache_bytes=1 << 30) as mounted:
            with lab.cost(mounted) as first_cost:
                first = lab.loadgen.walk(mounted.directory, deadline_s)
            with lab.cost(mounted) as cost:
                walks = [
                    lab.loadgen.walk(mounted.directory, deadline_s) for _ in range(SECOND_WALKS)
                ]
        second = sorted(walks, key=lambda answer: answer["seconds"])[SECOND_WALKS // 2]
        for answer in (first, *walks):
            files = answer["entries"] - (answer["directories"] - 1)
            if files != len(dataset.files):
                raise CannotError(f"shows {files} of {len(dataset.files)} files")
        entries = second["entries"]
        figures = {
            metrics.entries_per_s(f"first, {variant}"): entries / first["seconds"],
            metrics.entries_per_s(f"second, {variant}"): entries / second["seconds"],
        }
        if cost.counted:
            spent = first_cost.cpu_s / len(dataset.files) * 1e6
            figures[metrics.cpu_us_per("key", f"first, {variant}")] = spent
            lists = Metric("lake requests", "requests", Better.LOWER, f"first, {variant}")
            figures[lists] = first_cost.lake_requests
            figures[metrics.memory(variant)] = cost.memory_bytes / 1e6
        return figures
