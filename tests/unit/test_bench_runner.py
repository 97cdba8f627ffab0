"""Rounds: a slow subject sits out what is left, and takes nothing from the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench import runner
from bench.lab import Lab
from bench.results import Better, Metric, Run
from bench.scenarios.base import Measure, Scenario
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


def rounds_of(scenario: Scenario, *subjects: Subject) -> dict[str, int]:
    record = Run("2026-01-01T00:00:00+00:00", {}, {}, {}, {})
    lab = cast(Lab, SimpleNamespace(quick=True))
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
