"""Figures as people read them, and the table that a run prints."""

from __future__ import annotations

import re

import pytest

from bench import figures, table
from bench.results import Better, Cannot, Metric, Run
from tests.bench_runs import FOUR_READERS, LATENCY, MEMORY, THROUGHPUT, build_run


@pytest.mark.parametrize(
    ("unit", "values", "shown"),
    [
        ("B/s", [2.5e9], "2,500 MB/s"),
        ("B/s", [812.0], "812 B/s"),
        ("B", [3 * 2**20], "3 MiB"),
        ("s", [0.0000123], "12.3 us"),
        ("us", [45_000.0], "45 ms"),
        ("s/GB", [0.0321], "32.1 ms/GB"),
        ("files/s", [12_345.6], "12,346 files/s"),
        ("", [17.0], "17"),
        ("B", [0.0], "0 B"),
        # The middle one of a column chooses for all.
        ("s", [0.002, 0.005, 90.0], "2 ms"),
    ],
)
def test_units_for_people(unit: str, values: list[float], shown: str) -> None:
    assert figures.scale(unit, values).with_unit(values[0]) == shown


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (0.01234, "0.0123"), (1.005, "1.00"), (99.96, "100"), (1234.5, "1,234")],
)
def test_three_digits(value: float, text: str) -> None:
    assert figures.number(value) == text


def test_every_figure_stands_in_the_table() -> None:
    run = build_run()
    text = table.render(run)
    for series in run.series:
        in_scenario = [
            other.median
            for other in run.series
            if (other.scenario, other.metric) == (series.scenario, series.metric)
        ]
        shown = figures.scale(series.metric.unit, in_scenario).spread(series)
        assert re.search(rf"^ *{series.subject} .*{re.escape(shown)}", text, re.MULTILINE), shown


def test_a_row_of_the_table() -> None:
    run = Run("", {}, {}, {}, {}, {"warm-seq": {"question": "How fast?", "size_bytes": 1 << 30}})
    for round_number, local in enumerate([1e9, 2e9, 3e9]):
        figures_of = {"local": local, "tierfs": local / 2, "rclone": local / 4}
        for subject, value in figures_of.items():
            run.record("warm-seq", subject, round_number, {THROUGHPUT: value})
    lines = table.render(run).splitlines()
    assert lines[:6] == [
        "warm-seq: How fast?",
        "  size 1.00 GiB",
        "  subject  throughput, MB/s      rounds  ratio to local         ratio to rclone, the best peer",  # noqa: E501
        "  local    2,000 (1,000..3,000)  3       1                      4.00 (4.00..4.00) 75%",
        "  tierfs   1,000 (500..1,500)    3       0.50 (0.50..0.50) 75%  2.00 (2.00..2.00) 75%",
        "  rclone   500 (250..750)        3       0.25 (0.25..0.25) 75%  1",
    ]


def test_what_local_cannot_have_is_held_against_the_client() -> None:
    run = Run("", {}, {}, {}, {})
    seconds = Metric("time to durable", "s", Better.LOWER, headline=True)
    for round_number, client in enumerate([1.0, 2.0, 3.0]):
        run.record("ckpt", "client", round_number, {seconds: client})
        run.record("ckpt", "tierfs", round_number, {seconds: 2 * client})
    assert table.render(run).splitlines()[:4] == [
        "ckpt",
        "  subject  time to durable, s  rounds  ratio to client",
        "  client   2 (1..3)            3       1",
        "  tierfs   4 (2..6)            3       0.50 (0.50..0.50) 75%",
    ]


def test_a_ratio_that_says_nothing_is_words() -> None:
    assert "too few pairs (" in table.render(build_run(rounds=2))
    assert "spread too wide (" in table.render(build_run(noise=0.5))
    calm = table.render(build_run())
    assert "too few" not in calm
    assert "too wide" not in calm


def test_nothing_is_wider_than_the_page() -> None:
    run = build_run(rounds=2, noise=0.5, speed={"tierfs-native": 1.01})
    for number in range(9):
        metric = Metric(f"some other cost, number {number}", "us/file", Better.LOWER)
        run.record("warm-seq", "tierfs-native", 0, {metric: 123456.7})
    run.cannot.append(Cannot("warm-rand4k", "rclone", "no " + "such thing " * 40))
    lines = table.render(run).splitlines()
    assert max(map(len, lines)) <= table.WIDTH
    # The costs that did not fit stand below.
    assert sum("some other cost, number 8" in line for line in lines) == 1


def test_what_cannot_be_done_is_a_row_in_its_own_words() -> None:
    text = table.render(build_run())
    assert "s3fs      cannot: s3fs: unable to access <MOUNTPOINT>: Input/output error" in text
    assert "-- 8 deep\n  client  cannot: no random reads" in text


def test_a_subject_without_a_metric_has_a_dash() -> None:
    run = Run("", {}, {}, {}, {})
    run.record("list", "tierfs", 0, {LATENCY: 1.0, MEMORY: 1.0})
    other = Metric("requests", "", Better.LOWER)
    run.record("list", "rclone", 0, {FOUR_READERS: 1.0, other: 5.0})
    assert "rclone   -          5" in table.render(run)
