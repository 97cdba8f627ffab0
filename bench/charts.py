"""Charts of a run as SVG that stands inside of an HTML page.

Matplotlib draws them with stand-in colours; `_inline` turns those into the page's CSS variables,
so that one picture serves light, dark and paper. Text stays text: it can be searched and read out.
"""

from __future__ import annotations

import html
import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.rcsetup import cycler
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.typing import RcKeyType

from bench import chapters, figures, ratios
from bench.ratios import Estimate
from bench.results import Better, Metric, Run, Series

#: Stand-in colour -> CSS variable of the page.
_VARIABLES = {
    "#00a001": "--ink",
    "#00a002": "--faint",
    "#00a003": "--rule",
    "#00a004": "--tierfs",
    "#00a005": "--local",
    "#00a006": "--client",
    "#00a007": "--peer",
    "#00a008": "--paper",
}
_COLOURS = {variable: colour for colour, variable in _VARIABLES.items()}
_INK, _FAINT, _RULE = _COLOURS["--ink"], _COLOURS["--faint"], _COLOURS["--rule"]
_PAPER = _COLOURS["--paper"]

#: Largest over smallest median from which bars could not be told apart on a linear axis.
_LOG_FROM = 20.0
_POINTS_PER_INCH = 72
_STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _FAINT,
    "axes.labelsize": 8.0,
    "xtick.color": _FAINT,
    "ytick.color": _INK,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "axes.prop_cycle": cycler(color=[_INK]),
}
_MARKERS = "osD^vP*X<>"


def bars(run: Run, scenario: str, metric: Metric, *, width: float = 7.0) -> str:
    """The medians of all subjects, min..max as whiskers, single rounds as dots; *width* in inches.
    A log axis has no zero for a bar to start from, so there the median is a tick."""
    series = [
        found
        for subject in run.subjects(scenario)
        if (found := run.find(scenario, subject, metric)) is not None and found.measured
    ]
    cannot = dict.fromkeys(
        row.subject
        for row in run.cannot
        if (row.scenario, row.variant) == (scenario, metric.variant)
    )
    errors = [subject for subject in cannot if all(subject != one.subject for one in series)]
    scale = chapters.column_scale(run, scenario, metric)
    label = f"{scenario}: {metric}" + (f", {scale.unit}" if scale.unit else "")
    names = [one.subject for one in series] + errors
    with mpl.rc_context({**_STYLE, "svg.hashsalt": label}):
        figure = Figure(figsize=(width, 0.75 + 0.27 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        _set_up(axes, names)
        logarithmic = _needs_log(series)
        if logarithmic:
            axes.set_xscale("log")
        for row, one in enumerate(series):
            _draw(axes, row, one, scale, logarithmic=logarithmic)
        _make_room(axes, logarithmic=logarithmic)
        for row in range(len(series), len(names)):
            axes.text(
                0.01,
                row,
                "cannot",
                transform=axes.get_yaxis_transform(),
                color=_FAINT,
                va="center",
                style="italic",
            )
        axes.set_xlabel(_axis_label(metric, scale, logarithmic=logarithmic))
        spoken = "; ".join(
            [f"{one.subject} {scale.spread(one)}" for one in series]
            + [f"{subject} cannot" for subject in errors]
        )
        return _inline(figure, f"{label}: {spoken}")


def summary(run: Run) -> str | None:
    """The ratios to local of every headline figure with their intervals, on one log axis; None
    where there are none."""
    rows: list[tuple[str, str, dict[str, Estimate]]] = []
    for chapter in chapters.chapters(run):
        for part in chapter.parts:
            for metric, _ in part.headlines:
                found = {
                    subject: estimate
                    for subject in run.subjects(chapter.scenario)
                    if (
                        estimate := ratios.ratio(
                            run, chapter.scenario, metric, subject, ratios.LOCAL
                        )
                    )
                    is not None
                }
                if found:
                    rows.append((chapter.scenario, str(metric), found))
    if not rows:
        return None
    subjects = sorted(dict.fromkeys(s for _, _, found in rows for s in found), key=ratios.is_peer)
    markers = _markers(subjects)
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "summary"}):
        step = 1 / (len(subjects) + 1)
        figure = Figure(
            figsize=(9.0, 1.1 + len(rows) * max(0.35, 0.12 * len(subjects))), layout="constrained"
        )
        axes = figure.add_subplot()
        _set_up(axes, [f"{scenario}\n{metric}" for scenario, metric, _ in rows])
        axes.set_xscale("log")
        for number in range(1, len(rows)):
            axes.axhline(number - 0.5, color=_RULE, linewidth=0.6)
        for row, (_, _, found) in enumerate(rows):
            for place, subject in enumerate(subjects):
                if subject in found:
                    _draw_ratio(
                        axes,
                        row - 0.5 + (place + 1) * step,
                        found[subject],
                        _colour(subject),
                        markers[subject],
                    )
        axes.axvline(1, color=_INK, linewidth=1)
        _tick_log(axes)
        axes.set_xlabel("ratio to local: 1 is the local file system, right of it is better")
        axes.tick_params(labeltop=True)
        figure.legend(
            handles=[
                Line2D([], [], color=_colour(s), marker=markers[s], markersize=4.5, label=s)
                for s in subjects
            ],
            loc="outside upper center",
            ncols=min(8, len(subjects)),
            frameon=False,
            fontsize=8,
        )
        return _inline(
            figure, f"Ratios to local of {len(rows)} figures; the tables below hold each of them."
        )


def _markers(subjects: list[str]) -> dict[str, str]:
    """A shape for each subject; none twice in one colour."""
    used: dict[str, int] = {}
    markers = {}
    for subject in subjects:
        count = used.get(_colour(subject), 0)
        used[_colour(subject)] = count + 1
        markers[subject] = _MARKERS[count % len(_MARKERS)]
    return markers


def _draw_ratio(axes: Axes, height: float, one: Estimate, colour: str, marker: str) -> None:
    axes.plot([one.low, one.high], [height, height], color=colour, linewidth=1.4)
    axes.plot(
        [one.median],
        [height],
        marker=marker,
        markersize=4.5,
        linestyle="none",
        color=colour,
        markerfacecolor=colour if one.meaningful else _PAPER,
    )


def _set_up(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(left=False)
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="x")


def _needs_log(series: list[Series]) -> bool:
    medians = [one.median for one in series]
    lowest = min((min(one.measured) for one in series), default=0.0)
    return lowest > 0 and max(medians) / min(medians) > _LOG_FROM


def _draw(axes: Axes, row: int, one: Series, scale: figures.Scale, *, logarithmic: bool) -> None:
    values = [value * scale.factor for value in one.measured]
    median, low, high = one.median * scale.factor, min(values), max(values)
    colour = _colour(one.subject)
    if logarithmic:
        axes.axhline(row, color=_RULE, linewidth=0.6, zorder=0)
        axes.plot([median], [row], marker="|", markersize=17, markeredgewidth=5, color=colour)
    else:
        axes.barh(row, median, height=0.62, color=colour)
    axes.errorbar(
        median,
        row,
        xerr=[[median - low], [high - median]],
        fmt="none",
        ecolor=_INK,
        elinewidth=1,
        capsize=3,
    )
    # Rounds from top to bottom in the order in which they were measured.
    span = max(1, len(values) - 1)
    heights = [row - 0.2 + 0.4 * place / span for place in range(len(values))]
    axes.plot(
        values,
        heights,
        linestyle="none",
        marker="o",
        markersize=2.6,
        markerfacecolor=_PAPER,
        markeredgecolor=_INK,
        markeredgewidth=0.6,
    )
    axes.annotate(
        figures.number(median),
        (high, row),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
    )


def _make_room(axes: Axes, *, logarithmic: bool) -> None:
    low, high = axes.get_xlim()
    if logarithmic:
        axes.set_xlim(low, high * (high / low) ** 0.12)
        _tick_log(axes)
    else:
        axes.set_xlim(0, max(high, 1e-12) * 1.12)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")


def _tick_log(axes: Axes) -> None:
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")


def _axis_label(metric: Metric, scale: figures.Scale, *, logarithmic: bool) -> str:
    words = [scale.unit or metric.name]
    if metric.better is not Better.NEITHER:
        words.append(f"{metric.better.value} is better")
    if logarithmic:
        words.append("log scale")
    return "; ".join(words)


def _colour(subject: str) -> str:
    if ratios.is_ours(subject):
        return _COLOURS["--tierfs"]
    if subject in (ratios.LOCAL, ratios.CLIENT):
        return _COLOURS[f"--{subject}"]
    return _COLOURS["--peer"]


def _inline(figure: Figure, label: str) -> str:
    """The figure as one ``svg`` element, without what belongs to a file of its own (prologue,
    metadata, style sheet, names that nothing refers to), *label* as its text alternative."""
    FigureCanvasSVG(figure)
    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    referred = set(re.findall(r"#([\w-]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in referred else "", body)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]*", r"font-size: \2", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub("#00a00[0-9]", lambda found: f"var({_VARIABLES[found[0]]})", body)
    body = re.sub(r"\n\s*", "\n", body)
    body = re.sub(r' (d|x|y)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), body)
    width, height = (round(inches * _POINTS_PER_INCH, 1) for inches in figure.get_size_inches())
    return (
        f'<svg class="chart" role="img" aria-label="{html.escape(label)}"'
        f' viewBox="0 0 {width} {height}" style="max-width: {width * 4 / 3:.0f}px">{body}'
    )
