"""How much better one subject is than another, and how sure that is.

Round *n* of two subjects were neighbours in time, so a ratio is made in each round, and the figure
is the median of those: what slows the whole machine for a minute slows both halves of a pair.

The interval about a median is that of the sign test: between the k-th smallest and the k-th
largest of n values lies the true median unless fewer than k of n fair coins fall on one side, with
a probability of 1 - 2 P(Bin(n, 1/2) < k), whatever the distribution (H. A. David, H. N. Nagaraja,
*Order Statistics*, 3rd ed., section 7.1; W. J. Conover, *Practical Nonparametric Statistics*, 3rd
ed., section 3.2). It asks that rounds are independent, nothing else; ties make it wider than need
be, never narrower. With fewer than 6 values 95 % cannot be had: the interval is then min..max, and
its confidence says what it is worth (5 values 94 %, 4 88 %, 3 75 %, 2 50 %, 1 nothing).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.results import Better, Metric, Run, Series

CONFIDENCE = 0.95
#: high / low above which a ratio is not worth its name.
WIDEST = 1.5
#: Fewer pairs bound the median no better than a coin does.
FEWEST_PAIRS = 3

LOCAL = "local"
CLIENT = "client"


@dataclass(frozen=True)
class Estimate:
    """A median and the interval that holds the true one with *confidence*, from *count* values."""

    median: float
    low: float
    high: float
    confidence: float
    count: int

    @property
    def doubt(self) -> str:
        """Why the figure says nothing; "" if it says something."""
        if self.count < FEWEST_PAIRS:
            return "too few pairs"
        if self.high > WIDEST * self.low:
            return "spread too wide"
        return ""

    @property
    def meaningful(self) -> bool:
        return not self.doubt

    def overlaps(self, other: Estimate) -> bool:
        return self.low <= other.high and other.low <= self.high


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The median of *values* (at least one, no NaN) and the narrowest interval of order statistics
    with at least *confidence*; min..max with what it achieves where that is less."""
    ordered = sorted(values)
    count = len(ordered)
    rank, achieved = 1, _coverage(count, 1)
    while 2 * (rank + 1) <= count and _coverage(count, rank + 1) >= confidence:
        rank += 1
        achieved = _coverage(count, rank)
    return Estimate(
        statistics.median(ordered), ordered[rank - 1], ordered[count - rank], achieved, count
    )


def _coverage(count: int, rank: int) -> float:
    """1 - 2 P(Bin(count, 1/2) < rank)."""
    return 1 - math.ldexp(2 * sum(math.comb(count, k) for k in range(rank)), -count)


def pair_ratios(series: Series, other: Series) -> list[float]:
    """*series* over *other*, round by round, turned so that more than 1 means that *series* is
    better. Rounds that one of them lacks, or where one is zero, have no ratio; a metric that is
    neither good nor bad has none at all."""
    better = series.metric.better
    if better is Better.NEITHER:
        return []
    pairs = [
        (ours, theirs)
        for ours, theirs in zip(series.values, other.values, strict=False)
        if ours > 0 and theirs > 0
    ]
    return [a / b if better is Better.HIGHER else b / a for a, b in pairs]


def ratio(run: Run, scenario: str, metric: Metric, subject: str, other: str) -> Estimate | None:
    """How much better *subject* is than *other*; None where no round has both."""
    if subject == other:
        return None
    ours, theirs = run.find(scenario, subject, metric), run.find(scenario, other, metric)
    if ours is None or theirs is None:
        return None
    pairs = pair_ratios(ours, theirs)
    return estimate(pairs) if pairs else None


def is_ours(subject: str) -> bool:
    """Whether it is tierfs, with whichever front."""
    return subject == "tierfs" or subject.startswith("tierfs-")


def is_peer(subject: str) -> bool:
    """Whether it is another file system over the same lake."""
    return subject not in (LOCAL, CLIENT) and not is_ours(subject)


def best_peer(run: Run, scenario: str, metric: Metric) -> str | None:
    """The peer with the best median; the first one of equals; None without a peer or a better."""
    if metric.better is Better.NEITHER:
        return None
    medians = {
        series.subject: series.median
        for subject in run.subjects(scenario)
        if is_peer(subject)
        and (series := run.find(scenario, subject, metric)) is not None
        and series.measured
    }
    best = max if metric.better is Better.HIGHER else min
    return best(medians, key=lambda peer: medians[peer]) if medians else None
