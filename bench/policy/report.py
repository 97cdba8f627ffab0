"""What the simulator found: as a table, as JSON, and where it is worse than it should be."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.chapters import Grid
from bench.policy.measuring import SUBJECTS, TIERFS, Row

#: How much worse than its aim a figure may be: more than another seed makes of it.
TOLERANCE = 0.02

NOTE = (
    "Misses for each read of the measured part; behind a slash, where sizes differ, missed bytes"
    " for each byte read; medians of the seeds. c: the cache as a share of the data set. Belady"
    " knows the future. aim: what a prototype with exact lists in place of samples reached."
    " written: what tierfs wrote to the cache, for each byte read. switches: how often another of"
    " its rules took over; rule: which one was in charge last."
)
NO_LIBRARY = "LRU, SIEVE and S3-FIFO need libcachesim; pip install -r requirements-dev.txt has it."


@dataclass
class Finding:
    """One trace at one cache size."""

    trace: str
    share: float
    aim: float | None
    #: One for each seed.
    rows: list[Row] = field(default_factory=list)

    def misses(self, subject: str) -> float | None:
        """The median, for each read; None where it was not measured."""
        values = [row.misses[subject].reads for row in self.rows if subject in row.misses]
        return statistics.median(values) if values else None

    @property
    def too_many(self) -> bool:
        """Whether tierfs misses more than it should."""
        found = self.misses(TIERFS)
        return self.aim is not None and found is not None and found > self.aim + TOLERANCE

    def to_json(self) -> dict[str, Any]:
        return {
            "trace": self.trace,
            "share": self.share,
            "aim": self.aim,
            "seeds": [row.to_json() for row in self.rows],
        }


def grid(findings: list[Finding], *, bytes_too: bool) -> Grid:
    headers = ("trace", "c", *SUBJECTS, "aim", "written", "switches", "rule")
    return Grid(headers, tuple(tuple(_cells(one, bytes_too)) for one in findings))


def _cells(finding: Finding, bytes_too: bool) -> Iterator[str]:
    yield finding.trace
    yield f"{finding.share:g}"
    for subject in SUBJECTS:
        misses = finding.misses(subject)
        cell = "-" if misses is None else f"{misses:.3f}"
        if misses is not None and bytes_too:
            cell += f"/{statistics.median(row.misses[subject].bytes for row in finding.rows):.3f}"
        yield cell
    yield "-" if finding.aim is None else f"{finding.aim:.3f}"
    yield f"{statistics.median(row.written for row in finding.rows):.3f}"
    yield f"{statistics.median(row.switches for row in finding.rows):g}"
    yield ", ".join(sorted({row.rule for row in finding.rows}))
