"""The table that a run prints: plain text, 120 columns at most."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from bench import chapters
from bench.chapters import Chapter, Grid, Part
from bench.results import Run

WIDTH = 120
_INDENT = "  "
_GAP = "  "


def render(run: Run) -> str:
    """Everything that *run* measured, as text that ends in a newline."""
    lines = []
    for chapter in chapters.chapters(run):
        lines += [*_chapter(chapter), ""]
    return "\n".join([*lines, *textwrap.wrap(chapters.note(run), WIDTH)]) + "\n"


def grid_lines(grid: Grid, width: int = WIDTH) -> Iterator[str]:
    """*grid* in aligned columns. Columns that do not fit follow below, beside the first one
    again."""
    columns = [
        [header, *(row[number] for row in grid.rows)] for number, header in enumerate(grid.headers)
    ]
    widths = [max(map(len, column)) for column in columns]
    start = 1
    while start < len(columns):
        end, used = start, len(_INDENT) + widths[0]
        while end < len(columns) and (end == start or used + len(_GAP) + widths[end] <= width):
            used += len(_GAP) + widths[end]
            end += 1
        shown = [0, *range(start, end)]
        for line in range(len(grid.rows) + 1):
            cells = (columns[column][line].ljust(widths[column]) for column in shown)
            yield (_INDENT + _GAP.join(cells)).rstrip()
        start = end


def _chapter(chapter: Chapter) -> Iterator[str]:
    heading = f"{chapter.scenario}: {chapter.question}" if chapter.question else chapter.scenario
    yield from textwrap.wrap(heading, WIDTH)
    if chapter.sizes:
        yield from textwrap.wrap(
            chapter.sizes, WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT
        )
    for part in chapter.parts:
        if part.variant:
            yield f"{_INDENT}-- {part.variant}"
        yield from _part(part)


def _part(part: Part) -> Iterator[str]:
    grids = [grid for _, grid in part.headlines]
    subjects = [row[0] for grid in grids for row in grid.rows] + [s for s, _ in part.cannot]
    for grid in grids:
        yield from grid_lines(grid)
    for subject, error in part.cannot:
        indent = f"{_INDENT}{subject:{max(map(len, subjects))}}{_GAP}"
        yield from textwrap.wrap(
            f"cannot: {error}", WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent)
        )
    if part.cost is not None:
        yield from grid_lines(part.cost)
