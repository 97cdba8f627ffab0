"""``python -m bench run``: measure subjects beside each other and say what came out."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import machine, plot, runner, table
from bench.lab import LINKS, Lab
from bench.lakesim import lakesim
from bench.loadgen import Loadgen, WrongBytesError
from bench.results import Run
from bench.scenarios import QUICK, SCENARIOS
from bench.scenarios.base import Scenario
from bench.subjects import SUBJECTS
from bench.subjects.base import CannotError, Subject, When
from bench.workspace import default_workspace, workspace

EXIT_WRONG_BYTES = 3
_KNOWN = {subject.name: subject for subject in SUBJECTS}


def _parser() -> argparse.ArgumentParser:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(
        prog="python -m bench run",
        description="Mount subjects on the same bucket, measure them in turns, print the table.",
        epilog="Exit status: 0; 2, a wrong command line; 3, a reader got wrong bytes.",
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(names)}; default: all"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"smaller data, fewer rounds; {', '.join(QUICK)}"
    )
    parser.add_argument(
        "--subjects",
        metavar="NAME,...",
        help=f"of {', '.join(_KNOWN)}; default: those that are on this machine, in a quick run"
        " one tierfs",
    )
    parser.add_argument(
        "--link",
        default="standard",
        choices=list(LINKS),
        help="standard: 20 ms (p99 100 ms) to the first byte, 90 MB/s a connection, 400 MB/s in"
        " all, each direction; none: the bare server on loopback",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the data and of the orders")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the run here; until it has ended, what there is is in FILE.partial",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on where a run that was cut off has left FILE.partial; without one, begin",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="draw the run here")
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        default=default_workspace(),
        help="on the disk that is to hold caches and data (default: TIERFS_BENCH_DIR, or the"
        " temporary directory)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0; 3 if a reader got wrong bytes; 2 if the command line is wrong."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    scenarios = _scenarios(parser, arguments)
    subjects = _subjects(parser, arguments)
    if arguments.resume and not arguments.json:
        parser.error("--resume goes on with the file of --json: name it")
    if os.geteuid() != 0:
        parser.error("run as root: the page cache is dropped between rounds")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    versions = {subject.name: subject.version() for subject in subjects}
    loadgen = Loadgen()
    with workspace(arguments.work) as work, lakesim(seed=arguments.seed) as server:
        record = Run(
            started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            options={
                "quick": arguments.quick,
                "link": arguments.link,
                "seed": arguments.seed,
                "subjects": [subject.name for subject in subjects],
                "scenarios": [scenario.name for scenario in scenarios],
            },
            machine=machine.describe(work),
            versions=versions,
            settings={subject.name: dataclasses.asdict(subject.settings) for subject in subjects},
        )
        if arguments.resume:
            record = _resumed(parser, _partial(arguments.json), record)
        lab = Lab(work, server, loadgen, arguments.link, arguments.quick, arguments.seed)
        lab.create_bucket()

        def keep() -> None:
            # A run takes hours: what it found so far outlives whatever ends it.
            if arguments.json:
                record.write(_partial(arguments.json))

        try:
            left = [scenario for scenario in scenarios if scenario.name not in record.scenarios]
            runner.run(lab, left, subjects, record, _say, keep)
        except WrongBytesError as error:
            print(f"bench: WRONG BYTES, the run is worth nothing: {error}", file=sys.stderr)
            return EXIT_WRONG_BYTES
    print(table.render(record))
    if arguments.json:
        record.write(arguments.json)
        _partial(arguments.json).unlink(missing_ok=True)
    if arguments.html:
        arguments.html.write_text(plot.page_of(record))
    return 0


def _scenarios(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[Scenario]:
    known = {scenario.name: scenario for scenario in SCENARIOS}
    unknown = sorted(set(arguments.scenarios) - set(known))
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(known)}")
    names = arguments.scenarios or (QUICK if arguments.quick else list(known))
    return [known[name]() for name in names]


def _subjects(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[Subject]:
    if arguments.subjects is None:
        skipped = {When.NAMED, When.FULL} if arguments.quick else {When.NAMED}
        wanted = [name for name, subject in _KNOWN.items() if subject.when not in skipped]
    else:
        wanted = arguments.subjects.split(",")
        unknown = sorted(set(wanted) - set(_KNOWN))
        if unknown:
            parser.error(f"no subject {', '.join(unknown)}; there are {', '.join(_KNOWN)}")
    subjects = []
    for name in wanted:
        subject = _KNOWN[name]()
        try:
            subject.version()
        except CannotError as error:
            if arguments.subjects is not None:
                parser.error(f"{name} is not on this machine: {error}")
            print(f"bench: without {name}: {error}", file=sys.stderr)
        else:
            subjects.append(subject)
    return subjects


def _resumed(parser: argparse.ArgumentParser, partial: Path, now: Run) -> Run:
    """What *partial* has measured, or *now* where there is no such file. Figures of another
    machine, version or setting do not come into one record: that is an error of the command
    line."""
    if not partial.exists():
        return now
    try:
        before = Run.read(partial)
    except (OSError, ValueError) as error:
        parser.error(f"{error}; without --resume the run begins anew")
    resumed = before.options.pop("resumed", [])
    then, today = (json.loads(json.dumps(run.to_json())) for run in (before, now))
    for name in machine.PASSING:
        then["machine"].pop(name, None)
        today["machine"].pop(name, None)
    for part in ("options", "machine", "versions", "settings"):
        keys = sorted(then[part].keys() | today[part].keys())
        differing = [key for key in keys if then[part].get(key) != today[part].get(key)]
        if differing:
            parser.error(
                f"{partial} has other {part} ({', '.join(differing)}): without --resume the run"
                " begins anew"
            )
    before.options["resumed"] = [*resumed, now.started]
    return before


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _say(line: str) -> None:
    print(f"bench {time.strftime('%H:%M:%S')}: {line}", file=sys.stderr, flush=True)


def _end(number: int, _: object) -> None:
    """A signal ends the run as an error would: with everything unmounted."""
    raise SystemExit(128 + number)
