"""``python -m bench compare A.json B.json``: what changed beyond the noise between two runs.

The speed of a machine changes from one run to the next, so a figure is judged as its ratio to
`local`, measured round by round within its own run, wherever it has one; the others (memory,
requests, a scenario that the local file system has no part in) are judged as they are.

A change is one where the medians differ by more than `THRESHOLD` and their intervals
(`bench.ratios`) have nothing in common. Noise alone separates two sets of 3 rounds one time in
10, of 4 one in 35, of 5 one in 126, of 6 one in 462: a single change among hundreds of figures of
few rounds is a reason to measure again, no more.
"""

from __future__ import annotations

import argparse
import enum
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import figures, ratios, table
from bench.chapters import Grid
from bench.ratios import Estimate
from bench.results import Better, Metric, Run, Series

#: Less than this share of the smaller median is no change, however sure.
THRESHOLD = 0.05


class Verdict(enum.Enum):
    WORSE = "worse"
    BETTER = "better"
    CHANGED = "changed, neither better nor worse"
    UNSURE = "too few rounds to judge"
    SAME = "unchanged"


@dataclass(frozen=True)
class Difference:
    """One figure in two runs."""

    scenario: str
    subject: str
    metric: Metric
    before: Estimate
    after: Estimate
    #: Whether the figures are ratios to local; otherwise they are in the metric's unit.
    relative: bool

    @property
    def verdict(self) -> Verdict:
        before, after = self.before, self.after
        if min(before.count, after.count) < ratios.FEWEST_PAIRS:
            return Verdict.UNSURE
        small, large = sorted((before.median, after.median))
        if before.overlaps(after) or large <= small * (1 + THRESHOLD):
            return Verdict.SAME
        better = Better.HIGHER if self.relative else self.metric.better
        if better is Better.NEITHER:
            return Verdict.CHANGED
        rose = after.median > before.median
        return Verdict.BETTER if rose == (better is Better.HIGHER) else Verdict.WORSE


@dataclass(frozen=True)
class Lost:
    """A subject that one run has figures of, and the other an error."""

    scenario: str
    subject: str
    variant: str
    error: str


def differences(before: Run, after: Run) -> list[Difference]:
    """Every figure that both runs have, in the order of the first."""
    found = []
    for series in before.series:
        other = after.find(series.scenario, series.subject, series.metric)
        if other is None or not series.measured or not other.measured:
            continue
        of_both = _ratio_to_local(before, series), _ratio_to_local(after, other)
        relative = None not in of_both
        one, two = of_both
        if one is None or two is None:
            one, two = ratios.estimate(series.measured), ratios.estimate(other.measured)
        found.append(Difference(series.scenario, series.subject, series.metric, one, two, relative))
    return found


def _ratio_to_local(run: Run, series: Series) -> Estimate | None:
    return ratios.ratio(run, series.scenario, series.metric, series.subject, ratios.LOCAL)


def lost(before: Run, after: Run) -> list[Lost]:
    """What *before* has figures of and *after* could not do."""
    had = {(s.scenario, s.subject, s.metric.variant) for s in before.series if s.measured}
    had |= {(scenario, subject, "") for scenario, subject, _ in had}
    return [
        Lost(c.scenario, c.subject, c.variant, " ".join(c.error.split()))
        for c in after.cannot
        if (c.scenario, c.subject, c.variant) in had
        and not any(
            (b.scenario, b.subject, b.variant) == (c.scenario, c.subject, c.variant)
            for b in before.cannot
        )
    ]


@dataclass(frozen=True)
class Disagreement:
    """A headline ratio of two runs that differs by more than was allowed."""

    scenario: str
    subject: str
    metric: Metric
    other: str
    before: Estimate
    after: Estimate


@dataclass(frozen=True)
class Agreement:
    """How far two runs agree on the headline ratios that both have: of every subject to local, of
    tierfs to the best peer of the first."""

    #: Ratios that both runs stand by.
    compared: int
    #: Those of them that differ too much.
    found: list[Disagreement]
    #: Ratios that one of the runs itself calls meaningless (`Estimate.doubt`), and does not show.
    doubted: int


def agreement(before: Run, after: Run, share: float) -> Agreement:
    """Ratios differ too much if one median is more than 1 + *share* times the other."""
    compared, doubted, found = 0, 0, []
    for series in before.series:
        scenario, subject, metric = series.scenario, series.subject, series.metric
        if not metric.headline:
            continue
        others = [ratios.LOCAL]
        peer = ratios.best_peer(before, scenario, metric)
        if ratios.is_ours(subject) and peer is not None:
            others.append(peer)
        for other in others:
            one = ratios.ratio(before, scenario, metric, subject, other)
            two = ratios.ratio(after, scenario, metric, subject, other)
            if one is None or two is None:
                continue
            if one.doubt or two.doubt:
                doubted += 1
                continue
            compared += 1
            if _apart(one, two) > 1 + share:
                found.append(Disagreement(scenario, subject, metric, other, one, two))
    return Agreement(compared, found, doubted)


def _apart(one: Estimate, two: Estimate) -> float:
    return max(one.median, two.median) / min(one.median, two.median)


def main(argv: Sequence[str] | None = None) -> int:
    """0: nothing got worse (or, with ``--agree``, the runs agree); 1: something of tierfs did (or
    they do not); 2: unreadable input."""
    parser = argparse.ArgumentParser(
        prog="python -m bench compare",
        description="What changed beyond the noise between two runs.",
        epilog="Exit status: 0, nothing of tierfs got worse; 1, something did; 2, a file cannot"
        " be read. With --agree: 0, the runs agree; 1, they do not.",
    )
    parser.add_argument("before", type=Path, metavar="A.json")
    parser.add_argument("after", type=Path, metavar="B.json")
    parser.add_argument("--all", action="store_true", help="show what has not changed, too")
    parser.add_argument(
        "--agree",
        type=float,
        metavar="PERCENT",
        help="only say whether the two runs agree on every ratio within PERCENT (25)",
    )
    arguments = parser.parse_args(argv)
    try:
        before, after = Run.read(arguments.before), Run.read(arguments.after)
    except (OSError, ValueError) as error:
        print(f"bench compare: {error}", file=sys.stderr)
        return 2
    for line in _heading(arguments, before, after):
        print(line)
    if arguments.agree is not None:
        return _agree(before, after, arguments.agree)
    return _compare(before, after, everything=arguments.all)


def _heading(arguments: argparse.Namespace, before: Run, after: Run) -> Iterator[str]:
    for letter, path, run in (("A", arguments.before, before), ("B", arguments.after, after)):
        yield f"{letter}: {path}, {run.started}, tierfs {run.versions.get('tierfs', 'not run')}"
    pairs: list[tuple[str, dict[str, object], dict[str, object]]] = [
        ("machines", before.machine, after.machine),
        ("options", before.options, after.options),
        ("versions", dict(before.versions), dict(after.versions)),
        ("settings", dict(before.settings), dict(after.settings)),
        ("scenarios", dict(before.scenarios), dict(after.scenarios)),
    ]
    for name, one, two in pairs:
        keys = [key for key in {**one, **two} if one.get(key) != two.get(key)]
        if keys:
            yield from textwrap.wrap(
                f"{name} differ: {', '.join(keys)}", table.WIDTH, subsequent_indent="  "
            )


def _agree(before: Run, after: Run, percent: float) -> int:
    both = agreement(before, after, percent / 100)
    common, found = both.compared, both.found
    one_only = lost(before, after) + lost(after, before)
    print(f"{common - len(found)} of {common} ratios agree within {percent:g} %")
    if both.doubted:
        print(f"{both.doubted} more are left out, for whose spread a run gives no ratio")
    if found:
        rows = [
            (
                row.scenario,
                row.subject,
                str(row.metric),
                row.other,
                _interval(row.before, figures.ratio_number),
                _interval(row.after, figures.ratio_number),
            )
            for row in found
        ]
        _print(Grid(("scenario", "subject", "metric", "ratio to", "A", "B"), tuple(rows)))
    _print_lost("could in one of the two only:", one_only)
    return 1 if found or one_only or not common else 0


def _compare(before: Run, after: Run, *, everything: bool) -> int:
    found = differences(before, after)
    gone, come = lost(before, after), lost(after, before)
    by_verdict = {verdict: [d for d in found if d.verdict is verdict] for verdict in Verdict}
    for verdict, rows in by_verdict.items():
        if rows and (everything or verdict not in (Verdict.SAME, Verdict.UNSURE)):
            print(f"\n{verdict.value}:")
            _print(
                Grid(("scenario", "subject", "metric", "A", "B", "change"), tuple(map(_row, rows)))
            )
    _print_lost("cannot any more:", gone)
    _print_lost("could not before:", come)
    keys = [{_key(s) for s in run.series if s.measured} for run in (before, after)]
    counts = {verdict.value: len(by_verdict[verdict]) for verdict in Verdict}
    counts |= {"in A only": len(keys[0] - keys[1]), "in B only": len(keys[1] - keys[0])}
    summary = "; ".join(f"{count} {name}" for name, count in counts.items() if count)
    print()
    for line in textwrap.wrap(f"{len(found)} figures compared: {summary}", table.WIDTH):
        print(line)
    worse = [d.subject for d in by_verdict[Verdict.WORSE]] + [loss.subject for loss in gone]
    return 1 if any(map(ratios.is_ours, worse)) else 0


def _key(series: Series) -> tuple[str, str, str, str]:
    return series.scenario, series.subject, series.metric.name, series.metric.variant


def _row(row: Difference) -> tuple[str, ...]:
    one, two = row.before, row.after
    if row.relative:
        metric = f"{row.metric}, x local"
        cells = [_interval(e, figures.ratio_number) for e in (one, two)]
    else:
        scale = figures.scale(row.metric.unit, [one.median, two.median])
        metric = f"{row.metric}, {scale.unit}" if scale.unit else str(row.metric)
        cells = [_interval(e, scale.text) for e in (one, two)]
    change = f"{two.median / one.median - 1:+.0%}" if one.median else ""
    return row.scenario, row.subject, metric, *cells, change


def _interval(estimate: Estimate, text: Callable[[float], str]) -> str:
    interval = f"({text(estimate.low)}..{text(estimate.high)})"
    return (
        f"{text(estimate.median)} {interval}"
        if estimate.low < estimate.high
        else text(estimate.median)
    )


def _print(grid: Grid) -> None:
    for line in table.grid_lines(grid):
        print(line)


def _print_lost(title: str, rows: Sequence[Lost]) -> None:
    if rows:
        print(f"\n{title}")
    for row in rows:
        place = f"{row.scenario}, {row.variant}" if row.variant else row.scenario
        text = f"{place}, {row.subject}: {row.error}"
        for line in textwrap.wrap(text, table.WIDTH, initial_indent="  ", subsequent_indent="    "):
            print(line)
