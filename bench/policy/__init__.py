"""``python -m bench policy [TRACE...]``: what the eviction policy misses, beside others, in a
simulator that runs the product's own code; exit 1 if it is more than it should be."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import machine, table
from bench.policy import cost, measuring, report, rivals, traces
from bench.policy.kinds import KINDS, SHARES
from bench.policy.measuring import Row
from bench.policy.report import Finding

OBJECTS, COST_OBJECTS = 64_000, 1_000_000


class _Task(NamedTuple):
    """One trace with one seed, in caches of all sizes."""

    trace: str
    seed: int
    objects: int
    lognormal: bool


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1: on some trace it misses more than it should; 2: a wrong command line."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if unknown := sorted(set(arguments.traces) - set(KINDS)):
        parser.error(f"no such trace: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    for name in ("seeds", "processes", "objects"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            parser.error(f"--{name} {value}: at least one")
    if arguments.cost:
        return _cost(arguments)
    try:
        findings = _simulated(arguments) if arguments.replay is None else _replayed(arguments)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return _report(arguments, findings)


def _parser() -> argparse.ArgumentParser:
    names = (f"  {name:17} {kind.what}" for name, kind in KINDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench policy",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="What the eviction policy misses, beside others, in a simulator.",
        epilog="\n".join(
            [
                "traces:",
                *names,
                "",
                "Exit status: 0; 1, tierfs misses more than its aim by over"
                f" {report.TOLERANCE}; 2, a wrong command line.",
            ]
        ),
    )
    parser.add_argument("traces", nargs="*", metavar="TRACE", help="of those below; default: all")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--objects",
        type=int,
        metavar="N",
        help=f"default: {OBJECTS:,}, for which the aims are; with --cost {COST_OBJECTS:,}",
    )
    parser.add_argument(
        "--sizes", choices=["equal", "lognormal"], default="equal", help="of the objects"
    )
    parser.add_argument(
        "--cost", action="store_true", help="measure its CPU time and memory instead"
    )
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="FILE",
        help="accesses that a mount recorded instead of traces: lines of at_ns, inode number, size"
        " (0: unknown), job, with tabs between",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write what was found here")
    parser.add_argument(
        "--processes",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="that share the work; default: one for each CPU",
    )
    return parser


def _simulated(arguments: argparse.Namespace) -> list[Finding]:
    names = arguments.traces or list(KINDS)
    objects = arguments.objects or OBJECTS
    lognormal = arguments.sizes == "lognormal"
    tasks = [
        _Task(name, seed, objects, lognormal)
        for seed in range(1, arguments.seeds + 1)
        for name in names
    ]
    found: dict[str, list[Finding]] = {}
    for name in names:
        aims = [None] * len(SHARES) if lognormal else KINDS[name].aim
        found[name] = [Finding(name, *pair) for pair in zip(SHARES, aims, strict=True)]
    for done, (task, rows) in enumerate(_run(tasks, arguments.processes), 1):
        for finding, row in zip(found[task.trace], rows, strict=True):
            finding.rows.append(row)
        _say(f"{done} of {len(tasks)}: {task.trace}, seed {task.seed}: {_words(rows)}")
    return [finding for name in names for finding in found[name]]


def _run(tasks: list[_Task], processes: int) -> Iterator[tuple[_Task, list[Row]]]:
    if processes == 1:
        yield from map(_simulate, tasks)
        return
    with multiprocessing.Pool(processes) as pool:
        yield from pool.imap(_simulate, tasks)


def _simulate(task: _Task) -> tuple[_Task, list[Row]]:
    trace = KINDS[task.trace].make(task.objects, task.seed)
    if task.lognormal:
        trace = traces.with_lognormal_sizes(trace, task.seed)
    return task, [measuring.measure(trace, share, task.seed) for share in SHARES]


def _replayed(arguments: argparse.Namespace) -> list[Finding]:
    trace = traces.recorded(arguments.replay)
    findings = [Finding(arguments.replay.name, share, None) for share in SHARES]
    for finding in findings:
        for seed in range(1, arguments.seeds + 1):
            finding.rows.append(measuring.measure(trace, finding.share, seed))
            _say(f"c = {finding.share}, seed {seed}: {_words(finding.rows[-1:])}")
    return findings


def _report(arguments: argparse.Namespace, findings: list[Finding]) -> int:
    bytes_too = measuring.BELADY not in findings[0].rows[0].misses
    print("\n".join(table.grid_lines(report.grid(findings, bytes_too=bytes_too))))
    notes = report.NOTE
    if not rivals.is_complete():
        notes += f" {report.NO_LIBRARY}"
    print("\n".join(textwrap.wrap(notes, table.WIDTH)))
    _write(arguments, {"traces": [finding.to_json() for finding in findings]})
    missed = [finding for finding in findings if finding.too_many]
    for finding in missed:
        _say(f"too many misses: {finding.trace} at c = {finding.share}")
    return 1 if missed else 0


def _cost(arguments: argparse.Namespace) -> int:
    objects = arguments.objects or COST_OBJECTS
    costs = []
    for one in cost.measure(objects, 1):
        costs.append(one)
        _say(f"{one.what}: {one.read_us:.2f} us/read")
    print(f"{objects:,} objects, {machine.describe(Path.cwd())['cpu']}")
    print("\n".join(table.grid_lines(cost.grid(costs))))
    _write(arguments, {"cost": [one.to_json() for one in costs]})
    return 0


def _write(arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    if arguments.json:
        options = {key: str(value) for key, value in vars(arguments).items() if value}
        arguments.json.write_text(json.dumps({"options": options, **found}, indent=1) + "\n")


def _words(rows: list[Row]) -> str:
    return ", ".join(f"{row.misses[measuring.TIERFS].reads:.3f}" for row in rows)


def _say(line: str) -> None:
    print(f"bench policy {time.strftime('%H:%M:%S')}: {line}", file=sys.stderr, flush=True)
