"""Figures as people read them: three digits, and one unit for all that stand in one column.

What was measured is decimal (MB is 10^6 bytes, as disks and networks are sold), what was asked for
is binary (MiB is 2^20 bytes, as memory is).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.ratios import CONFIDENCE, Estimate
from bench.results import Series
from tierfs import units

#: Steps of one kind of unit, ascending: what each is worth in the first of them.
_KINDS = [
    {"B/s": 1.0, "kB/s": 1e3, "MB/s": 1e6},
    {"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40},
    {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9},
]


@dataclass(frozen=True)
class Scale:
    """A unit to show figures in, and what one of the recorded unit is in it."""

    unit: str
    factor: float

    def text(self, value: float) -> str:
        """The figure without its unit."""
        return number(value * self.factor)

    def with_unit(self, value: float) -> str:
        return f"{self.text(value)} {self.unit}".rstrip()

    def spread(self, series: Series) -> str:
        """``median (min..max)``, without the unit; the median alone where nothing varied."""
        values = series.measured
        if min(values) == max(values):
            return self.text(series.median)
        return f"{self.text(series.median)} ({self.text(min(values))}..{self.text(max(values))})"


def scale(unit: str, values: Iterable[float]) -> Scale:
    """The unit that suits the middle one of *values*, which are in *unit* (``B/s``, ``us/file``);
    *unit* itself if it is of no known kind."""
    whole, slash, rest = unit.partition("/")
    for kind in _KINDS:
        for name, suffix in ((unit, ""), (whole, slash + rest)):
            if name in kind:
                positive = [value * kind[name] for value in values if value > 0]
                middle = statistics.median(positive) if positive else kind[name]
                fitting = [step for step in kind if kind[step] <= middle] or [next(iter(kind))]
                step = fitting[-1]
                return Scale(step + suffix, kind[name] / kind[step])
    return Scale(unit, 1.0)


def number(value: float) -> str:
    """Three digits or, of larger figures, all before the point."""
    if value == int(value):
        return f"{value:,.0f}"
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.995 else f"{value:.3g}"


def ratio_number(value: float) -> str:
    """Two decimals about 1, fewer above it, more below."""
    if value >= 9.995:
        return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.0995 else f"{value:#.2g}"


def ratio_text(estimate: Estimate | None) -> str:
    """``0.99 (0.97..1.02)``, its confidence behind it where that is under 95 %. A ratio that says
    nothing is words and its interval, no figure."""
    if estimate is None:
        return "-"
    interval = f"({ratio_number(estimate.low)}..{ratio_number(estimate.high)})"
    text = f"{estimate.doubt or ratio_number(estimate.median)} {interval}"
    if estimate.confidence < CONFIDENCE:
        text += f" {estimate.confidence:.0%}"
    return text


def fact(key: str, value: Any) -> tuple[str, str]:
    """One entry of a dictionary of facts as a name and words; ``memory_bytes`` in binary units."""
    name = key.removesuffix("_bytes").replace("_", " ")
    if key.endswith("_bytes") and isinstance(value, int | float):
        return name, units.human_size(value)
    if isinstance(value, bool):
        return name, "yes" if value else "no"
    if isinstance(value, list | tuple):
        return name, ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return name, facts(value) or "none"
    return name, str(value)


def facts(entries: dict[str, Any]) -> str:
    """A dictionary of facts in one line."""
    return "; ".join(" ".join(fact(key, value)) for key, value in entries.items())
