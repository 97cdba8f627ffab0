"""What a run measured: the records behind the table, the JSON file and the page.

Round *n* of one subject and round *n* of another were measured next to each other, so values are
kept by round: ratios are made of neighbours, never of medians. ``bench/SCHEMA.md`` is the document
of the file that `Run.to_json` gives.
"""

from __future__ import annotations

import enum
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1


class Better(enum.Enum):
    """Which way a metric is good."""

    HIGHER = "higher"
    LOWER = "lower"
    #: A fact, such as the space on disk: neither.
    NEITHER = "neither"


@dataclass(frozen=True)
class Metric:
    """What one figure is. *variant* tells apart the same metric under other conditions (``4
    readers``)."""

    name: str
    unit: str
    better: Better
    variant: str = ""
    #: The figure that answers the scenario's question; ratios are shown of these.
    headline: bool = False

    def __str__(self) -> str:
        return f"{self.name}, {self.variant}" if self.variant else self.name


@dataclass
class Series:
    """One metric of one subject in one scenario: a value for each round, NaN where there is
    none."""

    scenario: str
    subject: str
    metric: Metric
    values: list[float] = field(default_factory=list)

    @property
    def measured(self) -> list[float]:
        """The values without the gaps."""
        return [value for value in self.values if not math.isnan(value)]

    @property
    def median(self) -> float:
        return statistics.median(self.measured)


@dataclass(frozen=True)
class Cannot:
    """A subject that could not do a scenario (or *variant* of it), and its own words for it."""

    scenario: str
    subject: str
    error: str
    variant: str = ""


@dataclass
class Run:
    """Everything that one ``bench run`` found out."""

    #: ISO 8601, UTC.
    started: str
    #: The command's own options: quick, link, seed, subjects, scenarios.
    options: dict[str, Any]
    #: CPU model, cores, memory, kernel, file system and disk of the work directory.
    machine: dict[str, Any]
    #: Subject or tool -> version; ``tierfs`` with its commit.
    versions: dict[str, str]
    #: Subject -> how it was mounted: ``command``, ``source`` (documentation), ``notes``.
    settings: dict[str, dict[str, Any]]
    #: Scenario -> its question and its sizes.
    scenarios: dict[str, dict[str, Any]] = field(default_factory=dict)
    series: list[Series] = field(default_factory=list)
    cannot: list[Cannot] = field(default_factory=list)

    def record(
        self, scenario: str, subject: str, round_number: int, values: dict[Metric, float]
    ) -> None:
        """Add what round *round_number* (from 0) measured. Raises ValueError for a round that has
        been recorded: a value in another round's place would be paired with the wrong neighbour."""
        for metric, value in values.items():
            series = self.find(scenario, subject, metric)
            if series is None:
                series = Series(scenario, subject, metric)
                self.series.append(series)
            if round_number < len(series.values):
                raise ValueError(f"{scenario}, {subject}, {metric}: round {round_number} again")
            series.values += [math.nan] * (round_number - len(series.values))
            series.values.append(float(value))

    def find(self, scenario: str, subject: str, metric: Metric) -> Series | None:
        wanted = (scenario, subject, metric.name, metric.variant)
        for series in self.series:
            if (
                series.scenario,
                series.subject,
                series.metric.name,
                series.metric.variant,
            ) == wanted:
                return series
        return None

    def metrics(self, scenario: str) -> list[Metric]:
        """The metrics of *scenario* in the order in which they were first recorded."""
        return list(dict.fromkeys(s.metric for s in self.series if s.scenario == scenario))

    def subjects(self, scenario: str) -> list[str]:
        """The subjects that have figures in *scenario*, in the order of their first one."""
        return list(dict.fromkeys(s.subject for s in self.series if s.scenario == scenario))

    def to_json(self) -> dict[str, Any]:
        """The document that ``bench/SCHEMA.md`` describes."""
        return {
            "schema": SCHEMA_VERSION,
            "started": self.started,
            "options": self.options,
            "machine": self.machine,
            "versions": self.versions,
            "settings": self.settings,
            "scenarios": self.scenarios,
            "results": [_row(series) for series in self.series if series.measured],
            "cannot": [
                {
                    "scenario": c.scenario,
                    "subject": c.subject,
                    "variant": c.variant,
                    "error": c.error,
                }
                for c in self.cannot
            ],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Run:
        """Read `to_json`'s document again. Raises ValueError for another schema, KeyError or
        TypeError for a document that is none."""
        if document.get("schema") != SCHEMA_VERSION:
            raise ValueError(
                f"schema {document.get('schema')!r}, this version reads {SCHEMA_VERSION}"
            )
        run = cls(
            **{
                name: document[name]
                for name in ("started", "options", "machine", "versions", "settings", "scenarios")
            }
        )
        run.series = list(_series(document["results"]))
        run.cannot = [Cannot(**row) for row in document["cannot"]]
        return run

    def write(self, path: Path) -> None:
        """Write `to_json`'s document to *path*. Raises OSError."""
        path.write_text(json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read a file that `write` wrote. Raises OSError, or ValueError with one line that names
        the file and what is wrong with it."""
        try:
            return cls.from_json(json.loads(path.read_text()))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not the record of a run: {error!r}") from error


def _row(series: Series) -> dict[str, Any]:
    metric, measured = series.metric, series.measured
    return {
        "scenario": series.scenario,
        "subject": series.subject,
        "metric": metric.name,
        "variant": metric.variant,
        "unit": metric.unit,
        "better": metric.better.value,
        "headline": metric.headline,
        "median": statistics.median(measured),
        "min": min(measured),
        "max": max(measured),
        "repeats": len(measured),
        "values": [None if math.isnan(value) else value for value in series.values],
    }


def _series(rows: Iterable[dict[str, Any]]) -> Iterable[Series]:
    for row in rows:
        metric = Metric(
            row["metric"], row["unit"], Better(row["better"]), row["variant"], row["headline"]
        )
        values = [math.nan if value is None else float(value) for value in row["values"]]
        yield Series(row["scenario"], row["subject"], metric, values)
