"""Rounds: a slow subject sits out what is left, and takes nothing from the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench import metrics, runner
from bench.connections import fastest
from bench.lab import Lab
from bench.results import Better, Cannot, Metric, Run
from bench.scenarios.base import Measure, Scenario
from bench.scenarios.epoch import Epoch, EpochRanks, EpochWarm
from bench.subjects.base import Subject
from bench.subjects.client import Client
from bench.subjects.local import Local

RATE = Metric("rate", "1/s", Better.HIGHER, headline=True)
ROUNDS = 6


class Time:
    """In place of the module: nothing takes time but those who say so."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


TIME = Time()


@pytest.fixture(autouse=True)
def the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "time", TIME)


class Waiting(Scenario):
    """Does the client take its time?"""

    name = "waiting"
    patience_s = 0.05
    slow_s = 0.03

    def rounds(self, quick: bool) -> int:
        return ROUNDS

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {}

    def prepare(self, lab: Lab) -> None:
        pass

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        def measure(n: int) -> dict[Metric, float]:
            if isinstance(subject, Client):
                TIME.now_s += self.slow_s
            return {RATE: float(n)}

        yield measure


class Crawling(Waiting):
    """Does it take all of it at once?"""

    slow_s = 0.15


def lab_of(turns: list[int]) -> Lab:
    """A lab whose server notes its *turns*."""
    return cast(Lab, SimpleNamespace(quick=True, server=SimpleNamespace(begin_turn=turns.append)))


def rounds_of(scenario: Scenario, *subjects: Subject) -> dict[str, int]:
    record = Run("2026-01-01T00:00:00+00:00", {}, {}, {}, {})
    lab = lab_of([])
    runner.run(lab, [scenario], subjects or (Local(), Client()), record, lambda line: None)
    return {series.subject: len(series.values) for series in record.series}


def test_who_is_slow_sits_out_the_last_rounds() -> None:
    assert rounds_of(Waiting()) == {"local": ROUNDS, "client": runner.FEWEST_ROUNDS}


def test_who_is_very_slow_has_one_round() -> None:
    assert rounds_of(Crawling()) == {"local": ROUNDS, "client": 1}


def test_patience_is_enough_for_the_quick() -> None:
    scenario = Waiting()
    scenario.patience_s = 60
    assert rounds_of(scenario) == {"local": ROUNDS, "client": ROUNDS}


def test_all_of_a_round_have_the_same_luck() -> None:
    turns: list[int] = []
    record = Run("2026-01-01T00:00:00+00:00", {}, {}, {}, {})
    scenario = Waiting()
    scenario.patience_s = 60
    runner.run(lab_of(turns), [scenario], (Local(), Client()), record, lambda line: None)
    assert turns == [n for n in range(1, ROUNDS + 1) for _ in range(2)]


class Leaving(Waiting):
    """Is the client worth its time?"""

    def leaves_out(self, record: Run, subject: Subject) -> str:
        return "it never is" if isinstance(subject, Client) else ""


def test_who_is_left_out_takes_no_time_and_is_said_to_be() -> None:
    record = Run("2026-01-01T00:00:00+00:00", {}, {}, {}, {})
    turns: list[int] = []
    runner.run(lab_of(turns), [Leaving()], (Local(), Client()), record, lambda line: None)
    assert turns == list(range(1, ROUNDS + 1))
    assert record.subjects("waiting") == ["local"]
    assert record.cannot == [Cannot("waiting", "client", "left out: it never is")]


def test_a_peer_that_is_far_off_in_epoch_is_left_out_of_the_others() -> None:
    record = Run("2026-01-01T00:00:00+00:00", {}, {}, {}, {})
    rate = metrics.samples_per_s("cache 0.5")
    for name, value in (("tierfs", 400), ("tierfs-native", 1000), ("local", 9000), ("peer", 499)):
        record.record("epoch", name, 0, {rate: value})
    assert "it read 499 samples/s where tierfs read 1000" in EpochRanks().leaves_out(record, Peer())
    assert not Epoch().leaves_out(record, Peer())
    assert not EpochWarm().leaves_out(record, Peer())
    assert not EpochRanks().leaves_out(record, Local())
    record.record("epoch", "peer", 1, {rate: 510})
    assert not EpochRanks().leaves_out(record, Peer())


@pytest.mark.parametrize(
    ("seconds", "best", "tried"),
    [
        ({64: 3.0, 32: 2.0, 16: 2.1, 8: 2.3, 4: 4.0}, 32, [64, 32, 16, 8]),
        ({64: 1.0, 32: 1.2}, 64, [64, 32]),
        ({64: 7, 32: 6, 16: 5, 8: 4, 4: 3, 2: 2, 1: 1}, 1, [64, 32, 16, 8, 4, 2, 1]),
    ],
)
def test_connections_are_tried_from_the_most_down(
    seconds: dict[int, float], best: int, tried: list[int]
) -> None:
    asked: list[int] = []

    def measured(count: int) -> float:
        asked.append(count)
        return seconds[count]

    assert fastest(measured) == best
    assert asked == tried


class Racing(Waiting):
    """How fast is the peer?"""

    patience_s = 60.0
    speed = 1.0

    def rounds(self, quick: bool) -> int:
        return 2 * runner.DECISIVE_ROUNDS

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        def measure(n: int) -> dict[Metric, float]:
            own = self.speed if isinstance(subject, Peer) else 1.0
            return {RATE: own * (1 + n % 3 / 100)}

        yield measure


class Peer(Local):
    name = "peer"


def racing(speed: float) -> dict[str, int]:
    scenario = Racing()
    scenario.speed = speed
    return rounds_of(scenario, Local(), Peer())


def test_who_is_far_from_the_references_needs_few_rounds() -> None:
    # Without anybody to measure, the reference stops as well.
    assert racing(0.3) == {"local": runner.DECISIVE_ROUNDS, "peer": runner.DECISIVE_ROUNDS}


def test_who_is_near_a_reference_has_every_round() -> None:
    assert racing(0.95) == {"local": 2 * runner.DECISIVE_ROUNDS, "peer": 2 * runner.DECISIVE_ROUNDS}
