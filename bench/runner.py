"""Run scenarios: subjects alternate round by round, so that what disturbs one disturbs all.

The order is turned by one each round: nobody is always the one who runs after the noisy one.

A subject that is slow does not make everybody wait: it sits out the rounds that are left when it
has had `Scenario.patience_s` and at least `FEWEST_ROUNDS`, or twice as long. So does one of which
`DECISIVE_ROUNDS` have shown that none of its ratios to `local` and to `client` is near 1: twenty
pairs tell 0.97 from 1, and 0.3 needs no more than seven. Its ratios are those of the rounds that it
had, against the others in the same ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from bench import ratios
from bench.lab import Lab
from bench.results import Cannot, Run
from bench.scenarios.base import EXCUSES, Measure, PartlyError, Scenario
from bench.subjects.base import Subject

Say = Callable[[str], None]

#: Pairs of which a median says something.
FEWEST_ROUNDS = 3
#: Pairs after which it counts whether the interval of a ratio comes near 1, and what near is.
DECISIVE_ROUNDS = 7
NEAR = 1.25
#: What the ratios are to.
REFERENCES = (ratios.LOCAL, ratios.CLIENT)


class Clock:
    """Guesses how long a run still takes, from the scenarios' expectations and how they come
    true."""

    def __init__(self, scenarios: Sequence[Scenario], subjects: int) -> None:
        self._left_s = {scenario.name: scenario.expected_s * subjects for scenario in scenarios}

    def done(self, scenario: str, spent_s: float, share: float) -> None:
        """*share* (0 to 1] of *scenario* took *spent_s*."""
        self._left_s[scenario] = spent_s * (1 - share) / share

    @property
    def left(self) -> str:
        """``about 4 min left``."""
        seconds = sum(self._left_s.values())
        return (
            f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
        )


def run(
    lab: Lab,
    scenarios: Sequence[Scenario],
    subjects: Sequence[Subject],
    record: Run,
    say: Say,
    done: Callable[[], object] = lambda: None,
) -> None:
    """Run all *scenarios* with all *subjects* into *record*; *say* gets a line of progress, and
    *done* is called after each scenario.

    Raises WrongBytesError: then nothing of the run is to be believed.
    """
    clock = Clock(scenarios, len(subjects))
    for scenario in scenarios:
        _run_scenario(lab, scenario, subjects, record, clock, say)
        done()


def _run_scenario(
    lab: Lab,
    scenario: Scenario,
    subjects: Sequence[Subject],
    record: Run,
    clock: Clock,
    say: Say,
) -> None:
    rounds = scenario.rounds(lab.quick)
    say(f"{scenario.name}: making the data; {clock.left}")
    scenario.prepare(lab)
    question, sizes = scenario.question, scenario.sizes(lab.quick)
    record.scenarios[scenario.name] = {"question": question, "rounds": rounds, "sizes": sizes}
    begin = time.monotonic()
    # Each subject has one share for getting ready and one for each round.
    shares, done = len(subjects) * (rounds + 1), 0

    def step() -> None:
        nonlocal done
        done += 1
        clock.done(scenario.name, time.monotonic() - begin, done / shares)

    with ExitStack() as sessions:
        measures: dict[str, Measure] = {}
        for subject in subjects:
            if why := scenario.leaves_out(record, subject):
                record.cannot.append(Cannot(scenario.name, subject.name, f"left out: {why}"))
                step()
                continue
            say(f"{scenario.name}: {subject.name} gets ready; {clock.left}")
            sessions.enter_context(_excused(record, scenario, subject))
            try:
                measures[subject.name] = sessions.enter_context(scenario.session(lab, subject))
            except EXCUSES as error:
                record.cannot.append(Cannot(scenario.name, subject.name, str(error)))
            step()
        names = [subject.name for subject in subjects]
        spent_s = dict.fromkeys(names, 0.0)
        compared = measures.keys() - set(REFERENCES)
        for n in range(rounds):
            if compared and not compared & measures.keys():
                break
            turn = n % len(names)
            for name in names[turn:] + names[:turn]:
                if name in measures:
                    say(f"{scenario.name}: round {n + 1} of {rounds}, {name}; {clock.left}")
                    began = time.monotonic()
                    # Whoever reads the same waits as long for the same first bytes.
                    lab.server.begin_turn(n + 1)
                    try:
                        values = measures[name](n)
                    except EXCUSES as error:
                        record.cannot.append(Cannot(scenario.name, name, str(error)))
                        del measures[name]
                    except PartlyError as partly:
                        record.cannot += [
                            Cannot(scenario.name, name, error, variant)
                            for variant, error in partly.errors.items()
                        ]
                        record.record(scenario.name, name, n, partly.figures)
                    else:
                        record.record(scenario.name, name, n, values)
                    spent_s[name] += time.monotonic() - began
                    if _has_had_its_time(scenario, n + 1, spent_s[name]) or (
                        n + 1 >= DECISIVE_ROUNDS and _is_decided(record, scenario.name, name)
                    ):
                        measures.pop(name, None)
                step()


@contextmanager
def _excused(record: Run, scenario: Scenario, subject: Subject) -> Iterator[None]:
    """A subject that cannot even end as it should says so, and is no reason to end the run."""
    try:
        yield
    except EXCUSES as error:
        record.cannot.append(Cannot(scenario.name, subject.name, str(error)))


def _has_had_its_time(scenario: Scenario, rounds: int, spent_s: float) -> bool:
    """Whether a subject that took part in *rounds* sits out what is left."""
    enough = scenario.patience_s if rounds >= FEWEST_ROUNDS else 2 * scenario.patience_s
    return spent_s > enough


def _is_decided(record: Run, scenario: str, name: str) -> bool:
    """Whether none of the ratios of *name* to a reference is near 1. A reference never is: the
    others are measured against it."""
    if name in REFERENCES:
        return False
    found = [
        ratios.ratio(record, scenario, series.metric, name, reference)
        for series in record.series
        if series.scenario == scenario and series.subject == name and series.metric.headline
        for reference in REFERENCES
    ]
    return not any(
        ratio is not None and ratio.low < NEAR and ratio.high > 1 / NEAR for ratio in found
    )
