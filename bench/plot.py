"""``python -m bench plot RUN.json``: a run's record as one HTML page, or several as Markdown."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import performance
from bench.results import Run


def main(argv: Sequence[str] | None = None) -> int:
    """0: written; 2: unreadable input, or a place that cannot be written to."""
    parser = argparse.ArgumentParser(
        prog="python -m bench plot", description="Draw a run: one HTML page that needs no network."
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN.json")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="default: RUN.html, or RUN.md"
    )
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="write docs/PERFORMANCE.md's text instead; of one run, or of several that measured"
        " different scenarios",
    )
    arguments = parser.parse_args(argv)
    if len(arguments.runs) > 1 and not arguments.markdown:
        parser.error("a page is of one run; --markdown takes several")
    suffix = ".md" if arguments.markdown else ".html"
    output = arguments.output or arguments.runs[0].with_suffix(suffix)
    try:
        runs = [Run.read(path) for path in arguments.runs]
        if arguments.markdown:
            _check(runs)
        output.write_text(performance.render(runs) if arguments.markdown else page_of(runs[0]))
    except (OSError, ValueError, ImportError) as error:
        print(f"bench plot: {error}", file=sys.stderr)
        return 2
    print(output)
    return 0


def _check(runs: Sequence[Run]) -> None:
    """Raise ValueError where a document of *runs* would say a thing twice, or what nobody can check
    out."""
    for n, run in enumerate(runs):
        _check_commit(run)
        again = sorted({name for other in runs[:n] for name in other.scenarios} & {*run.scenarios})
        if again:
            raise ValueError(f"{', '.join(again)}: measured by more than one of the runs")


def _check_commit(run: Run) -> None:
    """Raise ValueError unless *run* measured what somebody can check out: the document is kept."""
    found = re.search(r"\(([0-9a-f]{7,40})(-dirty)?\)$", run.versions.get("tierfs", ""))
    if found is None:
        return
    known = subprocess.run(
        ["git", "cat-file", "-e", f"{found[1]}^{{commit}}"],
        cwd=Path(__file__).parent,
        capture_output=True,
        check=False,
    )
    if found[2] or known.returncode:
        raise ValueError(f"{found[0]} is no commit of this repository: measure one that is")


def page_of(run: Run) -> str:
    """The HTML page. Raises ImportError, with the remedy in it, where matplotlib is missing."""
    try:
        # Only this command needs matplotlib, which is no part of what tierfs runs on.
        from bench import page
    except ImportError as error:
        raise ImportError(f"{error}; pip install -r requirements-dev.txt has it") from error
    return page.render(run)
