"""What a run says, scenario by scenario, as grids of words: the text table, the page and the
document for the repository show the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench import figures, ratios
from bench.results import Better, Metric, Run

_NOTE = (
    "Every figure is the median of its rounds, (min..max) behind it. A ratio is the median of the"
    " ratios of neighbouring rounds, turned so that more than 1 is better; (low..high) holds the"
    " true median with at least 95 % confidence, or with the percentage behind it where there were"
    " fewer than 6 rounds. Rounds are how many a subject had: one that is slow, or whose ratios are"
    " decided, sits out the rest."
)


@dataclass(frozen=True)
class Grid:
    """Named columns, a row for each subject; the first column is the subject."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Part:
    """One variant of a scenario ("" is the plain one)."""

    variant: str
    #: The figures that answer the question, and the grid of each.
    headlines: tuple[tuple[Metric, Grid], ...]
    #: What it cost: the metrics, and one grid of all.
    costs: tuple[Metric, ...]
    cost: Grid | None
    #: Subject and its error.
    cannot: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Chapter:
    scenario: str
    question: str
    #: How much of what was read, in one line.
    sizes: str
    parts: tuple[Part, ...]


def note(run: Run, beside: Sequence[Run] = ()) -> str:
    """How to read the grids of *run*, and what is not among them, nor among those of the runs
    *beside* it."""
    asked = run.options.get("scenarios", [])
    measured = {name for each in (run, *beside) for name in each.scenarios}
    missing = [name for name in asked if name not in measured]
    if not missing:
        return _NOTE
    return f"{_NOTE} The run was cut off: {', '.join(missing)} had not been measured by then."


def chapters(run: Run) -> Iterator[Chapter]:
    """Each scenario of *run*, in the order in which they ran."""
    names = dict.fromkeys(
        [
            *run.scenarios,
            *(series.scenario for series in run.series),
            *(cannot.scenario for cannot in run.cannot),
        ]
    )
    for name in names:
        described = dict(run.scenarios.get(name, {}))
        question = str(described.pop("question", ""))
        variants = dict.fromkeys(
            [
                *(metric.variant for metric in run.metrics(name)),
                *(cannot.variant for cannot in run.cannot if cannot.scenario == name),
            ]
        )
        ordered = sorted(variants, key=bool)  # The plain one first, the others as they came.
        yield Chapter(
            name,
            question,
            figures.facts(described),
            tuple(_part(run, name, variant) for variant in ordered),
        )


def column_scale(run: Run, scenario: str, metric: Metric) -> figures.Scale:
    """The one unit for the figures of all subjects."""
    found = (run.find(scenario, subject, metric) for subject in run.subjects(scenario))
    return figures.scale(
        metric.unit, [series.median for series in found if series is not None and series.measured]
    )


def _part(run: Run, scenario: str, variant: str) -> Part:
    metrics = [metric for metric in run.metrics(scenario) if metric.variant == variant]
    costs = tuple(metric for metric in metrics if not metric.headline)
    return Part(
        variant,
        tuple((m, _headline(run, scenario, m)) for m in metrics if m.headline),
        costs,
        _cost(run, scenario, costs) if costs else None,
        tuple(
            dict.fromkeys(
                (cannot.subject, " ".join(cannot.error.split()))
                for cannot in run.cannot
                if (cannot.scenario, cannot.variant) == (scenario, variant)
            )
        ),
    )


def _title(metric: Metric, scale: figures.Scale) -> str:
    return f"{metric.name}, {scale.unit}" if scale.unit else metric.name


def _spread(run: Run, scenario: str, subject: str, metric: Metric, scale: figures.Scale) -> str:
    series = run.find(scenario, subject, metric)
    return scale.spread(series) if series is not None and series.measured else "-"


def _headline(run: Run, scenario: str, metric: Metric) -> Grid:
    scale = column_scale(run, scenario, metric)
    subjects = {
        subject: series
        for subject in run.subjects(scenario)
        if (series := run.find(scenario, subject, metric)) is not None and series.measured
    }
    against: list[tuple[str, str]] = []
    if metric.better is not Better.NEITHER:
        if ratios.LOCAL in subjects:
            against.append((ratios.LOCAL, "ratio to local"))
        elif ratios.CLIENT in subjects and len(subjects) > 1:
            # Of what needs a lake, such as uploads, the local file system has no figure.
            against.append((ratios.CLIENT, "ratio to client"))
        peer = ratios.best_peer(run, scenario, metric)
        if peer is not None:
            against.append((peer, f"ratio to {peer}, the best peer"))
    rows = []
    for subject, series in subjects.items():
        row = [subject, scale.spread(series), str(len(series.measured))]
        for other, _ in against:
            estimate = ratios.ratio(run, scenario, metric, subject, other)
            row.append("1" if subject == other else figures.ratio_text(estimate))
        rows.append(tuple(row))
    headers = ("subject", _title(metric, scale), "rounds", *(header for _, header in against))
    return Grid(headers, tuple(rows))


def _cost(run: Run, scenario: str, metrics: tuple[Metric, ...]) -> Grid:
    scales = {metric: column_scale(run, scenario, metric) for metric in metrics}
    rows = []
    for subject in run.subjects(scenario):
        cells = [_spread(run, scenario, subject, m, scales[m]) for m in metrics]
        if any(cell != "-" for cell in cells):
            rows.append((subject, *cells))
    return Grid(("subject", *(_title(m, scales[m]) for m in metrics)), tuple(rows))
