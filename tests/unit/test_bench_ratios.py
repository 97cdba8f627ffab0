"""Ratios of neighbouring rounds: which way they turn, and whether their intervals hold."""

from __future__ import annotations

import math
import random

import pytest

from bench import ratios
from bench.results import Better, Metric, Run, Series
from tests.bench_runs import LATENCY, SPACE, THROUGHPUT, build_run


def series(metric: Metric, *values: float) -> Series:
    return Series("warm-seq", "tierfs", metric, list(values))


@pytest.mark.parametrize(
    ("count", "low", "high", "confidence"),
    [
        # The table of the sign test: ranks from 1, and 1 - 2 P(Bin(n, 1/2) < rank).
        (1, 1, 1, 0.0),
        (2, 1, 2, 0.5),
        (3, 1, 3, 0.75),
        (5, 1, 5, 0.9375),
        (6, 1, 6, 0.96875),
        (8, 1, 8, 0.9921875),
        (9, 2, 8, 0.9609375),
        (12, 3, 10, 0.96142578125),
        (20, 6, 15, 0.958610534668),
    ],
)
def test_ranks_of_the_interval(count: int, low: int, high: int, confidence: float) -> None:
    values = [float(rank) for rank in range(count, 0, -1)]
    found = ratios.estimate(values)
    assert (found.low, found.high) == (low, high)
    assert found.confidence == pytest.approx(confidence)
    assert found.median == (count + 1) / 2


@pytest.mark.parametrize("count", [3, 5, 6, 9, 15])
def test_the_interval_holds_the_median_as_often_as_it_says(count: int) -> None:
    draws = 4000
    random_numbers = random.Random(count)
    # A skewed distribution with a long tail, as times on a shared machine have; its median is 1.
    held = 0
    for _ in range(draws):
        found = ratios.estimate([random_numbers.lognormvariate(0, 0.5) for _ in range(count)])
        held += found.low <= 1 <= found.high
    deviation = math.sqrt(found.confidence * (1 - found.confidence) / draws)
    assert abs(held / draws - found.confidence) < 4 * deviation


def test_more_than_one_is_better_whichever_way_the_metric_is_good() -> None:
    assert ratios.pair_ratios(series(THROUGHPUT, 20), series(THROUGHPUT, 10)) == [2]
    assert ratios.pair_ratios(series(LATENCY, 20), series(LATENCY, 10)) == [0.5]
    assert ratios.pair_ratios(series(SPACE, 20), series(SPACE, 10)) == []


def test_only_rounds_that_both_have_are_paired() -> None:
    ours = series(THROUGHPUT, 2, math.nan, 6, 8, 0)
    theirs = series(THROUGHPUT, 1, 100, math.nan, 2, 1, 1)
    assert ratios.pair_ratios(ours, theirs) == [2, 4]


def test_what_slows_both_halves_of_a_pair_leaves_the_ratio_alone() -> None:
    weather = [1.0, 0.2, 3.0, 0.5, 1.5, 0.8]
    run = Run("", {}, {}, {}, {})
    for round_number, factor in enumerate(weather):
        run.record("warm-seq", "local", round_number, {THROUGHPUT: 100 * factor})
        run.record("warm-seq", "tierfs", round_number, {THROUGHPUT: 80 * factor})
    found = ratios.ratio(run, "warm-seq", THROUGHPUT, "tierfs", "local")
    assert found is not None
    assert [found.low, found.high] == pytest.approx([0.8, 0.8])


def test_a_slower_subject_shows_as_slower() -> None:
    run = build_run(speed={"tierfs": 0.9}, noise=0.01)
    for metric, scenario in ((THROUGHPUT, "warm-seq"), (LATENCY, "warm-rand4k")):
        found = ratios.ratio(run, scenario, metric, "tierfs", "local")
        assert found is not None
        assert found.meaningful
        assert found.high < 0.95


@pytest.mark.parametrize(
    ("values", "doubt"),
    [
        ([1.0, 1.1, 1.2], ""),
        ([1.0, 1.1], "too few pairs"),
        ([1.0, 1.2, 1.6], "spread too wide"),
        # One round out of nine may go wrong: the interval leaves it out.
        ([1.0] * 8 + [9.0], ""),
        ([1.0] * 7 + [9.0], "spread too wide"),
    ],
)
def test_a_ratio_that_says_nothing_says_so(values: list[float], doubt: str) -> None:
    found = ratios.estimate(values)
    assert found.doubt == doubt
    assert found.meaningful == (not doubt)


def test_the_best_peer_is_neither_ours_nor_a_yardstick() -> None:
    run = build_run(speed={"tierfs-native": 2.0, "juicefs": 0.55})
    assert ratios.best_peer(run, "warm-seq", THROUGHPUT) == "juicefs"
    assert ratios.best_peer(run, "warm-rand4k", LATENCY) == "juicefs"
    assert ratios.best_peer(run, "warm-seq", SPACE) is None
    alone = Run("", {}, {}, {}, {})
    alone.record("warm-seq", "tierfs", 0, {THROUGHPUT: 1})
    assert ratios.best_peer(alone, "warm-seq", THROUGHPUT) is None


def test_a_subject_has_no_ratio_to_itself_or_to_nobody() -> None:
    run = build_run()
    assert ratios.ratio(run, "warm-seq", THROUGHPUT, "local", "local") is None
    assert ratios.ratio(run, "warm-seq", THROUGHPUT, "tierfs", "nobody") is None
    other = Metric("throughput", "B/s", Better.HIGHER, "5 readers")
    assert ratios.ratio(run, "warm-seq", other, "tierfs", "local") is None
