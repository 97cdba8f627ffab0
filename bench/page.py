"""One run as one HTML page: charts, every figure, and the settings to argue with.

The page needs nothing from anywhere: no script, no font, no picture outside of it, and its own
content security policy forbids them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence

from bench import chapters, charts, figures, ratios
from bench.chapters import Chapter, Grid, Part
from bench.results import Metric, Run

#: Costs that get a chart of their own beside the headline's: words in a metric's name.
_CHARTED_COSTS = ("cpu", "memory")

_STYLE = """
:root { color-scheme: light dark; }
body {
  --paper: #ffffff; --ink: #1b1f24; --faint: #59636e; --rule: #d8dee4;
  --tierfs: #3b82c4; --local: #98a1ab; --client: #b9c1c9; --peer: #dfa267;
  background: var(--paper); color: var(--ink); margin: 2rem auto; max-width: 76rem;
  padding: 0 1.2rem; font: 15px/1.5 system-ui, sans-serif;
}
@media (prefers-color-scheme: dark) {
  body {
    --paper: #14181d; --ink: #e4e8ec; --faint: #9aa5b1; --rule: #343c45;
    --tierfs: #4a90d0; --local: #8b96a1; --client: #68727d; --peer: #c08245;
  }
}
h1 { font-size: 1.7rem; margin-bottom: 0; }
h2 { margin: 3rem 0 .3rem; padding-top: .8rem; border-top: 2px solid var(--rule); }
h3 { margin: 1.6rem 0 .3rem; }
p { max-width: 60rem; }
a { color: inherit; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: 1rem 0; }
.faint, figcaption, dt { color: var(--faint); }
.figures { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1rem 1.5rem; }
figure { margin: .6rem 0; flex: 1 1 15rem; min-width: 0; }
figure.headline { flex: 2 1 26rem; }
.chart { display: block; width: 100%; height: auto; font-family: system-ui, sans-serif; }
.chart * { stroke-linejoin: round; stroke-linecap: butt; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0 1.2rem; font-size: .87rem; }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule); font-variant-numeric: tabular-nums; }
th[scope=row] { font-weight: normal; white-space: nowrap; }
tr.ours { font-weight: 600; }
tr.ours th[scope=row] { font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .4rem 0; }
dd { margin: 0; overflow-wrap: anywhere; }
code { font-size: .9em; overflow-wrap: anywhere; }
@media print {
  body { --paper: #ffffff; --ink: #000000; --faint: #444444; --rule: #bbbbbb;
    --tierfs: #3b82c4; --local: #98a1ab; --client: #b9c1c9; --peer: #dfa267;
    margin: 0; max-width: none; font-size: 10pt; print-color-adjust: exact; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  figure, tr, section.subject { break-inside: avoid; }
  .chart { max-height: 21cm; }
  .scroll { overflow: visible; }
  table { font-size: 8pt; }
  th, td { padding-right: .5rem; }
}
"""


def render(run: Run) -> str:
    """The whole page."""
    title = f"tierfs benchmark, {run.started}"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta http-equiv="Content-Security-Policy"'
            " content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>{_text(title)}</title>",
            f"<style>{_STYLE}</style></head><body>",
            f"<h1>{_text(title)}</h1>",
            *_body(run),
            "</body></html>\n",
        ]
    )


def _body(run: Run) -> Iterator[str]:
    told = list(chapters.chapters(run))
    yield f'<p class="faint">{_text(chapters.note(run))} Dots are single rounds.</p>'
    links = [("summary", "Summary"), *((f"scenario-{c.scenario}", c.scenario) for c in told)]
    links += [("settings", "Settings"), ("machine", "Machine"), ("rounds", "Every round")]
    yield '<nav aria-label="Contents">'
    yield from (f'<a href="#{_text(anchor)}">{_text(name)}</a>' for anchor, name in links)
    yield '</nav><main><h2 id="summary">Summary</h2>'
    drawn = charts.summary(run)
    if drawn is None:
        yield "<p>No scenario has figures of the local file system beside another's.</p>"
    else:
        yield _figure(
            drawn,
            "Each mark is the median of the rounds' own ratios to the local file system, its line"
            " the interval. A hollow mark says nothing: spread too wide, or too few pairs.",
            "headline",
        )
    for chapter in told:
        yield from _chapter(run, chapter)
    yield from _settings(run)
    yield '<h2 id="machine">Machine</h2>'
    yield from _facts(run.machine)
    yield "<h3>Versions</h3>"
    yield from _facts(run.versions)
    yield "<h3>Options of the run</h3>"
    yield from _facts(run.options)
    yield '<h2 id="rounds">Every round</h2>'
    yield from _rounds(run)
    yield "</main>"


def _chapter(run: Run, chapter: Chapter) -> Iterator[str]:
    yield f'<h2 id="scenario-{_text(chapter.scenario)}">{_text(chapter.scenario)}</h2>'
    yield f"<p>{_text(chapter.question)}<br>"
    yield f'<span class="faint">{_text(chapter.sizes)}</span></p>'
    for part in chapter.parts:
        if part.variant:
            yield f"<h3>{_text(part.variant)}</h3>"
        yield '<div class="figures">'
        yield from _drawings(run, chapter.scenario, part)
        yield "</div>"
        for _, grid in part.headlines:
            yield _table(grid)
        if part.cannot:
            yield _table(Grid(("subject", "cannot: its own words"), part.cannot))
        if part.cost is not None:
            yield _table(part.cost)


def _drawings(run: Run, scenario: str, part: Part) -> Iterator[str]:
    for metric, _ in part.headlines:
        yield _figure(charts.bars(run, scenario, metric), str(metric), "headline")
    for metric in part.costs:
        if any(word in metric.name.casefold() for word in _CHARTED_COSTS):
            yield _figure(charts.bars(run, scenario, metric, width=3.8), str(metric), "cost")


def _settings(run: Run) -> Iterator[str]:
    yield '<h2 id="settings">Settings</h2>'
    yield "<p>How each subject was run. If one of them deserves better, say so.</p>"
    for subject, setting in run.settings.items():
        yield f'<section class="subject"><h3>{_text(subject)}</h3><dl>'
        yield f"<dt>version</dt><dd>{_text(run.versions.get(subject, 'unknown'))}</dd>"
        for key, value in setting.items():
            entries = value if isinstance(value, list) else [value]
            yield f"<dt>{_text(key)}</dt><dd>"
            yield "<br>".join(_setting(key, str(entry)) for entry in entries) or "none"
            yield "</dd>"
        yield "</dl></section>"


def _setting(key: str, value: str) -> str:
    if key == "command":
        return f"<code>{_text(value)}</code>"
    if value.startswith(("https://", "http://")) and " " not in value:
        return f'<a href="{_text(value)}">{_text(value)}</a>'
    return _text(value)


def _facts(entries: dict[str, object] | dict[str, str]) -> Iterator[str]:
    yield "<dl>"
    for key, value in entries.items():
        name, said = figures.fact(key, value)
        yield f"<dt>{_text(name)}</dt><dd>{_text(said)}</dd>"
    yield "</dl>"


def _rounds(run: Run) -> Iterator[str]:
    for scenario in dict.fromkeys(series.scenario for series in run.series):
        rows = []
        metrics = run.metrics(scenario)
        for metric in metrics:
            scale = chapters.column_scale(run, scenario, metric)
            rows += list(_rounds_of(run, scenario, metric, scale))
        yield f"<h3>{_text(scenario)}</h3>"
        headers = ("subject", "metric", "unit", "better", "median", "min", "max", "rounds")
        yield _table(Grid(headers, tuple(rows)))


def _rounds_of(
    run: Run, scenario: str, metric: Metric, scale: figures.Scale
) -> Iterator[tuple[str, ...]]:
    for subject in run.subjects(scenario):
        series = run.find(scenario, subject, metric)
        if series is None or not series.measured:
            continue
        yield (
            subject,
            str(metric),
            scale.unit,
            metric.better.value,
            scale.text(series.median),
            scale.text(min(series.measured)),
            scale.text(max(series.measured)),
            "  ".join("gap" if math.isnan(v) else scale.text(v) for v in series.values),
        )


def _figure(drawing: str, caption: str, kind: str) -> str:
    return f'<figure class="{kind}"><figcaption>{_text(caption)}</figcaption>{drawing}</figure>'


def _table(grid: Grid) -> str:
    head = "".join(f'<th scope="col">{_text(header)}</th>' for header in grid.headers)
    body = "\n".join(map(_row, grid.rows))
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(cells: Sequence[str]) -> str:
    ours = ' class="ours"' if ratios.is_ours(cells[0]) else ""
    rest = "".join(f"<td>{_text(cell)}</td>" for cell in cells[1:])
    return f'<tr{ours}><th scope="row">{_text(cells[0])}</th>{rest}</tr>'


def _text(words: object) -> str:
    return html.escape(str(words))
